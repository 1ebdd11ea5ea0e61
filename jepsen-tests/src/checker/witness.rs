//! The witness checker: every answer carries the revision it took effect at, which is an order; is it a good one?
//!
//! It holds, over all keys at once, in O(n log n):
//!
//! 1. no two writes share a revision;
//! 2. revisions follow real time: if A returned before B was called, `rev(A) <= rev(B)`, and `<` if B writes;
//! 3. each key, replayed in the order of revisions, gives every answer: an operation at revision r sees the last write
//!    with a revision up to r (a write: below r). A mismatch of cas is judged at its revision as a read is.
//!
//! **Writes of unknown outcome.** With a revision (a later look into the log found it) such a write took effect there,
//! and its call obeys rule 2. Without one it takes effect nowhere, unless an answer proves that it did: where an answer
//! does not fit what the key holds, unknown writes that explain it are put right before it, between the revisions.
//! Each is used at most once, and only at an answer whose revision is above that of everything that returned before
//! the write was called, so that the order stays one of real time. An answer that fits needs none: whatever could be
//! put before it could also be put after it, or would be overwritten by it. With unique values an answer is explained
//! in at most one way; otherwise all ways are tried, within a bound on the steps.
//!
//! **Writes that failed** have no effect, so an answer that shows the value of one is a violation.
//!
//! If the check passes, the order that it built is a linearization. If it fails, the revisions are wrong, and the
//! values may be.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::model::{Model, Register};
use super::verdict::{Verdict, Violation};
use crate::history::{Action, History, Operation, Outcome, Semantics, Shown};

/// Judges `history` by its revisions, with at most `steps_max` steps for each key.
pub fn check(history: &History, steps_max: u64) -> Verdict {
    match Revisions::of(history) {
        Ok(revisions) => match revisions.check(steps_max) {
            Ok(()) => Verdict::Linearizable { operations: history.operations.len() },
            Err(Verdict::Violation(mut violation)) => {
                violation.show_failed_writes(&history.operations);
                Verdict::Violation(violation)
            }
            Err(verdict) => verdict,
        },
        Err(why) => Verdict::Undecided { why },
    }
}

/// An operation whose place in the order is known.
#[derive(Clone, Copy)]
struct Placed<'a> {
    operation: &'a Operation,
    rev: u64,
}

impl Placed<'_> {
    fn writes(&self) -> bool {
        self.operation.action.writes()
    }
}

/// A write that may have taken effect anywhere after revision `after`, or nowhere.
#[derive(Clone, Copy)]
struct Unplaced<'a> {
    operation: &'a Operation,
    after: u64,
}

struct Revisions<'a> {
    /// In the order of revisions, the write of a revision before its observers.
    placed: Vec<Placed<'a>>,
    unplaced: Vec<Unplaced<'a>>,
}

impl<'a> Revisions<'a> {
    /// The reason, if the history does not lend itself to this check.
    fn of(history: &'a History) -> Result<Self, String> {
        if history.semantics != Semantics::Register {
            return Err("the order of revisions is checked for registers only".to_owned());
        }
        let (mut placed, mut unplaced) = (Vec::new(), Vec::new());
        for operation in &history.operations {
            match (operation.action.result(), operation.rev) {
                (_, _) if matches!(operation.action, Action::Append { .. }) => {
                    return Err("the order of revisions is checked for registers only".to_owned());
                }
                (Outcome::Ok(()), Some(rev)) => placed.push(Placed { operation, rev }),
                (Outcome::Ok(()), None) => {
                    return Err(format!("an answer carries no revision: {operation}"));
                }
                (Outcome::Info, Some(rev)) if operation.action.writes() => {
                    placed.push(Placed { operation, rev })
                }
                (Outcome::Info, None) if operation.action.writes() => {
                    unplaced.push(Unplaced { operation, after: 0 });
                }
                (Outcome::Fail | Outcome::Info, _) => {}
            }
        }
        placed.sort_by_key(|placed| (placed.rev, !placed.writes()));
        Ok(Self { placed, unplaced })
    }

