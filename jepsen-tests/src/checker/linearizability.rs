//! The black-box checker: does any order of the operations, one that never turns around two of which one returned
//! before the other was called, explain every answer?
//!
//! The search is Wing and Gong's ("Testing and Verifying Concurrent Objects", 1993) with Lowe's memory of visited
//! configurations ("Testing for Linearizability", 2017), on one key at a time, since linearizability is a local
//! property (Herlihy and Wing, 1990). Revisions are ignored. Three reductions keep it fast, none changes its answer:
//!
//! - an operation that only observes is taken as soon as it fits: it can only be in the way later;
//! - of two unknown writes that say the same, the one that was called first is taken first;
//! - an unknown write that would change nothing is not taken: it need never take effect.
//!
//! A verdict of *violation* names the shortest prefix of the history that no order explains.

use std::collections::{BTreeMap, BTreeSet};

use super::model::{Model, Register, Text};
use super::verdict::{Verdict, Violation};
use crate::history::{Action, History, Operation, Outcome, Semantics};

/// Judges every key of `history` in at most `steps_max` steps each. The first key with a violation decides.
pub fn check(history: &History, steps_max: u64) -> Verdict {
    let mut keys: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in &history.operations {
        keys.entry(&operation.key).or_default().push(operation);
    }
    let mut undecided = None;
    for (key, operations) in keys {
        let found = match history.semantics {
            Semantics::Register => check_key(&Register, key, &operations, steps_max),
            Semantics::Text => check_key(&Text, key, &operations, steps_max),
        };
        match found {
            Verdict::Linearizable { .. } => {}
            Verdict::Violation(_) => return found,
            Verdict::Undecided { .. } => undecided = undecided.or(Some(found)),
        }
    }
    undecided.unwrap_or(Verdict::Linearizable { operations: history.operations.len() })
}

/// Judges the operations of one key.
pub fn check_key<M: Model>(model: &M, key: &str, operations: &[&Operation], steps_max: u64) -> Verdict {
    let mut search = Search::new(model, operations);
    match search.run(steps_max) {
        Found::Order => Verdict::Linearizable { operations: operations.len() },
        Found::NoOrder => Verdict::Violation(Box::new(search.violation(key, operations))),
        Found::StepsExhausted => Verdict::Undecided {
            why: format!(
                "key \"{}\": no verdict on its {} operations within {steps_max} steps",
                key.escape_debug(),
                operations.len()
            ),
        },
    }
}

enum Found {
    Order,
    NoOrder,
    StepsExhausted,
}

/// An operation that takes part in the search.
struct Entry<'a> {
    operation: &'a Operation,
    /// Its place among the operations that must be in the order, or among those that may be.
    place: Place,
    observes_only: bool,
    /// The event of its return; none for unknown operations.
    return_event: Option<usize>,
}

#[derive(Clone, Copy)]
enum Place {
    Required(usize),
    /// With the entry of the unknown write before it that says the same.
    Optional(usize, Option<usize>),
}

/// The call or the return of an entry.
#[derive(Clone, Copy)]
struct Event {
    entry: usize,
    is_return: bool,
}

/// One step of the order under construction, with what undoes it.
struct Step {
    call_event: usize,
    state_before: usize,
    /// No other choice needs to be tried in its place.
    forced: bool,
}

struct Search<'a, M: Model> {
    model: &'a M,
    entries: Vec<Entry<'a>>,
    /// All calls and returns in the order of time.
    events: Vec<Event>,
    /// The events of operations that are not in the order yet, as a ring: the index after the last event stands
    /// between the last and the first.
    next: Vec<usize>,
    previous: Vec<usize>,
    required: Bits,
    required_left: usize,
    optional: Bits,
    states: States<M::State>,
    order: Vec<Step>,
    visited: BTreeSet<Box<[u64]>>,
    furthest: Furthest,
}

/// The latest return that the search stopped at: the history up to and with it is the shortest that no order explains.
#[derive(Default)]
struct Furthest {
    event: usize,
    /// The entries at the end of one order that got there, the last one last.
    order_end: Vec<usize>,
    /// What the key may have held there.
    states: BTreeSet<usize>,
}

