//! One connection without I/O: acknowledgements, loss recovery, congestion, messages, calls.
//!
//! Bytes and `now` come in; bytes, timers and events go out. Knows nothing of sockets, of other connections, of what a
//! method does, and reads no clock.
//!
//! | timer | when to do what |
//! | --- | --- |
//! | setup | when INIT is to be repeated, or was repeated for long enough |
//! | acknowledgement (`acks`) | when an acknowledgement has waited for a packet to ride on for long enough |
//! | loss, probe (`recovery`) | when a packet counts as lost; when nothing was acknowledged for so long that something must ask |
//! | pacing (`pacer`) | when something may leave that had to wait for its turn |
//! | path (`path`) | when a new address of the peer is to be asked again, or given up |
//! | accept (`callee`) | when a caller should be told that its call still runs |
//! | keep alive | when a silent peer, of whom something is expected, is to be asked whether it is there |
//! | silence | when a peer has been silent for too long |
//! | closing | when a connection that has ended is to be forgotten |
//!
//! All of them meet in `Conn::timeout`, which the endpoint asks.
//!
//! Down the file tree: `recovery` and `acks` are packets, `outbox` and `intake` are messages, `caller` and `callee` are
//! calls, `incoming` and `outgoing` join them at the two ends of a packet.

mod acks;
pub(crate) mod budget;
mod callee;
mod caller;
mod config;
pub mod congestion;
mod counters;
mod ecn;
mod event;
mod holdup;
mod incoming;
mod intake;
mod mtu;
mod outbox;
mod outgoing;
mod pacer;
mod path;
mod ranges;
mod recovery;
mod schedule;
mod sent;
mod table;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

pub use self::config::Config;
pub use self::counters::Counters;
pub use self::event::{CallId, ConnId, ConnectionInfo, Datagram, Event, LostReason, Request, SendError};
pub(crate) use self::table::CallTable;
pub use crate::wire::{Ecn, Form, Lane};

use self::acks::Received;
use self::budget::Budget;
use self::callee::{Answer, Callee, Serving};
use self::caller::Caller;
use self::holdup::HoldUp;
use self::intake::Intake;
use self::mtu::Mtu;
use self::outbox::{Clock, Head, Outbox};
use self::path::NewPath;
use self::recovery::{Fired, Recovery};
use self::sent::{Key, SentFrame};
use crate::runtime::Instant;
use crate::security::{Handshake, Identity, Pending, Security};
use crate::wire::packet::SHORT_OVERHEAD;
use crate::wire::seal::Keys;
use crate::wire::setup::{Init, Params};
use crate::wire::{SETUP_DATAGRAM_SIZE, close, status};

/// What a connection needs of its endpoint in every call.
pub(crate) struct Cx<'a> {
    pub(crate) now: Instant,
    pub(crate) config: &'a Config,
    pub(crate) security: &'a Security,
    pub(crate) counters: &'a mut Counters,
    pub(crate) events: &'a mut VecDeque<Event>,
    pub(crate) random: &'a mut (dyn FnMut() -> u64 + Send),
    pub(crate) budget: &'a mut Budget,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Conn {
    /// Also the id that the peer puts into packets for us.
    pub(crate) id: ConnId,
    pub(crate) remote: SocketAddr,
    /// What we put into packets for the peer; 0 until it told us.
    pub(crate) remote_id: u64,
    /// Bytes in datagrams to the peer, and from it.
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_received: u64,
    initiator: bool,
    phase: Phase,
    keys: Keys,
    /// What the peer has proved about itself.
    identity: Identity,
    /// The third message of the handshake, until it is known to have arrived.
    third: Option<Third>,
    /// Somebody says that the peer does not know this connection: if it does not speak until then, it is gone.
    doubted_until: Option<Instant>,
    /// Origin of the connection clock.
    start: Instant,
    peer: Option<Params>,
    mtu: Mtu,
    /// Another address of the peer, until it is validated.
    new_path: Option<NewPath>,
    /// The PATH_RESPONSE that is owed, and where to.
    path_response: Option<(SocketAddr, u64)>,
    recovery: Recovery,
    received: Received,
    outbox: Outbox,
    intake: Intake,
    caller: Caller,
    callee: Callee,
    holdup: HoldUp,
    heard: Instant,
    /// Kept alive and watched also without calls.
    keep: bool,
    /// Something is expected of the peer, since when.
    busy: bool,
    busy_since: Instant,
    pinged: Instant,
    draining: bool,
    peer_draining: bool,
    ping_due: bool,
    max_data_due: bool,
    drain_due: bool,
    cancels_due: VecDeque<u64>,
    accepted_due: VecDeque<u64>,
    grants_due: VecDeque<(u64, u64)>,
    /// Room for what an acknowledgement says.
    acked: Vec<SentFrame>,
    lost: Vec<SentFrame>,
}

