//! Stories of lost, late, repeated and damaged datagrams.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::pair::{Client, Link, Pair, Server, Side, pattern};
use crate::endpoint::{CallId, Config, ConnId, Event, Lane, LostReason, Request, SendError};
use crate::wire::Form;

#[test]
fn a_lost_init_is_repeated() {
    let mut pair = Pair::new();
    let now = pair.now;
    let conn = pair.at(Client).connect(now, Server.address());
    let call = pair.call(Client, conn, Bytes::from_static(b"x"));
    pair.pump();
    pair.drop_flights();
    pair.run_until("answered", |pair| pair.answer(Client, conn, call).is_some());
    assert!(pair.now - now < Duration::from_millis(30), "{:?}", pair.now - now);
    assert_eq!(pair.at(Client).counters().setups_retransmitted, 1);
}

#[test]
fn a_lost_reply_and_a_repeated_init_make_one_connection() {
    let mut pair = Pair::new();
    let now = pair.now;
    let conn = pair.at(Client).connect(now, Server.address());
    pair.pump();
    let init = pair.sent[0].datagram.clone();
    pair.step();
    pair.drop_flights();
    pair.run_until("REPLY again", |pair| pair.sent.len() >= 4);
    assert_eq!(pair.sent[1].datagram, pair.sent[3].datagram, "the same REPLY");
    pair.inject(Client, init.clone());
    pair.run_until("connected", |pair| !pair.events[Server as usize].is_empty());
    pair.inject(Client, init);
    let call = pair.call(Client, conn, Bytes::from_static(b"x"));
    pair.settle();
    assert!(pair.answer(Client, conn, call).is_some());
    assert_eq!(pair.at(Server).conns.len(), 1);
    assert_eq!(pair.at(Server).counters().connections_established, 1);
}

#[test]
fn nobody_there_ends_in_a_setup_timeout_with_the_calls_unsent() {
    let mut pair = Pair::new();
    pair.link.loss = 100;
    let now = pair.now;
    let conn = pair.at(Client).connect(now, Server.address());
    let call = pair.call(Client, conn, Bytes::new());
    pair.run_until("lost", |pair| pair.lost(Client, conn).is_some());
    assert_eq!(
        pair.lost(Client, conn),
        Some((LostReason::SetupTimeout { encrypted: super::security().is_encrypted() }, vec![(call, false)]))
    );
    assert_eq!(pair.now - now, Duration::from_secs(5));
    assert!(pair.at(Client).conns.is_empty() && pair.at(Client).poll_timeout().is_none());
}

#[test]
fn a_lost_request_is_repeated_after_the_probe_timeout() {
    let mut pair = Pair::new();
    let (client, _) = pair.connected();
    let start = pair.now;
    let call = pair.call(Client, client, Bytes::from_static(b"x"));
    pair.pump();
    pair.drop_flights();
    pair.run_until("answered", |pair| pair.answer(Client, client, call).is_some());
    assert!(pair.now - start < Duration::from_millis(15), "{:?}", pair.now - start);
    assert_eq!(pair.at(Client).counters().pto_expired, 1);
}

#[test]
fn a_healed_partition_is_noticed_within_the_probe_cap() {
    let config = Config { idle_timeout: Duration::from_secs(60), ..Config::default() };
    let mut pair = Pair::with(config.clone(), config, 2);
    let (client, _) = pair.connected();
    pair.link.loss = 100;
    let call = pair.call(Client, client, Bytes::from_static(b"x"));
    pair.run_for(Duration::from_secs(30));
    pair.link.loss = 0;
    let healed = pair.now;
    pair.run_until("answered", |pair| pair.answer(Client, client, call).is_some());
    assert!(pair.now - healed <= Duration::from_millis(1_010), "{:?}", pair.now - healed);
}

#[test]
fn a_mebibyte_gets_through_ten_percent_loss() {
    let mut pair = Pair::new();
    let (client, server) = pair.connected();
    pair.link.loss = 10;
    let start = pair.now;
    let call = pair.call(Client, client, pattern(1 << 20));
    pair.run_until("answered", |pair| pair.answer(Client, client, call).is_some());
    assert_eq!(pair.answer(Client, client, call), Some((0, pattern(1 << 20))));
    assert!(pair.now - start < Duration::from_secs(10), "{:?}", pair.now - start);
    assert_eq!(pair.executed[&(Server, server, call)], 1);
    let counters = pair.at(Client).counters();
    assert!(counters.packets_lost > 20 && counters.frames_retransmitted >= counters.packets_lost / 2);
}

