//! How many calls of a method, or of a service, run at once; who waits; who is sent away before any work was done.
//!
//! A [`Gate`] lets so many calls through at once and queues so many more, first in, first out. A call is refused at the
//! door, *not executed*, when the queue is full, when it would have to wait for more than half of the time that its
//! caller has left (estimated by how long calls lately took, as CoDel judges a queue by time and not by length), or
//! when it did wait for so long. The error says when it is worth a try again.
//!
//! An exclusive gate lets one call through, per key if it has one, and names who holds it. Access is a lease: it ends
//! with the holder, at the latest at the holder's deadline, where the handler is stopped. What the handler set in
//! motion elsewhere may go on after that, so each access has a fencing token, larger than all before it.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::codec;
use super::error::{Code, RpcError};
use crate::runtime::{Instant, Runtime};

/// How many calls run at once and how many wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Calls that run at once; at least 1.
    pub max_concurrent: u32,
    /// Calls that wait for their turn. One more is answered SERVER_BUSY (LOCKED where access is exclusive).
    pub max_queue: u32,
}

impl Limits {
    /// Up to `max_concurrent` calls at once, up to `max_queue` waiting.
    pub const fn new(max_concurrent: u32, max_queue: u32) -> Self {
        Self { max_concurrent, max_queue }
    }
}

/// Calls that wait for a place, unless the macro's options say otherwise.
pub const QUEUE_MAX: u32 = 64;

/// Takes the key of exclusive access out of an encoded request; nothing where it cannot be read.
pub type KeyOf = Arc<dyn Fn(&[u8]) -> Option<Bytes> + Send + Sync>;

/// The door before a method or a service.
pub struct Gate {
    limits: Limits,
    exclusive: bool,
    key: Option<KeyOf>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What is held or waited for; where there are no keys, below the empty one.
    doors: BTreeMap<Bytes, Door>,
    /// The last fencing token.
    fence: u64,
    /// How long a call held its place lately; zero before the first ended.
    held: Duration,
}

#[derive(Default)]
struct Door {
    running: u32,
    queue: VecDeque<Waiting>,
    /// Who has exclusive access.
    holder: Option<Holder>,
}

struct Waiting {
    holder: Holder,
    place: oneshot::Sender<Permit>,
}

/// Who has, or wants, access.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// From where it calls.
    pub address: SocketAddr,
    /// The process that calls.
    pub client_id: u128,
    /// The full name of the method.
    pub method: Arc<str>,
    /// When its access began.
    pub since: Instant,
    /// When its access ends at the latest.
    pub deadline: Instant,
    /// Its fencing token; 0 where access is not exclusive.
    pub fence: u64,
}

impl Holder {
    /// In words, with the key that it has access by.
    pub(crate) fn shown(&self, key: &[u8]) -> String {
        let Self { address, client_id, method, fence, .. } = self;
        let by = if key.is_empty() { String::new() } else { format!(", key {}", codec::diagnostic(key)) };
        format!("{address} (client {client_id:032x}) in {method}, token {fence}{by}")
    }
}

/// Who stands before a gate, for those who look at a running peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GateSnapshot {
    /// Calls that run.
    pub running: u32,
    /// Calls that wait.
    pub queued: u32,
    /// Who has exclusive access, by key (empty where there are no keys).
    pub holders: Vec<(Bytes, Holder)>,
}

impl Gate {
    /// Lets `limits.max_concurrent` calls through at once.
    pub fn limited(limits: Limits) -> Arc<Self> {
        Self::new(limits, false, None)
    }

    /// Lets one call through; `max_queue` wait.
    pub fn exclusive(max_queue: u32) -> Arc<Self> {
        Self::new(Limits::new(1, max_queue), true, None)
    }

    /// Lets one call through for each key; `max_queue` wait for one.
    pub fn exclusive_by(max_queue: u32, key: KeyOf) -> Arc<Self> {
        Self::new(Limits::new(1, max_queue), true, Some(key))
    }

    fn new(limits: Limits, exclusive: bool, key: Option<KeyOf>) -> Arc<Self> {
        Arc::new(Self { limits, exclusive, key, state: Mutex::default() })
    }

    /// How many calls it lets through, how many wait.
    pub const fn limits(&self) -> Limits {
        self.limits
    }

    /// Whether one call has it for itself.
    pub const fn is_exclusive(&self) -> bool {
        self.exclusive
    }

    /// Who stands before it now.
    pub fn snapshot(&self) -> GateSnapshot {
        let state = self.lock();
        let holders = state.doors.iter().filter_map(|(key, door)| Some((key.clone(), door.holder.clone()?)));
        GateSnapshot {
            running: state.doors.values().map(|door| door.running).sum(),
            queued: state.doors.values().map(|door| door.queue.len() as u32).sum(),
            holders: holders.collect(),
        }
    }

