//! Handlers: each is polled once where its request arrives; only one that has to wait becomes a task.
//!
//! Most handlers end at their first poll. For them there is no task, no entry in a table and no further wake-up, and
//! the answers of a batch go to the endpoint under one lock. A handler that computes for long holds up its socket
//! until its first `await` that is not ready: such work belongs on a thread of its own.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures_util::FutureExt;

use super::Inner;
use super::channel::{Link, Target};
use super::state::State;
use crate::endpoint::{CallId, ConnId, Form};
use crate::rpc::registry::{Ctx, Method};
use crate::rpc::{Code, Failure, Outcome, Remote, RpcError, codec};
use crate::runtime::{BoxFuture, Instant};
use crate::wire::status;

/// A request that is to be served in this turn of the driver.
pub(super) struct Arrival<'a> {
    pub(super) conn: ConnId,
    pub(super) call: CallId,
    pub(super) ctx: Ctx,
    pub(super) method: &'a Method,
    pub(super) body: Bytes,
}

/// What the handlers of the requests of one turn are told about their callers: made once for each run of requests of
/// one connection.
#[derive(Default)]
pub(super) struct Callers {
    last: Option<(ConnId, Ctx)>,
}

impl Callers {
    /// The context of a call; `None` when its connection is gone.
    pub(super) fn ctx(
        &mut self,
        inner: &Arc<Inner>,
        state: &State,
        conn: ConnId,
        call: CallId,
        deadline: Instant,
    ) -> Option<Ctx> {
        if let Some((last, ctx)) = &self.last
            && *last == conn
        {
            return Some(Ctx { call, deadline, ..ctx.clone() });
        }
        let info = state.endpoint.connection(conn)?;
        let target = Target::Connection { conn, address: info.remote };
        let ctx = Ctx {
            address: info.remote,
            client_id: info.client_id,
            call,
            deadline,
            caller: Remote::new(Arc::new(Link { inner: Arc::clone(inner), target })),
            runtime: inner.runtime.clone(),
        };
        self.last = Some((conn, ctx.clone()));
        Some(ctx)
    }
}

/// Starts the handlers of `arrivals` in their order, without the lock: a handler may call into its peer.
pub(super) fn serve(inner: &Arc<Inner>, arrivals: Vec<Arrival<'_>>) {
    if arrivals.is_empty() {
        return;
    }
    let mut answers = Vec::with_capacity(arrivals.len());
    let mut waiting = Vec::new();
    for Arrival { conn, call, ctx, method, body } in arrivals {
        match start(method, ctx, body) {
            Ok(answer) => answers.push((conn, call, encode(answer))),
            Err(handler) => waiting.push((conn, call, handler)),
        }
    }
    let now = inner.runtime.now();
    let mut state = inner.lock();
    for (conn, call, (status, body)) in answers {
        state.endpoint.respond(now, conn, call, status, Form::default(), body);
    }
    // Under the lock, so that no task can end before it is listed.
    for (conn, call, handler) in waiting {
        let task = inner.runtime.spawn("handler", finish(Arc::clone(inner), conn, call, handler));
        state.serving.insert((conn, call), task);
    }
}

type Answer = Result<Bytes, Failure>;

/// Polls a handler once; gives it back if it has to wait. What it registered its first poll's waker with it finds
/// ready, or registers with again, when its task polls it for the second time.
fn start(method: &Method, ctx: Ctx, body: Bytes) -> Result<Answer, BoxFuture<Answer>> {
    let polled = std::panic::catch_unwind(AssertUnwindSafe(|| {
        let mut handler = (method.handler)(ctx, body);
        match Pin::new(&mut handler).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => Ok(answer),
            Poll::Pending => Err(handler),
        }
    }));
    polled.unwrap_or_else(|_| Ok(panicked()))
}

/// Goes on with a handler that has to wait.
async fn finish(inner: Arc<Inner>, conn: ConnId, call: CallId, handler: BoxFuture<Answer>) {
    let answer = AssertUnwindSafe(handler).catch_unwind().await.unwrap_or_else(|_| panicked());
    let (status, body) = encode(answer);
    let done = {
        let mut state = inner.lock();
        state.endpoint.respond(inner.runtime.now(), conn, call, status, Form::default(), body);
        state.serving.remove(&(conn, call))
    };
    drop(done);
    inner.doorbell.ring();
}

fn panicked() -> Answer {
    Err(RpcError::new(Code::Internal, Outcome::Unknown, "the handler panicked").into())
}

/// The status and body of an answer.
fn encode(answer: Answer) -> (u64, Bytes) {
    answer.map_or_else(encode_failure, |body| (status::OK, body))
}

pub(super) fn encode_failure(failure: Failure) -> (u64, Bytes) {
    match failure {
        Failure::Method(body) => (status::METHOD_ERROR, body),
        Failure::Rpc(error) => {
            let status = status::CODE_BASE + u64::from(u16::from(error.code));
            (status, codec::encode(&error).unwrap_or_default())
        }
    }
}
