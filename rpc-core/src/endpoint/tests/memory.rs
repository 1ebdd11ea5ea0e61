//! Stories of large messages that share too little memory.

use std::time::Duration;

use super::hostile::head;
use super::outcomes::{forge, request_again};
use super::pair::{Client, Link, Pair, Server, pattern};
use crate::endpoint::{CallId, Config, ConnId, Lane};
use crate::wire::frame::{Frame, put_part};

const LIMIT: u64 = 500_000;

fn tight() -> Config {
    Config { message_size_max: 300_000, reassembly_bytes_max: LIMIT, ..Config::default() }
}

fn connections(pair: &mut Pair, count: usize) -> Vec<(ConnId, ConnId)> {
    (0..count).map(|_| pair.connected()).collect()
}

#[test]
fn many_peers_with_large_messages_stay_below_the_limit_and_all_finish() {
    for (seed, loss) in [(1, 0), (2, 5), (3, 20)] {
        let mut pair = Pair::with(tight(), tight(), seed);
        let conns = connections(&mut pair, 12);
        pair.link = Link { loss, reorder: 10, duplicate: 2, ..Link::default() };
        let mut calls = Vec::new();
        for round in 0..2 {
            for (index, (client, server)) in conns.iter().enumerate() {
                let size = 20_000 + (index * 37 + round * 101) % 280 * 1_000;
                calls.push((Client, *client, pair.call(Client, *client, pattern(size)), size));
                calls.push((Server, *server, pair.call(Server, *server, pattern(size)), size));
            }
        }
        let (mut most, end) = (0, pair.now + Duration::from_secs(120));
        let mut open = calls.clone();
        while !open.is_empty() {
            assert!(pair.step() && pair.now < end, "seed {seed}: {} of {} are left", open.len(), calls.len());
            for side in [Client, Server] {
                most = most.max(pair.at(side).reassembly_bytes());
            }
            open.retain(|(side, conn, call, _)| pair.answer(*side, *conn, *call).is_none());
        }
        assert!(most > LIMIT / 2 && most <= LIMIT, "{most}");
        for (side, conn, call, size) in calls {
            assert_eq!(pair.answer(side, conn, call), Some((0, pattern(size))), "seed {seed}");
        }
        assert!(pair.executed.values().all(|count| *count == 1), "seed {seed}");
        assert!(pair.at(Server).counters().messages_held > 8);
        assert!(conns.iter().all(|(client, _)| pair.lost(Client, *client).is_none()));
        for side in [Client, Server] {
            assert_eq!(pair.at(side).reassembly_bytes(), 0, "everything was given back");
        }
    }
}

#[test]
fn the_shortest_of_all_connections_goes_first() {
    let mut pair = Pair::with(tight(), Config { reassembly_bytes_max: 300_000, ..tight() }, 4);
    let conns = connections(&mut pair, 4);
    pair.echo[Server as usize] = false;
    for (conn, size) in conns.iter().zip([300_000, 290_000, 200_000, 40_000]) {
        pair.call(Client, conn.0, pattern(size));
        pair.run_for(Duration::from_micros(50));
    }
    pair.run_until("executed", |pair| pair.executed.len() == 4);
    let order: Vec<_> = pair.events[Server as usize]
        .iter()
        .filter_map(|event| match event {
            crate::endpoint::Event::Request { body, .. } => Some(body.len()),
            _ => None,
        })
        .collect();
    assert_eq!(order, [300_000, 40_000, 200_000, 290_000]);
}

#[test]
fn what_is_cancelled_or_lost_gives_its_memory_back() {
    let mut pair = Pair::with(tight(), Config { reassembly_bytes_max: 300_000, ..tight() }, 5);
    let conns = connections(&mut pair, 3);
    pair.echo[Server as usize] = false;
    let calls: Vec<_> = conns.iter().map(|conn| pair.call(Client, conn.0, pattern(300_000))).collect();
    pair.run_for(Duration::from_micros(1_200));
    assert_eq!(pair.at(Server).reassembly_bytes(), 300_000);
    let now = pair.now;
    pair.at(Client).cancel(now, conns[0].0, calls[0]);
    pair.at(Client).close(now, conns[1].0, 0, "");
    pair.run_until("executed", |pair| pair.executed.len() == 1);
    assert!(pair.executed.contains_key(&(Server, conns[2].1, calls[2])));
    pair.run_for(Duration::from_secs(1));
    assert_eq!(pair.at(Server).reassembly_bytes(), 0);
}

