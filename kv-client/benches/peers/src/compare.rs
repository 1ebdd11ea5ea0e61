//! The driver: plays rounds, in each of which every contestant has its turn, and reports.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::bars;
use crate::cluster::Cluster;
use crate::contestant::{Contestant, Plan};
use crate::life::{self, Moment, on_runtime};
use crate::load::{self, Cell, Measurement, OWN_KEYS, Op, Times};
use crate::processes;
use crate::programs::Programs;
use crate::report::{self, Curve, Entry};
use crate::samples::{Event, FOREIGN_CPU_MAX, Incident, Sample, Samples};

/// Compares our store with others: the same loads on clusters of each, started and stopped here
#[derive(Debug, Parser)]
pub struct Options {
    /// Our store alone, over sizes of values, numbers of keys, and 3 and 5 nodes.
    #[arg(long)]
    curves: bool,
    /// Only these contestants.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Contestant::ALL)]
    only: Vec<Contestant>,
    /// How often everything is measured.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How long each load is measured.
    #[arg(long, default_value_t = 2.5)]
    seconds: f64,
    /// How long each load is on before it is measured.
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// The operations.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Op::Put, Op::Get, Op::Mix, Op::Cas])]
    ops: Vec<Op>,
    /// The numbers of clients, each with a connection and a session of its own.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64, 256])]
    clients: Vec<usize>,
    /// Keys in the store.
    #[arg(long, default_value_t = 100_000)]
    keys: u64,
    /// Bytes of each value.
    #[arg(long, default_value_t = 256)]
    value_size: usize,
    /// How often the leader is killed in each round.
    #[arg(long, default_value_t = 3)]
    kills: usize,
    /// How often the leader is stopped in each round.
    #[arg(long, default_value_t = 2)]
    stops: usize,
    /// How often a load is measured again when others used more than a tenth of a core meanwhile.
    #[arg(long, default_value_t = 2)]
    retries: usize,
    /// A folder on a disk; the data of all nodes lives in a temporary folder below it.
    #[arg(long, default_value_os_t = env::temp_dir())]
    folder: PathBuf,
    /// The first of five hundred ports on 127.0.0.1, below those that the kernel hands out.
    #[arg(long, default_value_t = 21_000)]
    port: u16,
    /// Where to write all measurements.
    #[arg(long, default_value = "target/compare.json")]
    json: PathBuf,
    #[command(flatten)]
    programs: Programs,
}

impl Options {
    /// The load of the main comparison with this operation and number of clients.
    fn cell(&self, op: Op, clients: usize) -> Cell {
        Cell { op, clients, value_size: self.value_size, keys: self.keys, nodes: NODES }
    }

    fn times(&self) -> Times {
        Times {
            warm_up: Duration::from_secs_f64(self.warm_up),
            measured: Duration::from_secs_f64(self.seconds),
        }
    }

    fn plan(&self, contestant: Contestant, nodes: usize, folder: &Path) -> Plan {
        let port_base = self.port + contestant as u16 * 100;
        Plan { contestant, nodes, folder: folder.join(contestant.to_string()), port_base }
    }
}

pub fn run(mut options: Options) -> Result<()> {
    let clients_max = options.clients.iter().copied().max().context("no clients")? as u64;
    if options.keys < clients_max * OWN_KEYS {
        bail!("{clients_max} clients need {} keys at least", clients_max * OWN_KEYS);
    }
    options.programs.settle()?;
    allow_many_sockets()?;
    processes::end_on_signals()?;
    let folder = processes::folder(&options.folder)?;
    if options.curves {
        options.only = vec![Contestant::Ours];
    }
    let entries = entries(&options);
    let present: Vec<_> =
        entries.iter().filter(|(_, server)| server.is_ok()).map(|(contestant, _)| *contestant).collect();
    let mut stage = Stage { options: &options, folder: folder.path(), samples: Samples::default() };

    let load_before = load_average();
    if options.curves {
        stage.curves()?;
    } else {
        for round in 0..options.rounds {
            for turn in 0..present.len() {
                let contestant = present[(turn + round) % present.len()];
                let begun = Instant::now();
                if let Err(error) = stage.play(contestant, round) {
                    stage.incident(contestant, round, true, format!("{error:#}"));
                }
                eprintln!("{contestant} round {round}: {:.0} s", begun.elapsed().as_secs_f64());
            }
        }
    }
    let samples = stage.samples;

    println!("Commit {}, load average {load_before} before, {} after.\n", commit(), load_average());
    report::print_entries(&entries);
    let verdicts = if options.curves {
        for curve in curves(&options) {
            report::print_curve(&samples, Contestant::Ours, &curve);
        }
        Vec::new()
    } else {
        let cells: Vec<_> =
            options.ops.iter().flat_map(|op| options.clients.iter().map(|n| options.cell(*op, *n))).collect();
        report::print_loads(&samples, &entries, &options.ops, &cells);
        report::print_moments(&samples, &entries);
        let verdicts = bars::verdicts(&samples, |op, clients| options.cell(op, clients));
        report::print_verdicts(&verdicts);
        verdicts
    };
    report::print_flaws(&samples);
    let json = json!({
        "commit": commit(),
        "command": env::args().collect::<Vec<_>>(),
        "load_average_before": load_before,
        "load_average_after": load_average(),
        "contestants": entries,
        "bars": verdicts,
        "measurements": samples,
    });
    if let Some(parent) = options.json.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(&options.json, serde_json::to_vec_pretty(&json)?)
        .with_context(|| options.json.display().to_string())?;
    let unfinished = samples.incidents.iter().filter(|incident| incident.is_fatal).count();
    if unfinished > 0 {
        bail!("{unfinished} turns did not end");
    }
    Ok(())
}

