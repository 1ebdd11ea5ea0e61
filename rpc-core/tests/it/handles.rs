//! Services and streams in arguments and results, over good and bad networks.

#![allow(clippy::unwrap_used, reason = "also in functions that tests call")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rpc_core::driver::fault::LinkPolicy;
use rpc_core::peer::Peer;
use rpc_core::rpc::handle::HANDLES_PER_BODY_MAX;
use rpc_core::rpc::session::HANDLES_MAX;
use rpc_core::rpc::stream::{self, Window};
use rpc_core::rpc::{CallError, Code, Ctx, Never, Outcome, RpcError, ServiceRef, Services, Sink, Source};
use rpc_core::runtime::Runtime;
use rpc_core::sim::World;

/// What a client offers.
#[rpc_core::service]
trait Guest {
    async fn ready(&self, ctx: Ctx, cake: u64) -> Result<u64, Never>;
}

/// What the server offers.
#[rpc_core::service(name = "bakery")]
trait Baker {
    /// Calls `guest` once for each cake.
    async fn bake(&self, ctx: Ctx, cakes: u64, guest: ServiceRef<GuestClient>) -> Result<u64, String>;
    /// Keeps `guest`, for later.
    async fn keep(&self, ctx: Ctx, guest: ServiceRef<GuestClient>) -> Result<(), Never>;
    /// Calls who was kept.
    async fn call_kept(&self, ctx: Ctx) -> Result<u64, String>;
    async fn forget_kept(&self, ctx: Ctx) -> Result<(), Never>;
    /// A service as a result.
    async fn waiter(&self, ctx: Ctx) -> Result<ServiceRef<GuestClient>, Never>;
    /// Pushes `0..count`.
    #[rpc(timeout = "60m")]
    async fn count(&self, ctx: Ctx, count: u64, numbers: Sink<u64>) -> Result<u64, String>;
    /// Sums what it is pushed.
    #[rpc(timeout = "60m")]
    async fn sum(&self, ctx: Ctx, numbers: Source<u64>) -> Result<u64, String>;
    /// Pushes back twice what it is pushed.
    #[rpc(timeout = "60m")]
    async fn double(&self, ctx: Ctx, numbers: Source<u64>, doubled: Sink<u64>) -> Result<(), String>;
    /// A stream as a result.
    async fn listing(&self, ctx: Ctx, count: u64) -> Result<Source<u64>, Never>;
    /// Takes a stream and does not read it.
    async fn hold(&self, ctx: Ctx, numbers: Source<u64>) -> Result<(), Never>;
}

