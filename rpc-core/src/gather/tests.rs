use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::peer::Peer;
use crate::rpc::{Call, Code, Ctx, Never, Services};
use crate::sim::World;

type Error = CallError<Never>;

/// Five servers; server `n` answers `n` after `n` times 100 ms.
struct Servers {
    world: World,
    client: Peer,
    _peers: Vec<Peer>,
    /// Handlers that ran to their end, and that were begun.
    ended: Arc<AtomicU64>,
    begun: Arc<AtomicU64>,
}

const SERVERS: u64 = 5;

fn address(node: u64) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 7_300 + node as u16))
}

impl Servers {
    fn new(seed: u64) -> Self {
        let world = World::new(seed);
        let (ended, begun) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let peers = (1..=SERVERS).map(|node| {
            let (ended, begun) = (Arc::clone(&ended), Arc::clone(&begun));
            let services = Services::new().method("number", move |ctx: Ctx, (): ()| {
                let ended = Arc::clone(&ended);
                begun.fetch_add(1, Ordering::Relaxed);
                async move {
                    ctx.runtime.sleep(Duration::from_millis(100 * node)).await;
                    ended.fetch_add(1, Ordering::Relaxed);
                    Ok::<_, Never>(node)
                }
            });
            Peer::builder(world.start(node))
                .services(services)
                .start_insecure(world.bind(node, address(node)))
        });
        let peers = peers.collect::<Result<_, _>>().unwrap();
        let client = Peer::builder(world.start(9)).start_insecure(world.bind(9, address(9))).unwrap();
        Self { world, client, _peers: peers, ended, begun }
    }

    /// One call to each of `nodes`.
    fn calls(&self, nodes: impl IntoIterator<Item = u64>) -> Vec<Call<u64, Never>> {
        let call = |node| self.client.remote(address(node)).call("number", &()).once();
        nodes.into_iter().map(call).map(|call| call.timeout(Duration::from_secs(2))).collect()
    }

    fn run<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> (T, Duration) {
        let before = self.world.now();
        let output = self.world.run(future);
        (output, self.world.now() - before)
    }

    /// Gives cancellations and handlers the time to get there.
    fn settle(&self) {
        let observer = self.world.observer();
        self.world.run(async move { observer.sleep(Duration::from_secs(1)).await });
    }

    fn handlers(&self) -> (u64, u64) {
        (self.begun.load(Ordering::Relaxed), self.ended.load(Ordering::Relaxed))
    }
}

fn millis(duration: Duration) -> u128 {
    duration.as_millis()
}

#[test]
fn all_waits_for_the_slowest_and_keeps_the_order_of_the_calls() {
    let servers = Servers::new(1);
    let (replies, took) = servers.run(all(servers.calls([3, 1, 2])));
    let values: Vec<_> = replies.values().map(|(position, value)| (position, *value)).collect();
    assert_eq!(values, [(0, 3), (1, 1), (2, 2)]);
    assert!((300..320).contains(&millis(took)), "{took:?}: the calls run side by side");
}

#[test]
fn any_takes_the_fastest_and_cancels_the_others() {
    let servers = Servers::new(2);
    let (result, took) = servers.run(any(servers.calls([4, 2, 3])));
    assert_eq!(result, Ok((1, 2)));
    assert!(millis(took) < 220);
    servers.settle();
    assert_eq!(servers.handlers(), (3, 1), "three began, the two that were cancelled did not end");
}

#[test]
fn a_quorum_ends_with_its_last_success_and_says_what_it_left() {
    let servers = Servers::new(3);
    let (replies, took) = servers.run(quorum(2, servers.calls([5, 1, 2])));
    let replies = replies.unwrap();
    assert_eq!(replies[0], Reply::Cancelled);
    assert_eq!(replies[0].outcome(), Outcome::Unknown);
    assert_eq!((&replies[1], &replies[2]), (&Reply::Ok(1), &Reply::Ok(2)));
    assert!((200..220).contains(&millis(took)));
}

