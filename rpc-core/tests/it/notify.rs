//! Calls without an answer: started at most once, and honest about whether they were.

#![allow(clippy::unwrap_used, reason = "also in functions that tests call")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rpc_core::driver::fault::LinkPolicy;
use rpc_core::peer::Peer;
use rpc_core::rpc::interceptor::{Execution, Incoming, Interceptor, NextServe};
use rpc_core::rpc::session::NOTIFIED_MAX;
use rpc_core::rpc::{Call, Code, Ctx, Never, Outcome, Remote, RpcError, ServiceRef, Services};
use rpc_core::runtime::BoxFuture;
use rpc_core::sim::World;

fn address(node: u64) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 7_600 + node as u16))
}

/// Counts what starts and what ends; `work` takes so many milliseconds and answers a long text.
fn services(started: &Arc<AtomicU64>, ended: &Arc<AtomicU64>) -> Services {
    let (started, ended) = (Arc::clone(started), Arc::clone(ended));
    Services::new().method("work", move |ctx: Ctx, ms: u64| {
        let ended = Arc::clone(&ended);
        started.fetch_add(1, Ordering::Relaxed);
        async move {
            if ms > 0 {
                ctx.runtime.sleep(Duration::from_millis(ms)).await;
            }
            ended.fetch_add(1, Ordering::Relaxed);
            Ok::<_, Never>("x".repeat(100_000))
        }
    })
}

struct Pair {
    world: World,
    server: Peer,
    client: Peer,
    started: Arc<AtomicU64>,
    ended: Arc<AtomicU64>,
}

fn pair(seed: u64) -> Pair {
    let world = World::new(seed);
    let (started, ended) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let server = Peer::builder(world.start(1))
        .services(services(&started, &ended))
        .start_insecure(world.bind(1, address(1)))
        .unwrap();
    let client = Peer::builder(world.start(2)).start_insecure(world.bind(2, address(2))).unwrap();
    Pair { world, server, client, started, ended }
}

fn work(remote: &Remote, ms: u64) -> Call<String, Never> {
    remote.call("work", &ms)
}

#[test]
fn a_notification_is_done_when_its_method_has_started() {
    let Pair { world, server, client, started, ended } = pair(1);
    let observer = world.observer();
    world.run(async move {
        let remote = client.remote(address(1));
        let begun = observer.now();
        work(&remote, 500).notify().await.unwrap();
        assert!(observer.now() - begun < Duration::from_millis(100), "nobody waits for the end");
        assert_eq!((started.load(Ordering::Relaxed), ended.load(Ordering::Relaxed)), (1, 0));
        observer.sleep(Duration::from_secs(1)).await;
        assert_eq!(ended.load(Ordering::Relaxed), 1);
        work(&remote, 0).notify().await.unwrap();
        assert_eq!(ended.load(Ordering::Relaxed), 2);
        assert!(server.counters().bytes_sent < 10_000, "the answer stays where it is");
    });
}

#[test]
fn a_notification_that_cannot_start_says_so() {
    let Pair { world, server: _server, client, started, .. } = pair(2);
    world.run(async move {
        let remote = client.remote(address(1));
        let unknown = remote.call::<_, (), Never>("play", &1u64).notify().await.unwrap_err();
        assert_eq!((unknown.code, unknown.outcome), (Code::MethodNotFound, Outcome::NotExecuted));
        let unread = remote.call::<_, (), Never>("work", "text").notify().await.unwrap_err();
        assert_eq!((unread.code, unread.outcome), (Code::BadRequest, Outcome::NotExecuted));
        assert_eq!(started.load(Ordering::Relaxed), 0);
        let nobody = client.remote(address(9));
        let late = work(&nobody, 1).timeout(Duration::from_millis(100)).notify().await.unwrap_err();
        assert_eq!((late.code, late.outcome), (Code::Timeout, Outcome::NotExecuted));
    });
}

#[test]
fn notifications_over_a_bad_network_start_once() {
    let Pair { world, server: _server, client, started, .. } = pair(3);
    world.set_default_link(LinkPolicy {
        loss: 200_000,
        duplicate: 200_000,
        delay_min_us: 50,
        delay_max_us: 5_000,
        ..LinkPolicy::default()
    });
    let observer = world.observer();
    world.run(async move {
        let remote = client.remote(address(1));
        for _ in 0..100 {
            work(&remote, 0).notify().await.unwrap();
        }
        for _ in 0..100 {
            work(&remote, 0).send();
        }
        observer.sleep(Duration::from_secs(5)).await;
        assert_eq!(started.load(Ordering::Relaxed), 200);
    });
}

