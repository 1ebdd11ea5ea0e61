//! A call from the caller's side: built, sent, retried where that is safe, and ended in exactly one outcome.

use std::fmt;
use std::future::{Future, IntoFuture, poll_fn};
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::batch::Batch;
use super::error::{CallError, Code, Failure, MethodError, Origin, Outcome, RpcError};
use super::handle::{self, Arrival, Cargo};
use super::interceptor::{Answer, Interceptors, NextAttempt, NextCall};
use super::meta::{HOPS_MAX, IdempotencyKey, Meta, Trace};
use super::metrics::CallCounters;
use super::path::{MethodId, Path};
use super::policy::Policy;
use super::retry::{Budget, RetryPolicy};
use super::schema::MethodSchema;
use super::scope::Scope;
use super::session::Session;
use super::{codec, describe, notify, observe};
use crate::endpoint::{CallId, ConnId, Lane};
use crate::runtime::{BoxFuture, Instant, Runtime};

/// Carries single transmissions of calls to one peer.
pub trait Channel: Send + Sync + 'static {
    /// One transmission; it ends at the latest at the request's deadline. Dropping the future cancels the call.
    fn attempt(&self, request: Attempt) -> BoxFuture<Result<Reply, Failure>>;

    /// The address that the calls go to.
    fn address(&self) -> SocketAddr;

    /// Time and randomness for the calls.
    fn runtime(&self) -> &Runtime;

    /// What is done with all calls; the defaults if nothing is given.
    fn policy(&self) -> Option<&Arc<Policy>> {
        None
    }

    /// The retries that the remote is still good for; without limit if nothing is given.
    fn budget(&self) -> Option<&Budget> {
        None
    }

    /// What travels beside the bodies of `connection`, or, for a channel that has only one connection, of that one.
    /// `None` where nothing can: services and streams in a body then lead nowhere.
    fn session(&self, _connection: Option<ConnId>) -> Option<Arc<Session>> {
        None
    }
}

/// The answer to a transmission.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The encoded result.
    pub body: Bytes,
    /// The connection and the call by which it came, where there is one.
    pub came_by: Option<(ConnId, CallId)>,
}

impl From<Bytes> for Reply {
    /// An answer without handles.
    fn from(body: Bytes) -> Self {
        Self { body, came_by: None }
    }
}

/// One transmission of a call.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The method.
    pub method: MethodId,
    /// Its full name where the caller has one, for errors.
    pub name: Arc<str>,
    /// Before what it is sent.
    pub lane: Lane,
    /// When the caller stops waiting.
    pub deadline: Instant,
    /// Whether a repeated execution changes nothing.
    pub idempotent: bool,
    /// What travels beside the body, if anything does.
    pub meta: Option<Arc<Meta>>,
    /// Whether the body is compressed where the peer reads that; unless set, as the channel does.
    pub compress: Option<bool>,
    /// The encoded request.
    pub body: Bytes,
    /// What the handles in it stand for.
    pub cargo: Cargo,
}

/// A peer whose services can be called, at a path. Cheap to clone; connects when it is first used.
#[derive(Clone)]
pub struct Remote {
    channel: Arc<dyn Channel>,
    path: Path,
}

impl Remote {
    /// The root path of the peer behind `channel`.
    pub fn new(channel: Arc<dyn Channel>) -> Self {
        Self { channel, path: Path::root() }
    }

    /// The services below `name`.
    #[must_use]
    pub fn at(&self, name: &str) -> Self {
        Self { channel: Arc::clone(&self.channel), path: self.path.join(name) }
    }

    /// The address that the calls go to.
    pub fn address(&self) -> SocketAddr {
        self.channel.address()
    }

    /// What travels beside the bodies of the one connection behind this remote.
    pub(crate) fn session(&self) -> Option<Arc<Session>> {
        self.channel.session(None)
    }

    /// By what a request of the peer behind this remote came.
    pub(crate) fn arrival(&self, call: CallId) -> Arrival {
        Arrival { channel: Arc::clone(&self.channel), connection: None, call, answer: false }
    }

