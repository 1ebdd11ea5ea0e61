//! Stories of somebody on the way who has no key: reads, replays, edits, forges, floods.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;

use super::pair::{Client, Flight, Pair, Random, Server, pattern};
use super::security;
use crate::endpoint::{Config, Datagram, Endpoint, LostReason};
use crate::runtime::Instant;
use crate::security::{Security, SharedKey};
use crate::wire::packet::{Header, LONG_HEADER_SIZE, LongKind, SHORT_HEADER_SIZE};
use crate::wire::seal::{TAG_SIZE, put_checksum};
use crate::wire::setup;

#[test]
fn nothing_of_a_call_can_be_read_on_the_way() {
    let mut pair = Pair::new();
    let (client, _) = pair.connected();
    let secret = Bytes::from_static(b"a sentence that nobody else must read");
    let call = pair.call(Client, client, secret.clone());
    pair.settle();
    assert_eq!(pair.answer(Client, client, call), Some((0, secret.clone())));
    let readable = |flight: &Flight| flight.datagram.windows(8).any(|window| window == &secret[..8]);
    assert!(!pair.sent.iter().any(readable));
}

#[test]
fn keys_change_under_loss_and_reordering_and_nothing_is_lost() {
    let often = Config { key_packets_max: 16, ..Config::default() };
    let mut pair = Pair::with(often.clone(), often, 21);
    let (client, server) = pair.connected();
    (pair.link.loss, pair.link.reorder, pair.link.duplicate) = (8, 30, 10);
    let mut calls = Vec::new();
    for index in 0..300 {
        let size = index * 131 % 6_000;
        calls.push((size, pair.call(Client, client, pattern(size))));
        pair.run_for(Duration::from_millis(3));
    }
    pair.settle();
    for (size, call) in calls {
        assert_eq!(pair.answer(Client, client, call), Some((0, pattern(size))));
    }
    assert!(pair.lost(Client, client).is_none() && pair.lost(Server, server).is_none());
    for side in [Client, Server] {
        let counters = pair.at(side).counters();
        assert!(counters.key_rotations > 10, "{} rotations", counters.key_rotations);
        assert_eq!(counters.dropped_bad_seal, 0, "the key before is kept for what is late");
    }
}

#[test]
fn a_key_that_is_old_enough_changes_without_many_packets() {
    let config = Config { key_age_max: Duration::from_secs(2), ..Config::default() };
    let mut pair = Pair::with(config.clone(), config, 22);
    let (client, _) = pair.connected();
    for _ in 0..10 {
        pair.call(Client, client, pattern(10));
        pair.run_for(Duration::from_secs(1));
    }
    let rotations = pair.at(Client).counters().key_rotations;
    assert!((3..=5).contains(&rotations), "{rotations}");
}

#[test]
fn everything_replayed_twice_in_the_middle_of_calls_changes_nothing() {
    let often = Config { key_packets_max: 16, ..Config::default() };
    let mut pair = Pair::with(often.clone(), often, 23);
    let (client, server) = pair.connected();
    let mut calls = Vec::new();
    for round in 0..40 {
        calls.push(pair.call(Client, client, pattern(round * 100)));
        pair.run_for(Duration::from_millis(1));
        for flight in pair.sent.clone() {
            pair.inject(flight.to.other(), flight.datagram);
        }
    }
    pair.settle();
    for (round, call) in calls.into_iter().enumerate() {
        assert_eq!(pair.answer(Client, client, call), Some((0, pattern(round * 100))));
    }
    assert!(pair.executed.values().all(|count| *count == 1));
    assert!(pair.lost(Client, client).is_none() && pair.lost(Server, server).is_none());
    assert_eq!(pair.at(Server).counters().connections_established, 1);
}

/// Every bit of every kind of data packet, and what somebody without the key would write.
#[test]
fn forged_packets_are_dropped_counted_and_end_nothing() {
    let mut pair = Pair::new();
    let (client, server) = pair.connected();
    let call = pair.call(Client, client, pattern(40));
    pair.pump();
    let datagram = pair.sent.last().unwrap().datagram.clone();
    // The genuine one does not arrive.
    pair.drop_flights();
    let before = pair.at(Server).counters().clone();
    // Behind the connection id: another one is another connection.
    for bit in 9 * 8..datagram.len() * 8 {
        let mut forged = datagram.to_vec();
        forged[bit / 8] ^= 1 << (bit % 8);
        pair.inject(Client, forged.into());
    }
    let mut random = Random(3);
    for _ in 0..1_000 {
        let mut forged = datagram[..SHORT_HEADER_SIZE].to_vec();
        forged[12] = forged[12].wrapping_add(random.below(20) as u8 + 1);
        forged.extend((0..random.below(200) + 16).map(|_| random.next() as u8));
        pair.inject(Client, forged.into());
    }
    let counters = pair.at(Server).counters().clone();
    let dropped = counters.dropped_bad_seal + counters.dropped_duplicate
        - before.dropped_bad_seal
        - before.dropped_duplicate;
    assert_eq!(dropped, (datagram.len() as u64 - 9) * 8 + 1_000);
    assert!(pair.executed.is_empty());
    pair.settle();
    assert_eq!(pair.answer(Client, client, call), Some((0, pattern(40))));
    assert!(pair.lost(Client, client).is_none() && pair.lost(Server, server).is_none());
}

