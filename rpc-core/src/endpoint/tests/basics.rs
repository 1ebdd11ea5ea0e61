//! Stories of setup, calls and limits.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;

use super::pair;
use super::pair::{Client, Pair, Server, pattern};
use crate::conn::congestion::{Acked, Algorithm, Controller, Lost};
use crate::endpoint::{Config, Event, Lane, LostReason, Request, SendError};
use crate::wire::Form;
use crate::wire::SETUP_DATAGRAM_SIZE;

#[test]
fn handshake_takes_one_round_trip_and_tells_who_is_there() {
    let mut pair = Pair::new();
    let start = pair.now;
    let (client, server) = pair.connected();
    let connected = |side: pair::Side| {
        pair.events[side as usize].iter().find_map(|event| match event {
            Event::Connected { client_id, inbound, .. } => Some((*client_id, *inbound)),
            _ => None,
        })
    };
    assert_eq!(connected(Client), Some((101, false)));
    assert_eq!(connected(Server), Some((100, true)));
    let info = pair.at(Client).connection(client).unwrap();
    assert_eq!((info.remote, info.established), (Server.address(), true));
    assert_eq!(info.rtt, Duration::from_millis(2));
    let back = pair.at(Server).connection(server).unwrap();
    assert_eq!((back.remote, back.client_id), (Client.address(), 100));
    assert_ne!(info.epoch, back.epoch);
    // INIT, REPLY, data: the acceptor knows after one and a half round trips.
    assert!(pair.now - start < Duration::from_millis(10));
    assert_eq!(pair.sent[0].datagram.len(), SETUP_DATAGRAM_SIZE);
    assert_eq!(pair.sent[1].datagram.len(), SETUP_DATAGRAM_SIZE);
}

#[test]
fn a_call_made_before_the_setup_is_complete_is_sent_after_it() {
    let mut pair = Pair::new();
    let now = pair.now;
    let conn = pair.at(Client).connect(now, Server.address());
    let call = pair.call(Client, conn, Bytes::from_static(b"early"));
    pair.run_until("answered", |pair| pair.answer(Client, conn, call).is_some());
    assert_eq!(pair.answer(Client, conn, call), Some((0, Bytes::from_static(b"early"))));
    assert_eq!(pair.now - now, Duration::from_millis(4), "two round trips");
}

#[test]
fn both_sides_call_on_one_connection() {
    let mut pair = Pair::new();
    let (client, server) = pair.connected();
    let there = pair.call(Client, client, Bytes::from_static(b"there"));
    let back = pair.call(Server, server, Bytes::from_static(b"back"));
    assert_eq!((there.0 % 2, back.0 % 2), (0, 1));
    pair.settle();
    assert_eq!(pair.answer(Client, client, there).unwrap().1, "there");
    assert_eq!(pair.answer(Server, server, back).unwrap().1, "back");
}

#[test]
fn many_small_calls_share_datagrams() {
    let mut pair = Pair::new();
    let (client, _) = pair.connected();
    let before = pair.at(Client).counters().datagrams_sent;
    let calls: Vec<_> = (0..100).map(|_| pair.call(Client, client, pattern(32))).collect();
    pair.settle();
    for call in calls {
        assert_eq!(pair.answer(Client, client, call), Some((0, pattern(32))));
    }
    let datagrams = pair.at(Client).counters().datagrams_sent - before;
    assert!(datagrams <= 8, "{datagrams} datagrams for 100 calls of 32 bytes");
}

#[test]
fn bodies_around_every_boundary_arrive_unchanged() {
    let mut pair = Pair::new();
    let (client, server) = pair.connected();
    for size in (0..4).chain(1_100..1_230).chain(2_280..2_320).chain(65_530..65_540) {
        let call = pair.call(Client, client, pattern(size));
        pair.settle();
        assert_eq!(pair.answer(Client, client, call), Some((0, pattern(size))), "{size} bytes");
    }
    assert!(pair.lost(Client, client).is_none() && pair.lost(Server, server).is_none());
}

#[test]
fn larger_datagrams_are_used_when_both_sides_allow_them() {
    let large = Config { datagram_size_max: 8_900, ..Config::default() };
    let mut pair = Pair::with(large.clone(), large.clone(), 3);
    pair.link.mtu = 65_507;
    let (client, _) = pair.connected();
    for size in [5_000, 8_800, 8_900, 100_000] {
        let call = pair.call(Client, client, pattern(size));
        pair.settle();
        assert_eq!(pair.answer(Client, client, call), Some((0, pattern(size))));
    }
    assert_eq!(pair.sent.iter().map(|flight| flight.datagram.len()).max(), Some(8_900));

    let mut pair = Pair::with(large, Config { datagram_size_max: 1_452, ..Config::default() }, 3);
    pair.link.mtu = 65_507;
    let (client, _) = pair.connected();
    pair.call(Client, client, pattern(100_000));
    pair.settle();
    assert_eq!(pair.sent.iter().map(|flight| flight.datagram.len()).max(), Some(1_452));
}

