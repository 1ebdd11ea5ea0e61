//! Stories of what becomes of a call.

use std::time::Duration;

use bytes::Bytes;

use super::hostile::head;
use super::pair::{Client, Pair, Server, Side, pattern};
use super::security;
use crate::endpoint::{CallId, Config, ConnId, Event, Lane, LostReason, Request, SendError};
use crate::wire::Form;
use crate::wire::frame::{self, Frame, PartHead, RequestHead};
use crate::wire::packet::Header;
use crate::wire::status;

/// A data packet as the peer of `to` could have sent it, with a number that it has not used yet.
pub(super) fn forge(pair: &Pair, to: Side, ahead: u32, put: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let last =
        pair.sent.iter().rev().filter(|flight| flight.to == to).find_map(|flight| {
            match Header::read(&flight.datagram) {
                Ok(Header::Short { dcid, pn_low }) => Some((dcid, pn_low)),
                _ => None,
            }
        });
    let (dcid, pn_low) = last.unwrap();
    let mut buf = Vec::new();
    Header::Short { dcid, pn_low: pn_low + ahead }.put(&mut buf);
    put(&mut buf);
    pair.seal(to.other(), buf)
}

pub(super) fn request_again(buf: &mut Vec<u8>, call: CallId, left: Duration, sent_us: u64) {
    let left_us = left.as_micros() as u64;
    let head = RequestHead {
        method: 77,
        lane: Lane::Normal,
        idempotent: false,
        form: Form::default(),
        left_us,
        sent_us,
    };
    frame::put_request(buf, call.0, &head, b"again");
}

fn responses_on_the_wire(pair: &Pair, from: usize, call: CallId) -> Vec<(u64, Bytes)> {
    let response = |frame| match frame {
        Frame::Response { call: id, status, body, .. } if id == call.0 => Some((status, body)),
        _ => None,
    };
    pair.frames(from, Client).into_iter().filter_map(response).collect()
}

#[test]
fn a_repeated_request_gets_the_stored_answer() {
    let mut pair = Pair::new();
    let (client, server) = pair.connected();
    let call = pair.call(Client, client, Bytes::from_static(b"answer"));
    pair.settle();
    let before = pair.sent.len();
    let again = forge(&pair, Server, 50, |buf| request_again(buf, call, Duration::from_secs(9), 0));
    pair.inject(Client, again);
    assert_eq!(responses_on_the_wire(&pair, before, call), [(0, Bytes::from_static(b"answer"))]);
    assert_eq!(pair.executed[&(Server, server, call)], 1);
    assert_eq!(pair.at(Server).counters().answers_repeated, 1);
    pair.settle();
    assert!(pair.answer(Client, client, call).is_some(), "and is answered once for the caller");
}

#[test]
fn a_request_repeated_while_it_runs_is_ignored() {
    let mut pair = Pair::new();
    pair.echo[Server as usize] = false;
    let (client, server) = pair.connected();
    let call = pair.call(Client, client, Bytes::from_static(b"slow"));
    pair.run_for(Duration::from_millis(5));
    let again = forge(&pair, Server, 50, |buf| request_again(buf, call, Duration::from_secs(9), 0));
    pair.inject(Client, again);
    assert_eq!(pair.executed[&(Server, server, call)], 1);
    assert_eq!(pair.at(Server).counters().requests_duplicate, 1);
}

