use super::*;
use crate::checker::linearizability;
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

/// The values alone can be explained: only the revisions are wrong.
fn only_revisions_are_wrong(text: &str) -> Violation {
    let values = linearizability::check(&history(text), STEPS);
    assert!(matches!(values, Verdict::Linearizable { .. }), "{values:?}");
    rejects(text)
}

#[test]
fn answers_in_the_order_of_revisions() {
    accepts(
        "0 k put a existed 0..9 @2
         1 k put b new 0..9 @1
         2 k get a 1..8 @2
         3 k get b 1..8 @1
         4 k get - 1..2 @0
         0 k cas b c mismatch 10..11 @3
         0 k cas a c swapped 12..13 @4
         0 k delete existed 14..15 @5
         0 k delete new 16..17 @6",
    );
}

#[test]
fn two_writes_never_share_a_revision() {
    let violation = only_revisions_are_wrong(
        "0 x put a 0..1 @7
         1 y put b 0..1 @7",
    );
    assert!(violation.explanation.contains("revision 7"), "{violation}");
}

#[test]
fn answer_that_its_revision_does_not_explain() {
    only_revisions_are_wrong(
        "0 k put a 0..9 @1
         1 k put b 0..9 @2
         2 k get a 0..9 @2",
    );
    rejects(
        "0 k put a 0..1 @1
         0 k put b 2..3 @2
         1 k get a 4..5 @2",
    );
}

#[test]
fn revisions_follow_real_time_across_keys() {
    let violation = only_revisions_are_wrong(
        "0 x put a 0..1 @5
         1 y get - 2..3 @4",
    );
    assert_eq!(violation.operation.process, 1);
    accepts(
        "0 x put a 0..1 @5
         1 y get - 2..3 @5",
    );
    accepts(
        "0 x put a 0..2 @5
         1 y get - 2..3 @4",
    );
}

#[test]
fn write_after_a_read_has_a_higher_revision() {
    only_revisions_are_wrong(
        "0 x get - 0..1 @5
         1 y put a 2..3 @5",
    );
}

#[test]
fn answer_without_a_revision_is_no_verdict() {
    let text = "0 k put a 0..1 @1
         0 k get a 2..3";
    assert!(matches!(check(&history(text), STEPS), Verdict::Undecided { .. }));
}

#[test]
fn unknown_write_with_a_revision_took_effect_there() {
    accepts(
        "0 k put a info 0.. @3
         1 k get - 1..2 @2
         1 k get a 3..4 @3",
    );
    only_revisions_are_wrong(
        "0 k put a info 0.. @3
         1 k get - 3..4 @3",
    );
    only_revisions_are_wrong(
        "1 k get - 0..1 @3
         0 k put a info 2.. @3",
    );
}

#[test]
fn unknown_write_without_a_revision_is_proven_by_what_is_seen() {
    accepts(
        "0 k put a info 0..
         1 k get - 1..2 @2
         1 k get a 3..4 @3",
    );
    accepts(
        "0 k put a info 0..
         1 k get - 1..2 @2",
    );
    rejects(
        "0 k put a info 0..
         1 k get a 1..2 @2
         1 k put b 3..4 @3
         1 k get a 5..6 @4",
    );
}

#[test]
fn unknown_swaps_build_on_each_other() {
    accepts(
        "0 k put a info 0..
         1 k cas a b info 0..
         2 k cas b c info 0..
         3 k get c 1..2 @9",
    );
    rejects(
        "0 k put a info 0..
         2 k cas b c info 0..
         3 k get c 1..2 @9",
    );
}

#[test]
fn unknown_write_comes_after_what_returned_before_its_call() {
    // The read is concurrent to the write, but its revision lies before the write's call.
    only_revisions_are_wrong(
        "0 x put z 0..1 @5
         1 k get a 0..9 @5
         2 k put a info 2..",
    );
    accepts(
        "0 x put z 0..1 @5
         1 k get a 0..9 @6
         2 k put a info 2..",
    );
}

#[test]
fn reads_of_one_revision_see_one_value() {
    only_revisions_are_wrong(
        "0 k put a info 0..
         1 k get - 1..2 @5
         1 k get a 3..4 @5",
    );
}

#[test]
fn unknown_write_comes_before_all_of_a_revision() {
    let both = "0 k put q info 0..
         1 k put e 1..2 @1
         2 k cas a b mismatch 3..4 @2
         3 k get q 3..4 @2";
    accepts(both);
    only_revisions_are_wrong(&both.replace("cas a b mismatch", "get e"));
}

#[test]
fn failed_write_is_never_seen() {
    let violation = rejects(
        "0 k put a fail 0..1
         1 k get a 2..3 @5",
    );
    assert_eq!(
        violation.evidence.last().map(|(role, operation)| (*role, operation.process)),
        Some(("failed", 0))
    );
}

#[test]
fn another_explanation_is_tried_when_the_first_leads_nowhere() {
    // The mismatch proves that p or q was written, the reads that it was q only later.
    for (first, second) in [("p", "q"), ("q", "p")] {
        accepts(&format!(
            "0 k put {first} info 0..
             1 k put {second} info 0..
             2 k put e 1..2 @1
             2 k cas e f mismatch 3..4 @2
             2 k put g 5..6 @3
             2 k get q 7..8 @4"
        ));
    }
    rejects(
        "0 k put p info 0..
         1 k put q info 0..
         2 k put e 1..2 @1
         2 k cas e f mismatch 3..4 @2
         2 k put g 5..6 @3
         2 k get q 7..8 @4
         2 k get p 9..10 @5",
    );
}

#[test]
fn many_unknown_swaps_among_few_values_end_in_time() {
    // Every value but the wanted one leads to every other, in every order.
    let mut text = String::new();
    for from in 0..14 {
        for to in 0..14 {
            text += &format!("{} k cas v{from} v{to} info 0..\n", 100 + 14 * from + to);
        }
    }
    accepts(&format!("{text} 0 k put v0 1..2 @1\n 0 k get v5 3..4 @2"));
    let verdict = check(&history(&format!("{text} 0 k get v5 3..4 @2")), STEPS);
    assert!(!matches!(verdict, Verdict::Linearizable { .. }), "{verdict:?}");
}

#[test]
fn evidence_shows_where_the_value_comes_from() {
    let violation = rejects(
        "0 k put a 0..1 @1
         0 k put b 2..3 @2
         1 k get c 4..5 @2
         2 k put c 6..7 @3",
    );
    assert_eq!(violation.operation.process, 1);
    let roles: Vec<&str> = violation.evidence.iter().map(|(role, _)| *role).collect();
    assert_eq!(roles, ["before", "impossible", "later"]);
}
