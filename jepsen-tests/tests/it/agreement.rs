//! Both checkers against histories that are right by construction, and against the oracle.

use jepsen_tests::checker::{Verdict, linearizability, witness};
use jepsen_tests::history::{Action, History, Operation, Outcome};
use rpc_core::random::SeededRandom;

use crate::oracle;
use crate::simulated_register::{self, Shape};

const STEPS: u64 = 1_000_000;

fn is_linearizable(verdict: &Verdict, seed: u64, history: &History) -> bool {
    match verdict {
        Verdict::Linearizable { .. } => true,
        Verdict::Violation(_) => false,
        Verdict::Undecided { why } => panic!("seed {seed}: undecided, {why}\n{}", listing(history)),
    }
}

fn listing(history: &History) -> String {
    history.operations.iter().map(|operation| format!("{} {operation}\n", operation.key)).collect()
}

#[test]
fn histories_of_an_atomic_register_are_accepted() {
    for seed in 0..400 {
        let mut random = SeededRandom::new(seed);
        let values = if seed % 2 == 0 { 0 } else { 5 };
        let shape =
            Shape { operations: 20 + random.below(180), processes: 5, keys: 1 + random.below(3), values };
        let history = simulated_register::history(&mut random, shape);
        let search = linearizability::check(&history, STEPS);
        assert!(is_linearizable(&search, seed, &history), "seed {seed}: {search:?}\n{}", listing(&history));
        let revisions = witness::check(&history, STEPS);
        assert!(
            is_linearizable(&revisions, seed, &history),
            "seed {seed}: {revisions:?}\n{}",
            listing(&history)
        );
    }
}

#[test]
fn small_histories_are_judged_as_the_oracle_judges_them() {
    let (mut right, mut wrong_values, mut wrong_revisions) = (0, 0, 0);
    for seed in 0..30_000 {
        let mut random = SeededRandom::new(seed);
        let shape = Shape {
            operations: 2 + random.below(6),
            processes: 1 + random.below(4),
            keys: 1 + random.below(2),
            values: random.below(4),
        };
        let mut history = simulated_register::history(&mut random, shape);
        for _ in 0..random.below(4) {
            simulated_register::lie(&mut random, &mut history);
        }

        let search = linearizability::check(&history, STEPS);
        let by_values = is_linearizable(&search, seed, &history);
        assert_eq!(
            by_values,
            oracle::linearizable(&history),
            "seed {seed}: {search:?}\n{}",
            listing(&history)
        );

        let revisions = witness::check(&history, STEPS);
        let by_revisions = is_linearizable(&revisions, seed, &history);
        let expected = oracle::linearizable_by_revisions(&history);
        assert_eq!(by_revisions, expected, "seed {seed}: {revisions:?}\n{}", listing(&history));

        assert!(
            by_values || !by_revisions,
            "seed {seed}: an order by revisions is an order\n{}",
            listing(&history)
        );
        match (by_values, by_revisions) {
            (true, true) => right += 1,
            (true, false) => wrong_revisions += 1,
            (false, _) => wrong_values += 1,
        }
    }
    // The histories must be able to tell a good checker from a bad one.
    assert!(
        right > 5_000 && wrong_values > 3_000 && wrong_revisions > 2_000,
        "{right} {wrong_values} {wrong_revisions}"
    );
}

#[test]
fn shortest_prefix_is_legal_without_its_last_return() {
    let mut seen = 0;
    for seed in 0..3_000 {
        let mut random = SeededRandom::new(seed);
        let shape = Shape { operations: 7, processes: 3, keys: 1, values: 3 };
        let mut history = simulated_register::history(&mut random, shape);
        simulated_register::lie(&mut random, &mut history);
        let Verdict::Violation(violation) = linearizability::check(&history, STEPS) else { continue };
        let culprit = violation.operation;
        // What had not returned before the culprit did may have taken effect: its write counts as unknown.
        let before = history.operations.iter().filter(|operation| operation.call <= culprit.ret).cloned();
        let before = before.filter_map(|operation| match operation.ended() {
            Some(ended) if ended >= culprit.ret => unknown(operation),
            _ => Some(operation),
        });
        let before = History { operations: before.collect(), ..History::default() };
        let with = history.operations.iter().filter(|operation| operation.call <= culprit.ret).cloned();
        let with = History { operations: with.collect(), ..History::default() };
        assert!(oracle::linearizable(&before), "seed {seed}: {culprit}\n{}", listing(&history));
        assert!(!oracle::linearizable(&with), "seed {seed}: {culprit}\n{}", listing(&history));
        seen += 1;
    }
    assert!(seen > 300, "{seen} violations");
}

/// The same write without its answer; `None` for what does not write.
fn unknown(mut operation: Operation) -> Option<Operation> {
    if !operation.action.writes() {
        return None;
    }
    match &mut operation.action {
        Action::Put { outcome, .. } | Action::Delete { outcome } => *outcome = Outcome::Info,
        Action::Cas { outcome, .. } => *outcome = Outcome::Info,
        Action::Get { .. } | Action::Append { .. } => return None,
    }
    Some(operation)
}
