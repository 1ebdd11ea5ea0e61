//! Handlers: each is polled once where its request arrives; only one that has to wait becomes a task.
//!
//! Most handlers end at their first poll. For them there is no task, no served in a table and no further wake-up, and
//! the answers of a batch go to the endpoint under one lock. A handler that computes for long holds up its socket
//! until its first `await` that is not ready: such work belongs on a thread of its own.

use std::sync::Arc;
use std::task::{Context, Waker};

use bytes::Bytes;

use super::Inner;
use super::channel::{Link, Target};
use super::state::State;
use crate::endpoint::{CallId, ConnId, Form};
use crate::rpc::Remote;
use crate::rpc::context::{self, Ctx};
use crate::rpc::dispatch::{self, Arrived, Response, Serving};
use crate::rpc::registry::Served;
use crate::runtime::Instant;

/// A request that is to be served in this turn of the driver.
pub(super) struct Arrival<'a> {
    pub(super) conn: ConnId,
    pub(super) call: CallId,
    pub(super) caller: Caller,
    pub(super) deadline: Instant,
    pub(super) served: &'a Arc<Served>,
    pub(super) form: Form,
    pub(super) body: Bytes,
}

/// Who sent a request.
#[derive(Clone)]
pub(super) struct Caller {
    from: Arc<context::Caller>,
    /// Whether it reads compressed bodies.
    inflates: bool,
}

/// Who sent the requests of one turn: made once for each run of requests of one connection.
#[derive(Default)]
pub(super) struct Callers {
    last: Option<(ConnId, Caller)>,
}

impl Callers {
    /// Who is at the other end of a connection; `None` when it is gone.
    pub(super) fn caller(&mut self, inner: &Arc<Inner>, state: &State, conn: ConnId) -> Option<Caller> {
        if let Some((last, caller)) = &self.last
            && *last == conn
        {
            return Some(caller.clone());
        }
        let info = state.endpoint.connection(conn)?;
        let target = Target::Connection { conn, address: info.remote };
        let from = Arc::new(context::Caller {
            address: info.remote,
            client_id: info.client_id,
            identity: info.identity,
            caller: Remote::new(Arc::new(Link::new(Arc::clone(inner), target))),
            runtime: inner.runtime.clone(),
        });
        let caller = Caller { from, inflates: info.compression };
        self.last = Some((conn, caller.clone()));
        Some(caller)
    }
}

/// Starts the handlers of `arrivals` in their order, without the lock: a handler may call into its peer.
pub(super) fn serve(inner: &Arc<Inner>, arrivals: Vec<Arrival<'_>>) {
    if arrivals.is_empty() {
        return;
    }
    let arrived_at = inner.runtime.now();
    let mut ended = Vec::with_capacity(arrivals.len());
    let mut waiting = Vec::new();
    // What registers the waker of its first poll finds itself ready, or registers again, when its task polls it for the
    // second time.
    let mut cx = Context::from_waker(Waker::noop());
    for Arrival { conn, call, caller, deadline, served, form, body } in arrivals {
        let arrived = Arrived {
            served: Arc::clone(served),
            ctx: Ctx::new(caller.from, call, deadline),
            form,
            body,
            at: arrived_at,
            caller_inflates: caller.inflates,
        };
        match dispatch::start(&inner.policy, arrived, &mut cx) {
            Ok(end) => ended.push((conn, call, end)),
            Err(serving) => waiting.push((conn, call, serving)),
        }
    }
    let now = inner.runtime.now();
    let replies: Vec<_> = ended.into_iter().map(|(conn, call, end)| (conn, call, end.answer(now))).collect();
    let mut state = inner.lock();
    for (conn, call, Response { status, form, body }) in replies {
        state.endpoint.respond(conn, call, status, form, body);
    }
    // Under the lock, so that no task can end before it is listed.
    for (conn, call, serving) in waiting {
        let task = inner.runtime.spawn("handler", finish(Arc::clone(inner), conn, call, serving));
        state.serving.insert((conn, call), task);
    }
}

/// Goes on with a handler that has to wait.
async fn finish(inner: Arc<Inner>, conn: ConnId, call: CallId, serving: Serving) {
    let end = serving.await;
    let now = inner.runtime.now();
    let Response { status, form, body } = end.answer(now);
    let done = {
        let mut state = inner.lock();
        state.endpoint.respond(conn, call, status, form, body);
        state.serving.remove(&(conn, call))
    };
    drop(done);
    inner.doorbell.ring();
}
