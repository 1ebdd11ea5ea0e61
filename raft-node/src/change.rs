//! Changes of who is a member and who leads, and why one was not made.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::outcome::Refusal;

/// A change of who is a member, or who leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// The empty node at `address` (by default where the old one was) takes the place of a member whose data was lost.
    Replace {
        /// The member.
        old: u64,
        /// Where its successor listens, as `host:port`.
        address: Option<String>,
    },
    /// The empty node at `address` becomes a member: it learns the log, and then votes.
    Add {
        /// Where it listens, as `host:port`.
        address: String,
    },
    /// A member is one no more.
    Remove {
        /// The member.
        id: u64,
    },
    /// A voter leads; by default the one that holds most of the log.
    Lead {
        /// The voter.
        id: Option<u64>,
    },
}

/// Why a change was not made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChangeError {
    /// The request did not reach a leader that could act on it.
    Refused(Refusal),
    /// No such member.
    UnknownMember {
        /// The id that was named.
        id: u64,
    },
    /// Another member listens at that address.
    AlreadyMember {
        /// The member.
        id: u64,
    },
    /// The cluster would lose its quorum: too few of those who vote before or after the change answer.
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

impl fmt::Display for ChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => refusal.fmt(f),
            Self::UnknownMember { id } => write!(f, "node {id} is not a member"),
            Self::AlreadyMember { id } => {
                write!(f, "node {id} is a member at this address: if its data is lost, replace it")
            }
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

impl std::error::Error for ChangeError {}
