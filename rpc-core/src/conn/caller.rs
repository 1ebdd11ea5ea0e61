//! The calls that this side makes: which are open, and what the peer may forget.

use super::intake::Reassembly;
use super::table::CallTable;
use crate::wire::Form;

/// Open calls of this side.
#[derive(Debug)]
pub(super) struct Caller {
    /// The next call: even on the side that opened the connection, odd on the other.
    next: u64,
    /// With the large response that is coming in, if one is.
    open: CallTable<Option<Box<Arriving>>>,
    /// The floor of the last SEEN that is not known to be lost.
    floor_sent: u64,
}

/// A large response that is coming in. The status comes with its first byte.
#[derive(Debug)]
pub(super) struct Arriving {
    pub(super) message: Reassembly,
    pub(super) status: u64,
    pub(super) form: Form,
}

impl Caller {
    pub(super) fn new(initiator: bool) -> Self {
        let first = if initiator { 0 } else { 1 };
        Self { next: first, open: CallTable::default(), floor_sent: first }
    }

    pub(super) fn open(&mut self) -> u64 {
        let call = self.next;
        self.next += 2;
        self.open.insert(call, None);
        call
    }

    pub(super) const fn count(&self) -> usize {
        self.open.len()
    }

    /// Whether `call` was ever made.
    pub(super) const fn was_opened(&self, call: u64) -> bool {
        call < self.next
    }

    /// Where the large response of an open call is put together.
    pub(super) fn response(&mut self, call: u64) -> Option<&mut Option<Box<Arriving>>> {
        self.open.get_mut(call)
    }

    /// Ends a call; `None` if it was not open.
    pub(super) fn end(&mut self, call: u64) -> Option<Option<Box<Arriving>>> {
        self.open.remove(call)
    }

    /// For [`plant::ANSWER_MISMATCHED`](crate::plant): `call` if it is open, else the oldest one that is.
    pub(super) fn open_or_oldest(&self, call: u64) -> u64 {
        if self.open.get(call).is_some() { call } else { self.open.first().unwrap_or(call) }
    }

    /// Ends every call.
    pub(super) fn clear(&mut self) {
        self.open.clear();
    }

    /// The open calls, oldest first.
    pub(super) fn calls(&self) -> impl Iterator<Item = u64> {
        self.open.iter().map(|(call, _)| call)
    }

    /// Every call below has ended.
    pub(super) fn floor(&self) -> u64 {
        self.open.first().unwrap_or(self.next)
    }

    /// The floor to be sent, when it has moved far enough to be worth a frame.
    pub(super) fn floor_due(&self) -> Option<u64> {
        Some(self.floor()).filter(|floor| *floor >= self.floor_sent + 2 * SEEN_EVERY)
    }

    /// A SEEN was put into a packet.
    pub(super) const fn on_floor_sent(&mut self, floor: u64) {
        self.floor_sent = floor;
    }

    /// A SEEN was lost: unless a later one is on its way, the next goes at once.
    pub(super) const fn on_floor_lost(&mut self, floor: u64) {
        if floor == self.floor_sent {
            self.floor_sent = floor.saturating_sub(2 * SEEN_EVERY);
        }
    }
}

/// Calls that end between two SEEN frames.
const SEEN_EVERY: u64 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_peer_may_forget_is_said_now_and_then_and_again_when_that_was_lost() {
        for initiator in [true, false] {
            let (mut caller, first) = (Caller::new(initiator), u64::from(!initiator));
            let calls: Vec<_> = (0..40).map(|_| caller.open()).collect();
            assert_eq!((calls[0], calls[39], caller.count()), (first, first + 78, 40));
            assert!(caller.was_opened(calls[39]) && !caller.was_opened(first + 80));
            for call in &calls[1..] {
                caller.end(*call);
            }
            assert_eq!((caller.floor(), caller.floor_due()), (first, None), "the oldest is open");
            caller.end(first);
            assert_eq!((caller.floor(), caller.floor_due()), (first + 80, Some(first + 80)));
            caller.on_floor_sent(first + 80);
            assert_eq!(caller.floor_due(), None);
            caller.on_floor_lost(first + 40);
            assert_eq!(caller.floor_due(), None, "a later one is on its way");
            caller.on_floor_lost(first + 80);
            assert_eq!(caller.floor_due(), Some(first + 80));
            caller.on_floor_sent(first + 80);
            for ended in 1..=SEEN_EVERY {
                assert_eq!(caller.floor_due(), None);
                let call = caller.open();
                caller.end(call);
                assert_eq!(caller.floor(), first + 80 + 2 * ended);
            }
            assert_eq!(caller.floor_due(), Some(first + 80 + 2 * SEEN_EVERY));
        }
    }
}
