//! What a simulated link can carry: a rate, a queue before it, the largest datagram.

use std::time::Duration;

use crate::endpoint::Ecn;

/// The bottleneck of one directed link. Datagrams leave it one after the other at its rate; what waits longer than the
/// queue lasts is dropped. The default is as fast as any, and carries what Ethernet does.
///
/// ```text
/// sender -> [ queue: up to queue_max of waiting, marks above mark_above ] -> rate_bytes_per_s -> loss, delay of the LinkPolicy -> receiver
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Bytes of UDP payload per second; 0 = any.
    pub rate_bytes_per_s: u64,
    /// The longest that a datagram waits for the ones before it; one that would wait longer is dropped.
    pub queue_max: Duration,
    /// A datagram that waits longer and may be marked ([`Ecn::Ect0`], [`Ecn::Ect1`]) is marked [`Ecn::Ce`]; `None`:
    /// none is.
    pub mark_above: Option<Duration>,
    /// Largest datagram in bytes of UDP payload, larger ones vanish; 0 = any. Default 1,452.
    pub mtu: usize,
}

impl Default for Capacity {
    fn default() -> Self {
        Self { rate_bytes_per_s: 0, queue_max: Duration::ZERO, mark_above: None, mtu: 1_452 }
    }
}

/// What bottlenecks did to datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapacityHits {
    /// Dropped: the queue was full.
    pub overflowed: u64,
    /// Dropped: larger than the link carries.
    pub too_large: u64,
    /// Marked as having waited long.
    pub marked: u64,
}

/// A bottleneck at work.
#[derive(Debug)]
pub(super) struct Bottleneck {
    capacity: Capacity,
    /// When the last datagram in the queue has left it, in virtual nanoseconds.
    free_at: u64,
}

/// What a bottleneck says about a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passage {
    Dropped,
    /// It leaves the bottleneck so many nanoseconds from now, with this mark.
    After {
        delay_ns: u64,
        ecn: Ecn,
    },
}

impl Bottleneck {
    pub(super) const fn new(capacity: Capacity) -> Self {
        Self { capacity, free_at: 0 }
    }

    /// Takes in a datagram of `size` bytes that is marked `ecn`, at `now`.
    pub(super) fn pass(&mut self, now: u64, size: usize, ecn: Ecn, hits: &mut CapacityHits) -> Passage {
        let Capacity { rate_bytes_per_s: rate, queue_max, mark_above, mtu } = self.capacity;
        if mtu > 0 && size > mtu {
            hits.too_large += 1;
            return Passage::Dropped;
        }
        if rate == 0 {
            return Passage::After { delay_ns: 0, ecn };
        }
        let wait = Duration::from_nanos(self.free_at.saturating_sub(now));
        if wait > queue_max {
            hits.overflowed += 1;
            return Passage::Dropped;
        }
        self.free_at = self.free_at.max(now) + size as u64 * 1_000_000_000 / rate;
        let mark = ecn != Ecn::NotEct && mark_above.is_some_and(|threshold| wait > threshold);
        hits.marked += u64::from(mark);
        Passage::After { delay_ns: self.free_at - now, ecn: if mark { Ecn::Ce } else { ecn } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_queue_and_overflow() {
        let capacity = Capacity {
            rate_bytes_per_s: 1_000_000,
            queue_max: Duration::from_millis(3),
            ..Capacity::default()
        };
        let (mut link, mut hits) = (Bottleneck::new(capacity), CapacityHits::default());
        let delays: Vec<_> = (0..5).map(|_| link.pass(0, 1_000, Ecn::NotEct, &mut hits)).collect();
        let after = |ms: u64| Passage::After { delay_ns: ms * 1_000_000, ecn: Ecn::NotEct };
        assert_eq!(delays, [after(1), after(2), after(3), after(4), Passage::Dropped]);
        assert_eq!(link.pass(4_000_000, 1_000, Ecn::NotEct, &mut hits), after(1), "the queue is empty again");
        assert_eq!(hits, CapacityHits { overflowed: 1, ..CapacityHits::default() });
    }

    #[test]
    fn a_large_datagram_vanishes() {
        let capacity = Capacity { mtu: 1_400, ..Capacity::default() };
        let (mut link, mut hits) = (Bottleneck::new(capacity), CapacityHits::default());
        let pass = Passage::After { delay_ns: 0, ecn: Ecn::Ect0 };
        assert_eq!(link.pass(0, 1_400, Ecn::Ect0, &mut hits), pass);
        assert_eq!(link.pass(0, 1_401, Ecn::Ect0, &mut hits), Passage::Dropped);
        assert_eq!(hits, CapacityHits { too_large: 1, ..CapacityHits::default() });
    }

    #[test]
    fn what_waits_long_is_marked_if_it_may_be() {
        let capacity = Capacity {
            rate_bytes_per_s: 1_000_000,
            queue_max: Duration::from_millis(9),
            mark_above: Some(Duration::from_millis(2)),
            ..Capacity::default()
        };
        let (mut link, mut hits) = (Bottleneck::new(capacity), CapacityHits::default());
        let sent = [Ecn::Ect0, Ecn::Ect0, Ecn::Ect0, Ecn::Ect0, Ecn::NotEct, Ecn::Ect1];
        let marks = sent.map(|ecn| match link.pass(0, 1_000, ecn, &mut hits) {
            Passage::After { ecn, .. } => ecn,
            Passage::Dropped => panic!("there is room"),
        });
        assert_eq!(marks, [Ecn::Ect0, Ecn::Ect0, Ecn::Ect0, Ecn::Ce, Ecn::NotEct, Ecn::Ce]);
        assert_eq!(hits, CapacityHits { marked: 2, ..CapacityHits::default() });
    }
}