/// Every call ends exactly once and is executed at most once, whatever the network does.
#[test]
fn loss_matrix() {
    let sizes = [0, 1, 1_100, 1_130, 1_131, 1_132, 1_140, 1_150, 1_160, 1_170, 1_171, 1_200, 1_300]
        .into_iter()
        .chain([65_535, 65_536, 65_537]);
    let sizes: Vec<_> = sizes.collect();
    for loss in [0, 1, 10, 30] {
        for (reorder, duplicate, corrupt) in [(0, 0, 0), (20, 5, 1)] {
            let seed = loss * 100 + reorder;
            let mut pair = Pair::with(Config::default(), Config::default(), seed);
            let (client, server) = pair.connected();
            pair.link = Link { loss, reorder, duplicate, corrupt, ..Link::default() };
            let mut calls = BTreeMap::new();
            for &size in &sizes {
                for side in [Client, Server] {
                    let conn = if side == Client { client } else { server };
                    calls.insert((side, pair.call(side, conn, pattern(size))), (conn, size));
                }
                pair.run_for(Duration::from_micros(700));
            }
            calls.insert((Client, pair.call(Client, client, pattern(1 << 20))), (client, 1 << 20));
            check_all_answered(&mut pair, &calls, seed);
        }
    }
}

fn check_all_answered(pair: &mut Pair, calls: &BTreeMap<(Side, CallId), (ConnId, usize)>, seed: u64) {
    pair.run_until("all answered", |pair| {
        let responses = pair.events.iter().flatten();
        let count = responses.filter(|event| matches!(event, Event::Response { .. })).count();
        count >= calls.len() || pair.events.iter().flatten().any(is_lost)
    });
    for (&(side, call), &(conn, size)) in calls {
        assert_eq!(
            pair.answer(side, conn, call),
            Some((0, pattern(size))),
            "seed {seed}, {call:?} of {side:?}"
        );
    }
    assert!(pair.executed.values().all(|count| *count == 1), "seed {seed}");
    assert_eq!(pair.executed.len(), calls.len(), "seed {seed}");
    // What is left are duplicates on the way: they must change nothing.
    pair.run_for(Duration::from_secs(2));
    assert!(pair.executed.values().all(|count| *count == 1), "seed {seed}");
}

fn is_lost(event: &Event) -> bool {
    matches!(event, Event::Lost { .. })
}

#[test]
fn many_concurrent_calls_survive_a_bad_network() {
    for seed in 0..6 {
        let mut pair = Pair::with(Config::default(), Config::default(), seed);
        let (client, server) = pair.connected();
        pair.link = Link { loss: 15, reorder: 30, duplicate: 10, corrupt: 2, ..Link::default() };
        let mut calls = BTreeMap::new();
        for index in 0..300 {
            let size = pair.random.below(3_000) as usize;
            let (side, conn) = if index % 2 == 0 { (Client, client) } else { (Server, server) };
            calls.insert((side, pair.call(side, conn, pattern(size))), (conn, size));
            if index % 10 == 0 {
                pair.run_for(Duration::from_micros(300));
            }
        }
        check_all_answered(&mut pair, &calls, seed);
        let counters = pair.at(Client).counters();
        assert!(counters.dropped_bad_checksum + counters.dropped_duplicate > 0);
    }
}

#[test]
fn lost_acknowledgements_do_not_grow_memory_in_a_one_way_flow() {
    let mut pair = Pair::new();
    pair.echo[Server as usize] = false;
    let (client, server) = pair.connected();
    pair.link.loss = 5;
    for _ in 0..800 {
        pair.call(Client, client, pattern(900));
        pair.run_for(Duration::from_millis(3));
    }
    assert_eq!(pair.executed.len(), 800);
    let info = pair.at(Server).connection(server).unwrap();
    assert!(info.established);
}

#[test]
fn large_datagrams_do_not_stall_when_the_window_shrinks() {
    let large = Config { datagram_size_max: 60_000, ..Config::default() };
    let mut pair = Pair::with(large.clone(), large, 9);
    let (client, _) = pair.connected();
    pair.link.loss = 40;
    let call = pair.call(Client, client, pattern(3 << 20));
    pair.run_until("answered", |pair| pair.answer(Client, client, call).is_some());
    assert_eq!(pair.answer(Client, client, call), Some((0, pattern(3 << 20))));
}

#[test]
fn a_partition_full_of_cancelled_calls_does_not_grow_queues() {
    let mut pair = Pair::new();
    let (client, server) = pair.connected();
    pair.link.loss = 100;
    let mut refused = 0;
    for _ in 0..20_000 {
        let now = pair.now;
        let deadline = now + Duration::from_secs(1);
        let body = pattern(1_000);
        let request = Request {
            method: 1,
            lane: Lane::Normal,
            deadline,
            idempotent: false,
            form: Form::default(),
            body,
        };
        match pair.at(Client).request(now, client, request) {
            Ok(call) => {
                pair.run_for(Duration::from_micros(100));
                let now = pair.now;
                pair.at(Client).cancel(now, client, call);
            }
            Err(error) => {
                assert_eq!(error, SendError::Busy);
                refused += 1;
            }
        }
    }
    assert!(pair.at(Client).conns[&client.0].conn.queued() < 3_000);
    pair.link.loss = 0;
    pair.run_for(Duration::from_secs(5));
    let call = pair.call(Client, client, pattern(10));
    pair.settle();
    assert!(pair.answer(Client, client, call).is_some(), "{refused} were refused");
    assert!(pair.lost(Server, server).is_none());
}
