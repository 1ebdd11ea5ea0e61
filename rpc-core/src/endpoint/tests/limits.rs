//! Stories of what is let in: how many connections, which setup packets, and that what ended makes room.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;

use super::pair::{Client, Pair, Random, Server, pattern};
use crate::endpoint::{Config, ConnId, Datagram, Endpoint, Event, LostReason};
use crate::runtime::Instant;
use crate::security::Security;
use crate::wire::SETUP_DATAGRAM_SIZE;
use crate::wire::packet::{Header, LONG_HEADER_SIZE, LongKind};
use crate::wire::seal::{TAG_SIZE, put_checksum};
use crate::wire::setup;

/// Whether another connection of the client is let in.
fn is_let_in(pair: &mut Pair) -> Option<ConnId> {
    let (now, before) = (pair.now, pair.at(Server).counters().connections_established);
    let conn = pair.at(Client).connect(now, Server.address());
    pair.run_for(Duration::from_millis(100));
    let let_in = pair.at(Server).counters().connections_established > before;
    if !let_in {
        let now = pair.now;
        pair.at(Client).close(now, conn, 0, "");
    }
    let_in.then_some(conn)
}

fn limited(config: Config) -> Pair {
    Pair::with(Config::default(), config, 1)
}

#[test]
fn one_address_holds_so_many_connections_whatever_its_ports() {
    let mut pair = limited(Config { connections_per_address_max: 2, ..Config::default() });
    let first = is_let_in(&mut pair).expect("the first of two");
    is_let_in(&mut pair).expect("the second of two");
    pair.move_client(SocketAddr::from((Ipv4Addr::LOCALHOST, 3_000)));
    assert_eq!(is_let_in(&mut pair), None, "another port is no other address");
    assert!(pair.at(Server).counters().dropped_address_max > 0);
    assert_eq!(pair.at(Server).counters().dropped_connections_max, 0);
    pair.move_client(SocketAddr::from((Ipv4Addr::new(127, 0, 0, 9), 3_000)));
    is_let_in(&mut pair).expect("another address");
    pair.move_client(Client.address());
    assert_eq!(is_let_in(&mut pair), None);
    let now = pair.now;
    pair.at(Client).close(now, first, 0, "");
    pair.run_for(Duration::from_secs(4));
    is_let_in(&mut pair).expect("one has ended");
    assert_eq!(is_let_in(&mut pair), None);
}

#[test]
fn connections_that_ended_make_room_for_others() {
    let mut pair = limited(Config { connections_max: 2, ..Config::default() });
    for _ in 0..4 {
        let conns = [is_let_in(&mut pair), is_let_in(&mut pair)];
        assert_eq!(is_let_in(&mut pair), None);
        let now = pair.now;
        conns.into_iter().for_each(|conn| pair.at(Client).close(now, conn.expect("room for two"), 0, ""));
        pair.run_for(Duration::from_secs(4));
        assert!(pair.at(Server).by_address.is_empty() && pair.at(Server).by_remote.is_empty());
        assert!(pair.at(Server).by_client.is_empty() && pair.at(Server).timers.is_empty());
    }
}

/// Exchanges that came to their end, or never will, are not half open any more.
#[test]
fn exchanges_that_are_over_are_not_half_open() {
    let mut pair = limited(Config { half_open_per_address_max: 1, cookies_above: 1, ..Config::default() });
    for _ in 0..3 {
        is_let_in(&mut pair).expect("nothing else is half open");
    }
    assert_eq!(pair.at(Server).counters().cookies_sent, 0);
    for _ in 0..3 {
        let now = pair.now;
        let silent = pair.at(Client).connect(now, Server.address());
        pair.pump();
        pair.at(Client).close(now, silent, 0, "");
        pair.run_for(Duration::from_millis(10));
        assert_eq!(is_let_in(&mut pair), None, "one is half open");
        pair.run_for(Duration::from_secs(6));
    }
    is_let_in(&mut pair).expect("they were given up");
    assert_eq!(pair.at(Server).counters().cookies_sent, 0);
}

