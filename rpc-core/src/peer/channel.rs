//! The channel behind a [`Remote`](crate::rpc::Remote): single transmissions over one connection of the peer.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::Bytes;

use super::Inner;
use super::state::State;
use super::waiting::Ended;
use crate::endpoint::{CallId, ConnId, Form, LostReason, Request, SendError};
use crate::rpc::call::{Attempt, Channel, Reply};
use crate::rpc::envelope;
use crate::rpc::error::Origin;
use crate::rpc::handle::Cargo;
use crate::rpc::policy::Policy;
use crate::rpc::retry::Budget;
use crate::rpc::session::Session;
use crate::rpc::{Code, Failure, Outcome, RpcError, codec};
use crate::runtime::{BoxFuture, Instant, Runtime};
use crate::wire::{close, status};

/// A way to one peer.
pub(super) struct Link {
    inner: Arc<Inner>,
    target: Target,
    /// That of the target's address; looked up when it is first needed.
    budget: OnceLock<Arc<Budget>>,
}

impl Link {
    pub(super) const fn new(inner: Arc<Inner>, target: Target) -> Self {
        Self { inner, target, budget: OnceLock::new() }
    }
}

/// Over which connection.
#[derive(Clone, Copy)]
pub(super) enum Target {
    /// The one that we make, and make again when it is lost.
    Address(SocketAddr),
    /// The one on which a call came in; when it is lost, so is the way back.
    Connection { conn: ConnId, address: SocketAddr },
}

impl Target {
    const fn address(self) -> SocketAddr {
        match self {
            Self::Address(address) | Self::Connection { address, .. } => address,
        }
    }
}

impl Channel for Link {
    fn attempt(&self, attempt: Attempt) -> BoxFuture<Result<Reply, Failure>> {
        Box::pin(transmit(Arc::clone(&self.inner), self.target, attempt))
    }

    fn address(&self) -> SocketAddr {
        self.target.address()
    }

    fn runtime(&self) -> &Runtime {
        &self.inner.runtime
    }

    fn policy(&self) -> Option<&Arc<Policy>> {
        Some(&self.inner.policy)
    }

    fn budget(&self) -> Option<&Budget> {
        Some(self.budget.get_or_init(|| self.inner.budgets.of(self.address())))
    }

    fn session(&self, connection: Option<ConnId>) -> Option<Arc<Session>> {
        let conn = match self.target {
            Target::Connection { conn, .. } => conn,
            Target::Address(_) => connection?,
        };
        self.inner.lock().session(&self.inner, conn)
    }
}

async fn transmit(inner: Arc<Inner>, target: Target, attempt: Attempt) -> Result<Reply, Failure> {
    let Attempt { method, name, lane, deadline, idempotent, meta, compress, body, cargo } = attempt;
    let now = inner.runtime.now();
    if now >= deadline {
        return Err(RpcError::not_executed(
            Code::Timeout,
            "the deadline had passed before the call was sent",
        )
        .into());
    }
    let compress = compress.unwrap_or(inner.policy.compress) && peer_inflates(&inner, target, now)?;
    let (form, body) = envelope::pack(meta.as_deref(), body, compress)?;
    let request = Request { method: method.0, lane, deadline, idempotent, form, body };
    let waker = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
    let (mut open, passed) = {
        let mut state = inner.lock();
        let conn = state.connection_to(target, now)?;
        let call = state.endpoint.request(now, conn, request).map_err(|error| refused(&error))?;
        state.waiting.open(conn, call, deadline, waker);
        // Before any of the call can be sent.
        let passed = state.pass(&inner, conn, call, cargo);
        (OpenCall { inner: Arc::clone(&inner), conn, call, ended: false, passed: None }, passed)
    };
    open.passed = passed?;
    inner.doorbell.ring();
    let address = target.address();
    let origin = || Origin { address, method: name.to_string() };
    // Whoever ends the call wakes this task: there is nothing to look at before.
    let mut woken = false;
    let ended =
        poll_fn(|cx| if std::mem::replace(&mut woken, true) { open.poll_ended(cx) } else { Poll::Pending });
    let result = match ended.await {
        Ended::Answered { status, form, body } => unpack_answer(&inner, form, body)
            .map_err(Failure::from)
            .and_then(|body| read_answer(status, body, origin))
            .map(|body| Reply { body, came_by: Some((open.conn, open.call)) }),
        Ended::Lost { reason, sent } => {
            let message = format!("no answer from {address}: {reason}");
            // Who is not allowed is closed before anything of its calls is read.
            Err(if is_refusal(&reason) {
                RpcError::not_executed(Code::Unauthorized, message).into()
            } else {
                RpcError::new(Code::ConnectionLost, unanswered(sent), message).into()
            })
        }
        Ended::TimedOut { sent } => {
            let why = open.setup_hint();
            let message = format!("no answer from {address} within the deadline{why}");
            Err(RpcError::new(Code::Timeout, unanswered(sent), message).into())
        }
        Ended::Closed => Err(RpcError::new(Code::Cancelled, Outcome::Unknown, "this peer was closed").into()),
    };
    if !matches!(result, Err(Failure::Rpc(_))) {
        open.passed = None;
    }
    result
}

