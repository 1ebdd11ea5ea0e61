//! The closed loop: so many clients, each of which asks again when it has its answer.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use clap::ValueEnum;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use hdrhistogram::Histogram;
use rpc_core::random::SeededRandom;
use serde::Serialize;
use tokio::sync::Barrier;
use tokio::time::{sleep, timeout};

use crate::store::{Session, Store, Target, Version, is_value_of, key, value};
use crate::usage::{Mark, resident_mb};

/// What every client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Op {
    Put,
    Get,
    /// Nine gets to a put.
    Mix,
    /// A compare-and-set on keys of one's own, so that each succeeds.
    Cas,
}

/// A load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Cell {
    pub op: Op,
    pub clients: usize,
    /// Bytes.
    pub value_size: usize,
    pub keys: u64,
    pub nodes: usize,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Measurement {
    /// Requests that were answered well within the time.
    pub ops: u64,
    pub ops_per_s: f64,
    /// Latencies of the requests that began within the time, microseconds.
    pub p50_us: u64,
    pub p99_us: u64,
    pub p999_us: u64,
    pub max_us: u64,
    /// Requests that failed.
    pub errors: u64,
    /// Reads that answered something else than a value of their key, and swaps that did not find what was there.
    pub misses: u64,
    /// What the first failed request was told.
    pub error: Option<String>,
    /// Processor time of all nodes per request, microseconds.
    pub nodes_cpu_us: f64,
    /// Processor time of this program per request, microseconds.
    pub client_cpu_us: f64,
    /// Bytes that all nodes had written to the disk, per request.
    pub written_bytes: f64,
    /// The node with the most resident memory afterwards, MB.
    pub resident_mb: f64,
    /// What others used of a core, in percent.
    pub foreign_cpu_percent: f64,
    /// Whether another node leads than before.
    pub leader_moved: bool,
}

/// How long a load is put on.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    pub warm_up: Duration,
    pub measured: Duration,
}

/// Puts one load on a store that holds the keys.
pub async fn measure(store: Arc<dyn Store>, pids: &[u32], cell: Cell, times: Times) -> Result<Measurement> {
    let leader = store.leader().await?;
    let sessions: Vec<_> = stream::iter(0..cell.clients)
        .map(|_| store.connect(Target::Leader))
        .buffered(CONNECTING_MAX)
        .try_collect()
        .await
        .context("not connected")?;
    let phase = Arc::new(AtomicU8::new(WARM_UP));
    let begin = Arc::new(Barrier::new(cell.clients + 1));
    let tasks: Vec<_> = sessions
        .into_iter()
        .enumerate()
        .map(|(number, session)| {
            let (phase, begin) = (Arc::clone(&phase), Arc::clone(&begin));
            tokio::spawn(async move {
                let mut client = Client::new(session, cell, number);
                let ready = client.prepare().await;
                begin.wait().await;
                ready?;
                client.run(&phase).await;
                client.session.close().await;
                Ok::<_, anyhow::Error>(client.tally)
            })
        })
        .collect();
    begin.wait().await;
    sleep(times.warm_up).await;
    let mark = Mark::now(pids)?;
    let begun = Instant::now();
    phase.store(MEASURED, Ordering::Relaxed);
    sleep(times.measured).await;
    phase.store(OVER, Ordering::Relaxed);
    let seconds = begun.elapsed().as_secs_f64();
    let used = mark.until_now()?;
    let mut tally = Tally::new();
    for task in tasks {
        tally.add(task.await??);
    }
    let leader_moved = store.leader().await.ok() != Some(leader);
    let resident = pids.iter().map(|pid| resident_mb(*pid)).collect::<Result<Vec<_>>>()?;
    let per_op = |amount: f64| amount / tally.ops.max(1) as f64;
    Ok(Measurement {
        ops: tally.ops,
        ops_per_s: tally.ops as f64 / seconds,
        p50_us: tally.latencies.value_at_quantile(0.5),
        p99_us: tally.latencies.value_at_quantile(0.99),
        p999_us: tally.latencies.value_at_quantile(0.999),
        max_us: tally.latencies.max(),
        errors: tally.errors,
        misses: tally.misses,
        error: tally.error,
        nodes_cpu_us: per_op(used.nodes_cpu_s.iter().sum::<f64>() * 1e6),
        client_cpu_us: per_op(used.own_cpu_s * 1e6),
        written_bytes: per_op(used.written_bytes),
        resident_mb: resident.into_iter().fold(0.0, f64::max),
        foreign_cpu_percent: used.foreign_cpu_s / seconds * 100.0,
        leader_moved,
    })
}

/// Writes every key once. What went wrong, if it went well in the end.
pub async fn fill(
    store: Arc<dyn Store>,
    keys: u64,
    value_size: usize,
    clients: usize,
) -> Result<Vec<String>> {
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = Vec::new();
    for _ in 0..clients {
        let mut session = store.connect(Target::Leader).await?;
        let next = Arc::clone(&next);
        tasks.push(tokio::spawn(async move {
            let mut errors = Vec::new();
            loop {
                let begin = next.fetch_add(FILL_CHUNK, Ordering::Relaxed);
                if begin >= keys {
                    session.close().await;
                    return Ok::<_, anyhow::Error>(errors);
                }
                let chunk = begin..keys.min(begin + FILL_CHUNK);
                if let Err(error) = session.fill(chunk.clone(), value_size).await {
                    errors.push(format!("{error:#}"));
                    refill(&mut *session, chunk, value_size, &mut errors).await?;
                }
            }
        }));
    }
    let mut errors = Vec::new();
    for task in tasks {
        errors.extend(task.await?.context("not filled")?);
    }
    Ok(errors)
}

