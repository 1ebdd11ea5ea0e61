//! What travelled beside the bodies of one connection: the services and streams that each side knows by their ids, and
//! the task that says what they have to say.
//!
//! A session begins with the first handle on a connection and ends with the connection. Reserved methods besides those
//! of references and streams:
//!
//! ```text
//! @handle.claim  [* handle-id]   -> null   ; handles of an answer have been read
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::ops::Bound;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;

use super::call::{Channel, Remote};
use super::codec;
use super::error::{Code, Failure, Never, Outcome, RpcError};
use super::handle::{Cargo, Carried, HandleId};
use super::policy::MethodPolicy;
use super::reference;
use super::registry::{Ctx, Method, Services, Table};
use super::schema::MethodSchema;
use super::stream::{Inlet, Outlet, Push, Window, Word, stopped};
use crate::endpoint::CallId;
use crate::runtime::{BoxFuture, Instant};

/// Handles on one connection that this side passed, and as many that the peer passed. Above it, a call that carries
/// one more is refused with SERVER_BUSY, not executed.
pub const HANDLES_MAX: usize = 1_024;

/// Handles in an answer that were not claimed for so long are dead: the answer was not read.
pub const CLAIM_TIMEOUT: Duration = Duration::from_secs(10);

/// A push, grant or stop that is not answered for so long ends its stream, although the connection lives.
pub const DELIVERY_TIMEOUT: Duration = Duration::from_secs(120);

/// Messages of a session that are under way at once; the others wait.
const MESSAGES_MAX: usize = 64;

/// Ids in one release or claim.
const IDS_MAX: usize = 256;

/// Services and streams on one connection.
pub struct Session {
    channel: Arc<dyn Channel>,
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    passed: BTreeMap<HandleId, Entry>,
    received: BTreeMap<HandleId, Entry>,
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
    ended: Option<RpcError>,
}

impl State {
    fn handles(&self) -> usize {
        self.passed.len() + self.received.len() + self.imports
    }
}

#[derive(Clone)]
enum Entry {
    Service(Arc<Table>),
    Inlet(Arc<Inlet>),
    Outlet(Arc<Outlet>),
}

impl Session {
    /// The session of the one connection behind `channel`.
    pub(crate) fn new(channel: Arc<dyn Channel>) -> Arc<Self> {
        Arc::new(Self { channel, state: Mutex::default(), wake: Notify::new() })
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

    fn attach_one(self: &Arc<Self>, id: HandleId, carried: &Carried, answer: bool) -> Result<(), RpcError> {
        let entry = match carried {
            Carried::Service(table) => Entry::Service(Arc::clone(table)),
            Carried::Sink(inlet) => Entry::Inlet(Arc::clone(inlet)),
            Carried::Source(outlet) => Entry::Outlet(Arc::clone(outlet)),
        };
        {
            let mut state = self.lock();
            if let Some(error) = &state.ended {
                return Err(RpcError { outcome: Outcome::NotExecuted, ..error.clone() });
            }
            if state.passed.len() >= HANDLES_MAX {
                let what = format!("{HANDLES_MAX} services and streams are passed on this connection");
                return Err(RpcError::not_executed(Code::ServerBusy, what));
            }
            state.passed.insert(id, entry);
            if answer {
                let due = self.channel.runtime().now() + CLAIM_TIMEOUT;
                state.unclaimed.push_back((due, id));
            }
            self.pump(state);
        }
        let free = match carried {
            Carried::Service(_) => true,
            Carried::Sink(inlet) => inlet.attach(self, id),
            Carried::Source(outlet) => outlet.attach(self, id),
        };
        if free {
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
            lose(entry, error);
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

    /// The service that this side passed as `id`.
    pub(super) fn service(&self, id: HandleId) -> Option<Arc<Table>> {
        match self.lock().passed.get(&id)? {
            Entry::Service(table) => Some(Arc::clone(table)),
            _ => None,
        }
    }

    /// A service of the peer is held, until it is released.
    pub(super) fn hold(self: &Arc<Self>) {
        let mut state = self.lock();
        state.imports += 1;
        self.pump(state);
    }

    /// The producer for a sink that the peer passed.
    pub(super) fn import_outlet(
        self: &Arc<Self>,
        id: HandleId,
        window: Window,
    ) -> Result<Arc<Outlet>, &'static str> {
        let outlet = Arc::new(Outlet::there(Arc::clone(self), id, window));
        self.import(id, Entry::Outlet(Arc::clone(&outlet)))?;
        Ok(outlet)
    }

    /// The consumer for a source that the peer passed.
    pub(super) fn import_inlet(
        self: &Arc<Self>,
        id: HandleId,
        window: Window,
    ) -> Result<Arc<Inlet>, &'static str> {
        let inlet = Arc::new(Inlet::there(Arc::clone(self), id, window));
        self.import(id, Entry::Inlet(Arc::clone(&inlet)))?;
        self.stir(id);
        Ok(inlet)
    }

    fn import(&self, id: HandleId, entry: Entry) -> Result<(), &'static str> {
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
        state.received.insert(id, entry);
        Ok(())
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
        let (passed, received) = {
            let mut state = self.lock();
            state.ended.get_or_insert_with(|| error.clone());
            (state.stirred, state.releases, state.claims) = Default::default();
            (std::mem::take(&mut state.passed), std::mem::take(&mut state.received))
        };
        self.wake.notify_one();
        for entry in passed.into_values().chain(received.into_values()) {
            lose(Some(entry), error);
        }
    }

