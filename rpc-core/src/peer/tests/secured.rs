//! Peers with keys: what handlers know of the caller, and what a caller hears that is not let in.

use super::*;
use crate::security::{NodeKey, PublicKey, SharedKey};

fn shared(byte: u8) -> Security {
    Security::shared_key(SharedKey::new([byte; 32]))
}

fn node(node: u8, allowed: &[u8]) -> Security {
    let allowed: Vec<PublicKey> = allowed.iter().map(|byte| NodeKey::new([*byte; 32]).public()).collect();
    let own = NodeKey::new([node; 32]);
    Security::node_keys(SharedKey::new([9; 32]), own, move |key| allowed.contains(key))
}

/// Asks a peer with one security, as a peer with another, who it thinks is calling.
fn ask(server: Security, client: Security) -> Result<String, CallError<Never>> {
    let world = World::new(31);
    let who = Services::new().method("who", |ctx: Ctx, (): ()| async move {
        assert_eq!(ctx.address, address(2), "where the caller is");
        Ok::<_, Never>(ctx.identity.to_string())
    });
    let start = |number, services, security| {
        let builder = Peer::builder(world.start(number)).services(services).security(security);
        builder.start(world.bind(number, address(number))).unwrap()
    };
    let _server = start(1, who, server);
    let client = start(2, Services::new(), client);
    world.run(async move { client.remote(address(1)).call::<_, String, Never>("who", &()).await })
}

#[test]
fn a_handler_knows_what_its_caller_has_proved() {
    assert_eq!(ask(Security::insecure(), Security::insecure()).unwrap(), "none");
    assert_eq!(ask(shared(1), shared(1)).unwrap(), "holder of the shared key");
    let expected = format!("node {}", NodeKey::new([2; 32]).public());
    assert_eq!(ask(node(1, &[2]), node(2, &[1])).unwrap(), expected);
}

#[test]
fn who_is_not_let_in_hears_why_and_nothing_was_executed() {
    let Err(CallError::Rpc(error)) = ask(shared(1), shared(2)) else { panic!("let in") };
    assert_eq!(error.outcome, Outcome::NotExecuted);
    assert!(error.message.contains("is the key the same?"), "{}", error.message);
    for (server, client) in [(node(1, &[]), node(2, &[1])), (node(1, &[2]), node(2, &[]))] {
        let Err(CallError::Rpc(error)) = ask(server, client) else { panic!("let in") };
        assert_eq!((error.code, error.outcome), (Code::Unauthorized, Outcome::NotExecuted));
        assert!(error.message.contains("not allowed here: node"), "{}", error.message);
    }
}

#[test]
fn no_security_is_no_peer() {
    let world = World::new(1);
    let started = Peer::builder(world.start(1)).start(world.bind(1, address(1)));
    assert_eq!(started.err(), Some(StartError::NoSecurity));
}
