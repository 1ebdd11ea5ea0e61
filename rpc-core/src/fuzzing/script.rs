//! Two endpoints, and between them somebody who does what the bytes say: delivers, drops, replays, edits, truncates,
//! forges, changes addresses, lets time pass.
//!
//! Whatever happens: nothing panics, timers go away when they are handled, the endpoints fall silent, no call runs twice
//! or with other arguments than were sent, and no answer is another one's. In the insecure mode that ends where the
//! attacker repairs the checksum after an edit: then it may say anything, and only the first three must hold. With
//! encryption nothing changes with forgeries, and no forgery ends a connection.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;

use crate::endpoint::{
    CallId, Config, ConnId, Datagram, Endpoint, Event, Lane, LostReason, Request, SendError,
};
use crate::random::SeededRandom;
use crate::runtime::Instant;
use crate::security::{NodeKey, Security, SharedKey};
use crate::wire::packet::Header;
use crate::wire::{Form, seal};

pub(super) fn insecure(script: &[u8]) -> bool {
    run(script, &Security::insecure())
}

/// The first bit says whether the nodes have keys of their own too.
pub(super) fn sealed(script: &[u8]) -> bool {
    let shared = SharedKey::new([7; 32]);
    let with_node_keys = script.first().is_some_and(|first| first & NODE_KEYS != 0);
    let security = if with_node_keys {
        let own = NodeKey::new([8; 32]);
        let allowed = own.public();
        Security::node_keys(shared, own, move |key| *key == allowed)
    } else {
        Security::shared_key(shared)
    };
    run(script, &security)
}

/// Scripts that do much: mostly delivery, calls, answers and time, with some of everything in between.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let seed = |seed| {
        let mut random = SeededRandom::new(seed);
        let mut script = vec![0; 200 * RECORD_SIZE];
        random.fill(&mut script);
        for record in script.chunks_mut(RECORD_SIZE) {
            if random.chance(700_000) {
                record[0] = *random.pick(&[DELIVER, DELIVER, CALL, PASS, ANSWER]).expect("some");
            }
        }
        script[0] = script[0] & !NODE_KEYS | if seed % 2 == 1 { NODE_KEYS } else { 0 };
        script
    };
    (0..8).map(seed).collect()
}

fn run(script: &[u8], security: &Security) -> bool {
    let mut arena = Arena::new(security);
    let mut rest = script;
    while let Some((op, _)) = rest.split_first() {
        let (record, after) = rest.split_at(rest.len().min(RECORD_SIZE));
        rest = after;
        let mut arguments = Arguments(&record[1..]);
        if op % OPS == FORGE {
            let size = usize::from(arguments.byte() % 8) * RECORD_SIZE;
            let (frames, after) = rest.split_at(rest.len().min(size));
            rest = after;
            arena.forge(&mut arguments, frames);
        } else {
            arena.act(op % OPS, &mut arguments);
        }
        arena.pump();
    }
    arena.settle(40);
    arena.answers > 0
}

/// What one step says besides what it does; zeros when the bytes end.
struct Arguments<'a>(&'a [u8]);

impl Arguments<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn number(&mut self) -> usize {
        usize::from(u16::from_be_bytes([self.byte(), self.byte()]))
    }
}

/// Of the first byte, besides what it does.
const NODE_KEYS: u8 = 0b1000_0000;
/// Bytes of one step: what to do, and its arguments.
const RECORD_SIZE: usize = 16;

const DELIVER: u8 = 0;
const CALL: u8 = 1;
const PASS: u8 = 2;
const ANSWER: u8 = 3;
const DROP: u8 = 4;
const REORDER: u8 = 5;
const REPLAY: u8 = 6;
const EDIT: u8 = 7;
const EDIT_AND_REPAIR: u8 = 8;
const TRUNCATE: u8 = 9;
const SPOOF: u8 = 10;
const CANCEL: u8 = 11;
const MANAGE: u8 = 12;
/// A packet for a connection that exists, with the frames in the records that follow.
const FORGE: u8 = 13;
const OPS: u8 = 14;
/// Datagrams on the way to one side; more are lost.
const FLIGHTS_MAX: usize = 256;
/// Old datagrams that can be replayed.
const RECORDED_MAX: usize = 512;
/// Datagrams that one side may send without anything new having happened.
const BURST_MAX: usize = 2_000;

const CLIENT: usize = 0;
const SERVER: usize = 1;

struct Arena {
    now: Instant,
    sides: [Endpoint; 2],
    conn: ConnId,
    /// On the way to each side.
    flights: [VecDeque<Bytes>; 2],
    recorded: Vec<Bytes>,
    /// What each call of the client sent.
    calls: BTreeMap<(ConnId, CallId), Bytes>,
    /// How often the call with each number ran.
    executed: BTreeMap<u64, u32>,
    /// Calls at the server that have no answer yet.
    open: VecDeque<(ConnId, CallId, Bytes)>,
    answers: u64,
    encrypted: bool,
    /// Somebody forged what an insecure endpoint must believe.
    forged: bool,
    /// One side closed its connections by itself.
    closed: bool,
    /// Sides that lost a connection.
    ended: [bool; 2],
}

