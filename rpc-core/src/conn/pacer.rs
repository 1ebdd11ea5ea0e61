//! When the next packet may leave, so that a window does not arrive at the bottleneck in one burst.

use std::time::Duration;

use crate::runtime::Instant;

/// A bucket of bytes that fills at the pacing rate. What is sent empties it; when it is empty, sending waits until the
/// bucket holds a burst worth a system call: what one millisecond carries, at least a packet, at most
/// [`BURST_PACKETS`].
#[derive(Debug, Default)]
pub(super) struct Pacer {
    credit: u64,
    filled: Instant,
    /// Nothing may leave before.
    wait: Option<Instant>,
}

impl Pacer {
    /// Whether a packet of `size` bytes may leave now, at `rate` bytes per second.
    pub(super) fn may_send(&mut self, now: Instant, size: u64, rate: u64) -> bool {
        if self.wait.is_some_and(|until| now < until) {
            return false;
        }
        let rate = rate.max(RATE_MIN);
        self.wait = None;
        // Room for what a late timer missed, or a coarse one would make the rate smaller than it is.
        let room = carried(rate, LATE_MAX).max(BURST_PACKETS * size);
        self.credit = self.credit.saturating_add(carried(rate, now - self.filled)).min(room);
        self.filled = now;
        if self.credit >= size {
            return true;
        }
        let burst = carried(rate, BURST_TIME).clamp(size, BURST_PACKETS * size);
        // Rounded up: one nanosecond too early would be one in which nothing is earned, and so on for ever.
        let missing = (u128::from(burst - self.credit) * 1_000_000_000).div_ceil(u128::from(rate));
        self.wait = Some(now + Duration::from_nanos(u64::try_from(missing).unwrap_or(u64::MAX)));
        false
    }

    /// A packet left.
    pub(super) const fn on_sent(&mut self, size: u64) {
        self.credit = self.credit.saturating_sub(size);
    }

    /// When something may leave again that had to wait.
    pub(super) const fn timeout(&self) -> Option<Instant> {
        self.wait
    }

    /// Notes that the time has come.
    pub(super) fn on_timeout(&mut self, now: Instant) {
        if self.wait.is_some_and(|until| until <= now) {
            self.wait = None;
        }
    }
}

fn carried(rate: u64, time: Duration) -> u64 {
    u64::try_from(u128::from(rate) * time.as_nanos() / 1_000_000_000).unwrap_or(u64::MAX)
}

/// Most packets of one burst after a wait: as many as one GSO send should hold (a queue on the way has to take them).
pub(super) const BURST_PACKETS: u64 = 16;
/// One wait collects what this time carries.
const BURST_TIME: Duration = Duration::from_millis(1);
/// A timer that fires later than this loses credit.
const LATE_MAX: Duration = Duration::from_millis(2);
/// Slower than this, bytes per second, nothing is paced: the window stops it sooner.
const RATE_MIN: u64 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_one_wait_something_may_leave() {
        for rate in [10_007, 1_000_003, 123_456_789, 1_500_000_007, 30_000_000_011] {
            let (mut pacer, mut now) = (Pacer::default(), Instant::from_nanos(1));
            for size in [16_000, 1_452, 1_200, 31].repeat(50) {
                while pacer.may_send(now, size, rate) {
                    pacer.on_sent(size);
                }
                now = pacer.timeout().unwrap();
                pacer.on_timeout(now);
                assert!(pacer.may_send(now, size, rate), "{size} bytes at {rate}");
            }
        }
    }

    #[test]
    fn the_rate_is_kept_in_bursts() {
        let (mut pacer, mut now) = (Pacer::default(), Instant::from_nanos(1_000_000_000));
        let (mut sent, mut burst, mut burst_max, mut waits) = (0, 0, 0, 0);
        let start = now;
        while now - start < Duration::from_secs(1) {
            if pacer.may_send(now, 1_200, 25_000_000) {
                pacer.on_sent(1_200);
                sent += 1_200;
                burst += 1;
                continue;
            }
            burst_max = burst.max(burst_max);
            burst = 0;
            waits += 1;
            now = pacer.timeout().unwrap();
            pacer.on_timeout(now);
        }
        assert!((24_800_000..25_200_000).contains(&sent), "{sent}");
        // The first burst is what the bucket held.
        assert!(burst_max <= 42, "{burst_max}");
        // 16 packets are 19,200 bytes.
        assert!((1_250..1_350).contains(&waits), "{waits}");
    }

    #[test]
    fn a_rate_of_nothing_is_not_kept() {
        let (mut pacer, now) = (Pacer::default(), Instant::default());
        assert!(!pacer.may_send(now, 1_200, 0));
        assert_eq!(pacer.timeout(), Some(now + Duration::from_millis(120)));
    }

    #[test]
    fn a_late_timer_does_not_lower_the_rate() {
        let (mut pacer, mut now) = (Pacer::default(), Instant::from_nanos(1_000_000_000));
        let mut sent = 0;
        for _ in 0..500 {
            while pacer.may_send(now, 1_200, 25_000_000) {
                pacer.on_sent(1_200);
                sent += 1_200;
            }
            now += Duration::from_millis(2);
        }
        assert!((24_500_000..25_200_000).contains(&sent), "{sent}");
    }
}
