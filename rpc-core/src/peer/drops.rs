//! What is said in the log about datagrams that were dropped: what and how many, not each.

use std::time::Duration;

use crate::endpoint::Counters;
use crate::runtime::Instant;

/// The least time between two lines: whoever sends garbage must not choose how much is written.
const PERIOD: Duration = Duration::from_secs(10);

/// What was said so far.
#[derive(Default)]
pub(super) struct Drops {
    said: [u64; Counters::DROPS],
    next: Option<Instant>,
}

impl Drops {
    /// A line that says what was dropped since the last one, if anything was and it is time.
    pub(super) fn line(&mut self, now: Instant, counters: &Counters) -> Option<String> {
        if self.next.is_some_and(|next| now < next) {
            return None;
        }
        let drops = counters.drops();
        let fresh = drops.iter().zip(self.said).filter(|((_, count), said)| count > said);
        let words: Vec<_> = fresh.map(|((name, count), said)| format!("{name} {}", count - said)).collect();
        if words.is_empty() {
            return None;
        }
        self.said = drops.map(|(_, count)| count);
        self.next = Some(now + PERIOD);
        Some(words.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_datagrams_are_told_by_reason_and_not_too_often() {
        let (mut drops, mut counters, start) = (Drops::default(), Counters::default(), Instant::default());
        assert_eq!(drops.line(start, &counters), None);
        counters.dropped_bad_seal = 3;
        counters.dropped_truncated = 1;
        assert_eq!(drops.line(start, &counters).as_deref(), Some("truncated 1, bad_seal 3"));
        counters.dropped_bad_seal = 5;
        assert_eq!(drops.line(start + PERIOD / 2, &counters), None, "too early");
        assert_eq!(drops.line(start + PERIOD, &counters).as_deref(), Some("bad_seal 2"));
        assert_eq!(drops.line(start + PERIOD * 3, &counters), None, "all is said");
    }
}