#[test]
fn segments_of_one_transmit_are_equal_but_for_the_last() {
    // The pair splits at the segment size; a wrong split would not even decode.
    let mut pair = Pair::new();
    pair.segments_max = 64;
    let (client, _) = pair.connected();
    let calls: Vec<_> = (0..200).map(|index| pair.call(Client, client, pattern(index * 7 % 900))).collect();
    pair.settle();
    for (index, call) in calls.into_iter().enumerate() {
        assert_eq!(pair.answer(Client, client, call), Some((0, pattern(index * 7 % 900))));
    }
    assert_eq!(pair.at(Server).counters().dropped_bad_checksum, 0);
    assert_eq!(pair.at(Client).counters().packets_lost, 0);
}

#[test]
fn a_control_call_overtakes_a_large_transfer() {
    let mut pair = Pair::new();
    let (client, server) = pair.connected();
    let bulk = pair.call_with(Client, client, Lane::Bulk, Duration::from_secs(60), pattern(4 << 20));
    pair.run_for(Duration::from_millis(6));
    let start = pair.now;
    let beat = pair.call_with(Client, client, Lane::Control, Duration::from_secs(1), pattern(3_000));
    pair.run_until("heartbeat", |pair| pair.answer(Client, client, beat).is_some());
    assert!(pair.answer(Client, client, bulk).is_none());
    // One round trip for the congestion window to have room, one for the call, some for its parts.
    assert!(pair.now - start <= Duration::from_millis(8), "{:?}", pair.now - start);
    pair.settle();
    assert_eq!(pair.answer(Client, client, bulk).unwrap().1.len(), 4 << 20);
    assert!(pair.lost(Server, server).is_none());
}

#[test]
fn the_shorter_message_goes_first_and_the_oldest_is_not_starved() {
    let mut pair = Pair::new();
    let (client, _) = pair.connected();
    let old = pair.call(Client, client, pattern(400_000));
    let mut shorts = 0;
    while pair.answer(Client, client, old).is_none() {
        let call = pair.call(Client, client, pattern(20_000));
        pair.run_until("short one", |pair| pair.answer(Client, client, call).is_some());
        shorts += 1;
        assert!(shorts < 400, "the old message starves");
    }
    assert!(shorts >= 2, "the short ones waited for the long one");
}

#[test]
fn messages_above_the_window_wait_and_one_larger_than_it_goes_alone() {
    let small = Config { message_window: 50_000, ..Config::default() };
    let mut pair = Pair::with(small.clone(), small, 4);
    let (client, server) = pair.connected();
    let calls: Vec<_> = (0..12)
        .map(|index| (index, pair.call(Client, client, pattern(if index == 5 { 300_000 } else { 20_000 }))))
        .collect();
    pair.settle();
    for (index, call) in calls {
        let size = if index == 5 { 300_000 } else { 20_000 };
        assert_eq!(pair.answer(Client, client, call), Some((0, pattern(size))));
    }
    assert!(pair.lost(Server, server).is_none() && pair.lost(Client, client).is_none());
}

#[test]
fn limits_of_the_peer_are_kept_and_told() {
    let server = Config { calls_max: 4, message_size_max: 10_000, ..Config::default() };
    let mut pair = Pair::with(Config::default(), server, 5);
    pair.echo[Server as usize] = false;
    let now = pair.now;
    let conn = pair.at(Client).connect(now, Server.address());
    // Made before the limits are known: answered when they are.
    let large = pair.call(Client, conn, pattern(10_001));
    let early: Vec<_> = (0..6).map(|_| pair.call(Client, conn, Bytes::new())).collect();
    pair.run_for(Duration::from_millis(50));
    assert_eq!(pair.answer(Client, conn, large).unwrap().0, crate::wire::status::TOO_LARGE);
    let refused = early.iter().filter(|call| pair.answer(Client, conn, **call).is_some()).count();
    assert_eq!(refused, 3, "the too large one took the first place");
    assert_eq!(pair.executed.len(), 3);
    let deadline = pair.now + Duration::from_secs(1);
    let request = |body| Request {
        method: 1,
        lane: Lane::Normal,
        deadline,
        idempotent: true,
        form: Form::default(),
        body,
    };
    let now = pair.now;
    let refused = pair.at(Client).request(now, conn, request(pattern(10_001)));
    assert_eq!(refused, Err(SendError::TooLarge { size: 10_001, max: 10_000 }));
    assert!(pair.at(Client).request(now, conn, request(pattern(10_000))).is_ok());
    assert_eq!(pair.at(Client).request(now, conn, request(Bytes::new())), Err(SendError::Busy));
    pair.run_for(Duration::from_millis(50));
    assert!(pair.lost(Client, conn).is_none());
}

