//! Tasks and timers in virtual time.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use super::arrival::{Arrival, Life};
use super::clock::{self, Clock};
use super::trace::TraceLine;
use super::{NodeNumber, Shared};
use crate::random::SeededRandom;
use crate::runtime::{Abort, Backend, BoxFuture, Instant, Task};

/// Polls without any passing of virtual time before the world is called stuck.
const POLLS_PER_INSTANT_MAX: u64 = 1_000_000;

type TaskId = u64;
type TimerKey = (u64, u64);

#[derive(Default)]
pub(super) struct Executor {
    now: u64,
    sequence: u64,
    tasks: BTreeMap<TaskId, Slot>,
    timers: BTreeMap<TimerKey, Timer>,
    nodes: BTreeMap<NodeNumber, Node>,
}

/// A task; its future is taken out while it is polled.
struct Slot {
    node: NodeNumber,
    future: Option<BoxFuture<()>>,
}

struct Node {
    life: Life,
    alive: bool,
    paused: bool,
    /// Tasks that became ready while the node was paused or suspended.
    stalled: Vec<Arc<TaskWaker>>,
    clock: Clock,
    random: SeededRandom,
}

enum Timer {
    Wake { node: NodeNumber, waker: Waker },
    Arrive(Arrival),
}

impl Executor {
    pub(super) fn now(&self) -> u64 {
        self.now
    }

    pub(super) fn life(&self, node: NodeNumber) -> Option<Life> {
        self.nodes.get(&node).filter(|node| node.alive).map(|node| node.life)
    }

    pub(super) fn start(&mut self, node: NodeNumber, random: &mut SeededRandom) -> Life {
        // Every life draws its own clock origin: code that compared two nodes' instants would fail here.
        let base = if node == super::OBSERVER { 0 } else { random.below(1 << 40) };
        let life = self.nodes.get(&node).map_or(1, |node| node.life + 1);
        let clock = Clock::new(base, self.now);
        let random = random.fork();
        let stalled = Vec::new();
        self.nodes.insert(node, Node { life, alive: true, paused: false, stalled, clock, random });
        life
    }

    /// Ends the node's life and gives its tasks to be dropped.
    pub(super) fn end(&mut self, node: NodeNumber) -> Vec<BoxFuture<()>> {
        let Some(state) = self.nodes.get_mut(&node) else { return Vec::new() };
        state.alive = false;
        state.stalled.clear();
        let ids: Vec<TaskId> =
            self.tasks.iter().filter(|(_, slot)| slot.node == node).map(|(id, _)| *id).collect();
        ids.iter().filter_map(|id| self.tasks.remove(id)?.future).collect()
    }

    pub(super) fn numbers(&self) -> Vec<NodeNumber> {
        self.nodes.keys().copied().collect()
    }

    pub(super) fn pause(&mut self, node: NodeNumber) {
        if let Some(node) = self.nodes.get_mut(&node) {
            node.paused = true;
        }
    }

    pub(super) fn resume(&mut self, node: NodeNumber, ready: &ReadyQueue) {
        if let Some(node) = self.nodes.get_mut(&node) {
            node.paused = false;
            ready.lock().extend(node.stalled.drain(..));
        }
    }

    pub(super) fn suspend(&mut self, node: NodeNumber) {
        let now = self.now;
        if let Some(node) = self.nodes.get_mut(&node) {
            node.clock.stop(now, true);
        }
    }

    /// Goes on with a suspended node; gives those who sleep there, whose time comes later now.
    pub(super) fn wake(&mut self, node: NodeNumber, ready: &ReadyQueue) -> Vec<Waker> {
        let now = self.now;
        if let Some(node) = self.nodes.get_mut(&node) {
            node.clock.stop(now, false);
            ready.lock().extend(node.stalled.drain(..));
        }
        self.sleepers(node)
    }

    /// Sets the rate of a node's clock; gives those who sleep there, whose time comes earlier or later now.
    pub(super) fn set_clock_rate(&mut self, node: NodeNumber, parts_per_million: u32) -> Vec<Waker> {
        let now = self.now;
        if let Some(node) = self.nodes.get_mut(&node) {
            node.clock.set_rate(now, parts_per_million);
        }
        self.sleepers(node)
    }