    /// Builds a call of `method` at this path; awaiting it sends it.
    pub fn call<Q: Serialize + ?Sized, R, E>(&self, method: &str, request: &Q) -> Call<R, E> {
        let (body, cargo) = handle::collect(|| codec::encode(request));
        let (method, name) = self.path.resolve(method);
        Call {
            channel: Arc::clone(&self.channel),
            method,
            name,
            body,
            cargo,
            options: Options::default(),
            schema: None,
            answer: PhantomData,
        }
    }

    /// Builds a call without types, as a script makes it; awaiting it sends it.
    ///
    /// ```no_run
    /// # async fn script(remote: rpc_core::rpc::Remote) -> Result<(), Box<dyn std::error::Error>> {
    /// use rpc_core::rpc::codec::Value;
    ///
    /// let sum = remote.call_value("calc.add", &Value::Array(vec![2.into(), 3.into()])).await?;
    /// assert_eq!(sum, Value::from(5));
    /// # Ok(())
    /// # }
    /// ```
    pub fn call_value(&self, method: &str, request: &codec::Value) -> Call<codec::Value, MethodError> {
        self.call(method, request)
    }

    /// A batch, to which calls are added, of this remote or of others.
    pub fn batch(&self) -> Batch {
        Batch::new()
    }

    /// Builds a call on encoded bodies; awaiting it sends it.
    pub fn call_raw(&self, method: &str, body: Bytes) -> RawCall {
        let (method, name) = self.path.resolve(method);
        RawCall { channel: Arc::clone(&self.channel), method, name, body, options: Options::default() }
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Remote({} at {:?})", self.channel.address(), self.path)
    }
}

/// How long a call may take unless told otherwise.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
struct Options {
    timeout: Duration,
    deadline: Option<Instant>,
    lane: Lane,
    idempotent: bool,
    retry: bool,
    compress: Option<bool>,
    detached: bool,
    meta: Option<Box<Meta>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timeout: TIMEOUT_DEFAULT,
            deadline: None,
            lane: Lane::Normal,
            idempotent: false,
            retry: true,
            compress: None,
            detached: false,
            meta: None,
        }
    }
}

impl Options {
    fn meta(&mut self) -> &mut Meta {
        self.meta.get_or_insert_default()
    }

    /// The scope that a call is made in; called where the call is, not where it is polled.
    fn scope(&self) -> Option<Scope> {
        if self.detached { None } else { Scope::current() }
    }
}

macro_rules! options {
    () => {
        /// How long the call may take, retries included; [`TIMEOUT_DEFAULT`] unless set.
        pub fn timeout(mut self, timeout: Duration) -> Self {
            self.options.timeout = timeout;
            self
        }

        /// When the call ends at the latest; overrides the timeout.
        pub fn deadline(mut self, deadline: Instant) -> Self {
            self.options.deadline = Some(deadline);
            self
        }

        /// Before what the call is sent.
        pub fn lane(mut self, lane: Lane) -> Self {
            self.options.lane = lane;
            self
        }

        /// Says that a repeated execution changes nothing: the call is then retried after an unknown outcome too.
        pub fn idempotent(mut self, idempotent: bool) -> Self {
            self.options.idempotent = idempotent;
            self
        }

        /// Names the call for the table of answers that the method keeps: it is then retried after an unknown outcome
        /// too, and executed once. `client` is who calls, for longer than this process lives; `sequence` which of its
        /// calls. A method that keeps no such table refuses the call: BAD_REQUEST, not executed.
        pub fn idempotency_key(mut self, client: u128, sequence: u64) -> Self {
            self.options.meta().key = Some(IdempotencyKey { client, sequence });
            self
        }

        /// Traces the call and all that follow from it, under `id`. In a handler a call carries on the trace of the
        /// call that is served, if there is one, without being told.
        pub fn trace(mut self, id: u128) -> Self {
            self.options.meta().trace = Some(Trace { id, ..Trace::default() });
            self
        }

        /// Sends `value` beside the body, under a key of the application's own, from
        /// [`EXTRA_KEY_MIN`](super::meta::EXTRA_KEY_MIN) on; all metadata together at most 1 KiB.
        pub fn extra(mut self, key: u64, value: Bytes) -> Self {
            self.options.meta().extra.insert(key, value);
            self
        }

        /// Whether the request is compressed, if the peer reads that and it saves a tenth; not worth it where the body
        /// is opaque already. Unless set, as the peer that calls was told.
        pub fn compress(mut self, compress: bool) -> Self {
            self.options.compress = Some(compress);
            self
        }

        /// Leaves out the scope of the handler that makes this call: its deadline, its trace, its end.
        pub fn detached(mut self) -> Self {
            self.options.detached = true;
            self
        }

        /// Leaves every error to the caller: one transmission only.
        pub fn once(mut self) -> Self {
            self.options.retry = false;
            self
        }
    };
}

