//! Services from traits and from closures, called through their generated clients.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rpc_core::endpoint::Lane;
use rpc_core::rpc::channel::Channel;
use rpc_core::rpc::{CallError, Code, Ctx, Never, Outcome, Services};
use rpc_core::sim::World;
use serde::{Deserialize, Serialize};

use crate::loopback::{Loopback, lanes};

/// Arithmetic.
#[rpc_core::service]
trait Calc {
    /// Adds.
    #[rpc(idempotent)]
    async fn add(&self, ctx: Ctx, a: i64, b: i64) -> Result<i64, Never>;

    /// Divides.
    async fn divide(&self, ctx: Ctx, a: i64, b: i64) -> Result<i64, CalcError>;

    /// The opposite number.
    async fn negate(&self, ctx: Ctx, a: i64) -> Result<i64, Never>;

    /// How many methods ran before this one.
    async fn count(&self, ctx: Ctx) -> Result<u64, Never>;
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum CalcError {
    DivideByZero { dividend: i64 },
}

impl fmt::Display for CalcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::DivideByZero { dividend } = self;
        write!(f, "{dividend} divided by zero")
    }
}

#[derive(Default)]
struct Calculator {
    executions: AtomicU64,
}

impl Calculator {
    fn count_one(&self) -> u64 {
        self.executions.fetch_add(1, Ordering::Relaxed)
    }
}

impl Calc for Calculator {
    async fn add(&self, _ctx: Ctx, a: i64, b: i64) -> Result<i64, Never> {
        self.count_one();
        Ok(a + b)
    }

    async fn divide(&self, _ctx: Ctx, a: i64, b: i64) -> Result<i64, CalcError> {
        self.count_one();
        a.checked_div(b).ok_or(CalcError::DivideByZero { dividend: a })
    }

    async fn negate(&self, _ctx: Ctx, a: i64) -> Result<i64, Never> {
        self.count_one();
        Ok(-a)
    }

    async fn count(&self, _ctx: Ctx) -> Result<u64, Never> {
        Ok(self.count_one())
    }
}

/// Every method option, and argument names that generated code could trip over.
#[rpc_core::service(name = "store.blobs")]
trait Blobs {
    #[rpc(timeout = "300ms", lane = bulk)]
    async fn upload(&self, ctx: Ctx, remote: String, service: u8, methods: ()) -> Result<String, Never>;

    #[rpc(lane = control, idempotent, timeout = "2s")]
    async fn r#yield(&self, ctx: Ctx) -> Result<(), Never>;
}

struct BlobStore;

impl Blobs for BlobStore {
    async fn upload(&self, _: Ctx, remote: String, service: u8, (): ()) -> Result<String, Never> {
        Ok(format!("{remote}{service}"))
    }

    async fn r#yield(&self, ctx: Ctx) -> Result<(), Never> {
        ctx.runtime.sleep(Duration::from_millis(1)).await;
        Ok(())
    }
}

/// The same methods as [`Calc`] has, from closures.
fn calc_from_closures() -> Services {
    Services::new()
        .method("add", |_: Ctx, (a, b): (i64, i64)| async move { Ok::<_, Never>(a + b) })
        .method("divide", |_: Ctx, (a, b): (i64, i64)| async move {
            a.checked_div(b).ok_or(CalcError::DivideByZero { dividend: a })
        })
        .method("negate", |_: Ctx, a: i64| async move { Ok::<_, Never>(-a) })
        .method("count", |_: Ctx, (): ()| async { Ok::<_, Never>(0u64) })
}

/// A world with one node, and its loopback to `services`.
fn world(services: Services) -> (World, Loopback) {
    let world = World::new(1);
    let loopback = Loopback::new(world.start(1), services);
    (world, loopback)
}

#[test]
fn a_trait_becomes_a_client_and_a_service() {
    let (world, loopback) = world(calc_services(Arc::new(Calculator::default())));
    let calc = CalcClient::new(loopback.remote());
    world.run(async move {
        assert_eq!(calc.add(2, 3).await, Ok(5));
        assert_eq!(calc.negate(2).await, Ok(-2));
        assert_eq!(calc.divide(7, 2).await, Ok(3));
        assert_eq!(calc.count().await, Ok(3));
    });
    assert_eq!(CalcClient::METHODS, ["add", "divide", "negate", "count"]);
}

#[test]
fn a_methods_own_error_arrives_typed_and_executed() {
    let (world, loopback) = world(calc_services(Arc::new(Calculator::default())));
    let calc = CalcClient::new(loopback.remote());
    world.run(async move {
        let error = calc.divide(7, 0).await.unwrap_err();
        assert_eq!(error, CallError::Method(CalcError::DivideByZero { dividend: 7 }));
        assert_eq!(error.outcome(), Outcome::Executed);
    });
}