    /// Waits for a place for the call of `holder` with the encoded `request`.
    ///
    /// # Errors
    /// SERVER_BUSY, or LOCKED where access is exclusive: not executed, with the time after which a try is worth it.
    pub(crate) async fn enter(
        self: &Arc<Self>,
        runtime: &Runtime,
        holder: Holder,
        request: &[u8],
    ) -> Result<Permit, RpcError> {
        let key = match &self.key {
            Some(key_of) => key_of(request)
                .ok_or_else(|| RpcError::not_executed(Code::BadRequest, "no key in the request"))?,
            None => Bytes::new(),
        };
        let now = runtime.now();
        let patience = holder.deadline.saturating_since(now) / 2;
        let turn = {
            let mut state = self.lock();
            match state.join(self, runtime, &key, holder, patience)? {
                Turn::Now(permit) => return Ok(permit),
                Turn::Later(turn) => turn,
            }
        };
        match runtime.timeout(patience, turn).await {
            Ok(Ok(permit)) => Ok(permit),
            // The sender lives as long as the queue, and the queue as long as this gate.
            Ok(Err(_)) | Err(_) => {
                let state = self.lock();
                Err(state.refuse(self, &key, runtime.now(), "waited for half of the time that was left"))
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Turn {
    Now(Permit),
    Later(oneshot::Receiver<Permit>),
}

impl State {
    fn join(
        &mut self,
        gate: &Arc<Gate>,
        runtime: &Runtime,
        key: &Bytes,
        holder: Holder,
        patience: Duration,
    ) -> Result<Turn, RpcError> {
        let door = self.doors.entry(key.clone()).or_default();
        if door.running < gate.limits.max_concurrent.max(1) {
            return Ok(Turn::Now(self.admit(gate, runtime, key, holder)));
        }
        // Who gave up waiting is still listed.
        door.queue.retain(|waiting| !waiting.place.is_closed());
        let queued = door.queue.len() as u32;
        if queued >= gate.limits.max_queue {
            return Err(self.refuse(gate, key, runtime.now(), "the queue is full"));
        }
        if self.expected_wait(gate, queued) > patience {
            return Err(self.refuse(gate, key, runtime.now(), "the queue takes too long"));
        }
        let (place, turn) = oneshot::channel();
        if let Some(door) = self.doors.get_mut(key) {
            door.queue.push_back(Waiting { holder, place });
        }
        Ok(Turn::Later(turn))
    }

    fn admit(&mut self, gate: &Arc<Gate>, runtime: &Runtime, key: &Bytes, mut holder: Holder) -> Permit {
        let since = runtime.now();
        let door = self.doors.entry(key.clone()).or_default();
        door.running += 1;
        let mut fence = None;
        if gate.exclusive {
            // Larger than before, also after a restart: nobody gets a million accesses in a millisecond.
            self.fence = (self.fence + 1).max(runtime.wall_ms() << FENCE_BITS);
            holder.since = since;
            holder.fence = self.fence;
            fence = Some(self.fence);
            door.holder = Some(holder);
        }
        Permit { gate: Arc::clone(gate), runtime: runtime.clone(), key: key.clone(), since, fence }
    }

    fn expected_wait(&self, gate: &Gate, queued: u32) -> Duration {
        self.held * (queued + 1) / gate.limits.max_concurrent.max(1)
    }

    fn refuse(&self, gate: &Gate, key: &Bytes, now: Instant, why: &str) -> RpcError {
        let door = self.doors.get(key);
        let queued = door.map_or(0, |door| door.queue.len() as u32);
        let mut retry_after = self.expected_wait(gate, queued).max(RETRY_AFTER_MIN);
        let holder = door.and_then(|door| door.holder.as_ref());
        let mut error = match holder {
            Some(Holder { address, client_id, method, since, deadline, fence }) => {
                retry_after = retry_after.min(deadline.saturating_since(now)).max(RETRY_AFTER_MIN);
                let held = now.saturating_since(*since);
                RpcError::not_executed(
                    Code::Locked,
                    format!(
                        "{why}: held by {address} (client {client_id:032x}) in {method} for {held:?}, token {fence}"
                    ),
                )
            }
            None if gate.exclusive => RpcError::not_executed(Code::Locked, why),
            None => {
                let running = door.map_or(0, |door| door.running);
                RpcError::not_executed(Code::ServerBusy, format!("{why}: {running} calls run, {queued} wait"))
            }
        };
        error.retry_after = Some(retry_after);
        error
    }
}

/// A place behind a gate; dropped, it goes to the next who waits.
pub(crate) struct Permit {
    gate: Arc<Gate>,
    runtime: Runtime,
    key: Bytes,
    since: Instant,
    fence: Option<u64>,
}

impl Permit {
    /// The fencing token, where access is exclusive.
    pub(crate) const fn fence(&self) -> Option<u64> {
        self.fence
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let held = self.runtime.now().saturating_since(self.since);
        let mut state = self.gate.lock();
        state.held = if state.held.is_zero() { held } else { state.held * 7 / 8 + held / 8 };
        let next = state.leave(&self.gate, &self.runtime, &self.key);
        drop(state);
        if let Some((place, permit)) = next {
            // Who gave up in the meantime gets it back to drop, which hands it on: not under the lock.
            drop(place.send(permit));
        }
    }
}

impl State {
    /// A call ended; who comes next, with its place.
    fn leave(
        &mut self,
        gate: &Arc<Gate>,
        runtime: &Runtime,
        key: &Bytes,
    ) -> Option<(oneshot::Sender<Permit>, Permit)> {
        let door = self.doors.get_mut(key)?;
        door.running -= 1;
        while let Some(Waiting { holder, place }) = door.queue.pop_front() {
            if !place.is_closed() {
                return Some((place, self.admit(gate, runtime, key, holder)));
            }
        }
        if door.running == 0 {
            self.doors.remove(key);
        }
        None
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("limits", &self.limits)
            .field("exclusive", &self.exclusive)
            .finish_non_exhaustive()
    }
}

/// Bits of a fencing token below the milliseconds of the wall clock.
const FENCE_BITS: u32 = 20;
/// The shortest time after which a refused call is told to come again.
const RETRY_AFTER_MIN: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::sim::World;

    fn holder(runtime: &Runtime) -> Holder {
        let now = runtime.now();
        Holder {
            address: SocketAddr::from(([127, 0, 0, 1], 1)),
            client_id: 1,
            method: "method".into(),
            since: now,
            deadline: now + Duration::from_secs(10),
            fence: 0,
        }
    }

    fn enter(gate: &Arc<Gate>, runtime: &Runtime, key: &'static [u8]) -> Permit {
        let entered = gate.enter(runtime, holder(runtime), key).now_or_never();
        entered.expect("nobody is before it").expect("there is room")
    }

    #[test]
    fn a_gate_remembers_no_key_that_nobody_holds() {
        let runtime = World::new(1).observer();
        let gate = Gate::exclusive_by(1, Arc::new(|request| Some(Bytes::copy_from_slice(request))));
        let (first, second) = (enter(&gate, &runtime, b"first"), enter(&gate, &runtime, b"second"));
        assert_eq!(gate.snapshot().holders.len(), 2);
        drop(first);
        assert_eq!(gate.snapshot().holders.len(), 1);
        drop(second);
        assert_eq!(gate.snapshot(), GateSnapshot::default());
        assert!(gate.lock().doors.is_empty());
    }

    #[test]
    fn who_gave_up_waiting_leaves_its_place_in_the_queue() {
        let runtime = World::new(1).observer();
        let gate = Gate::limited(Limits::new(1, 1));
        let _inside = enter(&gate, &runtime, b"");
        let mut waits = Box::pin(gate.enter(&runtime, holder(&runtime), b""));
        assert!(waits.as_mut().now_or_never().is_none());
        let refused = gate.enter(&runtime, holder(&runtime), b"").now_or_never();
        assert_eq!(refused.unwrap().map(drop).unwrap_err().code, Code::ServerBusy);
        drop(waits);
        assert!(gate.enter(&runtime, holder(&runtime), b"").now_or_never().is_none(), "it waits");
    }

    #[test]
    fn who_finds_it_locked_comes_again_when_the_lease_ends_at_the_latest() {
        let runtime = World::new(1).observer();
        let gate = Gate::exclusive(0);
        gate.lock().held = Duration::from_secs(3_600);
        let _inside = enter(&gate, &runtime, b"");
        let refused = gate.enter(&runtime, holder(&runtime), b"").now_or_never().unwrap();
        assert_eq!(refused.map(drop).unwrap_err().retry_after, Some(Duration::from_secs(10)));
    }

    #[test]
    fn tokens_grow_also_over_a_restart() {
        let world = World::new(1);
        let runtime = world.observer();
        let before = Gate::exclusive(1);
        let tokens: Vec<_> = (0..3).map(|_| enter(&before, &runtime, b"").fence()).collect();
        assert!(tokens.is_sorted_by(|earlier, later| earlier < later), "{tokens:?}");
        let later = runtime.clone();
        world.run(async move { later.sleep(Duration::from_millis(1)).await });
        assert!(enter(&Gate::exclusive(1), &runtime, b"").fence() > tokens[2]);
    }
}