/// A call that has not been sent yet: await it.
#[must_use = "a call is sent when it is awaited"]
pub struct Call<R, E> {
    channel: Arc<dyn Channel>,
    method: MethodId,
    name: Arc<str>,
    body: Result<Bytes, codec::CodecError>,
    cargo: Cargo,
    options: Options,
    /// What this side was built with, where a macro wrote the call.
    schema: Option<&'static MethodSchema>,
    answer: PhantomData<fn() -> (R, E)>,
}

impl<R, E> Call<R, E> {
    options!();

    /// Says what this side was built with: a body that one of the sides cannot read is then a
    /// [`Code::SchemaMismatch`] if the peer's method is another one. Costs nothing where all is well.
    pub fn schema(mut self, schema: &'static MethodSchema) -> Self {
        self.schema = Some(schema);
        self
    }

    /// Leaves an unreadable body unexplained: for the call that asks for the explanation.
    pub(super) fn without_schema(mut self) -> Self {
        self.schema = None;
        self
    }
}

impl<R: DeserializeOwned + Send + 'static, E: DeserializeOwned + Send + 'static> IntoFuture for Call<R, E> {
    type Output = Result<R, CallError<E>>;
    type IntoFuture = BoxFuture<Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let scope = self.options.scope();
        Box::pin(async move {
            let body = self.body.map_err(|error| {
                RpcError::not_executed(
                    Code::BadRequest,
                    format!("request of {} not encoded: {error}", self.name),
                )
            })?;
            let (channel, name) = (Arc::clone(&self.channel), Arc::clone(&self.name));
            let unread =
                match transmit(channel, self.method, name, (body, self.cargo), self.options, scope).await {
                    Ok(reply) => match read(&self.channel, &reply) {
                        Ok(result) => return Ok(result),
                        Err(error) => ("result", error),
                    },
                    Err(Failure::Method(body)) => match codec::decode(&body) {
                        Ok(error) => return Err(CallError::Method(error)),
                        Err(error) => ("error", error),
                    },
                    Err(Failure::Rpc(error)) => {
                        let theirs = error.schema.clone();
                        return Err(match self.schema {
                            Some(ours) => error.explained(&self.name, ours, theirs.as_deref()).into(),
                            None => error.into(),
                        });
                    }
                };
            let (what, error) = unread;
            let message = format!("{what} of {} not read: {error}", self.name);
            let error = RpcError::new(Code::Codec, Outcome::Executed, message);
            let Some(ours) = self.schema else { return Err(error.into()) };
            // Rare and large: not a part of what each call allocates.
            let theirs = Box::pin(describe::schema_at(&self.channel, self.method)).await;
            Err(error.explained(&self.name, ours, theirs.as_ref()).into())
        })
    }
}

