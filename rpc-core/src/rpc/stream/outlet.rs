//! What is behind a sink: items that wait to be sent, and the credit for more.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use tokio::sync::Notify;

use super::{Inlet, TRAVELLED, Window, nowhere};
use crate::rpc::error::{Code, Outcome, RpcError};
use crate::rpc::handle::{Carried, Carrier, HandleId, Kind};

/// The producing end of a stream, without the items' type.
pub(crate) struct Outlet {
    window: Window,
    state: Mutex<State>,
    /// Credit came, or the stream is over.
    changed: Notify,
}

struct State {
    to: To,
    /// What carried the consumer is gone: this side has one connection to find it on, or none.
    settled: bool,
    /// Totals that may be added, and that were.
    limit: Window,
    added: Window,
    /// Items that were added and not handed out yet.
    pending: Vec<u8>,
    /// Bytes that are pending, or pushed and not answered: at most a window, whatever the consumer grants.
    held: u64,
    /// Items that were handed out.
    handed_out: u64,
    /// Pushes that are not answered yet.
    pushes: u32,
    end: Option<Option<RpcError>>,
    end_handed_out: bool,
    over: Option<Result<(), RpcError>>,
}

/// Where the items go.
enum To {
    /// The consumer is on this side.
    Here(Weak<Inlet>),
    /// The consumer is in the body of a call.
    Travelling,
    /// The consumer is at a peer.
    There(Carrier, HandleId),
    /// This end itself travelled.
    Gone,
}

/// Items on their way, and with the last ones the end.
#[derive(Clone, Debug)]
pub(crate) struct Push {
    pub(crate) first: u64,
    pub(crate) count: u64,
    pub(crate) items: Bytes,
    pub(crate) end: Option<Option<RpcError>>,
}

/// Pushes of one stream that are under way at once.
const PUSHES_MAX: u32 = 4;

impl Outlet {
    pub(super) fn here(window: Window, inlet: Weak<Inlet>) -> Self {
        Self::new(window, To::Here(inlet), window)
    }