#[derive(Default)]
struct Bakery {
    kept: Mutex<Option<ServiceRef<GuestClient>>>,
    held: Mutex<Option<Source<u64>>>,
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl Baker for Bakery {
    async fn bake(&self, _: Ctx, cakes: u64, guest: ServiceRef<GuestClient>) -> Result<u64, String> {
        let guest = guest.client().map_err(text)?;
        let mut sum = 0;
        for cake in 0..cakes {
            sum += guest.ready(cake).await.map_err(text)?;
        }
        Ok(sum)
    }

    async fn keep(&self, _: Ctx, guest: ServiceRef<GuestClient>) -> Result<(), Never> {
        *self.kept.lock().unwrap() = Some(guest);
        Ok(())
    }

    async fn call_kept(&self, _: Ctx) -> Result<u64, String> {
        let kept = self.kept.lock().unwrap().clone();
        let guest = kept.ok_or("nobody")?.client().map_err(text)?;
        guest.ready(20).await.map_err(text)
    }

    async fn forget_kept(&self, _: Ctx) -> Result<(), Never> {
        *self.kept.lock().unwrap() = None;
        Ok(())
    }

    async fn waiter(&self, _: Ctx) -> Result<ServiceRef<GuestClient>, Never> {
        Ok(ServiceRef::new(guest_services(Arc::new(Hungry::default()))).unwrap())
    }

    async fn count(&self, _: Ctx, count: u64, numbers: Sink<u64>) -> Result<u64, String> {
        for number in 0..count {
            numbers.send(&number).await.map_err(text)?;
        }
        numbers.finish().await.map_err(text)?;
        Ok(count)
    }

    async fn sum(&self, _: Ctx, mut numbers: Source<u64>) -> Result<u64, String> {
        let mut sum = 0;
        while let Some(number) = numbers.next().await {
            sum += number.map_err(text)?;
        }
        Ok(sum)
    }

    async fn double(&self, _: Ctx, mut numbers: Source<u64>, doubled: Sink<u64>) -> Result<(), String> {
        while let Some(number) = numbers.next().await {
            doubled.send(&(2 * number.map_err(text)?)).await.map_err(text)?;
        }
        doubled.finish().await.map_err(text)
    }

    async fn listing(&self, ctx: Ctx, count: u64) -> Result<Source<u64>, Never> {
        let (sink, source) = stream::channel(Window::default());
        ctx.runtime.spawn("listing", async move {
            for number in 0..count {
                sink.send(&number).await?;
            }
            sink.finish().await
        });
        Ok(source)
    }

    async fn hold(&self, _: Ctx, numbers: Source<u64>) -> Result<(), Never> {
        *self.held.lock().unwrap() = Some(numbers);
        Ok(())
    }
}

/// Counts its calls.
#[derive(Default)]
struct Hungry {
    calls: AtomicU64,
}

impl Guest for Hungry {
    async fn ready(&self, _: Ctx, cake: u64) -> Result<u64, Never> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        Ok(cake + 1)
    }
}

fn address(node: u64) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 7_400 + node as u16))
}

fn start(world: &World, node: u64, services: Services) -> Peer {
    let runtime = world.start(node);
    Peer::builder(runtime).services(services).start_insecure(world.bind(node, address(node))).unwrap()
}

struct Pair {
    world: World,
    server: Peer,
    client: Peer,
    bakery: Arc<Bakery>,
}

impl Pair {
    fn new(seed: u64) -> Self {
        let world = World::new(seed);
        let bakery = Arc::new(Bakery::default());
        let server = start(&world, 1, baker_services(Arc::clone(&bakery)));
        let client = start(&world, 2, Services::new());
        Self { world, server, client, bakery }
    }

    fn baker(&self) -> BakerClient {
        BakerClient::new(self.client.remote(address(1)))
    }
}

fn guest(hungry: &Arc<Hungry>) -> ServiceRef<GuestClient> {
    ServiceRef::new(guest_services(Arc::clone(hungry))).unwrap()
}

/// The error of the RPC system in `result`.
fn rpc_error<T: std::fmt::Debug, E: std::fmt::Debug>(result: Result<T, CallError<E>>) -> RpcError {
    match result {
        Err(CallError::Rpc(error)) => error,
        other => panic!("{other:?} is no RPC error"),
    }
}

/// Reads a stream to its end: the items, and the error if one ended it.
async fn read(mut source: Source<u64>) -> (Vec<u64>, Option<RpcError>) {
    let mut items = Vec::new();
    while let Some(item) = source.next().await {
        match item {
            Ok(item) => items.push(item),
            Err(error) => {
                assert!(source.next().await.is_none(), "a stream ends once");
                return (items, Some(error));
            }
        }
    }
    (items, None)
}

#[test]
fn the_server_calls_a_service_that_it_was_passed() {
    let pair = Pair::new(1);
    let (baker, hungry) = (pair.baker(), Arc::new(Hungry::default()));
    let passed = guest(&hungry);
    assert_eq!(pair.world.run(async move { baker.bake(4, passed).await }), Ok(1 + 2 + 3 + 4));
    assert_eq!(hungry.calls.load(Ordering::Relaxed), 4);
}

#[test]
fn a_service_that_is_a_result_can_be_called() {
    let pair = Pair::new(2);
    let baker = pair.baker();
    pair.world.run(async move {
        let waiter = baker.waiter().await.unwrap().client().unwrap();
        assert_eq!(waiter.ready(7).await, Ok(8));
    });
}

