//! What travelled beside the bodies of one connection: the services and streams that each side knows by their ids, and
//! the task that says what they have to say.
//!
//! A session begins with the first handle on a connection and ends with the connection. Reserved methods besides those
//! of references and streams:
//!
//! ```text
//! @handle.claim  [* handle-id]   -> null   ; handles of an answer have been read
//! ```

mod speak;

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

use super::channel::Channel;
use super::context::Ctx;
use super::error::{Code, Outcome, RpcError};
use super::handle::{self, Cargo, Carried, Carrier, HandleId};
use super::interceptor::Execution;
use super::path::MethodId;
use super::registry::Served;
use crate::endpoint::CallId;
use crate::runtime::{BoxFuture, Instant, Task};

/// Handles on one connection that this side passed, and as many that the peer passed. Above it, a call that carries
/// one more is refused with SERVER_BUSY, not executed.
pub const HANDLES_MAX: usize = 1_024;

/// Handles in an answer that were not claimed for so long are dead: the answer was not read.
pub const CLAIM_TIMEOUT: Duration = Duration::from_secs(10);

/// A push, grant or stop that is not answered for so long ends its stream, although the connection lives.
pub const DELIVERY_TIMEOUT: Duration = Duration::from_secs(120);

/// Notified methods of one peer that run at once; above it a notification is refused with SERVER_BUSY, not executed.
pub const NOTIFIED_MAX: usize = 1_024;

/// Ids in one release or claim.
pub(super) const IDS_MAX: usize = 256;

pub(super) const CLAIM: &str = "@handle.claim";
pub(super) const RELEASE: &str = "@ref.release";
pub(super) const PUSH: &str = "@stream.push";
pub(super) const GRANT: &str = "@stream.grant";
pub(super) const STOP: &str = "@stream.stop";

/// What a session needs of the peer that has the connection.
pub(crate) trait Host: Send + Sync + 'static {
    /// Says whether the connection is to be kept alive also while no call is open.
    fn keep(&self, keep: bool);

    /// A notified method has ended.
    fn rest(&self);

    /// The method that the peer serves under this id.
    fn method(&self, id: MethodId) -> Option<Arc<Served>>;

    /// Runs a method as a request for it would, with all that stands around it.
    fn execute(&self, served: &Arc<Served>, ctx: Ctx, body: Bytes) -> BoxFuture<Execution>;
}

/// Services and streams on one connection.
pub struct Session {
    channel: Arc<dyn Channel>,
    host: Arc<dyn Host>,
    state: Mutex<State>,
    wake: Notify,
    /// Notified methods that run. Not in the state: a task is dropped wherever its runtime ends.
    slots: AtomicUsize,
}

#[derive(Default)]
struct State {
    passed: BTreeMap<HandleId, Arc<dyn Carried>>,
    received: BTreeMap<HandleId, Arc<dyn Carried>>,
    /// Streams that may have something to say.
    stirred: BTreeSet<HandleId>,
    /// The one that spoke last: the next in order comes first.
    spoke: HandleId,
    /// Services of the peer that are held here.
    imports: usize,
    releases: Vec<HandleId>,
    claims: Vec<HandleId>,
    /// Handles of answers, by when they must be claimed. May hold ids that are gone.
    unclaimed: VecDeque<(Instant, HandleId)>,
    pumping: bool,
    /// Notified methods that have to wait, by the call that began them.
    notified: BTreeMap<CallId, Task<()>>,
    ended: Option<RpcError>,
}

impl State {
    fn handles(&self) -> usize {
        self.passed.len() + self.received.len() + self.imports
    }
}

impl Session {
    /// The session of the one connection behind `channel`.
    pub(crate) fn new(channel: Arc<dyn Channel>, host: Arc<dyn Host>) -> Arc<Self> {
        Arc::new(Self {
            channel,
            host,
            state: Mutex::default(),
            wake: Notify::new(),
            slots: AtomicUsize::new(0),
        })
    }

    /// The session behind `carrier`: there is no other kind.
    pub(crate) fn of(carrier: Carrier) -> Option<Arc<Self>> {
        let session: Arc<dyn Any + Send + Sync> = carrier.0;
        session.downcast().ok()
    }

    /// The session of the connection by which a call came.
    pub(super) fn of_caller(ctx: &Ctx) -> Option<Arc<Self>> {
        Self::of(ctx.caller.carrier()?)
    }

