//! The stores that are compared: how a node of each is started, and how its clients speak to it.

mod etcd;
mod nats;
mod ours;
mod redis;
mod zookeeper;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use clap::ValueEnum;
use serde::Serialize;

use crate::programs::Programs;
use crate::store::Store;

/// A store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Contestant {
    /// kv-server, through kv-client.
    Ours,
    Etcd,
    /// NATS JetStream key-value.
    Nats,
    Zookeeper,
    /// No consensus: the limit.
    Redis,
}

impl Contestant {
    pub const ALL: [Self; 5] = [Self::Ours, Self::Etcd, Self::Nats, Self::Zookeeper, Self::Redis];

    /// What an answer of it means.
    pub fn facts(self) -> &'static str {
        match self {
            Self::Ours => {
                "put: fsynced on a majority, exactly once; get: linearizable, a round to a quorum; over UDP"
            }
            Self::Etcd => {
                "put: fsynced on a majority; get: linearizable, a round to a quorum; gRPC without TLS"
            }
            Self::Nats => {
                "JetStream KV, 3 replicas, `sync_interval: always` (its default is 2 minutes): put fsynced on a \
                 majority; get: from the stream's leader, without a quorum, so that a deposed one may answer stale"
            }
            Self::Zookeeper => {
                "put: fsynced on a majority; get: sync and read, by its own documents not quite linearizable"
            }
            Self::Redis => {
                "no consensus, so a limit rather than a peer: `appendfsync always` on all three and WAIT 1, which \
                 waits until a replica has received, not synced; nobody is elected; get: from the primary"
            }
        }
    }

    /// Whether somebody takes over when the leader is gone.
    pub fn elects(self) -> bool {
        self != Self::Redis
    }

    /// Clients that fill it with keys at once.
    pub fn fillers(self) -> usize {
        match self {
            // Each fills with single puts.
            Self::Ours => 128,
            Self::Etcd | Self::Nats | Self::Zookeeper | Self::Redis => 4,
        }
    }
}

impl fmt::Display for Contestant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ours => "ours",
            Self::Etcd => "etcd",
            Self::Nats => "nats",
            Self::Zookeeper => "zookeeper",
            Self::Redis => "redis",
        })
    }
}

/// Where a cluster of a contestant lives.
#[derive(Clone, Debug)]
pub struct Plan {
    pub contestant: Contestant,
    /// How many nodes it has.
    pub nodes: usize,
    /// A folder of its own, empty at first.
    pub folder: PathBuf,
    /// Its ports are the hundred from here on.
    pub port_base: u16,
}

impl Plan {
    /// The folder of a node's data, made if it is not there.
    pub fn node_folder(&self, node: usize) -> Result<PathBuf> {
        let folder = self.folder.join(format!("node{}", node + 1));
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// Where what a node says is kept.
    pub fn log(&self, node: usize) -> PathBuf {
        self.folder.join(format!("node{}.log", node + 1))
    }

    /// How a node is started, the first time and each later time.
    pub fn command(&self, programs: &Programs, node: usize) -> Result<Command> {
        match self.contestant {
            Contestant::Ours => ours::command(self, &programs.kv_server, node),
            Contestant::Etcd => etcd::command(self, &programs.etcd, node),
            Contestant::Nats => nats::command(self, &programs.nats_server, node),
            Contestant::Zookeeper => zookeeper::command(self, &programs.java, &programs.zookeeper, node),
            Contestant::Redis => redis::command(self, &programs.redis_server, node),
        }
    }

    /// How its clients speak to it.
    pub fn store(&self) -> Box<dyn Store> {
        match self.contestant {
            Contestant::Ours => Box::new(ours::Ours::new(self)),
            Contestant::Etcd => Box::new(etcd::Etcd::new(self)),
            Contestant::Nats => Box::new(nats::Nats::new(self)),
            Contestant::Zookeeper => Box::new(zookeeper::Zookeeper::new(self)),
            Contestant::Redis => Box::new(redis::Redis::new(self)),
        }
    }

    /// The ports that it may use.
    pub fn ports(&self) -> impl Iterator<Item = u16> {
        (0..self.nodes).flat_map(move |node| (0..SERVICES).map(move |service| self.port(node, service)))
    }

    /// `127.0.0.1:port` of a node's first, second or third service; clients speak to the first.
    fn address(&self, node: usize, service: u16) -> String {
        format!("127.0.0.1:{}", self.port(node, service))
    }

    fn port(&self, node: usize, service: u16) -> u16 {
        self.port_base + node as u16 * 10 + service
    }

    /// The same for all nodes, with something before each.
    fn addresses(&self, before: &str, service: u16) -> Vec<String> {
        (0..self.nodes).map(|node| format!("{before}{}", self.address(node, service))).collect()
    }

    /// Whether this is the first start of a node.
    fn write_once(path: &Path, text: &str) -> Result<()> {
        if !path.exists() {
            fs::write(path, text)?;
        }
        Ok(())
    }
}

/// Services of a node at most: for clients, for other nodes, for elections.
const SERVICES: u16 = 3;