impl Arena {
    fn new(security: &Security) -> Self {
        let side = |number: u64| {
            let mut random = SeededRandom::new(number);
            let random = Box::new(move || random.next_u64());
            Endpoint::new(Config::default(), security.clone(), 50 + number, 100 + u128::from(number), random)
        };
        let mut sides = [side(1), side(2)];
        let now = Instant::from_nanos(1_000_000_000);
        let conn = sides[CLIENT].connect(now, address(SERVER));
        let mut arena = Self {
            now,
            sides,
            conn,
            flights: Default::default(),
            recorded: Vec::new(),
            calls: BTreeMap::new(),
            executed: BTreeMap::new(),
            open: VecDeque::new(),
            answers: 0,
            encrypted: security.is_encrypted(),
            forged: false,
            closed: false,
            ended: [false; 2],
        };
        arena.pump();
        // Most stories begin when both sides know each other.
        arena.settle(5);
        arena
    }

    fn act(&mut self, op: u8, script: &mut Arguments<'_>) {
        let side = usize::from(script.byte() & 1);
        match op {
            DELIVER => {
                let count = script.byte() % 8 + 1;
                for _ in 0..count {
                    let Some(datagram) = self.flights[side].pop_front() else { break };
                    self.deliver(side, address(1 - side), datagram);
                    self.pump();
                }
            }
            CALL => self.call(script.number()),
            PASS => self.pass(Duration::from_micros(10) * u32::from(script.byte()).pow(2)),
            DROP => drop(self.flights[side].pop_front()),
            REORDER => self.flights[side].rotate_left(usize::from(!self.flights[side].is_empty())),
            REPLAY => {
                let datagram = self.replay(script);
                self.deliver(side, address(1 - side), datagram);
            }
            EDIT => {
                let datagram = self.edited(script, false);
                self.deliver(side, address(1 - side), datagram);
            }
            EDIT_AND_REPAIR => {
                let datagram = self.edited(script, true);
                self.deliver(side, address(1 - side), datagram);
            }
            TRUNCATE => {
                let datagram = self.replay(script);
                let end = script.number() % (datagram.len() + 1);
                self.deliver(side, address(1 - side), datagram.slice(..end));
            }
            SPOOF => {
                let datagram = self.flights[side].pop_front().unwrap_or_else(|| self.replay(script));
                self.deliver(side, address(2 + usize::from(script.byte() % 4)), datagram);
            }
            ANSWER => {
                if let Some((conn, call, body)) = self.open.pop_front() {
                    self.sides[SERVER].respond(conn, call, 0, Form::default(), body);
                }
            }
            CANCEL => {
                let index = script.number();
                if let Some(key) = self.calls.keys().nth(index % self.calls.len().max(1)).copied() {
                    self.sides[CLIENT].cancel(self.now, key.0, key.1);
                }
            }
            MANAGE => {
                let conn = self.conn;
                match script.byte() % 16 {
                    0 => self.sides[side].drain(self.now),
                    1 => {
                        self.closed = true;
                        self.sides[side].close_all(self.now, 0, "done");
                    }
                    2 => self.sides[CLIENT].keep(self.now, conn, true),
                    3 => self.conn = self.sides[CLIENT].connect(self.now, address(SERVER)),
                    _ => {}
                }
            }
            _ => unreachable!("no such step"),
        }
    }

    /// Frames of the attacker's own in a packet that a side sent.
    fn forge(&mut self, script: &mut Arguments<'_>, frames: &[u8]) {
        let side = usize::from(script.byte() & 1);
        let packet = self.replay(script);
        let Ok(Header::Short { dcid, pn_low }) = Header::read(&packet) else { return };
        let mut forged = Vec::new();
        Header::Short { dcid, pn_low: pn_low.wrapping_add(u32::from(script.byte())) }.put(&mut forged);
        forged.extend_from_slice(frames);
        seal::put_checksum(&mut forged, 0);
        self.forged |= !self.encrypted;
        self.deliver(side, address(1 - side), forged.into());
    }

    fn call(&mut self, size: usize) {
        let number = self.calls.len() as u64;
        let mut body = number.to_be_bytes().to_vec();
        body.resize(8 + size % 5_000, number as u8);
        let request = Request {
            method: 77,
            lane: Lane::Normal,
            deadline: self.now + Duration::from_secs(30),
            idempotent: false,
            form: Form::default(),
            body: body.clone().into(),
        };
        match self.sides[CLIENT].request(self.now, self.conn, request) {
            Ok(call) => drop(self.calls.insert((self.conn, call), body.into())),
            // It was lost: the next call goes over a new one.
            Err(SendError::UnknownConnection) => {
                self.conn = self.sides[CLIENT].connect(self.now, address(SERVER));
            }
            Err(_) => {}
        }
    }

    fn replay(&self, script: &mut Arguments<'_>) -> Bytes {
        let index = script.number();
        self.recorded.get(index % self.recorded.len().max(1)).cloned().unwrap_or_default()
    }