#[test]
fn too_many_notified_methods_are_refused() {
    let Pair { world, server, client, started, .. } = pair(4);
    let observer = world.observer();
    world.run(async move {
        let remote = client.remote(address(1));
        for _ in 0..NOTIFIED_MAX {
            work(&remote, 60_000).notify().await.unwrap();
        }
        let busy = work(&remote, 60_000).once().notify().await.unwrap_err();
        assert_eq!((busy.code, busy.outcome), (Code::ServerBusy, Outcome::NotExecuted));
        assert_eq!(started.load(Ordering::Relaxed), NOTIFIED_MAX as u64);
        drop(observer);
        drop(server);
    });
}

#[test]
fn a_drain_lets_notified_methods_end() {
    let Pair { world, server, client, ended, .. } = pair(5);
    let observer = world.observer();
    world.run(async move {
        work(&client.remote(address(1)), 700).notify().await.unwrap();
        let begun = observer.now();
        server.drain(Duration::from_secs(60)).await;
        assert_eq!(ended.load(Ordering::Relaxed), 1);
        assert!(observer.now() - begun < Duration::from_secs(2), "the grace was waited for");
    });
}

#[test]
fn a_service_that_was_passed_can_be_notified() {
    let world = World::new(6);
    let (started, ended) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let passed: ServiceRef = ServiceRef::new(services(&started, &ended)).unwrap();
    let ring = Services::new().method("ring", |_: Ctx, who: ServiceRef| async move {
        let who = who.client().unwrap();
        Ok::<_, Never>(work(&who, 10).notify().await.is_ok())
    });
    let _server =
        Peer::builder(world.start(1)).services(ring).start_insecure(world.bind(1, address(1))).unwrap();
    let client = Peer::builder(world.start(2)).start_insecure(world.bind(2, address(2))).unwrap();
    let observer = world.observer();
    world.run(async move {
        assert_eq!(client.remote(address(1)).call::<_, bool, Never>("ring", &passed).await, Ok(true));
        observer.sleep(Duration::from_millis(50)).await;
        assert_eq!((started.load(Ordering::Relaxed), ended.load(Ordering::Relaxed)), (1, 1));
    });
}

/// Lets nothing but `ring` in.
struct Doorkeeper;

impl Interceptor for Doorkeeper {
    fn serve(&self, request: Incoming, next: NextServe) -> BoxFuture<Execution> {
        let name = next.method().to_owned();
        if name == "ring" {
            return next.run(request);
        }
        Box::pin(async move { Err(RpcError::not_executed(Code::Forbidden, format!("`{name}`")).into()) })
    }
}

#[test]
fn a_notification_is_no_way_around_an_interceptor() {
    let world = World::new(7);
    let (started, ended) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let _server = Peer::builder(world.start(1))
        .services(services(&started, &ended))
        .interceptor(Doorkeeper)
        .start_insecure(world.bind(1, address(1)))
        .unwrap();
    let client = Peer::builder(world.start(2)).start_insecure(world.bind(2, address(2))).unwrap();
    world.run(async move {
        let error = work(&client.remote(address(1)), 0).notify().await.unwrap_err();
        assert_eq!((error.code, error.outcome), (Code::Forbidden, Outcome::NotExecuted));
        assert_eq!(error.message, "`work`");
    });
    assert_eq!(started.load(Ordering::Relaxed), 0);
}

#[test]
fn a_notified_method_ends_with_its_connection() {
    for from_server in [false, true] {
        let Pair { world, server, client, started, ended } = pair(8);
        let observer = world.observer();
        world.run(async move {
            work(&client.remote(address(1)), 5_000).notify().await.unwrap();
            if from_server {
                assert_eq!(server.disconnect(address(2), "enough"), 1);
            } else {
                client.close().await;
            }
            observer.sleep(Duration::from_secs(20)).await;
            assert_eq!((started.load(Ordering::Relaxed), ended.load(Ordering::Relaxed)), (1, 0));
        });
    }
}
