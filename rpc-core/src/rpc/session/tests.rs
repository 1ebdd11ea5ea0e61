//! A session by itself: its connection is a channel that notes what is said and answers as it is told.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{OnceLock, Weak};

use futures_util::FutureExt;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::*;
use crate::endpoint::ConnId;
use crate::rpc::channel::{Attempt, Reply};
use crate::rpc::error::Failure;
use crate::rpc::reference::ServiceRef;
use crate::rpc::stream::{self, Inlet, Outlet, Push, Sink, Source, Window};
use crate::rpc::{Services, codec, handle};
use crate::runtime::Runtime;
use crate::sim::World;

/// What the peer of the session does with all that it is told.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Manner {
    Done,
    /// It asks for a pause, or for none.
    Busy(Option<Duration>),
    Refuses,
    /// It answers a millisecond later.
    Slow,
    /// It never answers.
    Silent,
}

struct Wire {
    runtime: Runtime,
    manner: Mutex<Manner>,
    said: Mutex<Vec<(MethodId, Bytes)>>,
    session: OnceLock<Weak<Session>>,
}

impl Channel for Wire {
    fn attempt(&self, attempt: Attempt) -> BoxFuture<Result<Reply, Failure>> {
        self.said.lock().unwrap().push((attempt.method, attempt.body));
        let answer = match *self.manner.lock().unwrap() {
            Manner::Done => Ok(Reply::from(Bytes::from_static(codec::NULL_ITEM))),
            Manner::Busy(retry_after) => {
                let busy = RpcError::not_executed(Code::ServerBusy, "later");
                Err(RpcError { retry_after, ..busy }.into())
            }
            Manner::Refuses => Err(RpcError::not_executed(Code::MethodNotFound, "no stream").into()),
            Manner::Slow => {
                let runtime = self.runtime.clone();
                return Box::pin(async move {
                    runtime.sleep(Duration::from_millis(1)).await;
                    Ok(Reply::from(Bytes::from_static(codec::NULL_ITEM)))
                });
            }
            Manner::Silent => return Box::pin(std::future::pending()),
        };
        Box::pin(async move { answer })
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, 1))
    }

    fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    fn carrier(&self, _: Option<ConnId>) -> Option<Carrier> {
        Some(self.session.get()?.upgrade()?.carrier())
    }
}

#[derive(Default)]
struct Connection {
    kept: Mutex<Vec<bool>>,
    rested: AtomicUsize,
}

impl Host for Connection {
    fn keep(&self, keep: bool) {
        self.kept.lock().unwrap().push(keep);
    }

    fn rest(&self) {
        self.rested.fetch_add(1, Ordering::Relaxed);
    }

    fn method(&self, _: MethodId) -> Option<Arc<Served>> {
        None
    }

    fn execute(&self, _: &Arc<Served>, _: Ctx, _: Bytes) -> BoxFuture<Execution> {
        unreachable!("nothing is served")
    }
}

struct Scene {
    world: World,
    wire: Arc<Wire>,
    host: Arc<Connection>,
    session: Arc<Session>,
}

impl Scene {
    fn new() -> Self {
        let world = World::new(1);
        let wire = Arc::new(Wire {
            runtime: world.start(1),
            manner: Mutex::new(Manner::Done),
            said: Mutex::default(),
            session: OnceLock::new(),
        });
        let host = Arc::new(Connection::default());
        let session = Session::new(Arc::<Wire>::clone(&wire), Arc::<Connection>::clone(&host));
        wire.session.set(Arc::downgrade(&session)).unwrap();
        Self { world, wire, host, session }
    }

    /// Reads a body that the peer sent with `call`.
    fn read<T: DeserializeOwned>(&self, call: u64, body: &impl Serialize) -> Result<T, codec::CodecError> {
        let arrival =
            || handle::Arrival { carrier: self.wire.carrier(None), call: CallId(call), answer: false };
        let body = codec::encode(body).unwrap();
        handle::bind(arrival, || codec::decode::<T>(&body))
    }

    fn behave(&self, manner: Manner) {
        *self.wire.manner.lock().unwrap() = manner;
    }

