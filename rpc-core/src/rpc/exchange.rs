//! A call between its options and its answer: transmitted, retried where that is safe, ended in exactly one outcome.
//!
//! Most calls are answered at their first transmission, and for them an [`Exchange`] is all there is: it begins the
//! transmission where it is first polled and takes its answer there. What is more goes on as a future of its own: calls
//! of a handler, which end with it, interceptors, and what follows the first error.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;

use super::channel::{Answer, Attempt, Channel, Ticket};
use super::error::{Code, Failure, Origin, Outcome, RpcError};
use super::handle::Cargo;
use super::meta::{HOPS_MAX, Meta, Trace};
use super::metrics::CallCounters;
use super::observe::{self, Called};
use super::path::MethodId;
use super::scope::Scope;
use crate::endpoint::Lane;
use crate::runtime::{BoxFuture, Instant};

/// How long a call may take unless told otherwise.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);

/// How a call is made.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) timeout: Duration,
    /// Instead of the timeout.
    pub(super) deadline: Option<Instant>,
    pub(super) lane: Lane,
    pub(super) idempotent: bool,
    pub(super) retry: bool,
    pub(super) compress: Option<bool>,
    pub(super) detached: bool,
    pub(super) meta: Option<Box<Meta>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timeout: TIMEOUT_DEFAULT,
            deadline: None,
            lane: Lane::Normal,
            idempotent: false,
            retry: true,
            compress: None,
            detached: false,
            meta: None,
        }
    }
}

impl Options {
    pub(super) fn meta(&mut self) -> &mut Meta {
        self.meta.get_or_insert_default()
    }

    /// The scope that a call is made in; called where the call is, not where it is polled.
    pub(super) fn scope(&self) -> Option<Scope> {
        if self.detached { None } else { Scope::current() }
    }
}

/// What is asked of a peer: the method and its name, the encoded request and what travels beside it.
pub(super) struct Question {
    pub(super) method: MethodId,
    pub(super) name: Arc<str>,
    pub(super) body: Bytes,
    pub(super) cargo: Cargo,
}

/// A call on its way; dropped before its end, it is given up.
pub(super) struct Exchange {
    channel: Arc<dyn Channel>,
    stage: Stage,
}

enum Stage {
    /// Nothing was sent.
    Start {
        question: Question,
        options: Options,
    },
    /// The first transmission is on its way.
    First {
        request: Attempt,
        retry: bool,
        ticket: Ticket,
    },
    /// All that is not so simple.
    Long(BoxFuture<Answer>),
    Ended,
}

impl Exchange {
    /// A call that is made in `scope`, which is that of where it was written, not of where it is polled.
    pub(super) fn new(
        channel: Arc<dyn Channel>,
        question: Question,
        options: Options,
        scope: Option<Scope>,
    ) -> Self {
        let stage = match scope {
            None => Stage::Start { question, options },
            Some(scope) => Stage::Long(Box::pin(in_scope(Arc::clone(&channel), question, options, scope))),
        };
        Self { channel, stage }
    }

    pub(super) const fn channel(&self) -> &Arc<dyn Channel> {
        &self.channel
    }

    /// Sends the call, the simple way if there is one.
    fn start(&mut self, question: Question, options: Options, cx: &mut Context<'_>) -> Poll<Answer> {
        let now = self.channel.runtime().now();
        let deadline = options.deadline.unwrap_or(now + options.timeout);
        let retry = options.retry;
        let request = request(&*self.channel, question, options, deadline);
        let watched = observe::calling(self.channel.runtime(), &request);
        if watched.is_none() && self.channel.interception().is_none() {
            match self.channel.begin(&request, now, cx.waker()) {
                Some(Ok(ticket)) => {
                    count(&*self.channel);
                    self.stage = Stage::First { request, retry, ticket };
                    // Whoever ends it wakes this task: there is nothing to look at before.
                    return Poll::Pending;
                }
                Some(Err(error)) => {
                    count(&*self.channel);
                    return self.go_on(request, retry, error, cx);
                }
                None => {}
            }
        }
        let channel = Arc::clone(&self.channel);
        self.go_long(Box::pin(watch(channel, request, retry, watched)), cx)
    }

