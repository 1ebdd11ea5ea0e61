mod limits;
mod links;

use std::future::IntoFuture;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use serde::{Deserialize, Serialize};

use super::*;
use crate::driver::fault::LinkPolicy;
use crate::driver::{system, udp::UdpSocket};
use crate::endpoint::{Datagram, Transmit};
use crate::rpc::{CallError, Code, Ctx, Never, Outcome};
use crate::sim::World;

mod policies;
mod secured;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct DivideByZero;

impl fmt::Display for DivideByZero {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("division by zero")
    }
}

fn address(node: u64) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 7_300 + node as u16))
}

fn calc(executions: &Arc<AtomicU64>) -> Services {
    let counted = Arc::clone(executions);
    Services::new()
        .method("divide", |_: Ctx, (a, b): (i64, i64)| async move {
            if b == 0 { Err(DivideByZero) } else { Ok(a / b) }
        })
        .method("count", move |_: Ctx, (): ()| {
            let counted = Arc::clone(&counted);
            async move { Ok::<_, Never>(counted.fetch_add(1, Ordering::Relaxed)) }
        })
        .method("panic", |_: Ctx, (): ()| async {
            if true { panic!("planted") } else { Ok::<(), Never>(()) }
        })
        .method("wait", |ctx: Ctx, ms: u64| async move {
            ctx.runtime.sleep(Duration::from_millis(ms)).await;
            Ok::<_, Never>(())
        })
        .method("ask_back", |ctx: Ctx, (): ()| async move {
            let answer = ctx.caller.call::<_, String, Never>("name", &()).await;
            Ok::<_, Never>(answer.unwrap_or_else(|error| error.to_string()))
        })
}

fn start(world: &World, node: u64, services: Services) -> Peer {
    let runtime = world.start(node);
    Peer::builder(runtime)
        .services(Services::new().nest("calc", services))
        .start_insecure(world.bind(node, address(node)))
        .unwrap()
}

fn pair(seed: u64) -> (World, Peer, Peer, Arc<AtomicU64>) {
    let world = World::new(seed);
    let executions = Arc::new(AtomicU64::new(0));
    let server = start(&world, 1, calc(&executions));
    let runtime = world.start(2);
    let names =
        Services::new().method("name", |_: Ctx, (): ()| async { Ok::<_, Never>("client".to_owned()) });
    let services = names.clone().merge(Services::new().nest("calc", names));
    let client = Peer::builder(runtime).services(services).start_insecure(world.bind(2, address(2))).unwrap();
    (world, server, client, executions)
}

#[test]
fn results_and_typed_errors_travel() {
    let (world, _server, client, _) = pair(1);
    world.run(async move {
        let calc = client.remote(address(1)).at("calc");
        assert_eq!(calc.call::<_, i64, DivideByZero>("divide", &(10i64, 2i64)).await, Ok(5));
        let error = calc.call::<_, i64, DivideByZero>("divide", &(10i64, 0i64)).await.unwrap_err();
        assert_eq!(error, CallError::Method(DivideByZero));
        assert_eq!(error.outcome(), Outcome::Executed);
    });
}

#[test]
fn the_server_calls_back_over_the_same_connection() {
    let (world, _server, client, _) = pair(2);
    world.run(async move {
        let calc = client.remote(address(1)).at("calc");
        assert_eq!(calc.call::<_, String, Never>("ask_back", &()).await.unwrap(), "client");
    });
}

#[test]
fn an_unknown_method_and_a_bad_body_were_not_executed() {
    let (world, _server, client, _) = pair(3);
    world.run(async move {
        let calc = client.remote(address(1)).at("calc");
        for (method, code) in [("subtract", Code::MethodNotFound), ("divide", Code::BadRequest)] {
            let CallError::Rpc(error) = calc.call::<_, i64, Never>(method, "text").await.unwrap_err();
            assert_eq!((error.code, error.outcome), (code, Outcome::NotExecuted));
        }
    });
}

#[test]
fn a_panic_of_a_handler_is_an_internal_error_of_unknown_outcome() {
    let (world, _server, client, _) = pair(4);
    world.run(async move {
        let calc = client.remote(address(1)).at("calc");
        let CallError::Rpc(error) = calc.call::<_, (), Never>("panic", &()).await.unwrap_err();
        assert_eq!((error.code, error.outcome), (Code::Internal, Outcome::Unknown));
    });
}

#[test]
fn a_deadline_ends_the_call_and_cancels_the_handler() {
    let (world, server, client, _) = pair(5);
    let observer = world.observer();
    world.run(async move {
        let calc = client.remote(address(1)).at("calc");
        let started = observer.now();
        let call = calc.call::<_, (), Never>("wait", &60_000u64).timeout(Duration::from_millis(300));
        let CallError::Rpc(error) = call.await.unwrap_err();
        assert_eq!((error.code, error.outcome), (Code::Timeout, Outcome::Unknown));
        assert!(observer.now() - started < Duration::from_millis(310));
        observer.sleep(Duration::from_millis(50)).await;
        assert!(server.inner.lock().serving.is_empty(), "the handler was dropped");
    });
}

