//! The way to one peer: single transmissions of calls, and how each ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::error::{Failure, RpcError};
use super::handle::{Cargo, Carrier};
use super::meta::Meta;
use super::metrics::CallCounters;
use super::path::MethodId;
use super::retry::{Budget, RetryPolicy};
use crate::endpoint::{CallId, ConnId, Lane};
use crate::runtime::{BoxFuture, Instant, Runtime};

/// What a call is answered with: the result, encoded, or why there is none.
pub type Answer = Result<Reply, Failure>;

/// Carries single transmissions of calls to one peer.
pub trait Channel: Send + Sync + 'static {
    /// One transmission; it ends at the latest at the request's deadline. Dropping the future cancels the call.
    fn attempt(&self, request: Attempt) -> BoxFuture<Answer>;

    /// Begins a transmission that needs no future of its own, at `now`; `waker` is woken at its end, and
    /// [`Channel::poll_end`] is asked not before. `None` where every transmission is a future.
    fn begin(&self, _request: &Attempt, _now: Instant, _waker: &Waker) -> Option<Result<Ticket, RpcError>> {
        None
    }

    /// How a transmission ended that was begun; if it has not, `cx` is woken when it does.
    fn poll_end(&self, _cx: &mut Context<'_>, _request: &Attempt, _ticket: &mut Ticket) -> Poll<Answer> {
        Poll::Pending
    }

    /// Gives up a transmission that was begun and has not ended.
    fn give_up(&self, _ticket: Ticket) {}

    /// The address that the calls go to.
    fn address(&self) -> SocketAddr;

    /// Time and randomness for the calls.
    fn runtime(&self) -> &Runtime;

    /// What stands around all calls, if anything does.
    fn interception(&self) -> Option<&dyn Interception> {
        None
    }

    /// When calls are tried again.
    fn retries(&self) -> RetryPolicy {
        RetryPolicy::default()
    }

    /// Where it is counted what became of errors, if anywhere.
    fn counters(&self) -> Option<&CallCounters> {
        None
    }

    /// The retries that the remote is still good for; without limit if nothing is given.
    fn budget(&self) -> Option<&Budget> {
        None
    }

    /// What travels beside the bodies of `connection`, or, for a channel that has only one connection, of that one.
    /// `None` where nothing can: services and streams in a body then lead nowhere.
    fn carrier(&self, _connection: Option<ConnId>) -> Option<Carrier> {
        None
    }
}

/// What stands around the calls of a channel, and around each of their transmissions.
pub trait Interception: Send + Sync {
    /// Around a whole call, which is `next`.
    fn call(&self, request: Attempt, next: Next) -> BoxFuture<Answer>;

    /// Around one transmission, which is `next`.
    fn attempt(&self, request: Attempt, next: Next) -> BoxFuture<Answer>;
}

/// What follows after an [`Interception`].
pub type Next = Box<dyn FnOnce(Attempt) -> BoxFuture<Answer> + Send + Sync>;

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
    /// What travels beside the body, if anything does.
    pub meta: Option<Arc<Meta>>,
    /// Whether the body is compressed where the peer reads that; unless set, as the channel does.
    pub compress: Option<bool>,
    /// The encoded request.
    pub body: Bytes,
    /// What the handles in it stand for.
    pub cargo: Cargo,
}

/// Names a transmission that was begun.
#[derive(Debug)]
pub struct Ticket {
    pub(crate) conn: ConnId,
    pub(crate) call: CallId,
    /// What it carries, to be taken back if it does not succeed.
    pub(crate) passed: Option<(Carrier, Cargo)>,
}