/// Where a connection stands.
#[derive(Debug)]
enum Phase {
    /// INIT is repeated until REPLY comes.
    Connecting {
        attempt: Box<Attempt>,
        due: bool,
        next: Instant,
        backoff: Duration,
        deadline: Instant,
        sent: u32,
    },
    /// REPLY was sent; the third message, or else the first valid data packet, shows that the peer's address is real.
    /// Until then one REPLY answers each INIT: as many bytes go to the address as came (RFC 9000 section 8.1 allows three
    /// times as many).
    Accepting { accepted: Box<Accepted>, due: bool, deadline: Instant },
    /// Data flows.
    Open,
    /// We closed it: packets of the peer are answered by CLOSE for a while.
    Closing { code: u64, reason: String, due: bool, repeats: u32, until: Instant },
    /// The peer closed it: its packets are ignored for a while.
    Ended { until: Instant },
    /// To be removed.
    Gone,
}

/// A setup exchange that this side began.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) init: Init,
    pub(crate) handshake: Handshake,
    /// What we tell the peer about us in the third message, if there is one.
    pub(crate) params: Vec<u8>,
    /// The whole INIT.
    setup: Vec<u8>,
    /// Cookies that were given back.
    cookies: u32,
    /// What somebody says that the peer speaks.
    supported: Option<Vec<u32>>,
}

impl Attempt {
    pub(crate) fn new(id: ConnId, init: Init, handshake: Handshake, params: Vec<u8>) -> Self {
        let setup = init.datagram(id.0);
        Self { init, handshake, params, setup, cookies: 0, supported: None }
    }
}

/// A setup exchange that this side answered.
#[derive(Debug)]
pub(crate) struct Accepted {
    /// The first message: what a repeated INIT must carry.
    pub(crate) first: Bytes,
    /// Our REPLY.
    pub(crate) setup: Vec<u8>,
    /// A handshake that waits for the third message.
    pub(crate) pending: Option<Pending>,
    /// What the peer told us, unless that is in the third message.
    pub(crate) params: Option<Params>,
    pub(crate) identity: Identity,
    pub(crate) keys: Keys,
}

/// The third message on its way.
#[derive(Debug)]
struct Third {
    datagram: Vec<u8>,
    /// When the peer must have spoken.
    deadline: Instant,
    due: bool,
    next: Instant,
    backoff: Duration,
}

impl Third {
    fn new(now: Instant, deadline: Instant, datagram: Vec<u8>) -> Self {
        Self { datagram, deadline, due: true, next: now + SETUP_BACKOFF_MIN, backoff: SETUP_BACKOFF_MIN }
    }

    fn on_timeout(&mut self, now: Instant) {
        if self.next <= now {
            self.due = true;
            self.backoff = (self.backoff * 2).min(SETUP_BACKOFF_MAX);
            self.next = now + self.backoff;
        }
    }
}

impl Conn {
    /// A connection that this side opens.
    pub(crate) fn initiate(cx: &Cx<'_>, id: ConnId, remote: SocketAddr, attempt: Attempt) -> Self {
        let phase = Phase::Connecting {
            attempt: Box::new(attempt),
            due: true,
            next: cx.now + SETUP_BACKOFF_MIN,
            backoff: SETUP_BACKOFF_MIN,
            deadline: cx.now + cx.config.setup_timeout,
            sent: 0,
        };
        Self::new(cx, id, remote, 0, phase)
    }

