//! What calls inherit, how often they are tried again, who is let in: two and three peers in a simulated world.

use std::future::IntoFuture;
use std::sync::Mutex;

use bytes::Bytes;

use super::*;
use crate::rpc::channel::Attempt;
use crate::rpc::interceptor::{Answer, Execution, Incoming, Interceptor, NextAttempt, NextCall, NextServe};
use crate::rpc::limits::{Gate, Limits};
use crate::rpc::meta::{HOPS_MAX, IdempotencyKey, Trace};
use crate::rpc::retry::RetryPolicy;
use crate::rpc::{Failure, MethodId, MethodPolicy, RpcError};
use crate::runtime::BoxFuture;

type Log<T> = Arc<Mutex<Vec<T>>>;

fn push<T>(log: &Log<T>, entry: T) {
    log.lock().unwrap().push(entry);
}

fn take<T>(log: &Log<T>) -> Vec<T> {
    std::mem::take(&mut log.lock().unwrap())
}

/// A server with `services` on node 1, a client on node 2.
fn world_of(seed: u64, services: Services) -> (World, Peer, Peer) {
    let world = World::new(seed);
    let server =
        Peer::builder(world.start(1)).services(services).start_insecure(world.bind(1, address(1))).unwrap();
    let client = Peer::builder(world.start(2)).start_insecure(world.bind(2, address(2))).unwrap();
    (world, server, client)
}

fn rpc_error<T: fmt::Debug, E: fmt::Debug>(answer: Result<T, CallError<E>>) -> RpcError {
    match answer.unwrap_err() {
        CallError::Rpc(error) => error,
        CallError::Method(error) => panic!("the method answered {error:?}"),
    }
}

/// Two hops: node 2 calls `front` at node 1, whose handler calls `back` at node 3.
fn two_hops(seed: u64, back: Services) -> (World, Peer, Peer, Peer) {
    let world = World::new(seed);
    let third =
        Peer::builder(world.start(3)).services(back).start_insecure(world.bind(3, address(3))).unwrap();
    let out: Arc<Mutex<Option<Peer>>> = Arc::default();
    let peer = Arc::clone(&out);
    let front = Services::new().method("front", move |_: Ctx, ms: u64| {
        let remote = peer.lock().unwrap().as_ref().unwrap().remote(address(3));
        async move { remote.call::<_, u64, Never>("back", &ms).timeout(Duration::from_secs(60)).await }
    });
    let server =
        Peer::builder(world.start(1)).services(front).start_insecure(world.bind(1, address(1))).unwrap();
    *out.lock().unwrap() = Some(server.clone());
    let client = Peer::builder(world.start(2)).start_insecure(world.bind(2, address(2))).unwrap();
    (world, third, server, client)
}

/// A method `back` that notes what it was told, and waits for as long as it is asked to.
fn noting(log: &Log<(Duration, Option<Trace>)>, stopped: &Log<()>) -> Services {
    struct Stopped(Log<()>);
    impl Drop for Stopped {
        fn drop(&mut self) {
            push(&self.0, ());
        }
    }
    let (log, stopped) = (Arc::clone(log), Arc::clone(stopped));
    Services::new().method("back", move |ctx: Ctx, ms: u64| {
        push(&log, (ctx.deadline - ctx.runtime.now(), ctx.trace().cloned()));
        let guard = Stopped(Arc::clone(&stopped));
        async move {
            ctx.runtime.sleep(Duration::from_millis(ms)).await;
            std::mem::forget(guard);
            Ok::<_, Never>(ms)
        }
    })
}

#[test]
fn a_nested_call_inherits_deadline_and_trace() {
    let (log, stopped) = (Log::default(), Log::default());
    let (world, _third, _server, client) = two_hops(20, noting(&log, &stopped));
    world.run(async move {
        let front = |ms: u64| client.remote(address(1)).call::<_, u64, Never>("front", &ms);
        assert_eq!(front(1).timeout(Duration::from_millis(700)).await, Ok(1));
        let (left, trace) = take(&log).remove(0);
        assert!(left <= Duration::from_millis(700), "{left:?}");
        assert_eq!(trace, None, "what is not traced carries nothing");

        assert_eq!(front(1).trace(77).await, Ok(1));
        let trace = take(&log).remove(0).1.unwrap();
        assert_ne!(trace.span, 0, "each call has a number of its own");
        assert_eq!((trace.id, trace.hops), (77, vec![MethodId::of("front")]));
    });
}

#[test]
fn a_traced_call_that_runs_in_a_circle_is_refused_where_it_is_made() {
    let errors = Log::default();
    let seen = Arc::clone(&errors);
    let around = Services::new().method("around", move |ctx: Ctx, (): ()| {
        let seen = Arc::clone(&seen);
        async move {
            let answer = ctx.caller.call::<_, (), Never>("calc.around", &()).await;
            push(&seen, answer.clone().unwrap_err().to_string());
            answer
        }
    });
    let world = World::new(21);
    let _server = start(&world, 1, around.clone());
    let client = start(&world, 2, around);
    world.run(async move {
        let call = client.remote(address(1)).call::<_, (), Never>("calc.around", &()).trace(1);
        rpc_error(call.await);
    });
    let errors = take(&errors);
    assert_eq!(errors.len(), HOPS_MAX + 1);
    assert!(errors[0].contains("circle"), "{}", errors[0]);
}

