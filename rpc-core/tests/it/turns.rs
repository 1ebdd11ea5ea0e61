//! What arrives in one turn of the driver: calls of several peers have the same numbers, and are not mixed up.

#![allow(clippy::unwrap_used, reason = "also in functions that tests call")]

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rpc_core::peer::Peer;
use rpc_core::rpc::{Ctx, Never, Services};
use rpc_core::runtime::Runtime;
use rpc_core::sim::World;

const SERVER: u64 = 1;
const CLIENTS: [u64; 3] = [2, 3, 4];

fn address(node: u64) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 7_700 + node as u16))
}

/// A server that counts the calls of each address, and three clients that are connected to it.
struct Scene {
    world: World,
    observer: Runtime,
    clients: Vec<Peer>,
    server: Peer,
    served: Arc<Mutex<BTreeMap<SocketAddr, u32>>>,
}

impl Scene {
    fn new(seed: u64) -> Self {
        let world = World::new(seed);
        let served = Arc::new(Mutex::new(BTreeMap::new()));
        let counted = Arc::clone(&served);
        let services = Services::new()
            .method("count", move |ctx: Ctx, (): ()| {
                *counted.lock().unwrap().entry(ctx.address).or_default() += 1;
                async { Ok::<_, Never>(()) }
            })
            .method("who", |ctx: Ctx, (): ()| async move {
                let name: u64 = ctx.caller.call::<_, _, Never>("name", &()).await.unwrap();
                Ok::<_, Never>((ctx.address.port(), name, ctx.client_id))
            });
        let start = |node, services| {
            let builder = Peer::builder(world.start(node)).services(services);
            builder.start_insecure(world.bind(node, address(node))).unwrap()
        };
        let server = start(SERVER, services);
        let named =
            |node| Services::new().method("name", move |_: Ctx, (): ()| async move { Ok::<_, Never>(node) });
        let clients: Vec<_> = CLIENTS.iter().map(|node| start(*node, named(*node))).collect();
        let (observer, callers) = (world.observer(), clients.clone());
        world.run(async move {
            for client in callers {
                client.remote(address(SERVER)).call::<_, (), Never>("count", &()).await.unwrap();
            }
        });
        Self { world, observer, clients, server, served }
    }

    /// How many calls of a client ran, that of the start included.
    fn served(&self, node: u64) -> u32 {
        self.served.lock().unwrap()[&address(node)]
    }
}

#[test]
fn each_handler_knows_its_own_caller_and_calls_it_back() {
    let Scene { world, observer, clients, server, .. } = Scene::new(1);
    let stopped = world.clone();
    world.run(async move {
        let known: BTreeMap<_, _> =
            server.peers().iter().map(|info| (info.address, info.client_id)).collect();
        stopped.pause(SERVER);
        let mut calls = Vec::new();
        for _ in 0..3 {
            for (node, client) in CLIENTS.iter().zip(&clients) {
                let call = client.remote(address(SERVER)).call::<_, (u16, u64, u128), Never>("who", &());
                calls.push((*node, observer.spawn("caller", call.into_future())));
                observer.sleep(Duration::from_millis(1)).await;
            }
        }
        stopped.resume(SERVER);
        for (node, call) in calls {
            assert_eq!(call.await.unwrap(), Ok((address(node).port(), node, known[&address(node)])));
        }
    });
}

#[test]
fn a_cancellation_stops_the_call_of_its_own_connection_only() {
    let scene = Scene::new(2);
    let (stopped, observer, clients) = (scene.world.clone(), scene.observer.clone(), scene.clients.clone());
    scene.world.run(async move {
        let call = |client: &Peer| client.remote(address(SERVER)).call::<_, (), Never>("count", &());
        stopped.pause(SERVER);
        let others: Vec<_> = [&clients[0], &clients[2]]
            .map(|client| {
                observer.spawn("caller", call(client).timeout(Duration::from_secs(5)).into_future())
            })
            .into_iter()
            .collect();
        let given_up = observer.timeout(Duration::from_millis(5), call(&clients[1]).into_future());
        assert!(given_up.await.is_err());
        observer.sleep(Duration::from_millis(50)).await;
        stopped.resume(SERVER);
        for other in others {
            assert_eq!(other.await.unwrap(), Ok(()));
        }
    });
    assert_eq!(CLIENTS.map(|node| scene.served(node)), [2, 1, 2]);
}

#[test]
fn a_request_that_arrives_together_with_the_end_of_its_connection_does_not_run() {
    let scene = Scene::new(3);
    let (stopped, observer, clients) = (scene.world.clone(), scene.observer.clone(), scene.clients.clone());
    scene.world.run(async move {
        stopped.pause(SERVER);
        let calls: Vec<_> = clients
            .iter()
            .map(|client| {
                let call = client.remote(address(SERVER)).call::<_, (), Never>("count", &()).once();
                observer.spawn("caller", call.into_future())
            })
            .collect();
        observer.sleep(Duration::from_millis(5)).await;
        clients[1].close().await;
        observer.sleep(Duration::from_millis(5)).await;
        stopped.resume(SERVER);
        let ended: Vec<_> = futures_util::future::join_all(calls).await;
        assert_eq!(
            ended.iter().map(|call| call.as_ref().unwrap().is_ok()).collect::<Vec<_>>(),
            [true, false, true]
        );
    });
    assert_eq!(CLIENTS.map(|node| scene.served(node)), [2, 1, 2]);
}
