//! `jepsen-tests sim`: seeds of the simulated cluster.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use jepsen_tests::plan::FaultKind;
use jepsen_tests::runner::Conclusion;
use jepsen_tests::simulation::{self, Regression, Simulated, Simulation, Sink};

use super::Exit;
use super::chosen::Chosen;
use super::folder::{Folder, REPORT};
use super::summary::{Setup, Summary, Verdict};
use super::time::Time;

/// Run the real crates in virtual time: one seed decides network, disks, clocks and faults, and gives one trace.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many seeds to run, from --from on
    #[arg(long, default_value_t = 64, conflicts_with = "seed")]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Run this seed only, and print its fault plan
    #[arg(long)]
    seed: Option<u64>,
    /// With --seed: print the trace on standard output, the same every time
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Run each seed in two processes and compare the traces
    #[arg(long, conflicts_with = "trace")]
    compare: bool,
    /// End with the first seed that fails
    #[arg(long, conflicts_with = "compare")]
    stop: bool,
    /// Seeds at once; as many as there are processors unless given
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=256))]
    jobs: Option<u64>,
    /// Begin no more seeds after so long, as in 15m, however many are left
    #[arg(long, conflicts_with_all = ["seed", "compare"])]
    time: Option<Time>,
    /// With --time: fewer seeds than this prove too little
    #[arg(long, value_name = "N", requires = "time")]
    at_least: Option<u64>,
    /// Let one number come from the system instead of the seed: --compare must then fail
    #[arg(long, hide = true)]
    plant_entropy: bool,
    #[command(flatten)]
    chosen: Chosen,
    /// Run what `shrink` wrote into this file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seed", "compare", "stop", "nodes", "faults", "workload"])]
    replay: Option<PathBuf>,
    /// The folder for history.jsonl, plan.json, summary.json and report.html of the seed; of a sweep, of each seed that
    /// did not pass, in a folder of its own
    #[arg(long, value_name = "DIR", conflicts_with = "compare")]
    out: Option<PathBuf>,
}

impl Args {
    fn simulation(&self, seed: u64) -> Simulation {
        Simulation {
            entropy: self.plant_entropy.then(|| RandomState::new().hash_one(seed)),
            ..self.chosen.simulation(seed)
        }
    }

    fn jobs(&self) -> u64 {
        let processors = || std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
        self.jobs.unwrap_or_else(processors)
    }

    fn replay(&self, seed: u64) -> String {
        let words = [vec![format!("sim --seed {seed}")], self.chosen.words()].concat();
        format!("cargo run --release -p jepsen-tests -- {}", words.join(" "))
    }
}