    /// The peer grants these totals to the producer `id`.
    fn grant(&self, id: HandleId, items: u64, bytes: u64) {
        let Some(outlet) = self.session.find::<Outlet>(id) else { panic!("no producer {id}") };
        outlet.grant(Window { items, bytes });
    }

    /// The peer pushes numbers below 24, which are one byte each, to the consumer `id`.
    fn push(&self, id: HandleId, first: u64, numbers: &'static [u8]) -> Result<bool, RpcError> {
        let Some(inlet) = self.session.find::<Inlet>(id) else { panic!("no consumer {id}") };
        inlet.push(Push { first, count: numbers.len() as u64, items: Bytes::from_static(numbers), end: None })
    }

    /// Lets the session say what it has to say, and time pass.
    fn pass(&self, time: Duration) {
        let runtime = self.wire.runtime.clone();
        self.world.run(async move { runtime.sleep(time).await });
    }

    /// What was said of `method` since the last question.
    fn said<T: DeserializeOwned>(&self, method: &str) -> Vec<T> {
        self.pass(Duration::from_millis(1));
        let mut said = self.wire.said.lock().unwrap();
        let (of_method, others) = said.drain(..).partition(|(id, _)| *id == MethodId::of(method));
        *said = others;
        let bodies: Vec<(MethodId, Bytes)> = of_method;
        bodies.iter().map(|(_, body)| codec::decode(body).unwrap()).collect()
    }
}

/// What `body` carries.
fn cargo(body: &impl Serialize) -> Cargo {
    let (encoded, cargo) = handle::collect(|| codec::encode(body));
    encoded.unwrap();
    cargo
}

fn service() -> ServiceRef {
    ServiceRef::new(Services::new()).unwrap()
}

fn lost() -> RpcError {
    RpcError::new(Code::ConnectionLost, Outcome::Unknown, "the connection is lost")
}

/// The handles of a producing and of a consuming end, as a peer writes them.
const SINK: (u8, u64, u64, u64) = (1, 0, 10, 1_000);
const SOURCE: (u8, u64, u64, u64) = (2, 0, 10, 1_000);

fn id(call: u64) -> HandleId {
    HandleId::new(CallId(call), false, 0)
}

/// What a source has at once: nothing yet, the end, or an error.
fn end_of(scene: &Scene, source: &mut Source<u64>) -> Option<Code> {
    scene.pass(Duration::from_millis(1));
    source.next().now_or_never().flatten().and_then(Result::err).map(|error| error.code)
}

#[test]
fn a_message_that_is_refused_leaves_nothing_entered() {
    let scene = Scene::new();
    let (sink, _source) = stream::channel::<u64>(Window::default());
    let both = cargo(&(service(), sink));
    assert_eq!(scene.session.attach(CallId(0), false, &both), Ok(()));
    assert_eq!(scene.session.handles(), 2);
    let error = scene.session.attach(CallId(2), false, &both).unwrap_err();
    assert_eq!((error.code, error.outcome), (Code::Aborted, Outcome::NotExecuted), "the stream is elsewhere");
    assert_eq!(scene.session.handles(), 2);
    scene.session.detach(CallId(0), false, &both, &lost());
    assert_eq!(scene.session.handles(), 0);

    for call in 1..HANDLES_MAX as u64 {
        scene.session.attach(CallId(2 * call), false, &cargo(&service())).unwrap();
    }
    let two = cargo(&(service(), service()));
    let error = scene.session.attach(CallId(4_000), false, &two).unwrap_err();
    assert_eq!((error.code, error.outcome), (Code::ServerBusy, Outcome::NotExecuted));
    assert_eq!(scene.session.handles(), HANDLES_MAX - 1, "the one for which there was room is gone too");
    scene.session.attach(CallId(4_000), false, &cargo(&service())).unwrap();
}

