//! How much may be on the way: congestion control behind a trait.

use std::fmt;

use crate::runtime::Instant;

/// Decides how many bytes may be sent and not yet acknowledged.
pub(super) trait Controller: Send + fmt::Debug {
    /// A packet that wants an acknowledgement was sent.
    fn on_sent(&mut self, now: Instant, size: u64);

    /// A packet was acknowledged. `limited`: the window, not the application, decided how much was on the way.
    fn on_ack(&mut self, now: Instant, sent: Instant, size: u64, limited: bool);

    /// Packets were lost, the latest of them sent at `sent`.
    fn on_loss(&mut self, now: Instant, sent: Instant);

    /// The probe timeout expired. That alone says nothing about congestion (RFC 9002 section 7.5).
    fn on_pto(&mut self) {}

    /// Bytes that may be on the way.
    fn window(&self) -> u64;
}

/// Loss-based congestion control, RFC 9002 section 7.
#[derive(Debug)]
pub(super) struct NewReno {
    packet_size: u64,
    window: u64,
    /// Below it the window doubles in each round trip, above it it grows by one packet.
    slow_start_threshold: u64,
    /// Bytes acknowledged since the window last grew in congestion avoidance.
    acked: u64,
    /// Packets sent before belong to the flight that was punished already: one reduction per round trip.
    recovery_start: Option<Instant>,
}

const INITIAL_PACKETS: u64 = 10;
/// The RFC allows 2; with 4 a lost packet is still noticed by acknowledgements of later ones instead of a timeout.
const MIN_PACKETS: u64 = 4;

impl NewReno {
    pub(super) const fn new(packet_size: u64) -> Self {
        Self {
            packet_size,
            window: INITIAL_PACKETS * packet_size,
            slow_start_threshold: u64::MAX,
            acked: 0,
            recovery_start: None,
        }
    }
}

impl Controller for NewReno {
    fn on_sent(&mut self, _now: Instant, _size: u64) {}

    fn on_ack(&mut self, _now: Instant, sent: Instant, size: u64, limited: bool) {
        if !limited || self.recovery_start.is_some_and(|start| sent <= start) {
            return;
        }
        if self.window < self.slow_start_threshold {
            self.window = self.window.saturating_add(size);
            return;
        }
        self.acked += size;
        if self.acked >= self.window {
            self.acked -= self.window;
            self.window = self.window.saturating_add(self.packet_size);
        }
    }

    fn on_loss(&mut self, now: Instant, sent: Instant) {
        if self.recovery_start.is_some_and(|start| sent <= start) {
            return;
        }
        self.recovery_start = Some(now);
        self.window = (self.window / 2).max(MIN_PACKETS * self.packet_size);
        self.slow_start_threshold = self.window;
        self.acked = 0;
    }

    fn window(&self) -> u64 {
        self.window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn window_doubles_halves_once_per_round_trip_and_then_creeps() {
        let mut reno = NewReno::new(1_000);
        for _ in 0..10 {
            reno.on_ack(at(10), at(0), 1_000, true);
        }
        assert_eq!(reno.window(), 20_000);
        reno.on_loss(at(20), at(15));
        reno.on_loss(at(21), at(18));
        assert_eq!(reno.window(), 10_000);
        for _ in 0..10 {
            reno.on_ack(at(30), at(25), 1_000, true);
        }
        assert_eq!(reno.window(), 11_000);
    }

    #[test]
    fn window_has_a_floor_and_does_not_grow_unused() {
        let mut reno = NewReno::new(1_000);
        for round in 1..20 {
            reno.on_loss(at(round * 10), at(round * 10 - 1));
        }
        assert_eq!(reno.window(), 4_000);
        for _ in 0..100 {
            reno.on_ack(at(900), at(899), 1_000, false);
        }
        assert_eq!(reno.window(), 4_000);
    }
}
