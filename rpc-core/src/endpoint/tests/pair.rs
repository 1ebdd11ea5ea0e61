//! Two endpoints, a fake clock and a link between them that can be slow, lossy and damaged, all from one seed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;

use crate::endpoint::{CallId, Config, ConnId, Datagram, Ecn, Endpoint, Event, Lane, LostReason, Request};
use crate::runtime::Instant;
use crate::security::Security;
use crate::wire::Form;
use crate::wire::frame::Frame;
use crate::wire::packet::{Header, LONG_HEADER_SIZE, SHORT_HEADER_SIZE};
use crate::wire::seal::{TAG_SIZE, put_checksum};
use crate::wire::varint::Reader;

/// A small generator: SplitMix64.
#[derive(Clone, Debug)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(super) fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// What the network does, in percent of the datagrams.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) latency: Duration,
    pub(super) loss: u64,
    /// Delayed by up to three more latencies.
    pub(super) reorder: u64,
    pub(super) duplicate: u64,
    pub(super) corrupt: u64,
    /// Larger datagrams vanish.
    pub(super) mtu: usize,
    /// What routers do to marks.
    pub(super) mark: fn(Ecn) -> Ecn,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            latency: Duration::from_millis(1),
            loss: 0,
            reorder: 0,
            duplicate: 0,
            corrupt: 0,
            mtu: 1_452,
            mark: |ecn| ecn,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    Client,
    Server,
}
pub(super) use Side::{Client, Server};

impl Side {
    pub(super) const fn other(self) -> Self {
        match self {
            Client => Server,
            Server => Client,
        }
    }

    pub(super) fn address(self) -> SocketAddr {
        let port = if self == Client { 1_000 } else { 2_000 };
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    }
}

/// A datagram on the way.
#[derive(Clone, Debug)]
pub(super) struct Flight {
    pub(super) to: Side,
    from: SocketAddr,
    pub(super) ecn: Ecn,
    pub(super) datagram: Bytes,
}

pub(super) struct Pair {
    pub(super) now: Instant,
    pub(super) link: Link,
    pub(super) random: Random,
    endpoints: [Endpoint; 2],
    configs: [Config; 2],
    securities: [Security; 2],
    addresses: [SocketAddr; 2],
    /// What went to addresses at which nobody is: where to, and how many bytes.
    pub(super) strays: Vec<(SocketAddr, usize)>,
    flights: BTreeMap<(Instant, u64), Flight>,
    flight_next: u64,
    /// Everything that was sent, before the network touched it.
    pub(super) sent: Vec<Flight>,
    pub(super) events: [Vec<Event>; 2],
    /// Sides that answer every request with its own body.
    pub(super) echo: [bool; 2],
    /// How often each call was handed to the layer above.
    pub(super) executed: BTreeMap<(Side, ConnId, CallId), u32>,
    /// Packets seen on the wire: nobody may use a number twice.
    packet_numbers: BTreeSet<(Side, u64, u32)>,
    pub(super) segments_max: usize,
}

impl Pair {
    pub(super) fn new() -> Self {
        Self::with(Config::default(), Config::default(), 1)
    }

    pub(super) fn with(client: Config, server: Config, seed: u64) -> Self {
        Self::secured([super::security(), super::security()], client, server, seed)
    }

    /// Sides that were told nothing else are as if between machines, where paths carry what Ethernet does.
    pub(super) fn secured(securities: [Security; 2], client: Config, server: Config, seed: u64) -> Self {
        let [own, other] = securities.clone();
        let [client, server] = [client, server].map(|config| {
            let told = config.datagram_size_max != Config::default().datagram_size_max;
            if told { config } else { Config { datagram_size_max: 1_452, ..config } }
        });
        Self {
            now: Instant::from_nanos(1_000_000_000),
            link: Link::default(),
            random: Random(seed),
            endpoints: [endpoint(Client, &client, own, seed), endpoint(Server, &server, other, seed)],
            securities,
            configs: [client, server],
            addresses: [Client.address(), Server.address()],
            strays: Vec::new(),
            flights: BTreeMap::new(),
            flight_next: 0,
            sent: Vec::new(),
            events: [Vec::new(), Vec::new()],
            echo: [true; 2],
            executed: BTreeMap::new(),
            packet_numbers: BTreeSet::new(),
            segments_max: 8,
        }
    }

    pub(super) fn at(&mut self, side: Side) -> &mut Endpoint {
        &mut self.endpoints[side as usize]
    }

    /// A client that is connected, with the name that each side has for the connection.
    pub(super) fn connected(&mut self) -> (ConnId, ConnId) {
        let (now, before) = (self.now, self.connections(Server).len());
        let client = self.at(Client).connect(now, Server.address());
        self.run_until("connected", |pair| pair.connections(Server).len() > before);
        let server = self.connections(Server)[before];
        self.settle();
        (client, server)
    }

