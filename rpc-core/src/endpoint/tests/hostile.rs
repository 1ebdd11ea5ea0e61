//! Stories of datagrams that nobody of ours sent. Nothing here may panic, and nothing may be ignored uncounted.

use std::time::Duration;

use bytes::Bytes;

use super::outcomes::{forge, request_again};
use super::pair::{Client, Flight, Pair, Random, Server, pattern};
use super::security;
use crate::endpoint::{CallId, Config, Counters, Lane, LostReason};
use crate::wire::Form;
use crate::wire::SETUP_DATAGRAM_SIZE;
use crate::wire::frame::{self, PartHead, RequestHead};
use crate::wire::packet::{Header, LongKind, SHORT_HEADER_SIZE};
use crate::wire::seal::{TAG_SIZE, put_checksum};

/// Datagrams that were received and led to nothing, over all reasons.
fn dropped(counters: &Counters) -> u64 {
    counters.dropped_truncated
        + counters.dropped_bad_header
        + counters.dropped_bad_checksum
        + counters.dropped_unknown_connection
        + counters.dropped_wrong_epoch
        + counters.dropped_bad_frame
        + counters.dropped_unknown_version
        + counters.dropped_unexpected_address
        + counters.dropped_duplicate
        + counters.dropped_unexpected
        + counters.dropped_connections_max
        + counters.dropped_bad_seal
        + counters.dropped_wrong_mode
        + counters.dropped_downgrade
        + counters.dropped_address_max
}

#[test]
fn random_garbage_is_counted_and_answered_by_nothing() {
    let mut pair = Pair::new();
    let mut random = Random(9);
    for _ in 0..5_000 {
        let size = random.below(1_500) as usize;
        let garbage: Bytes = (0..size).map(|_| random.next() as u8).collect();
        pair.inject(Client, garbage);
    }
    let counters = pair.at(Server).counters().clone();
    assert_eq!(dropped(&counters), 5_000);
    // Two answers there are: version negotiation for random versions in a full INIT, and with encryption, where nobody
    // can tell garbage from a packet of an unknown connection, a few resets.
    assert!(counters.datagrams_sent <= counters.dropped_unknown_version + counters.resets_sent);
    assert!(counters.resets_sent == 0 || security().is_encrypted());
    assert!(pair.at(Server).conns.is_empty());
}

#[test]
fn truncated_datagrams_are_dropped() {
    let mut pair = Pair::new();
    let (client, server) = pair.connected();
    pair.call(Client, client, pattern(300));
    pair.settle();
    let recorded = pair.sent.clone();
    let before = dropped(pair.at(Server).counters());
    let mut count = 0;
    for flight in recorded.iter().filter(|flight| flight.to == Server) {
        for cut in (0..flight.datagram.len()).step_by(7) {
            pair.inject(Client, flight.datagram.slice(..cut));
            count += 1;
        }
    }
    assert_eq!(dropped(pair.at(Server).counters()) - before, count);
    assert!(pair.lost(Server, server).is_none());
}

/// Edits of real datagrams, most of them with their checksum made right again, so that they reach every decoder.
#[test]
fn mutated_datagrams_never_panic() {
    let recorded = {
        let mut pair = Pair::with(Config::default(), Config::default(), 7);
        let (client, _) = pair.connected();
        pair.link.loss = 10;
        for size in [0, 10, 900, 5_000] {
            let call = pair.call(Client, client, pattern(size));
            pair.run_until("answered", |pair| pair.answer(Client, client, call).is_some());
        }
        let call = pair.call(Client, client, pattern(50_000));
        pair.run_for(Duration::from_millis(4));
        let now = pair.now;
        pair.at(Client).cancel(now, client, call);
        pair.at(Client).drain(now);
        pair.run_for(Duration::from_millis(50));
        pair.at(Client).close_all(now, 1, "end");
        pair.pump();
        pair.sent.clone()
    };
    assert!(recorded.len() > 40, "{} datagrams", recorded.len());
    let mut random = Random(11);
    for seed in 0..60 {
        // The same seed gives the same connection ids, so the recorded datagrams are for this connection.
        let mut pair = Pair::with(Config::default(), Config::default(), 7);
        pair.connected();
        pair.echo = [seed % 2 == 0; 2];
        for _ in 0..100 {
            let flight = &recorded[random.below(recorded.len() as u64) as usize];
            let mutated = mutate(&mut random, &pair, flight);
            pair.inject(flight.to.other(), mutated);
        }
        pair.run_for(Duration::from_secs(30));
        for side in [Client, Server] {
            let counters = pair.at(side).counters();
            assert!(counters.datagrams_received > 0);
        }
    }
}

