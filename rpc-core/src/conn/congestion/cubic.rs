//! CUBIC (RFC 9438): after a loss the window returns to where the loss was along a cubic curve of time.

use std::time::Duration;

use super::{Acked, Controller, INITIAL_PACKETS, Lost, MIN_PACKETS, Marked};
use crate::runtime::Instant;

/// Loss-based congestion control. Fair to TCP; a random loss costs it 3/10 of its window each time.
///
/// Integers only, so that every machine computes the same window.
#[derive(Debug)]
pub struct Cubic {
    packet_size: u64,
    window: u64,
    /// Below it the window grows by what is acknowledged.
    slow_start_threshold: u64,
    /// The window at the last loss: the plateau of the curve.
    window_max: u64,
    /// What Reno would have: the window is at least that (RFC 9438 section 4.3).
    window_reno: u64,
    epoch: Option<Epoch>,
    /// Packets sent before belong to the flight that was punished already: one reduction per round trip.
    recovery_start: Option<Instant>,
}

/// One stretch without losses.
#[derive(Debug)]
struct Epoch {
    start: Instant,
    /// When the curve reaches the plateau, after `start`.
    plateau_ms: u64,
}

impl Cubic {
    /// A controller for a new path.
    pub const fn new(packet_size: u64) -> Self {
        Self {
            packet_size,
            window: INITIAL_PACKETS * packet_size,
            slow_start_threshold: u64::MAX,
            window_max: 0,
            window_reno: 0,
            epoch: None,
            recovery_start: None,
        }
    }

    /// The curve, `since` after the epoch began (RFC 9438 section 4.2): `C * (t - K)^3 + W_max`, C = 0.4 packets/s^3.
    fn curve(&self, epoch: &Epoch, since: Duration) -> u64 {
        let time_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX).min(EPOCH_MS_MAX);
        let distance = u128::from(time_ms.abs_diff(epoch.plateau_ms));
        let bytes = u128::from(self.packet_size) * 4 * distance.pow(3) / (10 * 1_000_000_000);
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        if time_ms < epoch.plateau_ms {
            self.window_max.saturating_sub(bytes)
        } else {
            self.window_max.saturating_add(bytes)
        }
    }

    /// Leaves `percent` of the window, once per round trip.
    fn reduce(&mut self, now: Instant, newest_sent: Instant, percent: u64) {
        if self.recovery_start.is_some_and(|start| newest_sent <= start) {
            return;
        }
        self.recovery_start = Some(now);
        // Fast convergence: who loses below the last plateau leaves room for a newcomer (RFC 9438 section 4.7).
        self.window_max = if self.window < self.window_max { self.window * 17 / 20 } else { self.window };
        self.window = (self.window * percent / 100).max(MIN_PACKETS * self.packet_size);
        self.slow_start_threshold = self.window;
        self.epoch = None;
    }

    fn start_epoch(&mut self, now: Instant) -> Epoch {
        self.window_max = self.window_max.max(self.window);
        self.window_reno = self.window;
        let missing = u128::from(self.window_max - self.window) * 10 * 1_000_000_000;
        let plateau_ms = cube_root(missing / (4 * u128::from(self.packet_size.max(1))));
        Epoch { start: now, plateau_ms: plateau_ms.min(EPOCH_MS_MAX) }
    }
}

impl Controller for Cubic {
    fn set_packet_size(&mut self, packet_size: u64) {
        self.packet_size = packet_size;
        self.window = self.window.max(MIN_PACKETS * packet_size);
    }

    fn on_ack(&mut self, acked: &Acked) {
        if !acked.limited || self.recovery_start.is_some_and(|start| acked.newest_sent <= start) {
            return;
        }
        if self.window < self.slow_start_threshold {
            self.window = self.window.saturating_add(acked.bytes);
            return;
        }
        let epoch = match self.epoch.take() {
            Some(epoch) => epoch,
            None => self.start_epoch(acked.now),
        };
        let target = self.curve(&epoch, acked.now - epoch.start + acked.rtt);
        // At most half again as much in one round trip (RFC 9438 section 4.4).
        let target = target.clamp(self.window, self.window + self.window / 2);
        let step =
            u128::from(target - self.window) * u128::from(acked.bytes) / u128::from(self.window.max(1));
        // alpha = 3 * (1 - 0.7) / (1 + 0.7) = 9/17 of a packet per window.
        let reno = u128::from(self.packet_size) * u128::from(acked.bytes) * 9
            / (17 * u128::from(self.window.max(1)));
        self.window += u64::try_from(step).unwrap_or(0);
        self.window_reno += u64::try_from(reno).unwrap_or(0);
        self.window = self.window.max(self.window_reno);
        self.epoch = Some(epoch);
    }

    fn on_loss(&mut self, lost: &Lost) {
        self.reduce(lost.now, lost.newest_sent, BETA_LOSS);
    }

    fn on_marked(&mut self, marked: &Marked) {
        self.reduce(marked.now, marked.newest_sent, BETA_MARK);
    }

    fn window(&self) -> u64 {
        self.window
    }
}

/// The whole part of the cube root.
fn cube_root(number: u128) -> u64 {
    let mut root = 0_u64;
    for bit in (0..=41).rev() {
        let candidate = root | 1 << bit;
        if u128::from(candidate).pow(3) <= number {
            root = candidate;
        }
    }
    root
}

