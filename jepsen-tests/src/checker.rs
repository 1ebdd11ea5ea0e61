//! Is a history what one register per key would have answered? Two checkers that share nothing but the meaning of
//! an operation, and that must agree.
//!
//! [`linearizability`] searches an order of its own and ignores revisions, so that a lying revision cannot help;
//! [`witness`] takes the revisions at their word, which makes it fast, and finds where they lie.
//! A checker knows a [`History`] and nothing of where it comes from.

pub mod effects;
pub mod linearizability;
pub mod model;
#[cfg(test)]
mod notation;
pub mod staleness;
mod verdict;
pub mod witness;

use crate::history::History;

pub use self::verdict::{Verdict, Violation};

/// What both checkers say about one history.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// The black-box search.
    pub linearizability: Verdict,
    /// The order of the revisions; `None` if the history carries none at all.
    pub witness: Option<Verdict>,
}

impl Judgement {
    /// The verdict: a violation that either checker found; linearizable only if every checker that ran says so.
    pub fn verdict(&self) -> &Verdict {
        match &self.witness {
            Some(witness) if witness.severity() > self.linearizability.severity() => witness,
            _ => &self.linearizability,
        }
    }
}

/// Asks both checkers. `steps_max` bounds the work of each checker on each key.
pub fn judge(history: &History, steps_max: u64) -> Judgement {
    let revisions = history.operations.iter().any(|operation| operation.rev.is_some());
    Judgement {
        linearizability: linearizability::check(history, steps_max),
        witness: revisions.then(|| witness::check(history, steps_max)),
    }
}

/// Default bound on the steps of a checker on one key. The search keeps about 100 bytes for each, half a gigabyte in
/// all; a key whose history needs more is *undecided*.
pub const STEPS_MAX: u64 = 5_000_000;