/// Every byte of INIT and REPLY changed, with the checksum made right again: the exchange completes all the same.
#[test]
fn edited_setup_packets_are_dropped_and_the_real_ones_still_connect() {
    let mut pair = Pair::new();
    let now = pair.now;
    let conn = pair.at(Client).connect(now, Server.address());
    pair.pump();
    let init = pair.sent[0].datagram.clone();
    let edited = |datagram: &Bytes, at: usize| {
        let mut edited = datagram[..datagram.len() - TAG_SIZE].to_vec();
        edited[at] ^= 0x11;
        put_checksum(&mut edited, 0);
        Bytes::from(edited)
    };
    for at in LONG_HEADER_SIZE..LONG_HEADER_SIZE + 9 + 32 + 16 + 50 {
        pair.inject(Client, edited(&init, at));
    }
    let counters = pair.at(Server).counters().clone();
    assert_eq!(pair.at(Server).conns.len(), 0, "{counters:?}");
    assert!(counters.dropped_bad_seal > 80, "{counters:?}");
    pair.run_for(Duration::from_millis(1));
    let reply = pair.sent.last().unwrap();
    assert_eq!(reply.to, Client);
    let reply = reply.datagram.clone();
    pair.drop_flights();
    for at in LONG_HEADER_SIZE..LONG_HEADER_SIZE + 3 + 32 + 16 + 58 {
        pair.inject(Server, edited(&reply, at));
    }
    assert!(!pair.at(Client).connection(conn).unwrap().established);
    assert!(pair.at(Client).counters().dropped_bad_seal > 80);
    pair.run_until("connected", |pair| !pair.events[Client as usize].is_empty());
    assert!(pair.lost(Client, conn).is_none());
}

#[test]
fn a_shortened_version_list_does_not_open_and_a_rumour_of_other_versions_is_not_believed() {
    let mut pair = Pair::new();
    let now = pair.now;
    let conn = pair.at(Client).connect(now, Server.address());
    pair.pump();
    let init = pair.sent[0].datagram.clone();
    pair.drop_flights();
    // As an initiator that speaks a later version too would have sent it, edited to hide that.
    let body = init.slice(LONG_HEADER_SIZE..init.len() - TAG_SIZE);
    let mut longer = setup::Init::read(&body).unwrap();
    longer.versions = vec![2, 1];
    pair.inject(Client, longer.datagram(conn.0).into());
    assert_eq!(pair.at(Server).counters().dropped_bad_seal, 1, "the list is in the prologue");
    let mut without = longer.clone();
    without.versions = vec![7];
    pair.inject(Client, without.datagram(conn.0).into());
    assert_eq!(pair.at(Server).counters().dropped_downgrade, 1, "the list has nothing in common with ours");
    // And the answer "only version 7" that nobody signed: the attempt goes on.
    let mut rumour = Vec::new();
    Header::Long { kind: LongKind::VersionNegotiation, version: 1, dcid: conn.0, scid: 0 }.put(&mut rumour);
    rumour.extend_from_slice(&[1, 0, 0, 0, 7]);
    put_checksum(&mut rumour, 0);
    pair.inject(Server, rumour.into());
    pair.run_until("connected", |pair| !pair.events[Server as usize].is_empty());
    assert!(pair.lost(Client, conn).is_none());
}

#[test]
fn another_key_or_another_mode_gets_no_answer_and_leaves_nothing_behind() {
    let keyed = |byte| Security::shared_key(SharedKey::new([byte; 32]));
    for (client, server) in
        [(keyed(1), keyed(2)), (keyed(1), Security::insecure()), (Security::insecure(), keyed(2))]
    {
        let encrypted = client.is_encrypted();
        let mut pair = Pair::secured([client, server], Config::default(), Config::default(), 4);
        let now = pair.now;
        let conn = pair.at(Client).connect(now, Server.address());
        pair.run_until("lost", |pair| pair.lost(Client, conn).is_some());
        let (reason, _) = pair.lost(Client, conn).unwrap();
        assert_eq!(reason, LostReason::SetupTimeout { encrypted });
        assert_eq!(pair.now - now, Duration::from_secs(5));
        let counters = pair.at(Server).counters();
        assert_eq!(counters.datagrams_sent, 0);
        assert_eq!(counters.dropped_bad_seal + counters.dropped_wrong_mode, counters.datagrams_received);
        assert!(pair.at(Server).conns.is_empty());
    }
    let said = LostReason::SetupTimeout { encrypted: true }.to_string();
    assert!(said.contains("is the key the same?"));
}

