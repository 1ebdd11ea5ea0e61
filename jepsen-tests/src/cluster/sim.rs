//! The real crates in virtual time: nodes, disks, network and clocks of one seed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kv_server::server::{Server, ServerConfig};
use raft_node::disk::RESERVE_MAX;
use raft_node::disk::sim::{CutPoint, SimDisk, SimDiskOptions};
use raft_node::resolver::Literal;
use raft_node::{Change, NodeConfig};
use rpc_core::peer::Peer;
use rpc_core::random::SeededRandom;
use rpc_core::runtime::Runtime;
use rpc_core::security::{Security, SharedKey};
use rpc_core::sim::{Capacity, CapacityHits, World};

use super::{Cluster, ClusterError, Hits, LinkState};
use crate::invariants::Invariants;
use crate::plan::{CUT_POINTS, Fault, FaultKind, Who};

/// How long a node may take to stop, or a leader to hand over.
const STOP_GRACE: Duration = Duration::from_secs(1);
/// How long a datagram waits before a narrow link.
const NARROW_QUEUE: Duration = Duration::from_millis(100);
/// The rate of a clock that is right, in parts per million.
const EXACT_RATE: u32 = 1_000_000;
/// How often the invariants are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(25);
/// Entries at the end of each log that are looked at.
const LOOK_ENTRIES: u64 = 24;
/// Numbers of client machines start here: no fault of nodes touches them.
const CLIENTS: u64 = 1_000;
/// Entries after which a node makes a snapshot: few, so that snapshots happen within a run. Entries kept behind it: few,
/// so that a node that was away needs the snapshot, in some clusters already after a moment.
const SNAPSHOTS: [(u64, u64); 3] = [(300, 50), (40, 4), (40, 4)];
/// What a cluster may have unsaved, in bytes: every round is saved, many saves lie between two snapshots, or none.
const UNSAVED_SIZES: [usize; 3] = [0, 2_000, 256 * 1024];

