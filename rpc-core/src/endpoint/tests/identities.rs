//! Stories of nodes that prove who they are.

use std::time::Duration;

use bytes::Bytes;

use super::pair::{Client, Pair, Server, Side, pattern};
use crate::endpoint::{Config, Datagram, Event, LostReason};
use crate::security::{Identity, NodeKey, PublicKey, Security, SharedKey};
use crate::wire::close;
use crate::wire::packet::{Header, LONG_HEADER_SIZE, LongKind};
use crate::wire::seal::{TAG_SIZE, put_checksum};

fn node(side: Side) -> NodeKey {
    NodeKey::new([10 + side as u8; 32])
}

fn allowing(shared: u8, side: Side, allowed: &[PublicKey]) -> Security {
    let allowed = allowed.to_vec();
    Security::node_keys(SharedKey::new([shared; 32]), node(side), move |key| allowed.contains(key))
}

fn pair(client: Security, server: Security) -> Pair {
    Pair::secured([client, server], Config::default(), Config::default(), 8)
}

fn both() -> Pair {
    let keys = [node(Client).public(), node(Server).public()];
    pair(allowing(1, Client, &keys), allowing(1, Server, &keys))
}

fn is_third(datagram: &Bytes) -> bool {
    matches!(Header::read(datagram), Ok(Header::Long { kind: LongKind::Init, dcid, .. }) if dcid != 0)
}

#[test]
fn both_sides_learn_who_the_other_is_in_one_round_trip() {
    let mut pair = both();
    let start = pair.now;
    let (client, server) = pair.connected();
    assert!(pair.now - start < Duration::from_millis(10));
    let identity = |pair: &mut Pair, side: Side, conn| pair.at(side).connection(conn).unwrap().identity;
    assert_eq!(identity(&mut pair, Client, client), Identity::Node(node(Server).public()));
    assert_eq!(identity(&mut pair, Server, server), Identity::Node(node(Client).public()));
    let told = pair.events[Server as usize].iter().find_map(|event| match event {
        Event::Connected { identity, .. } => Some(*identity),
        _ => None,
    });
    assert_eq!(told, Some(Identity::Node(node(Client).public())));
    assert_eq!(told.unwrap().to_string(), format!("node {}", node(Client).public()));
    let call = pair.call(Client, client, pattern(5_000));
    pair.settle();
    assert_eq!(pair.answer(Client, client, call), Some((0, pattern(5_000))));
    let thirds = pair.sent.iter().filter(|flight| is_third(&flight.datagram)).count();
    assert_eq!(thirds, 1, "it is not repeated once the acceptor has spoken");
}

#[test]
fn in_the_other_modes_the_identity_says_what_is_known() {
    for (security, expected) in [
        (Security::insecure(), Identity::None),
        (Security::shared_key(SharedKey::new([1; 32])), Identity::SharedKey),
    ] {
        let mut pair = pair(security.clone(), security);
        let (client, server) = pair.connected();
        assert_eq!(pair.at(Client).connection(client).unwrap().identity, expected);
        assert_eq!(pair.at(Server).connection(server).unwrap().identity, expected);
    }
    assert_eq!(Identity::SharedKey.to_string(), "holder of the shared key");
    assert_eq!(Identity::None.to_string(), "none");
}

#[test]
fn a_third_message_that_is_lost_is_sent_again_and_data_before_it_too() {
    let mut pair = both();
    let now = pair.now;
    let conn = pair.at(Client).connect(now, Server.address());
    let call = pair.call(Client, conn, pattern(100));
    pair.run_until("replied", |pair| pair.sent.iter().any(|flight| is_third(&flight.datagram)));
    pair.drop_flights();
    assert!(!pair.executed.contains_key(&(Server, conn, call)));
    pair.run_until("answered", |pair| pair.answer(Client, conn, call).is_some());
    assert!(pair.now - now < Duration::from_millis(60), "{:?}", pair.now - now);
    let thirds = pair.sent.iter().filter(|flight| is_third(&flight.datagram)).count();
    assert_eq!(thirds, 2);
}

#[test]
fn calls_complete_over_a_bad_link_with_node_keys() {
    let mut pair = both();
    (pair.link.loss, pair.link.reorder, pair.link.duplicate, pair.link.corrupt) = (15, 30, 10, 5);
    let now = pair.now;
    let conn = pair.at(Client).connect(now, Server.address());
    let calls: Vec<_> = (0..50).map(|index| pair.call(Client, conn, pattern(index * 90))).collect();
    pair.settle();
    for (index, call) in calls.into_iter().enumerate() {
        assert_eq!(pair.answer(Client, conn, call), Some((0, pattern(index * 90))));
    }
}

#[test]
fn a_forged_third_message_does_not_spoil_the_real_one() {
    let mut pair = both();
    let now = pair.now;
    let conn = pair.at(Client).connect(now, Server.address());
    pair.run_until("replied", |pair| pair.sent.iter().any(|flight| is_third(&flight.datagram)));
    let third = pair.sent.iter().find(|flight| is_third(&flight.datagram)).unwrap().datagram.clone();
    // With the static key of the real one and a payload that was changed, the hard case, and changed everywhere else.
    for at in LONG_HEADER_SIZE + 1..third.len() - TAG_SIZE {
        let mut forged = third[..third.len() - TAG_SIZE].to_vec();
        forged[at] ^= 1;
        put_checksum(&mut forged, 0);
        pair.inject(Client, forged.into());
    }
    assert!(pair.at(Server).counters().dropped_bad_seal > 100);
    assert!(pair.events[Server as usize].is_empty());
    pair.run_until("connected", |pair| !pair.events[Server as usize].is_empty());
    pair.settle();
    assert!(pair.lost(Client, conn).is_none());
}