/// What is left of the window after a loss (RFC 9438 section 4.6), in percent.
const BETA_LOSS: u64 = 70;
/// What is left of it after a mark: queues that mark are short, so less has to go (RFC 8511 section 3.1).
const BETA_MARK: u64 = 85;
/// The curve is not followed further than this, an hour, which is far beyond any window.
const EPOCH_MS_MAX: u64 = 3_600_000;

#[cfg(test)]
mod tests {
    use super::super::tests::{acked, at, lost};
    use super::*;

    #[test]
    fn doubles_drops_once_per_round_trip_and_returns_along_the_curve() {
        let mut cubic = Cubic::new(1_000);
        cubic.on_ack(&acked(at(10), at(0), 90_000));
        assert_eq!(cubic.window(), 100_000);
        cubic.on_loss(&lost(at(20), at(15)));
        cubic.on_loss(&lost(at(21), at(18)));
        assert_eq!(cubic.window(), 70_000);
        // K = cube root of (30 packets / 0.4) = 4.2 s.
        let mut now = 200;
        while now < 8_400 {
            let part = cubic.window() / 10;
            for _ in 0..10 {
                cubic.on_ack(&acked(at(now), at(now - 200), part));
            }
            match now {
                2_000 => assert!((88_000..98_000).contains(&cubic.window()), "{}", cubic.window()),
                4_200 => assert!((98_000..102_000).contains(&cubic.window()), "{}", cubic.window()),
                _ => {}
            }
            now += 200;
        }
        assert!(cubic.window() > 110_000, "{}", cubic.window());
    }

    #[test]
    fn window_has_a_floor_and_does_not_grow_unused() {
        let mut cubic = Cubic::new(1_000);
        for round in 1..20 {
            cubic.on_loss(&lost(at(round * 10), at(round * 10 - 1)));
        }
        assert_eq!(cubic.window(), 4_000);
        for _ in 0..100 {
            cubic.on_ack(&Acked { limited: false, ..acked(at(900), at(899), 1_000) });
        }
        assert_eq!(cubic.window(), 4_000);
    }

    /// After a loss at 100,000 bytes, noticed at 20 ms: 70,000 are left.
    fn reduced() -> Cubic {
        let mut cubic = Cubic::new(1_000);
        cubic.on_ack(&acked(at(10), at(0), 90_000));
        cubic.on_loss(&lost(at(20), at(15)));
        cubic
    }

    /// Lets a round trip pass in which the whole window is acknowledged.
    fn round(cubic: &mut Cubic, now: u64, rtt: u64) {
        cubic.on_ack(&acked(at(now), at(now - rtt), cubic.window()));
    }

    #[test]
    fn the_window_goes_to_where_the_curve_is_in_a_round_trip_from_now() {
        let mut cubic = reduced();
        cubic.on_ack(&acked(at(22), at(20), 70_000));
        assert_eq!(cubic.window(), 70_000, "it was sent before the loss was noticed");
        round(&mut cubic, 221, 200);
        assert!((74_000..74_200).contains(&cubic.window()), "{}", cubic.window());
        round(&mut cubic, 60_000, 200);
        assert!((110_000..111_500).contains(&cubic.window()), "half again at most: {}", cubic.window());
        let before = cubic.window();
        cubic.on_loss(&lost(at(60_001), at(60_000)));
        round(&mut cubic, 60_300, 200);
        assert!(cubic.window() < before * 8 / 10, "a loss begins the curve anew: {}", cubic.window());
    }

    #[test]
    fn who_loses_below_the_plateau_leaves_room_and_a_mark_costs_half_of_what_a_loss_does() {
        let mut cubic = reduced();
        cubic.on_loss(&lost(at(40), at(30)));
        assert_eq!((cubic.window(), cubic.window_max), (49_000, 70_000 * 17 / 20));
        let mut cubic = reduced();
        let marked = Marked { now: at(40), packets: 1, bytes: 1_000, newest_sent: at(30), in_flight: 0 };
        cubic.on_marked(&marked);
        cubic.on_marked(&marked);
        assert_eq!(cubic.window(), 59_500);
        cubic.set_packet_size(20_000);
        assert_eq!(cubic.window(), 80_000, "four packets of any size");
    }

    #[test]
    fn where_round_trips_are_short_it_grows_as_reno_does_from_what_a_loss_left() {
        let mut cubic = reduced();
        for now in 100..200 {
            round(&mut cubic, now, 1);
        }
        // 9/17 of a packet for each round trip, more than the curve has in 0.1 s.
        assert!((120_000..123_000).contains(&cubic.window()), "{}", cubic.window());
        cubic.on_loss(&lost(at(200), at(199)));
        let before = cubic.window();
        round(&mut cubic, 202, 1);
        assert!((before + 500..before + 1_000).contains(&cubic.window()), "{before} {}", cubic.window());
    }

    #[test]
    fn cube_roots_are_exact() {
        for number in [0, 1, 7, 8, 26, 27, 75_000_000_000, u128::from(u64::MAX)] {
            let root = u128::from(cube_root(number));
            assert!(root.pow(3) <= number && number < (root + 1).pow(3), "{number}");
        }
    }
}
