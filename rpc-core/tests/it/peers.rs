//! The list of peers and what becomes of them: connected, lost, restarted, draining, sent away, refused.

#![allow(clippy::unwrap_used, reason = "also in functions that tests call")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rpc_core::endpoint::LostReason;
use rpc_core::peer::{Builder, EVENTS_MAX, Peer, PeerEvent};
use rpc_core::rpc::{CallError, Code, Ctx, Never, Outcome, Remote, Services};
use rpc_core::sim::World;

fn address(node: u64) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 7_500 + node as u16))
}

fn services() -> Services {
    Services::new().method("wait", |ctx: Ctx, ms: u64| async move {
        ctx.runtime.sleep(Duration::from_millis(ms)).await;
        Ok::<_, Never>(())
    })
}

fn start_with(world: &World, node: u64, build: impl FnOnce(Builder) -> Builder) -> Peer {
    let builder = Peer::builder(world.start(node)).services(services());
    build(builder).start_insecure(world.bind(node, address(node))).unwrap()
}

fn start(world: &World, node: u64) -> Peer {
    start_with(world, node, |builder| builder)
}

async fn wait(remote: &Remote, ms: u64) -> Result<(), CallError<Never>> {
    remote.call::<_, (), Never>("wait", &ms).timeout(Duration::from_secs(60)).await
}

#[test]
fn both_sides_list_each_other() {
    let world = World::new(1);
    let (server, client) = (start(&world, 1), start(&world, 2));
    let observer = world.observer();
    world.run(async move {
        assert_eq!((server.peers(), client.peers()), (vec![], vec![]));
        let remote = client.remote(address(1));
        let open = observer.spawn("open", async move { wait(&remote, 500).await });
        observer.sleep(Duration::from_millis(200)).await;
        let (there, here) = (server.peers(), client.peers());
        let ([there], [here]) = (there.as_slice(), here.as_slice()) else { panic!("{there:?} and {here:?}") };
        assert_eq!((there.address, here.address), (address(2), address(1)));
        assert_eq!((there.inbound, here.inbound), (true, false));
        assert_eq!((there.calling, there.serving, here.calling, here.serving), (0, 1, 1, 0));
        assert!(there.established && here.established && there.epoch != here.epoch);
        assert!(there.client_id != 0 && here.client_id != 0 && there.client_id != here.client_id);
        assert!(here.rtt > Duration::ZERO && here.rtt < Duration::from_millis(20), "{:?}", here.rtt);
        assert!(here.bytes_sent > 0 && here.bytes_received > 0 && there.bytes_received > 0);
        open.await.unwrap().unwrap();
        let seen = client.peers()[0].last_seen;
        assert!(seen > here.last_seen, "the answer was heard");
        assert_eq!(client.peers()[0].calling, 0);
    });
}

#[test]
fn a_connection_and_its_end_are_events() {
    let world = World::new(2);
    let (server, client) = (start(&world, 1), start(&world, 2));
    world.run(async move {
        let mut events = server.events();
        wait(&client.remote(address(1)), 1).await.unwrap();
        let Some(PeerEvent::Connected(info)) = events.next().await else { panic!("not connected") };
        assert_eq!((info.address, info.inbound, info.established), (address(2), true, true));
        client.close().await;
        let Some(PeerEvent::Lost { connection, address: from, reason }) = events.next().await else {
            panic!("not lost")
        };
        assert_eq!((connection, from), (info.connection, address(2)));
        assert_eq!(reason, LostReason::Closed { code: 0, reason: "closed".to_owned() });
        assert_eq!(server.peers(), []);
        server.close().await;
        assert_eq!(events.next().await, None, "the events end with the peer");
        assert_eq!(server.events().next().await, None);
    });
}

#[test]
fn a_restarted_peer_is_noticed_by_its_boot_epoch() {
    let world = World::new(3);
    let (server, client) = (start(&world, 1), start(&world, 2));
    let handle = world.clone();
    drop(server);
    world.run(async move {
        let mut events = client.events();
        let remote = client.remote(address(1));
        wait(&remote, 1).await.unwrap();
        let Some(PeerEvent::Connected(first)) = events.next().await else { panic!("not connected") };
        let _server = start(&handle, 1);
        let again = remote.call::<_, (), Never>("wait", &1u64).idempotent(true).await;
        assert_eq!(again, Ok(()));
        let lost = events.next().await;
        assert!(matches!(&lost, Some(PeerEvent::Lost { reason: LostReason::PeerRestarted, .. })), "{lost:?}");
        let Some(PeerEvent::Restarted { address: at, before, now }) = events.next().await else {
            panic!("not noticed")
        };
        assert_eq!((at, before), (address(1), first.epoch));
        let Some(PeerEvent::Connected(second)) = events.next().await else { panic!("not connected") };
        assert_eq!((second.epoch, second.client_id == first.client_id), (now, false));
    });
}