    fn check(mut self, steps_max: u64) -> Result<(), Verdict> {
        self.no_revision_twice()?;
        self.real_time()?;
        let mut keys: BTreeMap<&str, (Vec<Placed<'a>>, Vec<Unplaced<'a>>)> = BTreeMap::new();
        for placed in self.placed {
            keys.entry(&placed.operation.key).or_default().0.push(placed);
        }
        for unplaced in self.unplaced {
            keys.entry(&unplaced.operation.key).or_default().1.push(unplaced);
        }
        let mut undecided = None;
        for (key, (placed, unplaced)) in keys {
            match Replay::new(placed, unplaced, steps_max).run(key) {
                Ok(()) => {}
                Err(Verdict::Undecided { why }) => undecided = undecided.or(Some(Verdict::Undecided { why })),
                Err(verdict) => return Err(verdict),
            }
        }
        undecided.map_or(Ok(()), Err)
    }

    fn no_revision_twice(&self) -> Result<(), Verdict> {
        for pair in self.placed.windows(2) {
            if pair[0].rev == pair[1].rev && pair[0].writes() && pair[1].writes() {
                return Err(violation(
                    pair[1].operation,
                    format!("two writes carry revision {}", pair[1].rev),
                    vec![("first", pair[0].operation), ("second", pair[1].operation)],
                ));
            }
        }
        Ok(())
    }

    /// Holds rule 2, and learns what each unplaced write comes after.
    fn real_time(&mut self) -> Result<(), Verdict> {
        let mut returns: Vec<(u64, Placed<'a>)> =
            self.placed.iter().filter_map(|placed| Some((placed.operation.ended()?, *placed))).collect();
        returns.sort_by_key(|&(ended, _)| ended);
        let mut calls: Vec<&Placed<'a>> = self.placed.iter().collect();
        calls.sort_by_key(|placed| placed.operation.call);
        self.unplaced.sort_by_key(|unplaced| unplaced.operation.call);

        let mut highest = Highest::new(&returns);
        for later in calls {
            let Some(earlier) = highest.before(later.operation.call) else { continue };
            if earlier.rev < later.rev || earlier.rev == later.rev && !later.writes() {
                continue;
            }
            let relation = if earlier.rev == later.rev { "no higher" } else { "a lower" };
            return Err(violation(
                later.operation,
                format!(
                    "`{}` has {relation} revision than what returned before it was called",
                    later.operation.action
                ),
                vec![("earlier", earlier.operation), ("later", later.operation)],
            ));
        }
        let mut highest = Highest::new(&returns);
        for unplaced in &mut self.unplaced {
            unplaced.after = highest.before(unplaced.operation.call).map_or(0, |placed| placed.rev);
        }
        Ok(())
    }
}

/// Runs through the returns in the order of time.
struct Highest<'r, 'a> {
    returns: &'r [(u64, Placed<'a>)],
    highest: Option<Placed<'a>>,
}

impl<'r, 'a> Highest<'r, 'a> {
    fn new(returns: &'r [(u64, Placed<'a>)]) -> Self {
        Self { returns, highest: None }
    }

    /// The operation with the highest revision of those that returned before `instant`, which must not go back.
    fn before(&mut self, instant: u64) -> Option<Placed<'a>> {
        while let [(ended, placed), rest @ ..] = self.returns {
            if *ended >= instant {
                break;
            }
            if self.highest.is_none_or(|highest| highest.rev < placed.rev) {
                self.highest = Some(*placed);
            }
            self.returns = rest;
        }
        self.highest
    }
}

type State = Option<Bytes>;

/// The replay of one key, with a way back where unknown writes explain an answer in more than one way.
struct Replay<'a> {
    placed: Vec<Placed<'a>>,
    unplaced: Vec<Unplaced<'a>>,
    /// The unplaced writes by what they leave behind.
    leaving: BTreeMap<State, Vec<usize>>,
    /// The unplaced writes that took effect so far, in this order, and the same as a set.
    taken: Vec<usize>,
    is_taken: Vec<bool>,
    choices: Vec<Choice>,
    steps: u64,
    steps_max: u64,
    /// Some explanations were not looked for, since there are too many.
    cut: bool,
}

/// A group of answers that did not fit, and the explanations that were not tried yet.
struct Choice {
    start: usize,
    state: State,
    taken_count: usize,
    /// Each a list of unplaced writes in the order they take effect; the last is tried first.
    explanations: Vec<Vec<usize>>,
}

