//! Large messages that come in, part by part. Their buffers are charged before they are allocated.

use bytes::Bytes;

use super::ranges::RangeSet;
use crate::wire::frame::Part;
use crate::wire::{Lane, Malformed};

/// What the peer may have started, and has.
#[derive(Debug)]
pub(super) struct Intake {
    window: u64,
    message_size_max: u64,
    /// Bytes of unfinished messages, per lane.
    charged: [u64; 3],
}

/// One unfinished message.
#[derive(Debug)]
pub(super) struct Reassembly {
    lane: Lane,
    buffer: Vec<u8>,
    received: RangeSet,
}

impl Intake {
    pub(super) const fn new(window: u64, message_size_max: u64) -> Self {
        Self { window, message_size_max, charged: [0; 3] }
    }

    /// What the peer is told.
    pub(super) const fn window(&self) -> u64 {
        self.window
    }

    /// Starts a message that `part` belongs to. A peer that keeps to its window is never refused: what it counts as
    /// started and not acknowledged is at least what is unfinished here.
    pub(super) fn open(&mut self, part: &Part) -> Result<Reassembly, Malformed> {
        let charged = &mut self.charged[part.lane as usize];
        if part.total > self.message_size_max {
            return Err(Malformed("message above the announced size"));
        }
        if *charged > 0 && *charged + part.total > self.window {
            return Err(Malformed("large messages above the announced window"));
        }
        let size = usize::try_from(part.total).map_err(|_| Malformed("message above the address space"))?;
        *charged += part.total;
        // Zeroed memory of this size is mapped when it is first written, so a claim alone costs little.
        Ok(Reassembly { lane: part.lane, buffer: vec![0; size], received: RangeSet::default() })
    }

    /// Gives back what `message` was charged; it is finished or given up.
    pub(super) fn close(&mut self, message: Reassembly) -> Bytes {
        self.charged[message.lane as usize] -= message.buffer.len() as u64;
        Bytes::from(message.buffer)
    }

    /// Bytes of unfinished messages.
    #[cfg(test)]
    pub(super) fn charged(&self) -> u64 {
        self.charged.iter().sum()
    }
}

impl Reassembly {
    /// Adds a part; true when the message is complete.
    pub(super) fn insert(&mut self, part: &Part) -> Result<bool, Malformed> {
        let total = self.buffer.len() as u64;
        if part.total != total || part.lane != self.lane {
            return Err(Malformed("parts of one message disagree"));
        }
        // Read as lying inside `total`, so it lies inside the buffer and fits its index type.
        let (start, end) = (part.offset, part.offset + part.data.len() as u64);
        self.buffer[start as usize..end as usize].copy_from_slice(&part.data);
        self.received.insert(start, end);
        if self.received.count() > HOLES_MAX {
            return Err(Malformed("message with too many holes"));
        }
        Ok(self.received.total() == total)
    }
}

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
        let mut intake = Intake::new(10, 100);
        let mut message = intake.open(&part(Lane::Normal, 0, 9, b"abc")).unwrap();
        assert_eq!(message.insert(&part(Lane::Normal, 6, 9, b"ghi")), Ok(false));
        assert_eq!(message.insert(&part(Lane::Normal, 0, 9, b"abcd")), Ok(false));
        assert_eq!(message.insert(&part(Lane::Normal, 0, 9, b"abcd")), Ok(false));
        assert_eq!(message.insert(&part(Lane::Normal, 3, 9, b"def")), Ok(true));
        assert_eq!(intake.close(message), Bytes::from_static(b"abcdefghi"));
        assert_eq!(intake.charged(), 0);
    }

    #[test]
    fn window_is_enforced_per_lane_and_one_message_may_always_go_alone() {
        let mut intake = Intake::new(10, 100);
        let _large = intake.open(&part(Lane::Bulk, 0, 100, b"a")).unwrap();
        assert!(intake.open(&part(Lane::Bulk, 0, 2, b"a")).is_err());
        let _other = intake.open(&part(Lane::Normal, 0, 6, b"a")).unwrap();
        let _another = intake.open(&part(Lane::Normal, 0, 4, b"a")).unwrap();
        assert!(intake.open(&part(Lane::Normal, 0, 2, b"a")).is_err());
        assert!(intake.open(&part(Lane::Control, 0, 101, b"a")).is_err());
        assert_eq!(intake.charged(), 110);
    }

    #[test]
    fn parts_that_disagree_are_refused() {
        let mut intake = Intake::new(10, 100);
        let mut message = intake.open(&part(Lane::Normal, 0, 9, b"abc")).unwrap();
        assert!(message.insert(&part(Lane::Normal, 0, 8, b"abc")).is_err());
        assert!(message.insert(&part(Lane::Bulk, 0, 9, b"abc")).is_err());
    }
}