/// A simulated cluster.
#[derive(Clone)]
pub struct SimCluster {
    world: World,
    nodes: Vec<u64>,
    disks: Arc<BTreeMap<u64, SimDisk>>,
    security: Security,
    /// Bytes of state that the nodes keep in memory only.
    unsaved_size_max: usize,
    /// Entries after which the nodes make a snapshot, and those that they keep behind it.
    snapshots: (u64, u64),
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
    suspended: BTreeSet<u64>,
    links: LinkState,
    /// Nodes whose disks are slow, with the syncs that they had made before.
    slow: BTreeMap<u64, u64>,
    /// What is not counted anywhere else.
    hits: BTreeMap<FaultKind, u64>,
    servers: BTreeMap<u64, Server>,
    /// How often each node was started.
    lives: BTreeMap<u64, u64>,
    failures: Vec<String>,
    violations: Vec<String>,
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
        let unsaved_size_max = UNSAVED_SIZES[random.below(UNSAVED_SIZES.len() as u64) as usize];
        let snapshots = SNAPSHOTS[random.below(SNAPSHOTS.len() as u64) as usize];
        let (world, disks, state) = (world.clone(), Arc::new(disks), Arc::default());
        let cluster = Self { world, nodes, disks, security, unsaved_size_max, snapshots, state };
        for node in cluster.nodes.clone() {
            cluster.start_node(node);
        }
        let clock = cluster.world.observer();
        clock.spawn("invariants", cluster.clone().watch(clock.clone()));
        cluster
    }

    /// Looks at all nodes again and again, until an invariant does not hold.
    async fn watch(self, clock: Runtime) {
        let mut invariants = Invariants::default();
        loop {
            clock.sleep(LOOK_INTERVAL).await;
            let servers = {
                let state = self.state();
                let life = |node: &u64| state.lives.get(node).copied().unwrap_or_default();
                let servers = state.servers.iter().map(|(node, server)| (*node, life(node), server.clone()));
                servers.collect::<Vec<_>>()
            };
            for (node, life, server) in servers {
                let probe = server.node().probe();
                let from = (probe.last_log_index.unwrap_or_default() + 1).saturating_sub(LOOK_ENTRIES);
                // A disk that fails has its own story.
                let log = server.node().probe_log(from, LOOK_ENTRIES).unwrap_or_default();
                let status = server.node().status();
                let held = status.members.iter().filter_map(|member| Some((member.id, member.matched?)));
                invariants.acknowledged(held, status.committed.map_or(0, |committed| committed.index));
                if let Err(broken) = invariants.look(node, life, &probe, &log) {
                    clock.trace(|| broken.clone());
                    self.state().violations.push(broken);
                    return;
                }
            }
        }
    }

    fn start_node(&self, node: u64) {
        let runtime = self.world.start(node);
        let disk = self.disks[&node].open(&runtime);
        let socket = self.world.bind(node, address(node));
        let members = self.nodes.iter().map(|node| (*node, address(*node).to_string())).collect();
        let mut config = NodeConfig::new(node, members);
        config.host.unsaved_size_max = self.unsaved_size_max;
        (config.snapshots.entries, config.snapshots.entries_kept) = self.snapshots;
        *self.state().lives.entry(node).or_default() += 1;
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
                if let Some(policy) = state.links.of(*from, *to) {
                    self.world.set_link(*from, *to, policy);
                }
            }
        }
    }

    fn narrow_links(&self, rate_bytes_per_s: u64) {
        let capacity = Capacity { rate_bytes_per_s, queue_max: NARROW_QUEUE, ..Capacity::default() };
        for from in &self.nodes {
            for to in self.nodes.iter().filter(|to| *to != from) {
                self.world.set_capacity(*from, *to, capacity);
            }
        }
    }

    fn kill(&self, nodes: &[u64]) -> u64 {
        let mut killed = 0;
        for node in nodes {
            let server = {
                let mut state = self.state();
                killed += u64::from(state.dead.insert(*node));
                state.paused.remove(node);
                state.suspended.remove(node);
                state.servers.remove(node)
            };
            self.world.crash(*node);
            self.disks[node].crash();
            drop(server);
        }
        killed
    }

    /// Lets the disks of these nodes fail by `fail`; the nodes will have to stop.
    fn fail_disks(&self, nodes: &[u64], fail: impl Fn(&SimDisk)) {
        for node in nodes {
            let mut state = self.state();
            if !state.dead.contains(node) && !state.failed.contains(node) {
                state.failing.insert(*node);
                fail(&self.disks[node]);
            }
        }
    }

    /// Asks a node to stop, as SIGTERM does; what it did not sync stays, as after the end of a process.
    fn stop(&self, node: u64) {
        let mut state = self.state();
        if state.paused.contains(&node) || state.suspended.contains(&node) || !state.dead.insert(node) {
            return;
        }
        let Some(server) = state.servers.remove(&node) else { return };
        *state.hits.entry(FaultKind::Rolling).or_default() += 1;
        drop(state);
        let clock = self.world.observer();
        // A node that takes longer is killed by its restart.
        clock.spawn("stop", async move { server.shutdown(STOP_GRACE).await });
    }

    /// Lets the leader hand over, and counts it when it has.
    fn transfer(&self, leader: Option<u64>) {
        let Some((leader, server)) =
            leader.and_then(|leader| Some((leader, self.state().servers.get(&leader).cloned()?)))
        else {
            return;
        };
        let (state, clock) = (Arc::clone(&self.state), self.world.observer());
        let patience = self.world.runtime(leader).now() + STOP_GRACE;
        clock.spawn("transfer", async move {
            let next = server.node().change(Change::Lead { id: None }, patience).await;
            if next.is_ok_and(|next| next != leader) {
                *lock(&state).hits.entry(FaultKind::Transfer).or_default() += 1;
            }
        });
    }

    /// The nodes that run, of those that are meant; each is counted as hit by a fault of `kind`.
    fn alive(&self, who: &Who, leader: Option<u64>, kind: FaultKind) -> Vec<u64> {
        let mut state = self.state();
        let State { dead, failed, hits, .. } = &mut *state;
        let mut nodes = who.resolve(&self.nodes, leader);
        nodes.retain(|node| !dead.contains(node) && !failed.contains(node));
        *hits.entry(kind).or_default() += nodes.len() as u64;
        nodes
    }

    fn heal_disks(&self) {
        let slow = std::mem::take(&mut self.state().slow);
        let mut syncs = 0;
        for (node, before) in slow {
            syncs += self.disks[&node].sync_count() - before;
        }
        *self.state().hits.entry(FaultKind::SlowDisk).or_default() += syncs;
        for disk in self.disks.values() {
            disk.set_free(u64::MAX);
            disk.set_options(SimDiskOptions::default());
        }
    }

    fn restart(&self) {
        let (failing, failed) = {
            let mut state = self.state();
            (std::mem::take(&mut state.failing), std::mem::take(&mut state.failed))
        };
        // Some have not noticed yet that their disks are broken.
        let broken = failing.iter().filter(|node| self.disks[node].is_broken());
        self.kill(&broken.copied().chain(failed).collect::<Vec<_>>());
        // Also those that failed by something else than what waited for them.
        for disk in self.disks.values() {
            disk.fail_syncs(0);
            disk.cut_at(None);
        }
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

    fn wake(&self) {
        let suspended = std::mem::take(&mut self.state().suspended);
        for node in suspended {
            self.world.wake(node);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

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
            Fault::Partition(_)
            | Fault::IsolateLeader
            | Fault::OneWay(_)
            | Fault::Bridge(_)
            | Fault::Ring(_)
            | Fault::Links(_)
            | Fault::LinksOf(..) => {
                self.state().links.add(fault, &self.nodes, leader);
                self.set_links();
            }
            Fault::Narrow(rate) => self.narrow_links(*rate),
            Fault::HealLinks => {
                self.state().links = LinkState::default();
                self.world.widen_links();
                self.set_links();
            }
            Fault::Kill(who) => {
                let killed = self.kill(&who.resolve(&self.nodes, leader));
                *self.state().hits.entry(FaultKind::Kill).or_default() += killed;
            }
            Fault::Stop(node) => self.stop(*node),
            Fault::FailSync(who) => {
                self.fail_disks(&who.resolve(&self.nodes, leader), |disk| disk.fail_syncs(1));
            }
            Fault::Cut(who, point) => {
                self.fail_disks(&who.resolve(&self.nodes, leader), |disk| disk.cut_at(Some(*point)));
            }
            Fault::Restart => self.restart(),
            Fault::FillDisk(who) => {
                for node in who.resolve(&self.nodes, leader) {
                    self.disks[&node].set_free(RESERVE_MAX / 2);
                }
            }
            Fault::SlowDisk(who, ms) => {
                let mean = Duration::from_millis(u64::from(*ms));
                let slow = SimDiskOptions { sync_time_min: mean / 2, sync_time_max: mean * 3 / 2 };
                for node in who.resolve(&self.nodes, leader) {
                    let disk = &self.disks[&node];
                    disk.set_options(slow);
                    self.state().slow.entry(node).or_insert_with(|| disk.sync_count());
                }
            }
            Fault::HealDisks => self.heal_disks(),
            Fault::ClockRate(who, rate) => {
                for node in self.alive(who, leader, FaultKind::ClockRate) {
                    self.world.set_clock_rate(node, *rate);
                }
            }
            Fault::ClockJump(who, ms) => {
                for node in self.alive(who, leader, FaultKind::ClockJump) {
                    self.world.jump_wall_clock(node, *ms);
                }
            }
            Fault::HealClocks => {
                for node in &self.nodes {
                    self.world.set_clock_rate(*node, EXACT_RATE);
                }
            }
            Fault::Pause(who) => {
                for node in who.resolve(&self.nodes, leader) {
                    let mut state = self.state();
                    if !state.dead.contains(&node) && state.paused.insert(node) {
                        *state.hits.entry(FaultKind::Pause).or_default() += 1;
                        drop(state);
                        self.world.pause(node);
                    }
                }
            }
            Fault::Resume => self.resume(),
            Fault::Suspend(who) => {
                for node in who.resolve(&self.nodes, leader) {
                    let is_new = {
                        let mut state = self.state();
                        !state.dead.contains(&node) && state.suspended.insert(node)
                    };
                    if is_new {
                        self.world.suspend(node);
                    }
                }
            }
            Fault::Wake => self.wake(),
            Fault::Transfer => self.transfer(leader),
            Fault::Done => {}
        }
        Ok(())
    }

    async fn heal(&self) -> Result<(), ClusterError> {
        let (links, disks, clocks) = (Fault::HealLinks, Fault::HealDisks, Fault::HealClocks);
        for end in [links, disks, clocks, Fault::Resume, Fault::Wake, Fault::Restart] {
            self.apply(&end, None).await?;
        }
        Ok(())
    }

    async fn release(&self) -> Result<(), ClusterError> {
        Ok(())
    }

    async fn hits(&self) -> Hits {
        let mut others = self.state().hits.clone();
        let CapacityHits { overflowed, too_large, .. } = self.world.capacity_hits();
        others.insert(FaultKind::Narrow, overflowed + too_large);
        let disks = |count: fn(&SimDisk) -> u64| self.disks.values().map(count).sum::<u64>();
        others.insert(FaultKind::Cut, disks(|disk| disk.cut_count(&CUT_POINTS)));
        others.insert(FaultKind::Install, disks(|disk| disk.cut_count(&[CutPoint::Switched])));
        others.insert(FaultKind::Disk, disks(SimDisk::failed_count));
        others.insert(FaultKind::DiskFull, disks(SimDisk::full_count));
        others.insert(FaultKind::Suspend, self.world.missed_count());
        Hits { links: self.world.fault_hits(), others }
    }

    async fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
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