    /// The first transmission has ended.
    fn end_first(&mut self, answer: Answer, cx: &mut Context<'_>) -> Poll<Answer> {
        match (std::mem::replace(&mut self.stage, Stage::Ended), answer) {
            (Stage::First { request, retry, .. }, Err(Failure::Rpc(error))) => {
                self.go_on(request, retry, error, cx)
            }
            (_, answer) => Poll::Ready(answer),
        }
    }

    fn go_on(
        &mut self,
        request: Attempt,
        retry: bool,
        error: RpcError,
        cx: &mut Context<'_>,
    ) -> Poll<Answer> {
        self.go_long(Box::pin(repeat_after(Arc::clone(&self.channel), request, retry, error)), cx)
    }

    fn go_long(&mut self, mut long: BoxFuture<Answer>, cx: &mut Context<'_>) -> Poll<Answer> {
        let polled = long.as_mut().poll(cx);
        self.stage = Stage::Long(long);
        polled
    }
}

impl Future for Exchange {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        let this = &mut *self;
        match &mut this.stage {
            Stage::First { request, ticket, .. } => {
                let answer = ready!(this.channel.poll_end(cx, request, ticket));
                return this.end_first(answer, cx);
            }
            Stage::Long(long) => return long.as_mut().poll(cx),
            Stage::Start { .. } | Stage::Ended => {}
        }
        match std::mem::replace(&mut this.stage, Stage::Ended) {
            Stage::Start { question, options } => this.start(question, options, cx),
            _ => Poll::Pending,
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Stage::First { ticket, .. } = std::mem::replace(&mut self.stage, Stage::Ended) {
            self.channel.give_up(ticket);
        }
    }
}

/// The first transmission of a call with these options.
fn request(channel: &dyn Channel, question: Question, options: Options, deadline: Instant) -> Attempt {
    let Question { method, name, body, cargo } = question;
    let mut meta = options.meta;
    if let Some(trace) = meta.as_mut().and_then(|meta| meta.trace.as_mut()) {
        trace.span = channel.runtime().random_u64();
    }
    let keyed = meta.as_ref().is_some_and(|meta| meta.key.is_some());
    Attempt {
        method,
        name,
        lane: options.lane,
        deadline,
        idempotent: options.idempotent || keyed,
        meta: meta.map(Arc::from),
        compress: options.compress,
        body,
        cargo,
    }
}

/// Makes a call that belongs to the one that is served in `scope`.
async fn in_scope(
    channel: Arc<dyn Channel>,
    question: Question,
    mut options: Options,
    scope: Scope,
) -> Answer {
    let deadline = options.deadline.unwrap_or_else(|| channel.runtime().now() + options.timeout);
    carry_on(&mut options.meta, scope.trace())?;
    let retry = options.retry;
    let request = request(&*channel, question, options, deadline.min(scope.deadline()));
    let watched = observe::calling(channel.runtime(), &request);
    let call = Box::pin(watch(channel, request, retry, watched));
    unless_stopped(call, &scope).await
}

/// Makes a call, through the interceptors if there are any, and tells who watches how it ended.
async fn watch(channel: Arc<dyn Channel>, request: Attempt, retry: bool, watched: Option<Called>) -> Answer {
    let repeated = Arc::clone(&channel);
    let answer = match channel.interception() {
        Some(around) => {
            let next =
                Box::new(move |request| -> BoxFuture<Answer> { Box::pin(repeat(repeated, request, retry)) });
            around.call(request, next).await
        }
        None => repeat(repeated, request, retry).await,
    };
    if let Some(watched) = watched {
        watched.ended(channel.runtime(), channel.address(), &answer);
    }
    answer
}