impl<R: 'static, E: 'static> Call<R, E> {
    /// Asks the peer to start the method and to keep its answer to itself. `Ok` says that it was started, nothing of
    /// what became of it; at most once, as every call. The options of the call apply to the start: a timeout does not
    /// stop the method.
    ///
    /// # Errors
    /// Those of a call up to the start of its method, with an outcome that says whether it may have started.
    pub async fn notify(self) -> Result<(), RpcError> {
        let refused = |error: codec::CodecError| {
            RpcError::not_executed(Code::BadRequest, format!("request of {} not encoded: {error}", self.name))
        };
        let body = self.body.map_err(refused)?;
        let body = (notify::wrap(self.method, &body).map_err(refused)?, self.cargo);
        let (notify, scope) = (MethodId::of(notify::NOTIFY), self.options.scope());
        match transmit(self.channel, notify, self.name, body, self.options, scope).await {
            Ok(_) => Ok(()),
            Err(Failure::Rpc(error)) => Err(error),
            Err(Failure::Method(_)) => {
                Err(RpcError::new(Code::Codec, Outcome::Executed, "a notification has no error of its own"))
            }
        }
    }

    /// Sends a notification and forgets about it: one transmission, in a task of its own. It may get lost: with the
    /// connection, at the call's timeout, and when as many calls are open as either side allows.
    pub fn send(self) {
        let runtime = self.channel.runtime().clone();
        let name = self.name.clone();
        runtime.spawn("notify", async move {
            if let Err(error) = self.once().notify().await {
                tracing::debug!(method = &*name, %error, "notification not delivered");
            }
        });
    }
}

/// A call on encoded bodies that has not been sent yet: await it.
#[must_use = "a call is sent when it is awaited"]
pub struct RawCall {
    channel: Arc<dyn Channel>,
    method: MethodId,
    name: Arc<str>,
    body: Bytes,
    options: Options,
}

impl RawCall {
    options!();
}

impl IntoFuture for RawCall {
    type Output = Result<Bytes, Failure>;
    type IntoFuture = BoxFuture<Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let scope = self.options.scope();
        Box::pin(async move {
            let body = (self.body, Cargo::default());
            let reply = transmit(self.channel, self.method, self.name, body, self.options, scope).await?;
            Ok(reply.body)
        })
    }
}

/// Reads a result, with the handles in it.
fn read<R: DeserializeOwned>(channel: &Arc<dyn Channel>, reply: &Reply) -> Result<R, codec::CodecError> {
    let Some((connection, call)) = reply.came_by else { return codec::decode(&reply.body) };
    let arrival =
        || Arrival { channel: Arc::clone(channel), connection: Some(connection), call, answer: true };
    handle::bind(arrival, || codec::decode(&reply.body))
}

/// Makes a call within the scope that it was made in.
async fn transmit(
    channel: Arc<dyn Channel>,
    method: MethodId,
    name: Arc<str>,
    (body, cargo): (Bytes, Cargo),
    options: Options,
    scope: Option<Scope>,
) -> Answer {
    let mut deadline = options.deadline.unwrap_or_else(|| channel.runtime().now() + options.timeout);
    let mut meta = options.meta;
    if let Some(scope) = &scope {
        deadline = deadline.min(scope.deadline());
        carry_on(&mut meta, scope.trace())?;
    }
    if let Some(trace) = meta.as_mut().and_then(|meta| meta.trace.as_mut()) {
        trace.span = channel.runtime().random_u64();
    }
    let keyed = meta.as_ref().is_some_and(|meta| meta.key.is_some());
    let request = Attempt {
        method,
        name,
        lane: options.lane,
        deadline,
        idempotent: options.idempotent || keyed,
        meta: meta.map(Arc::from),
        compress: options.compress,
        body,
        cargo,
    };
    let watched = observe::calling(channel.runtime(), &request);
    let answer = match &scope {
        None if chain_of(&*channel).is_none() => repeat(Arc::clone(&channel), request, options.retry).await,
        None => call(Arc::clone(&channel), request, options.retry).await,
        Some(scope) => unless_stopped(call(Arc::clone(&channel), request, options.retry), scope).await,
    };
    if let Some(watched) = watched {
        watched.ended(channel.runtime(), channel.address(), &answer);
    }
    answer
}