#[test]
fn a_nested_call_ends_when_its_parent_is_cancelled() {
    let (log, stopped) = (Log::default(), Log::default());
    let (world, third, _server, client) = two_hops(21, noting(&log, &stopped));
    let (observer, ended) = (world.observer(), Arc::clone(&stopped));
    world.run(async move {
        let front = client.remote(address(1)).call::<_, u64, Never>("front", &60_000u64);
        let given_up = observer.timeout(Duration::from_millis(200), front.into_future()).await;
        assert!(given_up.is_err());
        observer.sleep(Duration::from_millis(50)).await;
        assert_eq!(take(&ended).len(), 1, "the handler two hops away was dropped");
        let counted = &third.method_metrics()["back"].0;
        assert_eq!((counted.given_up, counted.in_flight), (1, 0));
    });
}

#[test]
fn a_nested_call_in_a_task_of_its_own_ends_with_the_handler_that_made_it() {
    let world = World::new(22);
    let (log, stopped) = (Log::default(), Log::default());
    let services = noting(&log, &stopped).method("spawn", |ctx: Ctx, detached: bool| async move {
        // The server calls the caller back, from another task; the handler goes on without it.
        let call = ctx.caller.call::<_, u64, Never>("back", &1_000u64);
        let call = if detached { call.detached() } else { call };
        ctx.runtime.spawn("errand", call.into_future());
        ctx.runtime.sleep(Duration::from_secs(60)).await;
        Ok::<_, Never>(())
    });
    let start = |node| {
        let builder = Peer::builder(world.start(node)).services(services.clone());
        builder.start_insecure(world.bind(node, address(node))).unwrap()
    };
    let (_server, client) = (start(1), start(2));
    let observer = world.observer();
    world.run(async move {
        for (detached, ended_early) in [(false, 1), (true, 0)] {
            let call = client.remote(address(1)).call::<_, (), Never>("spawn", &detached);
            let given_up = observer.timeout(Duration::from_millis(200), call.into_future()).await;
            assert!(given_up.is_err());
            observer.sleep(Duration::from_secs(2)).await;
            assert_eq!(take(&stopped).len(), ended_early, "detached: {detached}");
        }
    });
}

#[test]
fn an_error_that_is_passed_on_keeps_its_cause() {
    let gate = Gate::exclusive(0);
    let (log, stopped) = (Log::default(), Log::default());
    let back = noting(&log, &stopped).behind(&gate);
    let (world, _third, _server, client) = two_hops(23, back);
    let observer = world.observer();
    world.run(async move {
        let front = |ms: u64| client.remote(address(1)).call::<_, u64, Never>("front", &ms).once();
        let holder = observer.spawn("holder", front(300).into_future());
        observer.sleep(Duration::from_millis(50)).await;
        let error = rpc_error(front(1).timeout(Duration::from_millis(100)).await);
        assert_eq!((error.code, error.outcome), (Code::Locked, Outcome::Executed));
        let origins: Vec<_> = error
            .chain()
            .map(|(hop, error)| {
                let origin = error.origin.as_ref().unwrap();
                (hop, origin.address, origin.method.clone(), error.outcome)
            })
            .collect();
        assert_eq!(
            origins,
            [
                (0, address(1), "front".to_owned(), Outcome::Executed),
                (1, address(3), "back".to_owned(), Outcome::NotExecuted)
            ]
        );
        assert_eq!(holder.await.unwrap(), Ok(300));
    });
}

/// A method that is busy, and counts how often it was asked.
fn busy(asked: &Arc<AtomicU64>, retry_after: Option<Duration>) -> Services {
    let asked = Arc::clone(asked);
    Services::new().method("busy", move |_: Ctx, (): ()| {
        asked.fetch_add(1, Ordering::Relaxed);
        async move {
            let mut error = RpcError::not_executed(Code::ServerBusy, "always");
            error.retry_after = retry_after;
            Err::<(), _>(CallError::<Never>::Rpc(error))
        }
    })
}

#[test]
fn retries_stop_when_the_budget_of_the_remote_is_spent() {
    let asked = Arc::new(AtomicU64::new(0));
    let world = World::new(24);
    let _server = start(&world, 1, busy(&asked, None));
    let retries = RetryPolicy { budget_max: 5, budget_per_second: 0, ..RetryPolicy::default() };
    let client =
        Peer::builder(world.start(2)).retries(retries).start_insecure(world.bind(2, address(2))).unwrap();
    let observed = client.clone();
    world.run(async move {
        for _ in 0..100 {
            let call = client.remote(address(1)).at("calc").call::<_, (), Never>("busy", &());
            let error = rpc_error(call.timeout(Duration::from_secs(30)).await);
            assert_eq!((error.code, error.outcome), (Code::ServerBusy, Outcome::NotExecuted));
        }
    });
    // 5 at the start, and one for each ten calls.
    let retries = asked.load(Ordering::Relaxed) - 100;
    assert!((14..=15).contains(&retries), "{retries}");
    let counted = observed.call_counters();
    assert_eq!((counted.retries, counted.retries_past_deadline), (retries, 0));
    assert_eq!(counted.retries_over_budget, 100);
}

