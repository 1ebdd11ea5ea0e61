//! Stories of marks: routers that tell of congestion, that erase marks, that mark everything; peers that lie.

use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;

use super::pair::{Client, Pair, Server, pattern};
use crate::endpoint::{Config, ConnId, Ecn};
use crate::wire::Marks;
use crate::wire::frame::{self, Frame};
use crate::wire::packet::{Header, HeaderError};

/// How the data packets went out that were sent from `start` on.
fn data_marks(pair: &Pair, start: usize) -> Vec<Ecn> {
    let data = pair.sent[start..].iter().filter(|flight| is_data(&flight.datagram));
    data.map(|flight| flight.ecn).collect()
}

fn is_data(datagram: &Bytes) -> bool {
    matches!(Header::read(datagram), Ok::<_, HeaderError>(Header::Short { .. }))
}

/// What the packets that were sent from `start` on say about marks.
fn told(pair: &Pair, start: usize) -> Vec<Marks> {
    let frames = [Client, Server].into_iter().flat_map(|to| pair.frames(start, to));
    let marks = |frame| if let Frame::AckEcn { marks, .. } = frame { Some(marks) } else { None };
    frames.filter_map(marks).collect()
}

fn calls(pair: &mut Pair, conn: ConnId, count: usize) {
    for _ in 0..count {
        let call = pair.call(Client, conn, pattern(3_000));
        pair.settle();
        assert!(pair.answer(Client, conn, call).is_some());
    }
}

fn failures(pair: &mut Pair) -> [u64; 2] {
    [Client, Server].map(|side| pair.at(side).counters().ecn_failed)
}

#[test]
fn data_is_marked_setup_is_not_and_a_clean_path_says_so_only_once() {
    let mut pair = Pair::new();
    let (client, _) = pair.connected();
    // Acknowledgements that go alone are acknowledged only now and then.
    calls(&mut pair, client, 40);
    assert!(pair.sent.iter().all(|flight| is_data(&flight.datagram) == (flight.ecn == Ecn::Ect0)));
    let first = told(&pair, 0);
    assert!(first.len() >= 2 && first.iter().all(|marks| *marks == Marks::default()), "{first:?}");
    let start = pair.sent.len();
    calls(&mut pair, client, 50);
    assert_eq!(told(&pair, start), []);
    assert!(data_marks(&pair, start).iter().all(|ecn| *ecn == Ecn::Ect0));
    assert_eq!(failures(&mut pair), [0, 0]);
    assert_eq!([Client, Server].map(|side| pair.at(side).counters().marks_received), [0, 0]);
}

#[test]
fn nobody_marks_when_one_side_does_not_want_it() {
    for side in [Client, Server] {
        let want = |wants| Config { ecn: wants, ..Config::default() };
        let mut pair = Pair::with(want(side != Client), want(side != Server), 3);
        let (client, _) = pair.connected();
        // Nor does who has no marks to tell of tell of them.
        pair.link.mark = |_| Ecn::Ce;
        calls(&mut pair, client, 5);
        assert!(pair.sent.iter().all(|flight| flight.ecn == Ecn::NotEct));
        assert_eq!((told(&pair, 0), failures(&mut pair)), (vec![], [0, 0]));
    }
}

#[test]
fn a_path_that_erases_marks_from_the_first_on_is_found_out() {
    let mut pair = Pair::new();
    pair.link.mark = |_| Ecn::NotEct;
    let (client, _) = pair.connected();
    calls(&mut pair, client, 3);
    assert_eq!(failures(&mut pair), [1, 1]);
    let start = pair.sent.len();
    calls(&mut pair, client, 3);
    assert!(data_marks(&pair, start).iter().all(|ecn| *ecn == Ecn::NotEct));
    assert_eq!(told(&pair, 0), []);
}

#[test]
fn a_path_that_begins_to_mangle_marks_is_found_out() {
    let mangling: [fn(Ecn) -> Ecn; 2] = [|_| Ecn::NotEct, |_| Ecn::Ect1];
    for mangle in mangling {
        let mut pair = Pair::new();
        let (client, _) = pair.connected();
        calls(&mut pair, client, 20);
        pair.link.mark = mangle;
        calls(&mut pair, client, 3);
        assert_eq!(failures(&mut pair), [1, 1]);
        let start = pair.sent.len();
        calls(&mut pair, client, 3);
        assert!(data_marks(&pair, start).iter().all(|ecn| *ecn == Ecn::NotEct));
    }
}

