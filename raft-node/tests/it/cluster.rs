//! A cluster in a world of its own, and what a test does with it.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use raft_node::command::Record;
use raft_node::disk::Disk;
use raft_node::disk::sim::{SimDisk, SimDiskOptions};
use raft_node::outcome::{OpenOutcome, WriteOutcome};
use raft_node::resolver::Literal;
use raft_node::status::{Role, Status};
use raft_node::{Boot, Node, NodeConfig, StartError};
use rpc_core::driver::fault::LinkPolicy;
use rpc_core::peer::Peer;
use rpc_core::runtime::{Instant, Runtime};
use rpc_core::sim::World;

use crate::counter::{Counter, add, number};

/// How long a test waits for anything, in virtual time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Nodes in a simulated world, by number; a node keeps its number, address and disk whatever its id becomes.
pub(crate) struct Cluster {
    pub(crate) world: World,
    pub(crate) observer: Runtime,
    pub(crate) nodes: BTreeMap<u64, Node<Counter>>,
    runtimes: BTreeMap<u64, Runtime>,
    disks: BTreeMap<u64, SimDisk>,
    configure: fn(&mut NodeConfig),
}

impl Cluster {
    /// `count` nodes with empty disks, none started.
    pub(crate) fn new(seed: u64, count: u64) -> Self {
        Self::with(seed, count, |_| {})
    }

    /// As [`Cluster::new`], with a change to every node's configuration.
    pub(crate) fn with(seed: u64, count: u64, configure: fn(&mut NodeConfig)) -> Self {
        let world = World::new(seed);
        if std::env::var_os("TRACE").is_some_and(|value| !value.is_empty()) {
            world.print_trace(|line| eprintln!("{line}"));
        }
        world.set_default_link(LinkPolicy { delay_min_us: 100, delay_max_us: 500, ..LinkPolicy::default() });
        let disk = |_| SimDisk::new(world.fork_random(), SimDiskOptions::default());
        let disks = (1..=count).map(|number| (number, disk(number))).collect();
        let observer = world.observer();
        Self { world, observer, nodes: BTreeMap::new(), runtimes: BTreeMap::new(), disks, configure }
    }

    /// A running cluster of three with a leader; its number.
    pub(crate) fn three(seed: u64) -> (Self, u64) {
        let mut cluster = Self::new(seed, 3);
        cluster.start_all();
        let leader = cluster.leader();
        (cluster, leader)
    }

    pub(crate) fn numbers(&self) -> Vec<u64> {
        self.disks.keys().copied().collect()
    }

    pub(crate) fn start_all(&mut self) {
        for number in self.numbers() {
            self.start(number);
        }
    }

    pub(crate) fn start(&mut self, number: u64) {
        self.try_start(number).expect("the node starts");
    }

    pub(crate) fn try_start(&mut self, number: u64) -> Result<(), StartError> {
        let runtime = self.world.start(number);
        self.runtimes.insert(number, runtime.clone());
        let disk = self.disks[&number].open(&runtime);
        let socket = self.world.bind(number, address(number));
        let members = self.numbers().into_iter().map(|it| (it, address(it).to_string())).collect();
        let mut config = NodeConfig::new(number, members);
        config.host.unsaved_size_max = UNSAVED_SIZE_MAX;
        (self.configure)(&mut config);
        let starting = runtime.clone().spawn("start", async move {
            let boot = Boot::open(runtime.clone(), disk, Arc::new(Counter), config).await?;
            let peer = Peer::builder(runtime)
                .services(boot.services())
                .start_insecure(socket)
                .expect("method names differ");
            Ok(boot.start(peer, Arc::new(Literal)))
        });
        let node = self.world.run(async move { starting.await.expect("the start ends") })?;
        self.nodes.insert(number, node);
        Ok(())
    }

    /// Power cut: what was not durable may be lost.
    pub(crate) fn crash(&mut self, number: u64) {
        self.nodes.remove(&number);
        self.world.crash(number);
        self.disks[&number].crash();
    }

    /// The node is gone, and its disk replaced by an empty one.
    pub(crate) fn wipe(&mut self, number: u64) {
        self.crash(number);
        self.disks[&number].wipe();
    }

    /// Gives each of two nodes the other's disk.
    pub(crate) fn swap_disks(&mut self, one: u64, two: u64) {
        let disk = self.disks[&one].clone();
        let other = self.disks.insert(two, disk).expect("a node has a disk");
        self.disks.insert(one, other);
    }

    /// Gives `number` the disk that it has in another cluster; its own.
    pub(crate) fn take_disk(&mut self, number: u64, other: &Self) -> SimDisk {
        self.disks.insert(number, other.disks[&number].clone()).expect("a node has a disk")
    }

    pub(crate) fn give_disk(&mut self, number: u64, disk: SimDisk) {
        self.disks.insert(number, disk);
    }

    /// The disk of a node that does not run.
    pub(crate) fn open_disk(&self, number: u64) -> Disk {
        self.disks[&number].open(&self.observer)
    }

    /// Lets the next sync of a node's disk fail.
    pub(crate) fn fail_disk(&self, number: u64) {
        self.disks[&number].fail_syncs(1);
    }

