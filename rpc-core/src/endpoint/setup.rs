//! Packets outside of connections: the setup exchange, version negotiation, cookies, resets.
//!
//! ```text
//! initiator                                     acceptor
//!   INIT (dcid 0, scid A)            ->           with a cookie, or when nothing presses: remembers A, chooses B
//!                                    <-           REPLY (dcid A, scid B)      again for every copy of the INIT
//!   INIT (dcid B, scid A), message 3 ->           only with node keys: connected. Again until data comes
//!   data (dcid B), connected         ->           connected: the initiator's address is real
//!                                    <-           data (dcid A)
//!
//!   INIT (dcid 0, scid A)            ->           many exchanges are half done: remembers nothing
//!                                    <-           RETRY (dcid A, cookie)
//!   INIT (dcid 0, scid A, cookie)    ->           as above; the rest of this INIT is that of the first one
//! ```
//! INIT is repeated until a REPLY comes; a copy of it is known by source address, scid and message 1, and makes no second
//! connection. No request travels in a setup packet. Nothing that cannot be read is answered, so that an endpoint with
//! a key looks dead to who has another one.
//!
//! **An address that was not validated** (by a cookie that came back, a third message or a data packet) gets at most
//! three times the bytes that it sent: one packet, of at most its size, for an INIT of full size, and a reset that is
//! shorter than what it answers. Limits of all half-open exchanges and those of one IP address bound what is remembered.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use super::{Conn, ConnId, Cx, Endpoint, cx};
use crate::conn::{Accepted, Attempt};
use crate::runtime::Instant;
use crate::security::{CookieKey, Handshake, Identity, Pending, Prologue};
use crate::wire::packet::{self, LONG_HEADER_SIZE, LongKind, RESET_SIZE, SHORT_HEADER_SIZE};
use crate::wire::seal::{self, Keys};
use crate::wire::setup::{self, Init, Message, Params, VERSIONS};
use crate::wire::{Malformed, SETUP_DATAGRAM_SIZE, VERSION};

/// The header of a setup packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Long {
    pub(super) kind: LongKind,
    pub(super) version: u32,
    pub(super) dcid: u64,
    pub(super) scid: u64,
}

/// The setup exchange of a new connection.
pub(super) fn attempt(endpoint: &mut Endpoint, id: ConnId) -> Attempt {
    let prologue = Prologue::new(VERSION, id.0, VERSIONS);
    let ephemeral = ephemeral(endpoint);
    let params = params(endpoint).payload(None);
    let payload = if endpoint.security.has_third_message() { Vec::new() } else { params.clone() };
    let started = Handshake::initiate(&endpoint.security, &prologue, ephemeral)
        .and_then(|mut handshake| Ok((handshake.write(&payload)?, handshake)));
    // Nothing in it depends on what anybody else says.
    let (message, handshake) = started.expect("a handshake with keys of the right length begins");
    let init = Init {
        versions: VERSIONS.to_vec(),
        mode: endpoint.security.wire_mode(),
        cookie: Bytes::new(),
        message: message.into(),
    };
    Attempt::new(id, init, handshake, params)
}

/// A setup packet came.
pub(super) fn on_datagram(
    endpoint: &mut Endpoint,
    now: Instant,
    from: SocketAddr,
    header: Long,
    datagram: &Bytes,
) {
    match header.kind {
        LongKind::Init | LongKind::Reply
            if datagram.len() < SETUP_DATAGRAM_SIZE
                && (header.kind, header.dcid == 0) != (LongKind::Init, false) =>
        {
            endpoint.counters.dropped_truncated += 1;
        }
        LongKind::Init if header.version != VERSION && header.dcid == 0 => {
            // Its checksum may be another in another version, so only the size is looked at.
            endpoint.counters.dropped_unknown_version += 1;
            send_stray(endpoint, from, packet::version_negotiation(header.version, header.scid));
        }
        LongKind::Init | LongKind::Reply | LongKind::Retry if header.version != VERSION => {
            endpoint.counters.dropped_unknown_version += 1;
        }
        LongKind::Init | LongKind::Reply | LongKind::Retry | LongKind::VersionNegotiation => {
            let Some(body) = seal::checked(datagram, LONG_HEADER_SIZE) else {
                endpoint.counters.dropped_bad_checksum += 1;
                return;
            };
            if let Err(Malformed(_)) = on_body(endpoint, now, from, header, &body) {
                endpoint.counters.dropped_bad_frame += 1;
            }
        }
    }
}