#[test]
fn a_request_whose_answer_was_evicted_ends_unknown_and_is_not_executed_again() {
    let server = Config { answers_kept_bytes: 1_000, ..Config::default() };
    let mut pair = Pair::with(Config::default(), server, 1);
    let (client, server) = pair.connected();
    let first = pair.call(Client, client, pattern(600));
    pair.settle();
    let second = pair.call(Client, client, pattern(600));
    pair.settle();
    assert_eq!(pair.at(Server).counters().answers_evicted, 1);
    let before = pair.sent.len();
    let again = forge(&pair, Server, 50, |buf| request_again(buf, first, Duration::from_secs(9), 0));
    pair.inject(Client, again);
    assert_eq!(responses_on_the_wire(&pair, before, first), [(status::UNKNOWN_OUTCOME, Bytes::new())]);
    let again = forge(&pair, Server, 51, |buf| request_again(buf, second, Duration::from_secs(9), 0));
    pair.inject(Client, again);
    assert_eq!(responses_on_the_wire(&pair, before, second), [(0, pattern(600))]);
    assert_eq!(pair.executed[&(Server, server, first)], 1);
    assert_eq!(pair.at(Server).counters().requests_duplicate, 2);
}

#[test]
fn a_request_below_the_floor_is_ignored() {
    let mut pair = Pair::new();
    let (client, server) = pair.connected();
    let calls: Vec<_> = (0..40)
        .map(|_| {
            let call = pair.call(Client, client, Bytes::new());
            pair.settle();
            call
        })
        .collect();
    let before = pair.sent.len();
    let again = forge(&pair, Server, 50, |buf| request_again(buf, calls[0], Duration::from_secs(9), 0));
    pair.inject(Client, again);
    assert!(responses_on_the_wire(&pair, before, calls[0]).is_empty());
    assert_eq!(pair.executed[&(Server, server, calls[0])], 1);
    assert_eq!(pair.at(Server).counters().requests_duplicate, 1);
}

#[test]
fn a_request_held_up_on_the_way_past_its_deadline_is_not_executed() {
    let mut pair = Pair::new();
    let (client, server) = pair.connected();
    // Shows how long the path takes.
    pair.call(Client, client, Bytes::new());
    pair.settle();
    let now = pair.now;
    let call = pair.call_with(Client, client, Lane::Normal, Duration::from_millis(50), Bytes::new());
    let mut buf = Vec::new();
    pair.at(Client).poll_transmit(now, 1, &mut buf).unwrap();
    pair.now += Duration::from_millis(60);
    pair.inject(Client, buf.into());
    pair.run_for(Duration::from_millis(5));
    assert_eq!(pair.answer(Client, client, call), Some((status::TIMEOUT, Bytes::new())));
    assert!(!pair.executed.contains_key(&(Server, server, call)));
    assert_eq!(pair.at(Server).counters().requests_late, 1);
    // And it never runs later.
    let again = forge(&pair, Server, 50, |buf| request_again(buf, call, Duration::from_secs(9), 0));
    pair.inject(Client, again);
    assert!(!pair.executed.contains_key(&(Server, server, call)));
}

#[test]
fn the_deadline_arrives_as_time_left_less_the_hold_up() {
    let mut pair = Pair::new();
    pair.echo[Server as usize] = false;
    let (client, _) = pair.connected();
    pair.call(Client, client, Bytes::new());
    pair.run_for(Duration::from_millis(10));
    let now = pair.now;
    pair.call_with(Client, client, Lane::Normal, Duration::from_millis(500), Bytes::new());
    let mut buf = Vec::new();
    pair.at(Client).poll_transmit(now, 1, &mut buf).unwrap();
    pair.now += Duration::from_millis(201);
    let arrived = pair.now;
    pair.inject(Client, buf.into());
    let deadline = pair.events[Server as usize].iter().rev().find_map(|event| match event {
        Event::Request { deadline, .. } => Some(*deadline),
        _ => None,
    });
    assert_eq!(deadline, Some(arrived + Duration::from_millis(300)), "200 ms of 500 were lost on the way");
}

