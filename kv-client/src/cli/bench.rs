//! `bench`

use std::io::{self, IsTerminal as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use kv_client::api::{Resolved, WriteReply};
use kv_client::{Client, Outcome, Token};
use rpc_core::random::SeededRandom;
use rpc_core::runtime::{Instant, Runtime};
use serde::Serialize;

use super::context::Context;
use super::output::{print_json, print_line};
use super::{Exit, Format};

/// Measure throughput and latency: a closed loop of puts, gets or both
///
/// Each client asks again when it has its answer; all share one socket. Writes of unknown outcome are resolved at the
/// end. Ctrl-C ends it early, with the report.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// Requests in flight at once
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=CLIENTS_MAX))]
    clients: u32,
    /// How long to measure
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Only puts (the default)
    #[arg(long, conflicts_with_all = ["gets", "mix"])]
    puts: bool,
    /// Only gets
    #[arg(long, conflicts_with = "mix")]
    gets: bool,
    /// Both: so many gets in a hundred requests
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    mix: Option<u8>,
    /// Bytes of each value
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    value_size: u32,
    /// Different keys
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    keys: u64,
}

impl Bench {
    pub(crate) async fn run(self, context: &Context) -> Exit {
        let gets_percent = if self.gets { 100 } else { self.mix.unwrap_or(0) };
        let run = Arc::new(Run {
            runtime: context.runtime.clone(),
            client: context.client.clone(),
            gets_per_million: u32::from(gets_percent) * 10_000,
            keys: self.keys,
            value: random_value(&context.runtime, self.value_size as usize),
            done: AtomicU64::new(0),
            committed_at_us: AtomicU64::new(0),
            gap_max_us: AtomicU64::new(0),
            is_stopped: AtomicBool::new(false),
        });
        stop_on_interrupt(&run);
        if gets_percent > 0
            && let Err(why) = fill(&run, self.clients).await
        {
            return Exit::NotApplied.because(format_args!("the keys to read could not be written: {why}"));
        }
        let bar = progress_bar(context, self.seconds);
        let begun = run.runtime.now();
        run.committed_at_us.store(begun.as_micros(), Ordering::Relaxed);
        let end = begun + Duration::from_secs(self.seconds);
        let mut tally = measure(&run, self.clients, end, &bar).await;
        let elapsed = run.runtime.now() - begun;
        bar.finish_and_clear();
        let resolved = settle(&run, std::mem::take(&mut tally.unknown)).await;
        let report = Report::new(&self, elapsed, &tally, resolved, run.gap_max_us.load(Ordering::Relaxed));
        let printed = match context.format {
            Format::Json => print_json(&report),
            Format::Simple => print_line(&report.text()),
        };
        context.leave().await;
        let exit = if run.is_stopped.load(Ordering::Relaxed) {
            Exit::Interrupted
        } else if report.resolved.unresolved > 0 {
            Exit::Unknown
        } else if report.committed == 0 && report.reads == 0 {
            Exit::NotApplied
        } else {
            Exit::Done
        };
        printed.err().unwrap_or(exit)
    }
}

/// What all clients of one run share.
struct Run {
    runtime: Runtime,
    client: Client,
    gets_per_million: u32,
    keys: u64,
    value: Bytes,
    /// Requests that ended, for the progress bar.
    done: AtomicU64,
    /// When a write was committed last.
    committed_at_us: AtomicU64,
    /// The longest time between two commits.
    gap_max_us: AtomicU64,
    /// Ctrl-C was pressed.
    is_stopped: AtomicBool,
}

/// What one client counted, or all.
struct Tally {
    puts: Histogram<u64>,
    gets: Histogram<u64>,
    not_committed: u64,
    unread: u64,
    unknown: Vec<Token>,
    unknown_count: u64,
}

impl Tally {
    fn new() -> Self {
        let histogram = || {
            Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)
                .expect("1 < LATENCY_US_MAX, and 3 digits are allowed")
        };
        Self {
            puts: histogram(),
            gets: histogram(),
            not_committed: 0,
            unread: 0,
            unknown: Vec::new(),
            unknown_count: 0,
        }
    }

    fn add(&mut self, other: Self) {
        let same_bounds = "all histograms have the same bounds";
        self.puts.add(other.puts).expect(same_bounds);
        self.gets.add(other.gets).expect(same_bounds);
        self.not_committed += other.not_committed;
        self.unread += other.unread;
        self.unknown_count += other.unknown.len() as u64;
        self.unknown.extend(other.unknown);
    }
}

