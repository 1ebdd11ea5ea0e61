//! Scatter and gather: one call to each of many peers, and a rule that says when enough is known.
//!
//! | function | ends when | gives |
//! | --- | --- | --- |
//! | [`all`] | every call has ended | every reply |
//! | [`any`] | one call succeeded, or none can | its value, or every reason |
//! | [`quorum`] | `wanted` calls succeeded, or so many cannot any more | the replies so far, either way |
//! | [`first`] | `wanted` calls succeeded, or all have ended | the replies so far |
//! | [`until`] | every call has ended, or the deadline is there | the replies so far |
//! | [`hedged`] | as [`any`], but the next peer is asked only when the one before takes its time or fails | its value |
//!
//! They combine: `scatter(calls).until(&runtime, deadline).hedged(&runtime, pause).quorum(2)`; and a [`Scatter`] is a
//! stream of results as they come. All of it is polled by the caller: no task, nothing runs unless it is awaited.
//!
//! What a peer's call came to is never guessed. A call that the gathering did not wait for is dropped, which cancels
//! it: it is reported as [`Reply::Cancelled`] (outcome *unknown*), or as [`Reply::NotStarted`] if no byte of it was
//! handed to the transport.
//!
//! ```
//! # use rpc_core::rpc::{CallError, Never};
//! # async fn add(peer: u64) -> Result<u64, CallError<Never>> { Ok(peer + 2) }
//! # futures_util::FutureExt::now_or_never(async {
//! use rpc_core::gather;
//!
//! // In a program: remotes.iter().map(|remote| CalcClient::new(remote.clone()).add(1, 2))
//! let replies = gather::quorum(2, [1, 2, 3].map(add)).await.expect("two of three answer");
//! assert!(replies.values().count() >= 2);
//! # }).expect("done at once");
//! ```

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::ops::Index;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, Stream, StreamExt};

use crate::rpc::{CallError, Outcome};
use crate::runtime::{BoxFuture, Instant, Runtime};

/// Every call to its end.
pub async fn all<I, C, T, E>(calls: I) -> Replies<T, E>
where
    I: IntoIterator<Item = C>,
    C: IntoFuture<Output = Result<T, E>>,
{
    scatter(calls).all().await
}

/// The first success, with the position of its call.
///
/// # Errors
/// When every call failed: all reasons.
pub async fn any<I, C, T, E>(calls: I) -> Result<(usize, T), Short<T, E>>
where
    I: IntoIterator<Item = C>,
    C: IntoFuture<Output = Result<T, E>>,
{
    scatter(calls).any().await
}

/// `wanted` successes.
///
/// # Errors
/// As soon as so many cannot be reached any more: what each peer said.
pub async fn quorum<I, C, T, E>(wanted: usize, calls: I) -> Result<Replies<T, E>, Short<T, E>>
where
    I: IntoIterator<Item = C>,
    C: IntoFuture<Output = Result<T, E>>,
{
    scatter(calls).quorum(wanted).await
}

/// The first `wanted` successes, or fewer when all calls have ended.
pub async fn first<I, C, T, E>(wanted: usize, calls: I) -> Replies<T, E>
where
    I: IntoIterator<Item = C>,
    C: IntoFuture<Output = Result<T, E>>,
{
    scatter(calls).first(wanted).await
}

/// What every call came to by `deadline`.
pub async fn until<I, C, T, E>(runtime: &Runtime, deadline: Instant, calls: I) -> Replies<T, E>
where
    I: IntoIterator<Item = C>,
    C: IntoFuture<Output = Result<T, E>>,
{
    scatter(calls).until(runtime, deadline).all().await
}

/// The first success; each call but the first starts only when the one before it has taken `pause`, or failed.
///
/// # Errors
/// When every call failed: all reasons.
pub async fn hedged<I, C, T, E>(
    runtime: &Runtime,
    pause: Duration,
    calls: I,
) -> Result<(usize, T), Short<T, E>>
where
    I: IntoIterator<Item = C>,
    C: IntoFuture<Output = Result<T, E>>,
{
    scatter(calls).hedged(runtime, pause).any().await
}

/// Prepares calls; they start when the result is awaited or polled as a stream.
pub fn scatter<I, C>(calls: I) -> Scatter<C::IntoFuture>
where
    I: IntoIterator<Item = C>,
    C: IntoFuture,
{
    let waiting: VecDeque<_> = calls.into_iter().map(|call| Box::pin(call.into_future())).collect();
    let (count, running) = (waiting.len(), FuturesUnordered::new());
    Scatter { count, waiting, running, deadline: None, over: false, hedge: None }
}