#[test]
fn a_reset_of_another_key_is_nothing_and_one_of_ours_needs_silence() {
    let mut pair = Pair::new();
    let (client, server) = pair.connected();
    let reset = |security: &Security| {
        Bytes::from(crate::wire::packet::reset(server.0, 0, security.reset_key().as_ref(), || 5))
    };
    for security in [Security::insecure(), Security::shared_key(SharedKey::new([6; 32]))] {
        pair.inject(Server, reset(&security));
    }
    assert_eq!(pair.at(Client).counters().resets_received, 0);
    for _ in 0..100 {
        pair.inject(Server, reset(&security()));
        pair.run_for(Duration::from_millis(7));
    }
    assert_eq!(pair.at(Client).counters().resets_received, 100);
    assert!(pair.lost(Client, client).is_none(), "the peer answers");
    pair.link.loss = 100;
    pair.inject(Server, reset(&security()));
    pair.run_for(Duration::from_millis(50));
    assert_eq!(pair.lost(Client, client).unwrap().0, LostReason::PeerRestarted);
}

#[test]
fn with_cookies_always_a_setup_takes_one_round_trip_more_and_nothing_is_remembered_before() {
    let always = Config { cookies_above: 0, ..Config::default() };
    let mut pair = Pair::with(Config::default(), always, 5);
    let now = pair.now;
    let conn = pair.at(Client).connect(now, Server.address());
    pair.run_for(Duration::from_millis(1));
    assert!(pair.at(Server).conns.is_empty());
    assert_eq!(pair.at(Server).counters().cookies_sent, 1);
    assert!(pair.sent[1].datagram.len() < 100);
    pair.run_until("connected", |pair| !pair.events[Server as usize].is_empty());
    assert_eq!(pair.now - now, Duration::from_millis(5));
    assert!(pair.lost(Client, conn).is_none());
    // A cookie is good for its address and its connection only.
    let with_cookie = pair.sent[2].datagram.clone();
    let elsewhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 77));
    let now = pair.now;
    let before = pair.at(Server).conns.len();
    pair.at(Server).handle_datagram(now, Datagram::new(elsewhere, with_cookie));
    assert_eq!(pair.at(Server).conns.len(), before);
    assert_eq!(pair.at(Server).counters().cookies_sent, 2);
}

/// A server alone, and what it sends to whom.
struct Alone {
    endpoint: Endpoint,
    now: Instant,
}

impl Alone {
    fn new(config: Config) -> Self {
        let mut random = Random(99);
        let endpoint = Endpoint::new(config, security(), 1, 2, Box::new(move || random.next()));
        Self { endpoint, now: Instant::from_nanos(5_000_000_000) }
    }

    /// Bytes that go to `from` in the ten seconds after `datagram` came from there.
    fn answer(&mut self, from: SocketAddr, datagram: Bytes) -> usize {
        self.endpoint.handle_datagram(self.now, Datagram::new(from, datagram));
        let end = self.now + Duration::from_secs(10);
        let (mut sent, mut buf) = (0, Vec::new());
        while self.now < end {
            while let Some(transmit) = self.endpoint.poll_transmit(self.now, 8, &mut buf) {
                assert_eq!(transmit.destination, from);
                sent += transmit.size;
            }
            self.now += Duration::from_millis(5);
            self.endpoint.handle_timeout(self.now);
        }
        assert!(self.endpoint.poll_event().is_none(), "nobody above hears of it");
        sent
    }
}

/// INITs of `count` initiators, all with the right key.
fn inits(count: u64) -> Vec<Bytes> {
    let mut random = Random(7);
    let mut client = Endpoint::new(Config::default(), security(), 3, 4, Box::new(move || random.next()));
    let (now, mut buf) = (Instant::from_nanos(1), Vec::new());
    (0..count)
        .map(|_| {
            client.connect(now, Server.address());
            client.poll_transmit(now, 1, &mut buf).unwrap();
            Bytes::copy_from_slice(&buf)
        })
        .collect()
}

fn address(ip: u32) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + ip)), 5_000)
}

