//! Code around every call of a peer, on both sides: authentication, metrics, traces, record and replay.
//!
//! An [`Interceptor`] stands at up to three places, in the order in which the peer's builder was given them, the first
//! one outermost:
//!
//! ```text
//! caller                                    callee
//! call    once per call, around retries     serve   once per request, before limits and exclusive access:
//! attempt once per transmission                     who may not call does not wait in a queue either
//! ```
//! A peer without interceptors pays one comparison per call for them.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

pub use super::channel::Answer;
use super::channel::{Attempt, Interception, Next};
use super::context::Ctx;
use super::error::Failure;
use crate::runtime::BoxFuture;

/// What a request ends in: the result, encoded, or why there is none.
pub type Execution = Result<Bytes, Failure>;

/// Stands around calls. Each method hands on what it was given, changed or not, or answers by itself.
pub trait Interceptor: Send + Sync + 'static {
    /// Around a whole call on the caller's side.
    fn call(&self, request: Attempt, next: NextCall) -> BoxFuture<Answer> {
        next.run(request)
    }

    /// Around one transmission on the caller's side.
    fn attempt(&self, request: Attempt, next: NextAttempt) -> BoxFuture<Answer> {
        next.run(request)
    }

    /// Around one request on the callee's side.
    fn serve(&self, request: Incoming, next: NextServe) -> BoxFuture<Execution> {
        next.run(request)
    }
}

/// Interceptors in their order; shared by the calls that run.
pub type Interceptors = Arc<[Arc<dyn Interceptor>]>;

impl Interception for Interceptors {
    fn call(&self, request: Attempt, next: Next) -> BoxFuture<Answer> {
        NextCall { chain: Self::clone(self), at: 0, last: next }.run(request)
    }

    fn attempt(&self, request: Attempt, next: Next) -> BoxFuture<Answer> {
        NextAttempt { chain: Self::clone(self), at: 0, last: next }.run(request)
    }
}

/// A request that is to be executed.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// What the handler will know about the call.
    pub ctx: Ctx,
    /// The encoded request.
    pub body: Bytes,
}

/// What follows after an interceptor's [`Interceptor::call`].
pub struct NextCall {
    chain: Interceptors,
    at: usize,
    last: Next,
}

impl NextCall {
    /// Hands the call on.
    pub fn run(mut self, request: Attempt) -> BoxFuture<Answer> {
        match self.chain.get(self.at).cloned() {
            Some(interceptor) => {
                self.at += 1;
                interceptor.call(request, self)
            }
            None => (self.last)(request),
        }
    }
}

/// What follows after an interceptor's [`Interceptor::attempt`].
pub struct NextAttempt {
    chain: Interceptors,
    at: usize,
    last: Next,
}

impl NextAttempt {
    /// Hands the transmission on.
    pub fn run(mut self, request: Attempt) -> BoxFuture<Answer> {
        match self.chain.get(self.at).cloned() {
            Some(interceptor) => {
                self.at += 1;
                interceptor.attempt(request, self)
            }
            None => (self.last)(request),
        }
    }
}

/// What follows after an interceptor's [`Interceptor::serve`].
pub struct NextServe {
    chain: Interceptors,
    at: usize,
    method: Arc<str>,
    last: Last,
}

/// The execution of a request, behind all interceptors.
type Last = Box<dyn FnOnce(Incoming) -> BoxFuture<Execution> + Send + Sync>;

impl NextServe {
    /// All of `chain`, then `last`, for a request of `method`.
    pub(super) const fn new(chain: Interceptors, method: Arc<str>, last: Last) -> Self {
        Self { chain, at: 0, method, last }
    }

    /// The full name of the method that is asked for; within a service that was passed, its name there.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// Hands the request on.
    pub fn run(mut self, request: Incoming) -> BoxFuture<Execution> {
        match self.chain.get(self.at).cloned() {
            Some(interceptor) => {
                self.at += 1;
                interceptor.serve(request, self)
            }
            None => (self.last)(request),
        }
    }
}

impl fmt::Debug for NextCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NextCall({} of {})", self.at, self.chain.len())
    }
}

impl fmt::Debug for NextAttempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NextAttempt({} of {})", self.at, self.chain.len())
    }
}

impl fmt::Debug for NextServe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NextServe({} of {})", self.at, self.chain.len())
    }
}