    /// Services and streams that either side passed and that are in use.
    pub(crate) fn handles(&self) -> usize {
        self.lock().handles()
    }

    fn entry(&self, id: HandleId) -> Option<Entry> {
        let state = self.lock();
        state.passed.get(&id).or_else(|| state.received.get(&id)).cloned()
    }

    fn forget(self: &Arc<Self>, id: HandleId) {
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
            self.channel.runtime().spawn("session", speak(Arc::clone(self)));
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({}, {} handles)", self.channel.address(), self.handles())
    }
}

/// A handle that the connection does not know any more.
fn lose(entry: Option<Entry>, error: &RpcError) {
    match entry {
        Some(Entry::Inlet(inlet)) => inlet.detach(error),
        Some(Entry::Outlet(outlet)) => outlet.detach(error),
        Some(Entry::Service(_)) | None => {}
    }
}

/// Something to be said to the peer.
enum Message {
    Claim(Vec<HandleId>),
    Release(Vec<HandleId>),
    Grant(HandleId, Window),
    Stop(HandleId),
    Push(HandleId, Push),
}

/// Says what the handles of `session` have to say, until its connection ends.
async fn speak(session: Arc<Session>) {
    let mut answers: FuturesUnordered<BoxFuture<()>> = FuturesUnordered::new();
    let mut kept = false;
    loop {
        let (next_claim, in_use) = {
            let state = session.lock();
            if state.ended.is_some() {
                return;
            }
            (state.unclaimed.front().map(|(due, _)| *due), state.handles() > 0)
        };
        if kept != in_use {
            kept = in_use;
            session.channel.keep(kept);
        }
        while answers.len() < MESSAGES_MAX
            && let Some(message) = session.next_message()
        {
            answers.push(say(&session, message));
        }
        let mut timer = next_claim.map(|due| session.channel.runtime().sleep_until(due));
        let mut woken = pin!(session.wake.notified());
        std::future::poll_fn(|cx| {
            let answered = matches!(answers.poll_next_unpin(cx), Poll::Ready(Some(())));
            let due = timer.as_mut().is_some_and(|timer| timer.as_mut().poll(cx).is_ready());
            if woken.as_mut().poll(cx).is_ready() || answered || due {
                return Poll::Ready(());
            }
            Poll::Pending
        })
        .await;
        session.expire_claims();
    }
}