    /// Leaves so many bytes free on a node's disk; none at all makes its syncs fail.
    pub(crate) fn set_free(&self, number: u64, bytes: u64) {
        self.disks[&number].set_free(bytes);
    }

    /// Cuts `number` off from all others, in both directions.
    pub(crate) fn isolate(&self, number: u64) {
        let cut = LinkPolicy { cut: true, ..LinkPolicy::default() };
        for other in self.numbers().into_iter().filter(|other| *other != number) {
            self.world.set_link(number, other, cut);
            self.world.set_link(other, number, cut);
        }
    }

    pub(crate) fn heal(&self) {
        self.world.heal_links();
    }

    pub(crate) fn run<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
        self.world.run(future)
    }

    /// Lets virtual time pass.
    pub(crate) fn pass(&self, time: Duration) {
        let observer = self.observer.clone();
        self.run(async move { observer.sleep(time).await });
    }

    pub(crate) fn status(&self, number: u64) -> Status {
        self.nodes[&number].status()
    }

    /// Runs the world until `condition` holds.
    pub(crate) fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let end = self.world.now() + PATIENCE;
        while !condition(self) {
            let states: Vec<_> = self.nodes.values().map(Node::status).collect();
            assert!(self.world.now() < end, "waited in vain until {what}; {states:#?}");
            self.pass(Duration::from_millis(10));
        }
    }

    /// The number of the one leader that a majority follows.
    pub(crate) fn leader(&self) -> u64 {
        self.until("a majority follows one leader", |cluster| cluster.led().is_some());
        self.led().expect("just seen")
    }

    fn led(&self) -> Option<u64> {
        let majority = self.disks.len() / 2 + 1;
        let leads = |number: &&u64| self.status(**number).role == Role::Leader;
        let leader = *self.nodes.keys().filter(leads).max_by_key(|number| self.status(**number).vote.term)?;
        let id = self.status(leader).id;
        let follows = |number: &&u64| self.status(**number).leader.is_some_and(|it| it.id == id);
        (self.nodes.keys().filter(follows).count() >= majority).then_some(leader)
    }

    pub(crate) fn other_than(&self, number: u64) -> u64 {
        *self.nodes.keys().find(|other| **other != number).expect("there are several")
    }

    /// All running nodes hold the same state.
    pub(crate) fn agree(&self) {
        self.until("all nodes hold the same state", |cluster| {
            let mut probes = cluster.nodes.values().map(Node::probe);
            let first = probes.next().expect("a node runs");
            first.applied.is_some()
                && probes.all(|it| (it.applied, it.state_hash) == (first.applied, first.state_hash))
        });
    }

    /// `time` from now on the clock of node `number`.
    pub(crate) fn deadline(&self, number: u64, time: Duration) -> Instant {
        self.runtimes[&number].now() + time
    }

    /// Opens a session through node `number`.
    pub(crate) fn open(&self, number: u64, nonce: u128) -> Session {
        let (node, deadline) = (self.nodes[&number].clone(), self.deadline(number, PATIENCE));
        match self.run(async move { node.open_session(nonce, deadline).await }) {
            OpenOutcome::Opened { session } => Session { id: session, sequence: 0 },
            other => panic!("not opened: {other:?}"),
        }
    }

    /// One write of (session, sequence) that adds `amount` to the counter `name`.
    pub(crate) fn write(
        &self,
        number: u64,
        session: u64,
        sequence: u64,
        amount: u64,
        time: Duration,
    ) -> WriteOutcome {
        let (node, deadline) = (self.nodes[&number].clone(), self.deadline(number, time));
        // A node that is stopped answers nothing, not even that the time is over: who asked from outside gives up.
        let (observer, patience) = (self.observer.clone(), time + Duration::from_secs(1));
        self.run(async move {
            let write = node.write(session, sequence, 1, add("x", amount), deadline);
            observer.timeout(patience, write).await.unwrap_or(WriteOutcome::Unknown)
        })
    }

    pub(crate) fn resolve(&self, number: u64, session: u64, sequence: u64, time: Duration) -> WriteOutcome {
        let (node, deadline) = (self.nodes[&number].clone(), self.deadline(number, time));
        self.run(async move { node.resolve(session, sequence, deadline).await })
    }

    /// Adds `amount` through node `number`; the counter's value after it.
    pub(crate) fn add(&self, number: u64, session: &mut Session, amount: u64) -> u64 {
        session.sequence += 1;
        match self.write(number, session.id, session.sequence, amount, PATIENCE) {
            WriteOutcome::Settled(record) => value(&record),
            other => panic!("not settled: {other:?}"),
        }
    }
}

/// A session and the last sequence used in it.
pub(crate) struct Session {
    pub(crate) id: u64,
    pub(crate) sequence: u64,
}

/// The counter's value in a record.
pub(crate) fn value(record: &Record) -> u64 {
    number(&record.detail)
}

pub(crate) fn address(number: u64) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, number as u8], 7301))
}

/// Bytes of state in memory only: few, so that tests of some hundred writes meet many saves.
const UNSAVED_SIZE_MAX: usize = 2_000;