#[test]
fn a_quorum_that_cannot_be_reached_ends_at_once_with_every_reason() {
    let servers = Servers::new(4);
    let nobody = |_| {
        let call: Call<u64, Never> = servers.client.remote(address(1)).call("no such method", &());
        call
    };
    let calls: Vec<_> = servers.calls([5]).into_iter().chain((0..2).map(nobody)).collect();
    let (result, took) = servers.run(quorum(2, calls));
    let short = result.unwrap_err();
    assert!(millis(took) < 10, "{took:?}: the slow call is not waited for");
    assert_eq!(short.replies[0], Reply::Cancelled);
    for position in [1, 2] {
        let Reply::Failed(CallError::Rpc(error)) = &short.replies[position] else { panic!("{short}") };
        assert_eq!((error.code, error.outcome), (Code::MethodNotFound, Outcome::NotExecuted));
    }
    assert!(short.to_string().starts_with("0 of 3 calls succeeded, 2 wanted; 0: cancelled"), "{short}");
}

#[test]
fn a_quorum_of_more_than_there_are_starts_nothing() {
    let servers = Servers::new(5);
    let (result, _) = servers.run(quorum(3, servers.calls([1, 2])));
    let short = result.unwrap_err();
    assert!(short.replies.iter().all(|reply| reply.outcome() == Outcome::NotExecuted));
    servers.settle();
    assert_eq!(servers.handlers(), (0, 0));
    let (result, _) = servers.run(quorum(0, servers.calls([1, 2])));
    assert!(result.unwrap().iter().all(|reply| *reply == Reply::NotStarted));
}

#[test]
fn first_gives_what_there_is_when_fewer_succeed() {
    let servers = Servers::new(6);
    let (replies, took) = servers.run(first(2, servers.calls([1, 2, 3])));
    assert_eq!(replies.values().count(), 2);
    assert!(millis(took) < 220);
    // Nobody listens at 8: the call fails after its 2 s, without having been executed.
    let (replies, _) = servers.run(first(2, servers.calls([1, 8])));
    assert_eq!(replies.values().count(), 1);
    assert_eq!(replies[1].outcome(), Outcome::NotExecuted);
    assert_eq!(replies.failures().count(), 1);
}