fn on_body(
    endpoint: &mut Endpoint,
    now: Instant,
    from: SocketAddr,
    header: Long,
    body: &Bytes,
) -> Result<(), Malformed> {
    match header.kind {
        LongKind::Init if header.dcid == 0 => return on_init(endpoint, now, from, header, Init::read(body)?),
        LongKind::Init => return on_third(endpoint, now, from, header, &Message::read(body)?),
        LongKind::Reply => return on_reply(endpoint, now, from, header, &Message::read(body)?),
        LongKind::Retry => {
            let cookie = setup::read_retry(body)?;
            if initiating(endpoint, from, header.dcid) {
                endpoint.with(now, ConnId(header.dcid), |conn, cx| conn.on_retry(cx, cookie));
            }
        }
        LongKind::VersionNegotiation => {
            let versions = packet::read_versions(body)?;
            if initiating(endpoint, from, header.dcid) {
                let id = ConnId(header.dcid);
                endpoint.with(now, id, |conn, cx| conn.on_version_negotiation(cx, versions));
            }
        }
    }
    Ok(())
}

/// A data packet of no connection came: a reset, or something that deserves one.
pub(super) fn on_unknown(
    endpoint: &mut Endpoint,
    now: Instant,
    from: SocketAddr,
    dcid: u64,
    pn_low: u32,
    datagram: &Bytes,
) {
    if let Some((remote_id, pn_low)) = packet::read_reset(datagram, endpoint.reset_key.as_ref()) {
        let id = endpoint.by_remote.get(&(from, remote_id)).copied();
        if let Some(id) = id
            && let Some(slot) = endpoint.conns.get_mut(&id)
            && slot.conn.on_reset(&mut cx!(endpoint, now), pn_low)
        {
            endpoint.counters.resets_received += 1;
            endpoint.settle(now, id);
        } else {
            endpoint.counters.dropped_unknown_connection += 1;
        }
        return;
    }
    // With encryption nobody can tell who sealed a packet of a connection that is not known.
    if !endpoint.security.is_encrypted() && seal::checked(datagram, SHORT_HEADER_SIZE).is_none() {
        endpoint.counters.dropped_bad_checksum += 1;
        return;
    }
    endpoint.counters.dropped_unknown_connection += 1;
    // The reset must be shorter than what it answers, or two endpoints could answer each other for ever.
    if datagram.len() <= RESET_SIZE {
        return;
    }
    if !endpoint.resets.take(now) {
        endpoint.counters.dropped_resets_max += 1;
        return;
    }
    endpoint.counters.resets_sent += 1;
    let reset = packet::reset(dcid, pn_low, endpoint.reset_key.as_ref(), &mut endpoint.random);
    send_stray(endpoint, from, reset);
}

/// `client_id` is established as the process `epoch`: its connections of any other process are dead.
///
/// Called when a data packet has shown that the process is there now; an INIT alone could be years old.
pub(super) fn end_older_epochs(endpoint: &mut Endpoint, now: Instant, client_id: u128, epoch: u64) {
    let same_client: Vec<_> =
        endpoint.by_client.range((client_id, 0)..=(client_id, u64::MAX)).map(|entry| entry.1).collect();
    for id in same_client {
        let other = endpoint.conns.get(&id).and_then(|slot| slot.conn.peer()).map(|peer| peer.epoch);
        if other.is_some_and(|other| other != epoch) {
            endpoint.with(now, ConnId(id), Conn::on_peer_restarted);
        }
    }
}

/// How many resets may still be sent: refilled with time, so that packets of unknown connections cannot make this
/// endpoint busy for others.
#[derive(Debug)]
pub(super) struct ResetBudget {
    left: u32,
    refilled: Instant,
}

impl Default for ResetBudget {
    fn default() -> Self {
        Self { left: RESETS_MAX, refilled: Instant::default() }
    }
}

impl ResetBudget {
    fn take(&mut self, now: Instant) -> bool {
        if now - self.refilled >= RESETS_PERIOD {
            *self = Self { left: RESETS_MAX, refilled: now };
        }
        let left = self.left > 0;
        self.left = self.left.saturating_sub(1);
        left
    }
}

