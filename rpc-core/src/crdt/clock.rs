//! The clock that orders writes: wall time that never goes back, counted where it stands still.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// When something was written, and by whom. Later is greater; no two writes of honest writers are equal.
///
/// As CBOR: the array `[wall_ms, counter, writer]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "(u64, u32, u64)", into = "(u64, u32, u64)")]
pub struct Stamp {
    /// Milliseconds since the Unix epoch.
    pub wall_ms: u64,
    /// Counts writes that share `wall_ms`.
    pub counter: u32,
    /// Who wrote.
    pub writer: u64,
}

impl From<(u64, u32, u64)> for Stamp {
    fn from((wall_ms, counter, writer): (u64, u32, u64)) -> Self {
        Self { wall_ms, counter, writer }
    }
}

impl From<Stamp> for (u64, u32, u64) {
    fn from(stamp: Stamp) -> Self {
        (stamp.wall_ms, stamp.counter, stamp.writer)
    }
}

/// Gives stamps that are greater than all that it gave or observed before.
#[derive(Clone, Debug)]
pub struct HybridClock {
    writer: u64,
    wall_ms: u64,
    counter: u32,
}

impl HybridClock {
    /// The clock of `writer`, whose number nobody else uses.
    pub const fn new(writer: u64) -> Self {
        Self { writer, wall_ms: 0, counter: 0 }
    }

    /// The next stamp, while the wall clock says `wall_ms`.
    pub fn tick(&mut self, wall_ms: u64) -> Stamp {
        if wall_ms > self.wall_ms {
            (self.wall_ms, self.counter) = (wall_ms, 0);
        } else {
            self.step();
        }
        Stamp { wall_ms: self.wall_ms, counter: self.counter, writer: self.writer }
    }

    /// Lets the next stamps be greater than `stamp`.
    ///
    /// # Errors
    /// When `stamp` is more than `ahead_max` ahead of `wall_ms`: it is not observed, and must not be merged.
    pub fn observe(&mut self, stamp: Stamp, wall_ms: u64, ahead_max: Duration) -> Result<(), FarAhead> {
        let ahead = Duration::from_millis(stamp.wall_ms.saturating_sub(wall_ms));
        if ahead > ahead_max {
            return Err(FarAhead { ahead });
        }
        if (stamp.wall_ms, stamp.counter) > (self.wall_ms, self.counter) {
            (self.wall_ms, self.counter) = (stamp.wall_ms, stamp.counter);
        }
        Ok(())
    }

    /// A counter at its end carries into the wall time: a peer's stamp may be the last of its millisecond.
    fn step(&mut self) {
        match self.counter.checked_add(1) {
            Some(counter) => self.counter = counter,
            None => (self.wall_ms, self.counter) = (self.wall_ms.saturating_add(1), 0),
        }
    }
}

/// A stamp from a clock that is further ahead of ours than is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FarAhead {
    /// By how much.
    pub ahead: Duration,
}

impl fmt::Display for FarAhead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a stamp is {:?} ahead of the clock", self.ahead)
    }
}

impl std::error::Error for FarAhead {}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn stamps_rise_though_the_wall_clock_stands_or_goes_back() {
        let mut clock = HybridClock::new(1);
        let mut last = Stamp::default();
        for wall_ms in [100, 100, 100, 50, 0, 101, 101, u64::MAX, u64::MAX, 3] {
            let stamp = clock.tick(wall_ms);
            assert!(stamp > last, "{stamp:?} after {last:?}");
            last = stamp;
        }
    }

    #[test]
    fn what_was_observed_is_outbid() {
        let mut clock = HybridClock::new(1);
        for counter in [0, 7, u32::MAX] {
            let seen = Stamp { wall_ms: 60_500, counter, writer: 9 };
            assert_eq!(clock.observe(seen, 1_000, MINUTE), Ok(()));
            assert!(clock.tick(1_000) > seen, "{seen:?}");
        }
    }

    #[test]
    fn a_stamp_far_ahead_is_refused_and_leaves_no_mark() {
        let mut clock = HybridClock::new(1);
        let stamp = Stamp { wall_ms: u64::MAX, counter: u32::MAX, writer: 2 };
        assert!(clock.observe(stamp, 1_000, MINUTE).is_err());
        let bound = Stamp { wall_ms: 61_000, ..stamp };
        assert!(clock.observe(Stamp { wall_ms: 61_001, ..stamp }, 1_000, MINUTE).is_err());
        assert_eq!(clock.clone().observe(bound, 1_000, MINUTE), Ok(()));
        assert_eq!(clock.tick(1_000), Stamp { wall_ms: 1_000, counter: 0, writer: 1 });
    }
}