    /// A recorded datagram with some bytes changed; with `repaired` its checksum fits again.
    fn edited(&mut self, script: &mut Arguments<'_>, repaired: bool) -> Bytes {
        let mut datagram = self.replay(script).to_vec();
        for _ in 0..=script.byte() % 2 {
            if datagram.is_empty() {
                break;
            }
            let at = script.number() % datagram.len();
            match script.byte() % 4 {
                0 => datagram[at] ^= 1 << (script.byte() % 8),
                1 => datagram[at] = script.byte(),
                2 => datagram.insert(at, script.byte()),
                _ => drop(datagram.remove(at)),
            }
        }
        if repaired && datagram.len() >= seal::TAG_SIZE {
            datagram.truncate(datagram.len() - seal::TAG_SIZE);
            seal::put_checksum(&mut datagram, 0);
            self.forged |= !self.encrypted;
        }
        datagram.into()
    }

    fn deliver(&mut self, side: usize, from: SocketAddr, datagram: Bytes) {
        self.sides[side].handle_datagram(self.now, Datagram::new(from, datagram));
    }

    /// Lets time pass, from timer to timer.
    fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        for _ in 0..200 {
            let next = self.sides.iter().filter_map(Endpoint::poll_timeout).min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            for side in [CLIENT, SERVER] {
                if self.sides[side].poll_timeout().is_some_and(|at| at <= self.now) {
                    self.sides[side].handle_timeout(self.now);
                    assert!(self.sides[side].poll_timeout().is_none_or(|at| at > self.now), "a timer stays");
                }
            }
            self.pump();
        }
        self.now = self.now.max(end);
    }

    fn pump(&mut self) {
        for side in [CLIENT, SERVER] {
            let mut buf = Vec::new();
            let mut sent = 0;
            loop {
                while let Some(event) = self.sides[side].poll_event() {
                    self.on_event(side, event);
                }
                let Some(transmit) = self.sides[side].poll_transmit(self.now, 4, &mut buf) else { break };
                for datagram in buf.chunks(transmit.segment_size.unwrap_or(transmit.size).max(1)) {
                    sent += 1;
                    assert!(sent < BURST_MAX, "it does not fall silent");
                    self.carry(transmit.destination, Bytes::copy_from_slice(datagram));
                }
            }
        }
    }

    fn carry(&mut self, destination: SocketAddr, datagram: Bytes) {
        assert!(Header::read(&datagram).is_ok(), "everything that is sent has a header");
        if self.recorded.len() < RECORDED_MAX {
            self.recorded.push(datagram.clone());
        }
        let to = [CLIENT, SERVER].into_iter().find(|side| address(*side) == destination);
        if let Some(flights) = to.map(|side| &mut self.flights[side])
            && flights.len() < FLIGHTS_MAX
        {
            flights.push_back(datagram);
        }
    }

    fn on_event(&mut self, side: usize, event: Event) {
        match event {
            Event::Request { conn, call, body, .. } if side == SERVER => {
                self.judge_request(&body);
                self.open.push_back((conn, call, body));
            }
            Event::Response { conn, call, status, body, .. } => {
                self.answers += 1;
                let sent = self.calls.get(&(conn, call));
                if !self.forged && status == 0 {
                    assert_eq!(Some(&body), sent, "the answer of another call");
                }
            }
            Event::Lost { reason, .. } => {
                if self.encrypted {
                    assert!(self.is_honest(side, &reason), "a forgery ended a connection: {reason:?}");
                }
                self.ended[side] = true;
            }
            _ => {}
        }
    }

    /// Whether a connection may end so without anybody forging anything: dropping alone makes it time out, and then the
    /// other side says so.
    fn is_honest(&self, side: usize, reason: &LostReason) -> bool {
        match reason {
            LostReason::Timeout | LostReason::SetupTimeout { .. } | LostReason::Version { .. } => true,
            LostReason::PeerRestarted => self.sides[1 - side].counters().resets_sent > 0,
            _ => self.closed || self.ended[1 - side],
        }
    }

    fn judge_request(&mut self, body: &Bytes) {
        if self.forged {
            return;
        }
        let number = body.first_chunk().map(|number| u64::from_be_bytes(*number)).expect("a number is sent");
        assert!(self.calls.values().any(|sent| sent == body), "arguments that nobody sent");
        let executed = self.executed.entry(number).or_default();
        *executed += 1;
        assert_eq!(*executed, 1, "call {number} ran twice");
    }

    /// Everything is delivered as it should be for a while.
    fn settle(&mut self, turns: u32) {
        for _ in 0..turns {
            while let Some((conn, call, body)) = self.open.pop_front() {
                self.sides[SERVER].respond(conn, call, 0, Form::default(), body);
            }
            for side in [CLIENT, SERVER] {
                while let Some(datagram) = self.flights[side].pop_front() {
                    self.deliver(side, address(1 - side), datagram);
                }
            }
            self.pump();
            self.pass(Duration::from_millis(20));
        }
    }
}

fn address(side: usize) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 1_000 + side as u16))
}
