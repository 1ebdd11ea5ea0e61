//! The list of peers that a socket has connections with, the events of it, and how to send one away.

use std::net::SocketAddr;
use std::sync::Arc;

use super::roster::{PeerEvents, PeerInfo};
use super::state::State;
use super::{Inner, Peer};
use crate::endpoint::{ConnId, ConnectionInfo};
use crate::wire::close;

/// Judges a peer that has connected: an error, which the peer is told, refuses it.
pub(super) type OnConnect = Arc<dyn Fn(&PeerInfo) -> Result<(), String> + Send + Sync>;

impl Peer {
    /// Every connection that this peer has, established or in setup, ascending by their names.
    pub fn peers(&self) -> Vec<PeerInfo> {
        let state = self.inner.lock();
        state.endpoint.connections().map(|(conn, info)| state.peer_info(conn, &info)).collect()
    }

    /// What becomes of peers from now on.
    pub fn events(&self) -> PeerEvents {
        self.inner.lock().roster.subscribe()
    }

    /// Ends all connections with the peer at `address`; it is told the first 256 bytes of `reason`. Open calls in
    /// either direction end as on any lost connection. Returns how many connections there were. The peer may come
    /// back: [`Builder::on_connect`](super::Builder::on_connect) can refuse it.
    pub fn disconnect(&self, address: SocketAddr, reason: &str) -> usize {
        let now = self.inner.runtime.now();
        let mut state = self.inner.lock();
        let conns: Vec<_> = state
            .endpoint
            .connections()
            .filter(|(_, info)| info.remote == address)
            .map(|(conn, _)| conn)
            .collect();
        for conn in &conns {
            state.endpoint.close(now, *conn, close::DISCONNECTED, reason);
        }
        // The next call makes a new connection.
        state.outgoing.retain(|_, conn| !conns.contains(conn));
        drop(state);
        self.inner.doorbell.ring();
        conns.len()
    }
}

impl State {
    pub(super) fn peer_info(&self, connection: ConnId, info: &ConnectionInfo) -> PeerInfo {
        PeerInfo {
            connection,
            address: info.remote,
            client_id: info.client_id,
            epoch: info.epoch,
            identity: info.identity,
            inbound: info.inbound,
            established: info.established,
            rtt: info.rtt,
            last_seen: info.heard,
            calling: info.calling,
            serving: info.serving,
            bytes_sent: info.bytes_sent,
            bytes_received: info.bytes_received,
            handles: self.sessions.get(&connection).map_or(0, |session| session.handles()),
        }
    }
}

/// Asks the hook about a peer that has connected to us; without the lock, so that the hook may use the peer.
pub(super) fn judge(inner: &Inner, conn: ConnId) {
    let Some(hook) = &inner.on_connect else { return };
    let info = {
        let state = inner.lock();
        let Some(info) = state.endpoint.connection(conn) else { return };
        state.peer_info(conn, &info)
    };
    if let Err(reason) = hook(&info) {
        inner.lock().endpoint.close(inner.runtime.now(), conn, close::REFUSED, &reason);
    }
}
