//! The channel behind a [`Remote`](crate::rpc::Remote): single transmissions over one connection of the peer.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;

use super::Inner;
use super::state::State;
use super::waiting::Ended;
use crate::endpoint::{ConnId, Form, LostReason, Request, SendError};
use crate::rpc::channel::{Answer, Attempt, Channel, Interception, Reply, Ticket};
use crate::rpc::envelope;
use crate::rpc::error::Origin;
use crate::rpc::handle::Carrier;
use crate::rpc::metrics::CallCounters;
use crate::rpc::retry::{Budget, RetryPolicy};
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
    fn attempt(&self, request: Attempt) -> BoxFuture<Answer> {
        Box::pin(transmit(Self::new(Arc::clone(&self.inner), self.target), request))
    }

    fn begin(&self, request: &Attempt, now: Instant, waker: &Waker) -> Option<Result<Ticket, RpcError>> {
        Some(self.send(request, now, waker))
    }

    fn poll_end(&self, cx: &mut Context<'_>, request: &Attempt, ticket: &mut Ticket) -> Poll<Answer> {
        let ended = ready!(self.inner.lock().waiting.poll(cx, ticket.conn, ticket.call));
        let answer = self.read(ended, request, ticket);
        if matches!(answer, Err(Failure::Rpc(_))) {
            take_back(ticket);
        }
        Poll::Ready(answer)
    }

    fn give_up(&self, mut ticket: Ticket) {
        take_back(&mut ticket);
        let mut state = self.inner.lock();
        if let Some(_waiter) = state.waiting.give_up(ticket.conn, ticket.call) {
            state.endpoint.cancel(self.inner.runtime.now(), ticket.conn, ticket.call);
            drop(state);
            self.inner.doorbell.ring();
        }
    }

    fn address(&self) -> SocketAddr {
        self.target.address()
    }

    fn runtime(&self) -> &Runtime {
        &self.inner.runtime
    }

    fn interception(&self) -> Option<&dyn Interception> {
        let interceptors = &self.inner.policy.interceptors;
        if interceptors.is_empty() { None } else { Some(interceptors) }
    }

    fn retries(&self) -> RetryPolicy {
        self.inner.policy.retries
    }

    fn counters(&self) -> Option<&CallCounters> {
        Some(&self.inner.policy.counters)
    }

    fn budget(&self) -> Option<&Budget> {
        Some(self.budget.get_or_init(|| self.inner.budgets.of(self.address())))
    }

    fn carrier(&self, connection: Option<ConnId>) -> Option<Carrier> {
        let conn = match self.target {
            Target::Connection { conn, .. } => conn,
            Target::Address(_) => connection?,
        };
        Some(self.inner.lock().session(&self.inner, conn)?.carrier())
    }
}

impl Link {
    /// Hands a request to the endpoint.
    fn send(&self, request: &Attempt, now: Instant, waker: &Waker) -> Result<Ticket, RpcError> {
        let Attempt { method, lane, deadline, idempotent, .. } = *request;
        if now >= deadline {
            let message = "the deadline had passed before the call was sent";
            return Err(RpcError::not_executed(Code::Timeout, message));
        }
        let (inner, meta) = (&self.inner, request.meta.as_deref());
        let compress = request.compress.unwrap_or(inner.policy.compress);
        let compress = compress && peer_inflates(inner, self.target, now)?;
        let (form, body) = envelope::pack(meta, request.body.clone(), compress)?;
        let mut state = inner.lock();
        let conn = state.connection_to(self.target, now)?;
        let request_out = Request { method: method.0, lane, deadline, idempotent, form, body };
        let call = state.endpoint.request(now, conn, request_out).map_err(|error| refused(&error))?;
        // Before any of the call can be sent.
        let passed = match state.pass(inner, conn, call, request.cargo.clone()) {
            Ok(passed) => passed,
            Err(error) => {
                state.endpoint.cancel(now, conn, call);
                return Err(error);
            }
        };
        state.waiting.open(conn, call, deadline, waker.clone());
        drop(state);
        inner.doorbell.ring();
        Ok(Ticket { conn, call, passed })
    }

    /// What the end of a transmission says.
    fn read(&self, ended: Ended, request: &Attempt, ticket: &Ticket) -> Answer {
        let address = self.address();
        match ended {
            Ended::Answered { status, form, body } => {
                let origin = || Origin { address, method: request.name.to_string() };
                let body = read_answer(status, unpack_answer(&self.inner, form, body)?, origin)?;
                Ok(Reply { body, came_by: Some((ticket.conn, ticket.call)) })
            }
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
                let why = self.setup_hint(ticket.conn);
                let message = format!("no answer from {address} within the deadline{why}");
                Err(RpcError::new(Code::Timeout, unanswered(sent), message).into())
            }
            Ended::Closed => {
                Err(RpcError::new(Code::Cancelled, Outcome::Unknown, "this peer was closed").into())
            }
        }
    }

    /// Why nobody may have answered, if the setup exchange is not complete.
    fn setup_hint(&self, conn: ConnId) -> String {
        let state = self.inner.lock();
        match state.endpoint.connection(conn) {
            Some(info) if !info.established => {
                let encrypted = state.endpoint.security().is_encrypted();
                format!(": {}", LostReason::SetupTimeout { encrypted })
            }
            _ => String::new(),
        }
    }
}

/// A transmission as a future.
async fn transmit(link: Link, request: Attempt) -> Answer {
    let mut open = OpenCall { link, request, ticket: None };
    poll_fn(|cx| open.poll(cx)).await
}

/// A transmission that is given up when it is dropped before its end.
struct OpenCall {
    link: Link,
    request: Attempt,
    ticket: Option<Ticket>,
}

impl OpenCall {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Answer> {
        let Some(ticket) = &mut self.ticket else {
            self.ticket = Some(self.link.send(&self.request, self.link.inner.runtime.now(), cx.waker())?);
            return Poll::Pending;
        };
        let answer = ready!(self.link.poll_end(cx, &self.request, ticket));
        self.ticket = None;
        Poll::Ready(answer)
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.link.give_up(ticket);
        }
    }
}

/// Takes back what a call carried that did not succeed.
fn take_back(ticket: &mut Ticket) {
    if let Some((carrier, cargo)) = ticket.passed.take() {
        let what = "the call that carried it did not succeed";
        carrier.0.detach(ticket.call, false, &cargo, &RpcError::new(Code::Aborted, Outcome::Unknown, what));
    }
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
