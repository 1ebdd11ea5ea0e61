//! One run: a cluster, clients, faults; then healing, and everything must be served again; then the verdict.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use futures_util::future::join_all;
use kv_client::api::Status;
use kv_client::{Client, Endpoint};
use rpc_core::peer::Peer;
use rpc_core::random::SeededRandom;
use rpc_core::runtime::Runtime;

use crate::checker::staleness::{self, StaleRead};
use crate::checker::{self, Judgement, Verdict, effects};
use crate::cluster::{Cluster, ClusterError, leader, status};
use crate::history::{Action, History};
use crate::plan::{FaultKind, Plan, Step};
use crate::workload::{Change, Recorder, Worker, Workload};

/// What a run is made of beside cluster and plan.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Clients at once.
    pub clients: u64,
    /// The mean pause of a client between two operations.
    pub pause: Duration,
    /// How long one operation may take.
    pub timeout: Duration,
    /// How long the cluster may take to serve, first and after the faults.
    pub recovery_max: Duration,
    /// What every client does; `None`: each what the seed says.
    pub workload: Option<Workload>,
}

/// What a run gave.
#[derive(Clone, Debug)]
pub struct Run {
    /// What the clients saw.
    pub history: History,
    /// The faults that took effect.
    pub faults: Effects,
    /// Nodes that ended on their own, and why.
    pub failures: Vec<String>,
    /// Invariants that did not hold while it ran, and answers that contradict each other.
    pub violations: Vec<String>,
    /// What single nodes had applied.
    pub stale_reads: Vec<StaleRead>,
    /// How much faster than the others some clock ran, in percent.
    pub drift_percent: u64,
    /// Operations that were answered.
    pub acknowledged: u64,
    /// Writes whose outcome was unknown, and those that still are.
    pub unknown: (usize, usize),
    /// From healing to the first write and read through every node; `None`: it never came.
    pub recovery: Option<Duration>,
    /// Whether all nodes reached the same state at the same index; if not, what each of them said last.
    pub converged: Result<(), String>,
    /// How long the run took.
    pub duration: Duration,
}

/// What a run must have had to count.
#[derive(Clone, Debug)]
pub struct Coverage {
    /// Virtual or real time.
    pub duration: Duration,
    /// Faults that took effect.
    pub faults: u64,
    /// Kinds of which at least one fault took effect.
    pub kinds: Vec<FaultKind>,
    /// Operations that were answered.
    pub acknowledged: u64,
}

impl Coverage {
    /// Nothing: for a test that knows what it needs.
    pub const NOTHING: Self =
        Self { duration: Duration::ZERO, faults: 0, kinds: Vec::new(), acknowledged: 0 };
    /// What a seed must have to count.
    pub const SEED: Self =
        Self { duration: Duration::from_secs(20), faults: 5, kinds: Vec::new(), acknowledged: 150 };
}

/// The judgement of a whole run.
#[derive(Clone, Debug)]
pub enum Conclusion {
    /// Both checkers agree that the history is linearizable, and everything was served again.
    Passed {
        /// Operations judged.
        operations: usize,
    },
    /// A promise was broken.
    Failed(String),
    /// The run proves nothing.
    Void(String),
}

impl Run {
    /// Judges the run.
    pub fn conclude(&self, coverage: &Coverage) -> Conclusion {
        let Judgement { linearizability, witness } = checker::judge(&self.history, checker::STEPS_MAX);
        let mut broken = self.violations.clone();
        for verdict in [Some(&linearizability), witness.as_ref()].into_iter().flatten() {
            if let Verdict::Violation(violation) = verdict {
                broken.push(format!("the history is not linearizable: {violation}"));
            }
        }
        broken.extend(effects::check(&self.history).err().map(|why| format!("wrong effects: {why}")));
        broken.extend(staleness::check(&self.history, &self.stale_reads, self.drift_percent).err());
        if !self.failures.is_empty() {
            broken.push(format!("nodes ended on their own: {}", self.failures.join("; ")));
        } else if self.recovery.is_none() {
            broken.push("after healing the cluster did not serve again in time".to_owned());
        } else if let Err(said) = &self.converged {
            broken.push(format!("after healing the nodes did not reach one state: {said}"));
        }
        if self.unknown.1 > 0 && self.recovery.is_some() {
            broken.push(format!("{} unknown outcomes could not be resolved", self.unknown.1));
        }
        if !broken.is_empty() {
            return Conclusion::Failed(broken.join("\nalso: "));
        }
        for verdict in [Some(&linearizability), witness.as_ref()].into_iter().flatten() {
            if let Verdict::Undecided { why } = verdict {
                return Conclusion::Void(format!("a check is undecided: {why}"));
            }
        }
        if witness.is_none() {
            return Conclusion::Void("no answer carried a revision".to_owned());
        }
        for (what, had, needed) in [
            ("seconds", self.duration.as_secs(), coverage.duration.as_secs()),
            ("faults that took effect", self.faults.values().sum(), coverage.faults),
            ("answered operations", self.acknowledged, coverage.acknowledged),
        ] {
            if had < needed {
                return Conclusion::Void(format!("{had} {what}, {needed} are needed"));
            }
        }
        if let Some(kind) = coverage.kinds.iter().find(|kind| !self.faults.contains_key(kind)) {
            return Conclusion::Void(format!("no fault of kind `{kind}` took effect"));
        }
        Conclusion::Passed { operations: self.history.operations.len() }
    }
}