#[test]
fn a_call_that_fails_takes_the_streams_back_that_it_carried() {
    let scene = Scene::new();
    let (sink, mut source) = stream::channel::<u64>(Window::default());
    let carried = cargo(&sink);
    scene.session.attach(CallId(0), false, &carried).unwrap();
    scene.session.detach(CallId(0), false, &carried, &lost());
    assert_eq!(end_of(&scene, &mut source), None, "the next transmission may carry it");
    scene.session.attach(CallId(2), false, &carried).unwrap();
    scene.session.detach(CallId(2), false, &carried, &lost());
    drop(carried);
    assert_eq!(end_of(&scene, &mut source), Some(Code::Aborted), "nothing will");
}

#[test]
fn after_its_end_nothing_is_entered_and_nothing_starts() {
    let scene = Scene::new();
    scene.session.attach(CallId(0), false, &cargo(&service())).unwrap();
    let (sink, mut source) = stream::channel::<u64>(Window::default());
    let (_sink, inlet) = stream::channel::<u64>(Window::default());
    let carried = (cargo(&sink), cargo(&inlet));
    scene.session.attach(CallId(2), false, &carried.0).unwrap();
    scene.session.attach(CallId(4), true, &carried.1).unwrap();
    let producer: Sink<u64> = scene.read(1, &SINK).unwrap();
    let held: ServiceRef = scene.read(3, &(0, 0)).unwrap();
    drop(carried);
    scene.pass(Duration::from_millis(1));
    scene.session.end(&lost());
    assert_eq!(scene.session.handles(), 1, "who holds a service of the peer holds it still");
    drop(held);
    assert_eq!(scene.session.handles(), 0);
    assert_eq!(end_of(&scene, &mut source), Some(Code::ConnectionLost));
    assert_eq!(scene.world.run(async move { producer.stopped().await }).code, Code::ConnectionLost);

    let error = scene.session.attach(CallId(6), false, &cargo(&service())).unwrap_err();
    assert_eq!((error.code, error.outcome), (Code::ConnectionLost, Outcome::NotExecuted));
    let error = scene.session.slot().err().unwrap();
    assert_eq!((error.code, error.outcome), (Code::ConnectionLost, Outcome::NotExecuted));
    assert!(scene.read::<Sink<u64>>(5, &SINK).is_err() && scene.read::<Source<u64>>(7, &SOURCE).is_err());
    assert_eq!(scene.session.handles(), 0);

    let gone = Arc::downgrade(&scene.session);
    scene.pass(Duration::from_millis(1));
    drop(scene.session);
    assert!(gone.upgrade().is_none(), "its task has ended");
}

#[test]
fn a_peer_passes_so_many_streams_and_none_twice() {
    let scene = Scene::new();
    for call in 0..HANDLES_MAX as u64 {
        Outlet::import(&scene.session.carrier(), id(call), Window::default()).unwrap();
        assert!(
            Inlet::import(&scene.session.carrier(), id(call), Window::default()).is_err(),
            "it came twice"
        );
    }
    assert!(Outlet::import(&scene.session.carrier(), id(4_000), Window::default()).is_err());
    assert_eq!(scene.session.handles(), HANDLES_MAX);
    scene.session.forget(id(7));
    assert!(Outlet::import(&scene.session.carrier(), id(4_000), Window::default()).is_ok());
}

#[test]
fn the_connection_is_kept_as_long_as_anything_is_in_use() {
    let scene = Scene::new();
    let carried = cargo(&service());
    let (first, second) = (id(1), id(3));
    scene.session.hold();
    Outlet::import(&scene.session.carrier(), first, Window::default()).unwrap();
    scene.session.attach(CallId(0), false, &carried).unwrap();
    scene.pass(Duration::from_millis(1));
    assert_eq!((scene.session.handles(), &scene.host.kept.lock().unwrap()[..]), (3, &[true][..]));
    scene.session.forget(first);
    scene.session.detach(CallId(0), false, &carried, &lost());
    scene.pass(Duration::from_millis(1));
    assert_eq!((scene.session.handles(), scene.host.kept.lock().unwrap().len()), (1, 1));
    scene.session.release(second);
    assert_eq!(scene.said::<Vec<HandleId>>(RELEASE), [vec![second]]);
    assert_eq!((scene.session.handles(), &scene.host.kept.lock().unwrap()[..]), (0, &[true, false][..]));
}

