use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::driver::DatagramSocket;
use crate::endpoint::{Datagram, Ecn, Transmit};

fn address(node: NodeNumber) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 7_300 + node as u16))
}

async fn send(socket: &SimSocket, destination: SocketAddr, bytes: &[u8]) {
    let transmit = Transmit { destination, size: bytes.len(), segment_size: None, ecn: Ecn::NotEct };
    std::future::poll_fn(|cx| socket.poll_send(cx, &transmit, bytes)).await;
}

async fn receive(socket: &SimSocket) -> Vec<Datagram> {
    let mut datagrams = Vec::new();
    std::future::poll_fn(|cx| socket.poll_recv(cx, &mut datagrams)).await.unwrap();
    datagrams
}

/// Two nodes play ping-pong with random pauses over a bad link until ten seconds have passed.
fn ping_pong(seed: u64) -> (u64, u64, FaultHits) {
    let world = World::new(seed);
    world.set_default_link(LinkPolicy {
        loss: 100_000,
        duplicate: 100_000,
        delay_min_us: 100,
        delay_max_us: 5_000,
        ..LinkPolicy::default()
    });
    for node in [1, 2] {
        let runtime = world.start(node);
        let socket = world.bind(node, address(node));
        let clock = runtime.clone();
        runtime.spawn("player", async move {
            loop {
                send(&socket, address(3 - node), &clock.random_u64().to_be_bytes()).await;
                let pause = Duration::from_micros(clock.random_u64() % 10_000);
                let _ = clock.timeout(pause, receive(&socket)).await;
            }
        });
    }
    let observer = world.observer();
    world.run(async move { observer.sleep(Duration::from_secs(10)).await });
    let (hash, count) = world.trace_hash();
    (hash, count, world.fault_hits())
}

#[test]
fn one_seed_gives_one_trace() {
    let (hash, count, hits) = ping_pong(42);
    assert_eq!((hash, count, hits), ping_pong(42));
    assert_ne!(hash, ping_pong(43).0);
    assert!(count > 5_000 && hits.lost > 100 && hits.duplicated > 100, "{count} events, {hits:?}");
}

#[test]
fn virtual_time_is_finer_than_a_millisecond_and_jumps() {
    let world = World::new(1);
    let observer = world.observer();
    world.run(async move {
        observer.sleep(Duration::from_nanos(1_500)).await;
        assert_eq!(observer.now().as_nanos(), 1_500);
        observer.sleep(Duration::from_secs(3_600)).await;
    });
    assert_eq!(world.now(), Duration::from_secs(3_600) + Duration::from_nanos(1_500));
}

#[test]
fn a_crash_drops_the_tasks_and_a_dead_runtime_starts_none() {
    struct Respawn(Runtime, Arc<AtomicU64>);
    impl Drop for Respawn {
        fn drop(&mut self) {
            let ran = Arc::clone(&self.1);
            drop(self.0.spawn("after death", async move { ran.fetch_add(100, Ordering::Relaxed) }));
            self.1.fetch_add(1, Ordering::Relaxed);
        }
    }
    let world = World::new(1);
    let runtime = world.start(1);
    let drops = Arc::new(AtomicU64::new(0));
    let guard = Respawn(runtime.clone(), Arc::clone(&drops));
    runtime.spawn("sleeper", async move {
        guard.0.sleep(Duration::from_secs(3_600)).await;
    });
    let observer = world.observer();
    let handle = world.clone();
    world.run(async move {
        observer.sleep(Duration::from_secs(1)).await;
        handle.crash(1);
        observer.sleep(Duration::from_secs(1)).await;
    });
    assert_eq!(drops.load(Ordering::Relaxed), 1);
}

#[test]
fn a_paused_node_stands_still_while_its_clock_and_inbox_go_on() {
    let world = World::new(1);
    let runtime = world.start(1);
    let socket = world.bind(1, address(1));
    let (sender, received) = tokio::sync::oneshot::channel();
    let clock = runtime.clone();
    runtime.spawn("receiver", async move {
        let started = clock.now();
        let datagrams = receive(&socket).await;
        let _ = sender.send((datagrams.len(), clock.now() - started));
    });
    let observer = world.observer();
    let (handle, outside) = (world.clone(), world.bind(OBSERVER, address(0)));
    let (count, waited) = world.run(async move {
        observer.sleep(Duration::from_millis(1)).await;
        handle.pause(1);
        send(&outside, address(1), b"one").await;
        send(&outside, address(1), b"two").await;
        observer.sleep(Duration::from_secs(5)).await;
        handle.resume(1);
        received.await.unwrap()
    });
    assert_eq!(count, 2);
    assert!(waited >= Duration::from_secs(5));
}

#[test]
fn a_suspended_node_knows_nothing_of_the_time_that_passed() {
    let world = World::new(1);
    let runtime = world.start(1);
    let socket = world.bind(1, address(1));
    let (sender, received) = tokio::sync::oneshot::channel();
    let clock = runtime.clone();
    runtime.spawn("sleeper", async move {
        let (started, wall) = (clock.now(), clock.wall_ms());
        clock.sleep(Duration::from_secs(3)).await;
        let slept = clock.now() - started;
        let datagrams = receive(&socket).await;
        let _ = sender.send((slept, clock.wall_ms() - wall, datagrams));
    });
    let observer = world.observer();
    let (handle, outside) = (world.clone(), world.bind(OBSERVER, address(0)));
    let (slept, wall_ms, datagrams) = world.run(async move {
        observer.sleep(Duration::from_secs(1)).await;
        handle.suspend(1);
        send(&outside, address(1), b"lost").await;
        // Its rate is no reason for it to go on.
        handle.set_clock_rate(1, 1_000_000);
        observer.sleep(Duration::from_secs(60)).await;
        handle.wake(1);
        send(&outside, address(1), b"found").await;
        received.await.unwrap()
    });
    assert_eq!((slept, wall_ms), (Duration::from_secs(3), 63_000));
    assert_eq!(datagrams.iter().map(|datagram| &datagram.contents[..]).collect::<Vec<_>>(), [b"found"]);
    assert_eq!(world.missed_count(), 1);
}

#[test]
fn a_timer_follows_its_clock_when_that_changes() {
    let world = World::new(1);
    let runtime = world.start(1);
    let clock = runtime.clone();
    let sleeper = runtime.spawn("sleeper", async move { clock.sleep(Duration::from_secs(10)).await });
    let (handle, observer) = (world.clone(), world.observer());
    let woken_at = world.run(async move {
        observer.sleep(Duration::from_secs(5)).await;
        handle.set_clock_rate(1, 500_000);
        sleeper.await.unwrap();
        handle.now()
    });
    assert_eq!(woken_at, Duration::from_secs(15));
}

#[test]
fn clocks_of_two_nodes_may_drift() {
    let world = World::new(1);
    let (fast, exact) = (world.start(1), world.start(2));
    world.set_clock_rate(1, 1_100_000);
    let observer = world.observer();
    let (before_fast, before_exact) = (fast.now(), exact.now());
    world.run(async move { observer.sleep(Duration::from_secs(10)).await });
    assert_eq!(fast.now() - before_fast, Duration::from_secs(11));
    assert_eq!(exact.now() - before_exact, Duration::from_secs(10));
}
