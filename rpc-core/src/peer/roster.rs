//! Who is connected, and who hears of it: the data behind the list of peers and its events.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::broadcast;

use crate::endpoint::{ConnId, LostReason};
use crate::runtime::Instant;
use crate::security::Identity;

/// Events that wait for one reader; above it the oldest are dropped, which the reader is told.
pub const EVENTS_MAX: usize = 256;

/// Addresses of which the last process is remembered, to notice another one; above it the lowest is forgotten.
const PROCESSES_MAX: usize = 4_096;

/// One connection with a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerInfo {
    /// Names the connection on this side. Two peers that call each other may have two.
    pub connection: ConnId,
    /// The peer's address.
    pub address: SocketAddr,
    /// The random id that the peer's process drew; 0 before the connection is established.
    pub client_id: u128,
    /// The boot epoch of the peer's process: another value is another process. 0 before the connection is established.
    pub epoch: u64,
    /// What the peer has proved about itself.
    pub identity: Identity,
    /// Whether the peer opened the connection.
    pub inbound: bool,
    /// Whether the setup exchange is complete.
    pub established: bool,
    /// Smoothed round trip time.
    pub rtt: Duration,
    /// When the last valid packet of the peer arrived, on this node's clock.
    pub last_seen: Instant,
    /// Calls to the peer that are open.
    pub calling: usize,
    /// Calls of the peer that are open.
    pub serving: usize,
    /// Bytes in datagrams to the peer.
    pub bytes_sent: u64,
    /// Bytes in datagrams from the peer.
    pub bytes_received: u64,
    /// Services and streams that were passed to the peer, or by it, and are in use.
    pub handles: usize,
}

/// What became of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerEvent {
    /// A connection is established, in either direction.
    Connected(PeerInfo),
    /// A peer behind this address is another process than the last one there: it was restarted, or replaced. Comes
    /// just before its `Connected`.
    Restarted {
        /// The address.
        address: SocketAddr,
        /// The boot epoch of the process that was there before.
        before: u64,
        /// The boot epoch of the one that is there now.
        now: u64,
    },
    /// A peer takes no new calls on this connection: it is about to go.
    Draining {
        /// The connection.
        connection: ConnId,
        /// The peer's address.
        address: SocketAddr,
    },
    /// An established connection ended.
    Lost {
        /// The connection.
        connection: ConnId,
        /// The peer's address.
        address: SocketAddr,
        /// Why.
        reason: LostReason,
    },
    /// The reader was too slow: so many events were dropped before the next one. [`Peer::peers`](super::Peer::peers) says what is now.
    Missed(u64),
}

/// What became of peers since [`Peer::events`](super::Peer::events) was called, in order.
pub struct PeerEvents {
    receiver: broadcast::Receiver<PeerEvent>,
}

impl PeerEvents {
    /// The next event; `None` when the peer that is watched has ended. Never holds up the peer: who is more than
    /// [`EVENTS_MAX`] behind gets [`PeerEvent::Missed`].
    pub async fn next(&mut self) -> Option<PeerEvent> {
        match self.receiver.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(count)) => Some(PeerEvent::Missed(count)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

impl fmt::Debug for PeerEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerEvents")
    }
}

/// Who is known to be there, and who wants to hear of it.
pub(super) struct Roster {
    connected: BTreeMap<ConnId, SocketAddr>,
    /// The boot epoch of the last process at an address.
    processes: BTreeMap<SocketAddr, u64>,
    /// Made for the first reader: its room takes more memory than the rest of a peer.
    events: Option<broadcast::Sender<PeerEvent>>,
    ended: bool,
}

impl Roster {
    pub(super) fn new() -> Self {
        Self { connected: BTreeMap::new(), processes: BTreeMap::new(), events: None, ended: false }
    }

    pub(super) fn subscribe(&mut self) -> PeerEvents {
        let receiver = if self.ended {
            // So have its events.
            broadcast::channel(1).1
        } else {
            self.events.get_or_insert_with(|| broadcast::Sender::new(EVENTS_MAX)).subscribe()
        };
        PeerEvents { receiver }
    }

    fn tell(&self, event: PeerEvent) {
        if let Some(events) = &self.events {
            // An error says that nobody listens.
            let _ = events.send(event);
        }
    }

    pub(super) fn on_connected(&mut self, info: PeerInfo) {
        let (address, now) = (info.address, info.epoch);
        self.connected.insert(info.connection, address);
        if let Some(before) = self.processes.insert(address, now)
            && before != now
        {
            self.tell(PeerEvent::Restarted { address, before, now });
        }
        if self.processes.len() > PROCESSES_MAX {
            self.processes.pop_first();
        }
        self.tell(PeerEvent::Connected(info));
    }

    pub(super) fn on_draining(&self, connection: ConnId) {
        if let Some(address) = self.connected.get(&connection).copied() {
            self.tell(PeerEvent::Draining { connection, address });
        }
    }

    /// A connection that was never established was never there.
    pub(super) fn on_lost(&mut self, connection: ConnId, reason: &LostReason) {
        if let Some(address) = self.connected.remove(&connection) {
            self.tell(PeerEvent::Lost { connection, address, reason: reason.clone() });
        }
    }

    /// The peer ends: readers get what is left, and then the end.
    pub(super) fn end(&mut self) {
        self.ended = true;
        self.events = None;
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn connected(roster: &mut Roster, index: u32) {
        let address = SocketAddr::from((Ipv4Addr::from(0x0a00_0000 + index), 7_301));
        roster.on_connected(PeerInfo {
            connection: ConnId(u64::from(index)),
            address,
            client_id: 1,
            epoch: u64::from(index),
            identity: Identity::None,
            inbound: true,
            established: true,
            rtt: Duration::ZERO,
            last_seen: Instant::default(),
            calling: 0,
            serving: 0,
            bytes_sent: 0,
            bytes_received: 0,
            handles: 0,
        });
        roster.on_lost(ConnId(u64::from(index)), &LostReason::Timeout);
    }

    #[test]
    fn peers_that_come_and_go_are_remembered_up_to_a_limit() {
        let mut roster = Roster::new();
        for index in 0..2 * PROCESSES_MAX as u32 {
            connected(&mut roster, index);
            assert_eq!(roster.processes.len(), PROCESSES_MAX.min(index as usize + 1));
        }
        assert!(roster.connected.is_empty());
    }
}
