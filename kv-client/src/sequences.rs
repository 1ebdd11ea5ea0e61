//! The numbers of one session's writes: which may be given out, which are open, and the floor.
//!
//! The floor promises the server that every answer below it was received, which lets it drop records. So a sequence
//! stays open until its answer is here, or until it is certain that no copy of it was ever sent; one whose outcome is
//! unknown holds the floor back until it is resolved.

use std::collections::BTreeMap;

use crate::api::SEQUENCE_WINDOW;
use crate::plant;

/// The writes of one session.
#[derive(Debug)]
pub(crate) struct Sequences {
    next: u64,
    open: BTreeMap<u64, State>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Given out; its answer may still come.
    InFlight,
    /// Nobody waits for its answer any more.
    Unknown,
}

impl Sequences {
    pub(crate) fn new() -> Self {
        Self { next: 1, open: BTreeMap::new() }
    }

    /// Every answer below this was received.
    pub(crate) fn floor(&self) -> u64 {
        let passes = |state: &State| *state == State::Unknown && plant::FLOOR_TOO_HIGH.is_planted();
        let lowest = self.open.iter().find(|(_, state)| !passes(state));
        lowest.map_or(self.next, |(sequence, _)| *sequence)
    }

    /// The next sequence; `None` when the window above the floor is full.
    pub(crate) fn reserve(&mut self) -> Option<u64> {
        let unknown = self.open.iter().find(|(_, state)| **state == State::Unknown);
        if let Some((reused, _)) = unknown.filter(|_| plant::SEQUENCE_REUSED.is_planted()) {
            return Some(*reused);
        }
        let sequence = self.next;
        if sequence - self.floor() >= SEQUENCE_WINDOW {
            return None;
        }
        self.next += 1;
        self.open.insert(sequence, State::InFlight);
        Some(sequence)
    }

    /// The answer of `sequence` was received, or nothing of it was ever sent.
    pub(crate) fn settle(&mut self, sequence: u64) {
        self.open.remove(&sequence);
    }

    /// Nobody waits for the answer of `sequence` any more, and it is not known.
    pub(crate) fn give_up(&mut self, sequence: u64) {
        if let Some(state) = self.open.get_mut(&sequence) {
            *state = State::Unknown;
        }
    }

    /// Whether a write of unknown outcome holds the floor back.
    pub(crate) fn is_held_back(&self) -> bool {
        self.open.first_key_value().is_some_and(|(_, state)| *state == State::Unknown)
    }

    /// Whether every write is settled.
    pub(crate) fn is_settled(&self) -> bool {
        self.open.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rpc_core::random::SeededRandom;

    use super::*;

    /// Against the plainest model: the floor is the lowest sequence without an answer.
    #[test]
    fn the_floor_never_passes_a_missing_answer() {
        for seed in 0..64 {
            let mut random = SeededRandom::new(seed);
            let mut sequences = Sequences::new();
            let mut answered = BTreeSet::new();
            let mut given = 0;
            for _ in 0..4_000 {
                if random.chance(520_000) {
                    if let Some(sequence) = sequences.reserve() {
                        given += 1;
                        assert_eq!(sequence, given);
                    }
                } else if given > 0 {
                    let sequence = random.between(sequences.floor().min(given), given);
                    if random.chance(900_000) {
                        sequences.settle(sequence);
                        answered.insert(sequence);
                    } else {
                        sequences.give_up(sequence);
                    }
                }
                let lowest_missing = (1..=given + 1).find(|sequence| !answered.contains(sequence));
                assert_eq!(Some(sequences.floor()), lowest_missing, "seed {seed}");
                assert!(given < sequences.floor() + SEQUENCE_WINDOW, "seed {seed}");
            }
        }
    }

    #[test]
    fn an_unknown_write_fills_the_window_until_it_is_resolved() {
        let mut sequences = Sequences::new();
        let unknown = sequences.reserve().unwrap();
        for _ in 1..SEQUENCE_WINDOW {
            let sequence = sequences.reserve().unwrap();
            sequences.settle(sequence);
        }
        assert_eq!(sequences.reserve(), None);
        assert!(!sequences.is_held_back());
        sequences.give_up(unknown);
        assert!(sequences.is_held_back());
        sequences.settle(unknown);
        assert_eq!(sequences.reserve(), Some(SEQUENCE_WINDOW + 1));
    }
}