/// Answers transmissions with what it was given, one after the other.
struct Failing(Log<RpcError>);

impl Interceptor for Failing {
    fn attempt(&self, _: Attempt, _: NextAttempt) -> BoxFuture<Answer> {
        let error = self.0.lock().unwrap().remove(0);
        Box::pin(async move { Err(error.into()) })
    }
}

#[test]
fn what_may_have_run_once_stays_unknown_whatever_the_last_try_says() {
    let errors = [
        RpcError::new(Code::ConnectionLost, Outcome::Unknown, "first"),
        RpcError::not_executed(Code::BadRequest, "second"),
    ];
    let world = World::new(26);
    let failing = Failing(Arc::new(Mutex::new(errors.into())));
    let client =
        Peer::builder(world.start(2)).interceptor(failing).start_insecure(world.bind(2, address(2))).unwrap();
    world.run(async move {
        let call = client.remote(address(1)).call::<_, (), Never>("any", &()).idempotent(true);
        let error = rpc_error(call.await);
        assert_eq!((error.code, error.outcome), (Code::BadRequest, Outcome::Unknown));
    });
}

#[test]
fn a_retry_waits_for_as_long_as_the_callee_asks() {
    let asked = Arc::new(AtomicU64::new(0));
    let (world, _server, client) = world_of(25, busy(&asked, Some(Duration::from_millis(400))));
    let (observer, observed) = (world.observer(), client.clone());
    let started = observer.now();
    world.run(async move {
        let call = client.remote(address(1)).call::<_, (), Never>("busy", &());
        assert_eq!(rpc_error(call.timeout(Duration::from_secs(1)).await).code, Code::ServerBusy);
    });
    assert_eq!(asked.load(Ordering::Relaxed), 3, "at 0, after 400 and after 800 ms");
    assert!(observer.now() - started < Duration::from_secs(1), "the next would have been past the deadline");
    assert_eq!(observed.call_counters().retries_past_deadline, 1);
}

#[test]
fn limits_queue_then_refuse_before_work_starts() {
    let executions = Arc::new(AtomicU64::new(0));
    let services = calc(&executions).with("wait", MethodPolicy::new().limits(2, 3));
    let (world, server, client) = world_of(26, services);
    let observer = world.observer();
    world.run(async move {
        let wait = |ms: u64| client.remote(address(1)).call::<_, (), Never>("wait", &ms).once();
        let calls: Vec<_> = (0..6).map(|_| observer.spawn("caller", wait(200).into_future())).collect();
        observer.sleep(Duration::from_millis(50)).await;
        let (counted, gates) = &server.method_metrics()["wait"];
        assert_eq!((gates[0].running, gates[0].queued, counted.in_flight), (2, 3, 5));
        let mut refused = Vec::new();
        for call in calls {
            refused.extend(call.await.unwrap().err());
        }
        let [CallError::Rpc(error)] = &refused[..] else { panic!("one of six is refused: {refused:?}") };
        assert_eq!((error.code, error.outcome), (Code::ServerBusy, Outcome::NotExecuted));
        assert!(error.retry_after.is_some());
        // Calls lately took 200 ms: who has less than twice that is sent away at the door when all places are taken.
        let places: Vec<_> = (0..2).map(|_| observer.spawn("caller", wait(200).into_future())).collect();
        observer.sleep(Duration::from_millis(10)).await;
        let began = observer.now();
        let error = rpc_error(wait(1).timeout(Duration::from_millis(150)).await);
        assert_eq!((error.code, error.outcome), (Code::ServerBusy, Outcome::NotExecuted));
        assert!(observer.now() - began < Duration::from_millis(20), "not after the wait");
        assert!(error.retry_after.unwrap() > Duration::from_millis(50), "{:?}", error.retry_after);
        for call in places {
            call.await.unwrap().unwrap();
        }
    });
}

#[test]
fn who_waited_for_half_of_its_time_is_refused() {
    // Nothing is known of how long calls take: the wait itself is limited.
    let (world, _server, client) =
        world_of(27, calc(&Arc::default()).with("wait", MethodPolicy::new().limits(1, 8)));
    let observer = world.observer();
    world.run(async move {
        let wait = |ms: u64| client.remote(address(1)).call::<_, (), Never>("wait", &ms).once();
        let first = observer.spawn("caller", wait(1_000).into_future());
        observer.sleep(Duration::from_millis(50)).await;
        let began = observer.now();
        let error = rpc_error(wait(1).timeout(Duration::from_millis(400)).await);
        assert_eq!((error.code, error.outcome), (Code::ServerBusy, Outcome::NotExecuted));
        let waited = observer.now() - began;
        assert!((200..210).contains(&waited.as_millis()), "{waited:?}");
        first.await.unwrap().unwrap();
    });
}

