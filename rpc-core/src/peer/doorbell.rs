//! How callers and handlers tell the driver that there is something to send.

use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

/// Rung by many, heard by the driver. Rings before it listens are one ring.
#[derive(Debug, Default)]
pub(super) struct Doorbell {
    rung: AtomicBool,
    driver: AtomicWaker,
}

impl Doorbell {
    /// Wakes the driver, unless somebody did so already.
    pub(super) fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            self.driver.wake();
        }
    }

    /// Forgets the rings so far: what they were about is done next.
    pub(super) fn answer(&self) {
        self.rung.store(false, Ordering::Release);
    }

    /// Whether it was rung since the driver last answered.
    pub(super) fn is_rung(&self) -> bool {
        self.rung.load(Ordering::Acquire)
    }

    /// Ready when it was rung since the driver last answered.
    pub(super) fn poll_rung(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_rung() {
            self.driver.register(cx.waker());
            // It may have been rung in between.
            if !self.is_rung() {
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }
}
