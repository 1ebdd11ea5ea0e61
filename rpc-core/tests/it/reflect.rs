//! What peers tell about their services, and services that change while a peer runs.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rpc_core::peer::Peer;
use rpc_core::rpc::describe::{Fit, ReflectionClient};
use rpc_core::rpc::{CallError, Code, Ctx, Never, Outcome, RpcError, Services};
use rpc_core::runtime::Runtime;
use rpc_core::sim::World;
use serde::{Deserialize, Serialize};

/// Weather, as the server was built.
mod new {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    pub(crate) struct Report {
        pub(crate) station: String,
        pub(crate) kelvin: u32,
    }

    /// The weather.
    #[rpc_core::service(name = "weather")]
    pub(crate) trait Weather {
        /// Takes a report.
        async fn put(&self, ctx: Ctx, report: Report) -> Result<(), Never>;
        /// The last report.
        #[rpc(idempotent)]
        async fn last(&self, ctx: Ctx) -> Result<Report, Never>;
        /// Without a wait.
        fn stations(&self, ctx: Ctx) -> Result<u64, Never>;
    }

    pub(crate) struct Tower;

    impl Weather for Tower {
        async fn put(&self, _: Ctx, _: Report) -> Result<(), Never> {
            Ok(())
        }
        async fn last(&self, _: Ctx) -> Result<Report, Never> {
            Ok(Report { station: "north".into(), kelvin: 290 })
        }
        fn stations(&self, _: Ctx) -> Result<u64, Never> {
            Ok(3)
        }
    }
}

/// Weather, as a client was built years ago.
mod old {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    pub(crate) struct Report {
        pub(crate) celsius: f64,
    }

    #[rpc_core::service(name = "weather")]
    pub(crate) trait Weather {
        async fn put(&self, ctx: Ctx, report: Report) -> Result<(), Never>;
        async fn last(&self, ctx: Ctx) -> Result<Report, Never>;
        fn stations(&self, ctx: Ctx) -> Result<u64, Never>;
        async fn gone(&self, ctx: Ctx) -> Result<u64, Never>;
    }
}

fn address(node: u64) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 7_300 + node as u16))
}

fn tower() -> Services {
    new::weather_services(Arc::new(new::Tower))
}

fn peer(world: &World, node: u64, services: Services) -> (Peer, Runtime) {
    let runtime = world.start(node);
    let builder = Peer::builder(runtime.clone()).services(services);
    let peer = builder.start_insecure(world.bind(node, address(node))).expect("names differ");
    (peer, runtime)
}

/// A world with a server of `services` and a client.
fn pair(services: Services) -> (World, Peer, Peer) {
    let world = World::new(1);
    let (server, _) = peer(&world, 1, services);
    let (client, _) = peer(&world, 2, Services::new());
    (world, server, client)
}

fn rpc_error<T: std::fmt::Debug>(result: Result<T, CallError<Never>>) -> RpcError {
    match result.expect_err("the call must fail") {
        CallError::Rpc(error) => error,
        CallError::Method(never) => match never {},
    }
}

#[test]
fn a_peer_describes_what_it_serves() {
    let (world, _server, client) = pair(tower());
    let reflection = ReflectionClient::new(client.remote(address(1)));
    world.run(async move {
        assert_eq!(reflection.ping().await, Ok(()));
        let description = reflection.describe().await.unwrap();
        let names: Vec<_> = description.methods.iter().map(|method| method.name.as_str()).collect();
        let built_in = ["rpc.cddl", "rpc.describe", "rpc.method", "rpc.ping"];
        assert!(built_in.iter().all(|name| names.contains(name)), "{names:?}");
        assert!(names.ends_with(&["weather.last", "weather.put", "weather.stations"]), "{names:?}");
        let last = description.method("weather.last").unwrap();
        assert_eq!(
            (last.signature.as_str(), last.docs.as_str()),
            ("() -> Result<Report, Never>", "The last report.")
        );
        assert!(last.idempotent);

        let table = description.to_string();
        let line = format!(
            "  {:#010x}  {:016x}  last() -> Result<Report, Never>  [idempotent]\n",
            last.id,
            last.fingerprint.unwrap()
        );
        assert!(table.contains("\nweather\n") && table.contains(&line), "{table}");
        let cddl = reflection.cddl().await.unwrap();
        assert!(cddl.contains("\nweather.put.request = report\n"), "{cddl}");
    });
}