    /// A connection that the peer opens.
    pub(crate) fn accept(
        cx: &Cx<'_>,
        id: ConnId,
        remote: SocketAddr,
        remote_id: u64,
        mut accepted: Accepted,
    ) -> Self {
        let (peer, identity) = (accepted.params.take(), accepted.identity);
        let keys = std::mem::replace(&mut accepted.keys, Keys::None);
        let deadline = cx.now + cx.config.setup_timeout;
        let phase = Phase::Accepting { accepted: Box::new(accepted), due: true, deadline };
        let conn = Self::new(cx, id, remote, remote_id, phase);
        Self { peer, identity, keys, ..conn }
    }

    fn new(cx: &Cx<'_>, id: ConnId, remote: SocketAddr, remote_id: u64, phase: Phase) -> Self {
        let (now, config) = (cx.now, cx.config);
        let initiator = matches!(phase, Phase::Connecting { .. });
        let calls_max = usize::try_from(config.calls_max).unwrap_or(usize::MAX);
        Self {
            id,
            remote,
            remote_id,
            bytes_sent: 0,
            bytes_received: 0,
            initiator,
            phase,
            keys: Keys::None,
            identity: Identity::None,
            third: None,
            doubted_until: None,
            start: now,
            peer: None,
            mtu: Mtu::new(SETUP_DATAGRAM_SIZE),
            new_path: None,
            path_response: None,
            recovery: Recovery::new(now, config, SETUP_DATAGRAM_SIZE as u64),
            received: Received::default(),
            outbox: Outbox::new(SETUP_DATAGRAM_SIZE - SHORT_OVERHEAD),
            intake: Intake::new(id.0, config.message_window, config.message_size_max as u64),
            caller: Caller::new(initiator),
            callee: Callee::new(!initiator, calls_max, config.answers_kept_bytes),
            holdup: HoldUp::new(now),
            heard: now,
            keep: false,
            busy: false,
            busy_since: now,
            pinged: now,
            draining: false,
            peer_draining: false,
            ping_due: false,
            max_data_due: true,
            drain_due: false,
            cancels_due: VecDeque::new(),
            accepted_due: VecDeque::new(),
            grants_due: VecDeque::new(),
            acked: Vec::new(),
            lost: Vec::new(),
        }
    }