/// Puts the trace of the call that is served into the metadata of one that its handler makes.
fn carry_on(meta: &mut Option<Box<Meta>>, trace: Option<&Trace>) -> Result<(), RpcError> {
    let Some(trace) = trace else { return Ok(()) };
    if trace.hops.len() > HOPS_MAX {
        let message = format!("a traced call was called on {HOPS_MAX} times: it runs in a circle");
        return Err(RpcError::not_executed(Code::BadRequest, message));
    }
    meta.get_or_insert_default().trace.get_or_insert_with(|| trace.clone());
    Ok(())
}

/// Gives a call up when the handler that made it is stopped, wherever the call is polled.
async fn unless_stopped(mut call: BoxFuture<Answer>, scope: &Scope) -> Answer {
    let mut stopped = pin!(scope.stopped());
    poll_fn(|cx| {
        if let Poll::Ready(answer) = call.as_mut().poll(cx) {
            return Poll::Ready(answer);
        }
        stopped.as_mut().poll(cx).map(|()| {
            let message = "the call that this one was made for was given up";
            Err(RpcError::new(Code::Cancelled, Outcome::Unknown, message).into())
        })
    })
    .await
}

/// Counts a call towards the retries that its remote is good for.
fn count(channel: &dyn Channel) {
    if let Some(budget) = channel.budget() {
        budget.on_call();
    }
}

/// Transmits a call until it ends: again after *not executed* if that may change, and after *unknown* if the call is
/// idempotent; never past the deadline, and not more often than the remote's budget allows. The outcome of the last
/// error is the worst over all transmissions.
async fn repeat(channel: Arc<dyn Channel>, request: Attempt, retry: bool) -> Answer {
    count(&*channel);
    match attempt(&channel, request.clone()).await {
        Err(Failure::Rpc(error)) => repeat_after(channel, request, retry, error).await,
        settled => settled,
    }
}

/// What [`repeat`] does after the first transmission ended in `error`.
async fn repeat_after(
    channel: Arc<dyn Channel>,
    request: Attempt,
    retry: bool,
    mut error: RpcError,
) -> Answer {
    let mut worst = Outcome::NotExecuted;
    let mut retries = 0;
    loop {
        let safe = request.idempotent || error.outcome == Outcome::NotExecuted;
        worst = worst.max(error.outcome);
        error.outcome = worst;
        let pause = if retry && safe && error.code.is_transient() {
            next_try(&*channel, &request, retries, &error)
        } else {
            None
        };
        let Some(pause) = pause else {
            let origin = || Origin { address: channel.address(), method: request.name.to_string() };
            error.origin.get_or_insert_with(|| Box::new(origin()));
            return Err(error.into());
        };
        channel.runtime().sleep(pause).await;
        retries += 1;
        error = match attempt(&channel, request.clone()).await {
            Err(Failure::Rpc(error)) => error,
            settled => return settled,
        };
    }
}

/// The pause before the next try of a call; nothing if there is none.
fn next_try(channel: &dyn Channel, request: &Attempt, retries: u32, error: &RpcError) -> Option<Duration> {
    let runtime = channel.runtime();
    let counters = channel.counters();
    let count = |pick: fn(&CallCounters) -> &AtomicU64| {
        if let Some(counters) = counters {
            pick(counters).fetch_add(1, Ordering::Relaxed);
        }
    };
    let now = runtime.now();
    let pause = channel.retries().pause(retries, error, runtime);
    if now + pause >= request.deadline {
        count(|counters| &counters.retries_past_deadline);
        return None;
    }
    if !channel.budget().is_none_or(|budget| budget.take(now)) {
        count(|counters| &counters.retries_over_budget);
        return None;
    }
    count(|counters| &counters.retries);
    Some(pause)
}

fn attempt(channel: &Arc<dyn Channel>, request: Attempt) -> BoxFuture<Answer> {
    match channel.interception() {
        Some(around) => {
            let channel = Arc::clone(channel);
            around.attempt(request, Box::new(move |request| channel.attempt(request)))
        }
        None => channel.attempt(request),
    }
}