#[test]
fn a_node_that_is_not_allowed_is_told_so_and_nothing_of_it_is_executed() {
    let client = allowing(1, Client, &[node(Server).public()]);
    let mut pair = pair(client, allowing(1, Server, &[node(Server).public()]));
    let now = pair.now;
    let conn = pair.at(Client).connect(now, Server.address());
    pair.call(Client, conn, pattern(10));
    pair.run_until("refused", |pair| pair.lost(Client, conn).is_some());
    assert!(pair.now - now < Duration::from_millis(50));
    match pair.lost(Client, conn).unwrap().0 {
        LostReason::Closed { code, reason } => {
            assert_eq!(code, close::UNAUTHORIZED);
            assert_eq!(reason, format!("not allowed here: node {}", node(Client).public()));
        }
        other => panic!("{other:?}"),
    }
    pair.run_for(Duration::from_secs(10));
    assert!(pair.events[Server as usize].is_empty() && pair.executed.is_empty());
    assert_eq!(pair.at(Server).counters().refused_identities, 1);
    assert!(pair.at(Server).conns.is_empty());
}

#[test]
fn an_initiator_refuses_an_acceptor_that_it_does_not_allow_and_says_nothing_to_it() {
    let everybody = allowing(1, Server, &[node(Client).public(), node(Server).public()]);
    let mut pair = pair(allowing(1, Client, &[node(Client).public()]), everybody);
    let now = pair.now;
    let conn = pair.at(Client).connect(now, Server.address());
    let call = pair.call(Client, conn, pattern(10));
    pair.run_until("refused", |pair| pair.lost(Client, conn).is_some());
    let reason = LostReason::Refused { identity: Identity::Node(node(Server).public()) };
    assert_eq!(pair.lost(Client, conn), Some((reason, vec![(call, false)])));
    assert!(!pair.sent.iter().any(|flight| is_third(&flight.datagram)));
    pair.run_for(Duration::from_secs(10));
    assert!(pair.events[Server as usize].is_empty());
}

#[test]
fn an_allowed_node_without_the_shared_key_gets_nowhere() {
    let keys = [node(Client).public(), node(Server).public()];
    let mut pair = pair(allowing(1, Client, &keys), allowing(2, Server, &keys));
    let now = pair.now;
    let conn = pair.at(Client).connect(now, Server.address());
    pair.call(Client, conn, pattern(10));
    pair.run_until("lost", |pair| pair.lost(Client, conn).is_some());
    assert_eq!(pair.lost(Client, conn).unwrap().0, LostReason::SetupTimeout { encrypted: true });
    assert!(pair.now - now < Duration::from_secs(6));
    assert!(pair.events[Server as usize].is_empty() && pair.executed.is_empty());
}

/// A third message counts only from the address, with the ids and in the mode of the exchange that it completes: none
/// of these is inside what the key protects.
#[test]
fn a_third_message_with_another_address_id_or_mode_completes_nothing() {
    let mut pair = both();
    let now = pair.now;
    let conn = pair.at(Client).connect(now, Server.address());
    pair.run_until("replied", |pair| pair.sent.iter().any(|flight| is_third(&flight.datagram)));
    let third = pair.sent.iter().find(|flight| is_third(&flight.datagram)).unwrap().datagram.clone();
    let Ok(Header::Long { kind, version, dcid, scid }) = Header::read(&third) else { panic!("no header") };
    let edited = |scid: u64, mode: u8| {
        let mut edited = Vec::new();
        Header::Long { kind, version, dcid, scid }.put(&mut edited);
        edited.extend_from_slice(&third[LONG_HEADER_SIZE..third.len() - TAG_SIZE]);
        edited[LONG_HEADER_SIZE] = mode;
        put_checksum(&mut edited, 0);
        Bytes::from(edited)
    };
    let mode = third[LONG_HEADER_SIZE];
    assert_eq!(edited(scid, mode), third);
    let elsewhere = std::net::SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, 77));
    pair.at(Server).handle_datagram(now, Datagram::new(elsewhere, third.clone()));
    pair.inject(Client, edited(scid + 1, mode));
    pair.inject(Client, edited(scid, mode ^ 1));
    let counters = pair.at(Server).counters().clone();
    let dropped =
        (counters.dropped_unexpected_address, counters.dropped_unexpected, counters.dropped_wrong_mode);
    assert_eq!(dropped, (1, 1, 1));
    assert_eq!(counters.connections_established, 0);
    pair.inject(Client, third.clone());
    assert_eq!(pair.at(Server).counters().connections_established, 1);
    pair.inject(Client, third);
    assert_eq!(pair.at(Server).counters().dropped_duplicate, 1);
    pair.settle();
    assert!(pair.lost(Client, conn).is_none());
}
