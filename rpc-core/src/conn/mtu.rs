//! The largest datagram that the path carries: search upwards, fall back when it shrinks (RFC 8899).
//!
//! Every path carries [`SETUP_DATAGRAM_SIZE`] bytes. Above it a size counts when a probe of it (PING and PADDING) was
//! acknowledged. The first probe has the largest size that both sides allow, the next ones those of jumbo frames and of
//! Ethernet, where most paths end the search; below Ethernet, in a tunnel, it halves what is left. A probe goes out only when there is more to send than one packet holds: a connection with small calls never
//! needs it. Probes are acknowledged and counted in flight like other packets, but the loss of one says nothing about
//! congestion.

use std::time::Duration;

use crate::runtime::Instant;
use crate::wire::SETUP_DATAGRAM_SIZE;

/// The search on one path.
#[derive(Debug)]
pub(super) struct Mtu {
    /// Datagrams of this size arrive.
    current: usize,
    /// Larger ones are known, or believed, not to arrive.
    upper: usize,
    /// What both sides allow.
    limit: usize,
    /// The size that is tried, and how many probes of it were lost.
    trial: Option<usize>,
    lost: u32,
    in_flight: bool,
    /// There was more to send than one packet.
    wanted: bool,
    /// When a search that has ended begins again.
    again: Option<Instant>,
    /// Packets above the base size that were lost since one arrived.
    large_lost: u32,
}

impl Mtu {
    /// Nothing is known yet, and up to `limit` may be tried.
    pub(super) const fn new(limit: usize) -> Self {
        Self {
            current: SETUP_DATAGRAM_SIZE,
            upper: limit,
            limit,
            trial: None,
            lost: 0,
            in_flight: false,
            wanted: false,
            again: None,
            large_lost: 0,
        }
    }

    /// Largest datagram that is known to arrive.
    pub(super) const fn current(&self) -> usize {
        self.current
    }

    /// There is more to send than one packet.
    pub(super) const fn on_full_packet(&mut self) {
        self.wanted = true;
    }

    /// The size of the probe to be sent now.
    pub(super) fn probe(&mut self, now: Instant) -> Option<usize> {
        if self.in_flight || !self.wanted {
            return None;
        }
        if self.again.is_some_and(|again| again <= now) {
            (self.again, self.upper) = (None, self.limit);
        }
        if self.again.is_some() || self.current >= self.limit {
            return None;
        }
        if self.trial.is_none() {
            self.trial = Some(self.next_trial());
            self.lost = 0;
        }
        self.trial
    }

    fn next_trial(&self) -> usize {
        if self.upper == self.limit {
            return self.limit;
        }
        let common = COMMON.into_iter().find(|size| (self.current + 1..=self.upper).contains(size));
        common.unwrap_or_else(|| (self.current + self.upper).div_ceil(2))
    }

    /// A probe was sent.
    pub(super) const fn on_sent(&mut self) {
        self.in_flight = true;
    }

    /// A probe of `size` bytes arrived.
    pub(super) fn on_acked(&mut self, now: Instant, size: usize) {
        (self.in_flight, self.trial) = (false, None);
        if size > self.current && size <= self.upper {
            self.current = size;
            self.large_lost = 0;
        }
        self.end_if_close(now);
    }

    /// A probe of `size` bytes was lost.
    pub(super) fn on_lost(&mut self, now: Instant, size: usize) {
        self.in_flight = false;
        if self.trial != Some(size) {
            return;
        }
        self.lost += 1;
        if self.lost >= PROBES_MAX {
            (self.trial, self.upper) = (None, size - 1);
            self.end_if_close(now);
        }
    }

    fn end_if_close(&mut self, now: Instant) {
        // Between the common sizes are few paths, and each step of the search costs some lost probes.
        let next = COMMON.into_iter().rfind(|size| self.current < *size).unwrap_or(usize::MAX);
        let between = self.current >= ETHERNET && self.upper < next.min(self.limit);
        if between || self.upper < self.current + STEP_MIN {
            self.again = Some(now + RAISE_AFTER);
            self.wanted = false;
        }
    }

    /// A packet of `size` bytes arrived, whatever is in it.
    pub(super) const fn on_packet_acked(&mut self, size: u64) {
        if size > SETUP_DATAGRAM_SIZE as u64 {
            self.large_lost = 0;
        }
    }

    /// A packet of `size` bytes was lost that is no probe.
    pub(super) fn on_packet_lost(&mut self, size: u64) {
        if size > SETUP_DATAGRAM_SIZE as u64 && self.current > SETUP_DATAGRAM_SIZE {
            self.large_lost += 1;
            if self.large_lost >= BLACK_HOLE_PACKETS {
                self.fall_back();
            }
        }
    }

    /// The probe timeout expired for the `count`th time in a row, with packets above the base size on the way.
    pub(super) fn on_pto(&mut self, count: u32) {
        if count >= BLACK_HOLE_PTOS && self.current > SETUP_DATAGRAM_SIZE {
            self.fall_back();
        }
    }

