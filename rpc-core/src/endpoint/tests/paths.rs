//! Stories of paths that change: what they carry, and where they lead.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;

use super::outcomes::forge;
use super::pair::{Client, Link, Pair, Server, pattern};
use crate::endpoint::{Config, Datagram, Event};
use crate::wire::frame::{put_path_response, put_ping};

fn elsewhere(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn largest_sent(pair: &Pair) -> usize {
    pair.sent.iter().map(|flight| flight.datagram.len()).max().unwrap_or(0)
}

#[test]
fn small_calls_never_probe_the_path() {
    let mut pair = Pair::new();
    let (client, _) = pair.connected();
    for _ in 0..50 {
        pair.call(Client, client, pattern(200));
        pair.settle();
    }
    assert_eq!(largest_sent(&pair), 1_200);
    assert_eq!(pair.at(Client).counters().mtu_raised, 0);
}

#[test]
fn what_the_path_carries_is_found() {
    for mtu in [1_200, 1_280, 1_400, 1_451, 1_452, 9_000] {
        let mut pair = Pair::new();
        let (client, _) = pair.connected();
        pair.link.mtu = mtu;
        // Fast calls, each long enough for one or two probes.
        for _ in 0..30 {
            let call = pair.call(Client, client, pattern(100_000));
            pair.run_until("answered", |pair| pair.answer(Client, client, call).is_some());
        }
        let sent = pair.sent.len();
        let call = pair.call(Client, client, pattern(100_000));
        pair.settle();
        assert_eq!(pair.answer(Client, client, call), Some((0, pattern(100_000))));
        let found = pair.sent[sent..].iter().map(|flight| flight.datagram.len()).max().unwrap();
        let carried = mtu.min(1_452);
        assert!(found <= carried && carried - found < 20, "{found} of {mtu}");
    }
}

#[test]
fn jumbo_datagrams_are_found_up_to_the_configured_size() {
    let large = Config { datagram_size_max: 65_000, ..Config::default() };
    let mut pair = Pair::with(large.clone(), large, 4);
    let (client, _) = pair.connected();
    pair.link.mtu = 8_952;
    for _ in 0..4 {
        let call = pair.call(Client, client, pattern(2 << 20));
        pair.run_until("answered", |pair| pair.answer(Client, client, call).is_some());
    }
    let found = pair.sent[pair.sent.len() / 2..].iter().map(|flight| flight.datagram.len()).max().unwrap();
    assert!(found == 8_952, "{found}");
    assert_eq!(pair.at(Client).counters().mtu_lowered, 0);
}

#[test]
fn a_lost_probe_is_no_sign_of_congestion() {
    let mut pair = Pair::new();
    let (client, _) = pair.connected();
    let start = pair.now;
    let call = pair.call(Client, client, pattern(1 << 20));
    pair.run_until("answered", |pair| pair.answer(Client, client, call).is_some());
    let took = pair.now - start;
    let mut pair = Pair::new();
    let (client, _) = pair.connected();
    pair.link.mtu = 1_200;
    let start = pair.now;
    let call = pair.call(Client, client, pattern(1 << 20));
    pair.run_until("answered", |pair| pair.answer(Client, client, call).is_some());
    assert!(pair.at(Client).counters().packets_lost >= 3);
    assert!(pair.now - start < took * 3 / 2, "{:?} and {took:?}", pair.now - start);
}

#[test]
fn a_black_hole_after_the_discovery_repairs_itself() {
    for seed in 0..20 {
        let mut pair = Pair::with(Config::default(), Config::default(), seed);
        let (client, server) = pair.connected();
        let call = pair.call(Client, client, pattern(200_000));
        pair.settle();
        assert!(pair.answer(Client, client, call).is_some());
        assert_eq!(largest_sent(&pair), 1_452);
        pair.link.mtu = 1_200;
        pair.link.loss = seed % 5;
        let start = pair.now;
        let mut calls = BTreeMap::new();
        // Some are small at 1,452 and large at 1,200, in both directions.
        for size in [10, 1_300, 1_390, 1_100, 60_000] {
            calls.insert(pair.call(Client, client, pattern(size)), size);
        }
        let back = pair.call(Server, server, pattern(1_350));
        pair.run_until("answered", |pair| {
            pair.answer(Server, server, back).is_some()
                && calls.keys().all(|call| pair.answer(Client, client, *call).is_some())
        });
        for (call, size) in calls {
            assert_eq!(pair.answer(Client, client, call), Some((0, pattern(size))), "seed {seed}");
        }
        assert!(pair.executed.values().all(|count| *count == 1));
        assert!(pair.now - start < Duration::from_secs(3), "seed {seed}: {:?}", pair.now - start);
        assert!(pair.at(Client).counters().mtu_lowered >= 1);
    }
}

#[test]
fn the_size_of_packets_may_change_under_way_in_both_directions() {
    for seed in 0..20 {
        let mut pair = Pair::with(Config::default(), Config::default(), seed);
        let (client, server) = pair.connected();
        pair.link = Link { loss: 5, reorder: 30, ..Link::default() };
        let mut calls = BTreeMap::new();
        for round in 0..30 {
            pair.link.mtu = if pair.random.percent(50) { 1_452 } else { 1_200 };
            let size = pair.random.below(4_000) as usize;
            calls.insert((true, pair.call(Client, client, pattern(size))), size);
            let size = 1_150 + pair.random.below(300) as usize;
            calls.insert((false, pair.call(Server, server, pattern(size))), size);
            if round % 10 == 0 {
                calls.insert((true, pair.call(Client, client, pattern(100_000))), 100_000);
            }
            pair.run_for(Duration::from_millis(20));
        }
        let side = |from_client: bool| if from_client { (Client, client) } else { (Server, server) };
        pair.run_until("answered", |pair| {
            calls.keys().all(|(from, call)| pair.answer(side(*from).0, side(*from).1, *call).is_some())
        });
        for ((from, call), size) in calls {
            let (side, conn) = side(from);
            assert_eq!(pair.answer(side, conn, call), Some((0, pattern(size))), "seed {seed}");
        }
        assert!(pair.executed.values().all(|count| *count == 1), "seed {seed}");
    }
}

/// Calls in both directions survive a client that turns up at another address again and again.
#[test]
fn calls_survive_a_peer_that_moves() {
    for seed in 0..20 {
        let mut pair = Pair::with(Config::default(), Config::default(), seed);
        let (client, server) = pair.connected();
        pair.link = Link { loss: seed % 10, reorder: 20, duplicate: 5, ..Link::default() };
        let mut calls = Vec::new();
        for round in 0..8 {
            pair.move_client(elsewhere(3_000 + round));
            for size in [1, 3_000, 40_000] {
                calls.push((Client, client, pair.call(Client, client, pattern(size)), size));
                calls.push((Server, server, pair.call(Server, server, pattern(size)), size));
            }
            let wait = pair.random.below(60);
            pair.run_for(Duration::from_millis(wait));
        }
        pair.run_until("answered", |pair| {
            calls.iter().all(|(side, conn, call, _)| pair.answer(*side, *conn, *call).is_some())
        });
        for (side, conn, call, size) in calls {
            assert_eq!(pair.answer(side, conn, call), Some((0, pattern(size))), "seed {seed}");
        }
        assert!(pair.executed.values().all(|count| *count == 1), "seed {seed}");
        let call = pair.call(Client, client, Bytes::new());
        pair.run_until("answered", |pair| pair.answer(Client, client, call).is_some());
        pair.run_for(Duration::from_secs(1));
        assert_eq!(pair.at(Server).connection(server).unwrap().remote, elsewhere(3_007), "seed {seed}");
        assert!(pair.at(Server).counters().paths_validated >= 1);
        assert_eq!(pair.at(Server).conns.len(), 1);
    }
}

#[test]
fn the_old_address_is_kept_until_the_new_one_has_answered() {
    let mut pair = Pair::new();
    let (client, server) = pair.connected();
    let call = pair.call(Client, client, pattern(500));
    let now = pair.now;
    let mut buf = Vec::new();
    // A packet of the client, sent on from an address at which nobody is.
    pair.at(Client).poll_transmit(now, 1, &mut buf).unwrap();
    let (size, victim) = (buf.len(), elsewhere(999));
    pair.at(Server).handle_datagram(now, Datagram::new(victim, buf.into()));
    pair.run_for(Duration::from_secs(8));
    assert!(pair.answer(Client, client, call).is_some(), "the answer went to the old address");
    assert_eq!(pair.at(Server).connection(server).unwrap().remote, Client.address());
    let to_victim: usize = pair.strays.iter().filter(|(to, _)| *to == victim).map(|(_, size)| size).sum();
    assert!(to_victim > 0 && to_victim <= 3 * size, "{to_victim} bytes for {size}");
    assert_eq!(pair.at(Server).counters().paths_validated, 0);
}

/// An acknowledgement alone is a small packet: three times its size is soon used up.
#[test]
fn a_small_packet_from_elsewhere_brings_few_challenges() {
    let mut pair = Pair::new();
    pair.echo[Client as usize] = false;
    let (_, server) = pair.connected();
    pair.call(Server, server, Bytes::new());
    let mut acknowledgement = None;
    while acknowledgement.is_none() {
        let before = pair.sent.len();
        assert!(pair.step());
        acknowledgement = pair.sent[before..].iter().find(|flight| flight.to == Server).cloned();
        pair.drop_flights();
    }
    let (datagram, now) = (acknowledgement.unwrap().datagram, pair.now);
    let (size, victim) = (datagram.len(), elsewhere(999));
    assert!(size < 40, "{size} bytes");
    pair.at(Server).handle_datagram(now, Datagram::new(victim, datagram));
    pair.link.loss = 100;
    pair.run_for(Duration::from_secs(5));
    let challenges: Vec<_> =
        pair.strays.iter().filter(|(to, _)| *to == victim).map(|stray| stray.1).collect();
    assert!(
        challenges.len() >= 2 && challenges.iter().sum::<usize>() <= 3 * size,
        "{challenges:?} for {size}"
    );
}

#[test]
fn a_repeated_or_older_packet_from_elsewhere_starts_nothing() {
    let mut pair = Pair::new();
    let (client, _) = pair.connected();
    for _ in 0..10 {
        pair.call(Client, client, pattern(100));
        pair.settle();
    }
    let now = pair.now;
    let recorded: Vec<_> = pair.sent.iter().filter(|flight| flight.to == Server).skip(1).cloned().collect();
    for flight in recorded {
        pair.at(Server).handle_datagram(now, Datagram::new(elsewhere(999), flight.datagram));
    }
    pair.run_for(Duration::from_secs(1));
    assert!(pair.strays.iter().all(|(to, _)| *to != elsewhere(999)));
    assert_eq!(pair.at(Server).counters().paths_failed, 0);
}

#[test]
fn a_moved_peer_is_still_told_from_a_restarted_one() {
    let mut pair = Pair::new();
    let (client, server) = pair.connected();
    pair.move_client(elsewhere(3_000));
    pair.call(Client, client, pattern(100));
    pair.settle();
    assert_eq!(pair.at(Server).connection(server).unwrap().remote, elsewhere(3_000));
    pair.restart(Client);
    pair.call(Server, server, pattern(100));
    pair.run_until("lost", |pair| pair.lost(Server, server).is_some());
    assert!(pair.events[Server as usize].iter().any(|event| matches!(event, Event::Lost { .. })));
    assert!(pair.at(Server).counters().resets_received >= 1);
}

#[test]
fn only_an_answer_with_the_right_number_from_the_address_that_was_asked_counts() {
    let mut pair = Pair::new();
    let (_, server) = pair.connected();
    let now = pair.now;
    for (ahead, put) in [(50, put_ping as fn(&mut Vec<u8>)), (51, |buf| put_path_response(buf, 7))] {
        let packet = forge(&pair, Server, ahead, put);
        pair.at(Server).handle_datagram(now, Datagram::new(elsewhere(999), packet));
        pair.pump();
    }
    assert!(pair.strays.iter().any(|(to, _)| *to == elsewhere(999)));
    assert_eq!(pair.at(Server).connection(server).unwrap().remote, Client.address());

    let mut pair = Pair::new();
    let moved = [3_000, 3_001].map(elsewhere);
    let (client, server) = pair.connected();
    pair.move_client(moved[0]);
    let call = pair.call(Client, client, pattern(100));
    pair.run_for(Duration::from_millis(1));
    // The challenge is on its way when the peer moves again: its answer comes from where nobody was asked.
    pair.move_client(moved[1]);
    while pair.at(Server).connection(server).unwrap().remote != moved[1] {
        assert!(pair.step());
        assert_ne!(pair.at(Server).connection(server).unwrap().remote, moved[0]);
    }
    pair.run_until("answered", |pair| pair.answer(Client, client, call).is_some());
}

#[test]
fn an_address_is_asked_no_more_when_the_peer_speaks_from_where_it_was() {
    let mut pair = Pair::new();
    let (client, _) = pair.connected();
    pair.call(Client, client, pattern(500));
    let (now, mut buf) = (pair.now, Vec::new());
    pair.at(Client).poll_transmit(now, 1, &mut buf).unwrap();
    pair.at(Server).handle_datagram(now, Datagram::new(elsewhere(999), buf.into()));
    pair.pump();
    pair.call(Client, client, pattern(100));
    pair.run_for(Duration::from_secs(8));
    assert_eq!(pair.strays.iter().filter(|(to, _)| *to == elsewhere(999)).count(), 1);
    assert_eq!(pair.at(Server).counters().paths_failed, 0);
}