#[test]
fn a_call_to_nobody_was_not_executed() {
    let (world, _server, client, _) = pair(6);
    world.run(async move {
        let nobody = client.remote(address(9));
        let call = nobody.call::<_, (), Never>("any", &()).timeout(Duration::from_millis(300));
        let CallError::Rpc(error) = call.await.unwrap_err();
        assert_eq!((error.code, error.outcome), (Code::Timeout, Outcome::NotExecuted));
    });
}

#[test]
fn a_restarted_peer_makes_open_calls_unknown_and_serves_the_next() {
    let (world, server, client, _) = pair(7);
    let handle = world.clone();
    let observer = world.observer();
    drop(server);
    world.run(async move {
        let calc = client.remote(address(1)).at("calc");
        let open =
            calc.call::<_, (), Never>("wait", &60_000u64).timeout(Duration::from_secs(60)).into_future();
        let waiting = observer.spawn("caller", open);
        observer.sleep(Duration::from_millis(100)).await;
        let _server = start(&handle, 1, calc_again());
        // Any packet on the old connection shows that the peer is another process.
        let next = calc.call::<_, i64, DivideByZero>("divide", &(8i64, 2i64)).idempotent(true).await;
        assert_eq!(next, Ok(4));
        let CallError::Rpc(error) = waiting.await.unwrap().unwrap_err();
        assert_eq!((error.code, error.outcome), (Code::ConnectionLost, Outcome::Unknown));
    });
}

fn calc_again() -> Services {
    calc(&Arc::default())
}

#[test]
fn calls_survive_a_bad_network_and_run_once() {
    let (world, server, client, executions) = pair(8);
    world.set_default_link(LinkPolicy {
        loss: 100_000,
        duplicate: 100_000,
        corrupt: 20_000,
        delay_min_us: 50,
        delay_max_us: 3_000,
        ..LinkPolicy::default()
    });
    let observer = world.observer();
    let caller = client.clone();
    world.run(async move {
        let calc = caller.remote(address(1)).at("calc");
        let mut seen = Vec::new();
        for _ in 0..20 {
            let count = || calc.call::<_, u64, Never>("count", &()).once().into_future();
            let calls: Vec<_> = (0..10).map(|_| observer.spawn("caller", count())).collect();
            for call in calls {
                seen.push(call.await.unwrap().unwrap());
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..200).collect::<Vec<u64>>());
    });
    assert_eq!(executions.load(Ordering::Relaxed), 200);
    assert!(client.counters().frames_retransmitted + server.counters().frames_retransmitted > 0);
}

#[test]
fn a_drain_lets_open_calls_end_and_refuses_new_ones() {
    let (world, server, client, _) = pair(9);
    let observer = world.observer();
    world.run(async move {
        let calc = client.remote(address(1)).at("calc");
        let open = observer.spawn("caller", calc.call::<_, (), Never>("wait", &500u64).into_future());
        observer.sleep(Duration::from_millis(100)).await;
        let drained = observer.spawn("drain", async move { server.drain(Duration::from_secs(5)).await });
        observer.sleep(Duration::from_millis(50)).await;
        let refused =
            calc.call::<_, u64, Never>("count", &()).once().timeout(Duration::from_millis(100)).await;
        assert_eq!(refused.unwrap_err().outcome(), Outcome::NotExecuted);
        assert_eq!(open.await.unwrap(), Ok(()));
        drained.await.unwrap();
    });
}

#[test]
fn a_drain_ends_with_its_grace_and_what_is_open_then_is_unknown() {
    let (world, server, client, _) = pair(13);
    let observer = world.observer();
    world.run(async move {
        let calc = client.remote(address(1)).at("calc");
        let wait = calc.call::<_, (), Never>("wait", &60_000u64).timeout(Duration::from_secs(90));
        let open = observer.spawn("caller", wait.into_future());
        observer.sleep(Duration::from_millis(100)).await;
        let started = observer.now();
        server.drain(Duration::from_secs(2)).await;
        assert!((2..3).contains(&(observer.now() - started).as_secs()), "the grace is kept, and no more");
        let CallError::Rpc(error) = open.await.unwrap().unwrap_err();
        assert_eq!((error.code, error.outcome), (Code::ConnectionLost, Outcome::Unknown), "{error}");
        assert!(observer.now() - started < Duration::from_secs(3), "the caller is told");
    });
}

