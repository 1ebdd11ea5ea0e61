//! How much of a link a transfer gets: bounds that the figures of `examples/links.rs` keep with room to spare.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_bytes::ByteBuf;

use super::address;
use crate::conn::congestion::{Acked, Algorithm, Controller, Lost};
use crate::driver::fault::LinkPolicy;
use crate::endpoint::Config;
use crate::peer::Peer;
use crate::rpc::{Ctx, Never, Remote, Services};
use crate::runtime::Runtime;
use crate::sim::{Capacity, CapacityHits, World};

/// 200 Mbit/s.
const RATE: u64 = 25_000_000;
/// 50 Mbit/s, to be shared.
const SHARED_RATE: u64 = RATE / 4;
const SERVER: u64 = 1;
const CLIENT: u64 = 2;

/// A world of two nodes with one bottleneck in each direction.
fn world(rate: u64, loss_percent: u32, rtt: Duration, queue_max: Duration) -> World {
    marking_world(rate, loss_percent, rtt, queue_max, None)
}

/// The same with queues that mark what waits longer than `mark_above`.
fn marking_world(
    rate: u64,
    loss_percent: u32,
    rtt: Duration,
    queue_max: Duration,
    mark_above: Option<Duration>,
) -> World {
    let world = World::new(5);
    let delay_us = rtt.as_micros() as u32 / 2;
    world.set_default_link(LinkPolicy {
        loss: loss_percent * 10_000,
        delay_min_us: delay_us,
        delay_max_us: delay_us,
        ..LinkPolicy::default()
    });
    let capacity = Capacity { rate_bytes_per_s: rate, queue_max, mark_above, ..Capacity::default() };
    world.set_capacity(CLIENT, SERVER, capacity);
    world.set_capacity(SERVER, CLIENT, capacity);
    world.start(SERVER);
    world.start(CLIENT);
    world
}

fn start(world: &World, node: u64, address: SocketAddr, congestion: &Algorithm) -> Peer {
    let services = Services::new()
        .method("sink", |_: Ctx, body: ByteBuf| async move { Ok::<_, Never>(body.len() as u64) });
    Peer::builder(world.runtime(node))
        .services(services)
        .config(Config { congestion: congestion.clone(), ..Config::default() })
        .start_insecure(world.bind(node, address))
        .unwrap()
}

async fn send(clock: &Runtime, remote: &Remote, size: usize) -> Duration {
    let start = clock.now();
    let call = remote.call::<_, u64, Never>("sink", &ByteBuf::from(vec![1; size]));
    assert_eq!(call.timeout(Duration::from_secs(600)).await, Ok(size as u64));
    clock.now() - start
}

/// The share of the link, in percent, that one transfer of 16 MiB gets from the first call on.
fn bulk_percent(algorithm: &Algorithm, loss_percent: u32, rtt_ms: u64, queue_ms: u64) -> u64 {
    let world = world(RATE, loss_percent, Duration::from_millis(rtt_ms), Duration::from_millis(queue_ms));
    let server = start(&world, SERVER, address(SERVER), algorithm);
    let client = start(&world, CLIENT, address(CLIENT), algorithm);
    let (clock, remote) = (world.observer(), client.remote(server.local_addr()));
    let took = world.run(async move { send(&clock, &remote, 16 << 20).await });
    drop((client, server));
    (16 << 20) * 100 / (RATE * took.as_millis() as u64 / 1_000)
}

/// TCP with BBR reached 44 % of such a link, quinn with BBR 58 % (docs/BENCHMARKS.md).
#[test]
fn random_loss_leaves_a_transfer_most_of_the_link() {
    let percent = bulk_percent(&Algorithm::Bbr, 1, 20, 50);
    assert!(percent >= 65, "{percent} %");
    let percent = bulk_percent(&Algorithm::Bbr, 5, 20, 50);
    assert!(percent >= 60, "{percent} %");
}

#[test]
fn a_shallow_queue_is_no_obstacle() {
    let percent = bulk_percent(&Algorithm::Bbr, 0, 20, 10);
    assert!(percent >= 65, "{percent} %");
    let percent = bulk_percent(&Algorithm::Cubic, 0, 20, 10);
    assert!(percent >= 65, "{percent} %");
}

/// A loss-based controller cannot do that, which is why it is not the default.
#[test]
fn loss_is_congestion_to_cubic() {
    let world = world(RATE, 1, Duration::from_millis(20), Duration::from_millis(50));
    let server = start(&world, SERVER, address(SERVER), &Algorithm::Cubic);
    let client = start(&world, CLIENT, address(CLIENT), &Algorithm::Cubic);
    let (clock, remote) = (world.observer(), client.remote(server.local_addr()));
    let took = world.run(async move { send(&clock, &remote, 2 << 20).await });
    drop((client, server));
    assert!(took > Duration::from_millis(500), "{took:?}");
}

/// How long small calls take at most beside a transfer of 16 MiB over a link of 20 ms, once it is under way, and how
/// long that takes, in milliseconds; what its queue of 50 ms did.
fn beside(algorithm: &Algorithm, mark_above: Option<Duration>) -> (u128, u128, CapacityHits) {
    let (rtt, queue_max) = (Duration::from_millis(20), Duration::from_millis(50));
    let world = marking_world(RATE, 0, rtt, queue_max, mark_above);
    let server = start(&world, SERVER, address(SERVER), algorithm);
    let client = start(&world, CLIENT, address(CLIENT), algorithm);
    let (clock, remote) = (world.observer(), client.remote(server.local_addr()));
    let (slowest, took) = world.run(async move {
        let transfer = clock.spawn("transfer", {
            let (clock, remote) = (clock.clone(), remote.clone());
            async move { send(&clock, &remote, 16 << 20).await }
        });
        clock.sleep(Duration::from_millis(300)).await;
        let mut slowest = Duration::ZERO;
        for _ in 0..12 {
            slowest = slowest.max(send(&clock, &remote, 64).await);
        }
        (slowest, transfer.await.unwrap())
    });
    drop((client, server));
    (slowest.as_millis(), took.as_millis(), world.capacity_hits())
}

