//! Measures the transport on simulated links: bulk and small calls, per controller, loss, round trip and queue.
//!
//! `cargo run --release -p rpc-core --example links` prints the tables of docs/BENCHMARKS.md, section "Transport in the
//! simulated network"; `-- quick` measures one link, `-- bbr` one controller, `-- incast` the last table only. Virtual time from one seed: the figures are the same on every
//! machine.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rpc_core::conn::congestion::Algorithm;
use rpc_core::driver::fault::LinkPolicy;
use rpc_core::endpoint::Config;
use rpc_core::peer::Peer;
use rpc_core::rpc::{Ctx, Never, Remote, Services};
use rpc_core::runtime::Runtime;
use rpc_core::sim::{Capacity, World};
use serde_bytes::ByteBuf;

/// 200 Mbit/s.
const RATE: u64 = 25_000_000;
const BULK: usize = 16 << 20;
/// One call of a transfer that shares its link.
const PIECE: usize = 1 << 20;
const SERVER: u64 = 1;
const SEED: u64 = 7;
/// How much later than a second after the others something begins: one run depends too much on chance.
const OFFSETS_MS: [u64; 5] = [0, 37, 74, 111, 148];
/// UDP payload of Ethernet over IPv4.
const MTU: usize = 1_472;

#[derive(Clone, Copy)]
struct Link {
    loss_percent: u32,
    rtt: Duration,
    queue: Duration,
    /// Datagrams that wait longer are marked instead of dropped.
    mark_above: Option<Duration>,
}

/// What was measured on one link.
struct Figures {
    bulk_mib_per_s: f64,
    /// Four echoes of 1 MiB at a time.
    echo_mib_per_s: f64,
    /// One small call at a time.
    alone: Latencies,
    /// One small call at a time, beside the bulk transfer.
    beside: Latencies,
}

struct Latencies(Vec<Duration>);

fn main() {
    let quick =
        std::env::args().skip(1).any(|argument| argument == "quick" || argument.starts_with("--test"));
    let (losses, rtts, queues): (&[u32], &[u64], &[u64]) =
        if quick { (&[1], &[20_000], &[50]) } else { (&[0, 1, 5], &[100, 20_000, 100_000], &[50, 10]) };
    let only_bbr = std::env::args().any(|argument| argument == "bbr");
    let all = [Algorithm::Bbr, Algorithm::Cubic];
    let incast_only = std::env::args().any(|argument| argument == "incast");
    let others: &[u64] = if incast_only { &[] } else { queues };
    for algorithm in all.into_iter().take(if only_bbr { 1 } else { 2 }) {
        println!("\n{algorithm:?}: 200 Mbit/s = {:.1} MiB/s\n", mib(RATE as f64));
        println!(
            "| queue | round trip | loss | 16 MiB, MiB/s | echoes, MiB/s | 64 B alone, p50 / p99 ms | beside the 16 MiB, p50 / p99 ms |"
        );
        println!("| --- | --- | --- | --- | --- | --- | --- |");
        for &queue_ms in others {
            for &rtt_us in rtts {
                for &loss_percent in losses {
                    let (rtt, queue) = (Duration::from_micros(rtt_us), Duration::from_millis(queue_ms));
                    let figures = measure(&algorithm, Link { loss_percent, rtt, queue, mark_above: None });
                    println!(
                        "| {queue_ms} ms | {} ms | {loss_percent} % | {:.1} | {:.1} | {} | {} |",
                        rtt_us as f64 / 1_000.0,
                        figures.bulk_mib_per_s,
                        figures.echo_mib_per_s,
                        figures.alone,
                        figures.beside,
                    );
                }
            }
        }
        println!("\nTwo transfers that share the link, MiB/s each:\n");
        println!("| queue | round trip | first | second, a second later |\n| --- | --- | --- | --- |");
        for &queue_ms in others {
            for &rtt_us in rtts {
                let [first, second] =
                    share(&algorithm, Duration::from_micros(rtt_us), Duration::from_millis(queue_ms));
                println!("| {queue_ms} ms | {} ms | {first:.1} | {second:.1} |", rtt_us as f64 / 1_000.0);
            }
        }
        println!(
            "\nThe first 64 KiB of a connection, alone and beside eight of 16 MiB to the same receiver:\n"
        );
        println!("| queue | round trip | alone, ms | beside, ms |\n| --- | --- | --- | --- |");
        for &queue_ms in queues {
            for &rtt_us in rtts {
                let (rtt, queue) = (Duration::from_micros(rtt_us), Duration::from_millis(queue_ms));
                let [alone, beside] = [0, 8].map(|others| {
                    let times = OFFSETS_MS.map(|offset| incast(&algorithm, rtt, queue, others, offset));
                    times.iter().sum::<Duration>().as_secs_f64() * 1_000.0 / OFFSETS_MS.len() as f64
                });
                println!("| {queue_ms} ms | {} ms | {alone:.0} | {beside:.0} |", rtt_us as f64 / 1_000.0);
            }
        }
    }
}

