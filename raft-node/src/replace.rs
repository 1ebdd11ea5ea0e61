//! Why a member was not replaced.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::outcome::Refusal;

/// Why a member was not replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplaceError {
    /// The request did not reach a leader that could act on it.
    Refused(Refusal),
    /// No such member.
    UnknownMember {
        /// The id that was named.
        id: u64,
    },
    /// The cluster would lose its quorum: too few of the other voters answer.
    QuorumAtRisk {
        /// The voters that answer.
        alive: Vec<u64>,
        /// How many are needed.
        needed: usize,
    },
    /// The old member itself is still answering with its data; only a lost one is replaced.
    StillAlive {
        /// The member.
        id: u64,
    },
    /// Nobody answers at the address.
    Unreachable {
        /// The address.
        address: String,
    },
    /// The node at the address belongs to a cluster already.
    NotEmpty {
        /// The address.
        address: String,
    },
    /// The change began and was not finished by the deadline; it can be repeated.
    Unfinished {
        /// What was being done.
        step: String,
    },
}

impl fmt::Display for ReplaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => refusal.fmt(f),
            Self::UnknownMember { id } => write!(f, "node {id} is not a member"),
            Self::QuorumAtRisk { alive, needed } => {
                write!(f, "only voters {alive:?} answer, {needed} are needed: the quorum would be lost")
            }
            Self::StillAlive { id } => {
                write!(f, "node {id} answers and has its data: it needs no replacement")
            }
            Self::Unreachable { address } => write!(f, "nobody answers at {address}"),
            Self::NotEmpty { address } => write!(f, "the node at {address} belongs to a cluster already"),
            Self::Unfinished { step } => write!(f, "not finished in time: {step}; it can be repeated"),
        }
    }
}

impl std::error::Error for ReplaceError {}