#[test]
fn nobody_waits_and_no_grant_is_sent_while_there_is_room() {
    let mut pair = Pair::new();
    let (client, _) = pair.connected();
    let calls: Vec<_> = (0..8).map(|_| pair.call(Client, client, pattern(1 << 20))).collect();
    pair.run_until("answered", |pair| calls.iter().all(|call| pair.answer(Client, client, *call).is_some()));
    let counters = pair.at(Server).counters();
    assert_eq!((counters.messages_held, counters.dropped_reassembly_max), (0, 0));
}

/// In both directions, whether its message waits, was granted memory, comes in or has come.
#[test]
fn a_call_that_is_given_up_at_any_moment_gives_its_memory_back() {
    for step in 0..60 {
        let all = Config { reassembly_bytes_max: 300_000, ..tight() };
        let mut pair = Pair::with(all.clone(), all, step);
        let conns = connections(&mut pair, 3);
        let calls: Vec<_> = conns.iter().map(|conn| pair.call(Client, conn.0, pattern(200_000))).collect();
        pair.run_for(Duration::from_micros(500) * step as u32);
        let now = pair.now;
        for (conn, call) in conns.iter().zip(&calls).skip(1) {
            pair.at(Client).cancel(now, conn.0, *call);
        }
        pair.run_until("answered", |pair| pair.answer(Client, conns[0].0, calls[0]).is_some());
        pair.run_for(Duration::from_secs(1));
        for side in [Client, Server] {
            assert_eq!(pair.at(side).reassembly_bytes(), 0, "{side:?}, given up after {step} steps");
        }
    }
}

/// Parts that begin large requests, one after the other, in one packet.
fn beginnings(buf: &mut Vec<u8>, messages: &[(u64, u64)]) {
    for (call, total) in messages {
        put_part(buf, *call, Lane::Normal, &head(), 5, *total, b"x");
    }
}

#[test]
fn a_packet_counts_as_lost_when_there_is_no_room_for_one_of_its_messages() {
    let mut pair = Pair::with(tight(), tight(), 6);
    let (client, server) = pair.connected();
    let first = forge(&pair, Server, 50, |buf| beginnings(buf, &[(100, 300_000)]));
    pair.inject(Client, first);
    let both = forge(&pair, Server, 51, |buf| beginnings(buf, &[(102, 290_000), (104, 10_000)]));
    let start = pair.sent.len();
    pair.inject(Client, both);
    assert!(pair.at(Server).reassembly_bytes() <= LIMIT);
    assert_eq!(pair.at(Server).counters().dropped_reassembly_max, 1);
    let waits = pair.frames(start, Client);
    assert!(waits.contains(&Frame::Grant { call: 102, upto: 0 }), "{waits:?}");
    assert!(pair.lost(Server, server).is_none() && pair.lost(Client, client).is_none());
}

#[test]
fn a_request_that_comes_in_parts_and_then_whole_runs_once_and_leaves_no_memory_behind() {
    let mut pair = Pair::new();
    let (_, server) = pair.connected();
    let begun = forge(&pair, Server, 50, |buf| beginnings(buf, &[(100, 2_000)]));
    pair.inject(Client, begun);
    assert_eq!(pair.at(Server).reassembly_bytes(), 2_000);
    let whole = forge(&pair, Server, 51, |buf| request_again(buf, CallId(100), Duration::from_secs(9), 0));
    pair.inject(Client, whole);
    assert_eq!(pair.at(Server).reassembly_bytes(), 0);
    assert_eq!(pair.executed[&(Server, server, CallId(100))], 1);
}
