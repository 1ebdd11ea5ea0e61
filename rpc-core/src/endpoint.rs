//! All connections of one socket, without I/O: bytes and `now` in; bytes, timers and events out.
//!
//! An [`Endpoint`] is driven like this, by a task or a thread that owns it and the socket:
//!
//! 1. hand every received datagram to [`Endpoint::handle_datagram`], before
//! 2. [`Endpoint::handle_timeout`] when [`Endpoint::poll_timeout`] has passed (so that a process that was stopped for a
//!    while reads what arrived before it concludes that nobody answered),
//! 3. take [`Endpoint::poll_event`] until it is empty, call what follows from the events,
//! 4. send what [`Endpoint::poll_transmit`] gives until it gives nothing, which also sets the timers,
//! 5. sleep until the socket is readable or [`Endpoint::poll_timeout`] passes, which has to be asked again.
//!
//! Knows nothing of sockets, tasks, method names or encodings, and reads no clock.

mod setup;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

use crate::conn::budget::Budget;
pub use crate::conn::{
    CallId, Config, ConnId, ConnectionInfo, Counters, Datagram, Ecn, Event, Form, Lane, LostReason, Request,
    SendError,
};
use crate::conn::{Conn, Cx};
use crate::runtime::Instant;
use crate::security::{CookieKey, ResetKey, Security};
use crate::wire::SETUP_DATAGRAM_SIZE;
use crate::wire::packet::{Header, HeaderError};

/// Datagrams to be sent with one system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where to.
    pub destination: SocketAddr,
    /// Bytes of the buffer in use.
    pub size: usize,
    /// When the buffer holds several datagrams: the size of each but the last, which may be shorter.
    pub segment_size: Option<usize>,
    /// How all of them are to be marked.
    pub ecn: Ecn,
}

/// All connections of one socket.
pub struct Endpoint {
    config: Config,
    security: Security,
    reset_key: Option<ResetKey>,
    /// Made with the first cookie.
    cookie_key: Option<CookieKey>,
    epoch: u64,
    client_id: u128,
    random: Box<dyn FnMut() -> u64 + Send>,
    /// By [`ConnId`], which is also the id that the peer puts into its packets.
    conns: BTreeMap<u64, Slot>,
    /// By the peer's address and the id that we put into packets for it.
    by_remote: BTreeMap<(SocketAddr, u64), u64>,
    /// Connections on which data came, by the identity of the peer.
    by_client: BTreeSet<(u128, u64)>,
    /// When a connection has something to do. At most one entry for each, never later than needed.
    timers: BTreeSet<(Instant, u64)>,
    /// Connections that may have something to send.
    ready: VecDeque<u64>,
    /// Datagrams that belong to no connection.
    stray: VecDeque<(SocketAddr, Vec<u8>)>,
    /// Connections of peers, and those of them that wait for their first data packet.
    inbound: usize,
    accepting: usize,
    /// The same by address.
    by_address: BTreeMap<IpAddr, Inbound>,
    resets: setup::ResetBudget,
    draining: bool,
    events: VecDeque<Event>,
    counters: Counters,
    budget: Budget,
}

/// Connections of peers at one address.
#[derive(Clone, Copy, Debug, Default)]
struct Inbound {
    open: usize,
    accepting: usize,
}

/// A connection and where it stands in the endpoint's tables.
struct Slot {
    conn: Box<Conn>,
    inbound: bool,
    /// Where it came from, under which it is counted even when the peer has moved.
    origin: IpAddr,
    accepting: bool,
    /// Under which it stands in `by_client`.
    client_id: Option<u128>,
    /// Its entry in `timers`.
    armed: Option<Instant>,
    /// It stands in `ready`.
    ready: bool,
}

impl Slot {
    /// Lets what a connection may have to say be asked for, and its timers after that.
    fn make_ready(&mut self, id: u64, ready: &mut VecDeque<u64>) {
        if !self.ready {
            self.ready = true;
            ready.push_back(id);
        }
    }

    /// Sets the timer anew if it has to fire earlier.
    fn arm(&mut self, now: Instant, id: u64, config: &Config, timers: &mut BTreeSet<(Instant, u64)>) {
        self.conn.settle(now);
        if let Some(timeout) = self.conn.timeout(config)
            && self.armed.is_none_or(|armed| timeout < armed)
        {
            if let Some(armed) = self.armed.replace(timeout) {
                timers.remove(&(armed, id));
            }
            timers.insert((timeout, id));
        }
    }
}

