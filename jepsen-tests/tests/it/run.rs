//! `jepsen-tests run` as a script sees it, against real processes: verdicts, files, and that nothing is left behind.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

fn jepsen(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jepsen-tests"));
    command.args(arguments);
    command
}

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } =
        jepsen(&["run"]).args(arguments).stdin(Stdio::null()).output().expect("the command runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (status.code(), text(stdout), text(stderr))
}

/// Processes of this machine that were told to work in `folder`: their ids and command lines.
fn processes_in(folder: &Path) -> Vec<(i32, String)> {
    let folder = folder.canonicalize().expect("the folder is there");
    let folder = folder.to_str().expect("text");
    let entries = fs::read_dir("/proc").expect("Linux").filter_map(Result::ok);
    let processes = entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        Some((pid, String::from_utf8_lossy(&line).replace('\0', " ")))
    });
    processes.filter(|(_, line)| line.contains("--supervised") && line.contains(folder)).collect()
}

/// A run that began to serve, and what it writes on standard error from then on.
fn serving(folder: &Path, time: &str) -> (Child, impl Iterator<Item = String>) {
    let out = folder.to_str().expect("text");
    let mut child = jepsen(&["run", "--time", time, "--faults", "pause", "--out", out])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command runs");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
    let mut before = Vec::new();
    while let Some(line) = lines.next() {
        if line.contains("the cluster serves") {
            return (child, lines);
        }
        before.push(line);
    }
    child.wait().expect("it ends");
    panic!("it never served:\n{}", before.join("\n"));
}

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).expect("a process id"), signal).expect("it runs");
}

#[test]
fn what_makes_no_sense_is_a_usage_error_that_says_what_does() {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("file");
    fs::write(&file, "").expect("a file");
    let file = file.to_str().expect("text");
    for (arguments, said) in [
        (&["--faults", "fire"][..], "partition, isolate, one-way"),
        (&["--faults", "kill", "--time", "30"], "as in 30s"),
        (&["--time", "1s"], "from 5 s to 24 h"),
        (&["--nodes", "0"], "0 is not in 1..=7"),
        (&["--nodes", "1", "--faults", "kill,loss"], "`loss` needs 2 nodes"),
        (&["--cluster", "compose", "--faults", "corrupt"], "no fault `corrupt`"),
        (&["--out", file], "cannot write into the folder"),
    ] {
        let (code, stdout, stderr) = run(arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(said), "{arguments:?}: {stderr}");
        assert_eq!(stdout, "", "{arguments:?}");
    }
}

#[test]
fn real_processes_keep_every_promise_and_the_files_tell_so() {
    let folder = TempDir::new().expect("a folder");
    let out = folder.path().to_str().expect("text");
    let faults = "partition,kill,pause,duplicate";
    let (code, stdout, stderr) = run(&["--faults", faults, "--time", "12s", "--seed", "4", "--out", out]);
    assert_eq!(code, Some(0), "{stdout}\n{stderr}");
    assert!(stdout.starts_with("linearizable: "), "{stdout}");
    assert!(stdout.contains("--time 12s --seed 4 --out "), "the command to repeat is told: {stdout}");

    let summary = fs::read(folder.path().join("summary.json")).expect("a summary");
    let summary: serde_json::Value = serde_json::from_slice(&summary).expect("JSON");
    assert_eq!(summary["verdict"], "passed");
    for kind in faults.split(',') {
        assert!(summary["faults"][kind].as_u64() >= Some(1), "{kind}: {summary:#}");
    }
    let history = folder.path().join("history.jsonl");
    let lines = fs::read_to_string(&history).expect("a history");
    let count = |what: &str| lines.lines().filter(|line| line.contains(what)).count() as u64;
    assert_eq!(Some(count(r#""process":"#)), summary["operations"].as_u64());
    assert!(count(r#""op":"nemesis","f":"kill""#) >= 1, "faults stand in the history");
    let verdict = jepsen(&["verdict"]).arg(&history).output().expect("the command runs");
    assert_eq!(verdict.status.code(), Some(0), "{verdict:?}");

    let mut names: Vec<_> = fs::read_dir(folder.path())
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
        .collect();
    names.sort();
    let expected =
        ["history.jsonl", "node1.log", "node2.log", "node3.log", "plan.json", "report.html", "summary.json"];
    assert_eq!(names, expected, "the data of a run that passed is gone");
    assert!(processes_in(folder.path()).is_empty());
}

#[test]
fn a_node_that_ends_on_its_own_is_a_failure_and_its_disk_is_kept() {
    let folder = TempDir::new().expect("a folder");
    let (mut child, lines) = serving(folder.path(), "5s");
    let nodes = processes_in(folder.path());
    let (victim, _) = nodes.iter().find(|(_, line)| line.contains("--id 2")).expect("node 2 runs");
    signal(*victim, Signal::KILL);
    let said: Vec<String> = lines.collect();
    assert_eq!(child.wait().expect("it ends").code(), Some(9), "{}", said.join("\n"));
    let summary = fs::read(folder.path().join("summary.json")).expect("a summary");
    let summary: serde_json::Value = serde_json::from_slice(&summary).expect("JSON");
    let reason = summary["reason"].as_str().expect("a reason");
    assert!(reason.contains("ended on their own: node 2 (signal: 9"), "{reason}");
    let data = Path::new(summary["data"].as_str().expect("a folder of data"));
    assert!(data.join("node2").is_dir());
    assert!(processes_in(folder.path()).is_empty());
}

#[test]
fn an_interrupt_ends_all_nodes_and_keeps_the_history() {
    let folder = TempDir::new().expect("a folder");
    let (mut child, lines) = serving(folder.path(), "60s");
    assert_eq!(processes_in(folder.path()).len(), 3);
    signal(child.id().cast_signed(), Signal::INT);
    let said: Vec<String> = lines.collect();
    let status = child.wait().expect("it ends");
    assert_eq!(status.code(), Some(130), "{}", said.join("\n"));
    assert!(processes_in(folder.path()).is_empty());
    let summary = fs::read_to_string(folder.path().join("summary.json")).expect("a summary");
    assert!(summary.contains(r#""verdict": "interrupted""#), "{summary}");
    assert!(folder.path().join("history.jsonl").is_file());
}

#[test]
fn nodes_end_when_the_harness_is_killed() {
    let folder = TempDir::new().expect("a folder");
    let (mut child, lines) = serving(folder.path(), "60s");
    signal(child.id().cast_signed(), Signal::KILL);
    child.wait().expect("it ends");
    drop(lines);
    // Each node stops by itself when its pipe closes; that takes as long as it takes to hand over and to sync.
    let deadline = 30_000;
    for _ in 0..deadline / 20 {
        if processes_in(folder.path()).is_empty() {
            return;
        }
        let _ = Command::new("sleep").arg("0.02").status();
    }
    panic!("still there: {:?}", processes_in(folder.path()));
}