/// Calls to many peers. As a stream it gives `(position of the call, result)` as they come, and ends when all calls
/// have ended or the deadline is there; dropping it cancels the calls that are open.
#[must_use = "calls start when they are awaited"]
pub struct Scatter<F> {
    count: usize,
    waiting: VecDeque<Pin<Box<F>>>,
    running: FuturesUnordered<Running<F>>,
    deadline: Option<BoxFuture<()>>,
    /// The deadline was there.
    over: bool,
    hedge: Option<Hedge>,
}

/// A call that may start.
struct Running<F> {
    position: usize,
    /// It was polled: some of it may have left this machine.
    started: bool,
    future: Pin<Box<F>>,
}

impl<F: Future> Future for Running<F> {
    type Output = (usize, F::Output);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.started = true;
        let position = self.position;
        self.future.as_mut().poll(cx).map(|output| (position, output))
    }
}

/// When the next call starts although others are open.
struct Hedge {
    runtime: Runtime,
    pause: Duration,
    /// So many calls are open while there are any.
    open_min: usize,
    sleep: Option<BoxFuture<()>>,
}

impl<F, T, E> Scatter<F>
where
    F: Future<Output = Result<T, E>>,
{
    /// Ends the gathering at `deadline`: calls that are open then are cancelled.
    pub fn until(mut self, runtime: &Runtime, deadline: Instant) -> Self {
        self.deadline = Some(runtime.sleep_until(deadline));
        self
    }

    /// Starts only as many calls as are needed, another one whenever one fails, and another one whenever `pause` went
    /// by without a start.
    pub fn hedged(mut self, runtime: &Runtime, pause: Duration) -> Self {
        self.hedge = Some(Hedge { runtime: runtime.clone(), pause, open_min: 1, sleep: None });
        self
    }

    /// Waits for every call.
    pub async fn all(mut self) -> Replies<T, E> {
        let mut replies = Replies::open(self.count);
        self.need(self.count);
        while let Some((position, result)) = self.next().await {
            replies.0[position] = result.into();
        }
        self.end(replies)
    }

    /// Waits for one success.
    ///
    /// # Errors
    /// When no call succeeded: all reasons.
    pub async fn any(self) -> Result<(usize, T), Short<T, E>> {
        let Replies(replies) = self.quorum(1).await?;
        let success = replies.into_iter().enumerate().find_map(|(position, reply)| match reply {
            Reply::Ok(value) => Some((position, value)),
            _ => None,
        });
        Ok(success.expect("a quorum of one has a success"))
    }

    /// Waits for `wanted` successes; with none wanted, nothing is started.
    ///
    /// # Errors
    /// As soon as so many cannot be reached any more, or the deadline is there: what each peer said.
    pub async fn quorum(mut self, wanted: usize) -> Result<Replies<T, E>, Short<T, E>> {
        let (mut replies, mut succeeded) = (Replies::open(self.count), 0);
        while succeeded < wanted && succeeded + self.open_count() >= wanted {
            self.need(wanted - succeeded);
            let Some((position, result)) = self.next().await else { break };
            succeeded += usize::from(result.is_ok());
            replies.0[position] = result.into();
        }
        let replies = self.end(replies);
        if succeeded >= wanted { Ok(replies) } else { Err(Short { wanted, replies }) }
    }

    /// Waits for `wanted` successes, or for the end of all calls.
    pub async fn first(mut self, wanted: usize) -> Replies<T, E> {
        let (mut replies, mut succeeded) = (Replies::open(self.count), 0);
        while succeeded < wanted {
            self.need(wanted - succeeded);
            let Some((position, result)) = self.next().await else { break };
            succeeded += usize::from(result.is_ok());
            replies.0[position] = result.into();
        }
        self.end(replies)
    }

    /// Calls that have not ended.
    fn open_count(&self) -> usize {
        self.waiting.len() + self.running.len()
    }

    /// A hedge keeps `count` calls open.
    fn need(&mut self, count: usize) {
        if let Some(hedge) = &mut self.hedge {
            hedge.open_min = count;
        }
    }

    /// Lets calls start: all of them, or as many as the hedge says.
    fn start(&mut self) {
        let open_min = self.hedge.as_ref().map_or(usize::MAX, |hedge| hedge.open_min);
        while self.running.len() < open_min && self.start_one() {}
    }

    fn start_one(&mut self) -> bool {
        let position = self.count - self.waiting.len();
        let Some(future) = self.waiting.pop_front() else { return false };
        self.running.push(Running { position, started: false, future });
        if let Some(hedge) = &mut self.hedge {
            hedge.sleep = Some(hedge.runtime.sleep(hedge.pause));
        }
        true
    }

    /// Cancels what is open and says so.
    fn end(self, mut replies: Replies<T, E>) -> Replies<T, E> {
        for running in &self.running {
            if running.started {
                replies.0[running.position] = Reply::Cancelled;
            }
        }
        replies
    }
}

