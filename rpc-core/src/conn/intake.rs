//! Large messages that come in, part by part. Their buffers are charged before they are allocated: to the window of
//! their lane, which the peer knows, and to the budget that all connections share, which it meets as GRANT. How far each
//! may be sent when several peers send at once is decided by the schedule that all connections share.

use bytes::Bytes;

use std::collections::BTreeMap;
use std::time::Duration;

use super::budget::Budget;
use super::ranges::RangeSet;
use super::schedule::{Meter, Path, Progress};
use crate::runtime::Instant;
use crate::wire::frame::Part;
use crate::wire::{Lane, Malformed};

/// What the peer may have started, and has.
#[derive(Debug)]
pub(super) struct Intake {
    /// Names the connection.
    conn: u64,
    window: u64,
    message_size_max: u64,
    /// Bytes of unfinished messages, per lane.
    charged: [u64; 3],
    /// Calls whose message was granted memory, until it is complete: a GRANT that was lost must be sent again also
    /// when the message has begun, because an older one that holds it may still come.
    granted: BTreeMap<u64, Granted>,
    /// Calls whose message waits for memory, with its size.
    held: BTreeMap<u64, u64>,
    /// Calls whose message is scheduled, with how far it may be sent.
    scheduled: BTreeMap<u64, u64>,
    /// How much comes in a round trip.
    meter: Meter,
    pace: u64,
}

/// A message that was granted memory.
#[derive(Clone, Copy, Debug)]
struct Granted {
    size: u64,
    /// Its buffer is allocated, and the charge is given back with it.
    begun: bool,
}

/// One unfinished message.
#[derive(Debug)]
pub(super) struct Reassembly {
    call: u64,
    lane: Lane,
    total: usize,
    /// Grows while the parts come in their order; after the first gap it is as long as the message.
    buffer: Vec<u8>,
    received: RangeSet,
}

impl Intake {
    pub(super) fn new(conn: u64, window: u64, message_size_max: u64) -> Self {
        Self {
            conn,
            window,
            message_size_max,
            charged: [0; 3],
            granted: BTreeMap::new(),
            held: BTreeMap::new(),
            scheduled: BTreeMap::new(),
            meter: Meter::default(),
            pace: PACE_INITIAL,
        }
    }

    /// What the peer is told.
    pub(super) const fn window(&self) -> u64 {
        self.window
    }

    /// Starts a message that `part` belongs to. A peer that keeps to its window is never refused: what it counts as
    /// started and not acknowledged is at least what is unfinished here.
    pub(super) fn open(&mut self, budget: &mut Budget, part: &Part) -> Result<Reassembly, Malformed> {
        let charged = &mut self.charged[part.lane as usize];
        if part.total > self.message_size_max {
            return Err(Malformed("message above the announced size"));
        }
        if *charged > 0 && *charged + part.total > self.window {
            return Err(Malformed("large messages above the announced window"));
        }
        let size = usize::try_from(part.total).map_err(|_| Malformed("message above the address space"))?;
        match self.granted.get_mut(&part.call) {
            None => budget.charge(part.total),
            Some(granted) if granted.size == part.total && !granted.begun => granted.begun = true,
            Some(_) => return Err(Malformed("parts of one message disagree")),
        }
        *charged += part.total;
        // Memory of this size is mapped when it is first written, so a claim alone costs little.
        let buffer = Vec::with_capacity(size);
        Ok(Reassembly {
            call: part.call,
            lane: part.lane,
            total: size,
            buffer,
            received: RangeSet::default(),
        })
    }

