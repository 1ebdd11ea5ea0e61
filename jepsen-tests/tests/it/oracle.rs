//! Whether a history of a few operations is linearizable, by trying every order of the whole history: all keys at
//! once, no memory, nothing clever. It shares no code with the checkers.

use std::collections::BTreeMap;

use bytes::Bytes;
use jepsen_tests::history::{Action, History, Operation, Outcome};

/// Whether any order explains the values.
pub(crate) fn linearizable(history: &History) -> bool {
    try_all(&history.operations, Rules::Values, &mut Vec::new(), &BTreeMap::new())
}

/// Whether an order that goes by the revisions explains the values. Unknown writes without a revision may stand
/// anywhere, but not within a revision.
pub(crate) fn linearizable_by_revisions(history: &History) -> bool {
    try_all(&history.operations, Rules::Revisions, &mut Vec::new(), &BTreeMap::new())
}

#[derive(Clone, Copy, PartialEq)]
enum Rules {
    Values,
    Revisions,
}

type Registers = BTreeMap<String, Bytes>;

fn try_all(all: &[Operation], rules: Rules, order: &mut Vec<usize>, registers: &Registers) -> bool {
    let left =
        |order: &[usize]| -> Vec<usize> { (0..all.len()).filter(|index| !order.contains(index)).collect() };
    if left(order).into_iter().all(|index| !required(&all[index], rules)) {
        return true;
    }
    for index in left(order) {
        let operation = &all[index];
        let result = operation.action.result();
        let matters = result == Outcome::Ok(()) || result == Outcome::Info && operation.action.writes();
        if !matters {
            continue;
        }
        let others: Vec<&Operation> =
            left(order).into_iter().filter(|&other| other != index).map(|other| &all[other]).collect();
        if others.iter().any(|other| required(other, rules) && other.precedes(operation)) {
            continue;
        }
        if rules == Rules::Revisions {
            let last = order.iter().rev().find_map(|&index| all[index].rev.map(|rev| (rev, &all[index])));
            let in_order = match operation.rev {
                None => last.is_none_or(|(rev, _)| {
                    others.iter().all(|other| other.rev != Some(rev) || !required(other, rules))
                }),
                Some(rev) => {
                    let writes = operation.action.writes();
                    last.is_none_or(|(last, _)| last < rev || last == rev && !writes)
                        && others.iter().all(|other| {
                            !required(other, rules)
                                || other.rev > Some(rev)
                                || other.rev == Some(rev) && !other.action.writes()
                        })
                }
            };
            if !in_order {
                continue;
            }
        }
        let Some(after) = step(registers, operation) else { continue };
        order.push(index);
        let found = try_all(all, rules, order, &after);
        order.pop();
        if found {
            return true;
        }
    }
    false
}

/// Whether the operation must be in the order: it was answered, or (by revisions) is known to have taken effect.
fn required(operation: &Operation, rules: Rules) -> bool {
    match operation.action.result() {
        Outcome::Ok(()) => true,
        Outcome::Fail => false,
        Outcome::Info => rules == Rules::Revisions && operation.rev.is_some() && operation.action.writes(),
    }
}

fn step(registers: &Registers, operation: &Operation) -> Option<Registers> {
    let held = registers.get(&operation.key);
    let existed_is = |word: &Outcome<Option<bool>>| match word {
        Outcome::Ok(Some(existed)) => *existed == held.is_some(),
        _ => true,
    };
    let mut after = registers.clone();
    let possible = match &operation.action {
        Action::Get { outcome: Outcome::Ok(value) } => value.as_ref() == held,
        Action::Put { value, outcome } => {
            after.insert(operation.key.clone(), value.clone());
            existed_is(outcome)
        }
        Action::Delete { outcome } => {
            after.remove(&operation.key);
            existed_is(outcome)
        }
        Action::Cas { expect, outcome: Outcome::Ok(false), .. } => expect.as_ref() != held,
        Action::Cas { expect, value, .. } => {
            after.insert(operation.key.clone(), value.clone());
            expect.as_ref() == held
        }
        other => panic!("not in these histories: {other}"),
    };
    possible.then_some(after)
}