#[test]
fn a_kept_service_outlives_its_call_and_is_released_when_it_is_dropped() {
    let pair = Pair::new(3);
    let (baker, hungry) = (pair.baker(), Arc::new(Hungry::default()));
    let (passed, client, observer) = (guest(&hungry), pair.client.clone(), pair.world.observer());
    pair.world.run(async move {
        baker.keep(passed).await.unwrap();
        assert_eq!(baker.call_kept().await, Ok(21));
        assert_eq!(handles(&client), 1);
        baker.forget_kept().await.unwrap();
        observer.sleep(Duration::from_millis(50)).await;
        assert_eq!(handles(&client), 0, "the release has come");
    });
    assert_eq!(Arc::strong_count(&hungry), 1, "the service is gone");
}

#[test]
fn a_client_of_a_lost_connection_gets_a_definite_error() {
    let pair = Pair::new(4);
    let (baker, hungry) = (pair.baker(), Arc::new(Hungry::default()));
    let (passed, server, observer) = (guest(&hungry), pair.server.clone(), pair.world.observer());
    pair.world.run(async move {
        baker.keep(passed).await.unwrap();
        assert_eq!(server.disconnect(address(2), "tidying up"), 1);
        observer.sleep(Duration::from_millis(100)).await;
        // The next call makes a new connection, on which nobody was passed.
        let error = baker.call_kept().await.unwrap_err();
        assert!(
            matches!(&error, CallError::Method(text) if text.contains("CONNECTION_LOST (not executed)")),
            "{error}"
        );
    });
    assert_eq!(Arc::strong_count(&hungry), 1, "the service is gone");
}

#[test]
fn an_idle_connection_lives_as_long_as_a_service_is_held() {
    let pair = Pair::new(5);
    let (baker, hungry) = (pair.baker(), Arc::new(Hungry::default()));
    let (passed, client, observer) = (guest(&hungry), pair.client.clone(), pair.world.observer());
    pair.world.run(async move {
        baker.keep(passed).await.unwrap();
        observer.sleep(Duration::from_secs(300)).await;
        assert_eq!(baker.call_kept().await, Ok(21));
        baker.forget_kept().await.unwrap();
        observer.sleep(Duration::from_secs(60)).await;
        assert_eq!(client.peers(), [], "what nobody needs ends");
    });
}

#[test]
fn a_service_of_this_side_or_of_nowhere_is_not_called() {
    let hungry = Arc::new(Hungry::default());
    let error = guest(&hungry).client().unwrap_err();
    assert_eq!((error.code, error.outcome), (Code::BadRequest, Outcome::NotExecuted));
    let nowhere: ServiceRef<GuestClient> = rpc_core::rpc::codec::decode(&[0x82, 0, 0]).unwrap();
    assert_eq!(nowhere.client().unwrap_err().code, Code::BadRequest);
    assert!(rpc_core::rpc::codec::encode(&guest(&hungry)).is_err(), "it travels only in the body of a call");
}

#[test]
fn handles_above_the_limit_are_refused_before_the_call() {
    const PER_CALL: usize = HANDLES_PER_BODY_MAX;
    let world = World::new(6);
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keeper = Arc::clone(&kept);
    let server = start(
        &world,
        1,
        Services::new().method("keep", move |_: Ctx, guests: Vec<ServiceRef>| {
            keeper.lock().unwrap().extend(guests);
            async { Ok::<_, Never>(()) }
        }),
    );
    let client = start(&world, 2, Services::new());
    let passed: ServiceRef = ServiceRef::new(guest_services(Arc::new(Hungry::default()))).unwrap();
    let observer = world.observer();
    world.run(async move {
        let remote = client.remote(address(1));
        let keep = |count: usize| remote.call::<_, (), Never>("keep", &vec![passed.clone(); count]).once();
        for _ in 0..HANDLES_MAX / PER_CALL {
            keep(PER_CALL).await.unwrap();
        }
        let error = rpc_error(keep(1).await);
        assert_eq!((error.code, error.outcome), (Code::ServerBusy, Outcome::NotExecuted));
        assert_eq!((handles(&client), kept.lock().unwrap().len()), (HANDLES_MAX, HANDLES_MAX));
        kept.lock().unwrap().clear();
        observer.sleep(Duration::from_millis(20)).await;
        assert_eq!((handles(&client), handles(&server)), (0, 0));
        keep(1).await.unwrap();
        let error = rpc_error(keep(PER_CALL + 1).await);
        assert_eq!((error.code, error.outcome), (Code::BadRequest, Outcome::NotExecuted));
    });
}