    fn connections(&self, side: Side) -> Vec<ConnId> {
        let connected = self.events[side as usize].iter().filter_map(|event| match event {
            Event::Connected { conn, .. } => Some(*conn),
            _ => None,
        });
        connected.collect()
    }

    pub(super) fn call(&mut self, side: Side, conn: ConnId, body: Bytes) -> CallId {
        self.call_with(side, conn, Lane::Normal, Duration::from_secs(600), body)
    }

    pub(super) fn call_with(
        &mut self,
        side: Side,
        conn: ConnId,
        lane: Lane,
        timeout: Duration,
        body: Bytes,
    ) -> CallId {
        let now = self.now;
        let request = Request {
            method: 77,
            lane,
            deadline: now + timeout,
            idempotent: false,
            form: Form::default(),
            body,
        };
        self.at(side).request(now, conn, request).unwrap()
    }

    /// The answer to a call, which must have at most one.
    pub(super) fn answer(&self, side: Side, conn: ConnId, call: CallId) -> Option<(u64, Bytes)> {
        let mut answers = self.events[side as usize].iter().filter_map(|event| match event {
            Event::Response { conn: c, call: id, status, body, .. } if (*c, *id) == (conn, call) => {
                Some((*status, body.clone()))
            }
            _ => None,
        });
        let first = answers.next();
        assert!(answers.next().is_none(), "{call:?} was answered twice");
        first
    }

    /// How a connection ended.
    pub(super) fn lost(&self, side: Side, id: ConnId) -> Option<(LostReason, Vec<(CallId, bool)>)> {
        self.events[side as usize].iter().find_map(|event| match event {
            Event::Lost { conn, reason, calls } if *conn == id => Some((reason.clone(), calls.clone())),
            _ => None,
        })
    }

    /// Seals header and frames of a data packet as `from` would; what belongs to no connection gets the checksum.
    pub(super) fn seal(&self, from: Side, mut packet: Vec<u8>) -> Bytes {
        let mut padded = packet.clone();
        padded.resize(packet.len().max(LONG_HEADER_SIZE) + TAG_SIZE, 0);
        if let Ok(Header::Short { dcid, pn_low }) = Header::read(&padded.into())
            && let Some(slot) =
                self.endpoints[from as usize].conns.values().find(|slot| slot.conn.remote_id == dcid)
        {
            slot.conn.keys().seal(u64::from(pn_low), &mut packet, 0, SHORT_HEADER_SIZE);
        } else {
            put_checksum(&mut packet, 0);
        }
        packet.into()
    }

    /// The frames of a data packet that was sent on a connection that its receiver still has.
    pub(super) fn open(&self, flight: &Flight) -> Option<Bytes> {
        let Ok(Header::Short { dcid, pn_low }) = Header::read(&flight.datagram) else { return None };
        let slot = self.endpoints[flight.to as usize].conns.get(&dcid)?;
        slot.conn.keys().peek(u64::from(pn_low), &flight.datagram, SHORT_HEADER_SIZE)
    }

    /// What was written for `to` since `start`, as far as it still has the connection.
    pub(super) fn frames(&self, start: usize, to: Side) -> Vec<Frame> {
        let mut frames = Vec::new();
        for flight in self.sent[start..].iter().filter(|flight| flight.to == to) {
            let payload = self.open(flight).unwrap_or_default();
            let mut reader = Reader::new(&payload);
            while let Ok(frame) = Frame::read(&mut reader) {
                frames.push(frame);
            }
        }
        frames
    }

    /// Sends a datagram as if it came from `from`.
    pub(super) fn inject(&mut self, from: Side, datagram: Bytes) {
        let now = self.now;
        self.at(from.other()).handle_datagram(now, Datagram::new(from.address(), datagram));
        self.pump();
    }

    /// The process of `side` dies and starts again with nothing but its configuration.
    pub(super) fn restart(&mut self, side: Side) {
        let seed = self.random.next();
        self.endpoints[side as usize] =
            endpoint(side, &self.configs[side as usize], self.securities[side as usize].clone(), seed);
    }

    /// The client is seen at another address from now on, and does not notice.
    pub(super) fn move_client(&mut self, address: SocketAddr) {
        self.addresses[Client as usize] = address;
    }

    /// Nothing that was sent arrives.
    pub(super) fn drop_flights(&mut self) {
        self.flights.clear();
    }

    /// Takes what both sides want to send, and their events.
    pub(super) fn pump(&mut self) {
        for side in [Client, Server] {
            let mut buf = Vec::new();
            loop {
                self.take_events(side);
                let (now, segments_max) = (self.now, self.segments_max);
                let Some(transmit) = self.at(side).poll_transmit(now, segments_max, &mut buf) else { break };
                assert_eq!(transmit.size, buf.len());
                assert!(transmit.size <= 65_507, "{} bytes with one system call", transmit.size);
                assert!(transmit.segment_size.is_none_or(|size| size < transmit.size));
                let size = transmit.segment_size.unwrap_or(transmit.size);
                let datagrams: Vec<_> = buf.chunks(size).map(Bytes::copy_from_slice).collect();
                assert!(datagrams.len() <= segments_max);
                for datagram in datagrams {
                    if transmit.destination == self.addresses[side.other() as usize] {
                        self.send(side, transmit.ecn, datagram);
                    } else {
                        self.strays.push((transmit.destination, datagram.len()));
                    }
                }
            }
        }
    }