async fn measure(run: &Arc<Run>, clients: u32, end: Instant, bar: &ProgressBar) -> Tally {
    let tasks: Vec<_> =
        (0..clients).map(|_| run.runtime.spawn("bench client", one_client(Arc::clone(run), end))).collect();
    let begun = run.runtime.now();
    let ticker = {
        let (run, bar) = (Arc::clone(run), bar.clone());
        run.runtime.clone().spawn("bench progress", async move {
            loop {
                run.runtime.sleep(TICK).await;
                let elapsed = run.runtime.now() - begun;
                bar.set_position(elapsed.as_millis() as u64);
                let rate = run.done.load(Ordering::Relaxed) as f64 / elapsed.as_secs_f64();
                bar.set_message(format!("{rate:.0}/s"));
            }
        })
    };
    let mut all = Tally::new();
    for task in tasks {
        if let Ok(tally) = task.await {
            all.add(tally);
        }
    }
    ticker.abort();
    all
}

async fn one_client(run: Arc<Run>, end: Instant) -> Tally {
    let mut random = SeededRandom::new(run.runtime.random_u64());
    let mut tally = Tally::new();
    while run.runtime.now() < end && !run.is_stopped.load(Ordering::Relaxed) {
        let key = key(random.below(run.keys));
        let begun = run.runtime.now();
        if random.chance(run.gets_per_million) {
            let read = run.client.get(key).await;
            let latency_us = (run.runtime.now() - begun).as_micros() as u64;
            match read {
                Ok(_) => tally.gets.saturating_record(latency_us),
                Err(_) => tally.unread += 1,
            }
        } else {
            let outcome = run.client.put(key, run.value.clone()).await;
            let now = run.runtime.now();
            match outcome {
                Outcome::Committed { .. } => {
                    tally.puts.saturating_record((now - begun).as_micros() as u64);
                    let before = run.committed_at_us.swap(now.as_micros(), Ordering::Relaxed);
                    run.gap_max_us.fetch_max(now.as_micros().saturating_sub(before), Ordering::Relaxed);
                }
                Outcome::NotCommitted(_) => tally.not_committed += 1,
                // At most one per client and timeout.
                Outcome::Unknown(token) => tally.unknown.push(token),
            }
        }
        run.done.fetch_add(1, Ordering::Relaxed);
    }
    tally
}