#[test]
fn what_begins_or_ends_to_be_in_use_is_told_at_once() {
    let scene = Scene::new();
    let kept = || {
        scene.pass(Duration::from_millis(1));
        scene.host.kept.lock().unwrap().clone()
    };
    scene.session.hold();
    assert_eq!(kept(), [true]);
    scene.session.release(id(1));
    assert_eq!(kept(), [true, false]);
    scene.session.attach(CallId(0), false, &cargo(&service())).unwrap();
    assert_eq!(kept(), [true, false, true]);
    scene.session.forget(id(0));
    assert_eq!(kept(), [true, false, true, false]);
}

#[test]
fn a_stream_stays_where_it_is_when_another_call_would_carry_it() {
    let scene = Scene::new();
    let (sink, source) = stream::channel::<u64>(Window::default());
    let carried = cargo(&sink);
    scene.session.attach(CallId(0), false, &carried).unwrap();
    assert!(scene.session.attach(CallId(2), false, &carried).is_err());
    drop(source);
    assert_eq!(scene.said::<(HandleId,)>(STOP), [(id(0),)]);
}

#[test]
fn a_stream_is_over_when_its_end_and_all_before_it_have_arrived() {
    let scene = Scene::new();
    scene.behave(Manner::Silent);
    let sink: Sink<u64> = scene.read(1, &SINK).unwrap();
    assert_eq!(sink.send(&1).now_or_never(), Some(Ok(())));
    scene.pass(Duration::from_millis(1));
    scene.behave(Manner::Done);
    let mut finish = Box::pin(sink.finish());
    assert_eq!(finish.as_mut().now_or_never(), None);
    scene.pass(Duration::from_millis(1));
    assert_eq!(finish.now_or_never(), None, "nobody has said that the item arrived");
}

#[test]
fn many_ids_are_said_in_several_messages() {
    let scene = Scene::new();
    let ids: Vec<_> = (0..2 * IDS_MAX as u64 + 1).map(id).collect();
    scene.session.claim(ids.clone());
    let said = scene.said::<Vec<HandleId>>(CLAIM);
    assert_eq!(said.iter().map(Vec::len).collect::<Vec<_>>(), [IDS_MAX, IDS_MAX, 1]);
    assert_eq!(said.concat(), ids);
}

#[test]
fn what_an_answer_carried_dies_unclaimed_and_lives_claimed() {
    let scene = Scene::new();
    let (sink, mut unclaimed) = stream::channel::<u64>(Window::default());
    let (other, mut claimed) = stream::channel::<u64>(Window::default());
    let (asked, mut of_request) = stream::channel::<u64>(Window::default());
    let carried = (cargo(&sink), cargo(&other), cargo(&asked));
    scene.session.attach(CallId(1), true, &carried.0).unwrap();
    scene.session.attach(CallId(3), true, &carried.1).unwrap();
    scene.session.attach(CallId(0), false, &carried.2).unwrap();
    drop(carried);
    scene.pass(CLAIM_TIMEOUT / 2);
    scene.session.on_claimed(&[HandleId::new(CallId(3), true, 0)]);
    scene.pass(CLAIM_TIMEOUT / 2 - Duration::from_millis(10));
    assert_eq!((scene.session.handles(), end_of(&scene, &mut unclaimed)), (3, None), "not yet");
    scene.pass(Duration::from_millis(20));
    assert_eq!((scene.session.handles(), end_of(&scene, &mut unclaimed)), (2, Some(Code::Aborted)));
    scene.pass(3 * CLAIM_TIMEOUT);
    assert_eq!((end_of(&scene, &mut claimed), end_of(&scene, &mut of_request)), (None, None));
    assert_eq!(scene.session.handles(), 2);
}

