//! A request from its arrival to its answer: taken apart, judged, executed in its scope, counted, put together.
//!
//! [`begin`] makes a future of a request that whoever drives the socket polls, at once or in a task; [`Ended::answer`]
//! makes what is sent of its end. A plain request to a plain method goes straight to its handler.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::codec;
use super::envelope::{self, Room, Unpacked};
use super::error::{Code, Failure, Outcome, RpcError};
use super::interceptor::{Execution, Incoming, Interceptors, NextServe};
use super::limits::Holder;
use super::meta::{HOPS_MAX, Trace};
use super::metrics::End;
use super::observe::{self, Watch};
use super::policy::Policy;
use super::registry::{Ctx, Served};
use super::scope::{Entered, Scope};
use crate::endpoint::Form;
use crate::runtime::{BoxFuture, Instant, Runtime};
use crate::wire::status;

/// A request for a method of this peer.
pub(crate) struct Arrived {
    pub(crate) served: Arc<Served>,
    pub(crate) ctx: Ctx,
    pub(crate) form: Form,
    pub(crate) body: Bytes,
    /// When it came in.
    pub(crate) at: Instant,
    /// Whether the caller reads compressed bodies.
    pub(crate) caller_inflates: bool,
}

/// What is sent back.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u64,
    pub(crate) form: Form,
    pub(crate) body: Bytes,
}

impl Response {
    /// The answer that the call was refused.
    pub(crate) fn refusal(error: &RpcError) -> Self {
        let status = status::CODE_BASE + u64::from(u16::from(error.code));
        Self { status, form: Form::default(), body: codec::encode(error).unwrap_or_default() }
    }
}

/// Takes a request apart and makes the future of its answer. The handler starts when that is polled first.
pub(crate) fn begin(policy: &Policy, arrived: Arrived) -> Serving {
    let Arrived { served, mut ctx, form, mut body, at, caller_inflates } = arrived;
    served.metrics.on_start();
    let mut scope = Scope::new(ctx.deadline, None);
    let mut refusal = None;
    let mut room = None;
    if form != Form::default() {
        match open(policy, &served, form, std::mem::take(&mut body)) {
            Ok(unpacked) => {
                (body, room, ctx.meta) = (unpacked.body, unpacked.room, unpacked.meta);
                scope = Scope::new(ctx.deadline, ctx.trace().map(|trace| carried_on(trace, &served)));
            }
            Err(error) => refusal = Some(error),
        }
    }
    let watch = observe::serving(&served, &ctx);
    let work = match refusal {
        None => first_step(policy, &served, ctx, body),
        refused => Work::Refused(refused),
    };
    let compress = caller_inflates && served.method.policy.compress.unwrap_or(policy.compress);
    let end = Ended { served, answer: None, at, compress, watch };
    Serving { work, scope: Some(scope), end: Some(end), panic_messages: policy.panic_messages, room }
}

/// Takes a message apart and judges its metadata.
fn open(policy: &Policy, served: &Served, form: Form, message: Bytes) -> Result<Unpacked, RpcError> {
    let unpacked = envelope::unpack(form, message, &policy.space)
        .map_err(|(code, message)| RpcError::not_executed(code, message))?;
    if unpacked.meta.as_ref().is_some_and(|meta| meta.key.is_some()) && !served.method.policy.keyed {
        let message = format!("`{}` keeps no table of idempotency keys", served.name);
        return Err(RpcError::not_executed(Code::BadRequest, message));
    }
    Ok(unpacked)
}

/// The trace as calls from the handler of `served` carry it.
fn carried_on(trace: &Trace, served: &Served) -> Arc<Trace> {
    let mut trace = trace.clone();
    // One that is full goes on as it is: the call that would follow is refused where it is made.
    if trace.hops.len() <= HOPS_MAX {
        trace.hops.push(served.id);
    }
    Arc::new(trace)
}

fn first_step(policy: &Policy, served: &Arc<Served>, ctx: Ctx, body: Bytes) -> Work {
    let bare = policy.interceptors.is_empty() && served.method.policy.gates().is_empty();
    // What a reserved method starts for the caller is guarded where it starts.
    if bare || served.is_reserved() {
        Work::Fresh(Some((ctx, body)))
    } else {
        Work::Running(guarded(&policy.interceptors, served, ctx, body))
    }
}

/// Interceptors, then gates, then the handler.
pub(crate) fn guarded(
    chain: &Interceptors,
    served: &Arc<Served>,
    ctx: Ctx,
    body: Bytes,
) -> BoxFuture<Execution> {
    let next = NextServe { chain: Arc::clone(chain), at: 0, served: Arc::clone(served) };
    // An interceptor's own first steps belong to the first poll as well.
    Box::pin(async move { next.run(Incoming { ctx, body }).await })
}