    /// This session as the handles in bodies see it.
    pub(crate) fn carrier(self: &Arc<Self>) -> Carrier {
        Carrier(Arc::<Self>::clone(self))
    }

    pub(crate) fn channel(&self) -> &dyn Channel {
        &*self.channel
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters what a message of this side carries. Nothing stays entered when it fails.
    ///
    /// # Errors
    /// SERVER_BUSY at [`HANDLES_MAX`]; ABORTED for a stream that is already somewhere else; both not executed.
    pub(crate) fn attach(
        self: &Arc<Self>,
        call: CallId,
        answer: bool,
        cargo: &Cargo,
    ) -> Result<(), RpcError> {
        for (index, carried) in (0..).zip(cargo.carried()) {
            let id = HandleId::new(call, answer, index);
            if let Err(error) = self.attach_one(id, carried, answer) {
                self.detach(call, answer, cargo, &error);
                return Err(error);
            }
        }
        Ok(())
    }

    fn attach_one(
        self: &Arc<Self>,
        id: HandleId,
        carried: &Arc<dyn Carried>,
        answer: bool,
    ) -> Result<(), RpcError> {
        {
            let mut state = self.lock();
            if let Some(error) = &state.ended {
                return Err(RpcError { outcome: Outcome::NotExecuted, ..error.clone() });
            }
            if state.passed.len() >= HANDLES_MAX {
                let what = format!("{HANDLES_MAX} services and streams are passed on this connection");
                return Err(RpcError::not_executed(Code::ServerBusy, what));
            }
            state.passed.insert(id, Arc::clone(carried));
            if answer {
                let due = self.channel.runtime().now() + CLAIM_TIMEOUT;
                state.unclaimed.push_back((due, id));
            }
            self.pump(state);
        }
        if carried.attach(&self.carrier(), id) {
            return Ok(());
        }
        self.lock().passed.remove(&id);
        let what = "this end of a stream is used by another call, or was used before";
        Err(RpcError::not_executed(Code::Aborted, what))
    }

    /// Takes back what a call carried that failed.
    pub(crate) fn detach(&self, call: CallId, answer: bool, cargo: &Cargo, error: &RpcError) {
        for (index, _) in (0..).zip(cargo.carried()) {
            let entry = self.lock().passed.remove(&HandleId::new(call, answer, index));
            if let Some(entry) = entry {
                entry.detach(error);
            }
        }
    }

    /// The handles of an answer have been read.
    pub(super) fn claim(self: &Arc<Self>, ids: Vec<HandleId>) {
        let mut state = self.lock();
        state.claims.extend(ids);
        self.pump(state);
    }

    /// A service of the peer is not held any more.
    pub(super) fn release(self: &Arc<Self>, id: HandleId) {
        let mut state = self.lock();
        state.imports -= 1;
        if state.ended.is_none() {
            state.releases.push(id);
            self.pump(state);
        }
    }

    /// A service of the peer is held, until it is released.
    pub(super) fn hold(self: &Arc<Self>) {
        let mut state = self.lock();
        state.imports += 1;
        self.pump(state);
    }

    fn import(&self, id: HandleId, end: Arc<dyn Carried>) -> Result<(), &'static str> {
        let mut state = self.lock();
        if state.ended.is_some() {
            return Err("the connection is lost");
        }
        if state.received.len() >= HANDLES_MAX {
            return Err("too many streams are open on this connection");
        }
        if state.received.contains_key(&id) {
            return Err("a stream that came twice");
        }
        state.received.insert(id, end);
        Ok(())
    }

    /// The method that this side serves under `id`.
    pub(super) fn method(&self, id: MethodId) -> Option<Arc<Served>> {
        self.host.method(id)
    }

    /// Runs a method as a request for it would, with all that stands around it.
    pub(super) fn execute(&self, served: &Arc<Served>, ctx: Ctx, body: Bytes) -> BoxFuture<Execution> {
        self.host.execute(served, ctx, body)
    }

