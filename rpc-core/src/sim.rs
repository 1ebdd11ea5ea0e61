//! A world of nodes in virtual time: one seed decides everything, the same seed gives the same trace.
//!
//! A [`World`] is an executor of its own (no tokio runtime, no thread): tasks run in the order in which they were
//! woken, and when none is ready, time jumps to the next timer. Each node has a clock with its own rate and offset, a
//! random generator of its own, and can crash (all its tasks are dropped, its sockets closed), pause or be suspended. The network
//! ([`World::bind`], [`World::set_link`]) delivers datagrams between sockets by the same link policies that real
//! sockets obey. What is above runs unchanged: it sees only [`Runtime`] and [`DatagramSocket`](crate::driver::DatagramSocket).

mod arrival;
mod capacity;
mod clock;
mod executor;
mod network;
mod trace;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

pub use self::capacity::{Capacity, CapacityHits};
pub use self::network::SimSocket;
pub use self::trace::TraceLine;

use self::executor::{Executor, NodeBackend};
use self::network::Network;
use self::trace::Trace;
use crate::driver::fault::{FaultHits, LinkPolicy};
use crate::random::SeededRandom;
use crate::runtime::Runtime;

/// The number of a node in a world. Zero is the observer: the test itself, which never crashes.
pub type NodeNumber = u64;

/// The observer's number.
pub const OBSERVER: NodeNumber = 0;

/// A simulated world. Cheap to clone; when the last clone goes, all nodes crash, so that nothing keeps the rest alive.
#[derive(Clone)]
pub struct World {
    shared: Arc<Shared>,
    _end: Arc<End>,
}

/// Breaks the circle of the world and the tasks in it that hold runtimes of the world.
struct End(Arc<Shared>);

impl Drop for End {
    fn drop(&mut self) {
        let nodes = self.0.lock().executor.numbers();
        for node in nodes {
            self.0.crash(node);
        }
    }
}

/// What all handles on a world share. Its lock is never held while a task runs.
struct Shared {
    state: Mutex<State>,
    ready: executor::ReadyQueue,
}

struct State {
    executor: Executor,
    network: Network,
    trace: Trace,
    random: SeededRandom,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn crash(&self, node: NodeNumber) {
        let tasks = {
            let mut state = self.lock();
            let State { executor, network, trace, .. } = &mut *state;
            let now = executor.now();
            let tasks = executor.end(node);
            network.close_node(node);
            if !tasks.is_empty() {
                trace.record(now, TraceLine::Crash { node, tasks: tasks.len() });
            }
            tasks
        };
        // Destructors look at clocks and wake others: they run without the lock, and in the order of spawning.
        drop(tasks);
    }
}

impl World {
    /// A world in which everything is drawn from `seed`. Its wall clocks start at 2026-01-01.
    pub fn new(seed: u64) -> Self {
        let mut random = SeededRandom::new(seed);
        let network = Network::new(random.fork());
        let state = State { executor: Executor::default(), network, trace: Trace::default(), random };
        let shared = Arc::new(Shared { state: Mutex::new(state), ready: executor::ReadyQueue::default() });
        Self { _end: Arc::new(End(Arc::clone(&shared))), shared }
    }

    /// Starts (or, after a crash, restarts) a node, and gives the runtime for everything on it. An earlier life of
    /// the node ends.
    pub fn start(&self, node: NodeNumber) -> Runtime {
        self.crash(node);
        let mut state = self.shared.lock();
        let State { executor, random, .. } = &mut *state;
        let life = executor.start(node, random);
        Runtime::new(Arc::new(NodeBackend::new(Arc::clone(&self.shared), node, life)))
    }

    /// The runtime of a node that was started.
    ///
    /// # Panics
    /// When the node is not alive.
    pub fn runtime(&self, node: NodeNumber) -> Runtime {
        let life = self.shared.lock().executor.life(node).expect("the node was started");
        Runtime::new(Arc::new(NodeBackend::new(Arc::clone(&self.shared), node, life)))
    }

    /// Ends a node at once: its tasks are dropped where they stand, its sockets closed. Disks are not touched.
    pub fn crash(&self, node: NodeNumber) {
        self.shared.crash(node);
    }

    /// Stops polling a node's tasks, as SIGSTOP does: its clock goes on, its datagrams queue.
    pub fn pause(&self, node: NodeNumber) {
        let mut state = self.shared.lock();
        let now = state.executor.now();
        state.executor.pause(node);
        state.trace.record(now, TraceLine::Pause { node });
    }

    /// Goes on with a paused node.
    pub fn resume(&self, node: NodeNumber) {
        let mut state = self.shared.lock();
        let now = state.executor.now();
        state.trace.record(now, TraceLine::Resume { node });
        state.executor.resume(node, &self.shared.ready);
    }

    /// Suspends a node as a machine is that goes to sleep: its tasks and its monotonic clock stand still, what is sent to
    /// it is lost. Its wall clock goes on.
    pub fn suspend(&self, node: NodeNumber) {
        let mut state = self.shared.lock();
        let now = state.executor.now();
        state.executor.suspend(node);
        state.network.deaf.insert(node);
        state.trace.record(now, TraceLine::Suspend { node });
    }

