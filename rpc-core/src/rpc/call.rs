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

use super::error::{CallError, Code, Failure, Outcome, RpcError};
use super::path::{MethodId, Path};
use super::schema::{self, MethodSchema};
use super::{codec, describe};
use crate::endpoint::Lane;
use crate::runtime::{BoxFuture, Instant, Runtime};

/// Carries single transmissions of calls to one peer.
pub trait Channel: Send + Sync + 'static {
    /// One transmission; it ends at the latest at the request's deadline. Dropping the future cancels the call.
    fn attempt(&self, request: Attempt) -> BoxFuture<Result<Bytes, Failure>>;

    /// The address that the calls go to.
    fn address(&self) -> SocketAddr;

    /// Time and randomness for the calls.
    fn runtime(&self) -> &Runtime;
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

    /// Builds a call of `method` at this path; awaiting it sends it.
    pub fn call<Q: Serialize + ?Sized, R, E>(&self, method: &str, request: &Q) -> Call<R, E> {
        Call {
            channel: Arc::clone(&self.channel),
            method: self.path.method(method),
            name: self.path.name_of(method),
            body: codec::encode(request),
            options: Options::default(),
            schema: None,
            answer: PhantomData,
        }
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
            let unread = match transmit(&*self.channel, self.method, &self.name, body, self.options).await {
                Ok(body) => match codec::decode(&body) {
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
        Box::pin(
            async move { transmit(&*self.channel, self.method, &self.name, self.body, self.options).await },
        )
    }
}

/// Sends a call until it ends: again after *not executed* if that may change, and after *unknown* if the call is
/// idempotent; never past the deadline. The outcome of the last error is the worst over all transmissions.
async fn transmit(
    channel: &dyn Channel,
    method: MethodId,
    name: &str,
    body: Bytes,
    options: Options,
) -> Result<Bytes, Failure> {
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