fn mutate(random: &mut Random, pair: &Pair, flight: &Flight) -> Bytes {
    // What is encrypted is edited in the clear.
    let mut packet = match pair.open(flight) {
        Some(frames) => [&flight.datagram[..SHORT_HEADER_SIZE], &frames[..]].concat(),
        None => flight.datagram[..flight.datagram.len() - TAG_SIZE].to_vec(),
    };
    for _ in 0..=random.below(4) {
        let at = (13 + random.below(packet.len().max(14) as u64 - 13)) as usize;
        match random.below(7) {
            _ if at >= packet.len() => break,
            0 => packet[at] ^= 1 << random.below(8),
            1 => packet[at] = random.next() as u8,
            2 => packet[at] = 0xff,
            3 => packet.truncate(at.max(1)),
            4 => packet.insert(at, random.next() as u8),
            5 => {
                let end = (at + random.below(20) as usize).min(packet.len());
                let copy = packet[at..end].to_vec();
                packet.extend_from_slice(&copy);
            }
            _ => packet[12] = packet[12].wrapping_add(random.below(40) as u8),
        }
    }
    if packet.len() < SHORT_HEADER_SIZE || random.percent(10) {
        packet.into()
    } else {
        pair.seal(flight.to.other(), packet)
    }
}

#[test]
fn an_unknown_version_is_answered_with_the_list_of_ours() {
    let mut pair = Pair::new();
    let mut buf = Vec::new();
    Header::Long { kind: LongKind::Init, version: 99, dcid: 0, scid: 42 }.put(&mut buf);
    buf.resize(SETUP_DATAGRAM_SIZE, 0);
    pair.inject(Client, buf.into());
    let answer = pair.sent.last().unwrap().datagram.clone();
    assert_eq!(
        Header::read(&answer),
        Ok(Header::Long { kind: LongKind::VersionNegotiation, version: 99, dcid: 42, scid: 0 })
    );
    assert!(answer.len() < 100);
    assert_eq!(pair.at(Server).counters().dropped_unknown_version, 1);
}

#[test]
fn a_peer_with_other_versions_only_ends_the_setup_and_a_list_with_ours_does_not() {
    let mut pair = Pair::new();
    let now = pair.now;
    let conn = pair.at(Client).connect(now, Server.address());
    pair.pump();
    pair.drop_flights();
    let list = |versions: &[u32]| {
        let mut buf = Vec::new();
        Header::Long { kind: LongKind::VersionNegotiation, version: 1, dcid: conn.0, scid: 0 }.put(&mut buf);
        buf.push(versions.len() as u8);
        versions.iter().for_each(|version| buf.extend_from_slice(&version.to_be_bytes()));
        put_checksum(&mut buf, 0);
        Bytes::from(buf)
    };
    pair.inject(Server, list(&[7, 1]));
    assert!(pair.lost(Client, conn).is_none());
    pair.inject(Server, list(&[7, 8]));
    // With encryption the list is a rumour until nobody else answers.
    assert_eq!(pair.lost(Client, conn).is_none(), security().is_encrypted());
    pair.link.loss = 100;
    pair.run_until("lost", |pair| pair.lost(Client, conn).is_some());
    assert_eq!(pair.lost(Client, conn).unwrap().0, LostReason::Version { supported: vec![7, 8] });
}

#[test]
fn an_address_that_never_answers_gets_at_most_three_times_what_it_sent() {
    let mut pair = Pair::new();
    let now = pair.now;
    pair.at(Client).connect(now, Server.address());
    pair.pump();
    let init = pair.sent[0].datagram.clone();
    pair.drop_flights();
    for _ in 0..5 {
        pair.inject(Client, init.clone());
        pair.drop_flights();
        let now = pair.now + Duration::from_millis(700);
        pair.now = now;
        pair.at(Server).handle_timeout(now);
        pair.pump();
        pair.drop_flights();
    }
    let counters = pair.at(Server).counters();
    assert!(counters.bytes_sent <= 3 * counters.bytes_received);
    assert!(counters.bytes_sent >= 1_200);
    pair.link.loss = 100;
    pair.run_for(Duration::from_secs(10));
    assert!(pair.at(Server).conns.is_empty(), "and is forgotten");
    assert!(pair.events[Server as usize].is_empty(), "without the layer above hearing of it");
}