impl<'a, M: Model> Search<'a, M> {
    fn new(model: &'a M, operations: &[&'a Operation]) -> Self {
        let mut entries = Vec::new();
        let mut instants: Vec<(u64, Event)> = Vec::new();
        let (mut required_count, mut optional_count) = (0, 0);
        let mut latest_twin: BTreeMap<&Action, usize> = BTreeMap::new();
        let mut by_call: Vec<&Operation> = operations.to_vec();
        by_call.sort_by_key(|operation| operation.call);
        for operation in by_call {
            let entry = entries.len();
            let place = match operation.action.result() {
                Outcome::Ok(()) => {
                    required_count += 1;
                    Place::Required(required_count - 1)
                }
                Outcome::Info if operation.action.writes() => {
                    let twin = latest_twin.insert(&operation.action, entry);
                    optional_count += 1;
                    Place::Optional(optional_count - 1, twin)
                }
                // No effect, or no answer.
                Outcome::Fail | Outcome::Info => continue,
            };
            instants.push((operation.call, Event { entry, is_return: false }));
            if matches!(place, Place::Required(_)) {
                instants.push((operation.ret, Event { entry, is_return: true }));
            }
            let observes_only = model.observes_only(&operation.action);
            entries.push(Entry { operation, place, observes_only, return_event: None });
        }
        // Intervals are closed: at one instant, calls come before returns.
        instants.sort_by_key(|&(instant, event)| (instant, event.is_return));
        let events: Vec<Event> = instants.into_iter().map(|(_, event)| event).collect();
        for (index, event) in events.iter().enumerate().filter(|(_, event)| event.is_return) {
            entries[event.entry].return_event = Some(index);
        }
        let ring = events.len() + 1;
        Self {
            model,
            entries,
            events,
            next: (0..ring).map(|index| (index + 1) % ring).collect(),
            previous: (0..ring).map(|index| (index + ring - 1) % ring).collect(),
            required: Bits::new(required_count),
            required_left: required_count,
            optional: Bits::new(optional_count),
            states: States::new(model.initial()),
            order: Vec::new(),
            visited: BTreeSet::new(),
            furthest: Furthest::default(),
        }
    }

    fn run(&mut self, steps_max: u64) -> Found {
        let start = self.events.len();
        let mut steps = 0;
        let mut state = States::<M::State>::INITIAL;
        let mut at = start;
        while self.required_left > 0 {
            let step = if at == start { self.observation(state, &mut steps) } else { None };
            let step = step.or_else(|| self.choice(at, state, &mut steps));
            if steps > steps_max {
                return Found::StepsExhausted;
            }
            if let Some((step, state_after)) = step {
                self.take(step.call_event);
                self.order.push(step);
                state = state_after;
                at = start;
                continue;
            }
            // A dead end: back to the last step that could have been another one.
            loop {
                let Some(step) = self.order.pop() else { return Found::NoOrder };
                self.put_back(step.call_event);
                state = step.state_before;
                at = step.call_event;
                if !step.forced {
                    break;
                }
            }
        }
        Found::Order
    }

    /// An operation that may be next, only observes, and fits.
    fn observation(&mut self, state: usize, steps: &mut u64) -> Option<(Step, usize)> {
        let mut at = self.next[self.events.len()];
        while let Some(&Event { entry, is_return: false }) = self.events.get(at) {
            let entry = &self.entries[entry];
            if entry.observes_only {
                *steps += 1;
                if self.model.step(self.states.get(state), &entry.operation.action).is_some() {
                    return Some((Step { call_event: at, state_before: state, forced: true }, state));
                }
            }
            at = self.next[at];
        }
        None
    }

    /// The first operation after event `at` that may be next, fits, and leads where the search has not been.
    fn choice(&mut self, mut at: usize, state: usize, steps: &mut u64) -> Option<(Step, usize)> {
        loop {
            at = self.next[at];
            let &Event { entry: index, is_return } = self.events.get(at)?;
            if is_return {
                self.stopped_at(at, state);
                return None;
            }
            let entry = &self.entries[index];
            if entry.observes_only {
                continue;
            }
            let optional = match entry.place {
                Place::Required(_) => false,
                Place::Optional(_, None) => true,
                Place::Optional(_, Some(twin)) if self.contains(twin) => true,
                Place::Optional(_, Some(_)) => continue,
            };
            *steps += 1;
            let Some(after) = self.model.step(self.states.get(state), &entry.operation.action) else {
                continue;
            };
            let state_after = self.states.number(after);
            if optional && state_after == state {
                continue;
            }
            self.mark(index, true);
            let configuration = self.configuration(state_after);
            self.mark(index, false);
            if self.visited.insert(configuration) {
                return Some((Step { call_event: at, state_before: state, forced: false }, state_after));
            }
        }
    }

    /// Moves the operation that is called at `call_event` into the order.
    fn take(&mut self, call_event: usize) {
        let entry = self.events[call_event].entry;
        self.unlink(call_event);
        if let Some(return_event) = self.entries[entry].return_event {
            self.unlink(return_event);
            self.required_left -= 1;
        }
        self.mark(entry, true);
    }

    /// Undoes the last `take` that was not undone yet.
    fn put_back(&mut self, call_event: usize) {
        let entry = self.events[call_event].entry;
        if let Some(return_event) = self.entries[entry].return_event {
            self.relink(return_event);
            self.required_left += 1;
        }
        self.relink(call_event);
        self.mark(entry, false);
    }

    fn unlink(&mut self, event: usize) {
        let (previous, next) = (self.previous[event], self.next[event]);
        self.next[previous] = next;
        self.previous[next] = previous;
    }

    /// The event still knows its neighbours, which is all that the undoing needs as long as it runs backwards.
    fn relink(&mut self, event: usize) {
        let (previous, next) = (self.previous[event], self.next[event]);
        self.next[previous] = event;
        self.previous[next] = event;
    }

    fn mark(&mut self, entry: usize, taken: bool) {
        match self.entries[entry].place {
            Place::Required(index) => self.required.set(index, taken),
            Place::Optional(index, _) => self.optional.set(index, taken),
        }
    }

    fn contains(&self, entry: usize) -> bool {
        match self.entries[entry].place {
            Place::Required(index) => self.required.get(index),
            Place::Optional(index, _) => self.optional.get(index),
        }
    }

    /// What decides about everything that follows: the state, and which operations are in the order. The required
    /// ones are kept as the few words between "all taken" and "none taken".
    fn configuration(&self, state: usize) -> Box<[u64]> {
        let words = &self.required.words;
        let start = words.iter().position(|&word| word != u64::MAX).unwrap_or(words.len());
        let end = words.iter().rposition(|&word| word != 0).map_or(start, |last| start.max(last + 1));
        let mut key = Vec::with_capacity(2 + self.optional.words.len() + end - start);
        key.extend([state as u64, start as u64]);
        key.extend(&self.optional.words);
        key.extend(&words[start..end]);
        key.into_boxed_slice()
    }

    fn stopped_at(&mut self, event: usize, state: usize) {
        if event < self.furthest.event {
            return;
        }
        if event > self.furthest.event {
            let start = self.order.len().saturating_sub(ORDER_END_LENGTH);
            let order_end =
                self.order[start..].iter().map(|step| self.events[step.call_event].entry).collect();
            self.furthest = Furthest { event, order_end, states: BTreeSet::new() };
        }
        if self.furthest.states.len() < STATES_SHOWN_MAX {
            self.furthest.states.insert(state);
        }
    }

    fn violation(&self, key: &str, operations: &[&Operation]) -> Violation {
        let culprit = self.entries[self.events[self.furthest.event].entry].operation;
        let states: Vec<String> =
            self.furthest.states.iter().map(|&state| self.model.show(self.states.get(state))).collect();
        let mut evidence: Vec<(&'static str, Operation)> = self
            .furthest
            .order_end
            .iter()
            .map(|&entry| ("before", self.entries[entry].operation.clone()))
            .collect();
        evidence.push(("impossible", culprit.clone()));
        let mut concurrent: Vec<&Operation> = operations
            .iter()
            .copied()
            .filter(|operation| !std::ptr::eq(*operation, culprit) && operation.call <= culprit.ret)
            .filter(|operation| operation.ended().is_none_or(|ended| ended >= culprit.call))
            .collect();
        concurrent.sort_by_key(|operation| (operation.ended().is_none(), operation.call));
        evidence.extend(concurrent.into_iter().map(|operation| ("concurrent", operation.clone())));
        let mut violation = Violation {
            key: key.to_owned(),
            operation: culprit.clone(),
            explanation: format!(
                "no order of the operations up to {} explains `{}`; the key could have held {}{}",
                culprit.ret,
                culprit.action,
                states.join(" or "),
                if states.len() == STATES_SHOWN_MAX { " or something else" } else { "" }
            ),
            evidence,
        };
        violation.show_failed_writes(operations.iter().copied());
        violation
    }
}

