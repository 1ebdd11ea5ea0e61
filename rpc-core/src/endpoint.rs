//! All connections of one socket, without I/O: bytes and `now` in; bytes, timers and events out.
//!
//! An [`Endpoint`] is driven like this, by a task or a thread that owns it and the socket:
//!
//! 1. hand every received datagram to [`Endpoint::handle_datagram`], before
//! 2. [`Endpoint::handle_timeout`] when [`Endpoint::poll_timeout`] has passed (so that a process that was stopped for a
//!    while reads what arrived before it concludes that nobody answered),
//! 3. take [`Endpoint::poll_event`] until it is empty, call what follows from the events,
//! 4. send what [`Endpoint::poll_transmit`] gives until it gives nothing,
//! 5. sleep until the socket is readable or [`Endpoint::poll_timeout`] passes, which has to be asked again.
//!
//! Knows nothing of sockets, tasks, method names or encodings, and reads no clock.

use std::fmt;
use std::net::SocketAddr;

use bytes::Bytes;

pub use crate::conn::{
    CallId, Config, ConnId, ConnectionInfo, Counters, Event, Lane, LostReason, Request, SendError,
};
use crate::runtime::Instant;

/// Datagrams to be sent with one system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where to.
    pub destination: SocketAddr,
    /// Bytes of the buffer in use.
    pub size: usize,
    /// When the buffer holds several datagrams: the size of each but the last, which may be shorter.
    pub segment_size: Option<usize>,
}

/// All connections of one socket.
pub struct Endpoint {}

impl Endpoint {
    /// An endpoint without connections. `epoch` must be random per process start, `client_id` is what peers see as
    /// this endpoint's identity (no two live processes may share it); `random` gives connection ids.
    pub fn new(
        _config: Config,
        _epoch: u64,
        _client_id: u128,
        _random: Box<dyn FnMut() -> u64 + Send>,
    ) -> Self {
        unimplemented!("interface first")
    }

    /// Opens a new connection to `remote`, always a new one. Calls may be made on it at once.
    pub fn connect(&mut self, _now: Instant, _remote: SocketAddr) -> ConnId {
        unimplemented!("interface first")
    }

    /// Takes in one received datagram.
    pub fn handle_datagram(&mut self, _now: Instant, _from: SocketAddr, _datagram: Bytes) {
        unimplemented!("interface first")
    }

    /// Clears `buf` and fills it with up to `segments_max` datagrams to one destination; `None` when there is nothing
    /// to send now.
    pub fn poll_transmit(
        &mut self,
        _now: Instant,
        _segments_max: usize,
        _buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        unimplemented!("interface first")
    }

    /// When to call [`Endpoint::handle_timeout`]. May be earlier than needed, never later.
    pub fn poll_timeout(&self) -> Option<Instant> {
        unimplemented!("interface first")
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, _now: Instant) {
        unimplemented!("interface first")
    }

    /// What happened, oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        unimplemented!("interface first")
    }

    /// Starts a call.
    pub fn request(&mut self, _now: Instant, _conn: ConnId, _request: Request) -> Result<CallId, SendError> {
        unimplemented!("interface first")
    }

    /// Answers a call of the peer. An answer to an unknown or cancelled call is ignored.
    pub fn respond(&mut self, _now: Instant, _conn: ConnId, _call: CallId, _status: u64, _body: Bytes) {
        unimplemented!("interface first")
    }

    /// Gives up a call of our own: it ends without an event, and the peer is told if it may know of the call.
    pub fn cancel(&mut self, _now: Instant, _conn: ConnId, _call: CallId) {
        unimplemented!("interface first")
    }

    /// Takes no new calls of any peer from now on: they are answered DRAINING and not executed.
    pub fn drain(&mut self, _now: Instant) {
        unimplemented!("interface first")
    }

    /// Ends a connection: its open calls are reported with [`Event::Lost`], the peer is told.
    pub fn close(&mut self, _now: Instant, _conn: ConnId, _code: u64, _reason: &str) {
        unimplemented!("interface first")
    }

    /// Ends every connection, as [`Endpoint::close`] does.
    pub fn close_all(&mut self, _now: Instant, _code: u64, _reason: &str) {
        unimplemented!("interface first")
    }

    /// Marks a connection to be kept alive, and watched, also while no call is open.
    pub fn keep(&mut self, _now: Instant, _conn: ConnId, _keep: bool) {
        unimplemented!("interface first")
    }

    /// Whether nothing is unacknowledged and no call is open in either direction: a drain is complete.
    pub fn is_idle(&self) -> bool {
        unimplemented!("interface first")
    }

    /// What is known about a connection; `None` when it is gone.
    pub fn connection(&self, _conn: ConnId) -> Option<ConnectionInfo> {
        unimplemented!("interface first")
    }

    /// What was counted so far.
    pub fn counters(&self) -> &Counters {
        unimplemented!("interface first")
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").finish_non_exhaustive()
    }
}