#[test]
fn the_server_pushes_a_stream() {
    let pair = Pair::new(11);
    let (baker, client) = (pair.baker(), pair.client.clone());
    let observer = pair.world.observer();
    pair.world.run(async move {
        let (sink, source) = stream::channel(Window::default());
        let call = observer.spawn("call", baker.count(10_000, sink).into_future());
        assert_eq!(read(source).await, ((0..10_000).collect(), None));
        assert_eq!(call.await.unwrap(), Ok(10_000));
        assert_eq!(handles(&client), 0);
    });
}

#[test]
fn the_client_pushes_a_stream() {
    let pair = Pair::new(12);
    let (baker, client) = (pair.baker(), pair.client.clone());
    let observer = pair.world.observer();
    pair.world.run(async move {
        let (sink, source) = stream::channel(Window::default());
        let call = observer.spawn("call", baker.sum(source).into_future());
        for number in 0..10_000u64 {
            sink.send(&number).await.unwrap();
        }
        sink.finish().await.unwrap();
        assert_eq!(call.await.unwrap(), Ok((0..10_000).sum()));
        observer.sleep(Duration::from_millis(20)).await;
        assert_eq!(handles(&client), 0);
    });
}

#[test]
fn one_method_streams_both_ways() {
    let pair = Pair::new(13);
    let baker = pair.baker();
    let observer = pair.world.observer();
    pair.world.run(async move {
        let (numbers, theirs) = stream::channel(Window::default());
        let (doubled, source) = stream::channel(Window { items: 7, bytes: 64 });
        let call = observer.spawn("call", baker.double(theirs, doubled).into_future());
        let feed = observer.spawn("feed", async move {
            for number in 0..3_000u64 {
                numbers.send(&number).await?;
            }
            numbers.finish().await
        });
        assert_eq!(read(source).await, ((0..3_000).map(|number| 2 * number).collect(), None));
        assert_eq!(feed.await.unwrap(), Ok(()));
        assert_eq!(call.await.unwrap(), Ok(()));
    });
}

#[test]
fn a_stream_can_be_a_result() {
    let pair = Pair::new(14);
    let baker = pair.baker();
    pair.world.run(async move {
        let source = baker.listing(5_000).await.unwrap();
        assert_eq!(read(source).await, ((0..5_000).collect(), None));
    });
}

#[test]
fn a_stream_that_stays_at_home_works_too() {
    let world = World::new(15);
    let observer = world.observer();
    world.run(async move {
        let (sink, source) = stream::channel(Window { items: 3, bytes: 64 });
        let feed = observer.spawn("feed", async move {
            for number in 0..100u64 {
                sink.send(&number).await?;
            }
            sink.finish().await
        });
        assert_eq!(read(source).await, ((0..100).collect(), None));
        assert_eq!(feed.await.unwrap(), Ok(()));
    });
}

#[test]
fn a_slow_consumer_holds_up_the_producer_at_the_window() {
    let pair = Pair::new(16);
    let (baker, observer) = (pair.baker(), pair.world.observer());
    let added = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&added);
    pair.world.run(async move {
        let (sink, source) = stream::channel(Window { items: 100, bytes: 1 << 20 });
        baker.hold(source).await.unwrap();
        observer.spawn("feed", async move {
            loop {
                sink.send(&1u64).await?;
                counted.fetch_add(1, Ordering::Relaxed);
            }
            #[allow(unreachable_code, reason = "names the type of the error")]
            Ok::<(), RpcError>(())
        });
        observer.sleep(Duration::from_secs(60)).await;
        assert_eq!(added.load(Ordering::Relaxed), 100, "items ahead of a consumer that reads nothing");
        let mut source = pair.bakery.held.lock().unwrap().take().unwrap();
        for _ in 0..60 {
            assert_eq!(source.next().await, Some(Ok(1)));
        }
        observer.sleep(Duration::from_secs(1)).await;
        let added = added.load(Ordering::Relaxed);
        assert!((150..=160).contains(&added), "{added} items");
    });
}