impl Conclusion {
    /// Whether every promise was kept, in a run that counts.
    pub fn is_passed(&self) -> bool {
        matches!(self, Self::Passed { .. })
    }
}

impl fmt::Display for Conclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed { operations } => {
                write!(f, "linearizable: {operations} operations, two checkers agree")
            }
            Self::Failed(why) => write!(f, "FAILED: {why}"),
            Self::Void(why) => write!(f, "void, this run proves nothing: {why}"),
        }
    }
}

/// Runs `plan` against `cluster`. `recorder` holds what was seen, also of a run that is dropped before its end;
/// `progress` is told each event as it happens.
///
/// # Errors
/// When the harness failed.
pub async fn run<C: Cluster>(
    cluster: C,
    plan: Plan,
    options: Options,
    mut random: SeededRandom,
    recorder: Recorder,
    progress: impl Fn(&str) + Send + Sync + 'static,
) -> Result<Run, ClusterError> {
    let clock = cluster.clock();
    let drift_percent = plan.drift_percent();
    let (_, admin) = cluster.client(0)?;
    let mut clients = Vec::new();
    for number in 1..=options.clients {
        clients.push(client(&cluster, number, &options)?);
    }
    if serves_again(&cluster, &clock, options).await?.is_none() {
        return Err(ClusterError(format!("the cluster did not serve within {:?}", options.recovery_max)));
    }
    progress("the cluster serves");
    let started = clock.now();
    let end = started + plan.duration;
    let mut nodes = Vec::new();
    for node in cluster.nodes() {
        nodes.push((node, client_of(&cluster, 300 + node, node, options.timeout)?));
    }
    let workloads = match options.workload {
        Some(workload) => vec![workload; clients.len()],
        None => Workload::draw(options.clients, &mut random),
    };
    let mut workers = Vec::new();
    for (index, workload) in workloads.into_iter().enumerate() {
        let worker = Worker {
            recorder: recorder.clone(),
            client: clients[index].clone(),
            other: clients[(index + 1) % clients.len()].clone(),
            nodes: nodes.clone(),
            random: random.fork(),
            pause: options.pause,
            end,
        };
        workers.push(clock.spawn("client", worker.run(workload)));
    }

    let faults = break_things(&cluster, &admin, &clock, &plan, &recorder, &progress).await?;
    clock.sleep_until(end).await;
    for worker in workers {
        worker.await.map_err(|_| ClusterError("a client ended early".to_owned()))?;
    }
    cluster.heal().await?;
    progress("healed");

    let failures = cluster.failures().await;
    let recovery = match failures.is_empty() {
        true => serves_again(&cluster, &clock, options).await?,
        false => None,
    };
    let patience = if recovery.is_some() { options.recovery_max } else { options.timeout };
    let unknown = recorder.resolve(&clients[0].with_timeout(patience), clock.now() + patience).await;
    if recovery.is_some() {
        read_everywhere(&cluster, &recorder, options).await?;
    }
    let converged = match recovery {
        Some(_) => converge(&cluster, &admin, &clock, options.recovery_max).await,
        None => Err("not every node served".to_owned()),
    };
    let duration = clock.now() - started;
    let violations = [recorder.contradictions(), cluster.violations().await].concat();
    Ok(Run {
        stale_reads: recorder.stale_reads(),
        acknowledged: recorder.acknowledged(),
        history: recorder.finish(),
        drift_percent,
        faults,
        failures,
        violations,
        unknown,
        recovery,
        converged,
        duration,
    })
}

/// The faults that took effect, counted by kind.
pub type Effects = BTreeMap<FaultKind, u64>;

