//! The blocking facade, over real sockets.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use rpc_core::blocking::{Peer, Wait};
use rpc_core::rpc::{CallError, Code, Ctx, Never, Outcome, Services};

fn any() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

fn start(services: Services) -> Peer {
    Peer::start(any(), |peer, socket| peer.services(services).start_insecure(socket)).expect("a port is free")
}

/// What a call is told when its peer ends: the connection is the first to go, or the peer.
fn is_closed(code: Code) -> bool {
    matches!(code, Code::ConnectionLost | Code::Cancelled)
}

fn echo() -> Services {
    Services::new().method_sync("echo", |_: Ctx, text: String| Ok::<_, Never>(text)).method(
        "wait",
        |ctx: Ctx, ms: u64| async move {
            ctx.runtime.sleep(Duration::from_millis(ms)).await;
            Ok::<_, Never>(())
        },
    )
}

#[test]
fn threads_call_and_wait() {
    let (server, client) = (start(echo()), start(Services::new()));
    let remote = client.remote(server.local_addr());
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let remote = &remote;
            scope.spawn(move || {
                for call in 0..25 {
                    let text = format!("{thread}.{call}");
                    assert_eq!(remote.call::<_, String, Never>("echo", &text).wait(), Ok(text));
                }
            });
        }
    });
    client.close();
    server.drain(Duration::from_secs(5));
}

#[test]
fn async_code_is_told_to_await() {
    let (server, client) = (start(echo()), start(Services::new()));
    let remote = client.remote(server.local_addr());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let CallError::Rpc(error) = remote.call::<_, String, Never>("echo", "a").wait().unwrap_err();
        assert_eq!((error.code, error.outcome), (Code::Cancelled, Outcome::NotExecuted), "{error}");
        assert!(error.message.contains("`.await`"), "{error}");
        let refused = Peer::start(any(), |peer, socket| peer.start_insecure(socket)).unwrap_err();
        assert!(refused.to_string().contains("`.await`"), "{refused}");
        // Dropped here, a peer must not block, and not panic.
        drop(client);
    });
    let again = start(Services::new());
    assert_eq!(
        again.remote(server.local_addr()).call::<_, String, Never>("echo", "a").wait(),
        Ok("a".into())
    );
}

#[test]
fn a_dropped_peer_ends_the_calls_that_wait() {
    let (started, has_started) = std::sync::mpsc::channel();
    let hold = Services::new().method("hold", move |ctx: Ctx, (): ()| {
        let _ = started.send(());
        async move {
            ctx.runtime.sleep(Duration::from_secs(60)).await;
            Ok::<_, Never>(())
        }
    });
    let (server, client) = (start(hold), start(Services::new()));
    let remote = client.remote(server.local_addr());
    std::thread::scope(|scope| {
        let call = remote.call::<_, (), Never>("hold", &()).timeout(Duration::from_secs(60));
        let open = scope.spawn(|| call.wait());
        has_started.recv().unwrap();
        drop(client);
        let CallError::Rpc(error) = open.join().unwrap().unwrap_err();
        assert!(is_closed(error.code) && error.outcome == Outcome::Unknown, "{error}");
    });
    let CallError::Rpc(late) = remote.call::<_, (), Never>("hold", &()).wait().unwrap_err();
    assert_eq!((late.code, late.outcome), (Code::Cancelled, Outcome::NotExecuted), "{late}");
}

#[test]
fn a_call_that_waits_for_its_next_try_outlives_its_peer() {
    let (client, nobody) = (start(Services::new()), std::net::UdpSocket::bind(any()).unwrap());
    let remote = client.remote(nobody.local_addr().unwrap());
    std::thread::scope(|scope| {
        let call = remote.call::<_, (), Never>("echo", "a").timeout(Duration::from_secs(60));
        let open = scope.spawn(|| call.wait());
        // The first datagram: the call is under way.
        nobody.recv_from(&mut [0; 2_048]).unwrap();
        drop(client);
        let CallError::Rpc(error) = open.join().unwrap().unwrap_err();
        assert!(is_closed(error.code), "{error}");
    });
}
