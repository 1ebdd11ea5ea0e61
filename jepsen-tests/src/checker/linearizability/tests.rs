use super::*;
use crate::checker::notation::history;

const STEPS: u64 = 10_000;

fn accepts(text: &str) {
    let verdict = check(&history(text), STEPS);
    assert!(matches!(verdict, Verdict::Linearizable { .. }), "{verdict:?}");
}

fn rejects(text: &str) -> Violation {
    match check(&history(text), STEPS) {
        Verdict::Violation(violation) => *violation,
        verdict => panic!("{verdict:?}"),
    }
}

#[test]
fn unknown_write_is_seen_late() {
    accepts(
        "0 k put a 0..1
         1 k put b info 2..
         0 k get a 10..11
         0 k get b 20..21",
    );
}

#[test]
fn unknown_write_is_never_seen() {
    accepts(
        "0 k put a 0..1
         1 k put b info 2..
         0 k get a 10..11",
    );
}

#[test]
fn unknown_write_is_not_seen_before_its_call() {
    let violation = rejects(
        "0 k get b 0..1
         1 k put b info 2..",
    );
    assert_eq!(violation.operation.process, 0);
}

#[test]
fn unknown_write_takes_effect_once() {
    rejects(
        "0 k put b info 0..
         1 k get b 1..2
         1 k put a 3..4
         1 k get b 5..6",
    );
}

#[test]
fn unknown_write_does_not_come_and_go() {
    rejects(
        "0 k put a 0..1
         1 k put b info 2..
         0 k get b 3..4
         0 k get a 5..6",
    );
}

#[test]
fn unknown_swap_takes_effect_only_where_it_fits() {
    accepts(
        "0 k put a 0..1
         1 k cas a b info 2..
         0 k get b 3..4",
    );
    rejects(
        "0 k put a 0..1
         1 k cas c b info 2..
         0 k get b 3..4",
    );
}

#[test]
fn failed_write_is_never_seen() {
    accepts(
        "0 k put a fail 0..1
         0 k get - 2..3",
    );
    let violation = rejects(
        "0 k put a fail 0..1
         0 k get a 2..3",
    );
    assert_eq!(
        violation.evidence.last().map(|(role, operation)| (*role, operation.process)),
        Some(("failed", 0))
    );
}

#[test]
fn mismatch_says_that_the_value_was_not_the_expected_one() {
    rejects(
        "0 k put a 0..1
         0 k cas a b mismatch 2..3",
    );
    accepts(
        "0 k put a 0..1
         1 k put c info 0..
         0 k cas a b mismatch 2..3",
    );
    rejects("0 k cas - b mismatch 0..1");
}

#[test]
fn equal_instants_are_concurrent() {
    accepts(
        "0 k put a 0..5
         1 k get - 5..6",
    );
    rejects(
        "0 k put a 0..5
         1 k get - 6..7",
    );
}

#[test]
fn stale_read() {
    let violation = rejects(
        "0 k put a 0..1
         0 k put b 2..3
         1 k get a 4..5
         0 k put a 6..7",
    );
    assert_eq!((violation.operation.process, violation.operation.call), (1, 4));
    assert!(violation.explanation.contains("could have held \"b\""), "{violation}");
}

#[test]
fn lost_update() {
    rejects(
        "0 k put a 0..1
         1 k cas a b swapped 2..5
         2 k cas a c swapped 2..5",
    );
}

#[test]
fn words_about_existence_are_answers_too() {
    accepts(
        "0 k put a new 0..1
         0 k put b existed 2..3
         0 k delete existed 4..5
         0 k delete new 6..7
         0 k cas - c swapped 8..9",
    );
    rejects("0 k put a existed 0..1");
    rejects(
        "0 k put a new 0..1
         0 k delete new 2..3",
    );
}

#[test]
fn keys_are_independent() {
    accepts(
        "0 x put a 0..1
         1 y get - 2..3
         1 x get a 4..5",
    );
    let violation = rejects(
        "0 x put a 0..1
         1 y get a 2..3
         1 x get a 4..5",
    );
    assert_eq!(violation.key, "y");
}

#[test]
fn evidence_is_the_shortest_prefix_that_no_order_explains() {
    let violation = rejects(
        "0 k put a 0..10
         1 k put b 0..20
         2 k get b 11..12
         2 k get a 13..14
         3 k get b 16..17
         3 k get a 30..31
         4 k get c 40..41",
    );
    // Up to 14 the order b, a explains nothing but get = b; a, b nothing but get = b: get = a comes too late.
    assert_eq!((violation.operation.process, violation.operation.call), (2, 13));
    let concurrent: Vec<u64> = violation
        .evidence
        .iter()
        .filter(|(role, _)| *role == "concurrent")
        .map(|(_, operation)| operation.process)
        .collect();
    assert_eq!(concurrent, [1]);
}

#[test]
fn too_few_steps_are_no_verdict() {
    let text = "0 k put a 0..9
         1 k put b 0..9
         2 k put c 0..9
         3 k get d 10..11";
    assert!(matches!(check(&history(text), 5), Verdict::Undecided { .. }));
    rejects(text);
}

#[test]
fn violation_of_one_key_outweighs_the_undecided_other() {
    let text = "0 x put a 0..9
         1 x put b 0..9
         2 x put c 0..9
         3 x get d 10..11
         4 y get e 10..11";
    match check(&history(text), 5) {
        Verdict::Violation(violation) => assert_eq!(violation.key, "y"),
        verdict => panic!("{verdict:?}"),
    }
}

#[test]
fn many_equal_unknown_writes_cost_little() {
    let mut text: String = (0..60).map(|process| format!("{process} k put a info 0..\n")).collect();
    for round in 0..20 {
        let start = 10 * round;
        text += &format!("100 k get a {}..{}\n", start + 1, start + 2);
        text += &format!("100 k put b{round} {}..{}\n", start + 3, start + 4);
    }
    accepts(&text);
    rejects(&format!("{text}100 k get c 1000..1001"));
}

#[test]
fn longer_than_one_word_of_operations_and_in_order() {
    let text: String = (0..500)
        .map(|round| {
            format!(
                "0 k put v{round} {}..{}\n1 k get v{round} {}..{}\n",
                4 * round,
                4 * round + 1,
                4 * round + 2,
                4 * round + 3
            )
        })
        .collect();
    accepts(&text);
    rejects(&format!("{text}1 k get v0 9000..9001"));
}

#[test]
fn texts_are_empty_at_first_and_grow() {
    let mut text = history(
        "0 k append a 0..9
         1 k append b 0..9
         2 k get ba 10..11",
    );
    text.semantics = Semantics::Text;
    assert!(matches!(check(&text, STEPS), Verdict::Linearizable { .. }));
    text.operations.extend(history("2 k get ab 12..13").operations);
    assert!(matches!(check(&text, STEPS), Verdict::Violation(_)));
}