#[test]
fn a_busy_peer_is_asked_again_for_as_long_as_a_delivery_may_take() {
    let scene = Scene::new();
    scene.behave(Manner::Busy(None));
    let inlet = Inlet::import(&scene.session.carrier(), id(1), Window::default()).unwrap();
    let grants = scene.said::<(HandleId, u64, u64)>(GRANT);
    assert_eq!(grants, [(id(1), Window::default().items, Window::default().bytes)]);
    scene.pass(Duration::from_secs(1));
    let again = scene.said::<(HandleId, u64, u64)>(GRANT);
    assert!((40..=50).contains(&again.len()), "{} times in a second", again.len());
    for (asked, times) in [(200, 4..=6), (0, 40..=51)] {
        scene.behave(Manner::Busy(Some(Duration::from_millis(asked))));
        scene.pass(Duration::from_secs(1));
        let again = scene.said::<(HandleId, u64, u64)>(GRANT).len();
        assert!(times.contains(&again), "{again} times in a second with pauses of {asked} ms");
    }
    scene.pass(DELIVERY_TIMEOUT);
    assert_eq!(scene.session.handles(), 0, "it was given up");
    drop(scene.said::<(HandleId, u64, u64)>(GRANT));
    scene.pass(Duration::from_secs(10));
    assert!(scene.said::<(HandleId, u64, u64)>(GRANT).is_empty());
    drop(inlet);
}

/// Both waited for ever: an end that nothing had passed through was kept for the next transmission of the call that
/// carried it, which only the side that sent it has.
#[test]
fn an_end_that_a_peer_passed_ends_with_the_connection_though_nothing_came() {
    let scene = Scene::new();
    let (sink, mut source) =
        (scene.read::<Sink<u64>>(1, &SINK), scene.read::<Source<u64>>(3, &SOURCE).unwrap());
    scene.session.end(&lost());
    assert_eq!(end_of(&scene, &mut source), Some(Code::ConnectionLost));
    let stopped = scene.world.run(async move { sink.unwrap().stopped().await });
    assert_eq!(stopped.code, Code::ConnectionLost);
}

#[test]
fn a_stream_that_the_peer_does_not_know_is_over() {
    let scene = Scene::new();
    scene.behave(Manner::Refuses);
    let mut source: Source<u64> = scene.read(1, &SOURCE).unwrap();
    let sink: Sink<u64> = scene.read(3, &SINK).unwrap();
    let stopped = scene.world.run(async move {
        sink.send(&1).await.unwrap();
        sink.stopped().await
    });
    assert_eq!(stopped.code, Code::Cancelled, "who does not know the stream has stopped it");
    assert_eq!(end_of(&scene, &mut source), Some(Code::MethodNotFound));
    assert_eq!(scene.session.handles(), 0);
}

#[test]
fn a_source_that_is_dropped_is_forgotten_when_the_peer_was_told() {
    let scene = Scene::new();
    drop(scene.read::<Source<u64>>(1, &SOURCE).unwrap());
    assert_eq!(scene.session.handles(), 1);
    assert_eq!(scene.said::<(HandleId,)>(STOP), [(id(1),)]);
    assert_eq!(scene.session.handles(), 0);
    scene.behave(Manner::Refuses);
    drop(scene.read::<Source<u64>>(3, &SOURCE).unwrap());
    scene.pass(Duration::from_millis(1));
    assert_eq!(scene.session.handles(), 0, "the peer did not know it");
}

/// Later versions may write more into a handle; what is not one now is refused.
#[test]
fn a_handle_is_read_with_what_stands_behind_it_and_not_as_another_kind() {
    let scene = Scene::new();
    assert!(scene.read::<ServiceRef>(1, &(0, 0, "more")).is_ok());
    assert!(scene.read::<Sink<u64>>(3, &(1, 31, 10, 1_000, "more", 1)).is_ok());
    assert!(scene.read::<ServiceRef>(5, &(0, 32)).is_err(), "31 is the highest index");
    assert!(scene.read::<ServiceRef>(5, &SINK).is_err());
    assert!(scene.read::<Source<u64>>(5, &SINK).is_err());
    assert!(scene.read::<Sink<u64>>(5, &SOURCE).is_err());
    assert!(scene.read::<Sink<u64>>(5, &(1, 0, 10)).is_err(), "it is too short");
}