fn measure(algorithm: &Algorithm, link: Link) -> Figures {
    let world = world(SEED, link);
    let client = start(&world, 2, address(2), algorithm);
    let server = start(&world, SERVER, address(SERVER), algorithm);
    let clock = world.observer();
    let remote = client.remote(server.local_addr());
    let echo_mib_per_s = echoes(algorithm, link);
    world.run(async move {
        let mut alone = Vec::new();
        for _ in 0..300 {
            alone.push(ping(&clock, &remote).await);
        }
        let done = Arc::new(AtomicBool::new(false));
        let pings = clock.spawn("pings", {
            let (clock, remote, done) = (clock.clone(), remote.clone(), Arc::clone(&done));
            async move {
                let mut times = Vec::new();
                while !done.load(Ordering::Relaxed) {
                    times.push(ping(&clock, &remote).await);
                }
                times
            }
        });
        let took = bulk(&clock, &remote, BULK).await;
        done.store(true, Ordering::Relaxed);
        let beside = pings.await.unwrap_or_default();
        drop((client, server));
        Figures {
            bulk_mib_per_s: mib(BULK as f64 / took.as_secs_f64()),
            echo_mib_per_s,
            alone: Latencies(alone),
            beside: Latencies(beside),
        }
    })
}

/// MiB/s of echoes of 1 MiB, four at a time, over four seconds after one to warm up: what `compare --wan` of
/// benches/peers measures, over five seeds.
fn echoes(algorithm: &Algorithm, link: Link) -> f64 {
    const SEEDS: u64 = 5;
    let sum: f64 = (0..SEEDS).map(|seed| echoes_of(SEED + seed, algorithm, link)).sum();
    sum / SEEDS as f64
}

fn echoes_of(seed: u64, algorithm: &Algorithm, link: Link) -> f64 {
    let world = world(seed, link);
    let client = start(&world, 2, address(2), algorithm);
    let server = start(&world, SERVER, address(SERVER), algorithm);
    let (clock, remote) = (world.observer(), client.remote(server.local_addr()));
    world.run(async move {
        let echoed = Arc::new(AtomicU64::new(0));
        for _ in 0..4 {
            let (remote, echoed) = (remote.clone(), Arc::clone(&echoed));
            drop(clock.spawn("echoes", async move {
                let body = ByteBuf::from(vec![1; PIECE]);
                loop {
                    let call = remote.call::<_, ByteBuf, Never>("echo", &body);
                    call.timeout(Duration::from_secs(60)).await.expect("answered");
                    echoed.fetch_add(PIECE as u64, Ordering::Relaxed);
                }
            }));
        }
        clock.sleep(Duration::from_secs(1)).await;
        let before = echoed.load(Ordering::Relaxed);
        clock.sleep(Duration::from_secs(4)).await;
        drop((client, server));
        mib((echoed.load(Ordering::Relaxed) - before) as f64 / 4.0)
    })
}

/// How long 64 KiB take on a connection that made one small call, a second after `others` of 16 MiB began, each from a
/// peer of its own, over one link to one receiver.
fn incast(algorithm: &Algorithm, rtt: Duration, queue: Duration, others: u64, offset_ms: u64) -> Duration {
    let world = world(SEED, Link { loss_percent: 0, rtt, queue, mark_above: None });
    let clients: Vec<_> = (0..=others).map(|index| start(&world, 2, address(2 + index), algorithm)).collect();
    let server = start(&world, SERVER, address(SERVER), algorithm);
    let (clock, to) = (world.observer(), server.local_addr());
    world.run(async move {
        for client in &clients {
            ping(&clock, &client.remote(to)).await;
        }
        for client in &clients[1..] {
            let (time, remote) = (clock.clone(), client.remote(to));
            drop(clock.spawn("transfer", async move { bulk(&time, &remote, BULK).await }));
        }
        clock.sleep(Duration::from_millis(1_000 + offset_ms)).await;
        bulk(&clock, &clients[0].remote(to), 64 << 10).await
    })
}