#[test]
fn connections_above_the_limit_are_not_accepted() {
    let mut pair = Pair::with(Config::default(), Config { connections_max: 1, ..Config::default() }, 1);
    let (first, _) = pair.connected();
    let now = pair.now;
    let second = pair.at(Client).connect(now, Server.address());
    pair.run_for(Duration::from_secs(6));
    assert_eq!(
        pair.lost(Client, second).unwrap().0,
        LostReason::SetupTimeout { encrypted: security().is_encrypted() }
    );
    assert!(pair.lost(Client, first).is_none());
    assert!(pair.at(Server).counters().dropped_connections_max > 3);
}

#[test]
fn replayed_datagrams_change_nothing() {
    let mut pair = Pair::new();
    let (client, _) = pair.connected();
    for _ in 0..20 {
        pair.call(Client, client, pattern(100));
        pair.settle();
    }
    let recorded = pair.sent.clone();
    for flight in &recorded {
        pair.inject(flight.to.other(), flight.datagram.clone());
    }
    pair.settle();
    assert_eq!(pair.executed.len(), 20);
    assert!(pair.executed.values().all(|count| *count == 1));
    assert!(pair.at(Server).counters().dropped_duplicate >= 20);
    assert_eq!(pair.at(Server).counters().connections_established, 1);
}

#[test]
fn a_forged_reset_must_name_a_packet_of_the_connection() {
    let mut pair = Pair::new();
    let (client, server) = pair.connected();
    let reset = |dcid, pn_low| {
        Bytes::from(crate::wire::packet::reset(dcid, pn_low, security().reset_key().as_ref(), || 5))
    };
    // The right id but a number that was never used; a used number but a wrong id.
    pair.inject(Server, reset(server.0, 1_000));
    pair.inject(Server, reset(server.0 ^ 1, 0));
    assert!(pair.lost(Client, client).is_none());
    assert_eq!(pair.at(Client).counters().dropped_unknown_connection, 2);
    pair.inject(Server, reset(server.0, 0));
    assert_eq!(pair.at(Client).counters().resets_received, 1);
    pair.run_for(Duration::from_secs(1));
    // With encryption the peer is asked first, and it is well.
    let lost = (!security().is_encrypted()).then_some((LostReason::PeerRestarted, vec![]));
    assert_eq!(pair.lost(Client, client), lost);
}

#[test]
fn a_packet_as_short_as_a_reset_is_not_answered_by_one() {
    let mut pair = Pair::new();
    for size in [30, 39, 40] {
        let mut buf = Vec::new();
        Header::Short { dcid: 5, pn_low: 0 }.put(&mut buf);
        buf.resize(size - TAG_SIZE, 0);
        put_checksum(&mut buf, 0);
        pair.inject(Client, buf.into());
    }
    assert_eq!(pair.at(Server).counters().dropped_unknown_connection, 3);
    assert_eq!(pair.at(Server).counters().resets_sent, 1);
}

#[test]
fn resets_are_limited_in_number() {
    let mut pair = Pair::new();
    let (client, _) = pair.connected();
    pair.call(Client, client, pattern(100));
    pair.pump();
    let datagram = pair.sent.last().unwrap().datagram.clone();
    pair.restart(Server);
    for _ in 0..1_000 {
        pair.inject(Client, datagram.clone());
    }
    assert_eq!(pair.at(Server).counters().resets_sent, 100);
    assert_eq!(pair.at(Server).counters().dropped_resets_max, 900);
}

