//! Which packets arrived, and when to say so.

use std::time::Duration;

use super::ecn::Seen;
use super::ranges::RangeSet;
use super::sent::SentFrame;
use crate::runtime::Instant;
use crate::wire::{Ecn, frame};

/// Packet numbers received, and the acknowledgement that is owed for them.
#[derive(Debug, Default)]
pub(super) struct Received {
    packets: RangeSet,
    /// Below it every number counts as received: either it was, or it comes too late to matter (its frames were
    /// declared lost and sent again).
    floor: u64,
    largest: Option<u64>,
    largest_time: Instant,
    /// Packets that want an acknowledgement and have none.
    owed: u32,
    /// The acknowledgement must not wait.
    at_once: bool,
    deadline: Option<Instant>,
    /// Acknowledgements sent since the peer last acknowledged one.
    unconfirmed: u32,
    /// How they came.
    pub(super) ecn: Seen,
}

impl Received {
    pub(super) const fn largest(&self) -> Option<u64> {
        self.largest
    }

    pub(super) fn is_duplicate(&self, pn: u64) -> bool {
        pn < self.floor || self.packets.contains(pn)
    }

    /// A packet that is no duplicate arrived.
    pub(super) fn on_packet(
        &mut self,
        now: Instant,
        pn: u64,
        ecn: Ecn,
        ack_eliciting: bool,
        delay_max: Duration,
    ) {
        self.ecn.on_packet(ecn);
        let expected = self.largest.map_or(0, |largest| largest + 1);
        self.packets.insert(pn, pn + 1);
        while self.packets.count() > RANGES_MAX {
            self.floor = self.packets.pop_first().map_or(self.floor, |range| range.1);
        }
        if pn >= expected {
            self.largest = Some(pn);
            self.largest_time = now;
        }
        if ack_eliciting {
            self.owed += 1;
            // Congestion is told at once (RFC 9000 section 13.2.1).
            if pn != expected || self.owed >= OWED_MAX || ecn == Ecn::Ce {
                self.at_once = true;
            } else if self.deadline.is_none() {
                self.deadline = Some(now + delay_max);
            }
        }
    }

    /// When an acknowledgement that waits for a packet to ride on must go alone.
    pub(super) const fn deadline(&self) -> Option<Instant> {
        if self.at_once { None } else { self.deadline }
    }

    /// Notes that the deadline passed.
    pub(super) fn on_timeout(&mut self, now: Instant) {
        self.at_once |= self.deadline.is_some_and(|deadline| deadline <= now);
    }

    /// Whether an acknowledgement is owed that may ride on a packet.
    pub(super) const fn is_owed(&self) -> bool {
        self.owed > 0
    }

    /// Whether an acknowledgement must go now, alone if need be.
    pub(super) const fn is_due(&self) -> bool {
        self.at_once
    }

    /// Whether the peer should be asked to acknowledge an acknowledgement, so that old ranges can be forgotten.
    pub(super) const fn wants_confirmation(&self) -> bool {
        self.unconfirmed >= UNCONFIRMED_MAX
    }

    /// Appends the ACK frame; what of it is to be confirmed.
    pub(super) fn put(&self, now: Instant, buf: &mut Vec<u8>) -> SentFrame {
        let delay = now - self.largest_time;
        let ranges = self.packets.descending().take(RANGES_SENT_MAX).map(|(start, end)| (start, end - 1));
        frame::put_ack(buf, u64::try_from(delay.as_micros()).unwrap_or(u64::MAX), ranges, self.ecn.owed());
        SentFrame::Ack { largest: self.largest.unwrap_or(0), news: self.ecn.news() }
    }

    /// What was [`Received::put`] went out.
    pub(super) const fn on_sent(&mut self) {
        self.owed = 0;
        self.at_once = false;
        self.deadline = None;
        self.unconfirmed = self.unconfirmed.saturating_add(1);
    }

    /// The peer has seen an acknowledgement up to `largest`: what is older need not be repeated (RFC 9000 13.2.4). It
    /// also said `news` about marks.
    pub(super) fn on_confirmed(&mut self, largest: u64, news: u64) {
        self.unconfirmed = 0;
        self.ecn.on_confirmed(news);
        while self.packets.count() > 1 {
            match self.packets.first() {
                Some((_, end)) if end <= largest => {
                    self.floor = end;
                    self.packets.pop_first();
                }
                _ => return,
            }
        }
    }
}

