//! Packets outside of connections: the setup exchange, version negotiation, resets.
//!
//! ```text
//! initiator                                     acceptor
//!   INIT (dcid 0, scid A)            ->           remembers A, chooses B
//!                                    <-           REPLY (dcid A, scid B)      again for every copy of the INIT
//!   data (dcid B), connected         ->           connected: the initiator's address is real
//!                                    <-           data (dcid A)
//! ```
//! INIT is repeated until a REPLY comes; a copy of it is known by source address and scid and makes no second
//! connection. No request travels in a setup packet.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use super::{Conn, ConnId, Cx, Endpoint, cx};
use crate::runtime::Instant;
use crate::wire::packet::{self, LONG_HEADER_SIZE, LongKind, RESET_SIZE, SHORT_HEADER_SIZE};
use crate::wire::seal::Keys;
use crate::wire::setup::Params;
use crate::wire::{Malformed, SETUP_DATAGRAM_SIZE, VERSION};

/// The header of a setup packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Long {
    pub(super) kind: LongKind,
    pub(super) version: u32,
    pub(super) dcid: u64,
    pub(super) scid: u64,
}

/// The INIT of a new connection.
pub(super) fn init(endpoint: &Endpoint, id: u64) -> Vec<u8> {
    params(endpoint).datagram(LongKind::Init, 0, id)
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
        LongKind::Init | LongKind::Reply if datagram.len() < SETUP_DATAGRAM_SIZE => {
            endpoint.counters.dropped_truncated += 1;
        }
        LongKind::Init if header.version != VERSION => {
            // Its checksum may be another in another version, so only the size is looked at.
            endpoint.counters.dropped_unknown_version += 1;
            send_stray(endpoint, from, packet::version_negotiation(header.version, header.scid));
        }
        LongKind::Reply if header.version != VERSION => endpoint.counters.dropped_unknown_version += 1,
        LongKind::Retry => endpoint.counters.dropped_unexpected += 1,
        LongKind::Init | LongKind::Reply | LongKind::VersionNegotiation => {
            let Some(body) = Keys::Insecure.open(0, datagram, LONG_HEADER_SIZE) else {
                endpoint.counters.dropped_bad_checksum += 1;
                return;
            };
            let result = match header.kind {
                LongKind::Init => {
                    Params::read(&body).map(|params| on_init(endpoint, now, from, header, params))
                }
                LongKind::Reply => {
                    Params::read(&body).map(|params| on_reply(endpoint, now, from, header, params))
                }
                _ => packet::read_versions(&body).map(|versions| {
                    if initiating(endpoint, from, header.dcid) {
                        let id = ConnId(header.dcid);
                        endpoint.with(now, id, |conn, cx| conn.on_version_negotiation(cx, versions));
                    }
                }),
            };
            if let Err(Malformed(_)) = result {
                endpoint.counters.dropped_bad_frame += 1;
            }
        }
    }
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
    if let Some((remote_id, pn_low)) = packet::read_reset(datagram) {
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
    if Keys::Insecure.open(0, datagram, SHORT_HEADER_SIZE).is_none() {
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
    let reset = packet::reset(dcid, pn_low, &mut endpoint.random);
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

fn on_init(endpoint: &mut Endpoint, now: Instant, from: SocketAddr, header: Long, params: Params) {
    if header.scid == 0 || header.dcid != 0 {
        endpoint.counters.dropped_bad_frame += 1;
        return;
    }
    if let Some(slot) = endpoint.by_remote.get(&(from, header.scid)).and_then(|id| endpoint.conns.get_mut(id))
    {
        if slot.conn.peer().is_none_or(|peer| peer.epoch != params.epoch) {
            endpoint.counters.dropped_wrong_epoch += 1;
            return;
        }
        slot.conn.on_init_again();
        let id = slot.conn.id.0;
        return endpoint.settle(now, id);
    }
    if endpoint.inbound >= endpoint.config.connections_max || endpoint.accepting >= ACCEPTING_MAX {
        endpoint.counters.dropped_connections_max += 1;
        return;
    }
    let id = endpoint.unused_id();
    let setup = self::params(endpoint).datagram(LongKind::Reply, header.scid, id);
    let mut conn = Conn::accept(&cx!(endpoint, now), ConnId(id), from, header.scid, setup, params);
    if endpoint.draining {
        conn.drain();
    }
    endpoint.insert(now, conn, true);
}

fn on_reply(endpoint: &mut Endpoint, now: Instant, from: SocketAddr, header: Long, params: Params) {
    if !initiating(endpoint, from, header.dcid) {
        return;
    }
    let (id, key) = (ConnId(header.dcid), (from, header.scid));
    if header.scid == 0 || endpoint.by_remote.contains_key(&key) {
        endpoint.counters.dropped_unexpected += 1;
        return;
    }
    endpoint.with(now, id, |conn, cx| conn.on_reply(cx, header.scid, params));
    endpoint.by_remote.insert(key, header.dcid);
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
    }
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