/// Puts the trace of the call that is served into the metadata of one that its handler makes.
fn carry_on(meta: &mut Option<Box<Meta>>, trace: Option<&Trace>) -> Result<(), RpcError> {
    let Some(trace) = trace else { return Ok(()) };
    if trace.hops.len() > HOPS_MAX {
        let message = format!("a traced call was called on {HOPS_MAX} times: it runs in a circle");
        return Err(RpcError::not_executed(Code::BadRequest, message));
    }
    meta.get_or_insert_default().trace.get_or_insert_with(|| trace.clone());
    Ok(())
}

/// Gives a call up when the handler that made it is stopped, wherever the call is polled.
async fn unless_stopped(mut call: BoxFuture<Answer>, scope: &Scope) -> Answer {
    let mut stopped = pin!(scope.stopped());
    poll_fn(|cx| {
        if let Poll::Ready(answer) = call.as_mut().poll(cx) {
            return Poll::Ready(answer);
        }
        stopped.as_mut().poll(cx).map(|()| {
            let message = "the call that this one was made for was given up";
            Err(RpcError::new(Code::Cancelled, Outcome::Unknown, message).into())
        })
    })
    .await
}

/// Makes a call, through the interceptors if there are any.
fn call(channel: Arc<dyn Channel>, request: Attempt, retry: bool) -> BoxFuture<Answer> {
    match chain_of(&*channel).cloned() {
        Some(chain) => NextCall { chain, at: 0, channel, retry }.run(request),
        None => Box::pin(repeat(channel, request, retry)),
    }
}

/// The interceptors of a channel, if there are any.
fn chain_of(channel: &dyn Channel) -> Option<&Interceptors> {
    channel.policy().map(|policy| &policy.interceptors).filter(|chain| !chain.is_empty())
}

/// Transmits a call until it ends: again after *not executed* if that may change, and after *unknown* if the call is
/// idempotent; never past the deadline, and not more often than the remote's budget allows. The outcome of the last
/// error is the worst over all transmissions.
pub(super) async fn repeat(channel: Arc<dyn Channel>, request: Attempt, retry: bool) -> Answer {
    if let Some(budget) = channel.budget() {
        budget.on_call();
    }
    let mut worst = Outcome::NotExecuted;
    let mut retries = 0;
    loop {
        let mut error = match attempt(&channel, request.clone()).await {
            Err(Failure::Rpc(error)) => error,
            settled => return settled,
        };
        let safe = request.idempotent || error.outcome == Outcome::NotExecuted;
        worst = worst.max(error.outcome);
        error.outcome = worst;
        let pause = if retry && safe && error.code.is_transient() {
            next_try(&*channel, &request, retries, &error)
        } else {
            None
        };
        let Some(pause) = pause else {
            let origin = || Origin { address: channel.address(), method: request.name.to_string() };
            error.origin.get_or_insert_with(|| Box::new(origin()));
            return Err(error.into());
        };
        channel.runtime().sleep(pause).await;
        retries += 1;
    }
}

/// The pause before the next try of a call; nothing if there is none.
fn next_try(channel: &dyn Channel, request: &Attempt, retries: u32, error: &RpcError) -> Option<Duration> {
    let runtime = channel.runtime();
    let counters = channel.policy().map(|policy| &policy.counters);
    let count = |pick: fn(&CallCounters) -> &AtomicU64| {
        if let Some(counters) = counters {
            pick(counters).fetch_add(1, Ordering::Relaxed);
        }
    };
    let now = runtime.now();
    let pause = channel
        .policy()
        .map_or_else(RetryPolicy::default, |policy| policy.retries)
        .pause(retries, error, runtime);
    if now + pause >= request.deadline {
        count(|counters| &counters.retries_past_deadline);
        return None;
    }
    if !channel.budget().is_none_or(|budget| budget.take(now)) {
        count(|counters| &counters.retries_over_budget);
        return None;
    }
    count(|counters| &counters.retries);
    Some(pause)
}

fn attempt(channel: &Arc<dyn Channel>, request: Attempt) -> BoxFuture<Answer> {
    match chain_of(&**channel).cloned() {
        Some(chain) => NextAttempt { chain, at: 0, channel: Arc::clone(channel) }.run(request),
        None => channel.attempt(request),
    }
}