/// A method behind `policy` that notes its fencing token at its begin and its end.
fn fenced(log: &Log<(u64, bool)>, policy: MethodPolicy) -> Services {
    let log = Arc::clone(log);
    Services::new()
        .method("fenced", move |ctx: Ctx, (_, ms): (String, u64)| {
            let log = Arc::clone(&log);
            async move {
                let fence = ctx.fence.unwrap();
                push(&log, (fence, true));
                ctx.runtime.sleep(Duration::from_millis(ms)).await;
                push(&log, (fence, false));
                Ok::<_, Never>(())
            }
        })
        .with("fenced", policy)
}

#[test]
fn exclusive_access_goes_round_in_order_with_growing_tokens() {
    let log = Log::default();
    let (world, server, client) = world_of(28, fenced(&log, MethodPolicy::new().exclusive(64)));
    let observer = world.observer();
    let seen = Arc::clone(&log);
    world.run(async move {
        let call = || client.remote(address(1)).call::<_, (), Never>("fenced", &("x", 100u64));
        let calls: Vec<_> = (0..5).map(|_| observer.spawn("caller", call().into_future())).collect();
        observer.sleep(Duration::from_millis(50)).await;
        let gate = server.method_metrics()["fenced"].1[0].clone();
        let holder = &gate.holders[0].1;
        assert_eq!((holder.address, &*holder.method, gate.queued), (address(2), "fenced", 4));
        let described =
            client.remote(address(1)).at("rpc").call::<_, describe::Description, Never>("describe", &());
        let shown = described.await.unwrap().to_string();
        assert!(shown.contains(&format!("4 of 64 waiting, held by {}", address(2))), "{shown}");
        for call in calls {
            call.await.unwrap().unwrap();
        }
        assert!(server.method_metrics()["fenced"].1[0].holders.is_empty());
    });
    let seen = take(&seen);
    assert_eq!(seen.len(), 10);
    for access in seen.chunks(2) {
        assert_eq!(access, [(access[0].0, true), (access[0].0, false)], "one at a time");
    }
    assert!(seen.windows(2).all(|pair| pair[0].0 <= pair[1].0), "tokens grow");
}

#[test]
fn who_finds_it_locked_is_told_by_whom() {
    let log = Log::default();
    let policy = MethodPolicy::new().gate(Gate::exclusive(0));
    let (world, _server, client) = world_of(29, fenced(&log, policy));
    let observer = world.observer();
    world.run(async move {
        let call = |ms: u64| client.remote(address(1)).call::<_, (), Never>("fenced", &("x", ms)).once();
        let holder = observer.spawn("holder", call(500).into_future());
        observer.sleep(Duration::from_millis(50)).await;
        let error = rpc_error(call(1).await);
        assert_eq!((error.code, error.outcome), (Code::Locked, Outcome::NotExecuted));
        assert!(error.message.contains(&address(2).to_string()), "{}", error.message);
        assert!(error.message.contains("in fenced"), "{}", error.message);
        assert!(error.retry_after.is_some());
        holder.await.unwrap().unwrap();
    });
}

#[test]
fn exclusive_access_ends_with_the_holders_deadline() {
    let log = Log::default();
    let (world, _server, client) = world_of(30, fenced(&log, MethodPolicy::new().exclusive(64)));
    let (observer, cut) = (world.observer(), world.clone());
    let seen = Arc::clone(&log);
    world.run(async move {
        let call = |ms: u64| client.remote(address(1)).call::<_, (), Never>("fenced", &("x", ms)).once();
        let holder = observer.spawn("holder", call(60_000).timeout(Duration::from_secs(1)).into_future());
        observer.sleep(Duration::from_millis(100)).await;
        // Its cancellation will not come through.
        cut.crash(2);
        drop(holder);
        let other = Peer::builder(cut.start(3)).start_insecure(cut.bind(3, address(3))).unwrap();
        let call = other.remote(address(1)).call::<_, (), Never>("fenced", &("x", 1u64));
        let began = observer.now();
        assert_eq!(call.await, Ok(()));
        assert!(observer.now() - began < Duration::from_millis(950), "not longer than the lease");
    });
    let seen = take(&seen);
    assert_eq!(seen.iter().map(|access| access.1).collect::<Vec<_>>(), [true, true, false]);
    assert!(seen[1].0 > seen[0].0, "what the first one left behind can be told apart");
}

#[test]
fn exclusive_access_by_key_lets_other_keys_through() {
    let log = Log::default();
    let policy = MethodPolicy::new()
        .exclusive_by(64, |(key, _): &(String, u64)| Bytes::copy_from_slice(key.as_bytes()));
    let (world, _server, client) = world_of(31, fenced(&log, policy));
    let observer = world.observer();
    let started = observer.now();
    world.run(async move {
        let call = |key: &str| client.remote(address(1)).call::<_, (), Never>("fenced", &(key, 100u64));
        let keys = ["a", "b", "c", "a"];
        let calls = keys.map(|key| observer.spawn("caller", call(key).into_future()));
        for call in calls {
            call.await.unwrap().unwrap();
        }
        let elapsed = observer.now() - started;
        assert!((200..250).contains(&elapsed.as_millis()), "{elapsed:?}");
    });
}

