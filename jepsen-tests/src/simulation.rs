//! One seed, from the world that it makes to the verdict.

use std::any::Any;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::time::Duration;
use std::{fmt, fs, io};

use rpc_core::random::SeededRandom;
use serde::{Deserialize, Serialize};

use crate::cluster::Cluster;
use crate::cluster::sim::{self, SimCluster};
use crate::history::History;
use crate::plan::{FaultKind, Plan};
use crate::runner::{self, Conclusion, Coverage, Options, Run};
use crate::workload::{Recorder, Workload};

/// Virtual time of the faults of one seed.
pub const FAULTS_TIME: Duration = Duration::from_secs(21);

/// What is simulated. Everything that is not said follows from the seed.
#[derive(Clone, Debug)]
pub struct Simulation {
    /// The seed.
    pub seed: u64,
    /// Nodes; `None`: the seed decides.
    pub nodes: Option<u64>,
    /// Kinds of faults to draw from; none: all.
    pub kinds: Vec<FaultKind>,
    /// The workload of every client; `None`: the seed decides.
    pub workload: Option<Workload>,
    /// This plan instead of the one that the seed draws. Everything else stays as the seed has it.
    pub plan: Option<Plan>,
    /// A generator for the workload that does not follow from the seed: a source of entropy, to be found out.
    pub entropy: Option<u64>,
}

/// Takes the lines of a trace.
pub type Sink = Box<dyn FnMut(&str) + Send>;

/// What a simulation gave.
#[derive(Debug)]
pub struct Simulated {
    /// Nodes that there were.
    pub nodes: u64,
    /// The faults that were planned.
    pub plan: Plan,
    /// The run; or why there was none, or that something panicked.
    pub run: Result<Run, String>,
    /// What was seen of a run that did not come to its end.
    pub seen: History,
    /// The hash of the trace, and the number of its events.
    pub trace: (u64, u64),
}

impl Simulation {
    /// As the seed has it.
    pub fn new(seed: u64) -> Self {
        Self { seed, nodes: None, kinds: Vec::new(), workload: None, plan: None, entropy: None }
    }

    /// The number of nodes, and the plan.
    pub fn draw(&self) -> (u64, Plan) {
        let mut random = sim::world(self.seed).1;
        self.draw_from(&mut random)
    }

    fn draw_from(&self, random: &mut SeededRandom) -> (u64, Plan) {
        let drawn = match random.below(10) {
            0..6 => 3,
            6..9 => 5,
            _ => 7,
        };
        let nodes = self.nodes.unwrap_or(drawn);
        let mut kinds = self.kinds.clone();
        if kinds.is_empty() {
            kinds.extend(FaultKind::ALL.iter().map(|(kind, _)| *kind));
        }
        kinds.retain(|kind| kind.nodes_min() <= nodes);
        // Of a generator of its own: the workload stays the same with other kinds of faults.
        let plan = Plan::draw(&kinds, nodes, FAULTS_TIME, &mut random.fork());
        (nodes, self.plan.clone().unwrap_or(plan))
    }

    /// Runs it; each line of the trace goes to `sink`, if there is one.
    pub fn run(&self, sink: Option<Sink>) -> Simulated {
        let (world, mut random) = sim::world(self.seed);
        if let Some(sink) = sink {
            world.print_trace(sink);
        }
        let (nodes, plan) = self.draw_from(&mut random);
        if let Some(entropy) = self.entropy {
            random = SeededRandom::new(entropy);
        }
        let options = Options {
            clients: CLIENTS,
            pause: Duration::from_millis(60),
            timeout: Duration::from_secs(1),
            recovery_max: sim::RECOVERY_MAX,
            workload: self.workload,
        };
        let recorder = Recorder::new(world.observer(), "");
        let (planned, recording) = (plan.clone(), recorder.clone());
        let played = panic::catch_unwind(AssertUnwindSafe(|| {
            let cluster = SimCluster::start(&world, nodes);
            let run = runner::run(cluster.clone(), planned, options, random, recording, |_| {});
            world.run(run).map_err(|error| {
                let broken =
                    world.run(async move { [cluster.violations().await, cluster.failures().await].concat() });
                if broken.is_empty() { error.to_string() } else { format!("{}; {error}", broken.join("; ")) }
            })
        }));
        let run = played.unwrap_or_else(|panic| Err(format!("panicked: {}", message(&*panic))));
        Simulated { nodes, plan, run, seen: recorder.finish(), trace: world.trace_hash() }
    }
}