#[test]
fn a_body_that_was_read_or_written_leaves_no_trace_for_the_next() {
    let scene = Scene::new();
    let nowhere = |body: &[u8]| codec::decode::<ServiceRef>(body).unwrap().client().is_err();
    let body = codec::encode(&(0, 0)).unwrap();
    assert!(nowhere(&body));
    drop(scene.read::<ServiceRef>(1, &(0, 0)).unwrap());
    assert!(nowhere(&body), "the binding went with the body");
    drop(cargo(&service()));
    assert!(codec::encode(&service()).is_err(), "it travels only in the body of a call");
    assert!(nowhere(&body));
}

/// Fails while it is written.
struct Bomb;

impl Serialize for Bomb {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        panic!("planted")
    }
}

#[test]
fn a_stream_in_a_body_that_panics_is_stranded() {
    let scene = Scene::new();
    let (sink, mut source) = stream::channel::<u64>(Window::default());
    let body = std::panic::AssertUnwindSafe((sink, Bomb));
    let written = std::panic::catch_unwind(|| handle::collect(|| codec::encode(&*body)));
    assert!(written.is_err());
    assert_eq!(end_of(&scene, &mut source), Some(Code::Aborted));
    assert!(codec::encode(&service()).is_err(), "it travels only in the body of a call");
}

#[test]
fn notified_methods_have_so_many_slots_and_give_them_back() {
    let scene = Scene::new();
    let mut slots: Vec<_> = (0..NOTIFIED_MAX).map(|_| scene.session.slot().unwrap()).collect();
    let refused = scene.session.slot().err().unwrap();
    assert_eq!((refused.code, refused.outcome), (Code::ServerBusy, Outcome::NotExecuted));
    drop(slots.pop());
    assert_eq!(scene.host.rested.load(Ordering::Relaxed), 1);
    let runtime = scene.wire.runtime.clone();
    let slot = scene.session.slot().unwrap();
    slot.run_on(CallId(0), async move { runtime.sleep(Duration::from_secs(1)).await });
    drop(slots);
    assert!(!scene.session.is_quiet());
    scene.pass(Duration::from_secs(2));
    assert!(scene.session.is_quiet());
    assert_eq!(scene.host.rested.load(Ordering::Relaxed), NOTIFIED_MAX + 1);
}

#[test]
fn a_notified_method_does_not_start_or_go_on_after_the_end() {
    let scene = Scene::new();
    let ran = Arc::new(AtomicUsize::new(0));
    let work = || {
        let (runtime, ran) = (scene.wire.runtime.clone(), Arc::clone(&ran));
        async move {
            runtime.sleep(Duration::from_secs(1)).await;
            ran.fetch_add(1, Ordering::Relaxed);
        }
    };
    let late = scene.session.slot().unwrap();
    scene.session.slot().unwrap().run_on(CallId(0), work());
    scene.pass(Duration::from_millis(1));
    scene.session.end(&lost());
    late.run_on(CallId(2), work());
    scene.pass(Duration::from_secs(5));
    assert_eq!(ran.load(Ordering::Relaxed), 0);
    assert!(scene.session.is_quiet());
}

#[test]
fn a_call_that_is_sent_again_carries_its_consumer_again_which_must_grant_anew() {
    let scene = Scene::new();
    let (sink, source) = stream::channel::<u64>(Window::default());
    let carried = cargo(&source);
    scene.session.attach(CallId(0), false, &carried).unwrap();
    let twice = scene.session.attach(CallId(2), false, &carried).unwrap_err();
    assert_eq!(twice.code, Code::Aborted);
    scene.grant(id(0), 10, 1_000);
    scene.session.detach(CallId(0), false, &carried, &lost());
    scene.session.attach(CallId(4), false, &carried).unwrap();
    assert_eq!(sink.send(&1).now_or_never(), None, "who was granted is gone");
    scene.grant(id(4), 2, 2);
    scene.grant(id(4), 1, 1);
    assert_eq!((sink.send(&1).now_or_never(), sink.send(&2).now_or_never()), (Some(Ok(())), Some(Ok(()))));
    assert_eq!(sink.send(&3).now_or_never(), None, "a smaller grant changes nothing");
    scene.pass(Duration::from_millis(1));
    // Something went: no other connection can go on.
    scene.session.detach(CallId(4), false, &carried, &lost());
    assert_eq!(sink.send(&3).now_or_never().unwrap().unwrap_err().code, Code::ConnectionLost);
}

