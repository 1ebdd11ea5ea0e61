//! What executor and network tell each other: which life of a node, and which datagram.

use std::net::SocketAddr;

use crate::endpoint::Datagram;

/// Tells the lives of one node apart: handles of an earlier life do nothing.
pub(super) type Life = u64;

/// A datagram on its way.
pub(super) struct Arrival {
    pub(super) to: SocketAddr,
    pub(super) datagram: Datagram,
}
