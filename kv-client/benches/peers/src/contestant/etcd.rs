//! etcd 3.5: its log is synced before an entry is acknowledged, its reads are linearizable, both by default.

use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use async_trait::async_trait;
use bytes::Bytes;
use etcd_client::{Client, Compare, CompareOp, ConnectOptions, KvClient, Txn, TxnOp};

use super::Plan;
use crate::processes;
use crate::store::{Found, Session, Store, Target, Version, batch, key, value};

pub fn command(plan: &Plan, program: &Path, node: usize) -> Result<Command> {
    let (clients, peers) = (plan.address(node, 0), plan.address(node, 1));
    let members = plan.addresses("http://", 1).into_iter().enumerate();
    let members: Vec<_> = members.map(|(index, url)| format!("n{index}={url}")).collect();
    let mut command = processes::command(program);
    command.arg("--name").arg(format!("n{node}")).arg("--data-dir").arg(plan.node_folder(node)?);
    for (flag, address) in [
        ("--listen-client-urls", &clients),
        ("--advertise-client-urls", &clients),
        ("--listen-peer-urls", &peers),
        ("--initial-advertise-peer-urls", &peers),
    ] {
        command.arg(flag).arg(format!("http://{address}"));
    }
    command.arg("--initial-cluster").arg(members.join(",")).args(["--initial-cluster-state", "new"]);
    // The default of 2 GiB would end a long run: old revisions stay until they are compacted.
    command.args(["--quota-backend-bytes", "8589934592", "--logger", "zap", "--log-level", "warn"]);
    Ok(command)
}

pub struct Etcd {
    nodes: Vec<String>,
}

impl Etcd {
    pub fn new(plan: &Plan) -> Self {
        Self { nodes: plan.addresses("http://", 0) }
    }

    async fn client(&self, node: usize) -> Result<Client> {
        let options = ConnectOptions::new().with_connect_timeout(CONNECT_TIMEOUT);
        Ok(Client::connect([&self.nodes[node]], Some(options)).await?)
    }

    async fn is_leader(&self, node: usize) -> Result<bool> {
        let status = self.client(node).await?.status().await?;
        let own = status.header().context("no header")?.member_id();
        Ok(own != 0 && status.leader() == own)
    }
}

#[async_trait]
impl Store for Etcd {
    async fn leader(&self) -> Result<usize> {
        for node in 0..self.nodes.len() {
            let asked = tokio::time::timeout(STATUS_TIMEOUT, self.is_leader(node)).await;
            if matches!(asked, Ok(Ok(true))) {
                return Ok(node);
            }
        }
        anyhow::bail!("nobody leads")
    }

    async fn connect(&self, to: Target) -> Result<Box<dyn Session>> {
        let node = match to {
            Target::Leader => self.leader().await?,
            Target::Node(node) => node,
        };
        Ok(Box::new(OneClient(self.client(node).await?.kv_client())))
    }
}

struct OneClient(KvClient);

#[async_trait]
impl Session for OneClient {
    async fn put(&mut self, key: &str, value: Bytes) -> Result<()> {
        self.0.put(key, value, None).await?;
        Ok(())
    }

    async fn get(&mut self, key: &str) -> Result<Option<Found>> {
        let answer = self.0.get(key, None).await?;
        answer
            .kvs()
            .first()
            .map(|found| {
                let version = Version::Number(u64::try_from(found.mod_revision())?);
                Ok(Found { value: Bytes::copy_from_slice(found.value()), version })
            })
            .transpose()
    }

    async fn cas(&mut self, key: &str, expected: &Version, value: Bytes) -> Result<Option<Version>> {
        let expected = i64::try_from(expected.number()?)?;
        let txn = Txn::new()
            .when([Compare::mod_revision(key, CompareOp::Equal, expected)])
            .and_then([TxnOp::put(key, value, None)]);
        let answer = self.0.txn(txn).await?;
        let revision = u64::try_from(answer.header().context("no header")?.revision())?;
        Ok(answer.succeeded().then_some(Version::Number(revision)))
    }

    async fn fill(&mut self, mut keys: Range<u64>, size: usize) -> Result<()> {
        while !keys.is_empty() {
            let some = keys.start..keys.end.min(keys.start + batch(size, TXN_OPS_MAX));
            keys.start = some.end;
            let ops: Vec<_> = some
                .map(|index| (key(index), index))
                .map(|(key, index)| {
                    let value = value(&key, size, index);
                    TxnOp::put(key, value, None)
                })
                .collect();
            self.0.txn(Txn::new().and_then(ops)).await?;
        }
        Ok(())
    }
}

const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a node may take to say who leads.
const STATUS_TIMEOUT: Duration = Duration::from_millis(700);
/// Operations in a transaction: etcd's default `--max-txn-ops` is 128.
const TXN_OPS_MAX: u64 = 100;
