//! What goes in and out of a connection: requests, events, refusals, reasons.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use crate::runtime::Instant;
use crate::security::Identity;
use crate::wire::{Ecn, Form, Lane};

/// Names one connection of one endpoint, for as long as that endpoint lives. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// Names one call on one connection: even for calls of the side that opened the connection, odd for the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// A datagram that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Where it came from.
    pub from: SocketAddr,
    /// How it was marked when it arrived.
    pub ecn: Ecn,
    /// The UDP payload.
    pub contents: Bytes,
}

impl Datagram {
    /// One without a mark.
    pub const fn new(from: SocketAddr, contents: Bytes) -> Self {
        Self { from, ecn: Ecn::NotEct, contents }
    }
}

/// A call to be made.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method's 30-bit number; the layer above computes it from the name.
    pub method: u32,
    /// The lane of the request and of its response.
    pub lane: Lane,
    /// The caller's deadline on the local clock. It travels as time left: the peer does not start the call when
    /// it is past. Ending the call at the deadline is the caller's part ([`crate::endpoint::Endpoint::cancel`]).
    pub deadline: Instant,
    /// Whether executing the call twice is the same as once. Carried for the layer above; changes nothing here.
    pub idempotent: bool,
    /// How the body is to be read. Carried for the layer above; changes nothing here.
    pub form: Form,
    /// The arguments.
    pub body: Bytes,
}

/// What happened on a connection.
#[derive(Clone, Debug)]
pub enum Event {
    /// The setup exchange is complete; calls flow in both directions.
    Connected {
        /// The connection.
        conn: ConnId,
        /// The peer's address.
        remote: SocketAddr,
        /// The peer's identity as it claims it.
        client_id: u128,
        /// The peer's process: another value means that it was restarted.
        epoch: u64,
        /// What the peer has proved about itself.
        identity: Identity,
        /// Whether the peer opened the connection.
        inbound: bool,
    },
    /// The peer asks for a call. Delivered at most once per call.
    Request {
        /// The connection.
        conn: ConnId,
        /// The call, to be answered with [`crate::endpoint::Endpoint::respond`].
        call: CallId,
        /// The method's number.
        method: u32,
        /// The lane, which the response will use too.
        lane: Lane,
        /// The caller's deadline on the local clock: the time that was left, less what the request was held up for.
        deadline: Instant,
        /// Whether the caller declared that executing twice is the same as once.
        idempotent: bool,
        /// How the body is to be read.
        form: Form,
        /// The arguments.
        body: Bytes,
    },
    /// A call of ours was answered. Delivered exactly once per call, unless the connection is lost before.
    Response {
        /// The connection.
        conn: ConnId,
        /// The call.
        call: CallId,
        /// See [`crate::wire::status`].
        status: u64,
        /// How the body is to be read.
        form: Form,
        /// The result.
        body: Bytes,
    },
    /// The peer gave up a call that we are serving; an answer to it will be ignored.
    Cancelled {
        /// The connection.
        conn: ConnId,
        /// The call.
        call: CallId,
    },
    /// The peer takes no new calls.
    Draining {
        /// The connection.
        conn: ConnId,
    },
    /// The connection is gone. The last event of a connection.
    Lost {
        /// The connection.
        conn: ConnId,
        /// Why.
        reason: LostReason,
        /// Our open calls; true when some byte of the request may have reached the peer.
        calls: Vec<(CallId, bool)>,
    },
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LostReason {
    /// The peer was silent for the idle timeout, or nothing was said for so long.
    Timeout,
    /// The setup exchange was not answered in time: nobody is there, or, with encryption, who is there has another key
    /// or another mode and cannot read what is asked.
    SetupTimeout {
        /// Whether this side encrypts.
        encrypted: bool,
    },
    /// The peer does not know the connection any more: it was restarted, or it dropped the connection.
    PeerRestarted,
    /// The peer closed the connection.
    Closed {
        /// The peer's code, see [`crate::wire::close`].
        code: u64,
        /// The peer's words, at most 256 bytes.
        reason: String,
    },
    /// The peer speaks no version that we speak.
    Version {
        /// What it speaks.
        supported: Vec<u32>,
    },
    /// The peer has proved to be somebody whom this side does not allow.
    Refused {
        /// Who it is.
        identity: Identity,
    },
    /// The peer broke the protocol in the way that is named here.
    Violation(&'static str),
    /// This side closed the connection.
    LocalClose,
}

impl fmt::Display for LostReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str("peer was silent for too long"),
            Self::SetupTimeout { encrypted: false } => f.write_str(
                "no answer to the setup exchange (a peer with a key file does not answer one without)",
            ),
            Self::SetupTimeout { encrypted: true } => {
                f.write_str("no answer to the setup exchange: is the key the same?")
            }
            Self::PeerRestarted => f.write_str("peer does not know the connection any more (restarted)"),
            Self::Closed { code, reason } => write!(f, "closed by the peer with code {code}: {reason}"),
            Self::Version { supported } => write!(f, "peer speaks only versions {supported:?}"),
            Self::Refused { identity } => write!(f, "not allowed here: {identity}"),
            Self::Violation(what) => write!(f, "peer broke the protocol: {what}"),
            Self::LocalClose => f.write_str("closed by this side"),
        }
    }
}

/// Why a request was not taken. The call was not executed and never will be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SendError {
    /// There is no such connection (any more).
    UnknownConnection,
    /// The peer takes no new calls on this connection.
    Draining,
    /// As many calls are open on this connection as either side allows.
    Busy,
    /// The body is larger than either side allows.
    TooLarge {
        /// The body's size in bytes.
        size: usize,
        /// The limit in bytes.
        max: usize,
    },
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownConnection => f.write_str("no such connection"),
            Self::Draining => f.write_str("peer takes no new calls"),
            Self::Busy => f.write_str("too many calls in flight on this connection"),
            Self::TooLarge { size, max } => write!(f, "message of {size} bytes is above the limit of {max}"),
        }
    }
}

impl std::error::Error for SendError {}

/// What is known about a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionInfo {
    /// The peer's address.
    pub remote: SocketAddr,
    /// The peer's identity as it claims it; 0 before the connection is established.
    pub client_id: u128,
    /// The peer's process; 0 before the connection is established.
    pub epoch: u64,
    /// Whether the setup exchange is complete.
    pub established: bool,
    /// Smoothed round trip time.
    pub rtt: Duration,
    /// When the last valid packet of the peer arrived, on the local clock; the start of the connection before that.
    pub heard: Instant,
    /// Whether the peer reads compressed bodies; false before the connection is established.
    pub compression: bool,
    /// Whether the peer opened the connection.
    pub inbound: bool,
    /// Calls of this side that are open.
    pub calling: usize,
    /// Calls of the peer that are open.
    pub serving: usize,
    /// Bytes in datagrams to the peer.
    pub bytes_sent: u64,
    /// Bytes in datagrams from the peer, setup packets not counted.
    pub bytes_received: u64,
    /// What the peer has proved about itself; nothing before the connection is established.
    pub identity: Identity,
}
