//! What a request to a node can end in: three words for writes (settled, refused, unknown), and why.

use std::fmt;
use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::command::Record;

/// What became of a write of (session, sequence), or of asking for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// It is settled for ever: applied, or rolled back.
    Settled(Record),
    /// The sequence lies below the session's floor: its answer was received before.
    Stale,
    /// No such session: the write had no effect. Earlier attempts of it cannot be known any more.
    SessionExpired,
    /// The session holds as many records as it may; this attempt had no effect. A later one with a higher floor may
    /// pass.
    RecordsFull,
    /// This call certainly had no effect and never will.
    Refused(Refusal),
    /// It may be applied now, later or never: ask with [`crate::Node::resolve`].
    Unknown,
}

/// What became of opening a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenOutcome {
    /// The session is open.
    Opened {
        /// Its id.
        session: u64,
    },
    /// The session table is full; nothing was opened.
    SessionsFull,
    /// Certainly nothing was opened.
    Refused(Refusal),
    /// It may be open: open again with the same nonce.
    Unknown,
}

/// What became of closing a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseOutcome {
    /// It is closed, or was not open.
    Closed,
    /// It was not closed.
    Refused(Refusal),
    /// It may be closed.
    Unknown,
}

/// Why a request certainly had no effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// This node is not the leader, and could not reach it in time.
    NotLeader {
        /// The leader this node knows.
        leader: Option<Hint>,
    },
    /// This node leads, but has heard no quorum for a lease: somebody else may lead by now.
    LeaseExpired,
    /// As many proposals are in flight as allowed; try later.
    Busy,
    /// The body is larger than allowed.
    TooLarge {
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// This node is stopping.
    Draining,
    /// This node is not (yet) part of a cluster: see [`crate::Node::status`].
    NotMember,
    /// The deadline passed before anything was proposed.
    Deadline,
    /// The leader's disk is so full that it takes no writes; reads go on, and writes once there is space again.
    DiskFull {
        /// Bytes that are free.
        free: u64,
        /// Bytes that are kept free.
        reserve: u64,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLeader { leader: Some(leader) } => write!(f, "not the leader, which is {leader}"),
            Self::NotLeader { leader: None } => f.write_str("no leader known"),
            Self::LeaseExpired => f.write_str("leader without a quorum"),
            Self::Busy => f.write_str("too many proposals in flight"),
            Self::TooLarge { size, max } => write!(f, "command of {size} bytes is above the limit of {max}"),
            Self::Draining => f.write_str("node is stopping"),
            Self::NotMember => f.write_str("node is not part of a cluster yet"),
            Self::Deadline => f.write_str("deadline passed before anything was proposed"),
            Self::DiskFull { free, reserve } => {
                write!(f, "the leader's disk has {free} bytes left, of which {reserve} are kept free")
            }
        }
    }
}

/// A member to ask instead. Only a hint: it may be wrong by now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hint {
    /// Its id.
    pub id: u64,
    /// Its `host:port`.
    pub address: String,
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} at {}", self.id, self.address)
    }
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Consistency {
    /// It sees every write that was answered before it began: the leader asks a quorum (ReadIndex, no clocks).
    Linearizable,
    /// It sees what this node has applied, and is told how old that may be.
    Stale,
}

/// A read and where it stands.
#[derive(Clone, Debug)]
pub struct Read<T> {
    /// What was read.
    pub value: T,
    /// The revision of the last applied write that it saw.
    pub revision: u64,
    /// How old it may be.
    pub age: Age,
}

/// How old a read may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Age {
    /// Everything that was answered before the read began is in it.
    Linearizable,
    /// Everything that was answered so long before is in it.
    AtMost(Duration),
    /// This node cannot tell.
    Unbounded,
}

/// Why a read was not served. It can be repeated.
#[derive(Debug)]
pub enum ReadError {
    /// No quorum vouched for it.
    Refused(Refusal),
    /// The deadline passed before this node had applied enough.
    Deadline,
    /// The disk failed.
    Disk(io::Error),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Deadline => f.write_str("deadline passed before the read could be served"),
            Self::Disk(error) => write!(f, "disk: {error}"),
        }
    }
}

impl std::error::Error for ReadError {}