#[test]
fn a_gate_of_a_service_is_shared_by_its_methods() {
    let gate = Gate::limited(Limits::new(1, 0));
    let (world, _server, client) = world_of(32, calc(&Arc::default()).behind(&gate));
    let observer = world.observer();
    world.run(async move {
        let calc = client.remote(address(1));
        let wait = observer.spawn("caller", calc.call::<_, (), Never>("wait", &100u64).into_future());
        observer.sleep(Duration::from_millis(50)).await;
        let error = rpc_error(calc.call::<_, u64, Never>("count", &()).once().await);
        assert_eq!((error.code, error.outcome), (Code::ServerBusy, Outcome::NotExecuted));
        wait.await.unwrap().unwrap();
        assert_eq!(calc.call::<_, u64, Never>("count", &()).once().await, Ok(0));
    });
}

/// A method with a table of idempotency keys in the place of a durable one, whose node crashes after the first
/// execution and before its answer.
#[test]
fn a_keyed_call_is_tried_again_after_an_unknown_outcome_and_runs_once() {
    let table: Log<IdempotencyKey> = Log::default();
    let services = || {
        let table = Arc::clone(&table);
        let put = move |ctx: Ctx, (): ()| {
            let key = ctx.idempotency_key().unwrap();
            let first = !table.lock().unwrap().contains(&key);
            if first {
                push(&table, key);
            }
            async move {
                if first {
                    ctx.runtime.sleep(Duration::from_secs(60)).await;
                }
                Ok::<_, Never>(first)
            }
        };
        Services::new().method("put", put).with("put", MethodPolicy::new().keyed())
    };
    let (world, server, client) = world_of(33, services());
    drop(server);
    let (handle, observer) = (world.clone(), world.observer());
    let again = services();
    world.run(async move {
        let call = client.remote(address(1)).call::<_, bool, Never>("put", &()).idempotency_key(7, 1);
        let call = observer.spawn("caller", call.timeout(Duration::from_secs(30)).into_future());
        observer.sleep(Duration::from_millis(100)).await;
        let _server = Peer::builder(handle.start(1))
            .services(again)
            .start_insecure(handle.bind(1, address(1)))
            .unwrap();
        assert_eq!(call.await.unwrap(), Ok(false), "the second execution found the first");
        assert!(client.call_counters().retries >= 1);
    });
    assert_eq!(take(&table), [IdempotencyKey { client: 7, sequence: 1 }]);
}

#[test]
fn a_key_for_a_method_without_a_table_is_refused_before_it_runs() {
    let executions = Arc::new(AtomicU64::new(0));
    let (world, _server, client) = world_of(34, calc(&executions));
    world.run(async move {
        let call = client.remote(address(1)).call::<_, u64, Never>("count", &()).idempotency_key(7, 1);
        let error = rpc_error(call.await);
        assert_eq!((error.code, error.outcome), (Code::BadRequest, Outcome::NotExecuted));
    });
    assert_eq!(executions.load(Ordering::Relaxed), 0);
}

