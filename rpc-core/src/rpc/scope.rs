//! What a handler's own calls inherit from the call that it serves: the deadline, the trace, and the end.
//!
//! A scope is set on the thread while a handler's future is polled, so that calls made in it find it without being
//! told: they end at the earlier deadline, carry the trace one hop further, and end when the handler is stopped, also
//! when they were moved into a task of their own. A task that a handler starts is outside; it is taken in with
//! [`Scope::enter`]. [`Call::detached`](super::Call::detached) leaves the scope out.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_util::FutureExt;
use futures_util::future::Shared;
use tokio::sync::oneshot;

use super::meta::Trace;
use crate::runtime::Instant;

/// What calls inherit that are made in it.
#[derive(Clone)]
pub struct Scope {
    deadline: Instant,
    trace: Option<Arc<Trace>>,
    /// Made when the first call is; says so when the handler was stopped before its end.
    stopped: Option<Arc<Stop>>,
}

/// Said once, heard by all who wait, in the order in which they came.
struct Stop {
    sender: Mutex<Option<oneshot::Sender<()>>>,
    heard: Shared<oneshot::Receiver<()>>,
}

impl Default for Stop {
    fn default() -> Self {
        let (sender, receiver) = oneshot::channel();
        Self { sender: Mutex::new(Some(sender)), heard: receiver.shared() }
    }
}

impl Scope {
    /// The scope of a handler that serves a call with this deadline; `trace` is what its calls carry on.
    pub(crate) const fn new(deadline: Instant, trace: Option<Arc<Trace>>) -> Self {
        Self { deadline, trace, stopped: None }
    }

    /// The scope of the handler that is being polled on this thread, if one is.
    pub fn current() -> Option<Self> {
        CURRENT.with_borrow_mut(|current| {
            let scope = current.as_mut()?;
            scope.stopped.get_or_insert_default();
            Some(scope.clone())
        })
    }

    /// When the call that is served here ends.
    pub const fn deadline(&self) -> Instant {
        self.deadline
    }

    /// What calls made here carry on of their way, if the call that is served is traced.
    pub fn trace(&self) -> Option<&Trace> {
        self.trace.as_deref()
    }

    /// Completes when the handler was stopped before its end: never, if it ended.
    pub(crate) async fn stopped(&self) {
        let Some(stop) = &self.stopped else { return std::future::pending().await };
        if stop.heard.clone().await.is_err() {
            std::future::pending().await
        }
    }

    /// The handler is stopped before its end: so is what was called from it.
    pub(super) fn stop(&self) {
        let Some(stop) = &self.stopped else { return };
        if let Some(sender) = stop.sender.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = sender.send(());
        }
    }

    /// Runs `future`, a task that a handler starts, in the handler's scope.
    pub fn enter<F: Future>(self, future: F) -> InScope<F> {
        InScope { scope: Some(self), future: Box::pin(future) }
    }
}

/// What calls that are made now carry on of their way: the trace of the call whose handler is being polled on this
/// thread, with that call's method as its last hop. `None` when it is not traced, or none is being polled.
pub fn trace() -> Option<Trace> {
    CURRENT.with_borrow(|current| current.as_ref()?.trace().cloned())
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope").field("deadline", &self.deadline).field("trace", &self.trace).finish()
    }
}

/// A future in the scope of a handler.
#[derive(Debug)]
pub struct InScope<F> {
    scope: Option<Scope>,
    future: Pin<Box<F>>,
}

impl<F: Future> Future for InScope<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let _exit = Entered::new(&mut this.scope);
        this.future.as_mut().poll(cx)
    }
}

/// Puts a scope on the thread, and back when it is dropped, also by a panic.
pub(super) struct Entered<'a> {
    home: &'a mut Option<Scope>,
    previous: Option<Scope>,
}

impl<'a> Entered<'a> {
    pub(super) fn new(home: &'a mut Option<Scope>) -> Self {
        let previous = CURRENT.replace(home.take());
        Self { home, previous }
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        *self.home = CURRENT.replace(self.previous.take());
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Scope>> = const { RefCell::new(None) };
}