#[test]
fn a_queue_that_marks_stays_short_and_loses_nothing() {
    let mark_above = Some(Duration::from_millis(5));
    for algorithm in [Algorithm::Bbr, Algorithm::Cubic] {
        let (slowest, took, hits) = beside(&algorithm, mark_above);
        println!("{algorithm:?}: {slowest} {took} {hits:?}");
        assert!(hits.overflowed == 0 && hits.marked > 0, "{algorithm:?}: {hits:?}");
        assert!(slowest < 20 + 15, "{algorithm:?}: {slowest} ms");
        assert!(took < 950, "{algorithm:?}: {took} ms");
    }
    let (slowest, took, hits) = beside(&Algorithm::Cubic, None);
    println!("{slowest} {took} {hits:?}");
    assert!(
        hits.overflowed > 0 && slowest > 20 + 30,
        "{slowest} ms: without marks the queue is full, {hits:?}"
    );
}

/// A window that stays as it is.
#[derive(Debug)]
struct Fixed(u64);

impl Controller for Fixed {
    fn set_packet_size(&mut self, _packet_size: u64) {}
    fn on_ack(&mut self, _acked: &Acked) {}
    fn on_loss(&mut self, _lost: &Lost) {}
    fn window(&self) -> u64 {
        self.0
    }
}

#[test]
fn a_controller_of_the_users_own_decides() {
    let made = Arc::new(AtomicU64::new(0));
    let fixed = Algorithm::custom({
        let made = Arc::clone(&made);
        move |_packet_size| {
            made.fetch_add(1, Ordering::Relaxed);
            Box::new(Fixed(100_000))
        }
    });
    // 100,000 bytes in each round trip of 20 ms are a fifth of the link.
    let percent = bulk_percent(&fixed, 0, 20, 50);
    assert!((15..=20).contains(&percent), "{percent} %");
    assert_eq!(made.load(Ordering::Relaxed), 2, "one for each side of the connection");
}

/// What each of two transfers moves in six seconds, the second of which begins a second after the first.
fn shares(algorithm: &Algorithm, rtt: Duration, queue_ms: u64) -> [u64; 2] {
    const PIECE: usize = 256 << 10;
    let world = world(SHARED_RATE, 0, rtt, Duration::from_millis(queue_ms));
    let clients = [2, 3].map(|port| start(&world, CLIENT, address(port), algorithm));
    let server = start(&world, SERVER, address(SERVER), algorithm);
    let (clock, to) = (world.observer(), server.local_addr());
    world.run(async move {
        let sent = [(); 2].map(|()| Arc::new(AtomicU64::new(0)));
        for (index, client) in clients.iter().enumerate() {
            for _ in 0..4 {
                let (time, remote, sent) = (clock.clone(), client.remote(to), Arc::clone(&sent[index]));
                drop(clock.spawn("transfer", async move {
                    time.sleep(Duration::from_secs(index as u64)).await;
                    loop {
                        send(&time, &remote, PIECE).await;
                        sent.fetch_add(PIECE as u64, Ordering::Relaxed);
                    }
                }));
            }
        }
        let total = || sent.each_ref().map(|sent| sent.load(Ordering::Relaxed));
        clock.sleep(Duration::from_secs(2)).await;
        let before = total();
        clock.sleep(Duration::from_secs(6)).await;
        let after = total();
        [0, 1].map(|index| after[index] - before[index])
    })
}

#[test]
fn two_transfers_share_a_link_and_use_it() {
    for (algorithm, rtt_us) in [(Algorithm::Bbr, 100), (Algorithm::Bbr, 20_000), (Algorithm::Cubic, 20_000)] {
        let [first, second] = shares(&algorithm, Duration::from_micros(rtt_us), 50);
        let total = first + second;
        assert!(first * 4 >= total && second * 4 >= total, "{algorithm:?} {rtt_us} us: {first} {second}");
        assert!(
            total >= SHARED_RATE * 6 * 8 / 10,
            "{algorithm:?} {rtt_us} us: {total} of {}",
            SHARED_RATE * 6
        );
    }
}

/// The peer of a client that moves answers it at its new address, also under a transfer.
#[test]
fn a_transfer_survives_a_nat_that_forgets() {
    let world = world(RATE, 1, Duration::from_millis(20), Duration::from_millis(50));
    let server = start(&world, SERVER, address(SERVER), &Algorithm::Bbr);
    let client = start(&world, CLIENT, address(CLIENT), &Algorithm::Bbr);
    let (clock, remote, nat) = (world.observer(), client.remote(server.local_addr()), world.clone());
    let counters = world.run(async move {
        let transfer = clock.spawn("transfer", {
            let (clock, remote) = (clock.clone(), remote.clone());
            async move { send(&clock, &remote, 8 << 20).await }
        });
        for port in 20..24 {
            clock.sleep(Duration::from_millis(150)).await;
            nat.rebind(address(CLIENT), address(port));
        }
        assert!(transfer.await.unwrap() < Duration::from_secs(5));
        send(&clock, &remote, 100).await;
        drop(client);
        server.counters()
    });
    assert!(counters.paths_validated >= 2, "{counters:?}");
    assert_eq!(counters.connections_established, 1);
}
