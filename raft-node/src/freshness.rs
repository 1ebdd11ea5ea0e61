//! How old what this node has applied may be.
//!
//! Every append and heartbeat tells what the leader knew to be committed, and how long before a quorum had acknowledged
//! the leader: up to that moment nobody else can have committed anything. So once that much is applied here, what is
//! applied holds everything that was answered until then.
//!
//! A message may have been on its way for any time, and clocks are not compared: each answer to the leader carries a
//! stamp of this node's clock, and each message the last stamp that the leader had got. The message was made after that.
//!
//! Ages are told by the monotonic clock, which stands still while a machine is suspended. The wall clock tells: when the
//! two went apart, everything that was heard before is forgotten.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rpc_core::runtime::{Instant, Runtime};
use serde::{Deserialize, Serialize};

use crate::outcome::Age;
use crate::plant;

/// A moment of the clock of one life of a node: which life, and microseconds. Means something to that node only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp(pub(crate) u64, pub(crate) u64);

/// What both clocks of this node show.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clocks {
    pub(crate) now: Instant,
    pub(crate) wall_ms: u64,
}

impl Clocks {
    pub(crate) fn of(runtime: &Runtime) -> Self {
        Self { now: runtime.now(), wall_ms: runtime.wall_ms() }
    }
}

/// What this node heard from its leaders lately (or, as the leader, said itself).
#[derive(Debug, Default)]
pub(crate) struct Freshness {
    /// Tells stamps of this life of the node from those of others.
    life: u64,
    memory: Mutex<Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    heard: VecDeque<Heard>,
    /// The clocks when they were last looked at.
    seen: Option<Clocks>,
    /// Moments before this one cannot be compared with those after it: the clocks went apart then, or a while before.
    since: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Heard {
    at: Instant,
    commit: Option<u64>,
    /// How long before `at` a quorum had acknowledged the leader.
    quorum_ack_age: Duration,
}

impl Freshness {
    /// Nothing was heard yet. `life` is drawn anew for each life of the node.
    pub(crate) fn new(life: u64) -> Self {
        Self { life, memory: Mutex::default() }
    }

    /// What an answer that is given now carries.
    pub(crate) fn stamp(&self, clocks: Clocks) -> Stamp {
        drop(self.lock(clocks));
        Stamp(self.life, clocks.now.as_nanos() / 1_000)
    }

    /// Whether the time from `at` until now can be told.
    pub(crate) fn is_since(&self, at: Instant, clocks: Clocks) -> bool {
        let memory = self.lock(clocks);
        at <= clocks.now && memory.since.is_none_or(|since| at >= since)
    }

    /// As [`Freshness::hear`], for a message that a leader made after it had got `stamp`. Stamps of other lives say
    /// nothing.
    pub(crate) fn hear_since(
        &self,
        clocks: Clocks,
        Stamp(life, micros): Stamp,
        commit: Option<u64>,
        quorum_ack_age: Duration,
    ) {
        let at = Instant::from_nanos(micros.saturating_mul(1_000));
        if life == self.life && self.is_since(at, clocks) {
            self.hear(at, commit, quorum_ack_age);
        }
    }

    /// At `at`, a leader that a quorum had acknowledged `quorum_ack_age` before knew `commit` to be committed.
    pub(crate) fn hear(&self, at: Instant, commit: Option<u64>, quorum_ack_age: Duration) {
        let heard = &mut self.memory().heard;
        if let Some(last) = heard.back_mut() {
            if last.commit == commit {
                // The same knowledge, confirmed later.
                if at - quorum_ack_age > last.at - last.quorum_ack_age {
                    *last = Heard { at, commit, quorum_ack_age };
                }
                return;
            }
            if at - last.at < HEARD_INTERVAL_MIN {
                return;
            }
        }
        if heard.len() == HEARD_MAX {
            heard.pop_front();
        }
        heard.push_back(Heard { at, commit, quorum_ack_age });
    }

    /// How old the state is now with everything up to `applied` applied.
    pub(crate) fn age(&self, clocks: Clocks, applied: Option<u64>) -> Age {
        let heard = &self.lock(clocks).heard;
        let known = heard.iter().filter(|it| it.commit <= applied);
        let ages = known.map(|it| clocks.now - it.at + it.quorum_ack_age);
        if plant::STALE_READ_AGELESS.is_planted() {
            return Age::AtMost(Duration::ZERO);
        }
        ages.min().map_or(Age::Unbounded, Age::AtMost)
    }

