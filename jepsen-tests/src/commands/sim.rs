//! `jepsen-tests sim`: seeds of the simulated cluster.

use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use jepsen_tests::cluster::Cluster;
use jepsen_tests::cluster::sim::{self, SimCluster};
use jepsen_tests::plan::{FaultKind, Plan};
use jepsen_tests::runner::{self, Conclusion, Coverage, Options, Run};
use jepsen_tests::workload::Recorder;
use rpc_core::random::SeededRandom;

use super::Exit;

/// Virtual time of the faults of one seed.
const FAULTS_TIME: Duration = Duration::from_secs(21);

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
    /// Let one number come from the system instead of the seed: --compare must then fail
    #[arg(long, hide = true)]
    plant_entropy: bool,
    /// Nodes of the cluster
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=7))]
    nodes: u64,
}

pub(crate) fn run(args: &Args) -> Exit {
    if args.compare {
        return compare(args);
    }
    if let Some(seed) = args.seed {
        return one(seed, args);
    }
    let (mut worst, mut operations, mut virtual_time) = (Exit::Linearizable, 0, Duration::ZERO);
    // The time of the person who waits; the simulation itself has its own.
    #[expect(clippy::disallowed_methods, reason = "tells the user how fast the simulation is")]
    let started = Instant::now();
    for seed in args.from..args.from + args.seeds {
        let (run, hash) = simulate(seed, args, None);
        let (exit, text) = judge(&run);
        println!("seed {seed} trace {:016x} {} events: {text}", hash.0, hash.1);
        if exit != Exit::Linearizable {
            println!("  replay: {}", replay(seed, args.nodes));
        }
        worst = worst.max(exit);
        if let Ok(run) = run {
            operations += run.history.operations.len();
            virtual_time += run.duration;
        }
    }
    let took = started.elapsed().as_secs_f64();
    eprintln!(
        "{} seeds, {operations} operations, {:.0} virtual seconds in {took:.1} s: {:.1} seeds/s, {:.0}x real time",
        args.seeds,
        virtual_time.as_secs_f64(),
        args.seeds as f64 / took,
        virtual_time.as_secs_f64() / took
    );
    worst
}

/// One seed, with its plan or its trace.
fn one(seed: u64, args: &Args) -> Exit {
    let (run, hash) = simulate(seed, args, args.trace.then(|| Box::new(print_line) as Sink));
    let (exit, text) = judge(&run);
    let summary = format!("seed {seed} trace {:016x} {} events: {text}", hash.0, hash.1);
    if args.trace {
        eprintln!("{summary}");
    } else {
        println!("{}", draw_plan(seed, args.nodes));
        println!("{summary}");
        if let Ok(run) = run {
            println!(
                "{} faults took effect, {} of {} operations answered, {} unknown ({} unresolved), served again after {:?}",
                run.faults.values().sum::<u64>(),
                run.acknowledged,
                run.history.operations.len(),
                run.unknown.0,
                run.unknown.1,
                run.recovery
            );
        }
    }
    if exit != Exit::Linearizable {
        eprintln!("replay: {}", replay(seed, args.nodes));
    }
    exit
}

/// Two processes run the same seeds; their lines must be equal.
fn compare(args: &Args) -> Exit {
    let process = || {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["sim", "--seeds", &args.seeds.to_string(), "--from", &args.from.to_string()]);
        command
            .args(["--nodes", &args.nodes.to_string()])
            .args(args.plant_entropy.then_some("--plant-entropy"));
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

type Sink = Box<dyn FnMut(&str) + Send>;
type Simulated = (Result<Run, String>, (u64, u64));

fn simulate(seed: u64, args: &Args, sink: Option<Sink>) -> Simulated {
    let nodes = args.nodes;
    let (world, mut random) = sim::world(seed);
    if let Some(sink) = sink {
        world.print_trace(sink);
    }
    let plan = plan(nodes, &mut random);
    if args.plant_entropy {
        random = SeededRandom::new(RandomState::new().hash_one(seed));
    }
    let cluster = SimCluster::start(&world, nodes);
    let options = Options {
        clients: 5,
        pause: Duration::from_millis(60),
        timeout: Duration::from_secs(1),
        recovery_max: sim::RECOVERY_MAX,
    };
    let recorder = Recorder::new(cluster.clock(), "");
    let run = world.run(runner::run(cluster.clone(), plan, options, random, recorder, |_| {}));
    let hash = world.trace_hash();
    let run = run.map_err(|error| {
        let failures = world.run(async move { cluster.failures().await });
        if failures.is_empty() { error.to_string() } else { format!("{error}; {}", failures.join("; ")) }
    });
    (run, hash)
}

fn judge(run: &Result<Run, String>) -> (Exit, String) {
    match run {
        Err(why) => (Exit::Violation, format!("FAILED: {why}")),
        Ok(run) => {
            let conclusion = run.conclude(&Coverage::SEED);
            let exit = match &conclusion {
                Conclusion::Passed { .. } => Exit::Linearizable,
                Conclusion::Failed(_) => Exit::Violation,
                Conclusion::Void(_) => Exit::Inconclusive,
            };
            (exit, conclusion.to_string())
        }
    }
}

fn plan(nodes: u64, random: &mut SeededRandom) -> Plan {
    let kinds: Vec<FaultKind> = FaultKind::ALL.iter().map(|(kind, _)| *kind).collect();
    Plan::draw(&kinds, nodes, FAULTS_TIME, random)
}

fn draw_plan(seed: u64, nodes: u64) -> Plan {
    plan(nodes, &mut sim::world(seed).1)
}

fn replay(seed: u64, nodes: u64) -> String {
    format!("cargo run --release -p jepsen-tests -- sim --seed {seed} --nodes {nodes}")
}

fn print_line(line: &str) {
    // A closed pipe ends the program, quietly: `| head` is how people look at a trace.
    if writeln!(io::stdout(), "{line}").is_err() {
        std::process::exit(0);
    }
}