/// MiB/s of two transfers that share one link, the second of which begins a second later: over the ten seconds from
/// one second after that on.
fn share(algorithm: &Algorithm, rtt: Duration, queue: Duration) -> [f64; 2] {
    let runs = OFFSETS_MS.map(|offset| share_of(algorithm, rtt, queue, offset));
    [0, 1].map(|index| runs.iter().map(|run| run[index]).sum::<f64>() / runs.len() as f64)
}

fn share_of(algorithm: &Algorithm, rtt: Duration, queue: Duration, offset_ms: u64) -> [f64; 2] {
    let world = world(SEED, Link { loss_percent: 0, rtt, queue, mark_above: None });
    let clients = [2, 3].map(|port| start(&world, 2, address(port), algorithm));
    let server = start(&world, SERVER, address(SERVER), algorithm);
    let (clock, to) = (world.observer(), server.local_addr());
    world.run(async move {
        let received = [(); 2].map(|()| Arc::new(AtomicU64::new(0)));
        for (index, client) in clients.iter().enumerate() {
            // Four at once, so that there is always something to send.
            for _ in 0..4 {
                let (time, remote) = (clock.clone(), client.remote(to));
                let received = Arc::clone(&received[index]);
                drop(clock.spawn("transfer", async move {
                    time.sleep(Duration::from_millis(index as u64 * (1_000 + offset_ms))).await;
                    loop {
                        bulk(&time, &remote, PIECE).await;
                        received.fetch_add(PIECE as u64, Ordering::Relaxed);
                    }
                }));
            }
        }
        let total = || received.each_ref().map(|received| received.load(Ordering::Relaxed) as f64);
        clock.sleep(Duration::from_millis(2_000 + offset_ms)).await;
        let before = total();
        clock.sleep(Duration::from_secs(10)).await;
        let after = total();
        [0, 1].map(|index| mib((after[index] - before[index]) / 10.0))
    })
}

fn world(seed: u64, link: Link) -> World {
    let world = World::new(seed);
    let delay_us = u32::try_from(link.rtt.as_micros() / 2).unwrap_or(u32::MAX);
    world.set_default_link(LinkPolicy {
        loss: link.loss_percent * 10_000,
        delay_min_us: delay_us,
        delay_max_us: delay_us,
        ..LinkPolicy::default()
    });
    let capacity =
        Capacity { rate_bytes_per_s: RATE, queue_max: link.queue, mark_above: link.mark_above, mtu: MTU };
    world.set_capacity(2, SERVER, capacity);
    world.set_capacity(SERVER, 2, capacity);
    world.start(SERVER);
    world.start(2);
    world
}

fn start(world: &World, node: u64, address: SocketAddr, algorithm: &Algorithm) -> Peer {
    let services = Services::new()
        .method("sink", |_: Ctx, body: ByteBuf| async move { Ok::<_, Never>(body.len() as u64) })
        .method("echo", |_: Ctx, body: ByteBuf| async move { Ok::<_, Never>(body) });
    let config = Config { congestion: algorithm.clone(), ..Config::default() };
    Peer::builder(world.runtime(node))
        .services(services)
        .config(config)
        .start_insecure(world.bind(node, address))
        .expect("names do not collide")
}

async fn ping(clock: &Runtime, remote: &Remote) -> Duration {
    let start = clock.now();
    let call = remote.call::<_, ByteBuf, Never>("echo", &ByteBuf::from(vec![1; 64]));
    call.timeout(Duration::from_secs(60)).await.expect("answered");
    clock.now() - start
}

async fn bulk(clock: &Runtime, remote: &Remote, size: usize) -> Duration {
    let start = clock.now();
    let call = remote.call::<_, u64, Never>("sink", &ByteBuf::from(vec![1; size]));
    call.timeout(Duration::from_secs(600)).await.expect("answered");
    clock.now() - start
}

fn address(port: u64) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 7_300 + u16::try_from(port).expect("small")).into()
}

fn mib(bytes: f64) -> f64 {
    bytes / f64::from(1 << 20)
}

impl std::fmt::Display for Latencies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let at = |per_mille: usize| {
            sorted.get(sorted.len() * per_mille / 1_000).map_or(0.0, |time| time.as_secs_f64() * 1_000.0)
        };
        write!(f, "{:.1} / {:.1}", at(500), at(990))
    }
}