/// Passes the gates of the method, then runs its handler; behind an exclusive gate until the deadline at most.
pub(super) fn behind_gates(served: Arc<Served>, mut ctx: Ctx, body: Bytes) -> BoxFuture<Execution> {
    if served.method.policy.gates().is_empty() {
        return (served.method.handler)(ctx, body);
    }
    Box::pin(async move {
        let runtime = ctx.runtime.clone();
        let mut permits = Vec::with_capacity(served.method.policy.gates().len());
        let mut lease = None;
        for gate in served.method.policy.gates() {
            let permit = gate.enter(&runtime, holder(&served, &ctx), &body).await?;
            if gate.is_exclusive() {
                ctx.fence = permit.fence();
                lease = Some(ctx.deadline);
            }
            permits.push(permit);
        }
        let Some(lease) = lease else { return (served.method.handler)(ctx, body).await };
        let work = (served.method.handler)(ctx, body);
        runtime.timeout_at(lease, work).await.unwrap_or_else(|_| {
            let message = "the deadline passed while it held exclusive access: the handler was stopped";
            Err(RpcError::new(Code::Timeout, Outcome::Unknown, message).into())
        })
    })
}

fn holder(served: &Served, ctx: &Ctx) -> Holder {
    Holder {
        address: ctx.address,
        client_id: ctx.client_id,
        method: Arc::clone(&served.name),
        since: ctx.runtime.now(),
        deadline: ctx.deadline,
        fence: 0,
    }
}

/// A request that is being served. Ends in every case but one: dropped before, it stops what was called from it.
pub(crate) struct Serving {
    work: Work,
    scope: Option<Scope>,
    end: Option<Ended>,
    panic_messages: bool,
    /// The room of its body.
    room: Option<Room>,
}

enum Work {
    /// The handler was not called yet.
    Fresh(Option<(Ctx, Bytes)>),
    Running(BoxFuture<Execution>),
    Refused(Option<RpcError>),
}

impl Future for Serving {
    type Output = Ended;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        let this = &mut *self;
        let Some(end) = &this.end else { return Poll::Pending };
        let polled = {
            let _span = end.watch.enter();
            let _exit = Entered::new(&mut this.scope);
            // After a panic nothing of the work is looked at again.
            catch_unwind(AssertUnwindSafe(|| this.work.poll(&end.served, cx)))
        };
        let answer = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(answer)) => answer,
            Err(panic) => Err(panicked(end, &*panic, this.panic_messages).into()),
        };
        this.room = None;
        let Some(mut end) = this.end.take() else { return Poll::Pending };
        end.answer = Some(answer);
        Poll::Ready(end)
    }
}

impl Work {
    fn poll(&mut self, served: &Served, cx: &mut Context<'_>) -> Poll<Execution> {
        if let Self::Fresh(request) = self
            && let Some((ctx, body)) = request.take()
        {
            *self = Self::Running((served.method.handler)(ctx, body));
        }
        match self {
            Self::Running(work) => work.as_mut().poll(cx),
            Self::Refused(error) => {
                error.take().map_or(Poll::Pending, |error| Poll::Ready(Err(error.into())))
            }
            // Its first step panicked.
            Self::Fresh(_) => Poll::Pending,
        }
    }
}

/// What a caller is told of a panic; the log has the words.
fn panicked(end: &Ended, panic: &(dyn Any + Send), tell: bool) -> RpcError {
    let words = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no words");
    let error_id = Runtime::current().map_or(0, |runtime| runtime.random_u64());
    let method = &*end.served.name;
    tracing::error!(method, error_id = format_args!("{error_id:016x}"), panic = words, "handler panicked");
    let mut message = format!("the handler of `{method}` panicked, error id {error_id:016x}");
    if tell {
        message.push_str(": ");
        message.push_str(words);
    }
    RpcError::new(Code::Internal, Outcome::Unknown, message)
}

impl Drop for Serving {
    fn drop(&mut self) {
        let Some(end) = self.end.take() else { return };
        end.served.metrics.on_given_up();
        end.watch.given_up();
        if let Some(scope) = &self.scope {
            scope.stop();
        }
    }
}

/// A request that was served, to be answered.
pub(crate) struct Ended {
    served: Arc<Served>,
    answer: Option<Execution>,
    at: Instant,
    compress: bool,
    watch: Watch,
}

impl Ended {
    /// What is sent; counted as sent at `now`.
    pub(crate) fn answer(mut self, now: Instant) -> Response {
        let answer = self.answer.take().unwrap_or_else(|| Ok(Bytes::new()));
        let end = match &answer {
            Ok(_) => End::Result,
            Err(Failure::Method(_)) => End::MethodError,
            Err(Failure::Rpc(error)) => End::Error(error.code),
        };
        let latency = now.saturating_since(self.at);
        self.served.metrics.on_end(end, latency);
        self.watch.ended(&self.served, &answer, latency);
        let (status, body) = match answer {
            Ok(body) => (status::OK, body),
            Err(Failure::Method(body)) => (status::METHOD_ERROR, body),
            Err(Failure::Rpc(error)) => return Response::refusal(&error),
        };
        // Without metadata nothing is refused.
        let (form, body) = envelope::pack(None, body, self.compress).unwrap_or_default();
        Response { status, form, body }
    }
}
