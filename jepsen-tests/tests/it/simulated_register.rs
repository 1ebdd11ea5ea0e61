//! Histories of a register that is atomic by construction, and small lies about them.

use std::collections::BTreeMap;

use bytes::Bytes;
use jepsen_tests::history::{Action, History, Operation, Outcome};
use rpc_core::random::SeededRandom;

/// What a history is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Operations called; those that fail are among them.
    pub(crate) operations: u64,
    /// Client processes at work at a time.
    pub(crate) processes: u64,
    /// Keys.
    pub(crate) keys: u64,
    /// Values that are written; 0 makes every value unique.
    pub(crate) values: u64,
}

/// A valid history: every operation takes effect at one instant between call and return, with a revision that says
/// when. Instants are coarse, so that many are equal.
pub(crate) fn history(random: &mut SeededRandom, shape: Shape) -> History {
    let mut free_at = vec![0; shape.processes as usize];
    let mut process_of: Vec<u64> = (0..shape.processes).collect();
    let mut next_process = shape.processes;
    let mut planned = Vec::new();
    for _ in 0..shape.operations {
        let client = random.below(shape.processes) as usize;
        let call = free_at[client] + random.below(4);
        let effect = call + random.below(4);
        let ret = effect + random.below(3);
        let process = process_of[client];
        let key = format!("k{}", random.below(shape.keys));
        let fate = match random.below(10) {
            0 => Fate::Failed,
            1 => Fate::Unknown(None),
            2 => Fate::Unknown(Some(effect + random.below(20))),
            _ => Fate::Answered(effect),
        };
        free_at[client] = ret;
        if matches!(fate, Fate::Unknown(_)) {
            process_of[client] = next_process;
            next_process += 1;
        }
        // Any two effects that fall on one instant are concurrent: their order is free.
        planned.push((fate.effect(), random.next_u64(), Planned { process, key, call, ret, fate }));
    }
    planned.sort_by_key(|&(effect, tie, _)| (effect, tie));

    let mut state: BTreeMap<String, Bytes> = BTreeMap::new();
    let mut rev = 10;
    let mut history = History::default();
    for (_, _, planned) in planned {
        let unique = history.operations.len() as u64;
        history.operations.push(planned.happen(random, shape, unique, &mut state, &mut rev));
    }
    history
}

#[derive(Clone, Copy)]
enum Fate {
    Answered(u64),
    Failed,
    Unknown(Option<u64>),
}

impl Fate {
    fn effect(self) -> Option<u64> {
        match self {
            Self::Answered(effect) => Some(effect),
            Self::Failed => None,
            Self::Unknown(effect) => effect,
        }
    }
}

struct Planned {
    process: u64,
    key: String,
    call: u64,
    ret: u64,
    fate: Fate,
}

impl Planned {
    fn happen(
        self,
        random: &mut SeededRandom,
        shape: Shape,
        unique: u64,
        state: &mut BTreeMap<String, Bytes>,
        rev: &mut u64,
    ) -> Operation {
        let held = state.get(&self.key).cloned();
        let takes_effect = self.fate.effect().is_some();
        let says = random.chance(500_000);
        let existed = says.then_some(held.is_some());
        let value =
            if shape.values == 0 { format!("v{unique}").into() } else { pooled(random, shape.values) };
        let (action, after) = match random.below(10) {
            0..4 => (Action::Get { outcome: self.outcome(held.clone()) }, held.clone()),
            4..7 => (Action::Put { value: value.clone(), outcome: self.outcome(existed) }, Some(value)),
            7..9 => {
                // Half of the swaps expect what is there.
                let expect = if random.chance(500_000) || shape.values == 0 {
                    held.clone()
                } else {
                    Some(pooled(random, shape.values))
                };
                let swapped = expect == held;
                let after = if swapped { Some(value.clone()) } else { held.clone() };
                (Action::Cas { expect, value, outcome: self.outcome(swapped) }, after)
            }
            _ => (Action::Delete { outcome: self.outcome(existed) }, None),
        };
        let is_get = matches!(action, Action::Get { .. });
        let changes = after != held || !matches!(action, Action::Cas { .. });
        if takes_effect && !is_get {
            // Every command has its own place in the log, also one that finds its condition failed.
            *rev += 1 + random.below(2);
            match after {
                Some(value) => state.insert(self.key.clone(), value),
                None => state.remove(&self.key),
            };
        }
        let rev = match self.fate {
            Fate::Answered(_) => Some(*rev),
            Fate::Unknown(Some(_)) if !is_get && changes && random.chance(500_000) => Some(*rev),
            Fate::Unknown(_) | Fate::Failed => None,
        };
        let ret = if matches!(self.fate, Fate::Unknown(_)) { self.call } else { self.ret };
        Operation {
            process: self.process,
            key: self.key,
            action,
            rev,
            node: None,
            token: None,
            call: self.call,
            ret,
        }
    }

    fn outcome<T>(&self, answer: T) -> Outcome<T> {
        match self.fate {
            Fate::Answered(_) => Outcome::Ok(answer),
            Fate::Failed => Outcome::Fail,
            Fate::Unknown(_) => Outcome::Info,
        }
    }
}

fn pooled(random: &mut SeededRandom, values: u64) -> Bytes {
    format!("v{}", random.below(values)).into()
}

/// Tells a small lie: one answer, instant or revision of `history` is changed. The history may stay valid.
pub(crate) fn lie(random: &mut SeededRandom, history: &mut History) {
    let values: Vec<Option<Bytes>> =
        history.operations.iter().filter_map(|operation| Some(operation.action.leaves()?.cloned())).collect();
    let index = random.below(history.operations.len() as u64) as usize;
    let operation = &mut history.operations[index];
    match (random.below(4), &mut operation.action) {
        (0, _) => {
            operation.rev = operation.rev.map(|rev| rev + random.below(5)).map(|rev| rev.saturating_sub(2));
        }
        (1, _) => {
            let shift = random.below(8);
            operation.call += shift;
            operation.ret = operation.call.max(operation.ret);
        }
        (_, Action::Get { outcome: Outcome::Ok(value) }) => {
            *value = values.get(random.below(values.len() as u64 + 1) as usize).cloned().flatten();
        }
        (2, Action::Cas { outcome: Outcome::Ok(swapped), .. }) => *swapped = !*swapped,
        (
            2,
            Action::Put { outcome: Outcome::Ok(Some(existed)), .. }
            | Action::Delete { outcome: Outcome::Ok(Some(existed)) },
        ) => {
            *existed = !*existed;
        }
        (_, Action::Put { outcome, .. } | Action::Delete { outcome }) => {
            *outcome = Outcome::Fail;
            operation.ret = operation.ret.max(operation.call);
        }
        (_, Action::Cas { outcome, .. }) => *outcome = Outcome::Fail,
        _ => {}
    }
}
