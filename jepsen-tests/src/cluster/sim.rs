//! The real crates in virtual time: nodes, disks, network and clocks of one seed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kv_server::server::{Server, ServerConfig};
use raft_node::NodeConfig;
use raft_node::disk::sim::{SimDisk, SimDiskOptions};
use raft_node::resolver::Literal;
use rpc_core::driver::fault::{FaultHits, LinkPolicy};
use rpc_core::peer::Peer;
use rpc_core::random::SeededRandom;
use rpc_core::runtime::Runtime;
use rpc_core::security::{Security, SharedKey};
use rpc_core::sim::World;

use super::{Cluster, ClusterError, cut_links};
use crate::plan::Fault;

/// Numbers of client machines start here: no fault of nodes touches them.
const CLIENTS: u64 = 1_000;
/// Entries after which a node makes a snapshot: few, so that snapshots happen within a run.
const SNAPSHOT_ENTRIES: u64 = 300;
/// Entries kept behind a snapshot: few, so that a node that was away needs the snapshot.
const ENTRIES_KEPT: u64 = 50;

/// A simulated cluster.
#[derive(Clone)]
pub struct SimCluster {
    world: World,
    nodes: Vec<u64>,
    disks: Arc<BTreeMap<u64, SimDisk>>,
    security: Security,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    dead: BTreeSet<u64>,
    /// Nodes whose next sync fails.
    failing: BTreeSet<u64>,
    /// Nodes that stopped because of that.
    failed: BTreeSet<u64>,
    paused: BTreeSet<u64>,
    cut: BTreeSet<(u64, u64)>,
    policy: Option<LinkPolicy>,
    servers: BTreeMap<u64, Server>,
    failures: Vec<String>,
}

impl SimCluster {
    /// Starts `count` nodes in `world`, all of whose choices come from its seed: also whether they encrypt, and with
    /// which key.
    pub fn start(world: &World, count: u64) -> Self {
        let nodes: Vec<u64> = (1..=count).collect();
        let disk = || SimDisk::new(world.fork_random(), SimDiskOptions::default());
        let disks = nodes.iter().map(|node| (*node, disk())).collect();
        let mut random = world.fork_random();
        let mut key = [0; 32];
        random.fill(&mut key);
        let encrypted = random.below(2) == 1;
        let security =
            if encrypted { Security::shared_key(SharedKey::new(key)) } else { Security::insecure() };
        let cluster =
            Self { world: world.clone(), nodes, disks: Arc::new(disks), security, state: Arc::default() };
        for node in cluster.nodes.clone() {
            cluster.start_node(node);
        }
        cluster
    }

    fn start_node(&self, node: u64) {
        let runtime = self.world.start(node);
        let disk = self.disks[&node].open(&runtime);
        let socket = self.world.bind(node, address(node));
        let members = self.nodes.iter().map(|node| (*node, address(*node).to_string())).collect();
        let mut config = NodeConfig::new(node, members);
        config.snapshots.entries = SNAPSHOT_ENTRIES;
        config.snapshots.entries_kept = ENTRIES_KEPT;
        let (state, started, security) = (Arc::clone(&self.state), runtime.clone(), self.security.clone());
        runtime.spawn("node", async move {
            let config = ServerConfig::new(config, security);
            let reason = match Server::start(started, disk, socket, config, Arc::new(Literal)).await {
                Ok(server) => {
                    lock(&state).servers.insert(node, server.clone());
                    server.fatal().await
                }
                Err(error) => error.to_string(),
            };
            let mut state = lock(&state);
            if state.failing.remove(&node) {
                state.failed.insert(node);
            } else {
                state.failures.push(format!("node {node}: {reason}"));
            }
        });
    }

    fn set_links(&self) {
        let state = self.state();
        self.world.heal_links();
        for from in &self.nodes {
            for to in self.nodes.iter().filter(|to| *to != from) {
                let cut = state.cut.contains(&(*from, *to));
                if cut || state.policy.is_some() {
                    let policy = state.policy.unwrap_or(HEALTHY);
                    self.world.set_link(*from, *to, LinkPolicy { cut, ..policy });
                }
            }
        }
    }