/// Operations of an order that are printed before the impossible one.
const ORDER_END_LENGTH: usize = 8;

/// Values that a violation names as what the key could have held.
const STATES_SHOWN_MAX: usize = 6;

/// A set of small numbers.
struct Bits {
    words: Vec<u64>,
}

impl Bits {
    fn new(count: usize) -> Self {
        Self { words: vec![0; count.div_ceil(64)] }
    }

    fn get(&self, index: usize) -> bool {
        self.words[index / 64] >> (index % 64) & 1 == 1
    }

    fn set(&mut self, index: usize, value: bool) {
        let bit = 1 << (index % 64);
        if value {
            self.words[index / 64] |= bit;
        } else {
            self.words[index / 64] &= !bit;
        }
    }
}

/// Numbers for the states that were seen, so that a configuration is small.
struct States<S> {
    seen: Vec<S>,
    number_of: BTreeMap<S, usize>,
}

impl<S: Clone + Ord> States<S> {
    const INITIAL: usize = 0;

    fn new(initial: S) -> Self {
        Self { seen: vec![initial.clone()], number_of: BTreeMap::from([(initial, Self::INITIAL)]) }
    }

    fn get(&self, number: usize) -> &S {
        &self.seen[number]
    }

    fn number(&mut self, state: S) -> usize {
        if let Some(&number) = self.number_of.get(&state) {
            return number;
        }
        let number = self.seen.len();
        self.seen.push(state.clone());
        self.number_of.insert(state, number);
        number
    }
}

#[cfg(test)]
mod tests;