    /// The producer for a sink that the peer passed.
    pub(crate) fn import(carrier: &Carrier, id: HandleId, window: Window) -> Result<Arc<Self>, &'static str> {
        let outlet = Arc::new(Self::there(carrier.clone(), id, window));
        carrier.0.import(id, Arc::<Self>::clone(&outlet))?;
        Ok(outlet)
    }

    /// The producer of a stream that a peer consumes.
    fn there(carrier: Carrier, id: HandleId, window: Window) -> Self {
        let outlet = Self::new(window, To::There(carrier, id), window);
        outlet.lock().settled = true;
        outlet
    }

    /// A producer that nobody consumes.
    pub(super) fn nowhere() -> Arc<Self> {
        let outlet = Self::new(Window::MAX, To::Gone, Window::MAX);
        outlet.lock().over = Some(Err(nowhere()));
        Arc::new(outlet)
    }

    fn new(window: Window, to: To, limit: Window) -> Self {
        let state = State {
            to,
            settled: false,
            limit,
            added: Window { items: 0, bytes: 0 },
            pending: Vec::new(),
            held: 0,
            handed_out: 0,
            pushes: 0,
            end: None,
            end_handed_out: false,
            over: None,
        };
        Self { window, state: Mutex::new(state), changed: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an encoded item, when there is credit.
    pub(super) async fn send(&self, item: &[u8]) -> Result<(), RpcError> {
        let max = self.window.bytes / 2;
        if item.len() as u64 > max {
            let what = format!("an item of {} bytes; half the window is {max}", item.len());
            return Err(RpcError::not_executed(Code::TooLarge, what));
        }
        loop {
            let changed = self.changed.notified();
            if let Some(added) = self.add(item) {
                return added;
            }
            changed.await;
        }
    }

    /// Adds an item; `None` when there is no credit.
    fn add(&self, item: &[u8]) -> Option<Result<(), RpcError>> {
        let mut state = self.lock();
        if let Some(over) = &state.over {
            return Some(Err(over.clone().err().unwrap_or_else(finished)));
        }
        if state.end.is_some() {
            return Some(Err(finished()));
        }
        let added = state.added.plus(1, item.len() as u64);
        let held = state.held + item.len() as u64;
        if !state.limit.holds(added) || held > self.window.bytes {
            return None;
        }
        (state.added, state.held) = (added, held);
        state.pending.extend_from_slice(item);
        self.flush(state);
        Some(Ok(()))
    }

    /// Ends the stream, if nothing has ended it yet.
    pub(super) fn end(&self, error: Option<RpcError>) {
        let mut state = self.lock();
        if state.end.is_none() && state.over.is_none() {
            state.end = Some(error);
            self.flush(state);
        }
    }

    /// Completes when the stream is over: `Ok` if the consumer's side has everything.
    pub(super) async fn over(&self) -> Result<(), RpcError> {
        loop {
            let changed = self.changed.notified();
            if let Some(over) = self.lock().over.clone() {
                return over;
            }
            changed.await;
        }
    }

    /// This end travels: gives the consumer that stays.
    pub(super) fn travel(&self) -> Result<Arc<Inlet>, &'static str> {
        let mut state = self.lock();
        let fresh = state.added.items == 0 && state.end.is_none() && state.over.is_none();
        let To::Here(inlet) = &state.to else { return Err(TRAVELLED) };
        let inlet = inlet.upgrade().filter(|_| fresh).ok_or(TRAVELLED)?;
        state.to = To::Gone;
        drop(state);
        inlet.await_producer();
        Ok(inlet)
    }

    /// The consumer travels: nothing can be added before it says so. False if something was handed out.
    pub(super) fn await_consumer(&self) -> bool {
        let mut state = self.lock();
        if state.handed_out > 0 || state.over.is_some() {
            return false;
        }
        state.to = To::Travelling;
        state.limit = Window { items: 0, bytes: 0 };
        true
    }

    /// The consumer granted these totals.
    pub(crate) fn grant(&self, limit: Window) {
        let mut state = self.lock();
        state.limit.items = state.limit.items.max(limit.items);
        state.limit.bytes = state.limit.bytes.max(limit.bytes);
        drop(state);
        self.changed.notify_waiters();
    }

    /// The stream is over, with an error.
    pub(crate) fn fail(&self, error: RpcError) {
        let mut state = self.lock();
        state.over.get_or_insert(Err(error));
        state.pending = Vec::new();
        let to = std::mem::replace(&mut state.to, To::Gone);
        drop(state);
        drop(to);
        self.changed.notify_waiters();
    }

    /// What is to be pushed now.
    pub(crate) fn next_push(&self) -> Option<Push> {
        self.lock().next_push()
    }

    /// A push of so many bytes was answered. True when the stream is over.
    pub(crate) fn on_pushed(&self, size: u64, result: Result<(), RpcError>) -> bool {
        let mut state = self.lock();
        state.pushes -= 1;
        state.held = state.held.saturating_sub(size);
        match result {
            Err(error) => {
                drop(state);
                self.fail(error);
                return true;
            }
            Ok(()) if state.end_handed_out && state.pushes == 0 => {
                state.over.get_or_insert(Ok(()));
            }
            Ok(()) => {}
        }
        let over = state.over.is_some();
        drop(state);
        self.changed.notify_waiters();
        over
    }

    /// Lets what is pending go.
    fn flush(&self, mut state: MutexGuard<'_, State>) {
        match &state.to {
            To::There(carrier, id) => {
                let (carrier, id) = (carrier.clone(), *id);
                drop(state);
                carrier.0.stir(id);
            }
            To::Here(inlet) => {
                let (inlet, push) = (inlet.upgrade(), state.next_push());
                drop(state);
                if let (Some(inlet), Some(push)) = (inlet, push) {
                    let size = push.items.len() as u64;
                    let pushed = inlet.push(push);
                    self.on_pushed(size, pushed.map(drop));
                }
            }
            To::Travelling | To::Gone => {}
        }
    }
}

impl Carried for Outlet {
    fn kind(&self) -> Kind {
        Kind::Source(self.window)
    }

    fn attach(&self, carrier: &Carrier, id: HandleId) -> bool {
        let mut state = self.lock();
        let free = matches!(state.to, To::Travelling);
        if free {
            state.to = To::There(carrier.clone(), id);
        }
        free
    }

    fn detach(&self, error: &RpcError) {
        let mut state = self.lock();
        if state.handed_out == 0 && !state.end_handed_out && !state.settled && state.over.is_none() {
            state.to = To::Travelling;
            state.limit = Window { items: 0, bytes: 0 };
        } else {
            drop(state);
            self.fail(error.clone());
        }
    }

    fn strand(&self) {
        let mut state = self.lock();
        state.settled = true;
        if matches!(state.to, To::Travelling) {
            drop(state);
            self.fail(stranded());
        }
    }
}

impl fmt::Debug for Outlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outlet").field("window", &self.window).finish_non_exhaustive()
    }
}

impl State {
    fn next_push(&mut self) -> Option<Push> {
        let end = if self.end_handed_out { None } else { self.end.clone() };
        if self.over.is_some() || self.pushes >= PUSHES_MAX || (self.pending.is_empty() && end.is_none()) {
            return None;
        }
        let first = self.handed_out;
        self.handed_out = self.added.items;
        self.pushes += 1;
        self.end_handed_out |= end.is_some();
        let items = std::mem::take(&mut self.pending).into();
        Some(Push { first, count: self.handed_out - first, items, end })
    }
}

/// Why nothing can be added after the end.
fn finished() -> RpcError {
    RpcError::not_executed(Code::Cancelled, "the stream has ended")
}

/// Why an end whose other end never arrived does nothing.
pub(super) fn stranded() -> RpcError {
    let what = "the call that carried the other end of the stream did not succeed";
    RpcError::new(Code::Aborted, Outcome::Unknown, what)
}