/// Else a peer could move the deadline of a call with each part of it.
#[test]
fn the_deadline_of_a_large_request_is_that_of_its_first_head() {
    let mut pair = Pair::new();
    let (_, server) = pair.connected();
    let now = pair.now;
    for (ahead, left_us, offset) in [(50, 2_000_000, 0), (51, 9_000_000, 0), (52, 0, 1_000)] {
        let part = forge(&pair, Server, ahead, |buf| {
            let PartHead::Request(head) = head() else { return };
            let head = PartHead::Request(RequestHead { left_us, ..head });
            frame::put_part(buf, 100, Lane::Normal, &head, offset, 2_000, &pattern(1_000));
        });
        pair.inject(Client, part);
    }
    assert_eq!(pair.executed[&(Server, server, CallId(100))], 1);
    let deadlines = pair.events[Server as usize].iter().filter_map(|event| match event {
        Event::Request { deadline, .. } => Some(*deadline - now),
        _ => None,
    });
    assert_eq!(deadlines.collect::<Vec<_>>(), [Duration::from_secs(2)]);
}

#[test]
fn a_large_request_past_its_deadline_is_refused_before_it_is_complete() {
    let mut pair = Pair::new();
    let (client, server) = pair.connected();
    pair.call(Client, client, Bytes::new());
    pair.settle();
    let call = pair.call_with(Client, client, Lane::Normal, Duration::from_millis(2), pattern(2 << 20));
    pair.run_until("refused", |pair| pair.answer(Client, client, call).is_some());
    assert_eq!(pair.answer(Client, client, call).unwrap().0, status::TIMEOUT);
    pair.settle();
    assert!(!pair.executed.contains_key(&(Server, server, call)));
    assert!(pair.lost(Server, server).is_none());
    let bytes = pair.at(Server).counters().bytes_received;
    assert!(bytes < 1 << 20, "{bytes} bytes were sent of a refused request");
}

#[test]
fn a_cancelled_call_is_cancelled_at_the_peer_and_its_answer_ignored() {
    let mut pair = Pair::new();
    pair.echo[Server as usize] = false;
    let (client, server) = pair.connected();
    let call = pair.call(Client, client, Bytes::new());
    pair.run_for(Duration::from_millis(5));
    let now = pair.now;
    pair.at(Client).cancel(now, client, call);
    pair.run_for(Duration::from_millis(5));
    let cancelled = pair.events[Server as usize]
        .iter()
        .any(|event| matches!(event, Event::Cancelled { call: id, .. } if *id == call));
    assert!(cancelled);
    pair.at(Server).respond(server, call, 0, Form::default(), Bytes::from_static(b"late"));
    pair.settle();
    assert!(pair.answer(Client, client, call).is_none());
}

#[test]
fn a_call_cancelled_before_it_was_sent_never_runs() {
    let mut pair = Pair::new();
    let (client, server) = pair.connected();
    let first = pair.call(Client, client, Bytes::from_static(b"1"));
    let call = pair.call(Client, client, Bytes::from_static(b"2"));
    let now = pair.now;
    pair.at(Client).cancel(now, client, call);
    pair.settle();
    assert!(pair.answer(Client, client, first).is_some());
    assert!(!pair.executed.contains_key(&(Server, server, call)));
    let again = forge(&pair, Server, 50, |buf| request_again(buf, call, Duration::from_secs(9), 0));
    pair.inject(Client, again);
    assert!(!pair.executed.contains_key(&(Server, server, call)));
}

#[test]
fn cancelled_large_messages_free_the_window_in_both_directions() {
    let small = Config { message_window: 100_000, ..Config::default() };
    for seed in 0..20 {
        let mut pair = Pair::with(small.clone(), small.clone(), seed);
        let (client, server) = pair.connected();
        pair.link.loss = 10;
        pair.link.reorder = 20;
        for round in 0..20 {
            let call = pair.call(Client, client, pattern(80_000));
            let wait = pair.random.below(12_000);
            pair.run_for(Duration::from_micros(wait));
            let now = pair.now;
            pair.at(Client).cancel(now, client, call);
            let lost = (pair.lost(Client, client), pair.lost(Server, server));
            assert_eq!(lost, (None, None), "seed {seed}, round {round}");
        }
        let call = pair.call(Client, client, pattern(90_000));
        pair.run_until("answered", |pair| pair.answer(Client, client, call).is_some());
        pair.settle();
    }
}