    /// Goes on with a suspended node, which notices nothing but what its wall clock shows.
    pub fn wake(&self, node: NodeNumber) {
        let mut state = self.shared.lock();
        let now = state.executor.now();
        state.network.deaf.remove(&node);
        state.trace.record(now, TraceLine::Woken { node });
        let sleepers = state.executor.wake(node, &self.shared.ready);
        drop(state);
        sleepers.into_iter().for_each(Waker::wake);
    }

    /// Datagrams that were lost because their receiver was suspended.
    pub fn missed_count(&self) -> u64 {
        self.shared.lock().network.missed_count
    }

    /// Lets a node's monotonic clock run at `parts_per_million` of virtual time from now on (1,000,000 = exact).
    pub fn set_clock_rate(&self, node: NodeNumber, parts_per_million: u32) {
        let sleepers = self.shared.lock().executor.set_clock_rate(node, parts_per_million);
        sleepers.into_iter().for_each(Waker::wake);
    }

    /// Moves a node's wall clock by `milliseconds`.
    pub fn jump_wall_clock(&self, node: NodeNumber, milliseconds: i64) {
        self.shared.lock().executor.jump_wall_clock(node, milliseconds);
    }

    /// A socket of the node that `runtime` belongs to.
    ///
    /// # Panics
    /// When the address is taken, or `runtime` is not the current life of a node of this world.
    pub fn bind(&self, node: NodeNumber, address: SocketAddr) -> SimSocket {
        let life = {
            let mut state = self.shared.lock();
            let life = state.executor.life(node).expect("the node was started");
            state.network.open(node, address);
            life
        };
        SimSocket::new(Arc::clone(&self.shared), node, life, address)
    }

    /// Sets the policy of all links that have none of their own.
    pub fn set_default_link(&self, policy: LinkPolicy) {
        self.shared.lock().network.default = policy;
    }

    /// Sets the policy of the directed link between two nodes.
    pub fn set_link(&self, from: NodeNumber, to: NodeNumber, policy: LinkPolicy) {
        self.shared.lock().network.links.insert((from, to), policy);
    }

    /// Gives all links the default policy again.
    pub fn heal_links(&self) {
        self.shared.lock().network.links.clear();
    }

    /// Gives the directed link between two nodes a bottleneck, whose queue starts empty.
    pub fn set_capacity(&self, from: NodeNumber, to: NodeNumber, capacity: Capacity) {
        let bottleneck = capacity::Bottleneck::new(capacity);
        self.shared.lock().network.bottlenecks.insert((from, to), bottleneck);
    }

    /// Takes the bottlenecks of all links away.
    pub fn widen_links(&self) {
        self.shared.lock().network.bottlenecks.clear();
    }

    /// What the bottlenecks of links did so far.
    pub fn capacity_hits(&self) -> CapacityHits {
        self.shared.lock().network.capacity_hits
    }

    /// Moves a socket, as a NAT does that forgot a flow: from now on the others see it as `outside`, and what they
    /// send to any earlier address of it is lost. The socket itself does not notice.
    pub fn rebind(&self, address: SocketAddr, outside: SocketAddr) {
        self.shared.lock().network.translate(address, outside);
    }

    /// How many datagrams the faults of links hit so far.
    pub fn fault_hits(&self) -> FaultHits {
        self.shared.lock().network.hits
    }

    /// Virtual time since the world began.
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.shared.lock().executor.now())
    }

    /// Draws from the world's own generator, for the plan of a test.
    pub fn fork_random(&self) -> SeededRandom {
        self.shared.lock().random.fork()
    }

    /// Runs the world until `future`, a task of the observer, is done.
    ///
    /// # Panics
    /// When nothing can ever happen again and the future is not done, or a task panicked.
    pub fn run<F>(&self, future: F) -> F::Output
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let runtime = self.observer();
        let mut task = runtime.spawn("observer", future);
        executor::run(&self.shared, &mut task)
    }

    /// The observer's runtime: virtual time itself.
    pub fn observer(&self) -> Runtime {
        let mut state = self.shared.lock();
        let State { executor, random, .. } = &mut *state;
        let life = executor.life(OBSERVER).unwrap_or_else(|| executor.start(OBSERVER, random));
        Runtime::new(Arc::new(NodeBackend::new(Arc::clone(&self.shared), OBSERVER, life)))
    }

    /// The hash of all events so far, and their number.
    pub fn trace_hash(&self) -> (u64, u64) {
        let state = self.shared.lock();
        (state.trace.hash(), state.trace.count())
    }

    /// Hands every later event to `sink` as a line of text.
    pub fn print_trace(&self, sink: impl FnMut(&str) + Send + 'static) {
        self.shared.lock().trace.set_sink(Box::new(sink));
    }
}

#[cfg(test)]
mod tests;
