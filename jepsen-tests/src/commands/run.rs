//! `jepsen-tests run`: faults against real processes or containers, with a verdict.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use jepsen_tests::cluster::compose::ComposeCluster;
use jepsen_tests::cluster::processes::{self, ProcessCluster};
use jepsen_tests::cluster::{Cluster, ClusterError};
use jepsen_tests::plan::{FaultKind, Plan};
use jepsen_tests::runner::{self, Conclusion, Coverage, Options, Run};
use jepsen_tests::workload::{Recorder, Workload};
use rpc_core::driver::system;
use rpc_core::random::SeededRandom;
use rpc_core::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use self::progress::Progress;
use super::Exit;
use super::folder::Folder;
use super::summary::{Setup, Summary, Verdict};
use super::time::Time;

mod binary;
mod progress;

/// Run clients and faults against real nodes: are all answers linearizable, and does everything come back?
///
/// The seed decides which faults come when; what the machine makes of them differs from run to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What runs the nodes: processes of this machine (started here), or the docker-compose project of this folder
    /// (which must be up)
    #[arg(long, value_enum, default_value_t = Kind::Processes)]
    cluster: Kind,
    /// Nodes of the cluster
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=7))]
    nodes: u64,
    /// What goes wrong: partition, isolate, one-way, bridge, ring, flap, loss, duplicate, reorder, delay, slow-node,
    /// corrupt, truncate, replay, kill, pause, rolling
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "partition,kill")]
    faults: Vec<FaultKind>,
    /// How long things go wrong, as in 30s or 2m; at least 5s
    #[arg(long, default_value = "30s")]
    time: Time,
    /// Clients at once
    #[arg(long, default_value_t = CLIENTS_DEFAULT, value_parser = clap::value_parser!(u64).range(1..=50))]
    clients: u64,
    /// What every client does; a mix that the seed draws unless given
    #[arg(long)]
    workload: Option<Workload>,
    /// Decides the faults; random, and told at the end, unless given
    #[arg(long)]
    seed: Option<u64>,
    /// The folder for history.jsonl, plan.json, summary.json, report.html and the logs of the nodes, which are overwritten;
    /// jepsen-run-SEED here unless given
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// How to print the verdict
    #[arg(long, value_enum, default_value_t = Output::Simple)]
    output: Output,
}

const CLIENTS_DEFAULT: u64 = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Processes of this machine, on loopback.
    Processes,
    /// The containers of the docker-compose project in this folder.
    Compose,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Simple,
    /// One JSON object, the same as in summary.json.
    Json,
}

/// Seeds that are drawn are below: short enough to be told on the telephone.
const SEED_MAX: u64 = 1_000_000_000;
/// Operations that a run must have had answered to count.
const ANSWERS_MIN: u64 = 150;

/// How the workload is run.
fn options(args: &Args) -> Options {
    Options {
        clients: args.clients,
        pause: Duration::from_millis(20),
        timeout: Duration::from_secs(1),
        recovery_max: Duration::from_secs(30),
        workload: args.workload,
    }
}

/// How a run ended.
enum Ended {
    Done(Box<Run>),
    /// Nodes ended on their own, and the run with them.
    Fell(Vec<String>),
    /// The harness failed.
    Broken(ClusterError),
    /// By a signal; this is what a shell reports for it.
    Interrupted(u8),
}

pub(crate) fn run(args: &Args) -> Exit {
    let started = || -> io::Result<_> {
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let signals = tokio.block_on(async { Signals::new() })?;
        Ok((tokio, signals))
    };
    let (tokio, mut signals) = match started() {
        Ok(started) => started,
        Err(error) => return refuse(Refusal::void(error.to_string())),
    };
    let runtime = system::runtime(tokio.handle().clone());
    let exit = tokio.block_on(runtime.enter(conduct(args, &runtime, &mut signals)));
    // A judge that was interrupted may still be at work: what it finds does not matter.
    tokio.shutdown_background();
    exit.unwrap_or_else(refuse)
}

fn refuse(refusal: Refusal) -> Exit {
    eprintln!("jepsen-tests: {}", refusal.why);
    refusal.exit
}

/// Why there was no run.
#[derive(Debug)]
struct Refusal {
    exit: Exit,
    why: String,
}

impl Refusal {
    /// What was asked for makes no sense, or not here.
    fn usage(why: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, why: why.into() }
    }

    /// It could have been done, but was not.
    fn void(why: impl Into<String>) -> Self {
        Self { exit: Exit::Inconclusive, why: why.into() }
    }
}

/// SIGINT and SIGTERM, from the moment this was made.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// The next one, as a shell reports it.
    async fn next(&mut self) -> u8 {
        tokio::select! {
            biased;
            _ = self.interrupt.recv() => 130,
            _ = self.terminate.recv() => 143,
        }
    }
}

