//! `jepsen-tests power`: power cuts on a disk that forgets.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use jepsen_tests::power::{load, rig};

use super::Exit;

/// Cut the power under the storage of a node, on a real file system, again and again: nothing acknowledged may be lost,
/// nothing half there, no vote forgotten.
///
/// Needs Linux, root, /dev/fuse and loop devices; without them it says so and exits with 0, or with 10 if the variable
/// CI is `true`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many cuts
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    cuts: u64,
    /// Decides moments, what survives, and the load
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A bug that the storage is to have; it must be built with the feature raft-node/plant
    #[arg(long, value_name = "BUG")]
    plant: Option<String>,
    /// Tell of each cut
    #[arg(long, short)]
    verbose: bool,
}

/// The process that writes to the disk that is cut.
#[derive(Debug, clap::Args)]
pub(crate) struct WorkerArgs {
    #[arg(long)]
    folder: PathBuf,
    #[arg(long)]
    seed: u64,
    #[arg(long)]
    life: u64,
}

/// Set in the process that has a mount namespace of its own.
const NAMESPACE: &str = "JEPSEN_TESTS_POWER_NAMESPACE";

pub(crate) fn run(args: &Args) -> Exit {
    if let Some(what) = rig::missing() {
        let must = std::env::var_os("CI").is_some_and(|value| value == "true");
        eprintln!("SKIPPED: no power was cut, and nothing is known about durability: {what}");
        return if must { Exit::Inconclusive } else { Exit::Linearizable };
    }
    if std::env::var_os(NAMESPACE).is_none() {
        return enter_namespace();
    }
    match cut(args) {
        Ok(exit) => exit,
        Err(error) => {
            eprintln!("jepsen-tests: {error}");
            Exit::Inconclusive
        }
    }
}

/// Becomes a process whose mounts nobody else sees, and which end with it, however it ends.
fn enter_namespace() -> Exit {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => {
            eprintln!("jepsen-tests: own path unknown: {error}");
            return Exit::Inconclusive;
        }
    };
    let error = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(program)
        .args(std::env::args_os().skip(1))
        .env(NAMESPACE, "1")
        .exec();
    eprintln!("jepsen-tests: unshare: {error}");
    Exit::Inconclusive
}

fn cut(args: &Args) -> Result<Exit, Box<dyn std::error::Error>> {
    let program = std::env::current_exe()?.display().to_string();
    let options = rig::Options {
        cuts: args.cuts,
        seed: args.seed,
        worker: vec![program, "power-worker".to_owned()],
        plant: args.plant.clone(),
    };
    #[expect(clippy::disallowed_methods, reason = "tells how many cuts a minute this machine makes")]
    let started = Instant::now();
    let outcome = rig::run(&options, |line| {
        if args.verbose {
            eprintln!("{line}");
        }
    })?;
    let seconds = started.elapsed().as_secs_f64();
    let line = format!(
        "{} cuts ({} while opening) in {seconds:.0} s, {:.0} a minute; {} acknowledgements, {} flushes",
        outcome.cuts,
        outcome.cuts_opening,
        outcome.cuts as f64 * 60.0 / seconds,
        outcome.acknowledged,
        outcome.flushes
    );
    let mut output = std::io::stdout();
    match outcome.violation {
        None => {
            writeln!(output, "{line}: nothing lost, nothing half there")?;
            Ok(Exit::Linearizable)
        }
        Some((cut, what)) => {
            writeln!(output, "{line}\nVIOLATION after cut {cut} of seed {}: {what}", args.seed)?;
            Ok(Exit::Violation)
        }
    }
}

pub(crate) fn work(args: &WorkerArgs) -> Exit {
    match load::work(&args.folder, args.seed, args.life) {
        Ok(()) => Exit::Linearizable,
        Err(what) => {
            eprintln!("{what}");
            Exit::Inconclusive
        }
    }
}