impl<F, T, E> Stream for Scatter<F>
where
    F: Future<Output = Result<T, E>>,
{
    type Item = (usize, F::Output);

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        while !this.over {
            this.start();
            match this.running.poll_next_unpin(cx) {
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(ended) => return Poll::Ready(ended),
                Poll::Pending => {}
            }
            if this.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready()) {
                this.over = true;
                break;
            }
            let Some(hedge) = &mut this.hedge else { return Poll::Pending };
            let Some(sleep) = &mut hedge.sleep else { return Poll::Pending };
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            hedge.sleep = None;
            if !this.start_one() {
                return Poll::Pending;
            }
        }
        Poll::Ready(None)
    }
}

impl<F> fmt::Debug for Scatter<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scatter")
            .field("count", &self.count)
            .field("waiting", &self.waiting.len())
            .field("running", &self.running.len())
            .finish_non_exhaustive()
    }
}

/// What one peer's call came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply<T, E> {
    /// It succeeded.
    Ok(T),
    /// It failed; the error says with which outcome.
    Failed(E),
    /// It was open when the gathering ended, and was cancelled: it may have been executed.
    Cancelled,
    /// It had not started when the gathering ended, and never will.
    NotStarted,
}

impl<T, E> From<Result<T, E>> for Reply<T, E> {
    fn from(result: Result<T, E>) -> Self {
        result.map_or_else(Self::Failed, Self::Ok)
    }
}

impl<T, E> Reply<T, CallError<E>> {
    /// What became of the method at this peer.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Ok(_) => Outcome::Executed,
            Self::Failed(error) => error.outcome(),
            Self::Cancelled => Outcome::Unknown,
            Self::NotStarted => Outcome::NotExecuted,
        }
    }
}

impl<T, E: fmt::Display> fmt::Display for Reply<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok(_) => f.write_str("succeeded"),
            Self::Failed(error) => error.fmt(f),
            Self::Cancelled => f.write_str("cancelled (unknown)"),
            Self::NotStarted => f.write_str("not started"),
        }
    }
}

/// One reply for each call, in the order of the calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replies<T, E>(Vec<Reply<T, E>>);

impl<T, E> Replies<T, E> {
    fn open(count: usize) -> Self {
        Self(std::iter::repeat_with(|| Reply::NotStarted).take(count).collect())
    }

    /// All of them, in the order of the calls.
    pub fn iter(&self) -> std::slice::Iter<'_, Reply<T, E>> {
        self.0.iter()
    }

    /// The values of the calls that succeeded, with their positions.
    pub fn values(&self) -> impl Iterator<Item = (usize, &T)> {
        self.iter().enumerate().filter_map(|(position, reply)| match reply {
            Reply::Ok(value) => Some((position, value)),
            _ => None,
        })
    }

    /// The errors of the calls that failed, with their positions.
    pub fn failures(&self) -> impl Iterator<Item = (usize, &E)> {
        self.iter().enumerate().filter_map(|(position, reply)| match reply {
            Reply::Failed(error) => Some((position, error)),
            _ => None,
        })
    }
}

impl<T, E> Index<usize> for Replies<T, E> {
    type Output = Reply<T, E>;

    fn index(&self, position: usize) -> &Reply<T, E> {
        &self.0[position]
    }
}

impl<T, E> IntoIterator for Replies<T, E> {
    type Item = Reply<T, E>;
    type IntoIter = std::vec::IntoIter<Reply<T, E>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a, T, E> IntoIterator for &'a Replies<T, E> {
    type Item = &'a Reply<T, E>;
    type IntoIter = std::slice::Iter<'a, Reply<T, E>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Fewer peers than wanted succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Short<T, E> {
    /// How many should have.
    pub wanted: usize,
    /// What each call came to. Those that succeeded were executed.
    pub replies: Replies<T, E>,
}

impl<T, E: fmt::Display> fmt::Display for Short<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let succeeded = self.replies.values().count();
        write!(f, "{succeeded} of {} calls succeeded, {} wanted", self.replies.0.len(), self.wanted)?;
        for (position, reply) in self.replies.iter().enumerate() {
            write!(f, "; {position}: {reply}")?;
        }
        Ok(())
    }
}

impl<T: fmt::Debug, E: fmt::Debug + fmt::Display> std::error::Error for Short<T, E> {}

#[cfg(test)]
mod tests;