impl<'a> Replay<'a> {
    fn new(placed: Vec<Placed<'a>>, unplaced: Vec<Unplaced<'a>>, steps_max: u64) -> Self {
        let mut leaving: BTreeMap<State, Vec<usize>> = BTreeMap::new();
        for (index, unplaced) in unplaced.iter().enumerate() {
            if let Some(value) = unplaced.operation.action.leaves() {
                leaving.entry(value.cloned()).or_default().push(index);
            }
        }
        Self {
            is_taken: vec![false; unplaced.len()],
            placed,
            unplaced,
            leaving,
            taken: Vec::new(),
            choices: Vec::new(),
            steps: 0,
            steps_max,
            cut: false,
        }
    }

    fn run(mut self, key: &str) -> Result<(), Verdict> {
        let mut state = Register.initial();
        let mut start = 0;
        let mut furthest: Option<(usize, State)> = None;
        while start < self.placed.len() {
            self.steps += 1;
            if self.steps > self.steps_max {
                let why = format!(
                    "key \"{}\": no verdict by revisions within {} steps",
                    key.escape_debug(),
                    self.steps_max
                );
                return Err(Verdict::Undecided { why });
            }
            // Nothing can be put between the operations of one revision.
            let rev = self.placed[start].rev;
            let end = start + self.placed[start..].partition_point(|placed| placed.rev == rev);
            let Err((misfit, seen)) = self.replay_group(start, end, &mut state) else {
                start = end;
                continue;
            };
            if furthest.as_ref().is_none_or(|(index, _)| *index < misfit) {
                furthest = Some((misfit, seen));
            }
            // What the write of a revision leaves behind does not depend on what came before it.
            let explanations = if misfit > start && self.placed[start].writes() {
                Vec::new()
            } else {
                self.explanations(&state, self.placed[misfit])
            };
            self.choices.push(Choice { start, state, taken_count: self.taken.len(), explanations });
            match self.next_explanation() {
                Some(next) => (start, state) = next,
                None if self.cut => {
                    let why =
                        format!("key \"{}\": too many unknown writes explain one answer", key.escape_debug());
                    return Err(Verdict::Undecided { why });
                }
                None => return Err(self.no_explanation(furthest.unwrap_or_default())),
            }
        }
        Ok(())
    }

    /// Replays the operations of one revision. If one does not fit: which, and what the key held then; `state` is left
    /// as it was before the group.
    fn replay_group(&self, start: usize, end: usize, state: &mut State) -> Result<(), (usize, State)> {
        let mut after = state.clone();
        for index in start..end {
            match Register.step(&after, &self.placed[index].operation.action) {
                Some(next) => after = next,
                None => return Err((index, after)),
            }
        }
        *state = after;
        Ok(())
    }

    /// Goes back to the latest choice that has an explanation left, and takes it: where to go on, and with what state.
    fn next_explanation(&mut self) -> Option<(usize, State)> {
        loop {
            let choice = self.choices.last_mut()?;
            for index in self.taken.drain(choice.taken_count..) {
                self.is_taken[index] = false;
            }
            let Some(explanation) = choice.explanations.pop() else {
                self.choices.pop();
                continue;
            };
            let start = choice.start;
            let mut state = choice.state.clone();
            for index in explanation {
                self.is_taken[index] = true;
                self.taken.push(index);
                // An explanation was built so that each of its writes fits what the one before it leaves.
                state = Register.step(&state, &self.unplaced[index].operation.action).unwrap_or(state);
            }
            return Some((start, state));
        }
    }

    /// The ways in which unplaced writes can make `misfit` possible, or (if it wants any value but one) change what it
    /// does not want; the best is last.
    fn explanations(&mut self, state: &State, misfit: Placed<'a>) -> Vec<Vec<usize>> {
        let mut found = Vec::new();
        match Wanted::of(&misfit.operation.action) {
            Wanted::Value(value) => self.chains_to(&value, state, misfit.rev, &mut Vec::new(), &mut found),
            Wanted::Change => {
                let mut seen = BTreeSet::new();
                for index in 0..self.unplaced.len() {
                    let action = &self.unplaced[index].operation.action;
                    if !self.is_free(index, misfit.rev) {
                        continue;
                    }
                    let Some(after) = Register.step(state, action) else { continue };
                    if after != *state && seen.insert((after, matches!(action, Action::Cas { .. }))) {
                        found.push(vec![index]);
                    }
                }
            }
        }
        found.reverse();
        found
    }