    /// Adds a part to its message; true when the message is complete. `round_trip`: the shortest to the peer.
    pub(super) fn insert(
        &mut self,
        budget: &mut Budget,
        (now, round_trip): (Instant, Duration),
        message: &mut Reassembly,
        part: &Part,
    ) -> Result<bool, Malformed> {
        let before = message.received.total();
        let complete = message.insert(part)?;
        let (received, round) = (message.received.total(), round_trip + SLACK);
        if let Some((bytes, passed)) = self.meter.on_bytes(now, received - before, round) {
            let pace = u128::from(bytes) * round.as_nanos() / passed.as_nanos().max(1);
            self.pace = u64::try_from(pace).unwrap_or(u64::MAX);
        }
        let progress =
            Progress { total: part.total, received, before, end: part.offset + part.data.len() as u64 };
        budget.schedule.on_part(now, (self.conn, message.call), Path { round, pace: self.pace }, progress);
        Ok(complete)
    }

    /// Gives back what `message` was charged; it is finished or given up.
    pub(super) fn close(&mut self, budget: &mut Budget, message: Reassembly) -> Bytes {
        budget.release(message.total as u64);
        budget.schedule.remove((self.conn, message.call));
        self.granted.remove(&message.call);
        self.scheduled.remove(&message.call);
        self.charged[message.lane as usize] -= message.total as u64;
        Bytes::from(message.buffer)
    }

    /// Whether a new message that `part` belongs to may begin now. If not, it waits; true in the second place if it
    /// did not wait before.
    pub(super) fn may_open(&mut self, budget: &mut Budget, part: &Part) -> (bool, bool) {
        if self.held.contains_key(&part.call) {
            return (false, false);
        }
        // What is too large is refused when it is opened.
        if self.granted.contains_key(&part.call) || part.total > self.message_size_max {
            return (true, false);
        }
        if budget.take(part.total) {
            self.granted.insert(part.call, Granted { size: part.total, begun: false });
            return (true, false);
        }
        let hold = self.held.len() < HELD_MAX;
        if hold {
            self.held.insert(part.call, part.total);
            budget.wait((self.conn, part.call), part.total);
        }
        (false, hold)
    }

    /// A message that waited was charged; its size.
    pub(super) fn grant(&mut self, call: u64) -> Option<u64> {
        let size = self.held.remove(&call)?;
        self.granted.insert(call, Granted { size, begun: false });
        Some(size)
    }

    /// The message of `call`, which is coming in, may be sent so far.
    pub(super) fn schedule(&mut self, call: u64, upto: u64) {
        self.scheduled.insert(call, upto);
    }

    /// How far the message of `call` may be sent, if its sender was told.
    pub(super) fn granted(&self, call: u64) -> Option<u64> {
        if self.held.contains_key(&call) {
            return Some(0);
        }
        let scheduled = self.scheduled.get(&call).copied();
        scheduled.or_else(|| self.granted.get(&call).map(|granted| granted.size))
    }

    /// A message that has not begun never will.
    pub(super) fn forget(&mut self, budget: &mut Budget, call: u64) {
        if self.held.is_empty() && self.granted.is_empty() {
            return;
        }
        if self.held.remove(&call).is_some() {
            budget.give_up((self.conn, call));
        }
        if let Some(Granted { size, begun: false }) = self.granted.remove(&call) {
            budget.release(size);
        }
    }

    /// The connection is over: everything is given back.
    pub(super) fn end(&mut self, budget: &mut Budget) {
        while let Some(call) = self.held.keys().chain(self.granted.keys()).next().copied() {
            self.forget(budget, call);
        }
        budget.schedule.remove_all(self.conn);
        self.scheduled.clear();
        budget.release(self.charged.iter().sum());
        self.charged = [0; 3];
    }

    /// Bytes of unfinished messages.
    #[cfg(test)]
    pub(super) fn charged(&self) -> u64 {
        self.charged.iter().sum()
    }
}

impl Reassembly {
    /// Adds a part; true when the message is complete.
    fn insert(&mut self, part: &Part) -> Result<bool, Malformed> {
        let total = self.total as u64;
        if part.total != total || part.lane != self.lane {
            return Err(Malformed("parts of one message disagree"));
        }
        // Read as lying inside `total`, so it lies inside the buffer and fits its index type.
        let (start, end) = (part.offset, part.offset + part.data.len() as u64);
        self.write(start as usize, &part.data);
        self.received.insert(start, end);
        if self.received.count() > HOLES_MAX {
            return Err(Malformed("message with too many holes"));
        }
        Ok(self.received.total() == total)
    }

