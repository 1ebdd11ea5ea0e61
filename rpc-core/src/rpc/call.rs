//! A call from the caller's side: built, sent, retried where that is safe, and ended in exactly one outcome.

use std::fmt;
use std::future::IntoFuture;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::{CallError, Code, Failure, MethodError, Outcome, RpcError};
use super::handle::{self, Arrival, Cargo};
use super::path::{MethodId, Path};
use super::schema::{self, MethodSchema};
use super::session::Session;
use super::{codec, describe};
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

    /// What travels beside the bodies of `connection`, or, for a channel that has only one connection, of that one.
    /// `None` where nothing can: services and streams in a body then lead nowhere.
    fn session(&self, _connection: Option<ConnId>) -> Option<Arc<Session>> {
        None
    }

    /// Says whether the connection of a channel that has only one is to be kept alive also while no call is open.
    fn keep(&self, _keep: bool) {}
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
        Call {
            channel: Arc::clone(&self.channel),
            method: self.path.method(method),
            name: self.path.name_of(method),
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

    /// Builds a call on encoded bodies; awaiting it sends it.
    pub fn call_raw(&self, method: &str, body: Bytes) -> RawCall {
        RawCall {
            channel: Arc::clone(&self.channel),
            method: self.path.method(method),
            name: self.path.name_of(method),
            body,
            options: Options::default(),
        }
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Remote({} at {:?})", self.channel.address(), self.path)
    }
}

/// How long a call may take unless told otherwise.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
/// The pause before the first retry; it doubles with each one, half of it random.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
/// The longest pause before a retry.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug)]
struct Options {
    timeout: Duration,
    deadline: Option<Instant>,
    lane: Lane,
    idempotent: bool,
    retry: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { timeout: TIMEOUT_DEFAULT, deadline: None, lane: Lane::Normal, idempotent: false, retry: true }
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
    name: String,
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
        Box::pin(async move {
            let body = self.body.map_err(|error| {
                RpcError::not_executed(
                    Code::BadRequest,
                    format!("request of {} not encoded: {error}", self.name),
                )
            })?;
            let body = (body, self.cargo);
            let unread = match transmit(&*self.channel, self.method, &self.name, body, self.options).await {
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
                        Some(ours) => schema::explain(error, &self.name, ours, theirs.as_deref()).into(),
                        None => error.into(),
                    });
                }
            };
            let (what, error) = unread;
            let message = format!("{what} of {} not read: {error}", self.name);
            let error = RpcError::new(Code::Codec, Outcome::Executed, message);
            let Some(ours) = self.schema else { return Err(error.into()) };
            let theirs = describe::schema_at(&self.channel, self.method).await;
            Err(schema::explain(error, &self.name, ours, theirs.as_ref()).into())
        })
    }
}

/// A call on encoded bodies that has not been sent yet: await it.
#[must_use = "a call is sent when it is awaited"]
pub struct RawCall {
    channel: Arc<dyn Channel>,
    method: MethodId,
    name: String,
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
        Box::pin(async move {
            let body = (self.body, Cargo::default());
            let reply = transmit(&*self.channel, self.method, &self.name, body, self.options).await?;
            Ok(reply.body)
        })
    }
}

/// Reads a result, with the handles in it.
fn read<R: DeserializeOwned>(channel: &Arc<dyn Channel>, reply: &Reply) -> Result<R, codec::CodecError> {
    let Some((connection, call)) = reply.came_by else { return codec::decode(&reply.body) };
    let arrival = Arrival { channel: Arc::clone(channel), connection: Some(connection), call, answer: true };
    handle::bind(arrival, || codec::decode(&reply.body))
}

/// Sends a call until it ends: again after *not executed* if that may change, and after *unknown* if the call is
/// idempotent; never past the deadline. The outcome of the last error is the worst over all transmissions.
async fn transmit(
    channel: &dyn Channel,
    method: MethodId,
    name: &str,
    (body, cargo): (Bytes, Cargo),
    options: Options,
) -> Result<Reply, Failure> {
    let runtime = channel.runtime();
    let deadline = options.deadline.unwrap_or_else(|| runtime.now() + options.timeout);
    let name: Arc<str> = name.into();
    let mut worst = Outcome::NotExecuted;
    let mut backoff = BACKOFF_MIN;
    loop {
        let attempt = Attempt {
            method,
            name: Arc::clone(&name),
            lane: options.lane,
            deadline,
            idempotent: options.idempotent,
            body: body.clone(),
            cargo: cargo.clone(),
        };
        let mut error = match channel.attempt(attempt).await {
            Err(Failure::Rpc(error)) => error,
            settled => return settled,
        };
        let safe = options.idempotent || error.outcome == Outcome::NotExecuted;
        worst = worst.max(error.outcome);
        error.outcome = worst;
        let jitter = runtime.random_u64() % 1_000;
        let pause = error.retry_after.unwrap_or(backoff / 2 + backoff / 2 * jitter as u32 / 1_000);
        if !options.retry || !safe || !error.code.is_transient() || runtime.now() + pause >= deadline {
            return Err(error.into());
        }
        runtime.sleep(pause).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}