#[test]
fn a_draining_peer_refuses_new_calls_and_finishes_old_ones() {
    let mut pair = Pair::new();
    pair.echo[Server as usize] = false;
    let (client, server) = pair.connected();
    let old = pair.call(Client, client, Bytes::from_static(b"old"));
    pair.run_for(Duration::from_millis(5));
    let now = pair.now;
    pair.at(Server).drain(now);
    // On its way before the client can know.
    let crossing = pair.call(Client, client, Bytes::from_static(b"crossing"));
    pair.run_for(Duration::from_millis(5));
    assert_eq!(pair.answer(Client, client, crossing), Some((status::DRAINING, Bytes::new())));
    assert!(pair.events[Client as usize].iter().any(|event| matches!(event, Event::Draining { .. })));
    let now = pair.now;
    let request = Request {
        method: 1,
        lane: Lane::Normal,
        deadline: now + Duration::from_secs(1),
        idempotent: false,
        form: Form::default(),
        body: Bytes::new(),
    };
    assert_eq!(pair.at(Client).request(now, client, request), Err(SendError::Draining));
    assert!(!pair.at(Server).is_idle());
    pair.at(Server).respond(server, old, 0, Form::default(), Bytes::from_static(b"done"));
    pair.run_for(Duration::from_millis(20));
    assert_eq!(pair.answer(Client, client, old).unwrap().1, "done");
    assert!(pair.at(Server).is_idle(), "the drain is complete");
    assert_eq!(pair.executed.len(), 1);
}

#[test]
fn a_new_connection_to_a_draining_endpoint_learns_it() {
    let mut pair = Pair::new();
    let now = pair.now;
    pair.at(Server).drain(now);
    pair.connected();
    pair.run_for(Duration::from_millis(5));
    assert!(pair.events[Client as usize].iter().any(|event| matches!(event, Event::Draining { .. })));
}

#[test]
fn close_reports_open_calls_on_both_sides() {
    let mut pair = Pair::new();
    pair.echo[Server as usize] = false;
    let (client, server) = pair.connected();
    let call = pair.call(Client, client, Bytes::new());
    pair.run_for(Duration::from_millis(5));
    let now = pair.now;
    pair.at(Server).close(now, server, 77, "going home");
    pair.run_for(Duration::from_millis(5));
    assert_eq!(pair.lost(Server, server), Some((LostReason::LocalClose, vec![])));
    let reason = LostReason::Closed { code: 77, reason: "going home".to_owned() };
    assert_eq!(pair.lost(Client, client), Some((reason, vec![(call, true)])));
    pair.run_for(Duration::from_secs(5));
    assert!(pair.at(Server).conns.is_empty() && pair.at(Client).conns.is_empty());
    assert_eq!(pair.at(Server).counters().resets_sent, 0);
}

#[test]
fn a_lost_close_is_repeated_when_the_peer_goes_on() {
    let mut pair = Pair::new();
    let (client, server) = pair.connected();
    let now = pair.now;
    pair.at(Server).close_all(now, 5, "bye");
    pair.pump();
    pair.drop_flights();
    pair.call(Client, client, Bytes::new());
    pair.run_for(Duration::from_millis(5));
    assert!(matches!(pair.lost(Client, client), Some((LostReason::Closed { code: 5, .. }, _))));
    assert!(pair.lost(Server, server).is_some());
    let start = pair.sent.len();
    for ahead in 50..70 {
        let packet = forge(&pair, Server, ahead, frame::put_ping);
        pair.inject(Client, packet);
        pair.drop_flights();
    }
    assert_eq!(pair.sent.len() - start, 7, "nine times with the two before");
}