    fn write(&mut self, start: usize, data: &[u8]) {
        if start > self.buffer.len() {
            // Zeroed anew rather than up to here: the gap may be most of the message, and is mapped as it is filled.
            let mut whole = vec![0; self.total];
            whole[..self.buffer.len()].copy_from_slice(&self.buffer);
            self.buffer = whole;
        }
        let (known, new) = data.split_at(data.len().min(self.buffer.len() - start));
        self.buffer[start..start + known.len()].copy_from_slice(known);
        self.buffer.extend_from_slice(new);
    }
}

/// Assumed of a peer of which nothing large has come yet.
const PACE_INITIAL: u64 = 32 << 10;
/// What acknowledgements, timers and turns of both sides add to a round trip.
const SLACK: Duration = Duration::from_millis(2);
/// Messages of one connection that wait for memory; those of further calls are dropped until there is room.
const HELD_MAX: usize = 1_024;
/// Holes in one unfinished message. A sender has at most as many as it has packets in flight.
const HOLES_MAX: usize = 16_384;

#[cfg(test)]
mod tests {
    use super::*;

    fn part(lane: Lane, offset: u64, total: u64, data: &'static [u8]) -> Part {
        Part { call: 2, response: false, lane, offset, total, head: None, data: Bytes::from_static(data) }
    }

    #[test]
    fn parts_in_any_order_and_repeated_make_one_message() {
        let (mut intake, mut budget) = (Intake::new(7, 10, 100), Budget::new(1_000, 100));
        let mut message = intake.open(&mut budget, &part(Lane::Normal, 0, 9, b"abc")).unwrap();
        assert_eq!(message.insert(&part(Lane::Normal, 6, 9, b"ghi")), Ok(false));
        assert_eq!(message.insert(&part(Lane::Normal, 0, 9, b"abcd")), Ok(false));
        assert_eq!(message.insert(&part(Lane::Normal, 0, 9, b"abcd")), Ok(false));
        assert_eq!(message.insert(&part(Lane::Normal, 3, 9, b"def")), Ok(true));
        assert_eq!(intake.close(&mut budget, message), Bytes::from_static(b"abcdefghi"));
        assert_eq!(intake.charged(), 0);
    }

    #[test]
    fn window_is_enforced_per_lane_and_one_message_may_always_go_alone() {
        let (mut intake, mut budget) = (Intake::new(7, 10, 100), Budget::new(1_000, 100));
        let _large = intake.open(&mut budget, &part(Lane::Bulk, 0, 100, b"a")).unwrap();
        assert!(intake.open(&mut budget, &part(Lane::Bulk, 0, 2, b"a")).is_err());
        let _other = intake.open(&mut budget, &part(Lane::Normal, 0, 6, b"a")).unwrap();
        let _another = intake.open(&mut budget, &part(Lane::Normal, 0, 4, b"a")).unwrap();
        assert!(intake.open(&mut budget, &part(Lane::Normal, 0, 2, b"a")).is_err());
        assert!(intake.open(&mut budget, &part(Lane::Control, 0, 101, b"a")).is_err());
        assert_eq!(intake.charged(), 110);
    }

    #[test]
    fn parts_that_disagree_are_refused() {
        let (mut intake, mut budget) = (Intake::new(7, 10, 100), Budget::new(1_000, 100));
        let mut message = intake.open(&mut budget, &part(Lane::Normal, 0, 9, b"abc")).unwrap();
        assert!(message.insert(&part(Lane::Normal, 0, 8, b"abc")).is_err());
        assert!(message.insert(&part(Lane::Bulk, 0, 9, b"abc")).is_err());
    }

