//! kv-server, through the library kv-client with its defaults: a socket and a session for each client.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use bytes::Bytes;
use kv_client::api::{Expect, Role, Versioned};
use kv_client::{Client, Outcome, Reason};
use rpc_core::driver::system;
use rpc_core::driver::udp::UdpSocket;
use rpc_core::peer::Peer;

use super::Plan;
use crate::processes;
use crate::store::{Found, Session, Store, Target, Version};

pub fn command(plan: &Plan, program: &Path, node: usize) -> Result<Command> {
    let members = plan.addresses("", 0).into_iter().enumerate();
    let members: Vec<_> = members.map(|(index, address)| format!("{}={address}", index + 1)).collect();
    let mut command = processes::command(program);
    command.args(["run", "--id", &(node + 1).to_string(), "--members", &members.join(",")]);
    command.arg("--data").arg(plan.node_folder(node)?);
    Ok(command)
}

pub struct Ours {
    nodes: Vec<SocketAddr>,
}

impl Ours {
    pub fn new(plan: &Plan) -> Self {
        let nodes = (0..plan.nodes).map(|node| (Ipv4Addr::LOCALHOST, plan.port(node, 0)).into());
        Self { nodes: nodes.collect() }
    }

    fn client(&self, nodes: &[SocketAddr]) -> Result<OneClient> {
        let runtime = system::runtime(tokio::runtime::Handle::current());
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let peer = Peer::builder(runtime.clone()).start_insecure(socket)?;
        let endpoints = nodes.iter().copied().map(Into::into);
        Ok(OneClient(Client::builder(runtime, peer).endpoints(endpoints).build()))
    }
}

#[async_trait]
impl Store for Ours {
    async fn leader(&self) -> Result<usize> {
        let OneClient(client) = self.client(&self.nodes)?;
        let asked = self.nodes.iter().map(|address| {
            let call = client.node(*address).status();
            async { tokio::time::timeout(STATUS_TIMEOUT, call).await.ok()?.ok() }
        });
        let statuses = futures_util::future::join_all(asked).await;
        let leaders = statuses.iter().enumerate().filter_map(|(node, status)| {
            let status = status.as_ref()?;
            (status.role == Role::Leader && status.ready).then_some((status.term, node))
        });
        Ok(leaders.max().context("nobody leads")?.1)
    }

    async fn connect(&self, to: Target) -> Result<Box<dyn Session>> {
        Ok(Box::new(match to {
            Target::Leader => self.client(&self.nodes)?,
            Target::Node(node) => self.client(&self.nodes[node..=node])?,
        }))
    }
}

struct OneClient(Client);

#[async_trait]
impl Session for OneClient {
    async fn put(&mut self, key: &str, value: Bytes) -> Result<()> {
        match self.0.put(key.to_owned(), value).await {
            Outcome::Committed { .. } => Ok(()),
            Outcome::NotCommitted(reason) => bail!("{reason}"),
            Outcome::Unknown(_) => bail!("unknown"),
        }
    }

    async fn get(&mut self, key: &str) -> Result<Option<Found>> {
        let reply = self.0.get(key.to_owned()).await?;
        Ok(reply
            .value
            .map(|Versioned { value, mod_revision }| Found { value, version: Version::Number(mod_revision) }))
    }

    async fn cas(&mut self, key: &str, expected: &Version, value: Bytes) -> Result<Option<Version>> {
        let expected = Expect::Revision(expected.number()?);
        match self.0.cas(key.to_owned(), expected, value).await {
            Outcome::Committed { revision, .. } => Ok(Some(Version::Number(revision))),
            Outcome::NotCommitted(Reason::ConditionFailed { .. }) => Ok(None),
            Outcome::NotCommitted(reason) => bail!("{reason}"),
            Outcome::Unknown(_) => bail!("unknown"),
        }
    }

    async fn close(self: Box<Self>) {
        self.0.close(GOODBYE).await;
    }
}

/// How long a node may take to say who it is.
const STATUS_TIMEOUT: Duration = Duration::from_millis(700);
/// How long the end of a session is waited for.
const GOODBYE: Duration = Duration::from_millis(200);