fn on_init(
    endpoint: &mut Endpoint,
    now: Instant,
    from: SocketAddr,
    header: Long,
    init: Init,
) -> Result<(), Malformed> {
    if header.scid == 0 {
        return Err(Malformed("INIT without an id"));
    }
    if setup::best_version(&init.versions, VERSIONS) != Some(header.version) {
        endpoint.counters.dropped_downgrade += 1;
        return Ok(());
    }
    if init.mode != endpoint.security.wire_mode() {
        endpoint.counters.dropped_wrong_mode += 1;
        return Ok(());
    }
    if let Some(slot) = endpoint.by_remote.get(&(from, header.scid)).and_then(|id| endpoint.conns.get_mut(id))
    {
        if !slot.conn.on_init_again(&init.message) {
            endpoint.counters.dropped_wrong_epoch += 1;
        }
        let id = slot.conn.id.0;
        endpoint.settle(now, id);
        return Ok(());
    }
    if !admit(endpoint, now, from, header.scid, &init.cookie) {
        return Ok(());
    }
    let id = ConnId(endpoint.unused_id());
    let Some(accepted) = accept(endpoint, now, id, header, init)? else {
        endpoint.counters.dropped_bad_seal += 1;
        return Ok(());
    };
    let mut conn = Conn::accept(&cx!(endpoint, now), id, from, header.scid, accepted);
    if endpoint.draining {
        conn.drain();
    }
    endpoint.insert(now, conn, true);
    Ok(())
}

/// Whether another connection may be half open; if not, that is counted, or answered with a cookie.
fn admit(endpoint: &mut Endpoint, now: Instant, from: SocketAddr, scid: u64, cookie: &Bytes) -> bool {
    let config = &endpoint.config;
    if endpoint.inbound >= config.connections_max || endpoint.accepting >= ACCEPTING_MAX {
        endpoint.counters.dropped_connections_max += 1;
        return false;
    }
    let of_address = endpoint.by_address.get(&from.ip()).copied().unwrap_or_default();
    if of_address.open >= config.connections_per_address_max
        || of_address.accepting >= config.half_open_per_address_max
    {
        endpoint.counters.dropped_address_max += 1;
        return false;
    }
    if endpoint.accepting < config.cookies_above {
        return true;
    }
    let key = endpoint.cookie_key.take().unwrap_or_else(|| CookieKey::new(&random_key(endpoint)));
    let retry = (!key.check(now, from, scid, cookie)).then(|| setup::retry(scid, &key.make(now, from, scid)));
    endpoint.cookie_key = Some(key);
    let Some(retry) = retry else { return true };
    endpoint.counters.cookies_sent += 1;
    send_stray(endpoint, from, retry);
    false
}

/// Reads message 1 and writes message 2; `None` if it cannot be read.
fn accept(
    endpoint: &mut Endpoint,
    now: Instant,
    id: ConnId,
    header: Long,
    init: Init,
) -> Result<Option<Accepted>, Malformed> {
    let prologue = Prologue::new(header.version, header.scid, &init.versions);
    let ephemeral = ephemeral(endpoint);
    let payload = params(endpoint).payload(Some(id.0));
    let security = &endpoint.security;
    let reply = |message: Vec<u8>| {
        Message { mode: security.wire_mode(), message: message.into() }.reply(header.scid, id.0)
    };
    if security.has_third_message() {
        let Ok((pending, second)) = Pending::new(security, &prologue, ephemeral, &init.message, &payload)
        else {
            return Ok(None);
        };
        return Ok(Some(Accepted {
            first: init.message,
            setup: reply(second),
            pending: Some(pending),
            params: None,
            identity: Identity::None,
            keys: Keys::None,
        }));
    }
    let opened = Handshake::accept(security, &prologue, ephemeral)
        .and_then(|mut handshake| Ok((handshake.read(&init.message)?, handshake)));
    let Ok((first, mut handshake)) = opened else { return Ok(None) };
    let params = Params::read_only(first)?;
    let Ok(second) = handshake.write(&payload) else { return Ok(None) };
    Ok(Some(Accepted {
        first: init.message,
        setup: reply(second),
        pending: None,
        params: Some(params),
        identity: handshake.identity(),
        keys: Keys::new(now, handshake.secrets()),
    }))
}