#[test]
fn at_the_deadline_the_rest_is_cancelled() {
    let servers = Servers::new(7);
    let (runtime, calls) = (servers.world.observer(), servers.calls([1, 2, 3, 4]));
    let deadline = runtime.now() + Duration::from_millis(250);
    let (replies, took) = servers.run(async move { until(&runtime, deadline, calls).await });
    assert_eq!(millis(took), 250);
    let expected = [Reply::Ok(1), Reply::Ok(2), Reply::Cancelled, Reply::Cancelled];
    assert_eq!(replies.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn a_hedge_asks_the_next_peer_only_after_a_pause_or_a_failure() {
    let servers = Servers::new(8);
    let hedge = |nodes: Vec<u64>, pause| {
        let (runtime, calls) = (servers.world.observer(), servers.calls(nodes));
        servers.run(async move { hedged(&runtime, Duration::from_millis(pause), calls).await })
    };
    // The first answers in time: nobody else is asked.
    let (result, took) = hedge(vec![1, 2, 3], 150);
    assert_eq!((result, millis(took) < 110), (Ok((0, 1)), true));
    servers.settle();
    assert_eq!(servers.handlers(), (1, 1));
    // The first is slow: the second is asked after 50 ms and is faster.
    let (result, took) = hedge(vec![5, 1, 2], 70);
    assert_eq!(result, Ok((1, 1)));
    assert!((170..190).contains(&millis(took)), "{took:?}");
    // The first fails at once: the second is asked at once.
    let calls: Vec<Call<u64, Never>> =
        vec![servers.client.remote(address(1)).call("no such method", &()), servers.calls([2]).remove(0)];
    let runtime = servers.world.observer();
    let pause = Duration::from_secs(60);
    let (result, took) = servers.run(async move { hedged(&runtime, pause, calls).await });
    assert_eq!((result, millis(took) < 220), (Ok((1, 2)), true));
}

#[test]
fn a_hedged_quorum_starts_as_many_as_it_needs() {
    let servers = Servers::new(9);
    let (runtime, calls) = (servers.world.observer(), servers.calls([1, 2, 3, 4]));
    let (replies, _) = servers
        .run(async move { scatter(calls).hedged(&runtime, Duration::from_secs(1)).quorum(2).await.unwrap() });
    assert_eq!([&replies[2], &replies[3]], [&Reply::NotStarted; 2]);
    servers.settle();
    assert_eq!(servers.handlers(), (2, 2));
}

#[test]
fn as_a_stream_results_come_in_the_order_of_their_ends() {
    let servers = Servers::new(10);
    let calls = servers.calls([3, 1, 2]);
    let (order, _) = servers.run(async move {
        let results: Vec<(usize, Result<u64, Error>)> = scatter(calls).collect().await;
        results.into_iter().map(|(position, result)| (position, result.unwrap())).collect::<Vec<_>>()
    });
    assert_eq!(order, [(1, 1), (2, 2), (0, 3)]);
}

#[test]
fn a_stream_that_met_its_deadline_stays_ended() {
    let servers = Servers::new(12);
    let (runtime, calls) = (servers.world.observer(), servers.calls([1, 2]));
    servers.run(async move {
        let mut results = scatter(calls).until(&runtime, runtime.now() + Duration::from_millis(150));
        assert_eq!(results.next().await, Some((0, Ok(1))));
        assert_eq!(results.next().await, None);
        assert_eq!(results.next().await, None);
    });
}

#[test]
fn dropping_the_gathering_cancels_every_call() {
    let servers = Servers::new(11);
    let (runtime, calls) = (servers.world.observer(), servers.calls([3, 4, 5]));
    let (result, _) =
        servers.run(async move { runtime.timeout(Duration::from_millis(150), all(calls)).await });
    assert!(result.is_err());
    servers.settle();
    assert_eq!(servers.handlers(), (3, 0));
}

#[test]
fn a_hedge_starts_all_at_once_where_all_are_wanted_and_as_many_as_a_count_needs() {
    let servers = Servers::new(13);
    let (runtime, calls) = (servers.world.observer(), servers.calls([1, 2, 3]));
    let pause = Duration::from_secs(60);
    let hedged = |calls, runtime: &Runtime| scatter::<Vec<_>, Call<u64, Never>>(calls).hedged(runtime, pause);
    let (replies, took) = servers.run(hedged(calls, &runtime).all());
    assert_eq!((replies.values().count(), millis(took) < 320), (3, true), "{took:?}");
    let calls = servers.calls([1, 2, 3]);
    let (replies, took) = servers.run(hedged(calls, &runtime).first(2));
    assert_eq!((&replies[2], millis(took) < 220), (&Reply::NotStarted, true), "{took:?}");
}

#[test]
fn what_is_there_at_the_deadline_counts() {
    let servers = Servers::new(14);
    let runtime = servers.world.observer();
    let calls = [1, 2].map(|value| std::future::ready(Ok::<u64, Error>(value)));
    let deadline = runtime.now();
    let (replies, _) = servers.run(async move { until(&runtime, deadline, calls).await });
    assert_eq!(replies.values().count(), 2);
}

#[test]
fn what_was_not_asked_when_enough_was_known_never_started() {
    let servers = Servers::new(16);
    let calls = [1, 2].map(|value| std::future::ready(Ok::<u64, Error>(value)));
    let (replies, _) = servers.run(quorum(1, calls));
    let replies = replies.unwrap();
    assert_eq!(replies.values().count(), 1);
    assert!(replies.iter().any(|reply| *reply == Reply::NotStarted), "{replies:?}");
}