#[test]
fn idle_connections_cost_no_packets_and_end_without_reset() {
    let mut pair = Pair::new();
    let (client, server) = pair.connected();
    let quiet = pair.sent.len();
    pair.run_for(Duration::from_secs(9));
    assert_eq!(pair.sent.len(), quiet, "nobody asks whether an idle peer is there");
    pair.run_for(Duration::from_secs(2));
    assert_eq!(pair.lost(Client, client), Some((LostReason::Timeout, Vec::new())));
    assert!(matches!(pair.lost(Server, server), Some((LostReason::Closed { code: 1, .. }, _))));
    assert_eq!(pair.at(Server).counters().resets_sent, 0);
    assert!(pair.at(Client).connection(client).is_none());
}

#[test]
fn a_kept_connection_and_one_with_an_open_call_stay() {
    let mut pair = Pair::new();
    pair.echo[Server as usize] = false;
    let (kept, _) = pair.connected();
    let now = pair.now;
    pair.at(Client).keep(now, kept, true);
    let (waiting, _) = pair.connected();
    let call = pair.call(Client, waiting, Bytes::new());
    pair.run_for(Duration::from_secs(100));
    assert!(pair.lost(Client, kept).is_none() && pair.lost(Client, waiting).is_none());
    assert!(pair.answer(Client, waiting, call).is_none());
    // A few packets every 3 s for each.
    assert!(pair.sent.len() < 300, "{} packets", pair.sent.len());
    pair.drop_flights();
    pair.link.loss = 100;
    pair.run_for(Duration::from_secs(15));
    assert_eq!(pair.lost(Client, kept), Some((LostReason::Timeout, vec![])));
    assert_eq!(pair.lost(Client, waiting), Some((LostReason::Timeout, vec![(call, true)])));
}

#[test]
fn thousands_of_idle_connections_cost_nothing() {
    let quiet = Config { idle_timeout: Duration::from_secs(3_600), ..Config::default() };
    let mut pair = Pair::with(quiet.clone(), Config { connections_max: 2_000, ..quiet }, 6);
    let mut last = None;
    for _ in 0..2_000 {
        last = Some(pair.connected().0);
    }
    let last = last.unwrap();
    pair.run_for(Duration::from_secs(5));
    // Only the connection that is used is looked at.
    assert!(pair.at(Client).ready.is_empty() && pair.at(Server).ready.is_empty());
    let call = pair.call(Client, last, Bytes::new());
    assert_eq!(pair.at(Client).ready.len(), 1);
    pair.run_until("answered", |pair| pair.answer(Client, last, call).is_some());
}

/// Which INIT a REPLY answers is not known when there were two (RFC 6298 section 3, Karn).
#[test]
fn a_setup_that_was_repeated_measures_no_round_trip() {
    let mut pair = Pair::new();
    pair.link.latency = Duration::from_millis(14);
    let now = pair.now;
    let conn = pair.at(Client).connect(now, Server.address());
    while !pair.at(Client).connection(conn).unwrap().established {
        assert!(pair.step());
    }
    assert_eq!((pair.now - now, pair.at(Client).counters().setups_retransmitted), (pair.link.latency * 2, 1));
    let rtt = pair.at(Client).connection(conn).unwrap().rtt;
    assert_eq!(rtt, Config::default().initial_rtt);
}

/// Always the same window; notes of what was measured whether there was less to send than might have gone.
#[derive(Debug)]
struct Noting(Arc<Mutex<Vec<bool>>>);

impl Controller for Noting {
    fn set_packet_size(&mut self, _: u64) {}

    fn on_ack(&mut self, acked: &Acked) {
        self.0.lock().unwrap().push(acked.sample.application_limited);
    }

    fn on_loss(&mut self, _: &Lost) {}

    fn window(&self) -> u64 {
        100_000
    }
}

#[test]
fn a_controller_learns_whether_there_was_more_to_send() {
    let limited = Arc::<Mutex<Vec<bool>>>::default();
    let congestion = Algorithm::custom({
        let limited = Arc::clone(&limited);
        move |_| Box::new(Noting(Arc::clone(&limited)))
    });
    let mut pair = Pair::with(Config { congestion, ..Config::default() }, Config::default(), 1);
    let (client, _) = pair.connected();
    let mut share = |sizes: &[usize]| {
        limited.lock().unwrap().clear();
        for size in sizes {
            pair.call(Client, client, pattern(*size));
            pair.settle();
        }
        let limited = limited.lock().unwrap();
        limited.iter().filter(|limited| **limited).count() * 100 / limited.len()
    };
    assert_eq!(share(&[100; 10]), 100);
    let percent = share(&[2 << 20]);
    assert!(percent < 20, "{percent} % of a transfer");
}
