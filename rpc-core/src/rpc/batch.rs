//! Several calls of any methods, sent together.

use std::fmt;
use std::future::IntoFuture;

use futures_util::future::join_all;
use tokio::sync::oneshot;

use crate::runtime::BoxFuture;

/// Calls that leave in one flush, so that they share datagrams, and are awaited together.
///
/// A batch saves packets and waiting, and promises nothing else: each call ends by itself, in its own outcome; some
/// may run and others not, in any order, and at the same time; there is no rollback. Each call keeps its deadline,
/// its retries and its lane.
///
/// More calls than the connection allows at once (`calls_max`, 1,024 unless set) are refused by this side and tried
/// again after a pause, as any call is.
#[must_use = "a batch is sent when its `send` is awaited"]
#[derive(Default)]
pub struct Batch {
    calls: Vec<BoxFuture<()>>,
}

impl Batch {
    /// No calls.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a call; its answer is in what is returned once the batch was sent.
    pub fn add<C>(&mut self, call: C) -> BatchAnswer<C::Output>
    where
        C: IntoFuture<Output: Send + 'static, IntoFuture: Send + 'static>,
    {
        let (sender, answer) = oneshot::channel();
        let call = call.into_future();
        self.calls.push(Box::pin(async move {
            let _ = sender.send(call.await);
        }));
        BatchAnswer { answer }
    }

    /// How many calls it has.
    pub fn len(&self) -> usize {
        self.calls.len()
    }

    /// Whether it has no calls.
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Sends all calls and waits until each has ended.
    pub async fn send(self) {
        join_all(self.calls).await;
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batch({} calls)", self.calls.len())
    }
}

/// The answer to one call of a [`Batch`].
#[derive(Debug)]
pub struct BatchAnswer<T> {
    answer: oneshot::Receiver<T>,
}

impl<T> BatchAnswer<T> {
    /// The answer; `None` while the batch was not sent to its end.
    pub fn take(mut self) -> Option<T> {
        self.answer.try_recv().ok()
    }
}
