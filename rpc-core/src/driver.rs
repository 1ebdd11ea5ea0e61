//! Sockets and clocks: the only place that touches the machine.
//!
//! [`udp`] is the real socket (quinn-udp: batches, GSO, GRO), [`system`] the real runtime, [`key_file`] keys on disk, [`fault`] the seeded link
//! policy that both the real and the simulated network obey.

use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use crate::endpoint::{Datagram, Transmit};

pub mod fault;
pub mod key_file;
pub mod system;
pub mod udp;

/// A socket that carries datagrams.
pub trait DatagramSocket: Send + Sync + 'static {
    /// The address it is bound to.
    fn local_addr(&self) -> SocketAddr;

    /// Appends a batch of received datagrams to `datagrams`; at least one when ready.
    fn poll_recv(&self, cx: &mut Context<'_>, datagrams: &mut Vec<Datagram>) -> Poll<io::Result<()>>;

    /// As [`DatagramSocket::poll_recv`], but asks the socket itself, at once, and lets nobody be woken: for a driver that
    /// would rather ask again than sleep. `None` when nothing is there; without an implementation that is always so.
    ///
    /// # Errors
    /// As of `poll_recv`.
    fn try_recv(&self, _datagrams: &mut Vec<Datagram>) -> io::Result<Option<()>> {
        Ok(None)
    }

    /// Whether asking with [`DatagramSocket::try_recv`] makes sense. Not in simulation, where no time passes by asking.
    fn can_spin(&self) -> bool {
        false
    }

    /// Sends the datagrams in `contents`: all of `transmit.segment_size` bytes, the last one may be shorter, with the bits
    /// `transmit.ecn` in their IP headers, if the socket can.
    /// What the socket cannot take (a full buffer, an unreachable network) is lost, as on any network.
    fn poll_send(&self, cx: &mut Context<'_>, transmit: &Transmit, contents: &[u8]) -> Poll<()>;

    /// The most segments that one send may hold.
    fn segments_max(&self) -> usize;
}