#[test]
fn a_path_that_marks_everything_is_not_believed_and_costs_no_speed() {
    let transfer = |mark: fn(Ecn) -> Ecn| {
        let mut pair = Pair::new();
        pair.link.mark = mark;
        let (client, _) = pair.connected();
        calls(&mut pair, client, 10);
        let (start, failed) = (pair.now, failures(&mut pair));
        let call = pair.call(Client, client, pattern(4 << 20));
        pair.run_until("answered", |pair| pair.answer(Client, client, call).is_some());
        (pair.now - start, failed)
    };
    let (clean, failed) = transfer(|ecn| ecn);
    assert_eq!(failed, [0, 0]);
    let (marked, failed) = transfer(|_| Ecn::Ce);
    assert_eq!((marked, failed), (clean, [1, 1]));
}

/// A packet of the client with an acknowledgement of everything that came of the server.
fn lie(pair: &Pair, server: ConnId, pn: u32, marks: Marks) -> Bytes {
    let mut packet = Vec::new();
    Header::Short { dcid: server.0, pn_low: pn }.put(&mut packet);
    frame::put_ack(&mut packet, 0, [(0, 0)].into_iter(), Some(marks));
    packet.resize(packet.len().max(24), 0);
    pair.seal(Client, packet)
}

#[test]
fn a_peer_that_lies_about_marks_is_not_believed_and_stays_connected() {
    let clean = Marks::default();
    for marks in [Marks { ce: 1 << 40, ..clean }, Marks { not_ect: 1, ..clean }, Marks { ect1: 1, ..clean }] {
        let mut pair = Pair::new();
        let (client, server) = pair.connected();
        calls(&mut pair, client, 12);
        let packet = lie(&pair, server, 900, marks);
        pair.inject(Client, packet);
        assert_eq!(pair.at(Server).counters().ecn_failed, 1, "{marks:?}");
        let start = pair.sent.len();
        let call = pair.call(Server, server, pattern(3_000));
        pair.settle();
        assert!(pair.answer(Server, server, call).is_some());
        let mut of_server = pair.sent[start..].iter().filter(|flight| flight.to == Client);
        assert!(of_server.all(|flight| flight.ecn == Ecn::NotEct), "{marks:?}");
        assert_eq!(failures(&mut pair), [0, 1], "the other way is as good as ever");
    }
}

#[test]
fn marks_of_a_router_are_told_at_once_and_until_they_are_known() {
    let mut pair = Pair::new();
    let (client, _) = pair.connected();
    calls(&mut pair, client, 20);
    let start = pair.sent.len();
    pair.link.mark = |_| Ecn::Ce;
    calls(&mut pair, client, 1);
    pair.link.mark = |ecn| ecn;
    calls(&mut pair, client, 1);
    assert!(told(&pair, start).iter().all(|marks| marks.ce > 0 && marks.not_ect == 0));
    let received = [Client, Server].map(|side| pair.at(side).counters().marks_received);
    assert!(received.iter().all(|count| *count >= 3), "{received:?}");
    let start = pair.sent.len();
    calls(&mut pair, client, 40);
    let late = told(&pair, start);
    assert!(late.len() <= 40, "{late:?}");
    assert_eq!(failures(&mut pair), [0, 0]);
}

/// One side of a transfer mostly acknowledges, in packets that nobody acknowledges: they are marked, and counted, too.
#[test]
fn packets_that_only_acknowledge_are_marked_and_their_marks_are_no_lie() {
    let mut pair = Pair::new();
    let (client, _) = pair.connected();
    calls(&mut pair, client, 12);
    let start = pair.sent.len();
    pair.link.mark = |_| Ecn::Ce;
    let call = pair.call(Client, client, pattern(1 << 20));
    pair.run_until("answered", |pair| pair.answer(Client, client, call).is_some());
    assert!(data_marks(&pair, start).iter().all(|ecn| *ecn == Ecn::Ect0));
    let told = told(&pair, start);
    assert!(told.iter().any(|marks| marks.ce > 100), "{:?}", told.last());
    assert_eq!(failures(&mut pair), [0, 0]);
}

/// Packets about paths are not marked, and neither side takes that for a path that erases marks.
#[test]
fn marks_go_on_after_the_peer_has_moved() {
    let mut pair = Pair::new();
    let (client, server) = pair.connected();
    calls(&mut pair, client, 12);
    let moved = SocketAddr::from((Ipv4Addr::LOCALHOST, 3_000));
    pair.move_client(moved);
    calls(&mut pair, client, 12);
    assert_eq!(pair.at(Server).connection(server).unwrap().remote, moved);
    let start = pair.sent.len();
    calls(&mut pair, client, 12);
    assert!(data_marks(&pair, start).iter().all(|ecn| *ecn == Ecn::Ect0));
    assert_eq!(failures(&mut pair), [0, 0]);
}