#[test]
fn a_connection_that_is_closed_is_not_listed_and_leaves_no_address_behind() {
    let mut pair = Pair::new();
    let (client, server) = pair.connected();
    pair.move_client(SocketAddr::from((Ipv4Addr::LOCALHOST, 3_000)));
    pair.call(Client, client, pattern(10));
    pair.settle();
    pair.run_for(Duration::from_millis(50));
    assert_eq!(pair.at(Server).connection(server).unwrap().remote.port(), 3_000);
    assert_eq!(pair.at(Server).by_remote.len(), 1, "where the peer was is forgotten");
    let now = pair.now;
    pair.at(Client).close(now, client, 0, "");
    assert_eq!((pair.at(Client).connection(client), pair.at(Client).connections().count()), (None, 0));
    pair.run_for(Duration::from_millis(50));
    assert_eq!((pair.at(Server).connection(server), pair.at(Server).connections().count()), (None, 0));
    pair.run_for(Duration::from_secs(4));
    assert!(pair.at(Server).conns.is_empty() && pair.at(Server).by_remote.is_empty());
}

#[test]
fn a_connection_that_is_opened_while_draining_says_so() {
    let mut pair = Pair::new();
    let now = pair.now;
    pair.at(Client).drain(now);
    pair.connected();
    pair.run_for(Duration::from_millis(5));
    assert!(pair.events[Server as usize].iter().any(|event| matches!(event, Event::Draining { .. })));
}

/// Nothing is sent on it that could be answered with a reset.
#[test]
fn a_restarted_client_ends_its_idle_connection_at_the_server() {
    for seed in 0..6 {
        let mut pair = Pair::with(Config::default(), Config::default(), seed);
        let (_, server) = pair.connected();
        pair.run_for(Duration::from_millis(100));
        pair.restart(Client);
        let (_, new) = pair.connected();
        assert_eq!(pair.lost(Server, server), Some((LostReason::PeerRestarted, vec![])), "seed {seed}");
        assert!(pair.lost(Server, new).is_none());
    }
}

#[test]
fn an_id_is_never_nought_and_never_that_of_another_connection() {
    let mut numbers = [0, 5, 5, 0, 6].into_iter();
    let random = Box::new(move || numbers.next().expect("no more are needed"));
    let mut endpoint = Endpoint::new(Config::default(), Security::insecure(), 1, 2, random);
    let now = Instant::from_nanos(1);
    let ids = [endpoint.connect(now, Server.address()), endpoint.connect(now, Server.address())];
    assert_eq!(ids, [ConnId(5), ConnId(6)]);
}

#[test]
fn resets_go_again_after_a_while() {
    let mut pair = Pair::new();
    let (client, _) = pair.connected();
    pair.call(Client, client, pattern(100));
    pair.pump();
    let datagram = pair.sent.last().unwrap().datagram.clone();
    pair.restart(Server);
    for sent in [100, 200] {
        for _ in 0..150 {
            pair.inject(Client, datagram.clone());
        }
        assert_eq!(pair.at(Server).counters().resets_sent, sent);
        pair.now += Duration::from_millis(100);
    }
}

#[test]
fn so_many_exchanges_are_half_open_from_all_addresses_together() {
    let endpoint = |config, seed: u64| {
        let mut random = Random(seed);
        Endpoint::new(config, Security::insecure(), seed, 2, Box::new(move || random.next()))
    };
    let mut client = endpoint(Config::default(), 1);
    let mut server = endpoint(Config { cookies_above: 5_000, ..Config::default() }, 2);
    let (now, mut buf) = (Instant::from_nanos(1), Vec::new());
    for index in 0..1_100 {
        client.connect(now, Server.address());
        client.poll_transmit(now, 1, &mut buf).unwrap();
        let from = SocketAddr::from((Ipv4Addr::from(0x0a00_0000 + index), 5_000));
        server.handle_datagram(now, Datagram::new(from, Bytes::copy_from_slice(&buf)));
    }
    assert_eq!((server.conns.len(), server.counters().dropped_connections_max), (1_000, 100));
}

/// A setup packet with another header, or without its end; the checksum fits.
fn edited(datagram: &Bytes, edit: impl FnOnce(&mut u32, &mut u64, &mut u64), size: usize) -> Bytes {
    let Ok(Header::Long { kind, mut version, mut dcid, mut scid }) = Header::read(datagram) else {
        panic!("no setup packet")
    };
    edit(&mut version, &mut dcid, &mut scid);
    let mut edited = Vec::new();
    Header::Long { kind, version, dcid, scid }.put(&mut edited);
    edited.extend_from_slice(&datagram[LONG_HEADER_SIZE..size - TAG_SIZE]);
    put_checksum(&mut edited, 0);
    edited.into()
}

