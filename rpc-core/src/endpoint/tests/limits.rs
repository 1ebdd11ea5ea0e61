//! Stories of how many connections there may be, and that those which ended make room.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::pair::{Client, Pair, Server};
use crate::endpoint::{Config, ConnId};

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