#[test]
fn client_and_server_tables_are_held_against_each_other() {
    let (world, _server, client) = pair(tower());
    let reflection = ReflectionClient::new(client.remote(address(1)));
    let description = world.run(async move { reflection.describe().await.unwrap() });
    assert!(description.compare("", &new::WeatherClient::SCHEMA).is_same());
    let comparison = description.compare("", &old::WeatherClient::SCHEMA);
    let fits: Vec<_> = comparison.methods.iter().map(|(_, fit)| fit).collect();
    assert!(
        matches!(fits[..], [Fit::Differs { .. }, Fit::Differs { .. }, Fit::Same, Fit::Missing]),
        "{comparison}"
    );
}

#[test]
fn a_body_of_another_schema_says_so() {
    let (world, _server, client) = pair(tower());
    let weather = old::WeatherClient::new(client.remote(address(1)));
    world.run(async move {
        // The server cannot read the request.
        let error = rpc_error(weather.put(old::Report { celsius: 17.0 }).await);
        assert_eq!((error.code, error.outcome), (Code::SchemaMismatch, Outcome::NotExecuted), "{error}");
        let signature = "(report: Report) -> Result<(), Never> #";
        assert_eq!(error.message.matches(signature).count(), 2, "both sides are named: {error}");
        // The client cannot read the answer, and asks what it was.
        let error = rpc_error(weather.last().await);
        assert_eq!((error.code, error.outcome), (Code::SchemaMismatch, Outcome::Executed), "{error}");
        assert_eq!(error.message.matches("() -> Result<Report, Never> #").count(), 2, "{error}");
        assert_eq!(weather.stations().await, Ok(3));
    });
}

#[test]
fn a_bad_body_of_the_same_schema_is_a_bad_request() {
    let (world, _server, client) = pair(tower());
    world.run(async move {
        let remote = client.remote(address(1));
        let call =
            remote.call::<_, (), Never>("weather.put", &7).schema(&new::WeatherClient::SCHEMA.methods[0]);
        let error = rpc_error(call.await);
        assert_eq!((error.code, error.outcome), (Code::BadRequest, Outcome::NotExecuted), "{error}");
        assert_eq!(error.schema.unwrap().signature, "(report: Report) -> Result<(), Never>");
    });
}

#[test]
fn reflection_can_be_switched_off() {
    let world = World::new(2);
    let runtime = world.start(1);
    let builder = Peer::builder(runtime).services(tower()).reflection(false);
    let _server = builder.start_insecure(world.bind(1, address(1))).unwrap();
    let (client, _) = peer(&world, 2, Services::new());
    world.run(async move {
        let remote = client.remote(address(1));
        let error = rpc_error(ReflectionClient::new(remote.clone()).describe().await);
        assert_eq!(error.code, Code::MethodNotFound);
        let error = rpc_error(old::WeatherClient::new(remote).last().await);
        assert_eq!(error.code, Code::Codec, "nobody can say why");
    });
}

#[test]
fn services_come_and_go_while_a_peer_runs() {
    let (world, server, client) = pair(tower());
    world.run(async move {
        let root = client.remote(address(1));
        let south = root.at("south");
        let stations = |at: &rpc_core::rpc::Remote| new::WeatherClient::new(at.clone()).stations();
        assert_eq!(rpc_error(stations(&south).await).code, Code::MethodNotFound);
        server.services().mount("south", tower()).unwrap();
        assert_eq!(stations(&south).await, Ok(3));

        let taken = server.services().mount("south", tower()).unwrap_err();
        assert_eq!(taken.to_string(), "a method `south.weather.last` is served already");
        let other = Services::new().method_sync("weather.stations", |_: Ctx, (): ()| Ok::<_, Never>(8u64));
        server.services().replace("south", other).unwrap();
        assert_eq!(stations(&south).await, Ok(8));
        assert_eq!(rpc_error(new::WeatherClient::new(south.clone()).last().await).code, Code::MethodNotFound);

        assert_eq!(server.services().unmount("sout"), 0, "a path is whole words");
        assert_eq!(server.services().unmount("south"), 1);
        assert_eq!(rpc_error(stations(&south).await).code, Code::MethodNotFound);
        assert_eq!(stations(&root).await, Ok(3));
    });
}

