//! One node's clocks as functions of virtual time.

use crate::runtime::Instant;

/// Wall clocks start at 2026-01-01T00:00:00Z.
const WALL_START_MS: u64 = 1_767_225_600_000;
/// The rate of an exact clock.
const EXACT: u32 = 1_000_000;
/// A virtual time that does not come.
pub(super) const NEVER: u64 = u64::MAX;

/// A clock that may run fast or slow, or stand still. All in nanoseconds.
#[derive(Clone, Debug)]
pub(super) struct Clock {
    /// Node time at `since`.
    base: u64,
    /// The virtual time at which the rate was set.
    since: u64,
    rate: u32,
    pub(super) is_stopped: bool,
    wall_offset_ms: i64,
}

impl Clock {
    /// An exact clock that shows `base` at virtual time `now`.
    pub(super) fn new(base: u64, now: u64) -> Self {
        Self { base, since: now, rate: EXACT, is_stopped: false, wall_offset_ms: 0 }
    }

    pub(super) fn set_rate(&mut self, now: u64, parts_per_million: u32) {
        self.base = self.at(now).as_nanos();
        self.since = now;
        self.rate = parts_per_million.max(1);
    }

    /// Lets the clock stand still, or go on from what it shows. The wall clock has a battery of its own.
    pub(super) fn stop(&mut self, now: u64, is_stopped: bool) {
        self.base = self.at(now).as_nanos();
        self.since = now;
        self.is_stopped = is_stopped;
    }

    pub(super) fn jump_wall(&mut self, milliseconds: i64) {
        self.wall_offset_ms += milliseconds;
    }

    /// Node time at virtual time `now`.
    pub(super) fn at(&self, now: u64) -> Instant {
        if self.is_stopped {
            return Instant::from_nanos(self.base);
        }
        let passed = u128::from(now - self.since) * u128::from(self.rate) / u128::from(EXACT);
        Instant::from_nanos(self.base.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX)))
    }

    /// The first virtual time at which the node's clock shows `deadline` or more; [`NEVER`] if it stands still before.
    pub(super) fn when(&self, deadline: Instant) -> u64 {
        let wait = u128::from(deadline.as_nanos().saturating_sub(self.base));
        if self.is_stopped && wait > 0 {
            return NEVER;
        }
        let passed = (wait * u128::from(EXACT)).div_ceil(u128::from(self.rate));
        self.since.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX))
    }

    pub(super) fn wall_ms(&self, now: u64) -> u64 {
        (WALL_START_MS + now / 1_000_000).saturating_add_signed(self.wall_offset_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fast_clock_reaches_its_deadline_early_and_never_before_it_shows_it() {
        let mut clock = Clock::new(5_000, 100);
        clock.set_rate(1_100, 1_100_000);
        for wait in [0, 1, 7, 999, 123_456_789] {
            let deadline = Instant::from_nanos(clock.at(1_100).as_nanos() + wait);
            let when = clock.when(deadline);
            assert!(clock.at(when) >= deadline);
            assert!(wait == 0 || clock.at(when - 1) < deadline);
        }
    }

    #[test]
    fn a_clock_that_stood_still_goes_on_from_what_it_showed() {
        let mut clock = Clock::new(5_000, 100);
        clock.set_rate(100, 2_000_000);
        clock.stop(600, true);
        let deadline = Instant::from_nanos(6_100);
        assert_eq!((clock.at(9_000).as_nanos(), clock.when(deadline)), (6_000, NEVER));
        clock.stop(9_000, false);
        assert_eq!((clock.at(9_000).as_nanos(), clock.when(deadline)), (6_000, 9_050));
        assert_eq!(clock.wall_ms(9_000_000), WALL_START_MS + 9, "the wall clock went on");
    }
}