/// What a peer must not do ends the connection with its name.
#[test]
fn violations_close_the_connection_and_are_named() {
    type Case = (&'static str, fn(&mut Vec<u8>));
    let cases: &[Case] = &[
        ("unknown frame", |buf| buf.push(63)),
        ("truncated", |buf| buf.extend_from_slice(&[4, 2])),
        ("packet without frames", |_| {}),
        ("acknowledgement of a packet that was never sent", |buf| {
            frame::put_ack(buf, 0, [(900, 900)].into_iter(), None);
        }),
        ("request with a call of the wrong side", |buf| {
            request_again(buf, CallId(1), Duration::from_secs(1), 0);
        }),
        ("cancellation of a call of the wrong side", |buf| frame::put_cancel(buf, 1, 7)),
        ("answer to a call that was never made", |buf| {
            frame::put_response(buf, 1, 0, Lane::Normal, Form::default(), b"")
        }),
        ("message above the announced size", |buf| {
            frame::put_part(buf, 100, Lane::Normal, &head(), 5, 1 << 40, b"x");
        }),
        ("large messages above the announced window", |buf| {
            frame::put_part(buf, 100, Lane::Normal, &head(), 5, 16 << 20, b"x");
            frame::put_part(buf, 102, Lane::Normal, &head(), 5, 10, b"x");
        }),
        ("parts of one message disagree", |buf| {
            frame::put_part(buf, 100, Lane::Normal, &head(), 5, 100, b"x");
            frame::put_part(buf, 100, Lane::Normal, &head(), 6, 101, b"x");
        }),
    ];
    for (name, put) in cases {
        let mut pair = Pair::new();
        let (client, server) = pair.connected();
        let packet = forge(&pair, Server, 50, put);
        pair.inject(Client, packet);
        assert_eq!(pair.lost(Server, server).unwrap().0, LostReason::Violation(name));
        assert_eq!(pair.at(Server).counters().dropped_bad_frame, 1, "{name}");
        pair.run_for(Duration::from_millis(5));
        let reason = LostReason::Closed { code: 2, reason: (*name).to_owned() };
        assert_eq!(pair.lost(Client, client).unwrap().0, reason);
    }
}

/// Of a request that may take its time.
pub(super) fn head() -> PartHead {
    PartHead::Request(RequestHead {
        method: 1,
        lane: Lane::Normal,
        idempotent: false,
        form: Form::default(),
        left_us: 1 << 30,
        sent_us: 0,
    })
}

#[test]
fn calls_without_end_close_the_connection() {
    let mut pair = Pair::new();
    pair.echo[Server as usize] = false;
    let (_, server) = pair.connected();
    let mut call = 0;
    for ahead in 0..2_000 {
        let packet = forge(&pair, Server, 50 + ahead, |buf| {
            for _ in 0..20 {
                request_again(buf, CallId(call), Duration::from_secs(9), 0);
                call += 2;
            }
        });
        pair.inject(Client, packet);
        pair.drop_flights();
        if let Some((reason, _)) = pair.lost(Server, server) {
            assert_eq!(reason, LostReason::Violation("far more calls than announced"));
            assert!(pair.executed.len() == 1_024);
            return;
        }
    }
    panic!("{call} calls were taken");
}

#[test]
fn small_messages_are_no_longer_than_announced_either() {
    let cases: [fn(&mut Vec<u8>); 2] = [
        |buf| request_again(buf, CallId(100), Duration::from_secs(1), 0),
        |buf| frame::put_response(buf, 1, 0, Lane::Normal, Form::default(), b"again"),
    ];
    for put in cases {
        let small = Config { message_size_max: 4, ..Config::default() };
        let mut pair = Pair::with(small.clone(), small, 1);
        pair.echo = [false; 2];
        let (_, server) = pair.connected();
        pair.call(Server, server, pattern(4));
        let packet = forge(&pair, Server, 50, put);
        pair.inject(Client, packet);
        let reason = LostReason::Violation("message above the announced size");
        assert_eq!(pair.lost(Server, server).map(|lost| lost.0), Some(reason));
        assert!(pair.executed.is_empty());
    }
}

/// What is not open is not answered either: the number would be used later.
#[test]
fn an_answer_to_a_call_that_is_still_to_be_made_is_a_violation() {
    let mut pair = Pair::new();
    let (client, _) = pair.connected();
    let call = pair.call(Client, client, pattern(4));
    pair.settle();
    let ahead = forge(&pair, Client, 50, |buf| {
        frame::put_response(buf, call.0 + 2, 0, Lane::Normal, Form::default(), b"early");
    });
    pair.inject(Server, ahead);
    let reason = LostReason::Violation("answer to a call that was never made");
    assert_eq!(pair.lost(Client, client).map(|lost| lost.0), Some(reason));
}