/// Writes some keys of which a part may be there.
async fn refill(
    session: &mut dyn Session,
    keys: Range<u64>,
    size: usize,
    errors: &mut Vec<String>,
) -> Result<()> {
    for index in keys {
        let key = key(index);
        let mut left = FILL_TRIES;
        while let Err(error) = session.put(&key, value(&key, size, index)).await {
            left -= 1;
            if left == 0 {
                return Err(error);
            }
            errors.push(format!("{error:#}"));
            sleep(AFTER_ERROR).await;
        }
    }
    Ok(())
}

/// One client of a load.
struct Client {
    session: Box<dyn Session>,
    cell: Cell,
    number: u64,
    random: SeededRandom,
    /// The keys that only this client swaps, and what they hold.
    own: Vec<(String, Version)>,
    tally: Tally,
}

impl Client {
    fn new(session: Box<dyn Session>, cell: Cell, number: usize) -> Self {
        let number = number as u64;
        let random = SeededRandom::new(number + 1);
        Self { session, cell, number, random, own: Vec::new(), tally: Tally::new() }
    }

    /// Learns the versions of its own keys.
    async fn prepare(&mut self) -> Result<()> {
        if self.cell.op != Op::Cas {
            return Ok(());
        }
        for index in 0..OWN_KEYS {
            let key = key((self.number * OWN_KEYS + index) % self.cell.keys);
            let found = self.session.get(&key).await?.ok_or_else(|| anyhow!("{key} is not there"))?;
            self.own.push((key, found.version));
        }
        Ok(())
    }

    async fn run(&mut self, phase: &AtomicU8) {
        loop {
            let began_in = phase.load(Ordering::Relaxed);
            if began_in == OVER {
                return;
            }
            let begun = Instant::now();
            let answer = timeout(PATIENCE, self.ask()).await.unwrap_or_else(|_| Err(anyhow!("no answer")));
            let latency_us = begun.elapsed().as_micros() as u64;
            let is_counted = phase.load(Ordering::Relaxed) == MEASURED;
            match answer {
                Ok(Answer::Good) => {
                    self.tally.ops += u64::from(is_counted);
                    if began_in == MEASURED {
                        self.tally.latencies.saturating_record(latency_us);
                    }
                }
                // Wrong answers and errors count whenever they come, the warm-up included.
                Ok(Answer::Miss) => self.tally.misses += 1,
                Err(error) => {
                    self.tally.errors += 1;
                    self.tally.error.get_or_insert_with(|| format!("{error:#}"));
                    sleep(AFTER_ERROR).await;
                }
            }
        }
    }

    async fn ask(&mut self) -> Result<Answer> {
        let Cell { op, value_size, keys, .. } = self.cell;
        let salt = self.random.next_u64();
        if op == Op::Cas {
            let index = self.random.below(OWN_KEYS) as usize;
            let (key, version) = &mut self.own[index];
            let swapped = self.session.cas(key, version, value(key, value_size, salt)).await?;
            if let Some(new) = swapped {
                *version = new;
                return Ok(Answer::Good);
            }
            // An unknown swap before it may have taken effect after all.
            let found = self.session.get(key).await?.ok_or_else(|| anyhow!("{key} is gone"))?;
            *version = found.version;
            return Ok(Answer::Miss);
        }
        let key = key(self.random.below(keys));
        let is_read = op == Op::Get || op == Op::Mix && self.random.chance(900_000);
        if is_read {
            let found = self.session.get(&key).await?;
            let is_right = found.is_some_and(|found| is_value_of(&key, value_size, &found.value));
            return Ok(if is_right { Answer::Good } else { Answer::Miss });
        }
        let value = value(&key, value_size, salt);
        self.session.put(&key, value).await?;
        Ok(Answer::Good)
    }
}

enum Answer {
    Good,
    /// Not what must be there.
    Miss,
}

/// What one client counted, or all.
struct Tally {
    latencies: Histogram<u64>,
    ops: u64,
    errors: u64,
    misses: u64,
    error: Option<String>,
}

impl Tally {
    fn new() -> Self {
        let latencies = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3);
        let latencies = latencies.expect("1 < LATENCY_US_MAX, and 3 digits are allowed");
        Self { latencies, ops: 0, errors: 0, misses: 0, error: None }
    }

    fn add(&mut self, other: Self) {
        self.latencies.add(other.latencies).expect("all histograms have the same bounds");
        self.ops += other.ops;
        self.errors += other.errors;
        self.misses += other.misses;
        self.error = self.error.take().or(other.error);
    }
}

const WARM_UP: u8 = 0;
const MEASURED: u8 = 1;
const OVER: u8 = 2;
/// Connections that are being made at once.
const CONNECTING_MAX: usize = 16;
/// Keys that a client takes at once while the store is filled.
const FILL_CHUNK: u64 = 200;
/// Keys that a client of `cas` has for itself.
pub const OWN_KEYS: u64 = 16;
/// How often a key that could not be written is tried.
const FILL_TRIES: u32 = 5;
/// How long a request may take: longer than our own client gives it (5 s), so that it can say why.
const PATIENCE: Duration = Duration::from_secs(6);
/// After an error, so that a dead server does not make a busy loop.
const AFTER_ERROR: Duration = Duration::from_millis(5);
/// Latencies above a minute are counted as that.
const LATENCY_US_MAX: u64 = 60_000_000;