    /// A message of call 2 on connection 7 that waits for memory, of which nothing is left.
    fn waiting(size: u64) -> (Intake, Budget, Part) {
        let (mut intake, mut budget) = (Intake::new(7, 1_000, 100), Budget::new(100, 100));
        assert!(budget.take(100));
        let part = part(Lane::Normal, 0, size, b"abc");
        assert_eq!(intake.may_open(&mut budget, &part), (false, true), "it is held, which is said once");
        assert_eq!(intake.may_open(&mut budget, &part), (false, false));
        (intake, budget, part)
    }

    fn granted(size: u64) -> (Intake, Budget, Part) {
        let (mut intake, mut budget, part) = waiting(size);
        budget.release(100);
        assert_eq!(budget.grant(), Some((7, 2)));
        assert_eq!(intake.grant(2), Some(size));
        assert_eq!((intake.granted(2), budget.used()), (Some(size), size));
        assert_eq!(intake.may_open(&mut budget, &part), (true, false), "it has its memory");
        (intake, budget, part)
    }

    #[test]
    fn a_message_that_waits_and_is_given_up_is_not_granted() {
        let (mut intake, mut budget, _) = waiting(9);
        intake.forget(&mut budget, 2);
        budget.release(100);
        assert_eq!((budget.grant(), intake.grant(2), budget.used()), (None, None, 0));
    }

    #[test]
    fn what_was_granted_is_given_back_once_whether_or_not_it_began() {
        let (mut intake, mut budget, _) = granted(9);
        intake.forget(&mut budget, 2);
        assert_eq!((intake.granted(2), budget.used()), (None, 0));
        let (mut intake, mut budget, part) = granted(9);
        let message = intake.open(&mut budget, &part).unwrap();
        intake.forget(&mut budget, 2);
        assert_eq!(budget.used(), 9, "its buffer is there");
        intake.close(&mut budget, message);
        assert_eq!((budget.used(), intake.charged()), (0, 0));
    }

    #[test]
    fn a_grant_is_for_one_message_of_its_size() {
        let (mut intake, mut budget, part) = granted(9);
        let other = Part { total: 10, ..part.clone() };
        assert!(intake.open(&mut budget, &other).is_err());
        let message = intake.open(&mut budget, &part).unwrap();
        assert!(intake.open(&mut budget, &part).is_err());
        intake.close(&mut budget, message);
        assert_eq!(
            (intake.granted(2), budget.used()),
            (None, 0),
            "a grant that is lost now need not come again"
        );
    }

    #[test]
    fn a_connection_that_ends_gives_back_what_waits_what_was_granted_and_what_came_in() {
        let (mut intake, mut budget, granted) = granted(9);
        let begun = Part { call: 4, total: 20, ..granted.clone() };
        assert_eq!(intake.may_open(&mut budget, &begun), (true, false));
        let _message = intake.open(&mut budget, &begun).unwrap();
        assert!(budget.take(71));
        assert_eq!(intake.may_open(&mut budget, &Part { call: 6, ..granted }), (false, true));
        assert_eq!(budget.used(), 100);
        intake.end(&mut budget);
        assert_eq!((budget.used(), intake.charged()), (71, 0));
        budget.release(71);
        assert_eq!(budget.grant(), None);
    }

    #[test]
    fn no_more_messages_wait_than_the_limit_says_and_none_above_the_announced_size() {
        let (mut intake, mut budget, part) = waiting(9);
        for index in 1..HELD_MAX as u64 {
            let part = Part { call: 2 + 2 * index, ..part.clone() };
            assert_eq!(intake.may_open(&mut budget, &part), (false, true));
        }
        assert_eq!(intake.may_open(&mut budget, &Part { call: 1, ..part.clone() }), (false, false));
        let large = Part { call: 1, total: 101, ..part };
        assert_eq!(intake.may_open(&mut budget, &large), (true, false), "who opens it refuses it");
        assert!(intake.open(&mut budget, &large).is_err());
    }
}