/// A token that calls must carry: put in on the caller's side, asked for on the callee's.
struct Token(&'static str);

const TOKEN_KEY: u64 = 64;

impl Interceptor for Token {
    fn call(&self, mut request: Attempt, next: NextCall) -> BoxFuture<Answer> {
        let meta = Arc::make_mut(request.meta.get_or_insert_default());
        meta.extra.insert(TOKEN_KEY, Bytes::from_static(self.0.as_bytes()));
        next.run(request)
    }

    fn serve(&self, request: Incoming, next: NextServe) -> BoxFuture<Execution> {
        if request.ctx.extra(TOKEN_KEY).is_some_and(|token| token == self.0) {
            return next.run(request);
        }
        Box::pin(async { Err(RpcError::not_executed(Code::Unauthorized, "no such token").into()) })
    }
}

#[test]
fn an_interceptor_asks_for_a_token() {
    let world = World::new(35);
    let executions = Arc::new(AtomicU64::new(0));
    let _server = Peer::builder(world.start(1))
        .services(calc(&executions))
        .interceptor(Token("secret"))
        .start_insecure(world.bind(1, address(1)))
        .unwrap();
    let client = |node, token| {
        let builder = Peer::builder(world.start(node)).interceptor(Token(token));
        builder.start_insecure(world.bind(node, address(node))).unwrap()
    };
    let (friend, stranger) = (client(2, "secret"), client(3, "guessed"));
    world.run(async move {
        let count = |peer: &Peer| peer.remote(address(1)).call::<_, u64, Never>("count", &());
        assert_eq!(count(&friend).await, Ok(0));
        let error = rpc_error(count(&stranger).await);
        assert_eq!((error.code, error.outcome), (Code::Unauthorized, Outcome::NotExecuted));
    });
    assert_eq!(executions.load(Ordering::Relaxed), 1);
}

/// Notes what passes.
struct Recorder(&'static str, Log<String>);

impl Interceptor for Recorder {
    fn call(&self, request: Attempt, next: NextCall) -> BoxFuture<Answer> {
        let (name, log) = (self.0, Arc::clone(&self.1));
        Box::pin(async move {
            push(&log, format!("{name} call {}", request.name));
            let answer = next.run(request).await;
            push(&log, format!("{name} called {}", answer.is_ok()));
            answer
        })
    }

    fn attempt(&self, request: Attempt, next: NextAttempt) -> BoxFuture<Answer> {
        push(&self.1, format!("{} attempt", self.0));
        next.run(request)
    }

    fn serve(&self, request: Incoming, next: NextServe) -> BoxFuture<Execution> {
        push(&self.1, format!("{} serve", self.0));
        next.run(request)
    }
}

#[test]
fn interceptors_stand_in_their_order_around_calls_attempts_and_requests() {
    let world = World::new(36);
    let log = Log::default();
    let asked = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&asked);
    let services = Services::new().method("second", move |_: Ctx, (): ()| {
        let first = count.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            let busy = RpcError::not_executed(Code::ServerBusy, "once");
            if first { Err(CallError::<Never>::Rpc(busy)) } else { Ok(()) }
        }
    });
    let peer = |node, names: [&'static str; 2], services: Services| {
        let [a, b] = names.map(|name| Recorder(name, Arc::clone(&log)));
        let builder = Peer::builder(world.start(node)).services(services).interceptor(a).interceptor(b);
        builder.start_insecure(world.bind(node, address(node))).unwrap()
    };
    let (_server, client) = (peer(1, ["s1", "s2"], services), peer(2, ["c1", "c2"], Services::new()));
    world.run(async move {
        assert_eq!(client.remote(address(1)).call::<_, (), Never>("second", &()).await, Ok(()));
    });
    let attempt = ["c1 attempt", "c2 attempt", "s1 serve", "s2 serve"];
    let mut expected = vec!["c1 call second", "c2 call second"];
    expected.extend(attempt.iter().chain(&attempt));
    expected.extend(["c2 called true", "c1 called true"]);
    assert_eq!(take(&log), expected);
}

/// Keeps what was answered, and answers it again without asking.
#[derive(Clone, Default)]
struct Tape(Log<(Arc<str>, Bytes, Bytes)>, bool);

impl Interceptor for Tape {
    fn call(&self, request: Attempt, next: NextCall) -> BoxFuture<Answer> {
        let Self(tape, replay) = self.clone();
        Box::pin(async move {
            let (name, asked) = (Arc::clone(&request.name), request.body.clone());
            if replay {
                let tape = tape.lock().unwrap();
                let found = tape.iter().find(|row| (&row.0, &row.1) == (&name, &asked));
                let missing = || RpcError::not_executed(Code::MethodNotFound, "not on the tape").into();
                return found.map(|row| row.2.clone().into()).ok_or_else(missing);
            }
            let answer = next.run(request).await?;
            push(&tape, (name, asked, answer.body.clone()));
            Ok(answer)
        })
    }
}

#[test]
fn a_recorded_session_is_replayed_without_a_server() {
    let world = World::new(37);
    let tape = Tape::default();
    let _server = start(&world, 1, calc(&Arc::default()));
    let peer = |node, tape: Tape| {
        let builder = Peer::builder(world.start(node)).interceptor(tape);
        builder.start_insecure(world.bind(node, address(node))).unwrap()
    };
    let (recorded, replayed) = (peer(2, tape.clone()), peer(3, Tape(tape.0, true)));
    world.run(async move {
        let divide = |peer: &Peer, to: u64, a: i64| {
            let calc = peer.remote(address(to)).at("calc");
            calc.call::<_, i64, DivideByZero>("divide", &(a, 2i64)).into_future()
        };
        assert_eq!(divide(&recorded, 1, 8).await, Ok(4));
        assert_eq!(divide(&replayed, 9, 8).await, Ok(4), "nobody is at this address");
        assert_eq!(divide(&replayed, 9, 6).await.unwrap_err().outcome(), Outcome::NotExecuted);
    });
}

#[test]
fn a_panic_has_an_id_and_the_server_goes_on() {
    for (tell, told) in [(false, false), (true, true)] {
        let world = World::new(38);
        let server = Peer::builder(world.start(1)).services(calc(&Arc::default())).panic_messages(tell);
        let server = server.start_insecure(world.bind(1, address(1))).unwrap();
        let client = Peer::builder(world.start(2)).start_insecure(world.bind(2, address(2))).unwrap();
        world.run(async move {
            let calc = client.remote(address(1));
            for panics in 1..4 {
                let error = rpc_error(calc.call::<_, (), Never>("panic", &()).await);
                assert_eq!((error.code, error.outcome), (Code::Internal, Outcome::Unknown));
                assert!(error.message.contains("error id "), "{}", error.message);
                assert_eq!(error.message.contains("planted"), told, "{}", error.message);
                assert_eq!(error.origin.unwrap().method, "panic");
                let counted = &server.method_metrics()["panic"].0;
                assert_eq!((&counted.errors[..], counted.in_flight), (&[(Code::Internal, panics)][..], 0));
            }
            assert_eq!(calc.call::<_, u64, Never>("count", &()).await, Ok(0));
        });
    }
}