/// Every so many packets an acknowledgement goes at once.
const OWED_MAX: u32 = 2;
/// Ranges remembered; above it the oldest is forgotten and everything below counts as received.
const RANGES_MAX: usize = 64;
/// Ranges in one ACK frame.
const RANGES_SENT_MAX: usize = 32;
/// After so many unconfirmed acknowledgements a PING rides with the next.
const UNCONFIRMED_MAX: u32 = 32;

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_millis(1);

    #[test]
    fn second_packet_and_reordering_are_acknowledged_at_once() {
        let (mut received, now) = (Received::default(), Instant::from_nanos(5));
        received.on_packet(now, 0, Ecn::NotEct, true, DELAY);
        assert!(!received.is_due());
        received.on_timeout(now + DELAY);
        assert!(received.is_due());
        received.on_sent();
        received.on_packet(now, 1, Ecn::NotEct, true, DELAY);
        assert!(!received.is_due());
        received.on_packet(now, 2, Ecn::NotEct, true, DELAY);
        assert!(received.is_due());
        received.on_sent();
        assert!(!received.is_owed());
        received.on_packet(now, 4, Ecn::NotEct, true, DELAY);
        assert!(received.is_due());
        received.on_sent();
        received.on_packet(now, 5, Ecn::NotEct, false, DELAY);
        assert!(!received.is_owed());
        received.on_packet(now, 6, Ecn::Ce, true, DELAY);
        assert!(received.is_due(), "a router told of congestion");
    }

    /// What is acknowledged now.
    fn acknowledged(received: &Received, now: Instant) -> frame::Ack {
        let mut buf = Vec::new();
        received.put(now, &mut buf);
        match frame::Frame::read(&mut crate::wire::varint::Reader::new(&buf.into())) {
            Ok(frame::Frame::Ack(ack)) => ack,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn memory_is_bounded_and_forgotten_packets_count_as_received() {
        let mut received = Received::default();
        for pn in (0..10_000).step_by(2) {
            assert!(!received.is_duplicate(pn));
            received.on_packet(Instant::default(), pn, Ecn::NotEct, true, DELAY);
        }
        assert_eq!(received.packets.count(), RANGES_MAX);
        assert_eq!(acknowledged(&received, Instant::default()).ranges().count(), RANGES_SENT_MAX);
        assert!(received.is_duplicate(1) && received.is_duplicate(9_998) && !received.is_duplicate(9_997));
        received.on_confirmed(9_998, 0);
        assert_eq!(received.packets.count(), 1);
        assert!(received.is_duplicate(9_995) && !received.is_duplicate(9_999));
    }

    #[test]
    fn an_acknowledgement_waits_from_the_first_packet_on_and_says_how_long_it_waited() {
        let (mut received, now) = (Received::default(), Instant::from_nanos(1_000_000));
        received.on_packet(now, 0, Ecn::NotEct, true, DELAY);
        received.on_packet(now + DELAY / 2, 1, Ecn::NotEct, false, DELAY);
        assert_eq!(received.deadline(), Some(now + DELAY));
        received.on_timeout(now + DELAY - Duration::from_nanos(1));
        assert!(!received.is_due());
        assert_eq!(received.put(now + DELAY, &mut Vec::new()), SentFrame::Ack { largest: 1, news: 0 });
        let ack = acknowledged(&received, now + DELAY);
        assert_eq!((ack.largest, ack.delay_us), (1, 500), "since the largest came");
        assert_eq!(ack.ranges().collect::<Vec<_>>(), [(0, 1)]);
        received.on_sent();
        assert_eq!((received.deadline(), received.is_owed(), received.is_due()), (None, false, false));
        received.on_packet(now, 1 << 20, Ecn::NotEct, true, DELAY);
        assert!(received.is_due() && received.deadline().is_none());
        received.on_packet(now + DELAY, 2, Ecn::NotEct, true, DELAY);
        assert_eq!(received.largest(), Some(1 << 20), "what came late is not the largest");
        assert_eq!(acknowledged(&received, now + DELAY * 2).delay_us, 2_000, "since the largest came");
    }

    #[test]
    fn after_many_acknowledgements_that_nobody_confirmed_a_confirmation_is_wanted() {
        let mut received = Received::default();
        for _ in 0..2 {
            for _ in 0..UNCONFIRMED_MAX {
                assert!(!received.wants_confirmation());
                received.on_sent();
            }
            assert!(received.wants_confirmation());
            received.on_confirmed(0, 0);
        }
    }
}