/// Lets the steps of the plan happen; returns which faults took effect.
async fn break_things<C: Cluster>(
    cluster: &C,
    admin: &Peer,
    clock: &Runtime,
    plan: &Plan,
    recorder: &Recorder,
    progress: &impl Fn(&str),
) -> Result<Effects, ClusterError> {
    let started = clock.now();
    let mut effects = Effects::new();
    // What a fault's kind had hit before the fault began; gone once it has hit something.
    let mut open: BTreeMap<u64, u64> = BTreeMap::new();
    for Step { at, number, kind, fault } in &plan.steps {
        clock.sleep_until(started + *at).await;
        let leader = if fault.is_end() { None } else { leader(cluster, admin).await };
        let is_first =
            plan.steps.iter().find(|step| step.number == *number).is_some_and(|step| step.at == *at);
        if is_first && !fault.is_end() {
            open.insert(*number, cluster.hits().await.of(*kind));
        }
        clock.trace(|| format!("fault {fault}"));
        progress(&fault.to_string());
        if !fault.is_end() {
            recorder.fault(*kind, fault, leader);
        }
        cluster.apply(fault, leader).await?;
        if !fault.is_end() {
            continue;
        }
        recorder.faults_end(fault);
        let hits = cluster.hits().await.of(*kind);
        if open.get(number).is_some_and(|before| hits > *before) {
            open.remove(number);
            *effects.entry(*kind).or_default() += 1;
        }
    }
    Ok(effects)
}

fn client<C: Cluster>(cluster: &C, number: u64, options: &Options) -> Result<Client, ClusterError> {
    let (runtime, peer) = cluster.client(number)?;
    let mut endpoints: Vec<Endpoint> =
        cluster.nodes().iter().map(|node| Endpoint::from(cluster.address(*node))).collect();
    let first = number as usize % endpoints.len();
    endpoints.rotate_left(first);
    // Half of the clients never learn who leads: their requests are forwarded.
    let follow_leader = number.is_multiple_of(2);
    let percent = PATIENCE_PERCENT[number as usize % PATIENCE_PERCENT.len()];
    let client = Client::builder(runtime, peer).endpoints(endpoints).timeout(options.timeout * percent / 100);
    Ok(client.follow_leader(follow_leader).build())
}

/// How patient clients are. Some give up before another leader can be there, some when it has been there for long.
const PATIENCE_PERCENT: [u32; 5] = [30, 100, 100, 30, 300];

/// A client that asks one node only.
fn client_of<C: Cluster>(
    cluster: &C,
    number: u64,
    node: u64,
    timeout: Duration,
) -> Result<Client, ClusterError> {
    let (runtime, peer) = cluster.client(number)?;
    let client = Client::builder(runtime, peer).endpoints([Endpoint::from(cluster.address(node))]);
    Ok(client.timeout(timeout).follow_leader(false).build())
}

