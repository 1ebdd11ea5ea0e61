//! Callers that wait for answers, and when they stop waiting.

use std::collections::BTreeMap;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use crate::conn::CallTable;
use crate::endpoint::{CallId, ConnId, Form, LostReason};
use crate::runtime::Instant;

/// How a transmission ended at the transport.
#[derive(Debug)]
pub(super) enum Ended {
    /// The peer answered.
    Answered { status: u64, form: Form, body: Bytes },
    /// The connection ended first. `sent`: some byte of the request may have reached the peer.
    Lost { reason: LostReason, sent: bool },
    /// The deadline passed first. `sent`: as above.
    TimedOut { sent: bool },
    /// This peer was closed.
    Closed,
}

/// Open calls of this side with their callers. One timer serves all of them: it fires no later than the earliest
/// deadline, looks at every open call, and finds the next one.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    conns: BTreeMap<ConnId, Calls>,
    /// Calls that have not ended.
    open: usize,
    /// No open call has an earlier deadline.
    deadline: Option<Instant>,
}

/// The calls of one connection: open ones, and those whose caller has not yet taken the end of.
#[derive(Debug, Default)]
struct Calls {
    calls: CallTable<Waiter>,
    /// The connection is gone; so is this when it is empty.
    lost: bool,
}

#[derive(Debug)]
enum Waiter {
    Open { deadline: Instant, waker: Waker },
    Ended(Ended),
}

impl Waiting {
    /// No call is open.
    pub(super) const fn is_empty(&self) -> bool {
        self.open == 0
    }

    /// When [`Waiting::expired`] may have something.
    pub(super) const fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// A call was made; `waker` is that of who waits for its end.
    pub(super) fn open(&mut self, conn: ConnId, call: CallId, deadline: Instant, waker: Waker) {
        let calls = &mut self.conns.entry(conn).or_default().calls;
        calls.insert(call.0, Waiter::Open { deadline, waker });
        self.open += 1;
        self.deadline = Some(self.deadline.map_or(deadline, |earliest| earliest.min(deadline)));
    }

    /// A call ended; gives the waker of who waits for that, to be woken. A call that nobody waits for is ignored.
    pub(super) fn end(&mut self, conn: ConnId, call: CallId, ended: Ended) -> Option<Waker> {
        let waiter = self.conns.get_mut(&conn)?.calls.get_mut(call.0)?;
        if let Waiter::Ended(_) = waiter {
            return None;
        }
        self.open -= 1;
        match std::mem::replace(waiter, Waiter::Ended(ended)) {
            Waiter::Open { waker, .. } => Some(waker),
            Waiter::Ended(_) => None,
        }
    }

    /// A connection is gone; its calls were ended.
    pub(super) fn on_lost(&mut self, conn: ConnId) {
        if let Some(calls) = self.conns.get_mut(&conn) {
            calls.lost = true;
            self.forget_if_over(conn);
        }
    }

    /// How a call ended, if it did; else `cx` is woken when it does.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, conn: ConnId, call: CallId) -> Poll<Ended> {
        let Some(calls) = self.conns.get_mut(&conn) else { return Poll::Ready(Ended::Closed) };
        match calls.calls.get_mut(call.0) {
            Some(Waiter::Open { waker, .. }) => {
                waker.clone_from(cx.waker());
                Poll::Pending
            }
            _ => {
                let taken = calls.calls.remove(call.0);
                self.forget_if_over(conn);
                Poll::Ready(match taken {
                    Some(Waiter::Ended(ended)) => ended,
                    _ => Ended::Closed,
                })
            }
        }
    }

    /// A caller gave up; if the call was open, gives what is left of it, to be dropped without the lock.
    pub(super) fn give_up(&mut self, conn: ConnId, call: CallId) -> Option<impl Sized + use<>> {
        let removed = self.conns.get_mut(&conn)?.calls.remove(call.0)?;
        self.forget_if_over(conn);
        let open = matches!(removed, Waiter::Open { .. });
        self.open -= usize::from(open);
        open.then_some(removed)
    }

    /// The open calls whose deadline has passed, to be ended. The timer is set anew.
    pub(super) fn expired(&mut self, now: Instant) -> Vec<(ConnId, CallId)> {
        let (mut expired, mut next) = (Vec::new(), None::<Instant>);
        for (conn, calls) in &self.conns {
            for (call, waiter) in calls.calls.iter() {
                match waiter {
                    Waiter::Open { deadline, .. } if *deadline <= now => expired.push((*conn, CallId(call))),
                    Waiter::Open { deadline, .. } => {
                        next = Some(next.map_or(*deadline, |earliest| earliest.min(*deadline)));
                    }
                    Waiter::Ended(_) => {}
                }
            }
        }
        self.deadline = next;
        expired
    }

    /// Ends every open call; gives the wakers of who waits.
    pub(super) fn close(&mut self) -> Vec<Waker> {
        let mut wakers = Vec::new();
        for waiter in self.conns.values_mut().flat_map(|calls| calls.calls.iter_mut().map(|entry| entry.1)) {
            if let Waiter::Open { .. } = waiter
                && let Waiter::Open { waker, .. } = std::mem::replace(waiter, Waiter::Ended(Ended::Closed))
            {
                wakers.push(waker);
            }
        }
        self.open = 0;
        self.deadline = None;
        wakers
    }

    fn forget_if_over(&mut self, conn: ConnId) {
        if self.conns.get(&conn).is_some_and(|calls| calls.lost && calls.calls.is_empty()) {
            self.conns.remove(&conn);
        }
    }
}