    fn take_events(&mut self, side: Side) {
        while let Some(event) = self.at(side).poll_event() {
            if let Event::Request { conn, call, body, .. } = &event {
                *self.executed.entry((side, *conn, *call)).or_default() += 1;
                if self.echo[side as usize] {
                    self.at(side).respond(*conn, *call, 0, Form::default(), body.clone());
                }
            }
            self.events[side as usize].push(event);
        }
    }

    fn send(&mut self, from: Side, ecn: Ecn, datagram: Bytes) {
        assert!(datagram.len() <= self.configs[from as usize].datagram_size_max.max(1_200));
        if let Ok(Header::Short { dcid, pn_low }) = Header::read(&datagram)
            && crate::wire::packet::read_reset(&datagram, super::security().reset_key().as_ref()).is_none()
        {
            assert!(
                self.packet_numbers.insert((from, dcid, pn_low)),
                "packet number {pn_low} was used twice"
            );
        }
        let (to, address) = (from.other(), self.addresses[from as usize]);
        self.sent.push(Flight { to, from: address, ecn, datagram: datagram.clone() });
        let link = self.link;
        let ecn = (link.mark)(ecn);
        if self.random.percent(link.loss) || datagram.len() > link.mtu {
            return;
        }
        let copies = if self.random.percent(link.duplicate) { 2 } else { 1 };
        for _ in 0..copies {
            let mut datagram = datagram.to_vec();
            if self.random.percent(link.corrupt) {
                let bit = self.random.below(datagram.len() as u64 * 8) as usize;
                datagram[bit / 8] ^= 1 << (bit % 8);
            }
            let extra = if self.random.percent(link.reorder) { self.random.below(30) as u32 } else { 0 };
            let at = self.now + link.latency + link.latency * extra / 10;
            self.flight_next += 1;
            let flight = Flight { to, from: address, ecn, datagram: datagram.into() };
            self.flights.insert((at, self.flight_next), flight);
        }
    }

    /// Goes to the next thing that happens; false if nothing ever will.
    pub(super) fn step(&mut self) -> bool {
        self.pump();
        let timer = [Client, Server].into_iter().filter_map(|side| self.at(side).poll_timeout()).min();
        let flight = self.flights.first_key_value().map(|(key, _)| key.0);
        let Some(next) = timer.into_iter().chain(flight).min() else { return false };
        self.now = self.now.max(next);
        let now = self.now;
        while let Some(entry) = self.flights.first_entry().filter(|entry| entry.key().0 <= now) {
            let flight = entry.remove();
            let Flight { to, from, ecn, datagram: contents } = flight;
            self.at(to).handle_datagram(now, Datagram { from, ecn, contents });
        }
        for side in [Client, Server] {
            if self.at(side).poll_timeout().is_some_and(|at| at <= now) {
                self.at(side).handle_timeout(now);
            }
            assert!(self.at(side).poll_timeout().is_none_or(|at| at > now), "a timer does not go away");
        }
        self.pump();
        true
    }

    pub(super) fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            self.pump();
            let timer = [Client, Server].into_iter().filter_map(|side| self.at(side).poll_timeout()).min();
            let flight = self.flights.first_key_value().map(|(key, _)| key.0);
            if timer.into_iter().chain(flight).min().is_none_or(|next| next > end) {
                self.now = end;
                return;
            }
            self.step();
        }
    }

    /// Runs for at most ten virtual minutes.
    pub(super) fn run_until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let end = self.now + Duration::from_secs(600);
        self.pump();
        while !done(self) {
            assert!(self.step() && self.now < end, "never: {what}; {:?}", self.at(Client).counters().clone());
        }
    }

    /// Runs until both sides are idle and nothing is on the way.
    pub(super) fn settle(&mut self) {
        self.run_until("idle", |pair| {
            pair.flights.is_empty() && pair.endpoints.iter().all(Endpoint::is_idle)
        });
    }
}

fn endpoint(side: Side, config: &Config, security: Security, seed: u64) -> Endpoint {
    let mut random = Random(seed.wrapping_mul(31) + side as u64);
    let epoch = random.next();
    Endpoint::new(config.clone(), security, epoch, 100 + side as u128, Box::new(move || random.next()))
}

/// Bytes that tell where they were cut out.
pub(super) fn pattern(size: usize) -> Bytes {
    (0..size).map(|index| (index / 7 + index * 31) as u8).collect()
}