/// Waits until a write and a read through every node succeed; how long that took, if it did.
async fn serves_again<C: Cluster>(
    cluster: &C,
    clock: &Runtime,
    options: Options,
) -> Result<Option<Duration>, ClusterError> {
    let started = clock.now();
    let deadline = started + options.recovery_max;
    for node in cluster.nodes() {
        let client = client_of(cluster, 100 + node, node, options.timeout)?;
        loop {
            let key = format!("probe/{node}");
            let put = client.put(key.clone().into_bytes(), &b"alive"[..]).await;
            if matches!(put, kv_client::Outcome::Committed { .. })
                && client.get(key.into_bytes()).await.is_ok()
            {
                break;
            }
            if clock.now() >= deadline {
                return Ok(None);
            }
            clock.sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(Some(clock.now() - started))
}

/// Reads every key of the history through every node, and writes the last ones once more.
async fn read_everywhere<C: Cluster>(
    cluster: &C,
    recorder: &Recorder,
    options: Options,
) -> Result<(), ClusterError> {
    let keys = recorder.keys();
    for node in cluster.nodes() {
        let client = client_of(cluster, 200 + node, node, options.recovery_max)?;
        let process = recorder.process();
        for key in &keys {
            recorder.get(&client, process, Some(node), key).await;
        }
        for key in keys.iter().rev().take(2) {
            recorder.write(&client, process, key, Change::Put(format!("last.{node}").into())).await;
        }
    }
    Ok(())
}

/// Waits until all nodes have applied the same index with the same state.
///
/// # Errors
/// What each node said last: its state, or why it gave none.
async fn converge<C: Cluster>(
    cluster: &C,
    admin: &Peer,
    clock: &Runtime,
    patience: Duration,
) -> Result<(), String> {
    let deadline = clock.now() + patience;
    loop {
        let nodes = cluster.nodes();
        let all = join_all(nodes.iter().map(|node| status(cluster, admin, *node))).await;
        let mut states =
            all.iter().map(|it| it.as_ref().map(|status| (status.applied, status.state_hash)).ok());
        let first = states.next().flatten();
        if first.is_some() && states.all(|state| state == first) {
            return Ok(());
        }
        if clock.now() >= deadline {
            return Err(nodes
                .iter()
                .zip(&all)
                .map(|(node, said)| last_said(*node, said))
                .collect::<Vec<_>>()
                .join("; "));
        }
        clock.sleep(Duration::from_millis(50)).await;
    }
}

fn last_said(node: u64, said: &Result<Status, String>) -> String {
    match said {
        Ok(Status { phase, applied, state_hash, .. }) => {
            let applied = applied.map_or("nothing".to_owned(), |index| format!("index {index}"));
            format!("node {node} ({phase}) has applied {applied}, its state is {state_hash:032x}")
        }
        Err(why) => format!("node {node} gives no status: {why}"),
    }
}

impl Recorder {
    /// The keys of the history so far, ascending.
    fn keys(&self) -> Vec<String> {
        let mut keys = self.with_history(|history| {
            let written =
                history.operations.iter().filter(|operation| !matches!(operation.action, Action::Get { .. }));
            written.map(|operation| operation.key.clone()).collect::<Vec<_>>()
        });
        keys.sort();
        keys.dedup();
        keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Operation, Outcome};

    fn good() -> Run {
        let read = |number: u64| Operation {
            process: 0,
            key: "k".to_owned(),
            action: Action::Get { outcome: Outcome::Ok(None) },
            rev: Some(1),
            node: None,
            token: None,
            call: 2 * number,
            ret: 2 * number + 1,
        };
        Run {
            history: History { operations: (0..200).map(read).collect(), ..History::default() },
            faults: Effects::from([(FaultKind::Kill, 4), (FaultKind::Loss, 1)]),
            failures: Vec::new(),
            violations: Vec::new(),
            stale_reads: Vec::new(),
            drift_percent: 0,
            acknowledged: 200,
            unknown: (3, 0),
            recovery: Some(Duration::from_millis(40)),
            converged: Ok(()),
            duration: Duration::from_secs(21),
        }
    }

    fn coverage() -> Coverage {
        Coverage { kinds: vec![FaultKind::Kill, FaultKind::Loss], ..Coverage::SEED }
    }

    #[test]
    fn a_run_passes_only_with_all_it_must_have_had() {
        assert!(matches!(good().conclude(&coverage()), Conclusion::Passed { operations: 200 }));
        type Spoil = fn(&mut Run);
        let voids: [(Spoil, &str); 4] = [
            (
                |run| run.faults = Effects::from([(FaultKind::Loss, 1)]),
                "1 faults that took effect, 5 are needed",
            ),
            (|run| run.faults = Effects::from([(FaultKind::Kill, 9)]), "no fault of kind `loss`"),
            (|run| run.acknowledged = 149, "149 answered operations"),
            (|run| run.duration = Duration::from_secs(19), "19 seconds"),
        ];
        for (spoil, why) in voids {
            let mut run = good();
            spoil(&mut run);
            let conclusion = run.conclude(&coverage());
            assert!(matches!(&conclusion, Conclusion::Void(said) if said.contains(why)), "{conclusion}");
        }
    }

    #[test]
    fn a_broken_promise_outweighs_what_is_missing() {
        type Spoil = fn(&mut Run);
        let failures: [(Spoil, &str); 6] = [
            (|run| run.violations.push("two leaders".to_owned()), "two leaders"),
            (|run| run.failures.push("node 2 (exit status: 1)".to_owned()), "node 2 (exit status: 1)"),
            (|run| run.recovery = None, "did not serve again"),
            (
                |run| run.converged = Err("node 2 gives no status: gone".to_owned()),
                "one state: node 2 gives no",
            ),
            (|run| run.unknown = (3, 1), "1 unknown outcomes"),
            (
                |run| {
                    run.history.operations[7].action = Action::Get { outcome: Outcome::Ok(Some("x".into())) }
                },
                "not linearizable",
            ),
        ];
        for (spoil, why) in failures {
            let mut run = good();
            run.faults.clear();
            spoil(&mut run);
            let conclusion = run.conclude(&coverage());
            assert!(matches!(&conclusion, Conclusion::Failed(said) if said.contains(why)), "{conclusion}");
        }
    }
}