    /// Takes out those who wait for the clock of a node: woken, they look at it again.
    fn sleepers(&mut self, node: NodeNumber) -> Vec<Waker> {
        let is_meant = |timer: &mut Timer| matches!(timer, Timer::Wake { node: of, .. } if *of == node);
        let taken = self.timers.extract_if(.., |_, timer| is_meant(timer));
        taken
            .filter_map(|(_, timer)| match timer {
                Timer::Wake { waker, .. } => Some(waker),
                Timer::Arrive(_) => None,
            })
            .collect()
    }

    pub(super) fn jump_wall_clock(&mut self, node: NodeNumber, milliseconds: i64) {
        if let Some(node) = self.nodes.get_mut(&node) {
            node.clock.jump_wall(milliseconds);
        }
    }

    /// Lets a datagram arrive `delay_ns` from now.
    pub(super) fn arrive_later(&mut self, delay_ns: u64, arrival: Arrival) {
        let key = self.timer_key(self.now.saturating_add(delay_ns));
        self.timers.insert(key, Timer::Arrive(arrival));
    }

    fn timer_key(&mut self, at: u64) -> TimerKey {
        self.sequence += 1;
        (at, self.sequence)
    }

    fn node_of_life(&mut self, node: NodeNumber, life: Life) -> Option<&mut Node> {
        self.nodes.get_mut(&node).filter(|node| node.alive && node.life == life)
    }
}

/// The tasks that were woken, in order. Apart from the state, because wakers are called under any lock.
#[derive(Default)]
pub(super) struct ReadyQueue {
    queue: Arc<Mutex<VecDeque<Arc<TaskWaker>>>>,
}

impl ReadyQueue {
    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Arc<TaskWaker>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct TaskWaker {
    id: TaskId,
    node: NodeNumber,
    name: &'static str,
    queued: AtomicBool,
    queue: Arc<Mutex<VecDeque<Arc<Self>>>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            let queue = Arc::clone(&self.queue);
            queue.lock().unwrap_or_else(PoisonError::into_inner).push_back(self);
        }
    }
}

/// Runs tasks and time until `task` is done.
pub(super) fn run<T>(shared: &Arc<Shared>, task: &mut Task<T>) -> T {
    let (mut polls, mut spinning) = (0, Vec::new());
    loop {
        let mut cx = Context::from_waker(Waker::noop());
        if let Poll::Ready(result) = Pin::new(&mut *task).poll(&mut cx) {
            return result.expect("the observer's task is not aborted");
        }
        let woken = shared.ready.lock().pop_front();
        if let Some(woken) = woken {
            polls += 1;
            if polls >= POLLS_PER_INSTANT_MAX {
                spinning.push(format!("{} of node {}", woken.name, woken.node));
            }
            assert!(
                spinning.len() < 12,
                "tasks run for ever without any passing of time: {}",
                spinning.join(", ")
            );
            poll_task(shared, &woken);
        } else {
            polls = 0;
            advance(shared);
        }
    }
}

fn poll_task(shared: &Arc<Shared>, woken: &Arc<TaskWaker>) {
    let mut future = {
        let mut state = shared.lock();
        let executor = &mut state.executor;
        let Some(slot) = executor.tasks.get_mut(&woken.id) else { return };
        let is_held = |node: &&mut Node| node.paused || node.clock.is_stopped;
        if let Some(node) = executor.nodes.get_mut(&slot.node).filter(is_held) {
            node.stalled.push(Arc::clone(woken));
            return;
        }
        woken.queued.store(false, Ordering::Relaxed);
        let Some(future) = slot.future.take() else { return };
        future
    };
    let waker = Waker::from(Arc::clone(woken));
    let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
    let mut state = shared.lock();
    match state.executor.tasks.get_mut(&woken.id) {
        Some(slot) if polled.is_pending() => slot.future = Some(future),
        Some(_) => {
            state.executor.tasks.remove(&woken.id);
            drop(state);
            drop(future);
        }
        // Aborted, or its node crashed, while it ran.
        None => {
            drop(state);
            drop(future);
        }
    }
}