#[test]
fn no_kind_of_packet_brings_more_than_three_times_its_size_to_an_address() {
    let init = inits(1).remove(0);
    let long = |kind, version, dcid, size: usize| {
        let mut buf = Vec::new();
        Header::Long { kind, version, dcid, scid: 9 }.put(&mut buf);
        buf.resize(size - TAG_SIZE, 1);
        put_checksum(&mut buf, 0);
        Bytes::from(buf)
    };
    let short = |size: usize| {
        let mut buf = Vec::new();
        Header::Short { dcid: 5, pn_low: 1 }.put(&mut buf);
        buf.resize(size, 0);
        Bytes::from(buf)
    };
    let reset = crate::wire::packet::reset(5, 1, security().reset_key().as_ref(), || 1);
    let kinds: Vec<(&str, Bytes)> = vec![
        ("INIT", init.clone()),
        ("INIT cut", init.slice(..600)),
        ("INIT of another version", long(LongKind::Init, 9, 0, 1_200)),
        ("INIT of another version, small", long(LongKind::Init, 9, 0, 60)),
        ("INIT with garbage", long(LongKind::Init, 1, 0, 1_200)),
        ("third message", long(LongKind::Init, 1, 7, 150)),
        ("REPLY", long(LongKind::Reply, 1, 7, 1_200)),
        ("RETRY", long(LongKind::Retry, 1, 7, 70)),
        ("VERSIONS", long(LongKind::VersionNegotiation, 1, 7, 60)),
        ("short, 40", short(40)),
        ("short, 39", short(39)),
        ("short, 1,200", short(1_200)),
        ("reset", reset.into()),
    ];
    for cookies_above in [0, 100] {
        let config = Config { cookies_above, ..Config::default() };
        for (name, datagram) in &kinds {
            let mut server = Alone::new(config.clone());
            let mut sent = 0;
            for _ in 0..3 {
                sent += server.answer(address(1), datagram.clone());
            }
            assert!(sent <= 3 * 3 * datagram.len(), "{name}: {sent} bytes");
            // Measured: an answer is never longer than what asked for it.
            assert!(sent <= 3 * datagram.len(), "{name}: {sent} bytes for three of {}", datagram.len());
            assert!(server.endpoint.conns.is_empty(), "{name} is forgotten");
            assert!(server.endpoint.by_address.is_empty() && server.endpoint.by_remote.is_empty(), "{name}");
        }
    }
}

#[test]
fn a_flood_from_forged_addresses_is_answered_with_cookies_and_a_real_client_still_gets_in() {
    let mut server = Alone::new(Config::default());
    let now = server.now;
    for (index, init) in (0..).zip(inits(500)) {
        server.endpoint.handle_datagram(now, Datagram::new(address(index), init));
    }
    assert_eq!(server.endpoint.conns.len(), 100);
    assert_eq!(server.endpoint.counters().cookies_sent, 400);
    assert!(server.endpoint.stray.len() <= 256);
    let mut buf = Vec::new();
    while server.endpoint.poll_transmit(now, 1, &mut buf).is_some() {}
    let init = inits(501).pop().unwrap();
    server.endpoint.handle_datagram(now, Datagram::new(address(1_000), init.clone()));
    let retry = server.endpoint.poll_transmit(now, 1, &mut buf).unwrap();
    assert_eq!((retry.destination, server.endpoint.conns.len()), (address(1_000), 100));
    let cookie = setup::read_retry(&Bytes::copy_from_slice(&buf[LONG_HEADER_SIZE..])).unwrap();
    let body = init.slice(LONG_HEADER_SIZE..);
    let with_cookie = setup::Init { cookie, ..setup::Init::read(&body).unwrap() };
    let Ok(Header::Long { scid, .. }) = Header::read(&init) else { panic!("no INIT") };
    server.endpoint.handle_datagram(now, Datagram::new(address(1_000), with_cookie.datagram(scid).into()));
    assert_eq!(server.endpoint.conns.len(), 101);
}

#[test]
fn one_address_holds_64_exchanges_half_open_whatever_its_ports() {
    let mut server = Alone::new(Config { cookies_above: 1_000, ..Config::default() });
    let now = server.now;
    for (port, init) in (1..).zip(inits(80)) {
        server.endpoint.handle_datagram(now, Datagram::new(SocketAddr::new(address(1).ip(), port), init));
    }
    assert_eq!(server.endpoint.conns.len(), 64);
    assert_eq!(server.endpoint.counters().dropped_address_max, 16);
    server.endpoint.handle_datagram(now, Datagram::new(address(2), inits(81).pop().unwrap()));
    assert_eq!(server.endpoint.conns.len(), 65, "another address is not held up");
    let mut buf = Vec::new();
    while server.endpoint.poll_transmit(now, 1, &mut buf).is_some() {}
    server.now += Duration::from_secs(6);
    server.endpoint.handle_timeout(server.now);
    assert!(server.endpoint.conns.is_empty() && server.endpoint.by_address.is_empty());
}