#[test]
fn compressed_bodies_travel_between_those_who_read_them() {
    let text: String = "all work and no play ".repeat(5_000);
    for (reads, smaller) in [(true, true), (false, false)] {
        let world = World::new(39);
        let echo = Services::new().method("echo", |_: Ctx, text: String| async move { Ok::<_, Never>(text) });
        let config = endpoint::Config { compression: reads, ..endpoint::Config::default() };
        let peer = |node, services: Services| {
            let builder = Peer::builder(world.start(node)).services(services).compress(true);
            builder.config(config.clone()).start_insecure(world.bind(node, address(node))).unwrap()
        };
        let (_server, client) = (peer(1, echo), peer(2, Services::new()));
        let text = text.clone();
        world.run(async move {
            let remote = client.remote(address(1));
            // The first answer tells what the peer reads.
            assert_eq!(remote.call::<_, String, Never>("echo", "").await.as_deref(), Ok(""));
            let before = client.counters();
            assert_eq!(remote.call::<_, String, Never>("echo", &text).await, Ok(text.clone()));
            let after = client.counters();
            let (sent, received) =
                (after.bytes_sent - before.bytes_sent, after.bytes_received - before.bytes_received);
            assert_eq!(sent < text.len() as u64 / 10, smaller, "{sent} bytes sent");
            assert_eq!(received < text.len() as u64 / 10, smaller, "{received} bytes received");
            let opaque = remote.call::<_, String, Never>("echo", &text).compress(false);
            assert_eq!(opaque.await, Ok(text.clone()));
            assert!(client.counters().bytes_sent - after.bytes_sent > text.len() as u64);
        });
    }
}

#[test]
fn a_batch_shares_datagrams_and_answers_each_call() {
    let executions = Arc::new(AtomicU64::new(0));
    let (world, server, client) = world_of(40, calc(&executions));
    world.run(async move {
        let calc = client.remote(address(1));
        assert_eq!(calc.call::<_, u64, Never>("count", &()).await, Ok(0));
        let before = (client.counters().datagrams_sent, server.counters().datagrams_sent);
        let mut batch = calc.batch();
        let counts: Vec<_> = (0..20).map(|_| batch.add(calc.call::<_, u64, Never>("count", &()))).collect();
        let quotient = batch.add(calc.call::<_, i64, DivideByZero>("divide", &(8i64, 2i64)));
        let failed = batch.add(calc.call::<_, i64, DivideByZero>("divide", &(8i64, 0i64)));
        assert_eq!(batch.len(), 22);
        batch.send().await;
        assert_eq!(quotient.take(), Some(Ok(4)));
        assert_eq!(failed.take(), Some(Err(CallError::Method(DivideByZero))));
        let counts: Vec<_> = counts.into_iter().map(|count| count.take().unwrap().unwrap()).collect();
        assert_eq!(counts, (1..=20).collect::<Vec<u64>>());
        let sent = (client.counters().datagrams_sent - before.0, server.counters().datagrams_sent - before.1);
        assert!(sent.0 <= 2 && sent.1 <= 2, "22 calls in {} datagrams, answered in {}", sent.0, sent.1);
    });
}

#[test]
fn what_is_too_large_beside_the_body_is_refused_here() {
    let (world, _server, client) = world_of(41, calc(&Arc::default()));
    world.run(async move {
        let call = client.remote(address(1)).call::<_, u64, Never>("count", &());
        let error = rpc_error(call.extra(64, vec![0; 2_000].into()).await);
        assert_eq!((error.code, error.outcome), (Code::BadRequest, Outcome::NotExecuted));
    });
}

#[test]
fn a_raw_handler_sees_no_difference() {
    let raw = |ctx: Ctx, body: Bytes| -> BoxFuture<Result<Bytes, Failure>> {
        assert!(ctx.meta.is_none());
        Box::pin(async move { Ok(body) })
    };
    let method = crate::rpc::registry::Method {
        schema: crate::rpc::schema::MethodSchema::of_closure::<(), (), Never>(true),
        handler: Arc::new(raw),
        policy: MethodPolicy::default(),
    };
    let (world, _server, client) = world_of(42, Services::new().raw("echo", method));
    world.run(async move {
        let body = Bytes::from_static(b"not even CBOR");
        assert_eq!(client.remote(address(1)).call_raw("echo", body.clone()).await.unwrap(), body);
    });
}