pub(crate) fn run(args: &Args) -> Exit {
    if args.compare {
        return compare(args);
    }
    if let Some(path) = &args.replay {
        return match Regression::read(path) {
            Ok(regression) => {
                one(&regression.simulation(), args, &format!("sim --replay {}", path.display()))
            }
            Err(error) => {
                eprintln!("jepsen-tests: {}: {error}", path.display());
                Exit::Usage
            }
        };
    }
    if let Some(seed) = args.seed {
        return one(&args.simulation(seed), args, &args.replay(seed));
    }
    let (mut worst, mut seeds, mut operations, mut virtual_time) =
        (Exit::Linearizable, 0u64, 0, Duration::ZERO);
    // The time of the person who waits; the simulation itself has its own.
    #[expect(clippy::disallowed_methods, reason = "tells the user how fast the simulation is")]
    let started = Instant::now();
    let is_over = || args.time.as_ref().is_some_and(|time| started.elapsed() >= time.duration);
    sweep(args, is_over, |seed, simulated| {
        let (exit, text) = judge(&simulated);
        print_line(&format!("seed {seed} {simulated}: {text}"));
        if exit != Exit::Linearizable {
            print_line(&format!("  replay: {}", args.replay(seed)));
            if let Some(out) = &args.out {
                let folder = out.join(format!("seed-{seed}"));
                worst = worst.max(keep(&folder, &args.simulation(seed), &simulated, &args.replay(seed)));
            }
        }
        worst = worst.max(exit);
        seeds += 1;
        if let Ok(run) = simulated.run {
            operations += run.history.operations.len();
            virtual_time += run.duration;
        }
        if args.stop && exit == Exit::Violation { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let took = started.elapsed().as_secs_f64();
    if seeds < args.seeds && is_over() {
        eprintln!("the time was up after {seeds} of {} seeds", args.seeds);
    }
    let least = args.at_least.unwrap_or_default();
    if seeds < least && worst != Exit::Violation {
        eprintln!(
            "jepsen-tests: {seeds} of {} seeds prove nothing: at least {least} were asked for",
            args.seeds
        );
        worst = worst.max(Exit::Inconclusive);
    }
    eprintln!(
        "{seeds} of {} seeds, {operations} operations, {:.0} virtual seconds in {took:.1} s: {:.1} seeds/s, {:.0}x real time",
        args.seeds,
        virtual_time.as_secs_f64(),
        seeds as f64 / took,
        virtual_time.as_secs_f64() / took
    );
    worst
}

/// Runs the seeds, some at once, and tells each in its turn, until `is_over` or `tell` has enough. A seed's world knows
/// nothing of the others.
fn sweep(
    args: &Args,
    is_over: impl Fn() -> bool + Sync,
    mut tell: impl FnMut(u64, Simulated) -> ControlFlow<()>,
) {
    let (next, end) = (AtomicU64::new(args.from), args.from + args.seeds);
    let (sender, simulated) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..args.jobs().min(args.seeds) {
            let (sender, next, is_over) = (sender.clone(), &next, &is_over);
            scope.spawn(move || {
                while !is_over() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    // Nobody listens when enough was told.
                    if seed >= end || sender.send((seed, args.simulation(seed).run(None))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let (mut due, mut early) = (args.from, BTreeMap::new());
        for (seed, simulated) in simulated {
            early.insert(seed, simulated);
            while let Some(simulated) = early.remove(&due) {
                if tell(due, simulated).is_break() {
                    next.store(end, Ordering::Relaxed);
                    return;
                }
                due += 1;
            }
        }
    });
}

/// One seed, with its plan or its trace.
fn one(simulation: &Simulation, args: &Args, replay: &str) -> Exit {
    let simulated = simulation.run(args.trace.then(|| Box::new(print_line) as Sink));
    let (mut exit, text) = judge(&simulated);
    let summary = format!("seed {} {simulated}: {text}", simulation.seed);
    if args.trace {
        eprintln!("{summary}");
    } else {
        println!("{}", simulated.plan);
        println!("{summary}");
        if let Ok(run) = &simulated.run {
            let recovery = match run.recovery {
                Some(time) => format!("every node served again after {} ms", time.as_millis()),
                None => "not every node served again".to_owned(),
            };
            println!(
                "{} faults took effect, {} of {} operations answered, {} unknown ({} unresolved), {recovery}",
                run.faults.values().sum::<u64>(),
                run.acknowledged,
                run.history.operations.len(),
                run.unknown.0,
                run.unknown.1,
            );
        }
    }
    if exit != Exit::Linearizable {
        eprintln!("replay: {replay}");
    }
    if let Some(out) = &args.out {
        exit = exit.max(keep(out, simulation, &simulated, replay));
    }
    exit
}

/// Writes what is known of a seed into a folder, as `run` does.
fn keep(path: &Path, simulation: &Simulation, simulated: &Simulated, replay: &str) -> Exit {
    let write = || {
        let folder = Folder::new(path)?;
        let setup = Setup {
            cluster: "simulation".to_owned(),
            nodes: simulated.nodes,
            clients: simulation::CLIENTS,
            seed: simulation.seed,
            asked: simulated.plan.kinds().iter().map(FaultKind::to_string).collect(),
            time_ms: simulation::FAULTS_TIME.as_millis() as u64,
            history: folder.history(),
            data: None,
            repeat: replay.to_owned(),
        };
        let verdict = Verdict::from(simulated.conclude());
        folder.write_plan(&simulated.plan)?;
        folder.write_history(simulated.history())?;
        folder.write_summary(&Summary::new(
            setup,
            &verdict,
            simulated.history(),
            simulated.run.as_ref().ok(),
        ))?;
        folder.write_report(simulated.history())?;
        Ok(folder)
    };
    match write() {
        Ok(folder) => {
            eprintln!("report: {}", folder.path().join(REPORT).display());
            Exit::Linearizable
        }
        Err::<_, String>(error) => {
            eprintln!("jepsen-tests: {error}");
            Exit::Inconclusive
        }
    }
}

/// Two processes run the same seeds; their lines must be equal.
fn compare(args: &Args) -> Exit {
    let process = || {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["sim", "--seeds", &args.seeds.to_string(), "--from", &args.from.to_string()]);
        command.args(["--jobs", &args.jobs().div_ceil(2).to_string()]);
        command.args(args.chosen.words()).args(args.plant_entropy.then_some("--plant-entropy"));
        command.stdout(Stdio::piped()).spawn()
    };
    let outputs = || -> io::Result<_> {
        let (first, second) = (process()?, process()?);
        Ok((first.wait_with_output()?, second.wait_with_output()?))
    };
    let (first, second) = match outputs() {
        Ok(outputs) => outputs,
        Err(error) => {
            eprintln!("jepsen-tests: the two processes did not run: {error}");
            return Exit::Inconclusive;
        }
    };
    print!("{}", String::from_utf8_lossy(&first.stdout));
    if first.stdout != second.stdout {
        let (first, second) =
            (String::from_utf8_lossy(&first.stdout), String::from_utf8_lossy(&second.stdout));
        for (one, other) in first.lines().zip(second.lines()).filter(|(one, other)| one != other) {
            println!("NOT DETERMINISTIC:\n  {one}\n  {other}");
        }
        return Exit::Violation;
    }
    println!("{} seeds gave the same trace in two processes", args.seeds);
    match first.status.code() {
        Some(0) => Exit::Linearizable,
        Some(9) => Exit::Violation,
        _ => Exit::Inconclusive,
    }
}

fn judge(simulated: &Simulated) -> (Exit, String) {
    let conclusion = simulated.conclude();
    let exit = match &conclusion {
        Conclusion::Passed { .. } => Exit::Linearizable,
        Conclusion::Failed(_) => Exit::Violation,
        Conclusion::Void(_) => Exit::Inconclusive,
    };
    (exit, conclusion.to_string())
}

fn print_line(line: &str) {
    // A closed pipe ends the program, quietly: `| head` is how people look at a trace.
    if writeln!(io::stdout(), "{line}").is_err() {
        std::process::exit(0);
    }
}