#[test]
fn a_restarted_server_resets_the_connection_and_the_call_is_reported_as_sent() {
    let mut pair = Pair::new();
    pair.echo[Server as usize] = false;
    let (client, _) = pair.connected();
    let open = pair.call(Client, client, Bytes::new());
    pair.run_for(Duration::from_millis(20));
    pair.restart(Server);
    let start = pair.now;
    let call = pair.call(Client, client, Bytes::new());
    pair.run_until("lost", |pair| pair.lost(Client, client).is_some());
    assert_eq!(
        pair.lost(Client, client),
        Some((LostReason::PeerRestarted, vec![(open, true), (call, true)]))
    );
    // One round trip; with encryption a reset is only a doubt, and three probe timeouts of silence confirm it.
    let expected = Duration::from_micros(if security().is_encrypted() { 17_750 } else { 2_000 });
    assert_eq!(pair.now - start, expected);
    assert!(pair.executed.len() == 1, "the restarted server executed nothing");
    let (again, _) = pair.connected();
    assert_ne!(again, client);
}

#[test]
fn a_restarted_client_ends_its_old_connection_at_the_server() {
    let mut pair = Pair::new();
    let (_, server) = pair.connected();
    pair.echo[Client as usize] = false;
    let call = pair.call(Server, server, Bytes::new());
    pair.run_for(Duration::from_millis(20));
    pair.restart(Client);
    let (_, new) = pair.connected();
    assert_ne!(new, server);
    assert_eq!(pair.lost(Server, server), Some((LostReason::PeerRestarted, vec![(call, true)])));
    assert!(pair.lost(Server, new).is_none());
}

#[test]
fn two_restarted_endpoints_do_not_reset_each_other_for_ever() {
    let mut pair = Pair::new();
    let (client, _) = pair.connected();
    pair.call(Client, client, Bytes::new());
    pair.pump();
    pair.restart(Client);
    pair.restart(Server);
    let before = pair.sent.len();
    pair.run_for(Duration::from_secs(1));
    assert_eq!(pair.sent.len() - before, 1, "one reset");
}

#[test]
fn a_silent_peer_is_lost_and_calls_are_reported_as_sent_or_not() {
    let mut pair = Pair::new();
    let (client, _) = pair.connected();
    pair.link.loss = 100;
    let start = pair.now;
    // Fills the congestion window, so that the last one never leaves.
    let calls: Vec<_> = (0..30).map(|_| pair.call(Client, client, pattern(1_000))).collect();
    pair.run_until("lost", |pair| pair.lost(Client, client).is_some());
    let (reason, reported) = pair.lost(Client, client).unwrap();
    assert_eq!(reason, LostReason::Timeout);
    assert_eq!(reported.iter().map(|entry| entry.0).collect::<Vec<_>>(), calls);
    assert!(reported[0].1 && !reported[29].1, "{reported:?}");
    assert!(pair.now - start <= Duration::from_secs(11));
}

#[test]
fn a_slow_handler_is_announced_and_stops_nothing() {
    let mut pair = Pair::new();
    pair.echo[Server as usize] = false;
    let (client, server) = pair.connected();
    let call = pair.call(Client, client, Bytes::new());
    pair.run_for(Duration::from_secs(20));
    pair.at(Server).respond(server, call, 1, Form::default(), Bytes::from_static(b"late but right"));
    pair.settle();
    assert_eq!(pair.answer(Client, client, call), Some((1, Bytes::from_static(b"late but right"))));
    assert!(pair.frames(0, Client).contains(&Frame::Accepted { call: call.0 }));
}

