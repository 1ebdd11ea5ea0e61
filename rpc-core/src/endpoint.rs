//! All connections of one socket, without I/O: bytes and `now` in; bytes, timers and events out.

use std::net::SocketAddr;

/// Before what a message is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Before everything.
    Control,
    /// The default.
    Normal,
    /// After everything.
    Bulk,
}

/// Datagrams to send.
#[derive(Clone, Copy, Debug)]
pub struct Transmit {
    /// Where to.
    pub destination: SocketAddr,
    /// Bytes in all.
    pub size: usize,
    /// Bytes of each datagram but the last.
    pub segment_size: Option<usize>,
}

/// Limits and timers.
#[derive(Clone, Debug, Default)]
pub struct Config {}

/// What happened.
#[derive(Clone, Debug, Default)]
pub struct Counters {}