#[test]
fn setup_packets_that_are_short_or_of_another_version_or_of_nobody_are_dropped() {
    let mut pair = Pair::new();
    let now = pair.now;
    let conn = pair.at(Client).connect(now, Server.address());
    pair.pump();
    let init = pair.sent[0].datagram.clone();
    pair.inject(Client, edited(&init, |_, _, _| {}, SETUP_DATAGRAM_SIZE - 1));
    assert_eq!(pair.at(Server).counters().dropped_truncated, 1);
    pair.inject(Client, edited(&init, |_, _, scid| *scid = 0, SETUP_DATAGRAM_SIZE));
    assert_eq!(pair.at(Server).counters().dropped_bad_frame, 1);
    pair.inject(Client, edited(&init, |version, dcid, _| (*version, *dcid) = (9, 7), SETUP_DATAGRAM_SIZE));
    assert_eq!(pair.at(Server).counters().dropped_unknown_version, 1);
    assert!(pair.at(Server).conns.is_empty());
    assert_eq!(pair.at(Server).counters().datagrams_sent, 0, "none of them is answered");
    pair.run_for(Duration::from_millis(1));
    let reply = pair.sent.last().unwrap().datagram.clone();
    pair.drop_flights();
    pair.inject(Server, edited(&reply, |_, _, _| {}, SETUP_DATAGRAM_SIZE - 1));
    pair.inject(Server, edited(&reply, |version, _, _| *version = 9, SETUP_DATAGRAM_SIZE));
    let counters = pair.at(Client).counters();
    assert_eq!((counters.dropped_truncated, counters.dropped_unknown_version), (1, 1));
    assert!(!pair.at(Client).connection(conn).unwrap().established);
    pair.run_until("connected", |pair| !pair.events[Server as usize].is_empty());
}

#[test]
fn nobody_at_another_address_sends_cookies_or_lists_of_versions() {
    let mut pair = Pair::new();
    let now = pair.now;
    let conn = pair.at(Client).connect(now, Server.address());
    pair.pump();
    let mut versions = Vec::new();
    Header::Long { kind: LongKind::VersionNegotiation, version: 1, dcid: conn.0, scid: 0 }.put(&mut versions);
    versions.extend_from_slice(&[1, 0, 0, 0, 7]);
    put_checksum(&mut versions, 0);
    let elsewhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 77));
    for datagram in [setup::retry(conn.0, &[7; 40]), versions] {
        pair.at(Client).handle_datagram(now, Datagram::new(elsewhere, datagram.into()));
    }
    assert_eq!(pair.at(Client).counters().dropped_unexpected_address, 2);
    let sent = pair.sent.len();
    pair.pump();
    assert_eq!(pair.sent.len(), sent, "no INIT with a cookie of somebody else");
    pair.run_until("connected", |pair| !pair.events[Server as usize].is_empty());
    assert!(pair.lost(Client, conn).is_none());
}

#[test]
fn every_copy_of_an_init_brings_one_reply_with_and_without_a_cookie() {
    for cookies_above in [0, 100] {
        let config = Config { cookies_above, ..Config::default() };
        let mut pair = Pair::with(Config::default(), config, 5);
        let now = pair.now;
        pair.at(Client).connect(now, Server.address());
        let of_kind = |pair: &Pair, wanted: LongKind| -> Vec<Bytes> {
            let datagrams = pair.sent.iter().map(|flight| flight.datagram.clone());
            let is_wanted = |datagram: &Bytes| matches!(Header::read(datagram), Ok(Header::Long { kind, .. }) if kind == wanted);
            datagrams.filter(is_wanted).collect()
        };
        pair.run_until("REPLY", |pair| !of_kind(pair, LongKind::Reply).is_empty());
        pair.drop_flights();
        let init = of_kind(&pair, LongKind::Init).pop().unwrap();
        for copies in 1..=9 {
            pair.inject(Client, init.clone());
            pair.drop_flights();
            let replies = of_kind(&pair, LongKind::Reply);
            assert_eq!(replies.len(), 1 + copies, "cookies above {cookies_above}");
            assert!(replies.iter().all(|reply| reply.len() <= init.len()));
        }
    }
}

#[test]
fn cookies_are_given_back_a_few_times_and_no_more() {
    let mut pair = Pair::new();
    let now = pair.now;
    let conn = pair.at(Client).connect(now, Server.address());
    pair.pump();
    for _ in 0..10 {
        pair.inject(Server, setup::retry(conn.0, &[7; 40]).into());
        pair.drop_flights();
    }
    assert_eq!((pair.sent.len(), pair.at(Client).counters().dropped_unexpected), (1 + 4, 6));
}