    pub(crate) const fn is_established(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    /// The peer was there after this side had spoken: a data packet came, which answers our REPLY, or our data.
    pub(crate) const fn is_confirmed(&self) -> bool {
        self.is_established() && self.received.largest().is_some()
    }

    /// Waits for the first data packet of a peer that asked for the connection.
    pub(crate) const fn is_accepting(&self) -> bool {
        matches!(self.phase, Phase::Accepting { .. })
    }

    /// Whether the connection is over for the layer above.
    pub(crate) const fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Closing { .. } | Phase::Ended { .. } | Phase::Gone)
    }

    /// Whether the connection can be removed.
    pub(crate) const fn is_gone(&self) -> bool {
        matches!(self.phase, Phase::Gone)
    }

    /// What the peer said in the setup exchange.
    pub(crate) const fn peer(&self) -> Option<&Params> {
        self.peer.as_ref()
    }

    /// No call is open in either direction and nothing is unacknowledged.
    pub(crate) fn is_idle(&self) -> bool {
        self.is_over()
            || (self.caller.count() == 0
                && self.callee.open_count() == 0
                && self.outbox.is_empty()
                && self.recovery.is_idle())
    }

    pub(crate) fn info(&self) -> ConnectionInfo {
        ConnectionInfo {
            remote: self.remote,
            client_id: self.peer.as_ref().map_or(0, |peer| peer.client_id),
            epoch: self.peer.as_ref().map_or(0, |peer| peer.epoch),
            established: self.is_established(),
            rtt: self.recovery.rtt.smoothed,
            heard: self.heard,
            compression: self.peer.as_ref().is_some_and(|peer| peer.compression),
            inbound: !self.initiator,
            calling: self.caller.count(),
            serving: self.callee.open_count(),
            bytes_sent: self.bytes_sent,
            bytes_received: self.bytes_received,
            identity: self.identity,
        }
    }

    pub(crate) fn request(&mut self, cx: &mut Cx<'_>, request: Request) -> Result<CallId, SendError> {
        if self.is_over() {
            return Err(SendError::UnknownConnection);
        }
        if self.peer_draining {
            return Err(SendError::Draining);
        }
        let (own, size) = (cx.config, request.body.len());
        let (mut calls_max, mut size_max) = (u64::from(own.calls_max), own.message_size_max as u64);
        if let Some(peer) = &self.peer {
            calls_max = calls_max.min(u64::from(peer.calls_max));
            size_max = size_max.min(peer.message_size_max);
        }
        if size as u64 > size_max {
            return Err(SendError::TooLarge { size, max: usize::try_from(size_max).unwrap_or(usize::MAX) });
        }
        // Cancellations that wait to be sent, in a partition, take their place too: nothing grows without end.
        if self.caller.count().max(self.cancels_due.len()) as u64 >= calls_max {
            return Err(SendError::Busy);
        }
        let call = self.caller.open();
        let Request { method, lane, deadline, idempotent, form, body } = request;
        let head = Head::Request { method, idempotent, form, deadline };
        self.outbox.push(Key { call, response: false }, lane, head, body);
        cx.counters.requests_sent += 1;
        Ok(CallId(call))
    }

    pub(crate) fn respond(&mut self, call: CallId, status: u64, form: Form, body: Bytes) {
        let Some(Serving::Running { lane }) = self.callee.get_mut(call.0) else { return };
        let lane = *lane;
        let size_max = self.peer.as_ref().map_or(0, |peer| peer.message_size_max);
        // The call ran, so a refusal would be a lie.
        let (status, form, body) = if body.len() as u64 > size_max {
            (status::UNKNOWN_OUTCOME, Form::default(), Bytes::new())
        } else {
            (status, form, body)
        };
        self.answer(call.0, Answer { status, lane, form, body });
    }

    pub(crate) fn cancel(&mut self, cx: &mut Cx<'_>, call: CallId) {
        let key = Key { call: call.0, response: false };
        let is_floor = self.caller.floor() == call.0;
        let Some(arriving) = self.caller.end(call.0) else { return };
        if let Some(arriving) = arriving {
            self.intake.close(cx.budget, arriving.message);
        }
        self.intake.forget(cx.budget, call.0);
        // A call that never left needs no CANCEL, but the gap it would leave in the peer's memory of calls does,
        // unless the floor that SEEN reports passes over it.
        if self.outbox.may_have_reached(key) || !is_floor {
            self.outbox.remove_cancelled(call.0);
            self.cancels_due.push_back(call.0);
        } else {
            self.outbox.remove(key);
        }
    }

    /// There is memory now for a message that waited.
    pub(crate) fn grant(&mut self, call: u64) {
        if let Some(size) = self.intake.grant(call) {
            self.grants_due.push_back((call, size));
        }
    }

    /// So far may the message of `call` be sent, which is coming in.
    pub(crate) fn schedule(&mut self, call: u64, upto: u64) {
        self.intake.schedule(call, upto);
        self.grants_due.push_back((call, upto));
    }

    pub(crate) fn drain(&mut self) {
        if !self.draining {
            self.draining = true;
            self.drain_due = true;
        }
    }

    pub(crate) fn close(&mut self, cx: &mut Cx<'_>, code: u64, reason: &str) {
        self.end(cx, LostReason::LocalClose, Some((code, reason)));
    }

    pub(crate) const fn keep(&mut self, keep: bool) {
        self.keep = keep;
    }

    /// The peer is known to be another process now.
    pub(crate) fn on_peer_restarted(&mut self, cx: &mut Cx<'_>) {
        self.end(cx, LostReason::PeerRestarted, None);
        self.phase = Phase::Gone;
    }

    /// Brings in order what depends on whether anything is expected of the peer. Called after every other call.
    pub(crate) fn settle(&mut self, now: Instant) {
        let busy = self.keep || !self.is_idle();
        if busy && !self.busy {
            self.busy_since = now;
        }
        self.busy = busy;
    }

    /// When [`Conn::on_timeout`] has something to do.
    pub(crate) fn timeout(&self, config: &Config) -> Option<Instant> {
        match &self.phase {
            Phase::Connecting { next, deadline, .. } => Some(*next.min(deadline)),
            Phase::Accepting { deadline, .. } => Some(*deadline),
            Phase::Closing { until, .. } | Phase::Ended { until } => Some(*until),
            Phase::Gone => None,
            Phase::Open => {
                let mut next = self.silence_end(config);
                let mut consider = |at: Option<Instant>| next = at.map_or(next, |at| at.min(next));
                consider(self.received.deadline());
                consider(self.recovery.timeout());
                consider(self.recovery.pace_timeout());
                consider(self.callee.accept_timeout());
                consider(self.ping_at(config));
                consider(self.new_path.as_ref().and_then(NewPath::timeout));
                consider(self.third.as_ref().map(|third| third.next.min(third.deadline)));
                consider(self.doubted_until);
                Some(next)
            }
        }
    }

    pub(crate) fn on_timeout(&mut self, cx: &mut Cx<'_>) {
        let now = cx.now;
        match &mut self.phase {
            Phase::Connecting { deadline, attempt, .. } if *deadline <= now => {
                let reason = match attempt.supported.take() {
                    Some(supported) => LostReason::Version { supported },
                    None => LostReason::SetupTimeout { encrypted: cx.security.is_encrypted() },
                };
                self.end(cx, reason, None);
            }
            Phase::Connecting { due, next, backoff, .. } => {
                if *next <= now {
                    cx.counters.setups_retransmitted += 1;
                    *due = true;
                    *backoff = (*backoff * 2).min(SETUP_BACKOFF_MAX);
                    *next = now + *backoff;
                }
            }
            Phase::Accepting { deadline: until, .. }
            | Phase::Closing { until, .. }
            | Phase::Ended { until } => {
                if *until <= now {
                    self.phase = Phase::Gone;
                }
            }
            Phase::Gone => {}
            Phase::Open => self.on_open_timeout(cx),
        }
    }

    fn on_open_timeout(&mut self, cx: &mut Cx<'_>) {
        let now = cx.now;
        if self.silence_end(cx.config) <= now {
            return self.end(cx, LostReason::Timeout, Some((close::IDLE, "idle")));
        }
        if self.doubted_until.is_some_and(|until| until <= now) {
            return self.on_peer_restarted(cx);
        }
        if let Some(third) = &mut self.third {
            if third.deadline <= now {
                // The acceptor cannot read it: it has another shared key. Or it is gone.
                return self.end(cx, LostReason::SetupTimeout { encrypted: true }, None);
            }
            third.on_timeout(now);
        }
        self.received.on_timeout(now);
        let mut frames = std::mem::take(&mut self.lost);
        let (fired, lost) = self.recovery.on_timeout(now, &mut self.mtu, &mut frames);
        cx.counters.packets_lost += lost;
        cx.counters.pto_expired += u64::from(fired == Fired::Pto);
        self.on_mtu_changed(cx);
        self.send_again(cx, &mut frames);
        self.lost = frames;
        if self.new_path.as_mut().is_some_and(|path| path.on_timeout(now)) {
            self.new_path = None;
            cx.counters.paths_failed += 1;
        }
        if self.ping_at(cx.config).is_some_and(|at| at <= now) {
            self.ping_due = true;
            self.pinged = now;
        }
        while let Some(call) = self.callee.accept_due(now) {
            self.accepted_due.push_back(call);
        }
    }

    /// When the silence has lasted too long. The side that opened a connection ends it when nothing is open; the other
    /// waits longer, so that it does not forget a connection that is about to be used again.
    fn silence_end(&self, config: &Config) -> Instant {
        if self.busy {
            return self.heard.max(self.busy_since) + config.idle_timeout;
        }
        let timeout = if self.initiator {
            self.peer.as_ref().map_or(config.idle_timeout, |peer| peer.idle_timeout.min(config.idle_timeout))
        } else {
            config.idle_timeout * IDLE_FACTOR_ACCEPTOR
        };
        self.heard.max(self.recovery.last_sent()) + timeout
    }

    fn ping_at(&self, config: &Config) -> Option<Instant> {
        let since = self.heard.max(self.busy_since).max(self.pinged);
        (self.busy && !self.ping_due).then_some(since + config.keep_alive.max(KEEP_ALIVE_MIN))
    }

    /// The setup exchange is complete on this side.
    fn establish(&mut self, cx: &mut Cx<'_>) {
        self.phase = Phase::Open;
        self.heard = cx.now;
        let Some(peer) = &self.peer else { return };
        self.recovery.peer_ack_delay = peer.ack_delay_max;
        self.received.ecn.wanted = peer.ecn && cx.config.ecn;
        if self.received.ecn.wanted {
            self.recovery.ecn.start();
        }
        let own = cx.config.datagram_size_max.clamp(SETUP_DATAGRAM_SIZE, DATAGRAM_SIZE_CAP);
        self.mtu = Mtu::new(own.min(usize::from(peer.datagram_size_max)));
        cx.counters.connections_established += 1;
        cx.events.push_back(Event::Connected {
            conn: self.id,
            remote: self.remote,
            client_id: peer.client_id,
            epoch: peer.epoch,
            identity: self.identity,
            inbound: !self.initiator,
        });
        // Calls made before the peer's limits were known, and above them.
        let (calls_max, size_max) = (u64::from(peer.calls_max), peer.message_size_max);
        let refused: Vec<_> = (0_u64..)
            .zip(self.outbox.request_sizes())
            .filter_map(|(index, (call, size))| match () {
                () if size as u64 > size_max => Some((call, status::TOO_LARGE)),
                () if index >= calls_max => Some((call, status::SERVER_BUSY)),
                () => None,
            })
            .collect();
        for (call, status) in refused {
            self.cancel(cx, CallId(call));
            cx.events.push_back(Event::Response {
                conn: self.id,
                call: CallId(call),
                status,
                form: Form::default(),
                body: Bytes::new(),
            });
        }
    }

    /// Ends the connection for the layer above, which hears of it if it ever heard of the connection; with `close` the
    /// peer is told.
    fn end(&mut self, cx: &mut Cx<'_>, reason: LostReason, close: Option<(u64, &str)>) {
        if self.is_over() {
            return;
        }
        let established = self.is_established();
        if established || self.initiator {
            let sent = |call| self.outbox.may_have_reached(Key { call, response: false });
            let calls = self.caller.calls().map(|call| (CallId(call), sent(call))).collect();
            cx.counters.connections_lost += u64::from(established);
            cx.events.push_back(Event::Lost { conn: self.id, reason, calls });
        }
        let until = cx.now + (self.recovery.pto() * 3).min(CLOSING_MAX);
        self.phase = match close {
            _ if !established => Phase::Gone,
            None => Phase::Ended { until },
            Some((code, reason)) => {
                Phase::Closing { code, reason: reason.to_owned(), due: true, repeats: 0, until }
            }
        };
        self.outbox = Outbox::new(0);
        self.intake.end(cx.budget);
        self.grants_due.clear();
        self.caller.clear();
        self.callee.clear();
        self.cancels_due.clear();
        self.accepted_due.clear();
    }

    /// Packets carry what the path is known to carry.
    fn on_mtu_changed(&mut self, cx: &mut Cx<'_>) {
        let payload_max = self.mtu.current() - SHORT_OVERHEAD;
        let before = self.outbox.payload_max();
        if payload_max == before {
            return;
        }
        cx.counters.mtu_raised += u64::from(payload_max > before);
        cx.counters.mtu_lowered += u64::from(payload_max < before);
        self.recovery.set_packet_size(self.mtu.current() as u64);
        self.outbox.set_payload_max(payload_max);
    }

    /// The peer answered from its new address: it is there.
    fn on_path_validated(&mut self, cx: &mut Cx<'_>, path: &NewPath) {
        self.remote = path.address;
        cx.counters.paths_validated += 1;
        let limit =
            self.peer.as_ref().map_or(SETUP_DATAGRAM_SIZE, |peer| usize::from(peer.datagram_size_max));
        self.mtu =
            Mtu::new(limit.min(cx.config.datagram_size_max.clamp(SETUP_DATAGRAM_SIZE, DATAGRAM_SIZE_CAP)));
        let rtt = path.asked.map(|asked| cx.now - asked);
        self.recovery.on_new_path(cx.now, cx.config, self.mtu.current() as u64, rtt);
        self.on_mtu_changed(cx);
    }

    /// Answers a call that is in the table.
    fn answer(&mut self, call: u64, answer: Answer) {
        self.callee.answer(call);
        self.deliver(call, answer);
    }

    /// Queues an answer to be sent.
    fn deliver(&mut self, call: u64, answer: Answer) {
        let Answer { status, lane, form, body } = answer;
        self.outbox.push(Key { call, response: true }, lane, Head::Response { status, form }, body);
    }

    /// Queues what was lost, or may be, again.
    fn send_again(&mut self, cx: &mut Cx<'_>, frames: &mut Vec<SentFrame>) {
        // Each is put in front of its queue, so the oldest goes last.
        for frame in frames.drain(..).rev() {
            let again = match frame {
                SentFrame::Message(_) | SentFrame::Part { .. } => self.outbox.on_lost(frame),
                SentFrame::Cancel { call } => {
                    self.cancels_due.push_back(call);
                    true
                }
                SentFrame::Seen { floor } => {
                    self.caller.on_floor_lost(floor);
                    false
                }
                SentFrame::Accepted { call } => {
                    let running = self.callee.is_running(call);
                    if running {
                        self.accepted_due.push_back(call);
                    }
                    running
                }
                SentFrame::Grant { call, upto } => {
                    let current = self.intake.granted(call) == Some(upto);
                    if current {
                        self.grants_due.push_back((call, upto));
                    }
                    current
                }
                SentFrame::MaxData => {
                    self.max_data_due = true;
                    true
                }
                SentFrame::Drain => {
                    self.drain_due = true;
                    true
                }
                SentFrame::Ack { .. } | SentFrame::Ping | SentFrame::MtuProbe { .. } => false,
            };
            cx.counters.frames_retransmitted += u64::from(again);
        }
    }

    /// What packets are sealed with.
    #[cfg(test)]
    pub(crate) const fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Entries of queues that wait to be sent.
    #[cfg(test)]
    pub(crate) fn queued(&self) -> usize {
        self.outbox.queued() + self.cancels_due.len() + self.accepted_due.len() + self.grants_due.len()
    }

    const fn clock(&self, now: Instant) -> Clock {
        Clock { now, start: self.start }
    }
}

/// First wait for a REPLY; doubled for each further INIT.
const SETUP_BACKOFF_MIN: Duration = Duration::from_millis(20);
const SETUP_BACKOFF_MAX: Duration = Duration::from_secs(1);
/// Cookies that are given back in one attempt; who wants more is not believed.
const COOKIES_MAX: u32 = 4;
/// A closed connection is remembered for three probe timeouts (RFC 9000 section 10.2), but not longer than this.
const CLOSING_MAX: Duration = Duration::from_secs(3);
/// CLOSE frames sent in answer to packets of a peer that goes on.
const CLOSE_REPEATS_MAX: u32 = 8;
/// How much longer the accepting side remembers a connection on which nothing happens.
const IDLE_FACTOR_ACCEPTOR: u32 = 3;
/// Asking more often whether a peer is there would be all that two endpoints do.
const KEEP_ALIVE_MIN: Duration = Duration::from_millis(1);
/// Larger datagrams do not exist in UDP over IPv4.
const DATAGRAM_SIZE_CAP: usize = 65_000;
