//! What happens around the load: start, idleness, restart, the loss of the leader.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use nix::sys::signal::Signal;
use serde::Serialize;
use tokio::time::{sleep, timeout};

use crate::cluster::Cluster;
use crate::store::{Store, Target, value};
use crate::usage::{Mark, resident_mb};

/// A moment in the life of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    /// From the start of empty nodes to the first committed write, milliseconds.
    ColdStartMs,
    /// Resident memory of the largest node, fresh and idle, MB.
    IdleMb,
    /// Of a core, the busiest node, fresh and idle, percent.
    IdleCpuPercent,
    /// Resident memory of the largest node after all keys were written once, MB.
    FilledMb,
    /// From the start of nodes that hold all keys to the first committed write, milliseconds.
    RestartMs,
    /// From kill -9 of the leader to the first write that began after it and was committed, milliseconds.
    KillMs,
    /// The same after SIGSTOP, which is silent like a cut cable.
    StopMs,
}

/// Runs a step with a runtime of its own: nothing of a contestant's client outlives it.
pub fn on_runtime<T>(step: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build()?;
    let outcome = runtime.block_on(step);
    runtime.shutdown_timeout(Duration::from_millis(200));
    outcome
}

/// Starts all nodes and waits for the first committed write: how many milliseconds it took.
pub fn start(cluster: &mut Cluster<'_>) -> Result<f64> {
    let begun = Instant::now();
    cluster.start_all()?;
    let store = cluster.plan.store();
    let started = on_runtime(async {
        timeout(START_PATIENCE, first_write(&*store, Target::Leader)).await.context("no write was committed")
    });
    cluster.check()?;
    started?;
    Ok(begun.elapsed().as_secs_f64() * 1e3)
}

/// Resident memory of the largest node, MB.
pub fn largest_mb(cluster: &Cluster<'_>) -> Result<f64> {
    let nodes = cluster.pids().into_iter().map(resident_mb).collect::<Result<Vec<_>>>()?;
    Ok(nodes.into_iter().fold(0.0, f64::max))
}

/// Memory and processor use of a cluster that nobody asks anything.
pub fn idle(cluster: &Cluster<'_>) -> Result<(f64, f64)> {
    std::thread::sleep(IDLE_BEFORE);
    let mark = Mark::now(&cluster.pids())?;
    std::thread::sleep(IDLE);
    let used = mark.until_now()?;
    let busiest_s = used.nodes_cpu_s.into_iter().fold(0.0, f64::max);
    Ok((largest_mb(cluster)?, busiest_s / IDLE.as_secs_f64() * 100.0))
}

/// Takes the leader away and waits until somebody else commits a write: how many milliseconds that took, if it
/// happened. Afterwards the cluster is whole again.
pub fn lose_leader(cluster: &mut Cluster<'_>, signal: Signal) -> Result<Option<f64>> {
    let store: Arc<dyn Store> = cluster.plan.store().into();
    let nodes = cluster.plan.nodes;
    let (leader, took) =
        on_runtime(probe(Arc::clone(&store), nodes, |leader| cluster.signal(leader, signal)))?;
    if signal == Signal::SIGSTOP {
        cluster.signal(leader, Signal::SIGCONT)?;
    } else {
        cluster.kill(leader);
        cluster.start(leader)?;
    }
    let whole = on_runtime(async {
        for node in 0..nodes {
            let write = first_write(&*store, Target::Node(node));
            timeout(HEAL_PATIENCE, write).await.with_context(|| format!("node {} is not back", node + 1))?;
        }
        sleep(AFTER_HEAL).await;
        Ok(())
    });
    cluster.check()?;
    whole?;
    Ok(took)
}

/// Tries until a write is committed.
async fn first_write(store: &dyn Store, to: Target) {
    let attempt = async || {
        store.prepare().await?;
        let mut session = store.connect(to).await?;
        session.put(PROBE_KEY, probe_value()).await?;
        session.close().await;
        Ok::<_, anyhow::Error>(())
    };
    while !matches!(timeout(ATTEMPT, attempt()).await, Ok(Ok(()))) {
        sleep(BETWEEN_ATTEMPTS).await;
    }
}