/// Writes every key once, so that reads find something.
async fn fill(run: &Arc<Run>, clients: u32) -> Result<(), String> {
    let next = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = (0..clients.max(FILL_CLIENTS_MIN))
        .map(|_| {
            let (run, next) = (Arc::clone(run), Arc::clone(&next));
            run.runtime.clone().spawn("bench fill", async move {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= run.keys || run.is_stopped.load(Ordering::Relaxed) {
                        return Ok(());
                    }
                    match run.client.put(key(index), run.value.clone()).await {
                        Outcome::NotCommitted(reason) => return Err(reason.to_string()),
                        // A put of the same value may be late: nothing here depends on it.
                        Outcome::Committed { .. } | Outcome::Unknown(_) => {}
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.map_err(|error| error.to_string())??;
    }
    Ok(())
}

/// What became of the writes of unknown outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Settled {
    committed: u64,
    rolled_back: u64,
    unknowable: u64,
    unresolved: u64,
}

async fn settle(run: &Run, unknown: Vec<Token>) -> Settled {
    let mut settled = Settled::default();
    let end = run.runtime.now() + SETTLE_TIME;
    for token in unknown {
        let left = end - run.runtime.now();
        match run.client.with_timeout(left).resolve(&token).await {
            Ok(Resolved::Settled(WriteReply::Committed { .. })) => settled.committed += 1,
            Ok(Resolved::Settled(_)) => settled.rolled_back += 1,
            Ok(Resolved::Unknowable(_)) => settled.unknowable += 1,
            Err(_) => {
                settled.unresolved += 1;
                eprintln!("kv-client: still unknown: {token}");
            }
        }
    }
    settled
}

/// The result, and its JSON. Latencies are those of committed writes and answered reads.
#[derive(Debug, Serialize)]
struct Report {
    clients: u32,
    value_size: u32,
    keys: u64,
    seconds: f64,
    ops_per_s: f64,
    committed: u64,
    not_committed: u64,
    unknown: u64,
    resolved: Settled,
    reads: u64,
    reads_failed: u64,
    /// The longest time without a committed write, of runs that write.
    commit_gap_max_ms: Option<f64>,
    put_latency_us: Option<Latencies>,
    get_latency_us: Option<Latencies>,
}

#[derive(Debug, Serialize)]
struct Latencies {
    p50: u64,
    p90: u64,
    p99: u64,
    p999: u64,
    max: u64,
}

impl Report {
    fn new(bench: &Bench, elapsed: Duration, tally: &Tally, resolved: Settled, gap_max_us: u64) -> Self {
        let (committed, reads) = (tally.puts.len(), tally.gets.len());
        let seconds = elapsed.as_secs_f64();
        Self {
            clients: bench.clients,
            value_size: bench.value_size,
            keys: bench.keys,
            seconds,
            ops_per_s: (committed + reads) as f64 / seconds,
            committed,
            not_committed: tally.not_committed,
            unknown: tally.unknown_count,
            resolved,
            reads,
            reads_failed: tally.unread,
            commit_gap_max_ms: (committed > 0).then_some(gap_max_us as f64 / 1_000.0),
            put_latency_us: Latencies::of(&tally.puts),
            get_latency_us: Latencies::of(&tally.gets),
        }
    }

    fn text(&self) -> String {
        let mut lines = Vec::new();
        for (name, latencies, count) in
            [("puts", &self.put_latency_us, self.committed), ("gets", &self.get_latency_us, self.reads)]
        {
            if let Some(latencies) = latencies {
                let rate = count as f64 / self.seconds;
                lines.push(format!("{name:<5} {count:>9}  {rate:>9.1}/s  {}", latencies.text()));
            }
        }
        lines.push(format!(
            "writes: {} committed, {} not committed, {} unknown; reads: {} answered, {} not served",
            self.committed, self.not_committed, self.unknown, self.reads, self.reads_failed
        ));
        if self.unknown > 0 {
            let Settled { committed, rolled_back, unknowable, unresolved } = self.resolved;
            lines.push(format!(
                "unknown writes resolved: {committed} committed, {rolled_back} rolled back, \
                 {unknowable} cannot be known, {unresolved} still unknown"
            ));
        }
        if let Some(gap) = self.commit_gap_max_ms {
            lines.push(format!("longest time without a commit: {gap:.1} ms"));
        }
        lines.join("\n")
    }
}

impl Latencies {
    fn of(histogram: &Histogram<u64>) -> Option<Self> {
        (!histogram.is_empty()).then(|| Self {
            p50: histogram.value_at_quantile(0.5),
            p90: histogram.value_at_quantile(0.9),
            p99: histogram.value_at_quantile(0.99),
            p999: histogram.value_at_quantile(0.999),
            max: histogram.max(),
        })
    }

    fn text(&self) -> String {
        let ms = |us: u64| us as f64 / 1_000.0;
        format!(
            "p50 {:.2} ms  p90 {:.2} ms  p99 {:.2} ms  p99.9 {:.2} ms  max {:.2} ms",
            ms(self.p50),
            ms(self.p90),
            ms(self.p99),
            ms(self.p999),
            ms(self.max)
        )
    }
}

fn stop_on_interrupt(run: &Arc<Run>) {
    let stopped = Arc::clone(run);
    run.runtime.spawn("bench interrupt", async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stopped.is_stopped.store(true, Ordering::Relaxed);
        }
    });
}

/// A progress bar where somebody can see it.
fn progress_bar(context: &Context, seconds: u64) -> ProgressBar {
    if context.quiet || context.format == Format::Json || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {elapsed} {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(seconds * 1_000).with_style(style)
}

fn key(index: u64) -> Bytes {
    format!("bench/{index:08}").into()
}

fn random_value(runtime: &Runtime, size: usize) -> Bytes {
    let mut value = vec![0; size];
    SeededRandom::new(runtime.random_u64()).fill(&mut value);
    value.into()
}

/// Requests in flight at most: what one session's window and a few more hold.
const CLIENTS_MAX: i64 = 4_096;
/// Writers that fill the keys at least.
const FILL_CLIENTS_MIN: u32 = 64;
/// Latencies above ten minutes are counted as that.
const LATENCY_US_MAX: u64 = 600_000_000;
/// How long the resolving at the end may take in all.
const SETTLE_TIME: Duration = Duration::from_secs(30);
/// Between two looks of the progress bar.
const TICK: Duration = Duration::from_millis(100);