fn on_third(
    endpoint: &mut Endpoint,
    now: Instant,
    from: SocketAddr,
    header: Long,
    third: &Message,
) -> Result<(), Malformed> {
    let mode = endpoint.security.wire_mode();
    match endpoint.conns.get_mut(&header.dcid) {
        None => endpoint.counters.dropped_unknown_connection += 1,
        Some(slot) if slot.conn.remote != from => endpoint.counters.dropped_unexpected_address += 1,
        Some(slot) if !slot.inbound || slot.conn.remote_id != header.scid => {
            endpoint.counters.dropped_unexpected += 1;
        }
        Some(_) if third.mode != mode => endpoint.counters.dropped_wrong_mode += 1,
        Some(slot) => {
            let result = slot.conn.on_third(&mut cx!(endpoint, now), &third.message);
            endpoint.settle(now, header.dcid);
            return result;
        }
    }
    Ok(())
}

fn on_reply(
    endpoint: &mut Endpoint,
    now: Instant,
    from: SocketAddr,
    header: Long,
    reply: &Message,
) -> Result<(), Malformed> {
    if !initiating(endpoint, from, header.dcid) {
        return Ok(());
    }
    if reply.mode != endpoint.security.wire_mode() {
        endpoint.counters.dropped_wrong_mode += 1;
        return Ok(());
    }
    let Some(slot) = endpoint.conns.get_mut(&header.dcid) else { return Ok(()) };
    let result = slot.conn.on_reply(&mut cx!(endpoint, now), &reply.message);
    if result == Ok(true) {
        // Taken only if the peer gave one id twice.
        endpoint.by_remote.entry((from, slot.conn.remote_id)).or_insert(header.dcid);
    }
    endpoint.settle(now, header.dcid);
    result.map(|_| ())
}

/// Whether `id` is a connection to `from` that waits for the answer to its INIT; counts why not.
fn initiating(endpoint: &mut Endpoint, from: SocketAddr, id: u64) -> bool {
    match endpoint.conns.get(&id) {
        None => endpoint.counters.dropped_unknown_connection += 1,
        Some(slot) if slot.conn.remote != from => endpoint.counters.dropped_unexpected_address += 1,
        Some(slot) if slot.conn.remote_id != 0 => endpoint.counters.dropped_unexpected += 1,
        Some(_) => return true,
    }
    false
}

fn params(endpoint: &Endpoint) -> Params {
    let config = &endpoint.config;
    let datagram_size = config.datagram_size_max.max(SETUP_DATAGRAM_SIZE);
    Params {
        epoch: endpoint.epoch,
        client_id: endpoint.client_id,
        datagram_size_max: u16::try_from(datagram_size).unwrap_or(u16::MAX),
        message_size_max: config.message_size_max as u64,
        calls_max: config.calls_max,
        ack_delay_max: config.ack_delay_max,
        idle_timeout: config.idle_timeout,
        compression: config.compression,
        ecn: config.ecn,
    }
}

/// A private key for one handshake. Nothing is drawn where nothing is encrypted.
fn ephemeral(endpoint: &mut Endpoint) -> [u8; 32] {
    if endpoint.security.is_encrypted() { random_key(endpoint) } else { [0; 32] }
}

fn random_key(endpoint: &mut Endpoint) -> [u8; 32] {
    let mut key = [0; 32];
    for part in key.chunks_exact_mut(8) {
        part.copy_from_slice(&(endpoint.random)().to_be_bytes());
    }
    key
}

fn send_stray(endpoint: &mut Endpoint, to: SocketAddr, datagram: Vec<u8>) {
    if endpoint.stray.len() < STRAY_MAX {
        endpoint.stray.push_back((to, datagram));
    }
}

/// Datagrams outside of connections that wait to be sent; above it they are dropped.
const STRAY_MAX: usize = 256;
/// Connections that wait for their first data packet; above it an INIT is dropped. Forged source addresses fill it for
/// at most the setup timeout.
const ACCEPTING_MAX: usize = 1_000;
/// Resets in one period.
const RESETS_MAX: u32 = 100;
const RESETS_PERIOD: Duration = Duration::from_millis(100);
