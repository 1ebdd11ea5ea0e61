//! `jepsen-tests verdict` as a script sees it: lines, JSON and exit codes.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

const GOOD: &str = r#"{"process":1,"op":"put","key":"k","value":"a","result":"ok","rev":7,"call":1,"ret":2}
{"process":2,"op":"get","key":"k","value":"a","result":"ok","rev":7,"call":3,"ret":4}
"#;

struct Run {
    folder: TempDir,
    files: Vec<PathBuf>,
}

impl Run {
    fn of(histories: &[&str]) -> Self {
        let folder = TempDir::new().expect("a folder");
        let files = (0..histories.len()).map(|index| folder.path().join(format!("{index}.jsonl"))).collect();
        let run = Self { folder, files };
        for (path, text) in run.files.iter().zip(histories) {
            fs::write(path, text).expect("a file");
        }
        run
    }

    fn verdict(&self, flags: &[&str]) -> (Option<i32>, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_jepsen-tests"))
            .arg("verdict")
            .args(flags)
            .args(&self.files)
            .output()
            .expect("the command runs");
        (output.status.code(), String::from_utf8(output.stdout).expect("text"))
    }
}

#[test]
fn linearizable_history_ends_with_0() {
    let (code, text) = Run::of(&[GOOD, GOOD]).verdict(&[]);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(text.lines().count(), 2);
    assert!(text.starts_with("linearizable  "), "{text}");
    assert!(
        text.contains("2 operations, 0 unknown; search: linearizable, revisions: linearizable"),
        "{text}"
    );
}

#[test]
fn violation_ends_with_9_and_shows_its_evidence() {
    let stale = GOOD.replace(r#""op":"get","key":"k","value":"a""#, r#""op":"get","key":"k","value":null"#);
    let (code, text) = Run::of(&["nonsense", &stale, GOOD]).verdict(&[]);
    assert_eq!(code, Some(9), "{text}");
    assert!(text.contains("impossible process 2: get = absent [3, 4] rev 7"), "{text}");
}

#[test]
fn lying_revision_is_a_violation() {
    let (code, text) = Run::of(&[&GOOD.replacen("\"rev\":7", "\"rev\":8", 1)]).verdict(&[]);
    assert_eq!(code, Some(9), "{text}");
    assert!(text.contains("search: linearizable, revisions: violation"), "{text}");
}

#[test]
fn unreadable_file_ends_with_10_and_names_file_and_line() {
    let run = Run::of(&[GOOD, &GOOD.replace("get", "got")]);
    let (code, text) = run.verdict(&[]);
    assert_eq!(code, Some(10), "{text}");
    let line = text.lines().nth(1).expect("two lines");
    assert!(
        line.starts_with("unreadable") && line.contains("1.jsonl") && line.contains("line 2: op is \"got\""),
        "{line}"
    );

    fs::remove_file(run.folder.path().join("1.jsonl")).expect("the file is there");
    let (code, text) = run.verdict(&[]);
    assert_eq!(code, Some(10), "{text}");
    assert!(text.contains("No such file"), "{text}");
}

#[test]
fn too_few_steps_end_with_10() {
    let (code, text) = Run::of(&[GOOD]).verdict(&["--steps-max", "1"]);
    assert_eq!(code, Some(10), "{text}");
    assert!(text.starts_with("undecided"), "{text}");
}

#[test]
fn json_is_one_object_a_file() {
    let (code, text) = Run::of(&[GOOD, ""]).verdict(&["--output", "json"]);
    assert_eq!(code, Some(10), "{text}");
    let reports: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("a JSON object")).collect();
    assert_eq!(reports[0]["verdict"], "linearizable");
    assert_eq!(reports[0]["operations"], 2);
    assert_eq!(reports[1]["verdict"], "unreadable");
    assert_eq!(reports[1]["reason"], "there is no operation in it");
}

#[test]
fn no_file_is_a_usage_error() {
    assert_eq!(Run::of(&[]).verdict(&[]).0, Some(2));
}