    /// Begins anew at the base size; the search goes on when there is much to send again.
    fn fall_back(&mut self) {
        *self = Self { wanted: true, ..Self::new(self.limit) };
    }
}

/// UDP payload that Ethernet carries over IPv6.
const ETHERNET: usize = 1_452;
/// Sizes that are tried first, the largest first: jumbo frames of 9,000 bytes and Ethernet, both over IPv6.
const COMMON: [usize; 2] = [8_952, ETHERNET];
/// Probes of one size that are lost before it counts as too large (RFC 8899 section 5.1.2, MAX_PROBES).
const PROBES_MAX: u32 = 3;
/// The search ends when fewer bytes than this are left to be won.
const STEP_MIN: usize = 20;
/// After it a path that was searched is searched again (RFC 8899 section 5.1.1, PMTU_RAISE_TIMER).
const RAISE_AFTER: Duration = Duration::from_secs(600);
/// So many packets above the base size lost, and none arrived, are no chance: a black hole.
const BLACK_HOLE_PACKETS: u32 = 12;
/// So many probe timeouts in a row may be one.
const BLACK_HOLE_PTOS: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn search(mtu: &mut Mtu, path: usize, now: Instant) -> u32 {
        let mut probes = 0;
        mtu.on_full_packet();
        while let Some(size) = mtu.probe(now) {
            mtu.on_sent();
            probes += 1;
            if size <= path { mtu.on_acked(now, size) } else { mtu.on_lost(now, size) }
        }
        probes
    }

    #[test]
    fn the_upper_bound_takes_one_probe_and_any_other_size_is_approached() {
        let now = Instant::from_nanos(7);
        let mut mtu = Mtu::new(1_452);
        assert_eq!((search(&mut mtu, 1_452, now), mtu.current()), (1, 1_452));
        for path in 1_200..1_452 {
            let mut mtu = Mtu::new(1_452);
            assert!(search(&mut mtu, path, now) <= 15);
            assert!(mtu.current() <= path && path - mtu.current() < STEP_MIN, "{} of {path}", mtu.current());
        }
    }

    #[test]
    fn jumbo_frames_and_ethernet_are_found_with_few_probes() {
        let now = Instant::from_nanos(7);
        // What the path carries, what is found, and how many probes that takes: three of each size that is lost.
        for (limit, path, found, probes) in [
            (16_000, 65_507, 16_000, 1),
            (16_000, 15_999, 8_952, 4),
            (16_000, 8_952, 8_952, 4),
            (16_000, 8_951, 1_452, 7),
            (16_000, 1_452, 1_452, 7),
            (8_952, 1_500, 1_452, 4),
            (5_000, 4_999, 1_452, 4),
        ] {
            let mut mtu = Mtu::new(limit);
            assert_eq!((search(&mut mtu, path, now), mtu.current()), (probes, found), "{limit} {path}");
        }
        let mut mtu = Mtu::new(16_000);
        search(&mut mtu, 1_300, now);
        assert!(mtu.current() <= 1_300 && 1_300 - mtu.current() < STEP_MIN);
    }

    #[test]
    fn a_finished_search_begins_again_later_and_nothing_is_probed_unasked() {
        let now = Instant::from_nanos(7);
        let mut mtu = Mtu::new(1_452);
        assert_eq!(mtu.probe(now), None);
        search(&mut mtu, 1_300, now);
        assert_eq!(search(&mut mtu, 1_452, now + Duration::from_secs(599)), 0);
        assert_eq!(search(&mut mtu, 1_452, now + Duration::from_secs(601)), 1);
        assert_eq!(mtu.current(), 1_452);
    }

    #[test]
    fn large_packets_that_all_vanish_are_a_black_hole_and_random_loss_is_not() {
        let now = Instant::from_nanos(7);
        let mut mtu = Mtu::new(1_452);
        search(&mut mtu, 1_452, now);
        for _ in 0..100 {
            (0..5).for_each(|_| mtu.on_packet_lost(1_452));
            mtu.on_packet_acked(1_452);
        }
        (0..30).for_each(|_| mtu.on_packet_lost(1_200));
        assert_eq!(mtu.current(), 1_452);
        (0..BLACK_HOLE_PACKETS).for_each(|_| mtu.on_packet_lost(1_452));
        assert_eq!(mtu.current(), 1_200);
    }

    #[test]
    fn losses_before_a_larger_size_was_found_do_not_count_against_it() {
        let now = Instant::from_nanos(7);
        let mut mtu = Mtu::new(1_452);
        search(&mut mtu, 1_300, now);
        (1..BLACK_HOLE_PACKETS).for_each(|_| mtu.on_packet_lost(1_300));
        search(&mut mtu, 1_452, now + RAISE_AFTER);
        assert_eq!(mtu.current(), 1_452);
        (1..BLACK_HOLE_PACKETS).for_each(|_| mtu.on_packet_lost(1_452));
        assert_eq!(mtu.current(), 1_452);
        mtu.on_packet_acked(1_200);
        mtu.on_packet_lost(1_452);
        assert_eq!(mtu.current(), 1_200, "a small packet that arrives says nothing about large ones");
    }
}