#[test]
fn a_draining_peer_says_so() {
    let world = World::new(4);
    let (server, client) = (start(&world, 1), start(&world, 2));
    let observer = world.observer();
    world.run(async move {
        let mut events = client.events();
        let remote = client.remote(address(1));
        let open = observer.spawn("open", async move { wait(&remote, 300).await });
        assert!(matches!(events.next().await, Some(PeerEvent::Connected(_))));
        observer.sleep(Duration::from_millis(50)).await;
        server.drain(Duration::from_secs(5)).await;
        open.await.unwrap().unwrap();
        assert!(
            matches!(events.next().await, Some(PeerEvent::Draining { address: at, .. }) if at == address(1))
        );
        assert!(matches!(events.next().await, Some(PeerEvent::Lost { .. })));
    });
}

#[test]
fn a_peer_that_is_sent_away_hears_why_and_may_come_back() {
    let world = World::new(5);
    let (server, client) = (start(&world, 1), start(&world, 2));
    let observer = world.observer();
    world.run(async move {
        let remote = client.remote(address(1));
        let other = remote.clone();
        let open = observer.spawn("open", async move { wait(&other, 60_000).await });
        observer.sleep(Duration::from_millis(100)).await;
        assert_eq!(server.disconnect(address(9), "nobody"), 0);
        assert_eq!(server.disconnect(address(2), "too loud"), 1);
        let Err(CallError::Rpc(error)) = open.await.unwrap() else { panic!("it ended well") };
        assert_eq!((error.code, error.outcome), (Code::ConnectionLost, Outcome::Unknown));
        assert!(error.message.contains("too loud"), "{error}");
        assert_eq!(server.peers(), []);
        wait(&remote, 1).await.unwrap();
        assert_eq!(server.peers().len(), 1);
    });
}

