//! Histories that others judged: the folder of `HISTORIES_DIR`, one row of its `expected.tsv` a file.

use std::fs::{self, File};
use std::io::{self, BufReader, Write};
use std::path::PathBuf;

use jepsen_tests::checker::{self, Verdict};
use jepsen_tests::history;

#[test]
fn every_row_of_expected_tsv() {
    let Some(folder) = std::env::var_os("HISTORIES_DIR").map(PathBuf::from) else {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "CI must set HISTORIES_DIR");
        // Straight to the terminal: the test harness hides what a test that passes prints.
        let _ = writeln!(
            io::stderr(),
            "SKIPPED: HISTORIES_DIR is not set, no history with a known verdict was judged"
        );
        return;
    };
    let table = fs::read_to_string(folder.join("expected.tsv")).expect("HISTORIES_DIR has expected.tsv");
    let mut wrong = Vec::new();
    let mut judged = 0;
    for row in table.lines().skip(1) {
        let [file, expected, calls, _info] = row.split('\t').collect::<Vec<_>>()[..] else {
            panic!("expected.tsv has four columns: {row}");
        };
        let path = folder.join(file);
        let input = BufReader::new(File::open(&path).unwrap_or_else(|error| panic!("{file}: {error}")));
        let history = history::read(input).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert_eq!(
            history.operations.len(),
            calls.parse::<usize>().expect("calls is a number"),
            "calls of {file}"
        );
        let verdict = checker::judge(&history, checker::STEPS_MAX).verdict().clone();
        let agrees = match expected {
            "ok" => matches!(verdict, Verdict::Linearizable { .. }),
            "illegal" => matches!(verdict, Verdict::Violation(_)),
            other => panic!("expected.tsv says {other}"),
        };
        if !agrees {
            wrong.push(format!("{file} is {expected}, but judged {verdict:?}"));
        }
        judged += 1;
    }
    assert!(judged > 0, "expected.tsv has rows");
    assert!(wrong.is_empty(), "{} of {judged} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