/// A committed write of a prober.
struct Write {
    node: usize,
    begun: Instant,
    ended: Instant,
}

/// One writer at each node, with short patience, so that no library's own retries decide; then the leader is struck.
/// Who that was, and how many milliseconds later another node first committed a write that began afterwards.
async fn probe(
    store: Arc<dyn Store>,
    nodes: usize,
    strike: impl FnOnce(usize) -> Result<()>,
) -> Result<(usize, Option<f64>)> {
    let writes: Arc<Mutex<Vec<Write>>> = Arc::default();
    let is_over = Arc::new(AtomicBool::new(false));
    for node in 0..nodes {
        let (store, writes, is_over) = (Arc::clone(&store), Arc::clone(&writes), Arc::clone(&is_over));
        tokio::spawn(async move {
            let key = format!("{PROBE_KEY}{node}");
            let (mut session, mut failed) = (None, 0);
            while !is_over.load(Ordering::Relaxed) {
                if session.is_none() || failed >= PROBE_FAILURES_MAX {
                    let connected = timeout(PROBE_CONNECT, store.connect(Target::Node(node))).await;
                    session = connected.ok().and_then(Result::ok);
                    failed = 0;
                }
                if let Some(session) = &mut session {
                    let begun = Instant::now();
                    let put = timeout(PROBE_PATIENCE, session.put(&key, probe_value())).await;
                    if matches!(put, Ok(Ok(()))) {
                        let ended = Instant::now();
                        let mut writes = writes.lock().unwrap_or_else(PoisonError::into_inner);
                        writes.push(Write { node, begun, ended });
                        failed = 0;
                    } else {
                        failed += 1;
                    }
                }
                sleep(PROBE_PAUSE).await;
            }
        });
    }
    sleep(PROBE_BEFORE).await;
    if writes.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
        bail!("no write was committed before the leader was lost");
    }
    // Asked only now: who led when the probers began may not lead any more.
    let leader = store.leader().await?;
    let before = Instant::now();
    strike(leader)?;
    // What began in between may still have been served.
    let struck = Instant::now();
    let first = loop {
        sleep(BETWEEN_ATTEMPTS).await;
        let first = {
            let writes = writes.lock().unwrap_or_else(PoisonError::into_inner);
            let later = writes.iter().filter(|write| write.begun > struck && write.node != leader);
            later.map(|write| write.ended).min()
        };
        if first.is_some() || struck.elapsed() > LOSS_PATIENCE {
            break first;
        }
    };
    is_over.store(true, Ordering::Relaxed);
    Ok((leader, first.map(|first| (first - before).as_secs_f64() * 1e3)))
}

fn probe_value() -> Bytes {
    value(PROBE_KEY, 256, 1)
}

/// Threads that the clients run on.
const WORKERS: usize = 2;
const PROBE_KEY: &str = "probe";
/// A start, and what follows it, may take so long.
const START_PATIENCE: Duration = Duration::from_secs(90);
/// One attempt of a first write.
const ATTEMPT: Duration = Duration::from_secs(6);
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(5);
/// Until the work of the start is done.
const IDLE_BEFORE: Duration = Duration::from_secs(2);
/// How long idleness is watched.
const IDLE: Duration = Duration::from_secs(3);
/// Writes before the leader is lost.
const PROBE_BEFORE: Duration = Duration::from_millis(1_500);
const PROBE_CONNECT: Duration = Duration::from_millis(1_500);
const PROBE_PATIENCE: Duration = Duration::from_millis(250);
const PROBE_PAUSE: Duration = Duration::from_millis(3);
/// Then the prober connects anew.
const PROBE_FAILURES_MAX: u32 = 10;
/// Until the loss of a leader counts as not survived.
const LOSS_PATIENCE: Duration = Duration::from_secs(30);
/// Until the lost leader has to be back.
const HEAL_PATIENCE: Duration = Duration::from_secs(60);
/// So that the next loss meets a quiet cluster.
const AFTER_HEAL: Duration = Duration::from_secs(1);