impl Session {
    fn next_message(&self) -> Option<Message> {
        loop {
            let id = {
                let mut state = self.lock();
                if !state.claims.is_empty() {
                    return Some(Message::Claim(first(&mut state.claims)));
                }
                if !state.releases.is_empty() {
                    return Some(Message::Release(first(&mut state.releases)));
                }
                let next = state.stirred.range((Bound::Excluded(state.spoke), Bound::Unbounded)).next();
                let id = *next.or_else(|| state.stirred.first())?;
                state.stirred.remove(&id);
                state.spoke = id;
                id
            };
            let message = match self.entry(id) {
                Some(Entry::Inlet(inlet)) => inlet.next_word().map(|word| match word {
                    Word::Grant(limit) => Message::Grant(id, limit),
                    Word::Stop => Message::Stop(id),
                }),
                Some(Entry::Outlet(outlet)) => outlet.next_push().map(|push| Message::Push(id, push)),
                Some(Entry::Service(_)) | None => None,
            };
            if message.is_some() {
                return message;
            }
        }
    }

    /// Handles of answers that nobody read are dead.
    fn expire_claims(&self) {
        let now = self.channel.runtime().now();
        let error = RpcError::new(Code::Aborted, Outcome::Unknown, "the answer that carried it was not read");
        loop {
            let expired = {
                let mut state = self.lock();
                let Some((_, id)) = state.unclaimed.front().copied().filter(|(due, _)| *due <= now) else {
                    return;
                };
                state.unclaimed.pop_front();
                state.passed.remove(&id)
            };
            lose(expired, &error);
        }
    }

    fn on_claimed(&self, ids: &[HandleId]) {
        self.lock().unclaimed.retain(|(_, id)| !ids.contains(id));
    }

    fn on_answered(self: &Arc<Self>, id: HandleId, word: Word, result: Result<(), RpcError>) {
        match (self.entry(id), word, result) {
            // A producer that knows nothing of the stream will not produce.
            (Some(Entry::Inlet(inlet)), Word::Grant(_), Err(error)) => {
                inlet.fail(error);
                self.forget(id);
            }
            (Some(Entry::Inlet(_)), Word::Stop, _) => self.forget(id),
            _ => {}
        }
    }

    fn on_pushed(self: &Arc<Self>, id: HandleId, size: u64, result: Result<(), RpcError>) {
        let Some(Entry::Outlet(outlet)) = self.entry(id) else { return };
        if outlet.on_pushed(size, result.map_err(as_stop)) {
            self.forget(id);
        } else {
            self.stir(id);
        }
    }
}

/// Sends a message; the future ends when it was answered.
fn say(session: &Arc<Session>, message: Message) -> BoxFuture<()> {
    let session = Arc::clone(session);
    match message {
        Message::Claim(ids) => {
            let answer = call(&session, CLAIM, &ids);
            Box::pin(async move { drop(answer.await) })
        }
        Message::Release(ids) => {
            let answer = call(&session, RELEASE, &ids);
            Box::pin(async move { drop(answer.await) })
        }
        Message::Grant(id, limit) => {
            let answer = call(&session, GRANT, &(id, limit.items, limit.bytes));
            Box::pin(async move { session.on_answered(id, Word::Grant(limit), answer.await) })
        }
        Message::Stop(id) => {
            let answer = call(&session, STOP, &(id,));
            Box::pin(async move { session.on_answered(id, Word::Stop, answer.await) })
        }
        Message::Push(id, push) => {
            let size = push.items.len() as u64;
            let (last, error) = push.end.map_or((false, None), |error| (true, error));
            let answer = call(&session, PUSH, &(id, push.first, push.count, push.items, last, error));
            Box::pin(async move { session.on_pushed(id, size, answer.await) })
        }
    }
}

fn call(session: &Arc<Session>, method: &str, request: &impl Serialize) -> BoxFuture<Result<(), RpcError>> {
    let remote = Remote::new(Arc::clone(&session.channel));
    let answer = codec::encode(request).map(|body| remote.call_raw(method, body).timeout(DELIVERY_TIMEOUT));
    Box::pin(async move {
        let answer = answer.map_err(|error| RpcError::not_executed(Code::BadRequest, error.to_string()))?;
        match answer.await {
            Ok(_) => Ok(()),
            Err(Failure::Rpc(error)) => Err(error),
            Err(Failure::Method(_)) => {
                Err(RpcError::new(Code::Codec, Outcome::Executed, "not a known answer"))
            }
        }
    })
}

