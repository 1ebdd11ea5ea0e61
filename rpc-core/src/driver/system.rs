//! The real runtime: tokio's timers and tasks, the system's clocks and randomness.

#![expect(
    clippy::disallowed_methods,
    reason = "this is the driver that hands time, tasks and randomness out"
)]

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;

use crate::runtime::{Abort, Backend, BoxFuture, Instant, Runtime};

/// The runtime of this process, on the tokio runtime that is current when tasks are spawned through it.
pub fn runtime(handle: tokio::runtime::Handle) -> Runtime {
    Runtime::new(Arc::new(System { origin: std::time::Instant::now(), handle, _kept: None }))
}

/// The same, and what ends when the last clone of the runtime is dropped: until then, the tokio runtime must live, for
/// somebody may wait for one of its timers.
#[cfg(feature = "blocking")]
pub(crate) fn kept_runtime(handle: tokio::runtime::Handle) -> (Runtime, oneshot::Receiver<()>) {
    let (kept, dropped) = oneshot::channel();
    let system = System { origin: std::time::Instant::now(), handle, _kept: Some(kept) };
    (Runtime::new(Arc::new(system)), dropped)
}

struct System {
    origin: std::time::Instant,
    handle: tokio::runtime::Handle,
    /// Dropped with this.
    _kept: Option<oneshot::Sender<()>>,
}

impl Backend for System {
    fn now(&self) -> Instant {
        Instant::from_nanos(u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn wall_ms(&self) -> u64 {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<()> {
        let deadline = self.origin + Duration::from_nanos(deadline.as_nanos());
        let _guard = self.handle.enter();
        Box::pin(tokio::time::sleep_until(deadline.into()))
    }

    fn spawn(&self, _name: &'static str, task: BoxFuture<()>) -> Abort {
        let abort = self.handle.spawn(task).abort_handle();
        Box::new(move || abort.abort())
    }

    fn spawn_thread(&self, name: &'static str, task: BoxFuture<()>) {
        let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(move || block_on(task));
        if let Err(error) = spawned {
            // The task is lost, and with it the channel that it reads: its users see that.
            tracing::error!(name, %error, "thread not started");
        }
    }

    fn fill_random(&self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("the system's random generator works");
    }
}

/// Polls `future` on this thread until it is done, parking in between.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut cx = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut cx) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}