/// The parts of an endpoint that a connection is handed.
macro_rules! cx {
    ($endpoint:expr, $now:expr) => {
        Cx {
            now: $now,
            config: &$endpoint.config,
            security: &$endpoint.security,
            counters: &mut $endpoint.counters,
            events: &mut $endpoint.events,
            random: &mut *$endpoint.random,
            budget: &mut $endpoint.budget,
        }
    };
}
use cx;

impl Endpoint {
    /// An endpoint without connections. `epoch` must be random per process start, `client_id` is what peers see as
    /// this endpoint's identity: when it turns up with another epoch, they take its older connections for dead, so no
    /// two live processes may share it. `random` gives connection ids, and the ephemeral keys of handshakes: with
    /// encryption it must be as good as the system's generator.
    pub fn new(
        config: Config,
        security: Security,
        epoch: u64,
        client_id: u128,
        random: Box<dyn FnMut() -> u64 + Send>,
    ) -> Self {
        let budget = Budget::new(config.reassembly_bytes_max, config.message_size_max as u64);
        Self {
            budget,
            config,
            reset_key: security.reset_key(),
            security,
            cookie_key: None,
            epoch,
            client_id,
            random,
            conns: BTreeMap::new(),
            by_remote: BTreeMap::new(),
            by_client: BTreeSet::new(),
            timers: BTreeSet::new(),
            ready: VecDeque::new(),
            stray: VecDeque::new(),
            inbound: 0,
            accepting: 0,
            by_address: BTreeMap::new(),
            resets: setup::ResetBudget::default(),
            draining: false,
            events: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Opens a new connection to `remote`, always a new one. Calls may be made on it at once.
    pub fn connect(&mut self, now: Instant, remote: SocketAddr) -> ConnId {
        let id = self.unused_id();
        let attempt = setup::attempt(self, ConnId(id));
        let mut conn = Conn::initiate(&cx!(self, now), ConnId(id), remote, attempt);
        if self.draining {
            conn.drain();
        }
        self.insert(now, conn, false);
        ConnId(id)
    }

    /// Takes in one received datagram.
    pub fn handle_datagram(&mut self, now: Instant, datagram: Datagram) {
        let (from, size) = (datagram.from, datagram.contents.len() as u64);
        self.counters.datagrams_received += 1;
        self.counters.bytes_received += size;
        match Header::read(&datagram.contents) {
            Ok(Header::Short { dcid, pn_low }) => match self.conns.get_mut(&dcid) {
                None => setup::on_unknown(self, now, from, dcid, pn_low, &datagram.contents),
                Some(slot) => {
                    slot.conn.bytes_received += size;
                    let before = slot.conn.remote;
                    slot.conn.on_packet(&mut cx!(self, now), pn_low, datagram);
                    let (remote, remote_id) = (slot.conn.remote, slot.conn.remote_id);
                    if remote != before {
                        self.by_remote.remove(&(before, remote_id));
                        self.by_remote.insert((remote, remote_id), dcid);
                    }
                    self.settle(now, dcid);
                }
            },
            Ok(Header::Long { kind, version, dcid, scid }) => {
                let long = setup::Long { kind, version, dcid, scid };
                setup::on_datagram(self, now, from, long, &datagram.contents);
            }
            Err(HeaderError::Truncated) => self.counters.dropped_truncated += 1,
            Err(HeaderError::Form) => self.counters.dropped_bad_header += 1,
        }
    }

    /// Clears `buf` and fills it with up to `segments_max` datagrams to one destination; `None` when there is nothing
    /// to send now.
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        segments_max: usize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        buf.clear();
        self.grant_waiting(now);
        if let Some((destination, datagram)) = self.stray.pop_front() {
            buf.extend_from_slice(&datagram);
            self.counters.datagrams_sent += 1;
            self.counters.bytes_sent += buf.len() as u64;
            let size = buf.len();
            return Some(Transmit { destination, size, segment_size: None, ecn: Ecn::NotEct });
        }
        while let Some(id) = self.ready.pop_front() {
            let Some(slot) = self.conns.get_mut(&id) else { continue };
            slot.ready = false;
            let mut cx = cx!(self, now);
            let (mut count, mut first_size) = (0, 0);
            let (mut destination, mut ecn) = (slot.conn.remote, Ecn::NotEct);
            while count < segments_max.max(1) {
                // One more of the size of the first has to fit behind this one.
                let room = buf.len() + 2 * first_size.max(SETUP_DATAGRAM_SIZE) <= TRANSMIT_SIZE_MAX;
                let fill = count + 1 < segments_max && room;
                let Some(packed) = slot.conn.pack(&mut cx, fill, buf) else { break };
                count += 1;
                if count == 1 {
                    first_size = buf.len();
                    (destination, ecn) = (packed.destination, packed.ecn);
                }
                if !room {
                    break;
                }
                // What is not full can only be the last.
                if !packed.more {
                    break;
                }
            }
            if count == 0 {
                // Nothing now; what happens next makes it ready again.
                slot.arm(now, id, &self.config, &mut self.timers);
                continue;
            }
            slot.conn.bytes_sent += buf.len() as u64;
            slot.make_ready(id, &mut self.ready);
            self.counters.datagrams_sent += count as u64;
            self.counters.bytes_sent += buf.len() as u64;
            let segment_size = (count > 1).then_some(first_size);
            return Some(Transmit { destination, size: buf.len(), segment_size, ecn });
        }
        None
    }

    /// When to call [`Endpoint::handle_timeout`]. May be earlier than needed, never later.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let timer = self.timers.first().map(|(at, _)| *at);
        [timer, self.budget.schedule.timeout()].into_iter().flatten().min()
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.budget.schedule.on_timeout(now);
        while let Some((at, id)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, id));
            let Some(slot) = self.conns.get_mut(&id) else { continue };
            slot.armed = None;
            // The timer may be older than what has happened since.
            if slot.conn.timeout(&self.config).is_some_and(|timeout| timeout <= now) {
                slot.conn.on_timeout(&mut cx!(self, now));
            }
            self.settle(now, id);
        }
    }

    /// What happened, oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// How many events [`Endpoint::poll_event`] has.
    pub fn events_len(&self) -> usize {
        self.events.len()
    }

    /// Starts a call.
    pub fn request(&mut self, now: Instant, conn: ConnId, request: Request) -> Result<CallId, SendError> {
        let slot = self.conns.get_mut(&conn.0).ok_or(SendError::UnknownConnection)?;
        let call = slot.conn.request(&mut cx!(self, now), request)?;
        slot.make_ready(conn.0, &mut self.ready);
        Ok(call)
    }

    /// Answers a call of the peer. An answer to an unknown or cancelled call is ignored. An answer above the peer's
    /// size limit is replaced by [`crate::wire::status::UNKNOWN_OUTCOME`]: the call was executed.
    pub fn respond(&mut self, conn: ConnId, call: CallId, status: u64, form: Form, body: Bytes) {
        let Some(slot) = self.conns.get_mut(&conn.0) else { return };
        slot.conn.respond(call, status, form, body);
        slot.make_ready(conn.0, &mut self.ready);
    }

    /// Gives up a call of our own: it ends without an event, and the peer is told if it may know of the call.
    pub fn cancel(&mut self, now: Instant, conn: ConnId, call: CallId) {
        self.with(now, conn, |conn, cx| conn.cancel(cx, call));
    }

    /// Takes no new calls of any peer from now on: they are answered DRAINING and not executed. Calls of our own can
    /// still be made.
    pub fn drain(&mut self, now: Instant) {
        self.draining = true;
        for id in self.ids() {
            self.with(now, id, |conn, _| conn.drain());
        }
    }

    /// Ends a connection: its open calls are reported with [`Event::Lost`], the peer is told (`code`: see
    /// [`crate::wire::close`]; `reason`: its first 256 bytes).
    pub fn close(&mut self, now: Instant, conn: ConnId, code: u64, reason: &str) {
        self.with(now, conn, |conn, cx| conn.close(cx, code, reason));
    }

    /// Ends every connection, as [`Endpoint::close`] does.
    pub fn close_all(&mut self, now: Instant, code: u64, reason: &str) {
        for id in self.ids() {
            self.close(now, id, code, reason);
        }
    }

    /// Marks a connection to be kept alive, and watched, also while no call is open.
    pub fn keep(&mut self, now: Instant, conn: ConnId, keep: bool) {
        self.with(now, conn, |conn, _| conn.keep(keep));
    }

    /// Whether nothing is unacknowledged and no call is open in either direction: a drain is complete. Looks at every
    /// connection.
    pub fn is_idle(&self) -> bool {
        self.conns.values().all(|slot| slot.conn.is_idle())
    }

    /// What is known about a connection; `None` when it is gone.
    pub fn connection(&self, conn: ConnId) -> Option<ConnectionInfo> {
        self.conns.get(&conn.0).filter(|slot| !slot.conn.is_over()).map(|slot| slot.conn.info())
    }

    /// What is known about every connection that is not over, ascending by id.
    pub fn connections(&self) -> impl Iterator<Item = (ConnId, ConnectionInfo)> {
        let alive = self.conns.iter().filter(|(_, slot)| !slot.conn.is_over());
        alive.map(|(id, slot)| (ConnId(*id), slot.conn.info()))
    }

    /// What was counted so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How packets are protected.
    pub fn security(&self) -> &Security {
        &self.security
    }

    /// Bytes of large messages that are coming in, on all connections: never above
    /// [`Config::reassembly_bytes_max`].
    pub fn reassembly_bytes(&self) -> u64 {
        self.budget.used()
    }

    /// Lets messages begin that waited for memory, and go on that waited for their turn.
    fn grant_waiting(&mut self, now: Instant) {
        while let Some((conn, call)) = self.budget.grant() {
            self.with(now, ConnId(conn), |conn, _| conn.grant(call));
        }
        while let Some(((conn, call), upto)) = self.budget.schedule.poll(now) {
            self.with(now, ConnId(conn), |conn, _| conn.schedule(call, upto));
        }
    }

    fn ids(&self) -> Vec<ConnId> {
        self.conns.keys().copied().map(ConnId).collect()
    }

    fn with(&mut self, now: Instant, id: ConnId, action: impl FnOnce(&mut Conn, &mut Cx<'_>)) {
        if let Some(slot) = self.conns.get_mut(&id.0) {
            action(&mut slot.conn, &mut cx!(self, now));
            self.settle(now, id.0);
        }
    }

    fn insert(&mut self, now: Instant, conn: Conn, inbound: bool) {
        let id = conn.id.0;
        if inbound {
            self.inbound += 1;
            self.accepting += 1;
            let of_address = self.by_address.entry(conn.remote.ip()).or_default();
            of_address.open += 1;
            of_address.accepting += 1;
            self.by_remote.insert((conn.remote, conn.remote_id), id);
        }
        let slot = Slot {
            origin: conn.remote.ip(),
            conn: Box::new(conn),
            inbound,
            accepting: inbound,
            client_id: None,
            armed: None,
            ready: false,
        };
        self.conns.insert(id, slot);
        self.settle(now, id);
    }

    /// Brings the tables in line with a connection that was touched. Its timers follow when what it has to say was sent.
    fn settle(&mut self, now: Instant, id: u64) {
        let Some(slot) = self.conns.get_mut(&id) else { return };
        if slot.conn.is_gone() {
            return self.remove(id);
        }
        if slot.accepting && !slot.conn.is_accepting() {
            slot.accepting = false;
            self.accepting -= 1;
            if let Some(of_address) = self.by_address.get_mut(&slot.origin) {
                of_address.accepting -= 1;
            }
        }
        slot.make_ready(id, &mut self.ready);
        if slot.client_id.is_none()
            && slot.conn.is_confirmed()
            && let Some(peer) = slot.conn.peer()
        {
            let (client_id, epoch) = (peer.client_id, peer.epoch);
            slot.client_id = Some(client_id);
            self.by_client.insert((client_id, id));
            setup::end_older_epochs(self, now, client_id, epoch);
        }
    }

    fn remove(&mut self, id: u64) {
        let Some(slot) = self.conns.remove(&id) else { return };
        self.inbound -= usize::from(slot.inbound);
        self.accepting -= usize::from(slot.accepting);
        if slot.inbound
            && let Entry::Occupied(mut of_address) = self.by_address.entry(slot.origin)
        {
            of_address.get_mut().open -= 1;
            of_address.get_mut().accepting -= usize::from(slot.accepting);
            if of_address.get().open == 0 {
                of_address.remove();
            }
        }
        let remote = (slot.conn.remote, slot.conn.remote_id);
        if self.by_remote.get(&remote) == Some(&id) {
            self.by_remote.remove(&remote);
        }
        if let Some(client_id) = slot.client_id {
            self.by_client.remove(&(client_id, id));
        }
        if let Some(armed) = slot.armed {
            self.timers.remove(&(armed, id));
        }
    }

    fn unused_id(&mut self) -> u64 {
        loop {
            let id = (self.random)();
            // 0 stands for "not known yet" in a setup packet.
            if id != 0 && !self.conns.contains_key(&id) {
                return id;
            }
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("security", &self.security)
            .field("epoch", &self.epoch)
            .field("client_id", &self.client_id)
            .field("connections", &self.conns.len())
            .finish_non_exhaustive()
    }
}

/// Bytes of one [`Transmit`]: what UDP over IPv4 carries, and with it the most that GSO takes.
const TRANSMIT_SIZE_MAX: usize = 65_507;

#[cfg(test)]
mod tests;