#[test]
fn a_dropped_source_stops_the_producer() {
    let pair = Pair::new(17);
    let (baker, client, observer) = (pair.baker(), pair.client.clone(), pair.world.observer());
    pair.world.run(async move {
        let (sink, mut source) = stream::channel(Window { items: 10, bytes: 1 << 10 });
        let call = observer.spawn("call", baker.count(u64::MAX, sink).into_future());
        for number in 0..100 {
            assert_eq!(source.next().await, Some(Ok(number)));
        }
        drop(source);
        let error = call.await.unwrap().unwrap_err();
        assert!(
            matches!(&error, CallError::Method(text) if text.contains("the consumer is gone")),
            "{error}"
        );
        observer.sleep(Duration::from_millis(20)).await;
        assert_eq!(handles(&client), 0);
    });
}

#[test]
fn a_dropped_or_failed_sink_is_an_error_after_the_items() {
    let pair = Pair::new(18);
    let (baker, observer) = (pair.baker(), pair.world.observer());
    pair.world.run(async move {
        for fail in [false, true] {
            let (sink, source) = stream::channel(Window::default());
            baker.hold(source).await.unwrap();
            for number in 0..5u64 {
                sink.send(&number).await.unwrap();
            }
            if fail {
                sink.fail(RpcError::new(Code::Forbidden, Outcome::Executed, "enough"));
            } else {
                drop(sink);
            }
            observer.sleep(Duration::from_millis(20)).await;
            let source = pair.bakery.held.lock().unwrap().take().unwrap();
            let (items, error) = read(source).await;
            assert_eq!(items, [0, 1, 2, 3, 4]);
            assert_eq!(error.unwrap().code, if fail { Code::Forbidden } else { Code::Aborted });
        }
    });
}

#[test]
fn a_call_that_fails_ends_the_stream_that_it_carried() {
    let pair = Pair::new(19);
    let client = pair.client.clone();
    pair.world.run(async move {
        let remote = client.remote(address(1));
        let (sink, source) = stream::channel::<u64>(Window::default());
        let error = rpc_error(remote.call::<_, (), Never>("no.such.method", &sink).await);
        assert_eq!(error.outcome, Outcome::NotExecuted);
        let (items, error) = read(source).await;
        assert_eq!((items, error.unwrap().code), (vec![], Code::Aborted));
        let (sink, source) = stream::channel::<u64>(Window::default());
        drop(remote.call::<_, (), Never>("never.sent", &source));
        assert_eq!(sink.send(&1).await.unwrap_err().code, Code::Aborted);
        assert_eq!(handles(&client), 0);
    });
}

#[test]
fn an_answer_that_nobody_reads_does_not_keep_its_stream() {
    let pair = Pair::new(20);
    let (client, server, observer) = (pair.client.clone(), pair.server.clone(), pair.world.observer());
    pair.world.run(async move {
        let listing = client.remote(address(1)).at("bakery");
        // Read as something else: the stream in it is not claimed.
        let error = rpc_error(listing.call::<_, String, Never>("listing", &1u64).await);
        assert_eq!(error.code, Code::Codec);
        assert_eq!(handles(&server), 1);
        observer.sleep(Duration::from_secs(11)).await;
        assert_eq!(handles(&server), 0);
    });
}