#[crate::service(name = "ledger")]
trait Ledger {
    #[rpc(max_concurrent = 2, max_queue = 1)]
    async fn slow(&self, ctx: Ctx, ms: u64) -> Result<(), Never>;

    #[rpc(exclusive = account)]
    async fn transfer(&self, ctx: Ctx, account: String, ms: u64) -> Result<u64, Never>;

    #[rpc(keyed, compress = true)]
    async fn post(&self, ctx: Ctx, text: String) -> Result<u64, CallError<DivideByZero>>;
}

struct Books;

impl Ledger for Books {
    async fn slow(&self, ctx: Ctx, ms: u64) -> Result<(), Never> {
        ctx.runtime.sleep(Duration::from_millis(ms)).await;
        Ok(())
    }

    async fn transfer(&self, ctx: Ctx, _account: String, ms: u64) -> Result<u64, Never> {
        ctx.runtime.sleep(Duration::from_millis(ms)).await;
        Ok(ctx.fence.unwrap())
    }

    async fn post(&self, ctx: Ctx, text: String) -> Result<u64, CallError<DivideByZero>> {
        match text.as_str() {
            "method" => Err(CallError::Method(DivideByZero)),
            "refuse" => Err(RpcError::not_executed(Code::Forbidden, "not today").into()),
            _ => Ok(ctx.idempotency_key().map_or(0, |key| key.sequence)),
        }
    }
}

#[test]
fn the_macros_options_set_the_policy_of_a_method() {
    let (world, server, client) = world_of(43, ledger_services(Arc::new(Books)));
    let observer = world.observer();
    world.run(async move {
        let ledger = LedgerClient::new(client.remote(address(1)));
        let calls: Vec<_> =
            (0..4).map(|_| observer.spawn("caller", ledger.slow(100).once().into_future())).collect();
        let mut refused = 0;
        for call in calls {
            refused += u64::from(call.await.unwrap().is_err());
        }
        assert_eq!(refused, 1, "two run, one waits");

        let began = observer.now();
        let accounts = ["a", "b", "a"];
        let calls = accounts
            .map(|account| observer.spawn("caller", ledger.transfer(account.to_owned(), 100).into_future()));
        let mut fences = Vec::new();
        for call in calls {
            fences.push(call.await.unwrap().unwrap());
        }
        assert!(fences[0] < fences[1] && fences[1] < fences[2], "{fences:?}");
        assert!((200..250).contains(&(observer.now() - began).as_millis()));

        assert_eq!(ledger.post("text".repeat(1_000)).idempotency_key(1, 9).await, Ok(9));
        assert_eq!(ledger.post("method".to_owned()).await, Err(CallError::Method(DivideByZero)));
        let error = rpc_error(ledger.post("refuse".to_owned()).await);
        assert_eq!((error.code, error.outcome), (Code::Forbidden, Outcome::NotExecuted));
        assert_eq!(server.method_metrics()["ledger.post"].0.method_errors, 1);
    });
}

/// Collects the events of `rpc_core::call` on this thread.
#[derive(Clone, Default)]
struct Events(Log<String>);

impl tracing::Subscriber for Events {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "rpc_core::call"
    }

    fn new_span(&self, span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        let mut words = Words(span.metadata().name().to_owned());
        span.record(&mut words);
        push(&self.0, words.0);
        tracing::span::Id::from_u64(1)
    }

    fn event(&self, event: &tracing::Event<'_>) {
        let mut words = Words(String::new());
        event.record(&mut words);
        push(&self.0, words.0);
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

struct Words(String);

impl tracing::field::Visit for Words {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
        self.0.push_str(&format!(" {field}={value:?}"));
    }
}

#[test]
fn each_call_is_an_event_on_both_sides() {
    let events = Events::default();
    let seen = Arc::clone(&events.0);
    let (world, _server, client) = world_of(44, calc(&Arc::default()));
    tracing::subscriber::with_default(events, || {
        world.run(async move {
            let divide = client.remote(address(1)).call::<_, i64, DivideByZero>("divide", &(8i64, 2i64));
            assert_eq!(divide.trace(0xabc).await, Ok(4));
            let missing = client.remote(address(1)).call::<_, i64, Never>("missing", &());
            assert_eq!(rpc_error(missing.await).code, Code::MethodNotFound);
        });
    });
    let seen = take(&seen);
    let [span, served, called, missing] = &seen[..] else { panic!("{seen:?}") };
    let trace = format!("{:032x}", 0xabc);
    for word in ["serve", "divide", "request=0", "127.0.0.1:7302", &trace] {
        assert!(span.contains(word), "no {word} in {span}");
    }
    for word in ["served", "latency_us=", "code=\"OK\"", "outcome=\"executed\"", "in_flight="] {
        assert!(served.contains(word), "no {word} in {served}");
    }
    for word in ["called", "divide", "127.0.0.1:7301", &trace, "latency_us=", "code=\"OK\""] {
        assert!(called.contains(word), "no {word} in {called}");
    }
    for word in ["METHOD_NOT_FOUND", "not executed"] {
        assert!(missing.contains(word), "no {word} in {missing}");
    }
}