#[test]
fn what_is_answered_within_a_round_trip_or_so_is_not_announced() {
    let mut pair = Pair::new();
    pair.echo[Server as usize] = false;
    let (client, server) = pair.connected();
    for _ in 0..50 {
        let call = pair.call(Client, client, Bytes::new());
        pair.run_until("executed", |pair| pair.executed.contains_key(&(Server, server, call)));
        pair.run_for(Duration::from_millis(1));
        pair.at(Server).respond(server, call, 0, Form::default(), Bytes::new());
        pair.settle();
    }
    let frames = pair.frames(0, Client);
    assert!(!frames.iter().any(|frame| matches!(frame, Frame::Accepted { .. })));
    let floors =
        pair.frames(0, Server).into_iter().filter(|frame| matches!(frame, Frame::Seen { .. })).count();
    assert_eq!(floors, 3, "what is over is told now and then");
}

#[test]
fn an_answer_that_its_caller_has_seen_is_not_sent_again() {
    let mut pair = Pair::new();
    let (client, server) = pair.connected();
    let call = pair.call(Client, client, Bytes::new());
    pair.run_until("executed", |pair| pair.executed.contains_key(&(Server, server, call)));
    pair.drop_flights();
    let start = pair.sent.len();
    let seen = forge(&pair, Server, 50, |buf| frame::put_seen(buf, call.0 + 2));
    pair.link.loss = 100;
    pair.inject(Client, seen);
    pair.run_for(Duration::from_secs(1));
    assert!(pair.sent.len() > start, "it is not known to have arrived");
    assert_eq!(responses_on_the_wire(&pair, start, call), []);
}

#[test]
fn a_drain_is_told_once_and_a_large_request_meets_it_at_its_first_part() {
    let mut pair = Pair::new();
    let (_, server) = pair.connected();
    for ahead in 50..53 {
        let drain = forge(&pair, Server, ahead, |buf| frame::put_drain(buf, 0, 0));
        pair.inject(Client, drain);
    }
    let is_drain = |event: &&Event| matches!(event, Event::Draining { .. });
    assert_eq!(pair.events[Server as usize].iter().filter(is_drain).count(), 1);
    let now = pair.now;
    pair.at(Server).drain(now);
    let start = pair.sent.len();
    let part = forge(&pair, Server, 60, |buf| {
        frame::put_part(buf, 100, Lane::Normal, &head(), 0, 9_000, b"begins");
    });
    pair.inject(Client, part);
    assert_eq!(pair.at(Server).reassembly_bytes(), 0);
    assert_eq!(responses_on_the_wire(&pair, start, CallId(100)), [(status::DRAINING, Bytes::new())]);
    assert!(pair.lost(Server, server).is_none() && pair.executed.is_empty());
}

#[test]
fn an_answer_above_the_callers_limit_ends_unknown() {
    let client = Config { message_size_max: 5_000, ..Config::default() };
    let mut pair = Pair::with(client, Config::default(), 1);
    pair.echo[Server as usize] = false;
    let (client, server) = pair.connected();
    let call = pair.call(Client, client, Bytes::new());
    pair.run_for(Duration::from_millis(5));
    pair.at(Server).respond(server, call, 0, Form::default(), pattern(5_001));
    pair.settle();
    assert_eq!(pair.answer(Client, client, call).unwrap().0, status::UNKNOWN_OUTCOME);
}

#[test]
fn too_many_calls_at_once_are_refused_not_executed() {
    let mut pair = Pair::with(Config::default(), Config { calls_max: 4, ..Config::default() }, 1);
    pair.echo[Server as usize] = false;
    let (_, server): (ConnId, ConnId) = pair.connected();
    let burst = forge(&pair, Server, 50, |buf| {
        for call in 0..6 {
            request_again(buf, CallId(2 * call), Duration::from_secs(9), 0);
        }
    });
    let before = pair.sent.len();
    pair.inject(Client, burst);
    assert_eq!(pair.executed.len(), 4);
    for call in [8, 10] {
        assert_eq!(responses_on_the_wire(&pair, before, CallId(call)), [(status::SERVER_BUSY, Bytes::new())]);
    }
    assert!(pair.lost(Server, server).is_none());
    assert_eq!(pair.at(Server).counters().requests_busy, 2);
}