#[test]
fn a_lost_connection_ends_both_ends_with_an_error() {
    let pair = Pair::new(21);
    let (baker, observer, world) = (pair.baker(), pair.world.observer(), pair.world.clone());
    pair.world.run(async move {
        let (sink, source) = stream::channel(Window { items: 10, bytes: 1 << 10 });
        baker.hold(source).await.unwrap();
        let (numbers, theirs) = stream::channel::<u64>(Window::default());
        let call = observer.spawn("call", baker.count(u64::MAX, numbers).into_future());
        let reader = observer.spawn("reader", read(theirs));
        observer.sleep(Duration::from_millis(50)).await;
        world.crash(1);
        let _server = start(&world, 1, baker_services(Arc::new(Bakery::default())));
        assert_eq!(rpc_error(call.await.unwrap()).outcome, Outcome::Unknown);
        let (items, error) = reader.await.unwrap();
        assert_eq!(items, (0..items.len() as u64).collect::<Vec<_>>());
        assert_eq!(error.unwrap().code, Code::ConnectionLost);
        assert_eq!(sink.stopped().await.code, Code::ConnectionLost);
    });
}

/// A network that does everything wrong.
fn bad_link(loss: u32) -> LinkPolicy {
    LinkPolicy {
        loss,
        duplicate: 100_000,
        corrupt: 20_000,
        delay_min_us: 50,
        delay_max_us: 5_000,
        ..LinkPolicy::default()
    }
}

