//! Bulk: 16 MiB over simulated links that lose datagrams. Minutes of the world pass in seconds, and every run is the same.
//!
//! `cargo run --release -p rpc-core --example bulk`

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rpc_core::driver::fault::LinkPolicy;
use rpc_core::peer::Peer;
use rpc_core::rpc::{Ctx, Never};
use rpc_core::sim::{Capacity, World};

const SIZE: usize = 16 << 20;
const ROUND_TRIP: Duration = Duration::from_millis(20);
/// 200 Mbit/s.
const RATE: u64 = 25_000_000;

/// Takes what is large.
#[rpc_core::service]
trait Store {
    /// Gives the checksum of what arrived.
    #[rpc(lane = bulk, timeout = "10m")]
    async fn put(&self, ctx: Ctx, body: Bytes) -> Result<u32, Never>;
}

struct Checksums;

impl Store for Checksums {
    async fn put(&self, _: Ctx, body: Bytes) -> Result<u32, Never> {
        Ok(checksum(&body))
    }
}

fn main() {
    println!("16 MiB, {} ms round trip, {} Mbit/s\n", ROUND_TRIP.as_millis(), RATE * 8 / 1_000_000);
    println!("loss   seconds   MiB/s   datagrams    lost   overflowed   frames again");
    for loss_percent in [0, 1, 5] {
        transfer(loss_percent);
    }
}

fn transfer(loss_percent: u32) {
    // One seed decides which datagrams are lost.
    let world = World::new(16);
    let one_way_us = u32::try_from(ROUND_TRIP.as_micros() / 2).expect("short");
    world.set_default_link(LinkPolicy {
        loss: loss_percent * 10_000,
        delay_min_us: one_way_us,
        delay_max_us: one_way_us,
        ..LinkPolicy::default()
    });
    let queue_max = ROUND_TRIP;
    world.set_capacity(2, 1, Capacity { rate_bytes_per_s: RATE, queue_max, ..Capacity::default() });
    let builder = |node| Peer::builder(world.start(node));
    let socket = |node| world.bind(node, address(node));
    let services = store_services(Arc::new(Checksums));
    let server = builder(1).services(services).start_insecure(socket(1)).expect("no names collide");
    let client = builder(2).start_insecure(socket(2)).expect("no names collide");

    let body: Bytes = (0..SIZE as u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let expected = checksum(&body);
    let store = StoreClient::new(client.remote(server.local_addr()));
    let before = world.now();
    let answer = world.run(async move { store.put(body).await });
    let seconds = (world.now() - before).as_secs_f64();

    assert_eq!(answer, Ok(expected), "all of it arrived, in its place");
    let (sent, again) = (client.counters().datagrams_sent, client.counters().frames_retransmitted);
    let (lost, overflowed) = (world.fault_hits().lost, world.capacity_hits().overflowed);
    let goodput = 16.0 / seconds;
    println!(
        "{loss_percent:>2} %  {seconds:>8.2}  {goodput:>6.1}  {sent:>10}  {lost:>6}  {overflowed:>11}  {again:>13}"
    );
}

/// FNV-1a: other bytes, or the same ones in another order, give another number.
fn checksum(body: &[u8]) -> u32 {
    body.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

fn address(node: u64) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 7_300 + node as u16))
}
