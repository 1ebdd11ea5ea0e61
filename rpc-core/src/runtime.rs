//! Time, randomness and tasks, as handed to everything above the drivers.
//!
//! Product code names no clock, no spawner and no random generator of its own: it holds a [`Runtime`]. On a real
//! machine that is [`crate::driver::system::runtime`]; in a test it is a node of [`crate::sim::World`], where the
//! same calls run in virtual time from one seed. A task that is spawned through a runtime finds it again with
//! [`Runtime::current`], which is how libraries with static runtime traits (openraft) are served.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::oneshot;

/// A boxed future that may move between threads.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A point on one node's monotonic clock: nanoseconds since an origin that only that node knows.
///
/// Two nodes' instants must not be compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The instant `nanos` nanoseconds after the clock's origin.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the clock's origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Microseconds since the clock's origin, rounded down.
    pub const fn as_micros(self) -> u64 {
        self.0 / 1_000
    }

    /// Time since `earlier`; zero if `earlier` is later.
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    /// Saturates at the end of the clock (584 years).
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    /// Saturates at the clock's origin.
    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl SubAssign<Duration> for Instant {
    fn sub_assign(&mut self, duration: Duration) {
        *self = *self - duration;
    }
}

impl Sub for Instant {
    type Output = Duration;

    /// Saturates at zero, as [`Instant::saturating_since`] does.
    fn sub(self, earlier: Self) -> Duration {
        self.saturating_since(earlier)
    }
}

/// What a [`Runtime`] stands on: one implementation for real machines, one for the simulated world.
pub trait Backend: Send + Sync + 'static {
    /// The node's monotonic clock.
    fn now(&self) -> Instant;

    /// Milliseconds since the Unix epoch by the node's wall clock, which may jump.
    fn wall_ms(&self) -> u64;

    /// Completes at or after `deadline` on the node's monotonic clock.
    fn sleep_until(&self, deadline: Instant) -> BoxFuture<()>;

    /// Runs `task` until it ends or is aborted through the returned handle.
    fn spawn(&self, name: &'static str, task: BoxFuture<()>) -> Abort;

    /// Runs `task`, which may block on a disk, on a thread of its own (in simulation: as an ordinary task).
    fn spawn_thread(&self, name: &'static str, task: BoxFuture<()>);

    /// Fills `bytes` with random bytes: the system's on a real machine, the seed's in simulation.
    fn fill_random(&self, bytes: &mut [u8]);

    /// Records an event of ours in the trace of a simulation. Real machines have none: the default does nothing.
    fn trace(&self, _event: &dyn Fn() -> String) {}
}

/// Stops a task at its next suspension point; a second call does nothing.
pub type Abort = Box<dyn Fn() + Send + Sync>;

/// A handle on time, randomness and tasks. Cheap to clone.
#[derive(Clone)]
pub struct Runtime {
    backend: Arc<dyn Backend>,
}

impl Runtime {
    /// A runtime that stands on `backend`.
    pub fn new(backend: Arc<dyn Backend>) -> Self {
        Self { backend }
    }

    /// The runtime of the task that is being polled on this thread, if it was spawned or entered through one.
    pub fn current() -> Option<Self> {
        CURRENT.with(|current| current.borrow().clone())
    }

    /// The node's monotonic clock.
    pub fn now(&self) -> Instant {
        self.backend.now()
    }

    /// Milliseconds since the Unix epoch by the node's wall clock, which may jump.
    pub fn wall_ms(&self) -> u64 {
        self.backend.wall_ms()
    }

    /// Completes `duration` from now.
    pub fn sleep(&self, duration: Duration) -> BoxFuture<()> {
        self.sleep_until(self.now() + duration)
    }

    /// Completes at or after `deadline`.
    pub fn sleep_until(&self, deadline: Instant) -> BoxFuture<()> {
        self.backend.sleep_until(deadline)
    }

    /// Runs `future` for at most `duration`; [`Elapsed`] if it was not done by then (it is dropped).
    pub async fn timeout<F: Future>(&self, duration: Duration, future: F) -> Result<F::Output, Elapsed> {
        self.timeout_at(self.now() + duration, future).await
    }

    /// Runs `future` until `deadline`; [`Elapsed`] if it was not done by then (it is dropped).
    pub async fn timeout_at<F: Future>(&self, deadline: Instant, future: F) -> Result<F::Output, Elapsed> {
        let mut future = pin!(future);
        let mut sleep = self.sleep_until(deadline);
        std::future::poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            sleep.as_mut().poll(cx).map(|()| Err(Elapsed))
        })
        .await
    }

    /// Starts a task that finds this runtime with [`Runtime::current`]. Dropping the returned [`Task`] lets it run on.
    pub fn spawn<F>(&self, name: &'static str, future: F) -> Task<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let (sender, result) = oneshot::channel();
        let entered = self.enter(future);
        let task = async move {
            let _ = sender.send(entered.await);
        };
        Task { result, abort: self.backend.spawn(name, Box::pin(task)) }
    }

    /// Starts a task that may block on a disk: on a thread of its own, in simulation as an ordinary task.
    pub fn spawn_thread<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.backend.spawn_thread(name, Box::pin(self.enter(future)));
    }

    /// Makes this runtime the current one whenever `future` is polled.
    pub fn enter<F: Future>(&self, future: F) -> Entered<F> {
        Entered { runtime: self.clone(), future: Some(Box::pin(future)) }
    }

    /// Fills `bytes` with random bytes.
    pub fn fill_random(&self, bytes: &mut [u8]) {
        self.backend.fill_random(bytes);
    }

    /// A random number.
    pub fn random_u64(&self) -> u64 {
        let mut bytes = [0; 8];
        self.fill_random(&mut bytes);
        u64::from_be_bytes(bytes)
    }

    /// A random number.
    pub fn random_u128(&self) -> u128 {
        let mut bytes = [0; 16];
        self.fill_random(&mut bytes);
        u128::from_be_bytes(bytes)
    }

    /// Records an event in the trace of a simulation; `event` is not called on a real machine.
    pub fn trace(&self, event: impl Fn() -> String) {
        self.backend.trace(&event);
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Runtime")
    }
}

