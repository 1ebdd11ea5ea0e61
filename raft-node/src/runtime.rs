//! openraft's async runtime, standing on the [`Runtime`] of the node that is being polled.
//!
//! openraft's runtime trait has static functions only. Ours read [`Runtime::current`], which its own
//! [`NodeRuntime::spawn`](AsyncRuntime::spawn) sets for every task of openraft; every call into a Raft handle from
//! elsewhere must enter it with [`Runtime::enter`]. So one process can hold many simulated nodes, each with its own
//! clock, and a crash of one stops exactly its tasks. This is the one module where `rand` may be named.
//!
//! Channels are tokio's, which need no tokio runtime and wake in order of arrival, all but its `watch`, which picks
//! whom to wake first by chance: [`watch`] is ours. Knows nothing of Raft.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use openraft::rt;
use openraft::rt::{AsyncRuntime, OptionalSend};
use rpc_core::driver::system;
use rpc_core::runtime::{Aborted, BoxFuture, Elapsed, Runtime, Task};
use tokio::sync::{Mutex, MutexGuard, mpsc, oneshot};

pub(crate) mod watch;

/// The runtime of the node whose task is being polled.
pub(crate) struct NodeRuntime {
    /// Only for [`AsyncRuntime::block_on`], which openraft uses in its test suites alone.
    tokio: tokio::runtime::Runtime,
}

impl fmt::Debug for NodeRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeRuntime")
    }
}

/// The current node's runtime.
fn current() -> Runtime {
    Runtime::current()
        .expect("calls into openraft are made inside Runtime::enter or a task spawned through it")
}

impl AsyncRuntime for NodeRuntime {
    type JoinError = Aborted;
    type JoinHandle<T: OptionalSend + 'static> = Task<T>;
    type Sleep = BoxFuture<()>;
    type Instant = Instant;
    type TimeoutError = Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = Timeout<T>;
    type ThreadLocalRng = Random;
    type Mpsc = Channel;
    type Watch = watch::Channel;
    type Oneshot = Channel;
    type Mutex<T: OptionalSend + 'static> = Lock<T>;

    fn spawn<T>(future: T) -> Task<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        current().spawn("raft", future)
    }

    fn sleep(duration: Duration) -> BoxFuture<()> {
        current().sleep(duration)
    }

    fn sleep_until(deadline: Instant) -> BoxFuture<()> {
        current().sleep_until(deadline.0)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Timeout<F> {
        Timeout { future: Box::pin(future), sleep: current().sleep(duration) }
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Instant, future: F) -> Timeout<F> {
        Timeout { future: Box::pin(future), sleep: current().sleep_until(deadline.0) }
    }

    fn is_panic(_error: &Aborted) -> bool {
        // openraft never aborts the one task that it asks this about, its core: what ended it was a panic, or a crash
        // of the whole node, which nobody is left to hear of.
        true
    }

    fn thread_rng() -> Random {
        Random(current())
    }

    /// For openraft's test suites.
    fn new(_threads: usize) -> Self {
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Self { tokio: tokio.expect("a test machine has threads and timers") }
    }

    /// For openraft's test suites.
    fn block_on<F: Future<Output = T>, T>(&mut self, future: F) -> T {
        let runtime = system::runtime(self.tokio.handle().clone());
        self.tokio.block_on(runtime.enter(future))
    }
}

/// A point on the current node's monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Instant(pub(crate) rpc_core::runtime::Instant);

impl rt::Instant for Instant {
    fn now() -> Self {
        Self(current().now())
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0 + duration)
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, duration: Duration) {
        self.0 += duration;
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0 - duration)
    }
}

impl SubAssign<Duration> for Instant {
    fn sub_assign(&mut self, duration: Duration) {
        self.0 -= duration;
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.0 - earlier.0
    }
}