#[test]
fn names_with_one_wire_id_are_refused_while_a_peer_runs() {
    let (_world, server, _client) = pair(Services::new());
    let one = |name: &str| Services::new().method_sync(name, |_: Ctx, (): ()| Ok::<_, Never>(()));
    let (first, second) = ("m329698", "m901416");
    assert_eq!(rpc_core::rpc::MethodId::of(first), rpc_core::rpc::MethodId::of(second));
    server.services().merge(one(first)).unwrap();
    let before = server.services().names();
    let refused = server.services().merge(one("fine").merge(one(second))).unwrap_err();
    assert!(refused.to_string().contains("share one wire id"), "{refused}");
    assert_eq!(server.services().names(), before, "all or nothing");
}

#[test]
fn calls_of_a_service_that_is_removed_go_on_to_their_end() {
    let slow = Services::new().method("wait", |ctx: Ctx, (): ()| async move {
        ctx.runtime.sleep(Duration::from_secs(1)).await;
        Ok::<_, Never>("done".to_owned())
    });
    let (world, server, client) = pair(Services::new().nest("slow", slow));
    let observer = world.observer();
    world.run(async move {
        let remote = client.remote(address(1));
        let open = remote.call::<_, String, Never>("slow.wait", &());
        let open = observer.spawn("caller", open.into_future());
        observer.sleep(Duration::from_millis(200)).await;
        assert_eq!(server.services().unmount("slow"), 1);
        let late = remote.call::<_, String, Never>("slow.wait", &()).await;
        assert_eq!(rpc_error(late).code, Code::MethodNotFound);
        assert_eq!(open.await.unwrap(), Ok("done".to_owned()));
    });
}

#[test]
fn a_script_calls_without_types() {
    use rpc_core::rpc::codec::{Value, diagnostic, encode, from_diagnostic};

    let divide = |_: Ctx, (a, b): (i64, i64)| a.checked_div(b).ok_or((a, "by zero"));
    let (world, _server, client) = pair(Services::new().method_sync("divide", divide));
    world.run(async move {
        let remote = client.remote(address(1));
        let body = |a: i64, b: i64| Value::from(vec![Value::from(a), Value::from(b)]);
        assert_eq!(remote.call_value("divide", &body(7, 2)).await, Ok(3.into()));
        let error = remote.call_value("divide", &body(7, 0)).await.unwrap_err();
        assert_eq!((error.outcome(), error.to_string().as_str()), (Outcome::Executed, "[7, \"by zero\"]"));

        let typed = from_diagnostic("[7, 2]").unwrap();
        assert_eq!(typed, encode(&(7i64, 2i64)).unwrap());
        assert_eq!(diagnostic(&remote.call_raw("divide", typed).await.unwrap()).to_string(), "3");
    });
}

#[test]
fn a_panic_of_a_plain_method_is_an_internal_error() {
    let services =
        Services::new().method_sync("panic", |_: Ctx, (): ()| -> Result<(), Never> { panic!("planted") });
    let (world, _server, client) = pair(services);
    world.run(async move {
        let error = rpc_error(client.remote(address(1)).call::<_, (), Never>("panic", &()).await);
        assert_eq!((error.code, error.outcome), (Code::Internal, Outcome::Unknown));
    });
}

#[test]
fn a_description_shows_limits_and_who_is_there() {
    use rpc_core::rpc::MethodPolicy;

    let hold = |ctx: Ctx, (): ()| async move {
        ctx.runtime.sleep(Duration::from_secs(1)).await;
        Ok::<_, Never>(())
    };
    let services = Services::new().method("hold", hold).with("hold", MethodPolicy::new().limits(2, 8));
    let (world, _server, client) = pair(services);
    let observer = world.observer();
    world.run(async move {
        let remote = client.remote(address(1));
        let calls = [0, 1, 2].map(|_| remote.call::<_, (), Never>("hold", &()).into_future());
        let calls = calls.map(|call| observer.spawn("caller", call));
        observer.sleep(Duration::from_millis(100)).await;
        let description = ReflectionClient::new(remote).describe().await.unwrap();
        let table = description.to_string();
        assert!(table.contains("(2 of 2 at once, 1 of 8 waiting)"), "{table}");
        for call in calls {
            assert_eq!(call.await.unwrap(), Ok(()));
        }
    });
}
