//! ZooKeeper: a znode for each key. Its log is synced before an acknowledgement by default (`forceSync`).

use std::fmt::Write as _;
use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use zookeeper_client::{Acls, Client, CreateMode, Error};

use super::Plan;
use crate::processes;
use crate::store::{Found, Session, Store, Target, Version, batch, key, value};

pub fn command(plan: &Plan, java: &Path, class_path: &str, node: usize) -> Result<Command> {
    let folder = plan.node_folder(node)?;
    Plan::write_once(&folder.join("myid"), &format!("{}\n", node + 1))?;
    let path = folder.join("zoo.cfg");
    let mut text = String::new();
    writeln!(text, "tickTime=1000\ninitLimit=10\nsyncLimit=5\nmaxClientCnxns=0\nadmin.enableServer=false")?;
    writeln!(text, "4lw.commands.whitelist=srvr\ndataDir={}", folder.display())?;
    writeln!(text, "clientPortAddress=127.0.0.1\nclientPort={}", plan.port(node, 0))?;
    for other in 0..plan.nodes {
        writeln!(text, "server.{}={}:{}", other + 1, plan.address(other, 1), plan.port(other, 2))?;
    }
    Plan::write_once(&path, &text)?;
    let mut command = processes::command(java);
    command.args(["-Xms256m", "-Xmx512m", "-cp", class_path]);
    command.arg("org.apache.zookeeper.server.quorum.QuorumPeerMain").arg(path);
    Ok(command)
}

pub struct Zookeeper {
    nodes: Vec<String>,
}

impl Zookeeper {
    pub fn new(plan: &Plan) -> Self {
        Self { nodes: plan.addresses("", 0) }
    }

    async fn is_leader(&self, node: usize) -> Result<bool> {
        let mut stream = TcpStream::connect(&self.nodes[node]).await?;
        stream.write_all(b"srvr").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer.contains("Mode: leader"))
    }

    async fn client(&self, nodes: &str) -> Result<Client> {
        let connector = Client::connector()
            .with_session_timeout(SESSION_TIMEOUT)
            .with_connection_timeout(CONNECT_TIMEOUT);
        Ok(connector.connect(nodes).await?)
    }
}

#[async_trait]
impl Store for Zookeeper {
    async fn prepare(&self) -> Result<()> {
        let client = self.client(&self.nodes.join(",")).await?;
        match client.create(PARENT, b"", &CreateMode::Persistent.with_acls(Acls::anyone_all())).await {
            Ok(_) | Err(Error::NodeExists) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

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
        Ok(Box::new(OneClient(self.client(&self.nodes[node]).await?)))
    }
}

struct OneClient(Client);

#[async_trait]
impl Session for OneClient {
    async fn put(&mut self, key: &str, value: Bytes) -> Result<()> {
        let path = path(key);
        match self.0.set_data(&path, &value, None).await {
            Err(Error::NoNode) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(()),
        }
        self.0.create(&path, &value, &CreateMode::Persistent.with_acls(Acls::anyone_all())).await?;
        Ok(())
    }

    async fn get(&mut self, key: &str) -> Result<Option<Found>> {
        let path = path(key);
        // One after the other on the wire, without waiting for the first answer.
        let (synced, found) = tokio::join!(self.0.sync(&path), self.0.get_data(&path));
        synced?;
        match found {
            Ok((value, stat)) => Ok(Some(Found {
                value: value.into(),
                version: Version::Number(u64::try_from(stat.version)?),
            })),
            Err(Error::NoNode) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn cas(&mut self, key: &str, expected: &Version, value: Bytes) -> Result<Option<Version>> {
        let expected = i32::try_from(expected.number()?)?;
        match self.0.set_data(&path(key), &value, Some(expected)).await {
            Ok(stat) => Ok(Some(Version::Number(u64::try_from(stat.version)?))),
            Err(Error::BadVersion) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn fill(&mut self, mut keys: Range<u64>, size: usize) -> Result<()> {
        let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
        while !keys.is_empty() {
            let some = keys.start..keys.end.min(keys.start + batch(size, MULTI_OPS));
            keys.start = some.end;
            let mut writer = self.0.new_multi_writer();
            for index in some {
                let key = key(index);
                writer.add_create(&path(&key), &value(&key, size, index), &options)?;
            }
            writer.commit().await?;
        }
        Ok(())
    }
}

fn path(key: &str) -> String {
    format!("{PARENT}/{key}")
}

/// The znode above all keys.
const PARENT: &str = "/compare";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const SESSION_TIMEOUT: Duration = Duration::from_secs(6);
/// How long a node may take to say who leads.
const STATUS_TIMEOUT: Duration = Duration::from_millis(700);
/// Creations in one request.
const MULTI_OPS: u64 = 100;