#[test]
fn a_stream_that_ended_without_items_does_not_travel_again() {
    let scene = Scene::new();
    scene.behave(Manner::Silent);
    let (sink, source) = stream::channel::<u64>(Window::default());
    let carried = cargo(&source);
    scene.session.attach(CallId(0), false, &carried).unwrap();
    let mut finish = Box::pin(sink.finish());
    assert_eq!(finish.as_mut().now_or_never(), None, "nobody has said that it arrived");
    scene.pass(Duration::from_millis(1));
    scene.session.detach(CallId(0), false, &carried, &lost());
    assert_eq!(finish.now_or_never().unwrap().unwrap_err().code, Code::ConnectionLost);
}

#[test]
fn a_reader_that_went_while_its_producer_travelled_stops_it_on_arrival() {
    let scene = Scene::new();
    let (sink, source) = stream::channel::<u64>(Window::default());
    let carried = cargo(&sink);
    drop(source);
    scene.session.attach(CallId(0), false, &carried).unwrap();
    assert_eq!(scene.said::<(HandleId,)>(STOP), [(id(0),)]);
    assert_eq!(scene.session.handles(), 0);
}

#[test]
fn a_producer_is_a_window_ahead_of_the_answers_whatever_it_is_granted() {
    let scene = Scene::new();
    scene.behave(Manner::Silent);
    let sink: Sink<Bytes> = scene.read(1, &(1, 0, 1_000, 1_000)).unwrap();
    scene.grant(id(1), 1 << 40, 1 << 40);
    // Two bytes before each.
    let item = Bytes::from_static(&[7; 98]);
    let sent = (0..100).take_while(|_| sink.send(&item).now_or_never().is_some()).count();
    assert_eq!(sent, 10, "a window of bytes");
    let sink: Sink<u64> = scene.read(3, &(1, 0, 1_000, 1_000)).unwrap();
    for number in 0..20 {
        assert_eq!(sink.send(&number).now_or_never(), Some(Ok(())));
        scene.pass(Duration::from_millis(1));
    }
    type PushBody = (HandleId, u64, u64, Bytes, bool, Option<RpcError>);
    let pushes = scene.said::<PushBody>(PUSH);
    assert_eq!(pushes.iter().filter(|push| push.0 == id(3)).count(), 4, "the others wait for answers");
}

#[test]
fn an_item_is_at_most_half_a_window_and_a_longer_one_does_not_end_the_stream() {
    let scene = Scene::new();
    let sink: Sink<Bytes> = scene.read(1, &(1, 0, 10, 1_000)).unwrap();
    let send = |size: usize| sink.send(&Bytes::from(vec![0; size])).now_or_never().unwrap();
    let error = send(498).unwrap_err();
    assert_eq!((error.code, error.outcome), (Code::TooLarge, Outcome::NotExecuted));
    assert_eq!(send(497), Ok(()), "three bytes before them");
}

#[test]
fn windows_that_a_peer_asks_for_are_moved_into_what_windows_can_be() {
    let scene = Scene::new();
    let huge = (2, 0, u64::MAX, u64::MAX);
    let source: Source<u64> = scene.read(1, &huge).unwrap();
    let grants = scene.said::<(HandleId, u64, u64)>(GRANT);
    assert_eq!(grants, [(id(1), Window::MAX.items, Window::MAX.bytes)]);
    drop(source);
    let sink: Sink<Bytes> = scene.read(3, &(1, 0, u64::MAX, u64::MAX)).unwrap();
    let item = Bytes::from(vec![0; Window::MAX.bytes as usize / 2]);
    assert_eq!(sink.send(&item).now_or_never().unwrap().unwrap_err().code, Code::TooLarge);
    let sink: Sink<u64> = scene.read(5, &(1, 0, 0, 0)).unwrap();
    assert_eq!(sink.send(&1).now_or_never(), Some(Ok(())), "one item may always go");
    let (sink, _source) = stream::channel::<u64>(Window { items: 0, bytes: 0 });
    assert_eq!(sink.send(&1).now_or_never(), Some(Ok(())));
    let (sink, source) = stream::channel::<u64>(Window { items: u64::MAX, bytes: u64::MAX });
    drop(sink);
    drop(source);
}