#[test]
fn streams_are_whole_and_in_order_over_bad_networks() {
    for (seed, loss) in (100..).zip([0, 10_000, 50_000, 100_000, 300_000]) {
        let pair = Pair::new(seed);
        pair.world.set_default_link(bad_link(loss));
        let (baker, client, observer) = (pair.baker(), pair.client.clone(), pair.world.observer());
        pair.world.run(async move {
            let tasks: Vec<_> = (0..8u64)
                .map(|number| {
                    let (baker, runtime) = (baker.clone(), observer.clone());
                    observer.spawn("stream", both_ways(baker, runtime, 300 + 50 * number, 1 + 13 * number))
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
            observer.sleep(Duration::from_secs(2)).await;
            assert_eq!(handles(&client), 0, "at loss {loss}");
        });
    }
}

/// Streams `count` numbers to the server and back, with windows of `items`.
async fn both_ways(baker: BakerClient, runtime: Runtime, count: u64, items: u64) {
    let window = Window { items, bytes: 64 * items };
    let (numbers, theirs) = stream::channel(window);
    let (doubled, source) = stream::channel(window);
    let call = runtime.spawn("call", baker.double(theirs, doubled).into_future());
    let feed = runtime.spawn("feed", async move {
        for number in 0..count {
            numbers.send(&number).await?;
        }
        numbers.finish().await
    });
    assert_eq!(read(source).await, ((0..count).map(|number| 2 * number).collect(), None));
    assert_eq!(feed.await.unwrap(), Ok(()));
    assert_eq!(call.await.unwrap(), Ok(()));
}

#[test]
fn every_stream_ends_once_whatever_restarts() {
    for seed in 200..220 {
        let pair = Pair::new(seed);
        pair.world.set_default_link(bad_link(50_000));
        let (baker, observer, world) = (pair.baker(), pair.world.observer(), pair.world.clone());
        let client = pair.client.clone();
        let mut random = pair.world.fork_random();
        pair.world.run(async move {
            let mut tasks = Vec::new();
            let mut _server = pair.server;
            for round in 0..6 {
                for _ in 0..4 {
                    let count = 1 + random.below(2_000);
                    let (sink, source) = stream::channel(Window { items: 64, bytes: 1 << 12 });
                    let call = baker.count(count, sink).timeout(Duration::from_secs(30)).into_future();
                    let call = observer.spawn("call", call);
                    tasks.push(observer.spawn("reader", async move {
                        let (items, error) = read(source).await;
                        assert_eq!(items, (0..items.len() as u64).collect::<Vec<_>>(), "no gap, no repeat");
                        assert_eq!(error.is_none(), items.len() as u64 == count, "complete or an error");
                        let called = call.await.unwrap();
                        assert!(called.is_err() || error.is_none(), "{called:?} and {error:?}");
                    }));
                }
                observer.sleep(Duration::from_millis(random.below(200))).await;
                if round % 2 == 1 {
                    world.crash(1);
                    _server = start(&world, 1, baker_services(Arc::new(Bakery::default())));
                }
            }
            for task in tasks {
                task.await.expect("a reader ends");
            }
            observer.sleep(Duration::from_secs(2)).await;
            assert_eq!(handles(&client), 0, "seed {seed}");
        });
    }
}

#[test]
fn many_small_items_cost_less_than_as_many_calls() {
    const COUNT: u64 = 20_000;
    let pair = Pair::new(22);
    let (baker, observer, client) = (pair.baker(), pair.world.observer(), pair.client.clone());
    pair.world.run(async move {
        let sent = || client.counters().datagrams_sent + client.counters().datagrams_received;
        let (before, begun) = (sent(), observer.now());
        let (sink, source) = stream::channel(Window::default());
        let call = observer.spawn("call", baker.count(COUNT, sink).into_future());
        assert_eq!(read(source).await.0.len() as u64, COUNT);
        call.await.unwrap().unwrap();
        let (streamed, took) = (sent() - before, observer.now() - begun);
        let (before, begun) = (sent(), observer.now());
        let tasks: Vec<_> = (0..64)
            .map(|_| {
                let baker = baker.clone();
                observer.spawn("caller", async move {
                    for _ in 0..COUNT / 64 {
                        baker.forget_kept().await.unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let (called, calls_took) = (sent() - before, observer.now() - begun);
        assert!(streamed * 4 < called, "{streamed} datagrams for items, {called} for calls");
        assert!(took * 4 < calls_took, "{took:?} for items, {calls_took:?} for calls");
    });
}

#[test]
fn a_draining_server_still_calls_back() {
    let pair = Pair::new(23);
    let (baker, server, observer) = (pair.baker(), pair.server.clone(), pair.world.observer());
    let slow = Services::new().method("ready", |ctx: Ctx, cake: u64| async move {
        ctx.runtime.sleep(Duration::from_millis(100)).await;
        Ok::<_, Never>(cake)
    });
    pair.world.run(async move {
        let call = observer.spawn("call", baker.bake(5, ServiceRef::new(slow).unwrap()).into_future());
        observer.sleep(Duration::from_millis(150)).await;
        server.drain(Duration::from_secs(5)).await;
        assert_eq!(call.await.unwrap(), Ok(1 + 2 + 3 + 4));
    });
}

#[test]
fn what_an_answer_carried_lives_as_long_as_it_is_held() {
    let pair = Pair::new(24);
    let (baker, observer) = (pair.baker(), pair.world.observer());
    let (client, server) = (pair.client.clone(), pair.server.clone());
    pair.world.run(async move {
        let waiter = baker.waiter().await.unwrap();
        let mut listing = baker.listing(3_000).await.unwrap();
        assert_eq!(listing.next().await, Some(Ok(0)));
        assert_eq!((handles(&client), handles(&server)), (2, 2));
        observer.sleep(Duration::from_secs(30)).await;
        assert_eq!(waiter.client().unwrap().ready(7).await, Ok(8));
        let (items, error) = read(listing).await;
        assert_eq!((items.len(), error), (2_999, None));
        drop(waiter);
        observer.sleep(Duration::from_millis(50)).await;
        assert_eq!((handles(&client), handles(&server)), (0, 0));
    });
}

/// A stream that a call takes along and one that its answer brings have the same index.
#[test]
fn one_call_carries_a_stream_each_way() {
    let world = World::new(25);
    let doubled = Services::new().method("doubled", |ctx: Ctx, mut numbers: Source<u64>| async move {
        let (sink, source) = stream::channel(Window::default());
        ctx.runtime.spawn("doubled", async move {
            while let Some(number) = numbers.next().await {
                sink.send(&(2 * number?)).await?;
            }
            sink.finish().await
        });
        Ok::<_, Never>(source)
    });
    let (server, client) = (start(&world, 1, doubled), start(&world, 2, Services::new()));
    let observer = world.observer();
    world.run(async move {
        let (sink, numbers) = stream::channel::<u64>(Window::default());
        let call = client.remote(address(1)).call::<_, Source<u64>, Never>("doubled", &numbers);
        let source = call.await.unwrap();
        assert_eq!((handles(&client), handles(&server)), (2, 2));
        let feed = observer.spawn("feed", async move {
            for number in 0..2_000 {
                sink.send(&number).await?;
            }
            sink.finish().await
        });
        assert_eq!(read(source).await, ((0..2_000).map(|number| 2 * number).collect(), None));
        assert_eq!(feed.await.unwrap(), Ok(()));
        observer.sleep(Duration::from_millis(50)).await;
        assert_eq!((handles(&client), handles(&server)), (0, 0));
    });
}

#[test]
fn a_dropped_source_is_forgotten_on_both_sides() {
    let pair = Pair::new(26);
    let (baker, observer) = (pair.baker(), pair.world.observer());
    let (client, server) = (pair.client.clone(), pair.server.clone());
    pair.world.run(async move {
        let mut listing = baker.listing(u64::MAX).await.unwrap();
        assert_eq!(listing.next().await, Some(Ok(0)));
        drop(listing);
        observer.sleep(Duration::from_millis(50)).await;
        assert_eq!((handles(&client), handles(&server)), (0, 0));
    });
}

#[test]
fn a_peer_that_ends_by_itself_ends_the_streams_that_it_reads() {
    let pair = Pair::new(27);
    let (baker, client) = (pair.baker(), pair.client.clone());
    pair.world.run(async move {
        let mut listing = baker.listing(u64::MAX).await.unwrap();
        assert_eq!(listing.next().await, Some(Ok(0)));
        client.close().await;
        assert_eq!(read(listing).await.1.unwrap().code, Code::ConnectionLost);
    });
}

/// What somebody says who keeps to nothing but the encoding.
#[test]
fn a_hostile_session_ends_its_own_streams_and_no_other_thing() {
    let pair = Pair::new(28);
    let (remote, observer) = (pair.client.remote(address(1)), pair.world.observer());
    let (server, bakery) = (pair.server.clone(), Arc::clone(&pair.bakery));
    pair.world.run(async move {
        let raw = |method: &str, body: &dyn Fn(&str) -> rpc_core::rpc::Call<(), Never>| body(method).once();
        // The first call on the connection carries the handle 0, the answer of the second one the handle 160.
        let (_sink, numbers) = stream::channel::<u64>(Window { items: 10, bytes: 1_000 });
        remote.at("bakery").call::<_, (), Never>("hold", &numbers).await.unwrap();
        let listing = remote.at("bakery").call::<_, Source<u64>, Never>("listing", &3_000u64).await.unwrap();
        assert_eq!(handles(&server), 2);
        raw("@ref.release", &|method| remote.call(method, &[160u64])).await.unwrap();
        for method in ["@ref.release", "@handle.claim"] {
            raw(method, &|method| remote.call(method, &vec![7u64; 256])).await.unwrap();
            let error = rpc_error(raw(method, &|method| remote.call(method, &vec![7u64; 257])).await);
            assert_eq!((error.code, error.outcome), (Code::BadRequest, Outcome::NotExecuted));
        }
        assert_eq!(read(listing).await.0.len(), 3_000, "no service was released, so nothing was");
        let none = None::<RpcError>;
        let push = (0u64, 0u64, 11u64, Bytes::from_static(&[1; 11]), false, none);
        let error = rpc_error(raw("@stream.push", &|method| remote.call(method, &push)).await);
        assert_eq!(error.code, Code::BadRequest, "ten were granted");
        let held = bakery.held.lock().unwrap().take().unwrap();
        assert_eq!(read(held).await.1.unwrap().code, Code::BadRequest);
        observer.sleep(Duration::from_millis(50)).await;
        assert_eq!(handles(&server), 0);
    });
}

/// Services and streams that `peer` passed or was passed.
fn handles(peer: &Peer) -> usize {
    peer.peers().iter().map(|info| info.handles).sum()
}