    /// Adds to `found` the lists of free writes that lead from `state` to `value`. `later` are the writes that come
    /// after, last first.
    fn chains_to(
        &mut self,
        value: &State,
        state: &State,
        rev: u64,
        later: &mut Vec<usize>,
        found: &mut Vec<Vec<usize>>,
    ) {
        let Some(candidates) = self.leaving.get(value).cloned() else { return };
        let mut expected = BTreeSet::new();
        let mut unconditional = false;
        for index in candidates {
            if !self.is_free(index, rev) || later.contains(&index) {
                continue;
            }
            self.steps += 1;
            if found.len() >= EXPLANATIONS_MAX
                || later.len() >= CHAIN_LENGTH_MAX
                || self.steps > self.steps_max
            {
                self.cut = true;
                return;
            }
            let action = &self.unplaced[index].operation.action;
            later.push(index);
            match action {
                // Of equal writes that are free here, one is as good as the other: all stay free later on.
                Action::Cas { expect, .. } if expected.insert(expect.clone()) => {
                    let leaves_expected = |&index: &usize| {
                        self.unplaced[index].operation.action.leaves() == Some(expect.as_ref())
                    };
                    if expect == state {
                        found.push(later.iter().rev().copied().collect());
                    } else if !later.iter().any(leaves_expected) {
                        // A row that comes by the same value twice is no better than without the detour.
                        let expect = expect.clone();
                        self.chains_to(&expect, state, rev, later, found);
                    }
                }
                Action::Put { .. } | Action::Delete { .. } if !unconditional => {
                    unconditional = true;
                    found.push(later.iter().rev().copied().collect());
                }
                _ => {}
            }
            later.pop();
        }
    }

    fn is_free(&self, index: usize, rev: u64) -> bool {
        !self.is_taken[index] && self.unplaced[index].after < rev
    }

    fn no_explanation(&self, (misfit, held): (usize, State)) -> Verdict {
        let Placed { operation, rev } = self.placed[misfit];
        let mut evidence = Vec::new();
        let before = self.placed[..misfit].iter().rev().find(|placed| placed.writes());
        evidence.extend(before.map(|placed| ("before", placed.operation)));
        evidence.push(("impossible", operation));
        if let Wanted::Value(wanted) = Wanted::of(&operation.action) {
            let after = self.placed[misfit + 1..].iter().filter(|placed| placed.writes());
            let elsewhere = after.map(|placed| ("later", placed.operation));
            let unknown = self.unplaced.iter().map(|unplaced| ("unknown", unplaced.operation));
            evidence.extend(
                elsewhere.chain(unknown).filter(|(_, other)| other.action.leaves() == Some(wanted.as_ref())),
            );
        }
        violation(
            operation,
            format!(
                "at revision {rev} the key held {}, which does not explain `{}`",
                Shown(held.as_ref()),
                operation.action
            ),
            evidence,
        )
    }
}

/// What an operation that does not fit wants the key to hold.
enum Wanted {
    Value(State),
    /// Anything but what it holds: the operation says that the key held something else, or anything at all.
    Change,
}

impl Wanted {
    fn of(action: &Action) -> Self {
        match action {
            Action::Get { outcome: Outcome::Ok(value) } => Self::Value(value.clone()),
            Action::Cas { expect, outcome: Outcome::Ok(true) | Outcome::Info, .. } => {
                Self::Value(expect.clone())
            }
            Action::Put { outcome: Outcome::Ok(Some(false)), .. }
            | Action::Delete { outcome: Outcome::Ok(Some(false)) } => Self::Value(None),
            // A mismatch, or a key that was absent where it is said to have existed.
            _ => Self::Change,
        }
    }
}

/// Explanations of one answer that are tried. With unique values there is one.
const EXPLANATIONS_MAX: usize = 64;

/// Unknown writes that are put in a row before one answer. A longer row needs as many swaps of unknown outcome that
/// build on each other.
const CHAIN_LENGTH_MAX: usize = 64;

fn violation(
    operation: &Operation,
    explanation: String,
    evidence: Vec<(&'static str, &Operation)>,
) -> Verdict {
    Verdict::Violation(Box::new(Violation {
        key: operation.key.clone(),
        operation: operation.clone(),
        explanation,
        evidence: evidence.into_iter().map(|(role, operation)| (role, operation.clone())).collect(),
    }))
}

#[cfg(test)]
mod tests;