/// Who takes part, with its version; who is not installed is told at once, and stands in every table.
fn entries(options: &Options) -> Vec<Entry> {
    let mut entries = Vec::new();
    for contestant in Contestant::ALL.into_iter().filter(|contestant| options.only.contains(contestant)) {
        let server = options.programs.version(contestant).map_err(|why| format!("{why:#}"));
        if let Err(why) = &server {
            eprintln!("SKIPPED: {contestant} is not installed: {why}");
        }
        entries.push((contestant, server));
    }
    entries
}

/// What is being played.
struct Stage<'a> {
    options: &'a Options,
    folder: &'a Path,
    samples: Samples,
}

impl Stage<'_> {
    /// One turn of one contestant: a new cluster, from its start to its end.
    fn play(&mut self, contestant: Contestant, round: usize) -> Result<()> {
        let options = self.options;
        let plan = options.plan(contestant, NODES, self.folder);
        let mut cluster = Cluster::new(plan, &options.programs)?;
        let took = life::start(&mut cluster).context("start")?;
        self.event(contestant, round, Moment::ColdStartMs, Some(took));
        let (idle_mb, idle_cpu_percent) = life::idle(&cluster)?;
        self.event(contestant, round, Moment::IdleMb, Some(idle_mb));
        self.event(contestant, round, Moment::IdleCpuPercent, Some(idle_cpu_percent));

        self.fill(&cluster, round, options.keys, options.value_size)?;
        self.event(contestant, round, Moment::FilledMb, Some(life::largest_mb(&cluster)?));
        for op in &options.ops {
            for clients in &options.clients {
                self.load(&cluster, round, options.cell(*op, *clients))?;
            }
        }

        cluster.stop_all()?;
        let took = life::start(&mut cluster).context("restart")?;
        self.event(contestant, round, Moment::RestartMs, Some(took));
        if contestant.elects() {
            let losses = [(Signal::SIGKILL, options.kills), (Signal::SIGSTOP, options.stops)];
            for (signal, times) in losses {
                for _ in 0..times {
                    let took = life::lose_leader(&mut cluster, signal).with_context(|| signal.to_string())?;
                    let moment = if signal == Signal::SIGKILL { Moment::KillMs } else { Moment::StopMs };
                    self.event(contestant, round, moment, took);
                }
            }
        }
        Ok(())
    }

    /// Everything that is told of one contestant over something that varies.
    fn curves(&mut self) -> Result<()> {
        let options = self.options;
        for round in 0..options.rounds {
            for curve in curves(options) {
                for (_, cells) in curve.rows {
                    // One cluster for each row: all its loads agree on what it holds.
                    let Some(Cell { nodes, keys, value_size, .. }) = cells.first().copied() else { continue };
                    let plan = options.plan(Contestant::Ours, nodes, self.folder);
                    let mut cluster = Cluster::new(plan, &options.programs)?;
                    life::start(&mut cluster)?;
                    self.fill(&cluster, round, keys, value_size)?;
                    for cell in cells {
                        self.load(&cluster, round, cell)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Writes every key once.
    fn fill(&mut self, cluster: &Cluster<'_>, round: usize, keys: u64, value_size: usize) -> Result<()> {
        let contestant = cluster.plan.contestant;
        let begun = Instant::now();
        let (store, clients) = (cluster.plan.store(), contestant.fillers());
        let filled = on_runtime(async { load::fill(store.into(), keys, value_size, clients).await });
        cluster.check()?;
        let errors = filled?;
        if let Some(first) = errors.first() {
            let count = errors.len();
            let what = format!("{count} errors while {keys} keys were written, each tried again ({first})");
            self.incident(contestant, round, false, what);
        }
        eprintln!("{contestant} round {round}: {keys} keys in {:.1} s", begun.elapsed().as_secs_f64());
        Ok(())
    }

    /// Puts one load on a cluster, again if others disturbed it.
    fn load(&mut self, cluster: &Cluster<'_>, round: usize, cell: Cell) -> Result<()> {
        let contestant = cluster.plan.contestant;
        let mut best: Option<Measurement> = None;
        for _ in 0..=self.options.retries {
            let store = cluster.plan.store();
            let (pids, times) = (cluster.pids(), self.options.times());
            let measured = on_runtime(async { load::measure(store.into(), &pids, cell, times).await });
            cluster.check()?;
            let measurement = measured.with_context(|| format!("{cell:?}"))?;
            eprintln!(
                "{contestant} round {round} {cell:?}: {:.0}/s, p50 {} us, p99 {} us, {} errors, {} misses, others {:.0} %",
                measurement.ops_per_s,
                measurement.p50_us,
                measurement.p99_us,
                measurement.errors,
                measurement.misses,
                measurement.foreign_cpu_percent
            );
            let is_wrong = measurement.errors + measurement.misses > 0;
            let is_clean = measurement.foreign_cpu_percent <= FOREIGN_CPU_MAX;
            let is_better =
                best.as_ref().is_none_or(|best| measurement.foreign_cpu_percent < best.foreign_cpu_percent);
            // A wrong answer is kept whoever disturbed it.
            if is_better || is_wrong {
                best = Some(measurement);
            }
            if is_clean || is_wrong {
                break;
            }
        }
        let measurement = best.context("not measured")?;
        self.samples.loads.push(Sample { contestant, round, cell, measurement });
        Ok(())
    }

    fn incident(&mut self, contestant: Contestant, round: usize, is_fatal: bool, what: String) {
        eprintln!("{contestant} round {round}: {}{what}", if is_fatal { "FAILED: " } else { "" });
        self.samples.incidents.push(Incident { contestant, round, is_fatal, what });
    }

    fn event(&mut self, contestant: Contestant, round: usize, moment: Moment, value: Option<f64>) {
        eprintln!("{contestant} round {round} {moment:?}: {value:.1?}");
        self.samples.events.push(Event { contestant, round, moment, value });
    }
}

/// The curves: what varies, and the loads of each of its values.
fn curves(options: &Options) -> [Curve; 3] {
    let cells = |base: Cell, clients: [usize; 2]| -> Vec<Cell> {
        let ops = [Op::Put, Op::Get].into_iter();
        ops.flat_map(|op| clients.map(|clients| Cell { op, clients, ..base })).collect()
    };
    let base = options.cell(Op::Put, 1);
    let sizes = [1, 64, 256, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576].map(|value_size| {
        // As much data for large values as for small ones would be more than a disk wants.
        let keys = 10_000.min(100_000_000 / value_size as u64);
        (format!("{value_size} B"), cells(Cell { value_size, keys, ..base }, [1, 16]))
    });
    let keys = [10_000, 100_000, 1_000_000]
        .map(|keys| (format!("{keys} keys"), cells(Cell { keys, ..base }, [16, 64])));
    let nodes =
        [3, 5].map(|nodes| (format!("{nodes} nodes"), cells(Cell { nodes, keys: 10_000, ..base }, [1, 64])));
    [
        Curve { title: "sizes of values", rows: sizes.into() },
        Curve { title: "numbers of keys", rows: keys.into() },
        Curve { title: "numbers of nodes", rows: nodes.into() },
    ]
}

/// Each client has a socket.
fn allow_many_sockets() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

/// The commit of this checkout, with `-dirty` when it was changed since.
fn commit() -> String {
    let git = Command::new("git")
        .args(["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty", "--abbrev=12"])
        .output();
    git.ok().map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

/// Of the last 1, 5 and 15 minutes.
fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// Nodes of each cluster of the main comparison.
const NODES: usize = 3;
