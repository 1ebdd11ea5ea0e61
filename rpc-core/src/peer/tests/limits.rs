//! What a peer holds at most, and what it drops of what it held.

use super::*;
use crate::endpoint::{CallId, ConnId};
use crate::peer::HANDLERS_MAX;

#[test]
fn a_peer_that_serves_as_much_as_it_can_says_so_before_work_starts() {
    let (world, server, client, executions) = pair(20);
    let (observer, counted) = (world.observer(), Arc::clone(&executions));
    world.run(async move {
        let calc = client.remote(address(1)).at("calc");
        assert_eq!(calc.call::<_, u64, Never>("count", &()).await, Ok(0));
        let fill = |count: usize| {
            let tasks = (0..count).map(|index| {
                let key = (ConnId(0), CallId(index as u64));
                (key, observer.spawn("handler", std::future::pending()))
            });
            server.inner.lock().serving = tasks.collect();
        };
        fill(HANDLERS_MAX - 1);
        assert_eq!(calc.call::<_, u64, Never>("count", &()).once().await, Ok(1), "there is room for one");
        fill(HANDLERS_MAX);
        let CallError::Rpc(error) = calc.call::<_, u64, Never>("count", &()).once().await.unwrap_err();
        assert_eq!((error.code, error.outcome), (Code::ServerBusy, Outcome::NotExecuted));
        assert!(error.retry_after.is_some_and(|pause| !pause.is_zero()), "{error}");
        assert_eq!(counted.load(Ordering::Relaxed), 2);
        fill(0);
        assert_eq!(calc.call::<_, u64, Never>("count", &()).once().await, Ok(2));
    });
}

#[test]
fn a_connection_whose_peer_drains_is_left_for_a_new_one() {
    let (world, server, client, executions) = pair(23);
    let (handle, observer) = (world.clone(), world.observer());
    let successor = calc(&executions);
    world.run(async move {
        let calc = client.remote(address(1)).at("calc");
        let open = calc.call::<_, (), Never>("wait", &60_000u64).timeout(Duration::from_secs(90));
        let open = observer.spawn("caller", open.into_future());
        observer.sleep(Duration::from_millis(50)).await;
        observer.spawn("drain", async move { server.drain(Duration::from_secs(60)).await });
        observer.sleep(Duration::from_millis(50)).await;
        assert!(client.inner.lock().outgoing.is_empty());
        // Its successor has the address at once; the old connection would refuse until it is known to be dead.
        let _server = start(&handle, 1, successor);
        let next = calc.call::<_, u64, Never>("count", &()).once().timeout(Duration::from_millis(200));
        assert_eq!(next.await, Ok(0));
        open.abort();
    });
    assert_eq!(executions.load(Ordering::Relaxed), 1);
}
