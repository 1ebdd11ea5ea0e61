//! What a session says to the one of the peer.

use std::any::Any;
use std::ops::Bound;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde::Serialize;

use super::{CLAIM, DELIVERY_TIMEOUT, GRANT, IDS_MAX, PUSH, RELEASE, STOP, Session};
use crate::rpc::call::Remote;
use crate::rpc::codec;
use crate::rpc::error::{Code, Failure, Outcome, RpcError};
use crate::rpc::handle::HandleId;
use crate::rpc::stream::{Inlet, Outlet, Push, Window, Word, stopped};
use crate::runtime::BoxFuture;

/// Messages of a session that are under way at once; the others wait.
const MESSAGES_MAX: usize = 64;

/// The pause before a busy peer is asked again, at least.
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// Something to be said to the peer.
enum Message {
    Claim(Vec<HandleId>),
    Release(Vec<HandleId>),
    Grant(HandleId, Window),
    Stop(HandleId),
    Push(HandleId, Push),
}

/// Says what the handles of `session` have to say, until its connection ends.
pub(super) async fn speak(session: Arc<Session>) {
    let mut answers: FuturesUnordered<BoxFuture<()>> = FuturesUnordered::new();
    let mut kept = false;
    loop {
        let (next_claim, in_use) = {
            let state = session.lock();
            if state.ended.is_some() {
                return;
            }
            (state.unclaimed.front().map(|(due, _)| *due), state.handles() > 0)
        };
        if kept != in_use {
            kept = in_use;
            session.host.keep(kept);
        }
        while answers.len() < MESSAGES_MAX
            && let Some(message) = session.next_message()
        {
            answers.push(say(&session, message));
        }
        let mut timer = next_claim.map(|due| session.channel.runtime().sleep_until(due));
        let mut woken = pin!(session.wake.notified());
        std::future::poll_fn(|cx| {
            let answered = matches!(answers.poll_next_unpin(cx), Poll::Ready(Some(())));
            let due = timer.as_mut().is_some_and(|timer| timer.as_mut().poll(cx).is_ready());
            if woken.as_mut().poll(cx).is_ready() || answered || due {
                return Poll::Ready(());
            }
            Poll::Pending
        })
        .await;
        session.expire_claims();
    }
}

impl Session {
    fn next_message(&self) -> Option<Message> {
        loop {
            let id = {
                let mut state = self.lock();
                if !state.claims.is_empty() {
                    return Some(Message::Claim(first(&mut state.claims)));
                }
                if !state.releases.is_empty() {
                    return Some(Message::Release(first(&mut state.releases)));
                }
                let next = state.stirred.range((Bound::Excluded(state.spoke), Bound::Unbounded)).next();
                let id = *next.or_else(|| state.stirred.first())?;
                state.stirred.remove(&id);
                state.spoke = id;
                id
            };
            let message = self.entry(id).and_then(|end| word_of(id, &*end));
            if message.is_some() {
                return message;
            }
        }
    }

    /// Handles of answers that nobody read are dead.
    fn expire_claims(&self) {
        let now = self.channel.runtime().now();
        let error = RpcError::new(Code::Aborted, Outcome::Unknown, "the answer that carried it was not read");
        loop {
            let expired = {
                let mut state = self.lock();
                let Some((_, id)) = state.unclaimed.front().copied().filter(|(due, _)| *due <= now) else {
                    return;
                };
                state.unclaimed.pop_front();
                state.passed.remove(&id)
            };
            if let Some(expired) = expired {
                expired.detach(&error);
            }
        }
    }

    fn on_answered(self: &Arc<Self>, id: HandleId, word: Word, result: Result<(), RpcError>) {
        match (self.find::<Inlet>(id), word, result) {
            // A producer that knows nothing of the stream will not produce.
            (Some(inlet), Word::Grant(_), Err(error)) => {
                inlet.fail(error);
                self.forget(id);
            }
            (Some(_), Word::Stop, _) => self.forget(id),
            _ => {}
        }
    }

    fn on_pushed(self: &Arc<Self>, id: HandleId, size: u64, result: Result<(), RpcError>) {
        let Some(outlet) = self.find::<Outlet>(id) else { return };
        if outlet.on_pushed(size, result.map_err(as_stop)) {
            self.forget(id);
        } else {
            self.stir(id);
        }
    }
}

/// What the end `id` of a stream has to say.
fn word_of(id: HandleId, end: &dyn Any) -> Option<Message> {
    if let Some(outlet) = end.downcast_ref::<Outlet>() {
        return outlet.next_push().map(|push| Message::Push(id, push));
    }
    end.downcast_ref::<Inlet>()?.next_word().map(|word| match word {
        Word::Grant(limit) => Message::Grant(id, limit),
        Word::Stop => Message::Stop(id),
    })
}

/// Sends a message; the future ends when it was answered.
fn say(session: &Arc<Session>, message: Message) -> BoxFuture<()> {
    let session = Arc::clone(session);
    match message {
        Message::Claim(ids) => {
            let answer = call(&session, CLAIM, &ids);
            Box::pin(async move { drop(answer.await) })
        }
        Message::Release(ids) => {
            let answer = call(&session, RELEASE, &ids);
            Box::pin(async move { drop(answer.await) })
        }
        Message::Grant(id, limit) => {
            let answer = call(&session, GRANT, &(id, limit.items, limit.bytes));
            Box::pin(async move { session.on_answered(id, Word::Grant(limit), answer.await) })
        }
        Message::Stop(id) => {
            let answer = call(&session, STOP, &(id,));
            Box::pin(async move { session.on_answered(id, Word::Stop, answer.await) })
        }
        Message::Push(id, push) => {
            let size = push.items.len() as u64;
            let (last, error) = push.end.map_or((false, None), |error| (true, error));
            let answer = call(&session, PUSH, &(id, push.first, push.count, push.items, last, error));
            Box::pin(async move { session.on_pushed(id, size, answer.await) })
        }
    }
}

/// Makes a call of a reserved method. A peer that is too busy for it is asked again: items must not get lost.
fn call(session: &Arc<Session>, method: &str, request: &impl Serialize) -> BoxFuture<Result<(), RpcError>> {
    let session = Arc::clone(session);
    let remote = Remote::new(Arc::clone(&session.channel));
    let (method, body) = (method.to_owned(), codec::encode(request));
    Box::pin(async move {
        let body = body.map_err(|error| RpcError::not_executed(Code::BadRequest, error.to_string()))?;
        let runtime = session.channel.runtime();
        let deadline = runtime.now() + DELIVERY_TIMEOUT;
        loop {
            match remote.call_raw(&method, body.clone()).deadline(deadline).once().await {
                Ok(_) => return Ok(()),
                Err(Failure::Rpc(error)) if error.code != Code::ServerBusy => return Err(error),
                Err(Failure::Rpc(error)) => {
                    let pause = error.retry_after.unwrap_or(BUSY_PAUSE).max(BUSY_PAUSE);
                    if runtime.now() + pause >= deadline {
                        return Err(error);
                    }
                    runtime.sleep(pause).await;
                }
                Err(Failure::Method(_)) => {
                    return Err(RpcError::new(Code::Codec, Outcome::Executed, "not a known answer"));
                }
            }
        }
    })
}

/// A consumer that is not there any more has stopped, whether or not it said so.
fn as_stop(error: RpcError) -> RpcError {
    if matches!(error.code, Code::MethodNotFound | Code::Cancelled) { stopped() } else { error }
}

fn first(ids: &mut Vec<HandleId>) -> Vec<HandleId> {
    let count = ids.len().min(IDS_MAX);
    ids.drain(..count).collect()
}
