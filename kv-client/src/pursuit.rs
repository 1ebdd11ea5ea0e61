//! One request, asked of one node after the other until an answer ends it or its time is over.
//!
//! A node that is silent for a while is probed; if it does not answer that either, another node is asked beside it,
//! while the first one may still answer. All requests of this service may be sent twice: reads change nothing, writes
//! carry (session, sequence).

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use rpc_core::rpc::{Call, CallError, Calling};
use rpc_core::runtime::Instant;
use serde::de::DeserializeOwned;

use crate::api::KvClient;
use crate::inner::Inner;
use crate::ledger::Verdict;

/// How long a node may be silent before it is probed.
const PATIENCE: Duration = Duration::from_millis(200);
/// How long a node that was never heard may be silent before another one is asked too.
const PATIENCE_FIRST: Duration = Duration::from_millis(100);
/// How long a node that answers probes may keep a request before another one is asked too.
const PATIENCE_ALIVE: Duration = Duration::from_secs(1);
/// Nodes that are asked at the same time at most.
const ATTEMPTS_MAX: usize = 4;
/// The pause after the first refusal; it doubles with each one, half of it random.
const BACKOFF_MIN: Duration = Duration::from_millis(10);
/// The longest pause after a refusal: an election takes a few times this.
const BACKOFF_MAX: Duration = Duration::from_millis(160);
/// No attempt but the first is begun with less time left: cut off by the deadline it would make a write unknown that
/// is certainly not committed.
const ATTEMPT_TIME_MIN: Duration = Duration::from_millis(50);
/// Between looks at whether a name is resolved by now.
const NAMES_PAUSE: Duration = Duration::from_millis(20);

/// What follows from the answer to one attempt.
pub(crate) enum Step<O> {
    /// The request is done.
    Done(O),
    /// Go on as it says; [`Verdict::Settled`] is no step.
    Go(Verdict),
}

/// An attempt that is not answered yet.
struct Attempt<R, E> {
    address: SocketAddr,
    answer: Calling<R, E>,
    begun: Instant,
    /// When to look after a node that is silent.
    look: Instant,
}

/// Asks until `judge` is done with an answer. `None` when no attempt is open any more and none may be begun: after a
/// [`Verdict::Stop`], or because the time is over. `judge` has seen every answer then.
pub(crate) async fn pursue<R, E, O>(
    inner: &Arc<Inner>,
    deadline: Instant,
    call: impl Fn(&KvClient) -> Call<R, E>,
    mut judge: impl FnMut(SocketAddr, Result<R, CallError<E>>) -> Step<O>,
) -> Option<O>
where
    R: DeserializeOwned + Send + 'static,
    E: DeserializeOwned + Send + 'static,
{
    let runtime = inner.runtime();
    let mut open: Vec<Attempt<R, E>> = Vec::new();
    let mut next = Some(runtime.now());
    let mut backoff = BACKOFF_MIN;
    let mut is_first = true;
    let mut is_stopped = false;
    loop {
        let now = runtime.now();
        let has_time = now < deadline && (is_first || now + ATTEMPT_TIME_MIN <= deadline);
        if is_stopped || !has_time || open.len() >= ATTEMPTS_MAX {
            next = None;
        }
        if next.is_some_and(|due| due <= now) {
            let busy: Vec<_> = open.iter().map(|attempt| attempt.address).collect();
            // The router's lock must be free again before the attempt begins.
            let choice = inner.router().choose(now, &busy);
            match choice {
                Some(address) => {
                    open.push(begin(inner, address, &call, deadline));
                    is_first = false;
                    next = None;
                }
                None if open.is_empty() => next = Some(deadline.min(now + NAMES_PAUSE)),
                None => next = None,
            }
        }
        if open.is_empty() && next.is_none() {
            return None;
        }
        let may_begin = !is_stopped && has_time && open.len() < ATTEMPTS_MAX;
        let look = open.last().map(|attempt| attempt.look).filter(|_| may_begin && next.is_none());
        let wake = next.into_iter().chain(look).min();
        match answer_until(inner, wake, &mut open).await {
            Some((address, answer)) => {
                inner.observe(address, &answer);
                match judge(address, answer) {
                    Step::Done(output) => return Some(output),
                    Step::Go(Verdict::Again { after, elsewhere }) => {
                        let now = runtime.now();
                        if elsewhere {
                            inner.router().detour(address, now);
                        }
                        let jitter = (runtime.random_u64() % 1_000) as u32;
                        let pause = after.unwrap_or(backoff / 2 + backoff / 2 * jitter / 1_000);
                        backoff = (backoff * 2).min(BACKOFF_MAX);
                        next = Some(next.map_or(now + pause, |due| due.min(now + pause)));
                    }
                    Step::Go(Verdict::Stop | Verdict::Settled(_)) => is_stopped = true,
                }
            }
            None => {
                if let (None, Some(silent)) = (next, open.last_mut())
                    && look_after(inner, silent)
                {
                    next = Some(runtime.now());
                }
            }
        }
    }
}

fn begin<R, E>(
    inner: &Arc<Inner>,
    address: SocketAddr,
    call: &impl Fn(&KvClient) -> Call<R, E>,
    deadline: Instant,
) -> Attempt<R, E>
where
    R: DeserializeOwned + Send + 'static,
    E: DeserializeOwned + Send + 'static,
{
    let now = inner.runtime().now();
    let patience = if inner.router().was_heard(address) { PATIENCE } else { PATIENCE_FIRST };
    let answer = call(&inner.node(address)).deadline(deadline).once().into_future();
    Attempt { address, answer, begun: now, look: now + patience }
}

/// Looks after a node that is silent; true if another one is to be asked beside it.
fn look_after<R, E>(inner: &Arc<Inner>, attempt: &mut Attempt<R, E>) -> bool {
    let now = inner.runtime().now();
    let (was_heard, is_avoided) = {
        let router = inner.router();
        (router.was_heard(attempt.address), router.is_avoided(attempt.address, now))
    };
    attempt.look = now + PATIENCE_ALIVE;
    if !was_heard {
        inner.router().silent(attempt.address, now);
        return true;
    }
    if is_avoided || now - attempt.begun >= PATIENCE_ALIVE {
        return true;
    }
    inner.probe(attempt.address);
    attempt.look = now + crate::inner::PROBE_TIMEOUT + NAMES_PAUSE;
    false
}

/// The first answer to an open attempt; `None` if there is none by `wake`.
async fn answer_until<R, E>(
    inner: &Arc<Inner>,
    wake: Option<Instant>,
    open: &mut Vec<Attempt<R, E>>,
) -> Option<(SocketAddr, Result<R, CallError<E>>)>
where
    R: DeserializeOwned + Send + 'static,
    E: DeserializeOwned + Send + 'static,
{
    let first = poll_fn(|cx| {
        for index in 0..open.len() {
            let poll = Pin::new(&mut open[index].answer).poll(cx);
            if let Poll::Ready(answer) = poll {
                return Poll::Ready((open.remove(index).address, answer));
            }
        }
        Poll::Pending
    });
    match wake {
        Some(wake) => inner.runtime().timeout_at(wake, first).await.ok(),
        None => Some(first.await),
    }
}