/// Moves time to the next timer and fires it.
fn advance(shared: &Arc<Shared>) {
    let mut state = shared.lock();
    let super::State { executor, network, trace, .. } = &mut *state;
    let next = executor.timers.pop_first().filter(|((at, _), _)| *at < clock::NEVER);
    let Some(((at, _), timer)) = next else {
        drop(state);
        panic!("nothing can happen any more, and the observer still waits");
    };
    executor.now = executor.now.max(at);
    let waker = match timer {
        Timer::Wake { node, waker } => {
            trace.record(executor.now, TraceLine::Timer { node });
            Some(waker)
        }
        Timer::Arrive(arrival) => network.arrive(executor.now, arrival, trace),
    };
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// The world as one life of one node sees it.
pub(super) struct NodeBackend {
    shared: Arc<Shared>,
    node: NodeNumber,
    life: Life,
}

impl NodeBackend {
    pub(super) fn new(shared: Arc<Shared>, node: NodeNumber, life: Life) -> Self {
        Self { shared, node, life }
    }

    fn clock<T>(&self, read: impl FnOnce(&Clock, u64) -> T) -> T {
        let state = self.shared.lock();
        let executor = &state.executor;
        let node = executor.nodes.get(&self.node).expect("a node is never forgotten");
        read(&node.clock, executor.now)
    }
}

impl Backend for NodeBackend {
    fn now(&self) -> Instant {
        self.clock(Clock::at)
    }

    fn wall_ms(&self) -> u64 {
        self.clock(Clock::wall_ms)
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<()> {
        let at = self.clock(|clock, _| clock.when(deadline));
        let (shared, node, life) = (Arc::clone(&self.shared), self.node, self.life);
        Box::pin(Sleep { shared, node, life, deadline, at, key: None })
    }

    fn spawn(&self, name: &'static str, task: BoxFuture<()>) -> Abort {
        let waker = {
            let mut state = self.shared.lock();
            let executor = &mut state.executor;
            if executor.node_of_life(self.node, self.life).is_none() {
                // Spawned by a destructor of a node that crashed: it never runs.
                drop(state);
                drop(task);
                return Box::new(|| {});
            }
            executor.sequence += 1;
            let id = executor.sequence;
            let queue = Arc::clone(&self.shared.ready.queue);
            let waker =
                Arc::new(TaskWaker { id, node: self.node, name, queued: AtomicBool::new(false), queue });
            executor.tasks.insert(id, Slot { node: self.node, future: Some(task) });
            waker
        };
        let id = waker.id;
        waker.wake();
        let shared = Arc::downgrade(&self.shared);
        Box::new(move || {
            let Some(shared) = shared.upgrade() else { return };
            let slot = shared.lock().executor.tasks.remove(&id);
            drop(slot);
        })
    }

    fn spawn_thread(&self, name: &'static str, task: BoxFuture<()>) {
        drop(self.spawn(name, task));
    }

    fn fill_random(&self, bytes: &mut [u8]) {
        let mut state = self.shared.lock();
        let node = state.executor.nodes.get_mut(&self.node).expect("a node is never forgotten");
        node.random.fill(bytes);
    }

    fn trace(&self, event: &dyn Fn() -> String) {
        let what = event();
        let mut state = self.shared.lock();
        let now = state.executor.now;
        state.trace.record(now, TraceLine::Event { node: self.node, what });
    }
}

/// Waits until the clock of a node shows a time.
struct Sleep {
    shared: Arc<Shared>,
    node: NodeNumber,
    life: Life,
    deadline: Instant,
    /// When that is in virtual time, as far as was known last: what counts when the node's life is over.
    at: u64,
    key: Option<TimerKey>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        let executor = &mut state.executor;
        if let Some(key) = self.key.take() {
            executor.timers.remove(&key);
        }
        if let Some(node) = executor.node_of_life(self.node, self.life) {
            // The clock may have changed its rate since, or stood still.
            self.at = node.clock.when(self.deadline);
        }
        if executor.now >= self.at {
            return Poll::Ready(());
        }
        let key = executor.timer_key(self.at);
        executor.timers.insert(key, Timer::Wake { node: self.node, waker: cx.waker().clone() });
        self.key = Some(key);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        let timer = self.key.take().and_then(|key| self.shared.lock().executor.timers.remove(&key));
        drop(timer);
    }
}
