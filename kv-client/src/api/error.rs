//! Why a call has no answer, and whom to ask instead.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::SEQUENCE_WINDOW;

/// Why a call has no answer. Each variant but [`KvError::Unknown`] is definite for the attempt that got it: that
/// attempt has no effect and never will.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KvError {
    /// Definite: this node does not lead, and could not hand the request to a node that does.
    #[serde(rename = "l")]
    NotLeader {
        /// The leader it knows.
        #[serde(rename = "l")]
        leader: Option<Hint>,
    },
    /// Definite: no quorum vouched for this node's leadership.
    #[serde(rename = "q")]
    NoQuorum,
    /// Definite: a limit on work in flight is reached; try later.
    #[serde(rename = "b")]
    Busy {
        /// How long to wait.
        #[serde(rename = "w")]
        retry_after_ms: u64,
    },
    /// Definite: larger than allowed.
    #[serde(rename = "t")]
    TooLarge {
        /// What.
        #[serde(rename = "o")]
        what: Limited,
        /// Its size in bytes.
        #[serde(rename = "s")]
        size: u64,
        /// The limit in bytes.
        #[serde(rename = "m")]
        max: u64,
    },
    /// Definite: keys have at least one byte.
    #[serde(rename = "e")]
    EmptyKey,
    /// Definite: the session table is full; nothing was opened.
    #[serde(rename = "sf")]
    SessionsFull,
    /// Definite: the session is not in the table. Earlier attempts of the same write cannot be known any more.
    #[serde(rename = "sx")]
    SessionExpired,
    /// Definite: the sequence lies below the session's floor. What the write did was answered before.
    #[serde(rename = "st")]
    Stale,
    /// Definite: the sequence lies [`SEQUENCE_WINDOW`] or more above the floor; a later attempt with a higher floor
    /// may pass.
    #[serde(rename = "sr")]
    RecordsFull,
    /// Definite: the node is stopping.
    #[serde(rename = "dr")]
    Draining,
    /// Definite: the node is not, or not yet, part of a cluster.
    #[serde(rename = "nm")]
    NotMember {
        /// Where it stands, in one sentence.
        #[serde(rename = "w")]
        phase: String,
    },
    /// Definite: the request names another cluster than the node's.
    #[serde(rename = "fc")]
    ForeignCluster {
        /// The node's cluster.
        #[serde(rename = "c")]
        cluster: u128,
    },
    /// Definite: the deadline came before anything was proposed, or before a read could be served.
    #[serde(rename = "dl")]
    Deadline,
    /// Definite: the caller may not do this here.
    #[serde(rename = "dn")]
    Denied {
        /// Why, in one sentence.
        #[serde(rename = "w")]
        reason: String,
    },
    /// Definite: the node's disk failed before anything was proposed, or while a read was served.
    #[serde(rename = "dk")]
    Disk {
        /// What failed.
        #[serde(rename = "w")]
        reason: String,
    },
    /// Definite: the leader's disk is so full that it takes no writes. Reads go on, and writes once there is space.
    #[serde(rename = "df")]
    DiskFull {
        /// Bytes that are free.
        #[serde(rename = "f")]
        free: u64,
        /// Bytes that are kept free.
        #[serde(rename = "r")]
        reserve: u64,
    },
    /// Not definite: the request may have taken effect, or may still do so, or may not.
    #[serde(rename = "u")]
    Unknown,
}

/// What has a limit on its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Limited {
    /// A key.
    #[serde(rename = "k")]
    Key,
    /// A value.
    #[serde(rename = "v")]
    Value,
    /// A whole request.
    #[serde(rename = "r")]
    Request,
}

impl KvError {
    /// Whether the attempt that got this error certainly has no effect.
    pub fn is_definite(&self) -> bool {
        !matches!(self, Self::Unknown)
    }

    /// Where to ask instead, if it says so.
    pub fn leader(&self) -> Option<&Hint> {
        match self {
            Self::NotLeader { leader } => leader.as_ref(),
            _ => None,
        }
    }

    pub(super) fn too_large(what: Limited, size: usize, max: usize) -> Self {
        Self::TooLarge { what, size: size as u64, max: max as u64 }
    }
}

impl fmt::Display for Limited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key => "key",
            Self::Value => "value",
            Self::Request => "request",
        })
    }
}

impl fmt::Display for KvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLeader { leader: Some(leader) } => write!(f, "not the leader, which is {leader}"),
            Self::NotLeader { leader: None } => f.write_str("no leader is known"),
            Self::NoQuorum => f.write_str("no quorum answers"),
            Self::Busy { retry_after_ms } => write!(f, "busy, try again in {retry_after_ms} ms"),
            Self::TooLarge { what, size, max } => {
                write!(f, "the {what} of {size} bytes is larger than the limit of {max} bytes")
            }
            Self::EmptyKey => f.write_str("the key is empty; it must have at least one byte"),
            Self::SessionsFull => f.write_str("the session table is full, try later"),
            Self::SessionExpired => f.write_str("the session has expired"),
            Self::Stale => f.write_str("the answer was received before"),
            Self::RecordsFull => {
                write!(f, "{SEQUENCE_WINDOW} writes of the session are not acknowledged yet")
            }
            Self::Draining => f.write_str("the node is stopping"),
            Self::NotMember { phase } => write!(f, "the node is not part of a cluster: {phase}"),
            Self::ForeignCluster { cluster } => write!(f, "the node belongs to cluster {cluster:032x}"),
            Self::Deadline => f.write_str("the time was over before the request could be served"),
            Self::Denied { reason } => write!(f, "denied: {reason}"),
            Self::Disk { reason } => write!(f, "the node's disk failed: {reason}"),
            Self::DiskFull { free, reserve } => {
                write!(
                    f,
                    "the leader's disk is full: {free} bytes are left, of which {reserve} are kept free"
                )
            }
            Self::Unknown => f.write_str("the outcome is unknown"),
        }
    }
}

impl std::error::Error for KvError {}

/// A member to ask instead. Only a hint: it may be wrong by now, or not reachable from here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hint {
    /// Its id.
    #[serde(rename = "i")]
    pub id: u64,
    /// Its `host:port`.
    #[serde(rename = "a")]
    pub address: String,
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} at {}", self.id, self.address)
    }
}