#[test]
fn an_item_that_cannot_be_read_ends_the_stream_and_stops_its_producer_once() {
    let scene = Scene::new();
    let mut source: Source<String> = scene.read(1, &SOURCE).unwrap();
    assert_eq!(scene.push(id(1), 0, &[1, 2]), Ok(false));
    let error = source.next().now_or_never().unwrap().unwrap().unwrap_err();
    assert_eq!(error.code, Code::Codec);
    assert_eq!(source.next().now_or_never(), Some(None), "a stream ends once");
    drop(source);
    assert_eq!(scene.said::<(HandleId,)>(STOP), [(id(1),)]);
    assert_eq!(scene.said::<(HandleId,)>(STOP), []);
}

#[test]
fn the_first_reason_why_a_stream_is_over_stays() {
    let scene = Scene::new();
    let sink: Sink<u64> = scene.read(1, &SINK).unwrap();
    let Some(outlet) = scene.session.find::<Outlet>(id(1)) else { panic!("no producer") };
    outlet.fail(stream::stopped());
    scene.session.end(&lost());
    assert_eq!(sink.stopped().now_or_never().unwrap().code, Code::Cancelled);
}

#[test]
fn an_end_that_was_used_does_not_travel() {
    let encoded = |body: &dyn Fn() -> bool| handle::collect(body).0;
    let (sink, source) = stream::channel::<u64>(Window::default());
    assert_eq!(sink.send(&1).now_or_never(), Some(Ok(())));
    assert!(!encoded(&|| codec::encode(&sink).is_ok()));
    assert!(!encoded(&|| codec::encode(&source).is_ok()));
    let (sink, _source) = stream::channel::<u64>(Window::default());
    assert!(encoded(&|| codec::encode(&sink).is_ok()));
    assert!(!encoded(&|| codec::encode(&sink).is_ok()), "it went before");
}

#[test]
fn a_producer_on_this_side_hears_that_its_reader_went() {
    let (sink, source) = stream::channel::<u64>(Window::default());
    assert_eq!(sink.send(&1).now_or_never(), Some(Ok(())));
    drop(source);
    assert_eq!(sink.send(&2).now_or_never().unwrap().unwrap_err().code, Code::Cancelled);
}

#[test]
fn so_many_messages_are_under_way_and_no_more() {
    let scene = Scene::new();
    scene.behave(Manner::Silent);
    let _sources: Vec<Source<u64>> = (0..100).map(|call| scene.read(call, &SOURCE).unwrap()).collect();
    assert_eq!(scene.said::<(HandleId, u64, u64)>(GRANT).len(), 64);
}

#[test]
fn streams_that_have_more_to_say_do_not_keep_others_from_speaking() {
    const STREAMS: u64 = 70;
    let scene = Scene::new();
    scene.behave(Manner::Slow);
    let sinks: Vec<Sink<u64>> = (0..STREAMS).map(|index| scene.read(2 * index + 1, &SINK).unwrap()).collect();
    let send = || sinks.iter().for_each(|sink| assert_eq!(sink.send(&1).now_or_never(), Some(Ok(()))));
    send();
    scene.pass(Duration::from_micros(1));
    // As many speak as may at once; by the time they are answered, all of them have more.
    send();
    scene.pass(Duration::from_millis(20));
    type Pushed = (HandleId, u64, u64, Bytes, bool, Option<RpcError>);
    let said: Vec<_> = scene.said::<Pushed>(PUSH).into_iter().map(|push| push.0).collect();
    let first: BTreeSet<_> = said.iter().take(STREAMS as usize).collect();
    assert_eq!(first.len() as u64, STREAMS, "{said:?}");
}
