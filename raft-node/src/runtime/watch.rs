//! A channel that holds the latest value and wakes its receivers in the order in which they began to wait.
//!
//! tokio's `watch` spreads receivers over several wait lists by chance, which makes two runs of one seed differ.

use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::task::{Context, Poll, Waker};

use openraft::rt::watch::{RecvError, SendError, Watch, WatchReceiver, WatchSender};
use openraft::rt::{OptionalSend, OptionalSync};

/// The kind of channel, as openraft's runtime names it.
pub(crate) struct Channel;

impl Watch for Channel {
    type Sender<T: OptionalSend + OptionalSync> = Sender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = Receiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = RwLockReadGuard<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(value: T) -> (Sender<T>, Receiver<T>) {
        let shared = Arc::new(Shared {
            value: RwLock::new(value),
            version: AtomicU64::new(0),
            senders: AtomicUsize::new(0),
            receivers: AtomicUsize::new(0),
            waiting: Mutex::new(Waiting::default()),
        });
        (Sender::new(&shared), Receiver::new(&shared, 0))
    }
}

struct Shared<T> {
    value: RwLock<T>,
    /// How often the value was sent; changed only while `value` is locked for writing.
    version: AtomicU64,
    senders: AtomicUsize,
    receivers: AtomicUsize,
    waiting: Mutex<Waiting>,
}

/// Who waits for a change, by the order in which the waits began.
#[derive(Default)]
struct Waiting {
    wakers: BTreeMap<u64, Waker>,
    next: u64,
}

impl<T> Shared<T> {
    fn borrow(&self) -> RwLockReadGuard<'_, T> {
        self.value.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn version(&self) -> u64 {
        self.version.load(Ordering::SeqCst)
    }

    fn wake_all(&self) {
        let wakers = std::mem::take(&mut self.waiting().wakers);
        for waker in wakers.into_values() {
            waker.wake();
        }
    }
}

/// Sends values; the channel is closed when the last one is dropped.
pub(crate) struct Sender<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Sender<T> {
    fn new(shared: &Arc<Shared<T>>) -> Self {
        shared.senders.fetch_add(1, Ordering::SeqCst);
        Self { shared: Arc::clone(shared) }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self::new(&self.shared)
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.shared.senders.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.shared.wake_all();
        }
    }
}

impl<T: OptionalSend + OptionalSync> WatchSender<Channel, T> for Sender<T> {
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        if self.shared.receivers.load(Ordering::SeqCst) == 0 {
            return Err(SendError(value));
        }
        self.send_if_modified(|current| {
            *current = value;
            true
        });
        Ok(())
    }

    fn send_if_modified<F: FnOnce(&mut T) -> bool>(&self, modify: F) -> bool {
        {
            let mut value = self.shared.value.write().unwrap_or_else(PoisonError::into_inner);
            if !modify(&mut value) {
                return false;
            }
            self.shared.version.fetch_add(1, Ordering::SeqCst);
        }
        self.shared.wake_all();
        true
    }

    fn borrow_watched(&self) -> RwLockReadGuard<'_, T> {
        self.shared.borrow()
    }

    fn subscribe(&self) -> Receiver<T> {
        Receiver::new(&self.shared, self.shared.version())
    }
}

/// Sees the latest value and waits for the next one.
pub(crate) struct Receiver<T> {
    shared: Arc<Shared<T>>,
    /// The version that was seen last.
    seen: u64,
}

impl<T> Receiver<T> {
    fn new(shared: &Arc<Shared<T>>, seen: u64) -> Self {
        shared.receivers.fetch_add(1, Ordering::SeqCst);
        Self { shared: Arc::clone(shared), seen }
    }

    /// Whether the value changed since it was seen, or can change no more.
    fn poll_changed(
        &mut self,
        cx: &mut Context<'_>,
        ticket: &mut Ticket<'_, T>,
    ) -> Poll<Result<(), RecvError>> {
        ticket.wait(cx);
        // Looked at after the waker is in place: a change in between wakes.
        let version = self.shared.version();
        if version != self.seen {
            self.seen = version;
            return Poll::Ready(Ok(()));
        }
        if self.shared.senders.load(Ordering::SeqCst) == 0 {
            return Poll::Ready(Err(RecvError(())));
        }
        Poll::Pending
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self::new(&self.shared, self.seen)
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.receivers.fetch_sub(1, Ordering::SeqCst);
    }
}

impl<T: OptionalSend + OptionalSync> WatchReceiver<Channel, T> for Receiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        let shared = Arc::clone(&self.shared);
        let mut ticket = Ticket { shared: &shared, number: None };
        poll_fn(|cx| self.poll_changed(cx, &mut ticket)).await
    }

    fn borrow_watched(&self) -> RwLockReadGuard<'_, T> {
        self.shared.borrow()
    }

    fn borrow_and_update(&mut self) -> RwLockReadGuard<'_, T> {
        let value = self.shared.borrow();
        self.seen = self.shared.version();
        value
    }
}

/// A place among those who wait, given up when dropped.
struct Ticket<'a, T> {
    shared: &'a Shared<T>,
    number: Option<u64>,
}

impl<T> Ticket<'_, T> {
    fn wait(&mut self, cx: &Context<'_>) {
        let mut waiting = self.shared.waiting();
        let number = *self.number.get_or_insert_with(|| {
            waiting.next += 1;
            waiting.next
        });
        waiting.wakers.insert(number, cx.waker().clone());
    }
}

impl<T> Drop for Ticket<'_, T> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.shared.waiting().wakers.remove(&number);
        }
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("watch::Sender")
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("watch::Receiver")
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::Wake;

    use super::*;

    #[test]
    fn receivers_wake_in_the_order_in_which_they_began_to_wait() {
        let woken = Arc::new(Mutex::new(Vec::new()));
        let (sender, receiver) = Channel::channel(0);
        let mut receivers: Vec<_> = (0..5).map(|_| receiver.clone()).collect();
        let mut waits: Vec<_> = receivers.iter_mut().map(|receiver| Box::pin(receiver.changed())).collect();
        for number in [3, 0, 4, 1, 2, 3] {
            let waker = Waker::from(Arc::new(Record { number, woken: Arc::clone(&woken) }));
            assert!(waits[number].as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        }
        sender.send(1).unwrap();
        assert_eq!(*woken.lock().unwrap(), [3, 0, 4, 1, 2]);
    }

    #[test]
    fn a_wait_that_was_given_up_leaves_nothing_behind() {
        let (_sender, mut receiver) = Channel::channel(0);
        {
            let mut wait = pin!(receiver.changed());
            assert!(wait.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        assert!(receiver.shared.waiting().wakers.is_empty());
    }

    struct Record {
        number: usize,
        woken: Arc<Mutex<Vec<usize>>>,
    }

    impl Wake for Record {
        fn wake(self: Arc<Self>) {
            self.woken.lock().unwrap().push(self.number);
        }
    }
}