    /// What is remembered; nothing from before the clocks went apart.
    fn lock(&self, clocks: Clocks) -> MutexGuard<'_, Memory> {
        let mut memory = self.memory();
        if let Some(seen) = memory.seen {
            let passed = i128::from(clocks.now.as_nanos()) - i128::from(seen.now.as_nanos());
            let wall = (i128::from(clocks.wall_ms) - i128::from(seen.wall_ms)) * 1_000_000;
            // Two tasks may look in the other order than they read the clocks.
            if passed >= 0 && (wall - passed).unsigned_abs() > APART_MIN.as_nanos() {
                memory.heard.clear();
                memory.since = Some(clocks.now + SETTLE);
            }
        }
        memory.seen = Some(clocks);
        memory
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long after a suspension nothing is believed: as long as an append is waited for. openraft takes the late answer
/// to an append from before it for one to a later append that ends at the same entry.
const SETTLE: Duration = Duration::from_secs(2);
/// How far the two clocks may go apart between two looks. A machine that was suspended for less is not noticed.
const APART_MIN: Duration = Duration::from_millis(250);
/// What is remembered, oldest forgotten first: reaches as far back as applying may lag behind without the age of a
/// read becoming unbounded (0.6 s at the least).
const HEARD_MAX: usize = 128;
/// News within so short a time of the last remembered are not remembered.
const HEARD_INTERVAL_MIN: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    /// Both clocks of a machine that was never suspended.
    fn clocks(ms: u64) -> Clocks {
        Clocks { now: at(ms), wall_ms: 1_000_000 + ms }
    }

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn nothing_heard_is_unbounded() {
        assert_eq!(Freshness::default().age(clocks(5), Some(100)), Age::Unbounded);
    }

    #[test]
    fn the_age_is_silence_plus_the_age_of_the_quorum() {
        let freshness = Freshness::default();
        freshness.hear(at(100), Some(7), ms(30));
        assert_eq!(freshness.age(clocks(150), Some(7)), Age::AtMost(ms(80)));
        freshness.hear(at(120), Some(7), ms(30));
        assert_eq!(freshness.age(clocks(150), Some(9)), Age::AtMost(ms(60)));
    }

    #[test]
    fn a_message_that_was_held_up_is_as_old_as_the_stamp_that_it_brings() {
        let freshness = Freshness::new(3);
        let stamp = freshness.stamp(clocks(100));
        // Made right after the stamp was got, and on its way for 400 ms.
        freshness.hear_since(clocks(500), stamp, Some(7), ms(10));
        assert_eq!(freshness.age(clocks(520), Some(7)), Age::AtMost(ms(430)));
        for strange in [Stamp(4, stamp.1), Stamp(3, 900_000)] {
            let freshness = Freshness::new(3);
            freshness.hear_since(clocks(500), strange, Some(7), ms(10));
            assert_eq!(freshness.age(clocks(520), Some(7)), Age::Unbounded, "{strange:?}");
        }
    }

    #[test]
    fn nothing_from_before_a_suspension_counts_after_it() {
        let freshness = Freshness::new(3);
        let before = freshness.stamp(clocks(100));
        freshness.hear_since(clocks(110), before, Some(7), ms(10));
        assert_eq!(freshness.age(clocks(120), Some(7)), Age::AtMost(ms(30)));
        // Suspended for a minute: only the wall clock knows.
        let after = |ms: u64| Clocks { now: at(ms), wall_ms: 1_060_000 + ms };
        assert_eq!(freshness.age(after(125), Some(7)), Age::Unbounded);
        freshness.hear_since(after(130), before, Some(7), ms(10));
        assert_eq!(freshness.age(after(130), Some(7)), Age::Unbounded, "the stamp is from before it");
        assert!(!freshness.is_since(at(124), after(130)) && !freshness.is_since(at(130), after(130)));
        let stamp = freshness.stamp(after(2_130));
        freshness.hear_since(after(2_140), stamp, Some(7), ms(10));
        assert_eq!(freshness.age(after(2_140), Some(7)), Age::AtMost(ms(20)));
    }

    #[test]
    fn what_is_not_applied_yet_does_not_make_it_younger() {
        let freshness = Freshness::default();
        freshness.hear(at(100), Some(7), ms(0));
        freshness.hear(at(200), Some(8), ms(0));
        assert_eq!(freshness.age(clocks(210), Some(7)), Age::AtMost(ms(110)));
        assert_eq!(freshness.age(clocks(210), Some(6)), Age::Unbounded);
        assert_eq!(freshness.age(clocks(210), Some(8)), Age::AtMost(ms(10)));
    }

    #[test]
    fn memory_is_bounded_and_reaches_back() {
        let freshness = Freshness::default();
        for tick in 0..10_000 {
            freshness.hear(at(tick), Some(tick), ms(0));
        }
        assert!(freshness.memory().heard.len() <= HEARD_MAX);
        assert!(matches!(freshness.age(clocks(10_000), Some(9_500)), Age::AtMost(age) if age < ms(510)));
    }
}
