//! A request from its arrival to its answer: taken apart, judged, executed in its scope, counted, put together.
//!
//! [`start`] polls a request's handler for the first time, and makes a future of what has to wait; [`Ended::answer`]
//! makes what is sent of its end. A plain request to a plain method goes straight to its handler.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::codec;
use super::context::Ctx;
use super::envelope::{self, Room, Unpacked};
use super::error::{Code, Failure, Outcome, RpcError};
use super::interceptor::{Execution, Incoming, Interceptors, NextServe};
use super::limits::Holder;
use super::meta::{HOPS_MAX, Trace};
use super::metrics::End;
use super::observe::{self, Watch};
use super::policy::Policy;
use super::registry::Served;
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

/// Takes a request apart and starts its method, which most leave at their first poll; the others go on as a future.
pub(crate) fn start(policy: &Policy, arrived: Arrived, cx: &mut Context<'_>) -> Result<Ended, Serving> {
    let Arrived { served, mut ctx, form, mut body, at, caller_inflates } = arrived;
    served.metrics.on_start();
    let mut scope = Some(Scope::new(ctx.deadline, None));
    let mut refusal = None;
    let mut room = None;
    if form != Form::default() {
        match open(policy, &served, form, std::mem::take(&mut body)) {
            Ok(unpacked) => {
                (body, room, ctx.meta) = (unpacked.body, unpacked.room, unpacked.meta);
                scope = Some(Scope::new(ctx.deadline, ctx.trace().map(|trace| carried_on(trace, &served))));
            }
            Err(error) => refusal = Some(error),
        }
    }
    let watch = observe::serving(&served.name, ctx.call, ctx.address, ctx.trace());
    let compress = caller_inflates && served.method.policy.compress.unwrap_or(policy.compress);
    let record = Record { served, at, compress, watch };
    if let Some(error) = refusal {
        return Ok(record.end(Err(error.into())));
    }
    let polled = {
        let _span = record.watch.enter();
        let _exit = Entered::new(&mut scope);
        catch_unwind(AssertUnwindSafe(|| {
            let mut work = first_step(policy, &record.served, ctx, body);
            match work.as_mut().poll(cx) {
                Poll::Ready(answer) => Ok(answer),
                Poll::Pending => Err(work),
            }
        }))
    };
    let panic_messages = policy.panic_messages;
    match polled {
        Ok(Ok(answer)) => Ok(record.end(answer)),
        Ok(Err(work)) => Err(Serving { work, scope, record: Some(record), panic_messages, _room: room }),
        Err(panic) => {
            let error = panicked(&record.served, &*panic, panic_messages);
            Ok(record.end(Err(error.into())))
        }
    }
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

fn first_step(policy: &Policy, served: &Arc<Served>, ctx: Ctx, body: Bytes) -> BoxFuture<Execution> {
    let bare = policy.interceptors.is_empty() && served.method.policy.gates().is_empty();
    // What a reserved method starts for the caller is guarded where it starts.
    if bare || served.is_reserved() {
        (served.method.handler)(ctx, body)
    } else {
        guarded(&policy.interceptors, served, ctx, envelope::to_be_kept(body))
    }
}

/// Interceptors, then gates, then the handler.
pub(crate) fn guarded(
    chain: &Interceptors,
    served: &Arc<Served>,
    ctx: Ctx,
    body: Bytes,
) -> BoxFuture<Execution> {
    let (chain, served) = (Arc::clone(chain), Arc::clone(served));
    // An interceptor's own first steps belong to the first poll as well.
    Box::pin(async move {
        if chain.is_empty() {
            return behind_gates(served, ctx, body).await;
        }
        let method = Arc::clone(&served.name);
        let last = Box::new(move |request: Incoming| behind_gates(served, request.ctx, request.body));
        NextServe::new(chain, method, last).run(Incoming { ctx, body }).await
    })
}

/// Passes the gates of the method, then runs its handler; behind an exclusive gate until the deadline at most.
fn behind_gates(served: Arc<Served>, mut ctx: Ctx, body: Bytes) -> BoxFuture<Execution> {
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
    work: BoxFuture<Execution>,
    scope: Option<Scope>,
    /// Until it ends.
    record: Option<Record>,
    panic_messages: bool,
    /// The room of its body.
    _room: Option<Room>,
}

impl Future for Serving {
    type Output = Ended;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        let this = &mut *self;
        let Some(record) = &this.record else { return Poll::Pending };
        let polled = {
            let _span = record.watch.enter();
            let _exit = Entered::new(&mut this.scope);
            // After a panic nothing of the work is looked at again.
            catch_unwind(AssertUnwindSafe(|| this.work.as_mut().poll(cx)))
        };
        let answer = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(answer)) => answer,
            Err(panic) => Err(panicked(&record.served, &*panic, this.panic_messages).into()),
        };
        let Some(record) = this.record.take() else { return Poll::Pending };
        Poll::Ready(record.end(answer))
    }
}

/// What a caller is told of a panic; the log has the words.
fn panicked(served: &Served, panic: &(dyn Any + Send), tell: bool) -> RpcError {
    let words = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no words");
    let error_id = Runtime::current().map_or(0, |runtime| runtime.random_u64());
    let method = &*served.name;
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
        let Some(record) = self.record.take() else { return };
        record.served.metrics.on_given_up();
        record.watch.given_up();
        if let Some(scope) = &self.scope {
            scope.stop();
        }
    }
}

/// What is known of a request besides its answer.
struct Record {
    served: Arc<Served>,
    at: Instant,
    compress: bool,
    watch: Watch,
}

impl Record {
    const fn end(self, answer: Execution) -> Ended {
        Ended { record: self, answer }
    }
}

/// A request that was served, to be answered.
pub(crate) struct Ended {
    record: Record,
    answer: Execution,
}

impl Ended {
    /// What is sent; counted as sent at `now`.
    pub(crate) fn answer(self, now: Instant) -> Response {
        let Self { record: Record { served, at, compress, watch }, answer } = self;
        let end = match &answer {
            Ok(_) => End::Result,
            Err(Failure::Method(_)) => End::MethodError,
            Err(Failure::Rpc(error)) => End::Error(error.code),
        };
        let latency = now.saturating_since(at);
        served.metrics.on_end(end, latency);
        watch.ended(&served.metrics, &answer, latency);
        let (status, body) = match answer {
            Ok(body) => (status::OK, body),
            Err(Failure::Method(body)) => (status::METHOD_ERROR, body),
            Err(Failure::Rpc(error)) => return Response::refusal(&error),
        };
        // Without metadata nothing is refused.
        let (form, body) = envelope::pack(None, body, compress).unwrap_or_default();
        Response { status, form, body }
    }
}