/// The deadline passed before the future was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("deadline has elapsed")
    }
}

impl std::error::Error for Elapsed {}

/// A running task. Awaiting it gives its output; dropping it lets it run on.
pub struct Task<T> {
    result: oneshot::Receiver<T>,
    abort: Abort,
}

impl<T> Task<T> {
    /// Stops the task at its next suspension point; awaiting it then gives [`Aborted`].
    pub fn abort(&self) {
        (self.abort)();
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, Aborted>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.result).poll(cx).map(|result| result.map_err(|_| Aborted))
    }
}

impl<T> fmt::Debug for Task<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Task")
    }
}

/// The task was aborted or panicked, or its node crashed, before it had a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aborted;

impl fmt::Display for Aborted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("task ended without a result")
    }
}

impl std::error::Error for Aborted {}

/// A future that is polled with its runtime as the current one.
#[derive(Debug)]
pub struct Entered<F> {
    runtime: Runtime,
    future: Option<Pin<Box<F>>>,
}

impl<F: Future> Future for Entered<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let previous = CURRENT.with(|current| current.borrow_mut().replace(self.runtime.clone()));
        let _restore = Restore(previous);
        let Some(future) = self.future.as_mut() else { return Poll::Pending };
        future.as_mut().poll(cx)
    }
}

impl<F> Drop for Entered<F> {
    fn drop(&mut self) {
        // A dropped future runs destructors, which may ask for the runtime too (openraft's do).
        let previous = CURRENT.try_with(|current| current.borrow_mut().replace(self.runtime.clone()));
        let _restore = previous.ok().map(Restore);
        self.future = None;
    }
}

/// Puts the previous runtime back, also when a poll panics.
struct Restore(Option<Runtime>);

impl Drop for Restore {
    fn drop(&mut self) {
        let previous = self.0.take();
        let _ = CURRENT.try_with(|current| *current.borrow_mut() = previous);
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Runtime>> = const { RefCell::new(None) };
}
