//! Which node is asked, and how soon another one.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kv_client::api::{Hint, KvError};
use kv_client::{Client, Outcome, Resolver};
use rpc_core::peer::Peer;
use rpc_core::runtime::BoxFuture;
use rpc_core::sim::World;

use crate::played::{CLIENT, Manner, TIMEOUT, Table, address, client, cluster, start};

#[test]
fn a_dead_first_endpoint_costs_a_tenth_of_a_second() {
    let (world, _, client) = cluster(1);
    world.crash(1);
    let runtime = world.observer();
    world.run(async move {
        let begun = runtime.now();
        client.get("k").await.unwrap();
        assert!(runtime.now() - begun < Duration::from_millis(150), "{:?}", runtime.now() - begun);
        let begun = runtime.now();
        client.get("k").await.unwrap();
        assert!(runtime.now() - begun < Duration::from_millis(20), "who answered stays preferred");
    });
}

#[test]
fn a_node_that_dies_is_left_within_half_a_second_and_the_write_is_done_once() {
    let (world, table, client) = cluster(2);
    let crash = world.clone();
    let runtime = world.observer();
    world.run(async move {
        client.put("warm", "up").await;
        crash.crash(1);
        let begun = runtime.now();
        assert!(matches!(client.put("k", "v").await, Outcome::Committed { .. }));
        assert!(runtime.now() - begun < Duration::from_millis(550), "{:?}", runtime.now() - begun);
        assert_eq!(table.lock().applied.values().max(), Some(&1));
    });
}

#[test]
fn a_node_that_is_slow_but_alive_is_not_left_at_once() {
    let (world, table, client) = cluster(3);
    let runtime = world.observer();
    world.run(async move {
        client.put("warm", "up").await;
        table.set(1, Manner::Swallow);
        let begun = runtime.now();
        assert!(matches!(client.put("k", "v").await, Outcome::Committed { .. }));
        let took = runtime.now() - begun;
        assert!(took >= Duration::from_millis(900) && took < Duration::from_millis(1_400), "{took:?}");
        assert!(table.calls(1, "version") >= 1, "it was probed");
    });
}

#[test]
fn the_leader_that_an_answer_names_is_asked_from_then_on() {
    let (world, table, client) = cluster(4);
    let runtime = world.observer();
    world.run(async move {
        table.lock().leader = Some(Hint { id: 3, address: address(3).to_string() });
        client.put("k", "a").await;
        assert_eq!(table.calls(3, "write"), 0, "not before it was heard");
        // The probe's answer is on its way.
        runtime.sleep(Duration::from_millis(20)).await;
        let before = table.calls(1, "write");
        client.put("k", "b").await;
        assert_eq!((table.calls(3, "version"), table.calls(3, "write")), (1, 1));
        assert_eq!(table.calls(1, "write"), before);
    });
}

#[test]
fn a_leader_that_cannot_be_reached_is_never_asked() {
    let (world, table, client) = cluster(5);
    let runtime = world.observer();
    world.run(async move {
        table.lock().leader = Some(Hint { id: 9, address: "10.9.9.9:7301".to_owned() });
        for number in 0..20 {
            let begun = runtime.now();
            assert!(matches!(client.put("k", number.to_string()).await, Outcome::Committed { .. }));
            assert!(runtime.now() - begun < Duration::from_millis(20), "{number}");
            runtime.sleep(Duration::from_millis(50)).await;
        }
    });
}

#[test]
fn a_refusal_moves_on_to_the_next_node() {
    let (world, table, client) = cluster(6);
    world.run(async move {
        table.set(1, Manner::Refuse(KvError::NotLeader { leader: None }));
        table.set(2, Manner::Refuse(KvError::Draining));
        assert!(matches!(client.put("k", "v").await, Outcome::Committed { .. }));
        assert!(client.get("k").await.unwrap().value.is_some());
    });
}

#[test]
fn one_reachable_endpoint_suffices() {
    let world = World::new(7);
    let table = Table::new(7);
    start(&world, &table, 1);
    let client = client(&world, &[2, 3, 1]);
    world.run(async move {
        assert!(matches!(client.put("k", "v").await, Outcome::Committed { .. }));
    });
}

#[test]
fn a_node_that_was_restarted_is_used_again() {
    let world = World::new(8);
    let table = Table::new(8);
    start(&world, &table, 1);
    let client = client(&world, &[1]);
    let (again, restarted) = (world.clone(), table.clone());
    world.run(async move {
        assert!(matches!(client.put("k", "a").await, Outcome::Committed { .. }));
        start(&again, &restarted, 1);
        assert!(matches!(client.put("k", "b").await, Outcome::Committed { .. }));
        assert_eq!(table.lock().applied.len(), 2);
    });
}

/// A resolver whose names change, and whose lookups take long.
#[derive(Clone)]
struct Names {
    addresses: Arc<Mutex<Vec<SocketAddr>>>,
    world: World,
}

impl Resolver for Names {
    fn resolve(&self, _: String) -> BoxFuture<io::Result<Vec<SocketAddr>>> {
        let addresses = self.addresses.lock().unwrap().clone();
        let sleep = self.world.observer().sleep(Duration::from_millis(300));
        Box::pin(async move {
            sleep.await;
            if addresses.is_empty() { Err(io::Error::other("no such name yet")) } else { Ok(addresses) }
        })
    }
}

#[test]
fn a_name_is_resolved_beside_the_requests_and_again_when_its_node_is_gone() {
    let world = World::new(9);
    let table = Table::new(9);
    start(&world, &table, 1);
    start(&world, &table, 2);
    let names = Names { addresses: Arc::default(), world: world.clone() };
    let runtime = world.start(CLIENT);
    let socket = world.bind(CLIENT, SocketAddr::from((Ipv4Addr::LOCALHOST, 9_000)));
    let peer = Peer::builder(runtime.clone()).start_insecure(socket).unwrap();
    let client = Client::builder(runtime, peer)
        .endpoints(["node:7301".parse().unwrap()])
        .resolver(Arc::new(names.clone()))
        .timeout(TIMEOUT * 3)
        .build();
    let (observer, crash) = (world.observer(), world.clone());
    world.run(async move {
        let late = names.clone();
        observer.clone().spawn("dns", async move {
            observer.sleep(Duration::from_millis(1_500)).await;
            *late.addresses.lock().unwrap() = vec![address(1)];
        });
        assert!(matches!(client.put("k", "a").await, Outcome::Committed { .. }), "resolved with retry");
        *names.addresses.lock().unwrap() = vec![address(2)];
        crash.crash(1);
        let outcome = client.put("k", "b").await;
        assert!(matches!(outcome, Outcome::Committed { .. }), "resolved again: {outcome:?}");
        assert_eq!(table.calls(2, "write"), 1);
    });
}