#[test]
fn a_drain_ends_early_though_others_wait_for_the_close() {
    let (world, server, client, _) = pair(12);
    let observer = world.observer();
    world.run(async move {
        let calc = client.remote(address(1)).at("calc");
        let open = observer.spawn("caller", calc.call::<_, (), Never>("wait", &500u64).into_future());
        observer.sleep(Duration::from_millis(100)).await;
        for _ in 0..3 {
            let waiting = server.clone();
            observer.spawn("waiter", async move { waiting.closed().await });
        }
        observer.sleep(Duration::from_millis(1)).await;
        let started = observer.now();
        server.drain(Duration::from_secs(60)).await;
        assert!(observer.now() - started < Duration::from_secs(5), "the grace was waited for");
        assert_eq!(open.await.unwrap(), Ok(()));
    });
}

#[test]
fn a_peer_with_nothing_to_do_does_nothing() {
    // A timer that had fired once was polled again for ever.
    let (world, _server, client, _) = pair(10);
    let observer = world.observer();
    let before_idle = world.clone();
    let events = world.run(async move {
        let calc = client.remote(address(1)).at("calc");
        assert_eq!(calc.call::<_, i64, DivideByZero>("divide", &(10i64, 2i64)).await, Ok(5));
        // Longer than any timer of the connection: both sides forget it.
        observer.sleep(Duration::from_secs(60)).await;
        let (_, before) = before_idle.trace_hash();
        observer.sleep(Duration::from_secs(3_600)).await;
        before_idle.trace_hash().1 - before
    });
    assert!(events < 10, "{events} events in an idle hour");
}

#[test]
fn a_request_that_arrives_together_with_its_cancellation_is_not_executed() {
    let (world, _server, client, executions) = pair(14);
    let (stopped, observer) = (world.clone(), world.observer());
    world.run(async move {
        let calc = client.remote(address(1)).at("calc");
        assert_eq!(calc.call::<_, u64, Never>("count", &()).await, Ok(0));
        stopped.pause(1);
        let given_up = calc.call::<_, u64, Never>("count", &()).into_future();
        assert!(observer.timeout(Duration::from_millis(2), given_up).await.is_err());
        observer.sleep(Duration::from_millis(100)).await;
        stopped.resume(1);
        assert_eq!(calc.call::<_, u64, Never>("count", &()).await, Ok(1));
    });
    assert_eq!(executions.load(Ordering::Relaxed), 2);
}

/// A real socket that counts how it is asked.
struct Asked {
    socket: UdpSocket,
    spins: Arc<AtomicU64>,
}

impl DatagramSocket for Asked {
    fn local_addr(&self) -> SocketAddr {
        self.socket.local_addr()
    }

    fn poll_recv(&self, cx: &mut Context<'_>, datagrams: &mut Vec<Datagram>) -> Poll<std::io::Result<()>> {
        self.socket.poll_recv(cx, datagrams)
    }

    fn try_recv(&self, datagrams: &mut Vec<Datagram>) -> std::io::Result<Option<()>> {
        self.spins.fetch_add(1, Ordering::Relaxed);
        self.socket.try_recv(datagrams)
    }

    fn can_spin(&self) -> bool {
        self.socket.can_spin()
    }

    fn poll_send(&self, cx: &mut Context<'_>, transmit: &Transmit, contents: &[u8]) -> Poll<()> {
        self.socket.poll_send(cx, transmit, contents)
    }

    fn segments_max(&self) -> usize {
        self.socket.segments_max()
    }
}

#[tokio::test]
async fn latency_mode_asks_while_calls_are_made_and_sleeps_without_them() {
    let runtime = system::runtime(tokio::runtime::Handle::current());
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let spins = Arc::new(AtomicU64::new(0));
    let server = Peer::builder(runtime.clone())
        .services(calc(&Arc::default()))
        .start_insecure(UdpSocket::bind(local).unwrap())
        .unwrap();
    let socket = Asked { socket: UdpSocket::bind(local).unwrap(), spins: Arc::clone(&spins) };
    let spin = Duration::from_millis(20);
    let client = Peer::builder(runtime.clone()).latency_mode(spin).start_insecure(socket).unwrap();
    let calc = client.remote(server.local_addr());
    for count in 0..100 {
        assert_eq!(calc.call::<_, u64, Never>("count", &()).await, Ok(count));
    }
    assert!(spins.load(Ordering::Relaxed) > 100);
    // Acknowledgements and timers may still be due; after them, nothing asks any more.
    let (mut before, deadline) = (0, runtime.now() + Duration::from_secs(5));
    while before != spins.load(Ordering::Relaxed) {
        assert!(runtime.now() < deadline, "it never sleeps");
        before = spins.load(Ordering::Relaxed);
        runtime.sleep(10 * spin).await;
    }
}