    /// Room for a notified method to run in.
    ///
    /// # Errors
    /// SERVER_BUSY at [`NOTIFIED_MAX`].
    pub(super) fn slot(self: &Arc<Self>) -> Result<Slot, RpcError> {
        let state = self.lock();
        if let Some(error) = &state.ended {
            return Err(RpcError { outcome: Outcome::NotExecuted, ..error.clone() });
        }
        // Under the lock, so that two do not take the last one.
        if self.slots.load(Ordering::Relaxed) >= NOTIFIED_MAX {
            let what = format!("{NOTIFIED_MAX} notified methods run for this peer");
            return Err(RpcError::not_executed(Code::ServerBusy, what));
        }
        self.slots.fetch_add(1, Ordering::Relaxed);
        Ok(Slot(Arc::clone(self)))
    }

    /// Whether no notified method runs.
    pub(crate) fn is_quiet(&self) -> bool {
        self.slots.load(Ordering::Relaxed) == 0
    }

    /// The stream `id` may have something to say.
    pub(super) fn stir(self: &Arc<Self>, id: HandleId) {
        let mut state = self.lock();
        if state.ended.is_none() && state.stirred.insert(id) {
            self.pump(state);
        }
    }

    /// The connection is lost.
    pub(crate) fn end(&self, error: &RpcError) {
        let (passed, received, notified) = {
            let mut state = self.lock();
            state.ended.get_or_insert_with(|| error.clone());
            let State { passed, received, notified, .. } = &mut *state;
            (std::mem::take(passed), std::mem::take(received), std::mem::take(notified))
        };
        notified.values().for_each(Task::abort);
        self.wake.notify_one();
        for entry in passed.into_values().chain(received.into_values()) {
            entry.detach(error);
        }
    }

    /// Services and streams that either side passed and that are in use.
    pub(crate) fn handles(&self) -> usize {
        self.lock().handles()
    }

    /// Handles of answers that the peer has read.
    pub(super) fn on_claimed(&self, ids: &[HandleId]) {
        self.lock().unclaimed.retain(|(_, id)| !ids.contains(id));
    }

    fn entry(&self, id: HandleId) -> Option<Arc<dyn Carried>> {
        let state = self.lock();
        state.passed.get(&id).or_else(|| state.received.get(&id)).cloned()
    }

    /// What `id` stands for, if that is a `T`: an end of a stream, or the table of a service.
    pub(super) fn find<T: Any + Send + Sync>(&self, id: HandleId) -> Option<Arc<T>> {
        let entry: Arc<dyn Any + Send + Sync> = self.entry(id)?;
        entry.downcast().ok()
    }

    pub(super) fn forget(self: &Arc<Self>, id: HandleId) {
        let mut state = self.lock();
        let entry = state.passed.remove(&id).or_else(|| state.received.remove(&id));
        self.pump(state);
        drop(entry);
    }

    /// Lets the task that speaks go on; starts it with the first word.
    fn pump(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        let started = std::mem::replace(&mut state.pumping, true);
        drop(state);
        if started {
            self.wake.notify_one();
        } else {
            self.channel.runtime().spawn("session", speak::speak(Arc::clone(self)));
        }
    }
}

impl handle::Carry for Session {
    fn attach(self: Arc<Self>, call: CallId, answer: bool, cargo: &Cargo) -> Result<(), RpcError> {
        Self::attach(&self, call, answer, cargo)
    }

    fn detach(&self, call: CallId, answer: bool, cargo: &Cargo, error: &RpcError) {
        Self::detach(self, call, answer, cargo, error);
    }

    fn import(&self, id: HandleId, end: Arc<dyn Carried>) -> Result<(), &'static str> {
        Self::import(self, id, end)
    }

    fn claim(self: Arc<Self>, ids: Vec<HandleId>) {
        Self::claim(&self, ids);
    }

    fn stir(self: Arc<Self>, id: HandleId) {
        Self::stir(&self, id);
    }
}

/// Room for one notified method to run in.
pub(super) struct Slot(Arc<Session>);

impl Slot {
    /// Lets the method that `call` notified run on.
    pub(super) fn run_on(self, call: CallId, run: impl Future<Output = ()> + Send + 'static) {
        let session = Arc::clone(&self.0);
        let mut state = session.lock();
        if state.ended.is_some() {
            return;
        }
        let task = session.channel.runtime().spawn("notified", async move {
            run.await;
            let done = self.0.lock().notified.remove(&call);
            drop(done);
            drop(self);
        });
        state.notified.insert(call, task);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.slots.fetch_sub(1, Ordering::Relaxed);
        self.0.host.rest();
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({}, {} handles)", self.channel.address(), self.handles())
    }
}

#[cfg(test)]
mod tests;
