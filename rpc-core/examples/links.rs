//! Measures the transport on simulated links: bulk and small calls, per controller, loss, round trip and queue.
//!
//! `cargo run --release -p rpc-core --example links` prints the tables of docs/BENCHMARKS.md, section "Transport in the
//! simulated network"; `-- quick` measures one link. Virtual time from one seed: the figures are the same on every
//! machine.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
const SERVER: u64 = 1;

#[derive(Clone, Copy)]
struct Link {
    loss_percent: u32,
    rtt: Duration,
    queue: Duration,
}

/// What was measured on one link.
struct Figures {
    bulk_mib_per_s: f64,
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
    for algorithm in [Algorithm::Cubic, Algorithm::Bbr] {
        println!("\n{algorithm:?}: 200 Mbit/s = {:.1} MiB/s\n", mib(RATE as f64));
        println!(
            "| queue | round trip | loss | 16 MiB, MiB/s | 64 B alone, p50 / p99 ms | beside the 16 MiB, p50 / p99 ms |"
        );
        println!("| --- | --- | --- | --- | --- | --- |");
        for &queue_ms in queues {
            for &rtt_us in rtts {
                for &loss_percent in losses {
                    let (rtt, queue) = (Duration::from_micros(rtt_us), Duration::from_millis(queue_ms));
                    let figures = measure(algorithm, Link { loss_percent, rtt, queue });
                    println!(
                        "| {queue_ms} ms | {} ms | {loss_percent} % | {:.1} | {} | {} |",
                        rtt_us as f64 / 1_000.0,
                        figures.bulk_mib_per_s,
                        figures.alone,
                        figures.beside,
                    );
                }
            }
        }
        let shares = share(algorithm, Duration::from_millis(20), Duration::from_millis(50));
        println!(
            "\nTwo transfers on one link (20 ms, queue 50 ms): {:.1} and {:.1} MiB/s",
            shares[0], shares[1]
        );
        let shares = share(algorithm, Duration::from_millis(20), Duration::from_millis(10));
        println!(
            "Two transfers on one link (20 ms, queue 10 ms): {:.1} and {:.1} MiB/s",
            shares[0], shares[1]
        );
    }
}

fn measure(algorithm: Algorithm, link: Link) -> Figures {
    let world = world(link);
    let client = start(&world, 2, address(2), algorithm);
    let server = start(&world, SERVER, address(SERVER), algorithm);
    let clock = world.observer();
    let remote = client.remote(server.local_addr());
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
            alone: Latencies(alone),
            beside: Latencies(beside),
        }
    })
}

/// MiB/s of two transfers of two peers that begin half a second apart and share one link, while both last.
fn share(algorithm: Algorithm, rtt: Duration, queue: Duration) -> [f64; 2] {
    let world = world(Link { loss_percent: 0, rtt, queue });
    let clients = [2, 3].map(|port| start(&world, 2, address(port), algorithm));
    let server = start(&world, SERVER, address(SERVER), algorithm);
    let (clock, to) = (world.observer(), server.local_addr());
    world.run(async move {
        let ends =
            [Duration::ZERO, Duration::from_millis(500)].into_iter().zip(&clients).map(|(wait, client)| {
                let (clock, remote) = (clock.clone(), client.remote(to));
                let runtime = clock.clone();
                runtime.spawn("transfer", async move {
                    clock.sleep(wait).await;
                    let (end, mut sent) = (clock.now() + Duration::from_secs(10) - wait, 0);
                    while clock.now() < end {
                        bulk(&clock, &remote, 1 << 20).await;
                        sent += 1 << 20;
                    }
                    mib(f64::from(sent) / 10.0)
                })
            });
        let ends: Vec<_> = ends.collect();
        let mut shares = [0.0; 2];
        for (share, end) in shares.iter_mut().zip(ends) {
            *share = end.await.unwrap_or_default();
        }
        drop((clients, server));
        shares
    })
}

fn world(link: Link) -> World {
    let world = World::new(7);
    let delay_us = u32::try_from(link.rtt.as_micros() / 2).unwrap_or(u32::MAX);
    world.set_default_link(LinkPolicy {
        loss: link.loss_percent * 10_000,
        delay_min_us: delay_us,
        delay_max_us: delay_us,
        ..LinkPolicy::default()
    });
    let capacity = Capacity { rate_bytes_per_s: RATE, queue_max: link.queue, ..Capacity::default() };
    world.set_capacity(2, SERVER, capacity);
    world.set_capacity(SERVER, 2, capacity);
    world.start(SERVER);
    world.start(2);
    world
}

fn start(world: &World, node: u64, address: SocketAddr, algorithm: Algorithm) -> Peer {
    let services = Services::new()
        .method("sink", |_: Ctx, body: ByteBuf| async move { Ok::<_, Never>(body.len() as u64) })
        .method("echo", |_: Ctx, body: ByteBuf| async move { Ok::<_, Never>(body) });
    let config = Config { congestion: algorithm, ..Config::default() };
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