/// A consumer that is not there any more has stopped, whether or not it said so.
fn as_stop(error: RpcError) -> RpcError {
    if matches!(error.code, Code::MethodNotFound | Code::Cancelled) { stopped() } else { error }
}

fn first(ids: &mut Vec<HandleId>) -> Vec<HandleId> {
    let count = ids.len().min(IDS_MAX);
    ids.drain(..count).collect()
}

const CLAIM: &str = "@handle.claim";
const RELEASE: &str = "@ref.release";
const PUSH: &str = "@stream.push";
const GRANT: &str = "@stream.grant";
const STOP: &str = "@stream.stop";

/// The methods by which two sessions speak to each other, for every peer.
pub(crate) fn services() -> Services {
    Services::new()
        .raw(
            reference::CALL,
            Method {
                schema: MethodSchema::of_closure::<(HandleId, u32, Bytes), codec::Value, codec::Value>(false),
                handler: Arc::new(reference::serve_call),
                policy: MethodPolicy::default(),
            },
        )
        .raw(
            CLAIM,
            method(|session, ids: Vec<HandleId>| {
                session.on_claimed(&ids);
                Ok(())
            }),
        )
        .raw(
            RELEASE,
            method(|session, ids: Vec<HandleId>| {
                session.on_claimed(&ids);
                for id in ids {
                    if session.service(id).is_some() {
                        session.forget(id);
                    }
                }
                Ok(())
            }),
        )
        .raw(
            PUSH,
            method(|session, (id, first, count, items, last, error): PushBody| {
                let Some(Entry::Inlet(inlet)) = session.entry(id) else { return Err(no_stream(id)) };
                let push = Push { first, count, items, end: last.then_some(error) };
                let pushed = inlet.push(push);
                if !matches!(pushed, Ok(false)) {
                    session.forget(id);
                }
                pushed.map(drop)
            }),
        )
        .raw(
            GRANT,
            method(|session, (id, items, bytes)| {
                let Some(Entry::Outlet(outlet)) = session.entry(id) else { return Err(no_stream(id)) };
                outlet.grant(Window { items, bytes });
                Ok(())
            }),
        )
        .raw(
            STOP,
            method(|session, (id,)| {
                let Some(Entry::Outlet(outlet)) = session.entry(id) else { return Err(no_stream(id)) };
                outlet.fail(stopped());
                session.forget(id);
                Ok(())
            }),
        )
}

/// A method that does its work on the session at once.
type PushBody = (HandleId, u64, u64, Bytes, bool, Option<RpcError>);

fn method<Q: DeserializeOwned + 'static>(work: fn(&Arc<Session>, Q) -> Result<(), RpcError>) -> Method {
    let handler = move |ctx: Ctx, body: Bytes| -> BoxFuture<Result<Bytes, Failure>> {
        let answer = match (codec::decode(&body), ctx.caller.session()) {
            (Ok(request), Some(session)) => work(&session, request),
            (Ok(_), None) => {
                Err(RpcError::not_executed(Code::ConnectionLost, "no session on this connection"))
            }
            (Err(error), _) => Err(RpcError::not_executed(Code::BadRequest, error.to_string())),
        };
        let answer = answer.map(|()| Bytes::from_static(NULL)).map_err(Failure::from);
        Box::pin(async move { answer })
    };
    Method {
        schema: MethodSchema::of_closure::<Q, (), Never>(false),
        handler: Arc::new(handler),
        policy: MethodPolicy::default(),
    }
}

/// CBOR null.
const NULL: &[u8] = &[0xf6];

fn no_stream(id: HandleId) -> RpcError {
    RpcError::not_executed(Code::MethodNotFound, format!("no stream {id} on this connection"))
}