#[test]
fn traits_and_closures_mix_and_nest() {
    let calculator = Arc::new(Calculator::default());
    let services = Services::new()
        .method("ping", |_: Ctx, (): ()| async { Ok::<_, Never>(()) })
        .merge(calc_services(Arc::clone(&calculator)))
        .nest(
            "root",
            Services::new().nest("sub", calc_services(calculator)).nest("plain", calc_from_closures()),
        )
        .merge(blobs_services(Arc::new(BlobStore)));
    let (world, loopback) = world(services);
    let root = loopback.remote();
    world.run(async move {
        assert_eq!(root.call::<_, (), Never>("ping", &()).await, Ok(()));
        assert_eq!(CalcClient::new(root.clone()).add(1, 2).await, Ok(3));
        assert_eq!(CalcClient::new(root.at("root").at("sub")).add(3, 4).await, Ok(7));
        assert_eq!(CalcClient::new(root.at("root.plain")).add(5, 6).await, Ok(11));
        assert_eq!(BlobsClient::new(root).upload("a".into(), 1, ()).await, Ok("a1".into()));
    });
    let names: Vec<_> = loopback.take_sent().into_iter().map(|attempt| attempt.name.to_string()).collect();
    assert_eq!(names, ["ping", "add", "root.sub.add", "root.plain.add", "store.blobs.upload"]);
}

#[test]
fn a_named_service_lives_below_its_name() {
    let services = blobs_services(Arc::new(BlobStore));
    assert!(services.names().eq(["store.blobs.upload", "store.blobs.yield"]));
    assert_eq!(BlobsClient::METHODS, ["store.blobs.upload", "store.blobs.yield"]);
}

#[test]
fn method_options_reach_the_call_and_give_way_to_the_callers() {
    let (world, loopback) = world(blobs_services(Arc::new(BlobStore)));
    let blobs = BlobsClient::new(loopback.remote());
    let now = loopback.runtime().now();
    world.run(async move {
        blobs.upload("a".into(), 1, ()).await.unwrap();
        blobs.upload("a".into(), 1, ()).timeout(Duration::from_secs(9)).lane(Lane::Normal).await.unwrap();
        blobs.r#yield().await.unwrap();
    });
    let sent = loopback.take_sent();
    assert_eq!(lanes(&sent), [Lane::Bulk, Lane::Normal, Lane::Control]);
    let idempotent: Vec<_> = sent.iter().map(|attempt| attempt.idempotent).collect();
    assert_eq!(idempotent, [false, false, true]);
    let timeouts: Vec<_> = sent.iter().map(|attempt| (attempt.deadline - now).as_millis()).collect();
    assert_eq!(timeouts, [300, 9_000, 2_000]);
}

#[test]
fn a_body_of_another_shape_is_refused_before_the_method_runs() {
    let calculator = Arc::new(Calculator::default());
    let (world, loopback) = world(calc_services(Arc::clone(&calculator)));
    let remote = loopback.remote();
    world.run(async move {
        let calls = [
            remote.call::<_, i64, Never>("add", &1i64),
            remote.call("add", &(1i64, 2i64, 3i64)),
            remote.call("add", &("1", "2")),
            remote.call("add", &()),
            remote.call("negate", &(1i64, 2i64)),
            remote.call("count", &1u64),
        ];
        for call in calls {
            let CallError::Rpc(error) = call.await.unwrap_err();
            assert_eq!((error.code, error.outcome), (Code::BadRequest, Outcome::NotExecuted), "{error}");
        }
    });
    assert_eq!(calculator.executions.load(Ordering::Relaxed), 0);
}

#[test]
fn an_unknown_method_was_not_executed() {
    let (world, loopback) = world(Services::new());
    let calc = CalcClient::new(loopback.remote());
    world.run(async move {
        let CallError::Rpc(error) = calc.add(1, 2).await.unwrap_err();
        assert_eq!((error.code, error.outcome), (Code::MethodNotFound, Outcome::NotExecuted));
    });
}

#[test]
fn a_closure_takes_the_bytes_that_a_client_of_a_trait_sends() {
    let (world, loopback) = world(calc_from_closures());
    let calc = CalcClient::new(loopback.remote());
    let plain = loopback.remote();
    world.run(async move {
        assert_eq!(calc.add(2, 3).await, plain.call("add", &(2i64, 3i64)).await);
        assert_eq!(calc.divide(2, 0).await, plain.call("divide", &(2i64, 0i64)).await);
        assert_eq!(calc.negate(2).await, plain.call("negate", &2i64).await);
        assert_eq!(calc.count().await, plain.call("count", &()).await);
    });
    let bodies = loopback.take_bodies();
    for pair in bodies.chunks(2) {
        assert_eq!(pair[0], pair[1]);
    }
    // Drawn from RFC 8949, because these bytes are the protocol: the array [2, 3], the number 2, null.
    assert_eq!(bodies[0][..], [0x82, 0x02, 0x03]);
    assert_eq!(bodies[4][..], [0x02]);
    assert_eq!(bodies[6][..], [0xf6]);
}

#[test]
fn what_cannot_travel_is_refused_where_it_stands() {
    trybuild::TestCases::new().compile_fail("tests/refused/*.rs");
}
