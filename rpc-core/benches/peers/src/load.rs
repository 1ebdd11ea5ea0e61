//! The client's side of one measurement: connect, warm up, keep a number of calls in flight for a while, count.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::contract::Caller;
use crate::process;

/// One measurement, as the driver asks for it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Order {
    /// Calls that are open at any time, over all connections.
    pub in_flight: usize,
    /// Bytes of each request and of each answer.
    pub size: usize,
    /// Connections that the calls take in turn.
    pub connections: usize,
    /// How long to count, after as long a warm-up as `warm_up` says.
    pub seconds: f64,
    pub warm_up: f64,
}

/// Where the server is.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    pub server: SocketAddr,
    pub secret: &'a str,
    pub server_pid: u32,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Measurement {
    /// Calls that ended well within the counted time, per second of it.
    pub calls_per_second: f64,
    /// Latencies of the calls that began within the counted time, in microseconds.
    pub p50_us: f64,
    pub p99_us: f64,
    pub max_us: f64,
    /// Processor time of each side per call, in microseconds; without calls none.
    pub client_cpu_us: Option<f64>,
    pub server_cpu_us: Option<f64>,
    /// Resident memory that each side gained by connections that made one call each, in KiB for each of them beyond
    /// the first; none when there is one.
    pub client_kib: Option<f64>,
    pub server_kib: Option<f64>,
    /// Calls that failed.
    pub errors: u64,
}

/// Calls still open so long after the counted time are given up: their latency is cut off there.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections are made in groups of so many: a server's queue of new connections is short.
const CONNECT_GROUP: usize = 50;

/// Measures one contestant over fresh connections.
pub async fn measure<C: Caller>(target: Target<'_>, order: &Order) -> Result<Measurement> {
    let payload: Bytes = (0..order.size).map(|index| (index * 31) as u8).collect();
    let mut callers = vec![connect::<C>(target, &payload).await?];
    let before = Memory::read(target.server_pid)?;
    for made in 1..order.connections {
        callers.push(connect::<C>(target, &payload).await?);
        if made % CONNECT_GROUP == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let grown = Memory::read(target.server_pid)?;
    let callers = Arc::new(callers);
    let mut measurement = load(&callers, payload, order, target.server_pid).await?;
    if order.connections > 1 {
        let others = (order.connections - 1) as f64;
        measurement.client_kib = Some((grown.client_kib - before.client_kib) / others);
        measurement.server_kib = Some((grown.server_kib - before.server_kib) / others);
    }
    for caller in Arc::into_inner(callers).context("a call outlived its measurement")? {
        caller.close().await;
    }
    Ok(measurement)
}

/// A connection that works.
async fn connect<C: Caller>(target: Target<'_>, payload: &Bytes) -> Result<C> {
    let caller = C::connect(target.server, target.secret).await.context("not connected")?;
    ensure!(caller.echo(payload.clone()).await? == payload, "the echo differs");
    Ok(caller)
}

/// What all workers saw. They share one: a histogram for each of hundreds would not fit the cache.
struct Tally {
    latencies: Histogram<u64>,
    calls: u64,
    errors: u64,
}

impl Tally {
    fn new() -> Result<Self> {
        let latencies = Histogram::new_with_bounds(1_000, 120_000_000_000, 3)?;
        Ok(Self { latencies, calls: 0, errors: 0 })
    }
}

async fn load<C: Caller>(
    callers: &Arc<Vec<C>>,
    payload: Bytes,
    order: &Order,
    server: u32,
) -> Result<Measurement> {
    let start = Instant::now() + Duration::from_secs_f64(order.warm_up);
    let end = start + Duration::from_secs_f64(order.seconds);
    let tally = Arc::new(Mutex::new(Tally::new()?));
    let mut workers = JoinSet::new();
    for worker in 0..order.in_flight {
        let turns = (worker..).step_by(order.in_flight);
        workers.spawn(work(Arc::clone(callers), turns, payload.clone(), Arc::clone(&tally), start, end));
    }
    tokio::time::sleep_until(start.into()).await;
    let cpu_before = Cpu::read(server)?;
    tokio::time::sleep_until(end.into()).await;
    let cpu_after = Cpu::read(server)?;

    while let Some(ended) = workers.join_next().await {
        ended?;
    }
    let total = tally.lock().unwrap_or_else(PoisonError::into_inner);
    let micros = |quantile| total.latencies.value_at_quantile(quantile) as f64 / 1e3;
    let per_call = |nanos: u64| (total.calls > 0).then(|| nanos as f64 / 1e3 / total.calls as f64);
    Ok(Measurement {
        calls_per_second: total.calls as f64 / order.seconds,
        p50_us: micros(0.5),
        p99_us: micros(0.99),
        max_us: total.latencies.max() as f64 / 1e3,
        client_cpu_us: per_call(cpu_after.client - cpu_before.client),
        server_cpu_us: per_call(cpu_after.server - cpu_before.server),
        client_kib: None,
        server_kib: None,
        errors: total.errors,
    })
}

/// Calls until `end`, over connection after connection.
async fn work<C: Caller>(
    callers: Arc<Vec<C>>,
    turns: impl Iterator<Item = usize>,
    payload: Bytes,
    tally: Arc<Mutex<Tally>>,
    start: Instant,
    end: Instant,
) {
    let mut begun = Instant::now();
    for turn in turns {
        let call = callers[turn % callers.len()].echo(payload.clone());
        let ended = if begun + PATIENCE > end {
            tokio::time::timeout_at((end + PATIENCE).into(), call)
                .await
                .unwrap_or_else(|late| Err(late.into()))
        } else {
            call.await
        };
        let done = Instant::now();
        let good = ended.is_ok_and(|echo| echo.len() == payload.len());
        {
            let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            if begun >= start {
                tally.latencies.saturating_record((done - begun).as_nanos() as u64);
            }
            tally.calls += u64::from(good && start <= done && done < end);
            tally.errors += u64::from(!good);
        }
        if !good {
            // Whoever refuses at once must not be asked a million times.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        begun = Instant::now();
        if begun >= end {
            break;
        }
    }
}

/// Nanoseconds that each side has run.
struct Cpu {
    client: u64,
    server: u64,
}

impl Cpu {
    fn read(server: u32) -> Result<Self> {
        Ok(Self { client: process::cpu_nanos(std::process::id())?, server: process::cpu_nanos(server)? })
    }
}

/// Resident memory of each side.
struct Memory {
    client_kib: f64,
    server_kib: f64,
}

impl Memory {
    fn read(server: u32) -> Result<Self> {
        Ok(Self {
            client_kib: process::resident_kib(std::process::id())?,
            server_kib: process::resident_kib(server)?,
        })
    }
}