/// Whether one side has proved to be somebody whom the other does not allow.
fn is_refusal(reason: &LostReason) -> bool {
    matches!(reason, LostReason::Closed { code: close::UNAUTHORIZED, .. } | LostReason::Refused { .. })
}

/// What is known of a call without an answer.
const fn unanswered(sent: bool) -> Outcome {
    if sent { Outcome::Unknown } else { Outcome::NotExecuted }
}

/// Whether the peer is known to read compressed bodies. It is not before it has answered for the first time.
fn peer_inflates(inner: &Inner, target: Target, now: Instant) -> Result<bool, RpcError> {
    let mut state = inner.lock();
    let conn = state.connection_to(target, now)?;
    Ok(state.endpoint.connection(conn).is_some_and(|info| info.compression))
}

fn unpack_answer(inner: &Inner, form: Form, body: Bytes) -> Result<Bytes, RpcError> {
    if form == Form::default() {
        return Ok(body);
    }
    let unpacked = envelope::unpack(form, body, &inner.policy.space);
    // The peer has answered, so the method ran, if not more is known: what cannot be read is the answer.
    let unread =
        |(_, words)| RpcError::new(Code::Codec, Outcome::Unknown, format!("answer not read: {words}"));
    unpacked.map(|unpacked| unpacked.body).map_err(unread)
}

impl State {
    /// The connection to `target`, made now if there is none.
    fn connection_to(&mut self, target: Target, now: Instant) -> Result<ConnId, RpcError> {
        // Calls back belong to calls of the peer, which may end while this one drains.
        if self.closing || (self.draining && matches!(target, Target::Address(_))) {
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

/// A call that the endpoint knows; dropped before its end, it is cancelled.
struct OpenCall {
    inner: Arc<Inner>,
    conn: ConnId,
    call: CallId,
    ended: bool,
    /// What it carries, to be taken back if it does not succeed.
    passed: Option<(Arc<Session>, Cargo)>,
}

impl OpenCall {
    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        let polled = self.inner.lock().waiting.poll(cx, self.conn, self.call);
        self.ended = polled.is_ready();
        polled
    }
}

impl OpenCall {
    /// Why nobody may have answered, if the setup exchange is not complete.
    fn setup_hint(&self) -> String {
        let state = self.inner.lock();
        match state.endpoint.connection(self.conn) {
            Some(info) if !info.established => {
                let encrypted = state.endpoint.security().is_encrypted();
                format!(": {}", LostReason::SetupTimeout { encrypted })
            }
            _ => String::new(),
        }
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        if let Some((session, cargo)) = self.passed.take() {
            let what = "the call that carried it did not succeed";
            session.detach(self.call, false, &cargo, &RpcError::new(Code::Aborted, Outcome::Unknown, what));
        }
        if self.ended {
            return;
        }
        let mut state = self.inner.lock();
        if let Some(_waiter) = state.waiting.give_up(self.conn, self.call) {
            state.endpoint.cancel(self.inner.runtime.now(), self.conn, self.call);
            drop(state);
            self.inner.doorbell.ring();
        }
    }
}

/// What an answer's status and body say.
fn read_answer(status: u64, body: Bytes, origin: impl FnOnce() -> Origin) -> Result<Bytes, Failure> {
    match status {
        status::OK => Ok(body),
        status::METHOD_ERROR => Err(Failure::Method(body)),
        _ => Err(read_error(status, &body, origin()).into()),
    }
}

/// What an answer that is neither a result nor the method's own error says.
fn read_error(status: u64, body: &[u8], origin: Origin) -> RpcError {
    let mut error = codec::decode::<RpcError>(body).unwrap_or_else(|_| {
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
        RpcError::new(code, unanswered(!refused), "refused by the transport")
    });
    error.origin.get_or_insert_with(|| Box::new(origin));
    error
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