/// The whole run, from the arguments to the verdict.
async fn conduct(args: &Args, runtime: &Runtime, signals: &mut Signals) -> Result<Exit, Refusal> {
    let kinds = kinds(args)?;
    let seed = args.seed.unwrap_or_else(|| runtime.random_u64() % SEED_MAX);
    let mut random = SeededRandom::new(seed);
    let plan = Plan::draw(&kinds, args.nodes, args.time.duration, &mut random.fork());
    let program = match args.cluster {
        Kind::Processes => Some(binary::kv_server().map_err(Refusal::void)?),
        Kind::Compose => None,
    };
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from(format!("jepsen-run-{seed}")));
    let folder = Folder::new(&out).map_err(Refusal::usage)?;
    folder.write_plan(&plan).map_err(Refusal::void)?;

    // Processes begin with empty disks; containers may hold what earlier runs wrote.
    let prefix = match args.cluster {
        Kind::Processes => String::new(),
        Kind::Compose => format!("run-{:08x}/", runtime.random_u64() as u32),
    };
    let recorder = Recorder::new(runtime.clone(), &prefix);
    let progress = Progress::start(runtime, recorder.clone(), args.time.duration);
    let told = progress.clone();
    let scene = Scene {
        options: options(args),
        plan,
        random,
        recorder: recorder.clone(),
        tell: move |event: &str| told.event(event),
    };
    let mut data = None;
    let ended = match program {
        Some(program) => {
            let options = processes::Options {
                program,
                nodes: args.nodes,
                data: data.insert(folder.data().map_err(Refusal::void)?).path().to_owned(),
                logs: folder.path().to_owned(),
                seed,
            };
            scene.play(runtime, signals, ProcessCluster::start(runtime.clone(), options)).await
        }
        None => {
            let breaks_links = kinds.iter().any(|kind| kind.is_of_links());
            let cluster = ComposeCluster::find(runtime.clone(), args.nodes, breaks_links);
            scene.play(runtime, signals, cluster).await
        }
    };

    // What was seen is on the disk before anybody thinks about it.
    let history = match &ended {
        Ended::Done(run) => run.history.clone(),
        _ => recorder.finish(),
    };
    folder.write_history(&history).map_err(Refusal::void)?;
    let coverage = Coverage {
        duration: args.time.duration,
        faults: kinds.len() as u64,
        kinds: kinds.clone(),
        acknowledged: ANSWERS_MIN,
    };
    let (verdict, run) = match ended {
        Ended::Done(run) => {
            progress.event("judging the history");
            let run = Arc::new(*run);
            let verdict = tokio::select! {
                biased;
                code = signals.next() => Verdict::Interrupted(code),
                conclusion = judge(runtime, Arc::clone(&run), coverage) => conclusion.into(),
            };
            (verdict, Some(run))
        }
        Ended::Fell(failures) => {
            (Verdict::Failed(format!("nodes ended on their own: {}", failures.join("; "))), None)
        }
        Ended::Broken(error) => (Verdict::Void(error.to_string()), None),
        Ended::Interrupted(code) => (Verdict::Interrupted(code), None),
    };
    progress.finish();

    // The nodes' disks are evidence, but only of what went wrong.
    let data = match (&verdict, data) {
        (Verdict::Failed(_) | Verdict::Void(_), Some(data)) => Some(data.keep()),
        _ => None,
    };
    let setup = Setup {
        cluster: args
            .cluster
            .to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default(),
        nodes: args.nodes,
        clients: args.clients,
        seed,
        asked: kinds.iter().map(FaultKind::to_string).collect(),
        time_ms: args.time.duration.as_millis() as u64,
        history: folder.history(),
        data,
        repeat: repeat(args, seed, &kinds),
    };
    let summary = Summary::new(setup, &verdict, &history, run.as_deref());
    folder.write_summary(&summary).map_err(Refusal::void)?;
    folder.write_report(&history).map_err(Refusal::void)?;
    let printed = match args.output {
        Output::Simple => summary.print(&mut io::stdout()),
        Output::Json => summary.print_json(&mut io::stdout()),
    };
    // A verdict that nobody could read is none.
    let exit = if printed.is_err() { verdict.exit().max(Exit::Inconclusive) } else { verdict.exit() };
    Ok(exit)
}

