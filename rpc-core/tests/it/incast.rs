//! Many peers that send large messages to one, over one link.

#![allow(clippy::unwrap_used, reason = "also in functions that tests call")]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use rpc_core::driver::fault::LinkPolicy;
use rpc_core::peer::Peer;
use rpc_core::rpc::{Ctx, Never, Remote, Services};
use rpc_core::runtime::Runtime;
use rpc_core::sim::{Capacity, World};
use serde_bytes::ByteBuf;

const RECEIVER: u64 = 1;
const SENDERS: u64 = 2;
/// 200 Mbit/s.
const RATE: u64 = 25_000_000;

/// A receiver behind a link of 200 Mbit/s, 20 ms and a queue of 50 ms, and peers that made one small call to it.
fn scene(seed: u64, count: u16) -> (World, Runtime, Peer, Vec<Peer>) {
    let world = World::new(seed);
    world.set_default_link(LinkPolicy {
        delay_min_us: 10_000,
        delay_max_us: 10_000,
        ..LinkPolicy::default()
    });
    let capacity =
        Capacity { rate_bytes_per_s: RATE, queue_max: Duration::from_millis(50), ..Capacity::default() };
    for (from, to) in [(SENDERS, RECEIVER), (RECEIVER, SENDERS)] {
        world.set_capacity(from, to, capacity);
        world.start(from);
    }
    let services = Services::new()
        .method("sink", |_: Ctx, body: ByteBuf| async move { Ok::<_, Never>(body.len() as u64) });
    let start = |node, port| {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let builder = Peer::builder(world.runtime(node)).services(services.clone());
        builder.start_insecure(world.bind(node, address)).unwrap()
    };
    let receiver = start(RECEIVER, 7_800);
    let senders: Vec<_> = (0..count).map(|index| start(SENDERS, 7_801 + index)).collect();
    let (to, made) = (receiver.local_addr(), senders.clone());
    let clock = world.observer();
    let time = clock.clone();
    world.run(async move {
        for sender in &made {
            send(&time, &sender.remote(to), 1).await;
        }
    });
    (world, clock, receiver, senders)
}

async fn send(clock: &Runtime, remote: &Remote, size: usize) -> Duration {
    let start = clock.now();
    let call = remote.call::<_, u64, Never>("sink", &ByteBuf::from(vec![1; size]));
    assert_eq!(call.timeout(Duration::from_secs(60)).await, Ok(size as u64));
    clock.now() - start
}

#[test]
fn a_short_message_beside_eight_long_ones_takes_little_longer_than_alone() {
    for seed in [1, 2] {
        let (world, clock, receiver, senders) = scene(seed, 9);
        let to = receiver.local_addr();
        let took = world.run(async move {
            for sender in &senders[1..] {
                let (time, remote) = (clock.clone(), sender.remote(to));
                drop(clock.spawn("transfer", async move { send(&time, &remote, 8 << 20).await }));
            }
            clock.sleep(Duration::from_millis(1_000)).await;
            send(&clock, &senders[0].remote(to), 64 << 10).await
        });
        // Alone 81 ms: four round trips of a window that starts small. Without a schedule 219 to 267 ms.
        assert!(took < Duration::from_millis(130), "seed {seed}: {took:?}");
    }
}

#[test]
fn the_link_is_used_and_the_longest_message_arrives_while_shorter_ones_keep_coming() {
    let (world, clock, receiver, senders) = scene(3, 3);
    let to = receiver.local_addr();
    let time = clock.clone();
    let (took, others) = world.run(async move {
        let mut spawned = Vec::new();
        for sender in senders[1..].iter().flat_map(|sender| [sender; 4]) {
            let (time, remote) = (clock.clone(), sender.remote(to));
            spawned.push(clock.spawn("transfers", async move {
                let end = time.now() + Duration::from_secs(6);
                let mut sent = 0;
                while time.now() < end {
                    send(&time, &remote, 1 << 20).await;
                    sent += 1_u64 << 20;
                }
                sent
            }));
        }
        let took = send(&time, &senders[0].remote(to), 8 << 20).await;
        let mut others = 0;
        for transfers in spawned {
            others += transfers.await.unwrap();
        }
        (took, others)
    });
    assert!(took < Duration::from_secs(6), "the longest took {took:?}");
    let share = (others + (8 << 20)) as f64 / (6 * RATE) as f64;
    assert!(share > 0.75, "{share} of the link");
}