/// A future with a deadline.
pub(crate) struct Timeout<F> {
    future: Pin<Box<F>>,
    sleep: BoxFuture<()>,
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(output) = self.future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        self.sleep.as_mut().poll(cx).map(|()| Err(Elapsed))
    }
}

/// The current node's random generator.
pub(crate) struct Random(Runtime);

impl rand::TryRng for Random {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.0.random_u64() as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0.random_u64())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill_random(bytes);
        Ok(())
    }
}

/// tokio's `mpsc` and `oneshot`.
pub(crate) struct Channel;

impl rt::Mpsc for Channel {
    type Sender<T: OptionalSend> = Sender<T>;
    type Receiver<T: OptionalSend> = Receiver<T>;
    type WeakSender<T: OptionalSend> = WeakSender<T>;

    fn channel<T: OptionalSend>(capacity: usize) -> (Sender<T>, Receiver<T>) {
        let (sender, receiver) = mpsc::channel(capacity);
        (Sender(sender), Receiver(receiver))
    }
}

/// The sending end of an `mpsc` channel.
pub(crate) struct Sender<T>(mpsc::Sender<T>);

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: OptionalSend> rt::MpscSender<Channel, T> for Sender<T> {
    async fn send(&self, message: T) -> Result<(), rt::SendError<T>> {
        self.0.send(message).await.map_err(|unsent| rt::SendError(unsent.0))
    }

    fn downgrade(&self) -> WeakSender<T> {
        WeakSender(self.0.downgrade())
    }
}

/// The receiving end of an `mpsc` channel.
pub(crate) struct Receiver<T>(mpsc::Receiver<T>);

impl<T: OptionalSend> rt::MpscReceiver<T> for Receiver<T> {
    async fn recv(&mut self) -> Option<T> {
        self.0.recv().await
    }

    fn try_recv(&mut self) -> Result<T, rt::TryRecvError> {
        self.0.try_recv().map_err(|error| match error {
            mpsc::error::TryRecvError::Empty => rt::TryRecvError::Empty,
            mpsc::error::TryRecvError::Disconnected => rt::TryRecvError::Disconnected,
        })
    }
}

/// A sending end that does not keep an `mpsc` channel open.
pub(crate) struct WeakSender<T>(mpsc::WeakSender<T>);

impl<T> Clone for WeakSender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: OptionalSend> rt::MpscWeakSender<Channel, T> for WeakSender<T> {
    fn upgrade(&self) -> Option<Sender<T>> {
        self.0.upgrade().map(Sender)
    }
}

impl rt::Oneshot for Channel {
    type Sender<T: OptionalSend> = OneshotSender<T>;
    type Receiver<T: OptionalSend> = oneshot::Receiver<T>;
    type ReceiverError = oneshot::error::RecvError;

    fn channel<T: OptionalSend>() -> (OneshotSender<T>, oneshot::Receiver<T>) {
        let (sender, receiver) = oneshot::channel();
        (OneshotSender(sender), receiver)
    }
}

/// The sending end of a `oneshot` channel.
pub(crate) struct OneshotSender<T>(oneshot::Sender<T>);

impl<T: OptionalSend> rt::OneshotSender<T> for OneshotSender<T> {
    fn send(self, value: T) -> Result<(), T> {
        self.0.send(value)
    }
}

/// tokio's `Mutex`.
pub(crate) struct Lock<T>(Mutex<T>);

impl<T: OptionalSend + 'static> rt::Mutex<T> for Lock<T> {
    type Guard<'a> = MutexGuard<'a, T>;

    fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    async fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openrafts_own_runtime_suite_passes() {
        // The suite asserts that real sleeps of 50 ms end within 200 ms: a machine that is busy elsewhere may fail it,
        // a wrong runtime fails it every time.
        let passed =
            (0..5).any(|_| std::panic::catch_unwind(rt::testing::Suite::<NodeRuntime>::test_all).is_ok());
        assert!(passed, "see the panics above");
    }
}
