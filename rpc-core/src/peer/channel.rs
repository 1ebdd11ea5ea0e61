//! The channel behind a [`Remote`](crate::rpc::Remote): single transmissions over one connection of the peer.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::Inner;
use super::state::{Ended, State};
use crate::endpoint::{CallId, ConnId, Form, Request, SendError};
use crate::rpc::call::{Attempt, Channel, Reply};
use crate::rpc::error::Origin;
use crate::rpc::handle::Cargo;
use crate::rpc::session::Session;
use crate::rpc::{Code, Failure, Outcome, RpcError, codec};
use crate::runtime::{BoxFuture, Instant, Runtime};
use crate::wire::status;

/// A way to one peer.
pub(super) struct Link {
    pub(super) inner: Arc<Inner>,
    pub(super) target: Target,
}

/// Over which connection.
#[derive(Clone, Copy)]
pub(super) enum Target {
    /// The one that we make, and make again when it is lost.
    Address(SocketAddr),
    /// The one on which a call came in; when it is lost, so is the way back.
    Connection { conn: ConnId, address: SocketAddr },
}

impl Channel for Link {
    fn attempt(&self, attempt: Attempt) -> BoxFuture<Result<Reply, Failure>> {
        Box::pin(transmit(Arc::clone(&self.inner), self.target, attempt))
    }

    fn address(&self) -> SocketAddr {
        match self.target {
            Target::Address(address) | Target::Connection { address, .. } => address,
        }
    }

    fn runtime(&self) -> &Runtime {
        &self.inner.runtime
    }

    fn session(&self, connection: Option<ConnId>) -> Option<Arc<Session>> {
        let conn = match self.target {
            Target::Connection { conn, .. } => conn,
            Target::Address(_) => connection?,
        };
        self.inner.lock().session(&self.inner, conn)
    }

    fn keep(&self, keep: bool) {
        if let Target::Connection { conn, .. } = self.target {
            self.inner.lock().endpoint.keep(self.inner.runtime.now(), conn, keep);
            self.inner.doorbell.ring();
        }
    }
}

async fn transmit(inner: Arc<Inner>, target: Target, attempt: Attempt) -> Result<Reply, Failure> {
    let Attempt { method, name, lane, deadline, idempotent, body, cargo } = attempt;
    let now = inner.runtime.now();
    if now >= deadline {
        return Err(RpcError::not_executed(
            Code::Timeout,
            "the deadline had passed before the call was sent",
        )
        .into());
    }
    let request = Request { method: method.0, lane, deadline, idempotent, form: Form::default(), body };
    let (answer, mut open, passed) = {
        let mut state = inner.lock();
        let conn = state.connection_to(target, now)?;
        let call = state.endpoint.request(now, conn, request).map_err(|error| refused(&error))?;
        let (sender, answer) = oneshot::channel();
        state.waiting.insert((conn, call), sender);
        // Before any of the call can be sent.
        let passed = state.pass(&inner, conn, call, cargo);
        (answer, OpenCall { inner: Arc::clone(&inner), conn, call, passed: None }, passed)
    };
    open.passed = passed?;
    inner.doorbell.ring();
    let ended = inner.runtime.timeout_at(deadline, answer).await;
    let origin = Origin { address: open.address(target), method: name.to_string() };
    let came_by = Some((open.conn, open.call));
    let result = match ended {
        Ok(Ok(Ended::Answered { status, body })) => {
            read_answer(status, body, origin).map(|body| Reply { body, came_by })
        }
        Ok(Ok(Ended::Lost { reason, sent })) => {
            let outcome = if sent { Outcome::Unknown } else { Outcome::NotExecuted };
            let message = format!("no answer from {}: {reason}", origin.address);
            Err(RpcError::new(Code::ConnectionLost, outcome, message).into())
        }
        Ok(Err(_)) => Err(RpcError::new(Code::Cancelled, Outcome::Unknown, "this peer was closed").into()),
        Err(_) => {
            let outcome = open.outcome_if_dropped();
            let message = format!("no answer from {} within the deadline", origin.address);
            Err(RpcError::new(Code::Timeout, outcome, message).into())
        }
    };
    if !matches!(result, Err(Failure::Rpc(_))) {
        open.passed = None;
    }
    result
}

impl State {
    /// The connection to `target`, made now if there is none.
    fn connection_to(&mut self, target: Target, now: Instant) -> Result<ConnId, RpcError> {
        if self.closing || self.draining {
            return Err(RpcError::not_executed(Code::Cancelled, "this peer is closing"));
        }
        Ok(match target {
            Target::Connection { conn, .. } => conn,
            Target::Address(address) => match self.outgoing.get(&address) {
                Some(conn) => *conn,
                None => {
                    let conn = self.endpoint.connect(now, address);
                    self.outgoing.insert(address, conn);
                    conn
                }
            },
        })
    }
}

/// A call that the endpoint knows; dropped before its answer, it is cancelled.
struct OpenCall {
    inner: Arc<Inner>,
    conn: ConnId,
    call: CallId,
    /// What it carries, to be taken back if it does not succeed.
    passed: Option<(Arc<Session>, Cargo)>,
}

impl OpenCall {
    fn address(&self, target: Target) -> SocketAddr {
        match target {
            Target::Address(address) | Target::Connection { address, .. } => address,
        }
    }

    /// What is known of a call without an answer: before the setup exchange is complete nothing of it was sent.
    fn outcome_if_dropped(&self) -> Outcome {
        match self.inner.lock().endpoint.connection(self.conn) {
            Some(info) if !info.established => Outcome::NotExecuted,
            _ => Outcome::Unknown,
        }
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        if let Some((session, cargo)) = self.passed.take() {
            let what = "the call that carried it did not succeed";
            session.detach(self.call, false, &cargo, &RpcError::new(Code::Aborted, Outcome::Unknown, what));
        }
        let mut state = self.inner.lock();
        if state.waiting.remove(&(self.conn, self.call)).is_some() {
            state.endpoint.cancel(self.inner.runtime.now(), self.conn, self.call);
            drop(state);
            self.inner.doorbell.ring();
        }
    }
}

/// What an answer's status and body say.
fn read_answer(status: u64, body: Bytes, origin: Origin) -> Result<Bytes, Failure> {
    match status {
        status::OK => return Ok(body),
        status::METHOD_ERROR => return Err(Failure::Method(body)),
        _ => {}
    }
    let mut error = codec::decode::<RpcError>(&body).unwrap_or_else(|_| {
        // The transport answers with an empty body: the status says all.
        let code = Code::from(u16::try_from(status.saturating_sub(status::CODE_BASE)).unwrap_or(0));
        let refused = matches!(
            code,
            Code::Timeout
                | Code::ServerBusy
                | Code::Draining
                | Code::MethodNotFound
                | Code::BadRequest
                | Code::TooLarge
        );
        let outcome = if refused { Outcome::NotExecuted } else { Outcome::Unknown };
        RpcError::new(code, outcome, "refused by the transport")
    });
    error.origin.get_or_insert(origin);
    Err(error.into())
}

/// Why the endpoint did not take a request. Nothing was sent.
fn refused(error: &SendError) -> RpcError {
    let code = match error {
        SendError::UnknownConnection => Code::ConnectionLost,
        SendError::Draining => Code::Draining,
        SendError::Busy => Code::ServerBusy,
        SendError::TooLarge { .. } => Code::TooLarge,
    };
    RpcError::not_executed(code, error.to_string())
}