/// The kinds of faults that were asked for, each once.
fn kinds(args: &Args) -> Result<Vec<FaultKind>, Refusal> {
    let mut kinds = args.faults.clone();
    kinds.sort_unstable();
    kinds.dedup();
    for kind in &kinds {
        if kind.is_simulated_only() {
            return Err(Refusal::usage(format!("the fault `{kind}` is one of `sim` only")));
        }
        let is_made_by_engine = kind.is_of_cuts() || matches!(kind, FaultKind::Kill | FaultKind::Pause);
        if args.cluster == Kind::Compose && !is_made_by_engine {
            let why = format!(
                "--cluster compose has no fault `{kind}`: those that cut links, kill and pause are there"
            );
            return Err(Refusal::usage(why));
        }
        if args.nodes < kind.nodes_min() {
            let least = kind.nodes_min();
            return Err(Refusal::usage(format!("the fault `{kind}` needs {least} nodes")));
        }
    }
    Ok(kinds)
}

/// The command that runs the same plan again.
fn repeat(args: &Args, seed: u64, kinds: &[FaultKind]) -> String {
    let program = std::env::args().next().unwrap_or_else(|| "jepsen-tests".to_owned());
    let kinds: Vec<String> = kinds.iter().map(FaultKind::to_string).collect();
    let mut words = vec![program, "run".to_owned()];
    if args.cluster == Kind::Compose {
        words.extend(["--cluster".to_owned(), "compose".to_owned()]);
    }
    words.extend(["--nodes".to_owned(), args.nodes.to_string(), "--faults".to_owned(), kinds.join(",")]);
    words.extend(["--time".to_owned(), args.time.text.clone()]);
    if args.clients != CLIENTS_DEFAULT {
        words.extend(["--clients".to_owned(), args.clients.to_string()]);
    }
    if let Some(workload) = args.workload {
        words.extend(["--workload".to_owned(), workload.to_string()]);
    }
    words.extend(["--seed".to_owned(), seed.to_string()]);
    if let Some(out) = &args.out {
        words.extend(["--out".to_owned(), out.display().to_string()]);
    }
    words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ")
}

/// A word for a POSIX shell.
fn quote(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=,@%+".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Judges on a thread of its own, so that signals are heard meanwhile.
async fn judge(runtime: &Runtime, run: Arc<Run>, coverage: Coverage) -> Conclusion {
    let (sender, concluded) = oneshot::channel();
    runtime.spawn_thread("judge", async move {
        let _ = sender.send(run.conclude(&coverage));
    });
    concluded.await.unwrap_or_else(|_| Conclusion::Void("the checkers gave up".to_owned()))
}

/// Everything of a run but its cluster.
struct Scene<T> {
    options: Options,
    plan: Plan,
    random: SeededRandom,
    recorder: Recorder,
    tell: T,
}

impl<T: Fn(&str) + Clone + Send + Sync + 'static> Scene<T> {
    /// Starts the cluster, runs the plan against it, and leaves nothing behind. A signal ends the run, a second one the
    /// cleaning up, too.
    async fn play<C: Cluster>(
        self,
        runtime: &Runtime,
        signals: &mut Signals,
        start: impl Future<Output = Result<C, ClusterError>>,
    ) -> Ended {
        let Self { options, plan, random, recorder, tell } = self;
        tell("starting");
        let cluster = tokio::select! {
            biased;
            code = signals.next() => return Ended::Interrupted(code),
            started = start => match started {
                Ok(cluster) => cluster,
                Err(error) => return Ended::Broken(error),
            },
        };
        let run = runner::run(cluster.clone(), plan, options, random, recorder, tell.clone());
        let ended = tokio::select! {
            biased;
            code = signals.next() => Ended::Interrupted(code),
            run = run => match run {
                Ok(run) => Ended::Done(Box::new(run)),
                Err(error) => {
                    // A node that ended on its own explains what the harness could not do any more.
                    let failures = cluster.failures().await;
                    if failures.is_empty() { Ended::Broken(error) } else { Ended::Fell(failures) }
                }
            },
        };
        tell("ending");
        let release = cluster.release();
        let released = tokio::select! {
            biased;
            _ = signals.next() => Err(ClusterError("a second signal ended the cleaning up".to_owned())),
            released = runtime.timeout(RELEASE, release) => {
                released.unwrap_or_else(|_| Err(ClusterError(format!("not done in {RELEASE:?}"))))
            }
        };
        if let Err(error) = released {
            tell(&format!("not everything was put back: {error}"));
        }
        ended
    }
}

/// How long cleaning up may take.
const RELEASE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units_and_limits() {
        let seconds = |text: &str| text.parse::<Time>().map(|time| time.duration.as_secs());
        assert_eq!(seconds("30s"), Ok(30));
        assert_eq!(seconds("2m"), Ok(120));
        assert_eq!(seconds("1h"), Ok(3_600));
        for wrong in ["", "30", "s", "1.5m", "-3s", "30 s", "30sec", "4s", "25h", "99999999999999999999h"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_command_to_repeat_is_a_shell_command() {
        assert_eq!(quote("--time"), "--time");
        assert_eq!(quote("my folder"), "'my folder'");
        assert_eq!(quote("it's"), r"'it'\''s'");
    }
}
