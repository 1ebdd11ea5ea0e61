//! How old what this node has applied may be.
//!
//! Every append and heartbeat tells what the leader knew to be committed, and how long before a quorum had acknowledged
//! the leader: up to that moment nobody else can have committed anything. So once that much is applied here, what is
//! applied holds everything that was answered until then.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rpc_core::runtime::Instant;

use crate::outcome::Age;

/// What this node heard from its leaders lately (or, as the leader, said itself).
#[derive(Debug, Default)]
pub(crate) struct Freshness {
    heard: Mutex<VecDeque<Heard>>,
}

#[derive(Clone, Copy, Debug)]
struct Heard {
    at: Instant,
    commit: Option<u64>,
    /// How long before `at` a quorum had acknowledged the leader.
    quorum_ack_age: Duration,
}

impl Freshness {
    /// At `at`, a leader that a quorum had acknowledged `quorum_ack_age` before knew `commit` to be committed.
    pub(crate) fn hear(&self, at: Instant, commit: Option<u64>, quorum_ack_age: Duration) {
        let mut heard = self.lock();
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

    /// How old the state is at `now` with everything up to `applied` applied.
    pub(crate) fn age(&self, now: Instant, applied: Option<u64>) -> Age {
        let heard = self.lock();
        let ages = heard.iter().filter(|it| it.commit <= applied).map(|it| now - it.at + it.quorum_ack_age);
        ages.min().map_or(Age::Unbounded, Age::AtMost)
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Heard>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

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

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn nothing_heard_is_unbounded() {
        assert_eq!(Freshness::default().age(at(5), Some(100)), Age::Unbounded);
    }

    #[test]
    fn the_age_is_silence_plus_the_age_of_the_quorum() {
        let freshness = Freshness::default();
        freshness.hear(at(100), Some(7), ms(30));
        assert_eq!(freshness.age(at(150), Some(7)), Age::AtMost(ms(80)));
        freshness.hear(at(120), Some(7), ms(30));
        assert_eq!(freshness.age(at(150), Some(9)), Age::AtMost(ms(60)));
    }

    #[test]
    fn what_is_not_applied_yet_does_not_make_it_younger() {
        let freshness = Freshness::default();
        freshness.hear(at(100), Some(7), ms(0));
        freshness.hear(at(200), Some(8), ms(0));
        assert_eq!(freshness.age(at(210), Some(7)), Age::AtMost(ms(110)));
        assert_eq!(freshness.age(at(210), Some(6)), Age::Unbounded);
        assert_eq!(freshness.age(at(210), Some(8)), Age::AtMost(ms(10)));
    }

    #[test]
    fn memory_is_bounded_and_reaches_back() {
        let freshness = Freshness::default();
        for tick in 0..10_000 {
            freshness.hear(at(tick), Some(tick), ms(0));
        }
        assert!(freshness.lock().len() <= HEARD_MAX);
        assert!(matches!(freshness.age(at(10_000), Some(9_500)), Age::AtMost(age) if age < ms(510)));
    }
}