#[test]
fn a_peer_that_is_refused_gets_no_call_served() {
    let world = World::new(6);
    let (open, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let executions = Arc::new(AtomicU64::new(0));
    let (door, counted, runs) = (Arc::clone(&open), Arc::clone(&asked), Arc::clone(&executions));
    let server = start_with(&world, 1, |builder| {
        let counting = Services::new().method("count", move |_: Ctx, (): ()| {
            runs.fetch_add(1, Ordering::Relaxed);
            async { Ok::<_, Never>(()) }
        });
        builder.services(counting).on_connect(move |info| {
            counted.fetch_add(1, Ordering::Relaxed);
            assert_eq!((info.address, info.inbound), (address(2), true));
            if door.load(Ordering::Relaxed) { Ok(()) } else { Err("members only".to_owned()) }
        })
    });
    let client = start(&world, 2);
    world.run(async move {
        let mut events = server.events();
        let remote = client.remote(address(1));
        let refused = remote.call::<_, (), Never>("count", &()).once().await;
        let Err(CallError::Rpc(error)) = refused else { panic!("it was served") };
        assert_eq!(error.code, Code::ConnectionLost);
        assert!(error.message.contains("members only"), "{error}");
        assert_eq!((asked.load(Ordering::Relaxed), executions.load(Ordering::Relaxed)), (1, 0));
        open.store(true, Ordering::Relaxed);
        remote.call::<_, (), Never>("count", &()).once().await.unwrap();
        assert_eq!((asked.load(Ordering::Relaxed), executions.load(Ordering::Relaxed)), (2, 1));
        let first = events.next().await;
        assert!(matches!(first, Some(PeerEvent::Connected(_))), "who was refused was never there: {first:?}");
    });
}

#[test]
fn a_slow_reader_of_events_is_told_what_it_missed() {
    let world = World::new(7);
    let (server, client) = (start(&world, 1), start(&world, 2));
    world.run(async move {
        let mut events = server.events();
        let remote = client.remote(address(1));
        for _ in 0..EVENTS_MAX {
            wait(&remote, 0).await.unwrap();
            client.disconnect(address(1), "again");
        }
        client.close().await;
        server.close().await;
        let Some(PeerEvent::Missed(missed)) = events.next().await else { panic!("nothing was missed") };
        let mut seen = 0;
        while let Some(event) = events.next().await {
            assert!(!matches!(event, PeerEvent::Missed(_)));
            seen += 1;
        }
        assert_eq!(seen, EVENTS_MAX as u64, "as many as are kept");
        assert_eq!(missed + seen, 2 * EVENTS_MAX as u64);
    });
}

#[test]
fn every_call_ends_at_its_own_deadline_whatever_the_order() {
    let world = World::new(21);
    let (_server, client) = (start(&world, 1), start(&world, 2));
    let observer = world.observer();
    world.run(async move {
        let remote = client.remote(address(1));
        wait(&remote, 1).await.unwrap();
        let begun = observer.now();
        let calls: Vec<_> = [900, 300, 5_000, 600, 300]
            .into_iter()
            .map(|limit_ms| {
                let call = remote.call::<_, (), Never>("wait", &60_000u64).once();
                let (call, observer) = (call.timeout(Duration::from_millis(limit_ms)), observer.clone());
                let ended = observer.clone().spawn("call", async move {
                    let CallError::Rpc(error) = call.await.unwrap_err();
                    (error.code, observer.now() - begun)
                });
                (limit_ms, ended)
            })
            .collect();
        for (limit_ms, ended) in calls {
            let (code, took) = ended.await.unwrap();
            assert_eq!(code, Code::Timeout);
            let limit = Duration::from_millis(limit_ms);
            assert!(took >= limit && took < limit + Duration::from_millis(20), "{took:?} for {limit:?}");
        }
        let late = remote.call::<_, (), Never>("wait", &1u64).deadline(observer.now()).await;
        let CallError::Rpc(error) = late.unwrap_err();
        assert_eq!((error.code, error.outcome), (Code::Timeout, Outcome::NotExecuted));
    });
}

#[test]
fn a_drain_has_nothing_to_wait_for_when_calls_were_answered_or_given_up() {
    let world = World::new(22);
    let (_server, client) = (start(&world, 1), start(&world, 2));
    let observer = world.observer();
    world.run(async move {
        let remote = client.remote(address(1));
        wait(&remote, 1).await.unwrap();
        let given_up = observer.timeout(Duration::from_millis(50), wait(&remote, 60_000)).await;
        assert!(given_up.is_err());
        let begun = observer.now();
        client.drain(Duration::from_secs(60)).await;
        assert!(observer.now() - begun < Duration::from_secs(1), "the grace was waited for");
    });
}

#[test]
fn a_draining_peer_makes_no_new_calls_of_its_own() {
    let world = World::new(23);
    let (server, client) = (start(&world, 1), start(&world, 2));
    let observer = world.observer();
    world.run(async move {
        let remote = client.remote(address(1));
        let open = observer.spawn("open", async move { wait(&remote, 500).await });
        observer.sleep(Duration::from_millis(50)).await;
        let draining = server.clone();
        let drain = observer.spawn("drain", async move { draining.drain(Duration::from_secs(5)).await });
        observer.sleep(Duration::from_millis(50)).await;
        let CallError::Rpc(error) = wait(&server.remote(address(2)), 1).await.unwrap_err();
        assert_eq!((error.code, error.outcome), (Code::Cancelled, Outcome::NotExecuted));
        assert_eq!(open.await.unwrap(), Ok(()));
        drain.await.unwrap();
    });
}

#[test]
fn a_handler_whose_caller_is_gone_does_not_go_on() {
    let world = World::new(24);
    let ended = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&ended);
    let slow = Services::new().method("slow", move |ctx: Ctx, (): ()| {
        let ended = Arc::clone(&counted);
        async move {
            ctx.runtime.sleep(Duration::from_secs(5)).await;
            ended.fetch_add(1, Ordering::Relaxed);
            Ok::<_, Never>(())
        }
    });
    let _server = start_with(&world, 1, |builder| builder.services(slow));
    let client = start(&world, 2);
    let observer = world.observer();
    world.run(async move {
        let call = client.remote(address(1)).call::<_, (), Never>("slow", &()).once();
        observer.spawn("call", call.timeout(Duration::from_secs(60)).into_future());
        observer.sleep(Duration::from_millis(100)).await;
        client.close().await;
        observer.sleep(Duration::from_secs(20)).await;
    });
    assert_eq!(ended.load(Ordering::Relaxed), 0);
}
