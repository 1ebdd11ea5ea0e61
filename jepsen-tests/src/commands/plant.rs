//! `jepsen-tests plant`: does the simulation catch known mistakes?

use std::collections::VecDeque;
use std::io::{self, Write};
use std::process::{Child, Command, Stdio};

use rpc_core::plant::{self, Bug};

use super::Exit;

/// Plant known mistakes, one at a time, and run seeds of the simulation until one fails.
///
/// Needs a build with bugs in it: cargo run --release -p jepsen-tests --features rpc-core/plant -- plant --all
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The mistakes; without any, and without --all, they are listed
    names: Vec<String>,
    /// All of them
    #[arg(long, conflicts_with = "names")]
    all: bool,
    /// Give a mistake up after so many seeds
    #[arg(long, default_value_t = 200)]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Mistakes that are looked for at once
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=64))]
    jobs: u64,
}

/// The mistakes of all crates.
fn bugs() -> Vec<Bug> {
    [&plant::BUGS[..], &raft_node::plant::BUGS, &kv_client::plant::BUGS].concat()
}

pub(crate) fn run(args: &Args) -> Exit {
    let known = bugs();
    if !args.all && args.names.is_empty() {
        for bug in known {
            println!("{:<28} {}", bug.name, bug.mistake);
        }
        return Exit::Linearizable;
    }
    let unknown = args.names.iter().find(|name| !known.iter().any(|bug| bug.name == *name));
    if let Some(name) = unknown {
        eprintln!("jepsen-tests: no mistake `{name}`; `jepsen-tests plant` lists them");
        return Exit::Usage;
    }
    if !plant::ENABLED {
        eprintln!("jepsen-tests: this build has no planted bugs; build it with --features rpc-core/plant");
        return Exit::Usage;
    }
    let is_meant = |bug: &Bug| args.all || args.names.iter().any(|name| name == bug.name);
    match catch(&known.into_iter().filter(is_meant).collect::<Vec<_>>(), args) {
        Ok(0) => Exit::Linearizable,
        Ok(missed) => {
            println!("{missed} NOT CAUGHT");
            Exit::Inconclusive
        }
        Err(error) => {
            eprintln!("jepsen-tests: {error}");
            Exit::Inconclusive
        }
    }
}

/// Looks for each of `bugs`; how many were not caught.
fn catch(bugs: &[Bug], args: &Args) -> io::Result<usize> {
    let (mut needed, mut missed) = (Vec::new(), 0);
    let mut running: VecDeque<(Bug, Child)> = VecDeque::new();
    let mut waiting = bugs.iter();
    loop {
        while (running.len() as u64) < args.jobs {
            let Some(bug) = waiting.next() else { break };
            running.push_back((*bug, start(bug, args)?));
        }
        let Some((bug, child)) = running.pop_front() else { break };
        match caught(&child.wait_with_output()?, args.from) {
            Some((seeds, why)) => {
                println!("{:<28} caught, {seeds} seeds: {why}", bug.name);
                needed.push(seeds);
            }
            None => {
                println!("{:<28} NOT CAUGHT in {} seeds: {}", bug.name, args.seeds, bug.mistake);
                missed += 1;
            }
        }
        io::stdout().flush()?;
    }
    needed.sort_unstable();
    if let (Some(median), Some(most)) = (needed.get(needed.len() / 2), needed.last()) {
        println!("{} of {} caught; median {median} seeds, at most {most}", needed.len(), bugs.len());
    }
    Ok(missed)
}

fn start(bug: &Bug, args: &Args) -> io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["sim", "--stop", "--seeds", &args.seeds.to_string(), "--from", &args.from.to_string()]);
    // Others are looked for beside it.
    command.args(["--jobs", "1"]);
    command.env(plant::VARIABLE, bug.name).env("KV_LOG", "off");
    command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()
}

/// How many seeds it took, and what the failing one said.
fn caught(output: &std::process::Output, from: u64) -> Option<(u64, String)> {
    if output.status.code() != Some(9) {
        return None;
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let failed = text.lines().rev().find(|line| line.starts_with("seed ") && line.contains(": FAILED: "))?;
    let (head, why) = failed.split_once(": FAILED: ")?;
    let seed: u64 = head.split(' ').nth(1)?.parse().ok()?;
    let mut why: String = why.chars().take(WHY_CHARS_MAX).collect();
    if why.chars().count() == WHY_CHARS_MAX {
        why.push_str("...");
    }
    Some((seed - from + 1, why))
}

/// What is shown of the reason of a failure.
const WHY_CHARS_MAX: usize = 110;