    fn kill(&self, nodes: &[u64]) {
        for node in nodes {
            let server = {
                let mut state = self.state();
                state.dead.insert(*node);
                state.paused.remove(node);
                state.servers.remove(node)
            };
            self.world.crash(*node);
            self.disks[node].crash();
            drop(server);
        }
    }

    /// Lets the next sync of each of these nodes' disks fail.
    fn fail_syncs(&self, nodes: &[u64]) {
        for node in nodes {
            let mut state = self.state();
            if !state.dead.contains(node) && !state.failed.contains(node) {
                state.failing.insert(*node);
                self.disks[node].fail_syncs(1);
            }
        }
    }

    fn restart(&self) {
        let (failing, failed) = {
            let mut state = self.state();
            (std::mem::take(&mut state.failing), std::mem::take(&mut state.failed))
        };
        for node in failing {
            self.disks[&node].fail_syncs(0);
        }
        self.kill(&failed.into_iter().collect::<Vec<_>>());
        let dead = std::mem::take(&mut self.state().dead);
        for node in dead {
            self.start_node(node);
        }
    }

    fn resume(&self) {
        let paused = std::mem::take(&mut self.state().paused);
        for node in paused {
            self.world.resume(node);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

const HEALTHY: LinkPolicy = LinkPolicy {
    cut: false,
    loss: 0,
    duplicate: 0,
    corrupt: 0,
    truncate: 0,
    delay_min_us: 50,
    delay_max_us: 500,
};

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn address(node: u64) -> SocketAddr {
    let port = u16::try_from(7_300 + node).expect("node numbers are small");
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

impl Cluster for SimCluster {
    fn nodes(&self) -> Vec<u64> {
        self.nodes.clone()
    }

    fn address(&self, node: u64) -> SocketAddr {
        address(node)
    }

    fn clock(&self) -> Runtime {
        self.world.observer()
    }

    fn client(&self, client: u64) -> Result<(Runtime, Peer), ClusterError> {
        let number = CLIENTS + client;
        let runtime = self.world.start(number);
        let socket = self.world.bind(number, address(number));
        let peer = Peer::builder(runtime.clone()).security(self.security.clone()).start(socket);
        Ok((runtime, peer.map_err(|error| ClusterError(error.to_string()))?))
    }

    async fn apply(&self, fault: &Fault, leader: Option<u64>) -> Result<(), ClusterError> {
        match fault {
            Fault::Partition(_) | Fault::IsolateLeader | Fault::OneWay(_) => {
                self.state().cut.extend(cut_links(fault, &self.nodes, leader));
                self.set_links();
            }
            Fault::Links(policy) => {
                self.state().policy = Some(*policy);
                self.set_links();
            }
            Fault::HealLinks => {
                let mut state = self.state();
                state.cut.clear();
                state.policy = None;
                drop(state);
                self.set_links();
            }
            Fault::Kill(who) => self.kill(&who.resolve(&self.nodes, leader)),
            Fault::FailSync(who) => self.fail_syncs(&who.resolve(&self.nodes, leader)),
            Fault::Restart => self.restart(),
            Fault::Pause(who) => {
                for node in who.resolve(&self.nodes, leader) {
                    let mut state = self.state();
                    if !state.dead.contains(&node) && state.paused.insert(node) {
                        drop(state);
                        self.world.pause(node);
                    }
                }
            }
            Fault::Resume => self.resume(),
        }
        Ok(())
    }

    async fn heal(&self) -> Result<(), ClusterError> {
        self.apply(&Fault::HealLinks, None).await?;
        self.resume();
        self.restart();
        Ok(())
    }

    async fn release(&self) -> Result<(), ClusterError> {
        Ok(())
    }

    async fn hits(&self) -> FaultHits {
        self.world.fault_hits()
    }

    async fn failures(&self) -> Vec<String> {
        self.state().failures.clone()
    }
}

/// How long after the faults everything must be served again, in virtual time.
pub const RECOVERY_MAX: Duration = Duration::from_secs(30);

/// The world of one seed with `nodes` nodes, and the generator for its plan.
pub fn world(seed: u64) -> (World, SeededRandom) {
    let world = World::new(seed);
    let random = world.fork_random();
    (world, random)
}