impl Simulated {
    /// What the clients saw.
    pub fn history(&self) -> &History {
        self.run.as_ref().map_or(&self.seen, |run| &run.history)
    }

    /// The verdict. A simulation that could not be played is a failure: here nothing else can be at fault.
    pub fn conclude(&self) -> Conclusion {
        match &self.run {
            Ok(run) => run.conclude(&Coverage::SEED),
            Err(why) => Conclusion::Failed(why.clone()),
        }
    }
}

impl fmt::Display for Simulated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} nodes trace {:016x} {} events", self.nodes, self.trace.0, self.trace.1)
    }
}

/// A seed that failed once, with the plan that it failed with: the seed alone means something else as soon as anything is
/// drawn in another order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Regression {
    /// The seed.
    pub seed: u64,
    /// Nodes of the cluster.
    pub nodes: u64,
    /// The kinds of faults that were drawn from, if they were chosen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<FaultKind>,
    /// The workload of every client, if that was chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<Workload>,
    /// The faults.
    pub plan: Plan,
    /// What was found.
    pub found: String,
}

impl Regression {
    /// Reads a file that [`Regression::write`] wrote.
    ///
    /// # Errors
    /// When the file cannot be read or holds something else.
    pub fn read(path: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(path)?)?)
    }

    /// Writes it into a file.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        fs::write(path, serde_json::to_string_pretty(self)? + "\n")
    }

    /// The simulation that failed.
    pub fn simulation(&self) -> Simulation {
        Simulation {
            nodes: Some(self.nodes),
            kinds: self.faults.clone(),
            workload: self.workload,
            plan: Some(self.plan.clone()),
            ..Simulation::new(self.seed)
        }
    }
}

/// Drops faults from the plan as long as the simulation still fails: halves of them, quarters, at last each by itself. The
/// smallest plan that was found, and how it fails; nothing if the whole plan does not fail. `tell` hears of each step.
pub fn shrink(simulation: &Simulation, tell: impl Fn(&str)) -> Option<(Plan, String)> {
    let fails = |plan: &Plan| {
        let simulated = Simulation { plan: Some(plan.clone()), ..simulation.clone() }.run(None);
        if let Conclusion::Failed(why) = simulated.conclude() { Some(why) } else { None }
    };
    let mut plan = simulation.draw().1;
    let mut why = fails(&plan)?;
    let mut parts = 2;
    loop {
        let numbers = plan.numbers();
        let size = numbers.len().div_ceil(parts).max(1);
        let smaller = numbers.chunks(size).find_map(|dropped| {
            let kept: Vec<u64> = numbers.iter().copied().filter(|number| !dropped.contains(number)).collect();
            let smaller = plan.with(&kept);
            fails(&smaller).map(|why| (smaller, why))
        });
        match smaller {
            Some(found) => {
                (plan, why) = found;
                parts = parts.saturating_sub(1).max(2);
                tell(&format!("{} faults are enough", plan.numbers().len()));
            }
            None if size == 1 => return Some((plan, why)),
            None => parts *= 2,
        }
        if plan.steps.is_empty() {
            return Some((plan, why));
        }
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message")
}

/// Clients at once.
pub const CLIENTS: u64 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_regression_survives_its_file() {
        let faults = vec![FaultKind::ClockRate, FaultKind::Isolate];
        let workload = Some(Workload::Append);
        let simulation = Simulation { kinds: faults.clone(), workload, ..Simulation::new(3) };
        let (nodes, plan) = simulation.draw();
        let regression = Regression { seed: 3, nodes, faults, workload, plan, found: "lost".to_owned() };
        let file = tempfile::NamedTempFile::new().expect("a file can be made");
        regression.write(file.path()).expect("it can be written");
        assert_eq!(Regression::read(file.path()).expect("it can be read"), regression);
        assert_eq!(
            regression.simulation().draw(),
            simulation.draw(),
            "it says all that the seed was run with"
        );
    }
}
