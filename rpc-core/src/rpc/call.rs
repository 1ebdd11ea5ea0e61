//! A call from the caller's side: what is called, with which options, and what its answer is read as.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::batch::Batch;
use super::channel::{Channel, Reply};
use super::error::{CallError, Code, Failure, MethodError, Outcome, RpcError};
pub use super::exchange::TIMEOUT_DEFAULT;
use super::exchange::{Exchange, Options, Question};
use super::handle::{self, Arrival, Cargo, Carrier};
use super::meta::{IdempotencyKey, Trace};
use super::path::{MethodId, Path};
use super::schema::MethodSchema;
use super::{codec, envelope, explain, notify};
use crate::endpoint::{CallId, Lane};
use crate::runtime::{BoxFuture, Instant};

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
    pub(crate) fn carrier(&self) -> Option<Carrier> {
        self.channel.carrier(None)
    }

    /// By what a request of the peer behind this remote came.
    pub(crate) fn arrival(&self, call: CallId) -> Arrival {
        Arrival { carrier: self.carrier(), call, answer: false }
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
}

impl<R: DeserializeOwned + Send + 'static, E: DeserializeOwned + Send + 'static> IntoFuture for Call<R, E> {
    type Output = Result<R, CallError<E>>;
    type IntoFuture = Calling<R, E>;

    fn into_future(self) -> Calling<R, E> {
        let Self { channel, method, name, body, cargo, options, schema, .. } = self;
        let stage = match body {
            Ok(body) => {
                let scope = options.scope();
                let question = Question { method, name: Arc::clone(&name), body, cargo };
                Stage::Asking(Exchange::new(channel, question, options, scope))
            }
            Err(error) => Stage::Refused(Some(not_encoded(&name, &error))),
        };
        Calling { stage, method, name, schema, answer: PhantomData }
    }
}

/// A call that is awaited; sent when it is first polled.
pub struct Calling<R, E> {
    stage: Stage<R, E>,
    method: MethodId,
    name: Arc<str>,
    schema: Option<&'static MethodSchema>,
    answer: PhantomData<fn() -> (R, E)>,
}

enum Stage<R, E> {
    /// The request cannot be encoded.
    Refused(Option<RpcError>),
    /// On its way.
    Asking(Exchange),
    /// The answer cannot be read; the peer is asked why. Rare and large: not a part of what each call allocates.
    Explaining(BoxFuture<Result<R, CallError<E>>>),
}

impl<R: DeserializeOwned + Send + 'static, E: DeserializeOwned + Send + 'static> Future for Calling<R, E> {
    type Output = Result<R, CallError<E>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let (channel, answer) = match &mut this.stage {
            Stage::Refused(error) => {
                return error.take().map_or(Poll::Pending, |error| Poll::Ready(Err(error.into())));
            }
            Stage::Asking(exchange) => {
                let answer = ready!(Pin::new(&mut *exchange).poll(cx));
                (exchange.channel(), answer)
            }
            Stage::Explaining(explained) => return explained.as_mut().poll(cx),
        };
        let (what, error) = match answer {
            Ok(reply) => match read(channel, &reply) {
                Ok(result) => return Poll::Ready(Ok(result)),
                Err(error) => ("result", error),
            },
            Err(Failure::Method(body)) => match codec::decode(&body) {
                Ok(error) => return Poll::Ready(Err(CallError::Method(error))),
                Err(error) => ("error", error),
            },
            Err(Failure::Rpc(error)) => {
                let theirs = error.schema.clone();
                return Poll::Ready(Err(match this.schema {
                    Some(ours) => error.explained(&this.name, ours, theirs.as_deref()).into(),
                    None => error.into(),
                }));
            }
        };
        let message = format!("{what} of {} not read: {error}", this.name);
        let error = RpcError::new(Code::Codec, Outcome::Executed, message);
        let Some(ours) = this.schema else { return Poll::Ready(Err(error.into())) };
        let (channel, method, name) = (Arc::clone(channel), this.method, Arc::clone(&this.name));
        let mut explained: BoxFuture<_> = Box::pin(async move {
            let theirs = explain::schema_at(&channel, method).await;
            Err(error.explained(&name, ours, theirs.as_ref()).into())
        });
        let polled = explained.as_mut().poll(cx);
        this.stage = Stage::Explaining(explained);
        polled
    }
}

impl<R, E> fmt::Debug for Calling<R, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Calling({})", self.name)
    }
}

fn not_encoded(name: &str, error: &codec::CodecError) -> RpcError {
    RpcError::not_executed(Code::BadRequest, format!("request of {name} not encoded: {error}"))
}

impl<R: 'static, E: 'static> Call<R, E> {
    /// Asks the peer to start the method and to keep its answer to itself. `Ok` says that it was started, nothing of
    /// what became of it; at most once, as every call. The options of the call apply to the start: a timeout does not
    /// stop the method.
    ///
    /// # Errors
    /// Those of a call up to the start of its method, with an outcome that says whether it may have started.
    pub async fn notify(self) -> Result<(), RpcError> {
        let refused = |error: codec::CodecError| not_encoded(&self.name, &error);
        let body = self.body.map_err(refused)?;
        let body = notify::wrap(self.method, &body).map_err(refused)?;
        let (method, scope) = (MethodId::of(notify::NOTIFY), self.options.scope());
        let question = Question { method, name: self.name, body, cargo: self.cargo };
        match Exchange::new(self.channel, question, self.options, scope).await {
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
        let question =
            Question { method: self.method, name: self.name, body: self.body, cargo: Cargo::default() };
        let exchange = Exchange::new(self.channel, question, self.options, scope);
        Box::pin(async move { Ok(envelope::to_be_kept(exchange.await?.body)) })
    }
}

/// Reads a result, with the handles in it.
fn read<R: DeserializeOwned + 'static>(
    channel: &Arc<dyn Channel>,
    reply: &Reply,
) -> Result<R, codec::CodecError> {
    let Some((connection, call)) = reply.came_by else { return codec::decode_shared(&reply.body) };
    let arrival = || Arrival { carrier: channel.carrier(Some(connection)), call, answer: true };
    handle::bind(arrival, || codec::decode_shared(&reply.body))
}
