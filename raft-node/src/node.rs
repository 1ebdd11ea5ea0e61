//! What a user holds: a node, from its first look at the disk to its shutdown.
//!
//! The order of a start is part of the API, because a node must know who it is before its first datagram:
//! [`Boot::open`] reads (or draws, durably) its identity; [`Boot::services`] are merged into the services of the peer;
//! the peer opens the socket; [`Boot::start`] begins.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rpc_core::peer::Peer;
use rpc_core::rpc::Services;
use rpc_core::runtime::{Instant, Runtime};

use crate::config::NodeConfig;
use crate::disk::Disk;
use crate::machine::{RowsRead, StateMachine};
use crate::outcome::{CloseOutcome, Consistency, OpenOutcome, Read, ReadError, Refusal, WriteOutcome};
use crate::resolver::Resolver;
use crate::status::{Status, StopReason};

/// A node that knows who it is, and has not spoken yet.
pub struct Boot<S> {
    machine: Arc<S>,
}

impl<S: StateMachine> Boot<S> {
    /// Opens log and state in `disk`, and reads this node's identity from it; an empty disk gets a new one, which is
    /// durable when this returns.
    ///
    /// # Errors
    /// When the disk fails, holds damaged data, or belongs to another node.
    pub async fn open(
        _runtime: Runtime,
        _disk: Disk,
        machine: Arc<S>,
        _config: NodeConfig,
    ) -> Result<Self, StartError> {
        Ok(Self { machine })
    }

    /// What this node serves to other nodes, below `raft`. To be merged into the services of its peer. Calls that come
    /// before [`Boot::start`] are refused as not executed.
    pub fn services(&self) -> Services {
        unimplemented!("interface first")
    }

    /// Starts the node. It takes part in its cluster as soon as it knows it; [`Node::status`] tells.
    pub fn start(self, _peer: Peer, _resolver: Arc<dyn Resolver>) -> Node<S> {
        Node { machine: self.machine }
    }
}

/// A running node. Cheap to clone.
pub struct Node<S> {
    machine: Arc<S>,
}

impl<S: StateMachine> Node<S> {
    /// What this node knows about itself and its cluster.
    pub fn status(&self) -> Status {
        unimplemented!("interface first")
    }

    /// Waits until `condition` holds, at most until `deadline`; the status that was looked at last.
    ///
    /// # Errors
    /// The status at the deadline.
    pub async fn wait_for(
        &self,
        _condition: impl Fn(&Status) -> bool + Send,
        _deadline: Instant,
    ) -> Result<Status, Box<Status>> {
        unimplemented!("interface first")
    }

    /// Completes when the node has stopped; after [`StopReason::Fatal`] the process must end.
    pub async fn stopped(&self) -> StopReason {
        unimplemented!("interface first")
    }

    /// Opens a session. `nonce` makes repeated calls answer the same session.
    pub async fn open_session(&self, _nonce: u128, _deadline: Instant) -> OpenOutcome {
        unimplemented!("interface first")
    }

    /// Ends a session; its records are dropped.
    pub async fn close_session(&self, _session: u64, _deadline: Instant) -> CloseOutcome {
        unimplemented!("interface first")
    }

    /// Writes `body`, exactly once however often it is asked for (session, sequence); `floor`: every answer with a
    /// lower sequence was received. A node that is not the leader forwards to it.
    pub async fn write(
        &self,
        _session: u64,
        _sequence: u64,
        _floor: u64,
        _body: Bytes,
        _deadline: Instant,
    ) -> WriteOutcome {
        unimplemented!("interface first")
    }

    /// Settles the outcome of (session, sequence): what it was, or from now on for ever rolled back.
    pub async fn resolve(&self, _session: u64, _sequence: u64, _deadline: Instant) -> WriteOutcome {
        unimplemented!("interface first")
    }

    /// Reads rows of the state machine, all at one revision.
    ///
    /// # Errors
    /// When nobody vouched for the read in time, or the disk failed.
    pub async fn read<T: Send>(
        &self,
        _consistency: Consistency,
        _deadline: Instant,
        _read: impl FnOnce(&dyn RowsRead) -> std::io::Result<T> + Send,
    ) -> Result<Read<T>, ReadError> {
        unimplemented!("interface first")
    }

    /// Replaces a member whose data was lost by the empty node at `address` (by default where the old one was): it
    /// gets a new id, learns the log, and then takes the old one's vote. Returns the new id.
    ///
    /// # Errors
    /// When it would cost the quorum, the node at `address` is not empty, or the cluster did not agree in time. It can
    /// be repeated.
    pub async fn replace_member(
        &self,
        _old: u64,
        _address: Option<String>,
        _deadline: Instant,
    ) -> Result<u64, ReplaceError> {
        unimplemented!("interface first")
    }

    /// Hands leadership to `to`, or to the member that holds most of the log. Does nothing on a node that does not
    /// lead. Returns the new leader.
    ///
    /// # Errors
    /// When nobody else led by the deadline.
    pub async fn transfer_leadership(&self, _to: Option<u64>, _deadline: Instant) -> Result<u64, Refusal> {
        unimplemented!("interface first")
    }

    /// Stops the node: refuses new requests, hands leadership over, lets open proposals end for at most `grace`,
    /// makes everything durable.
    pub async fn shutdown(&self, _grace: Duration) {
        unimplemented!("interface first")
    }
}

impl<S> Clone for Node<S> {
    fn clone(&self) -> Self {
        Self { machine: Arc::clone(&self.machine) }
    }
}

impl<S> fmt::Debug for Node<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Node")
    }
}

impl<S> fmt::Debug for Boot<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Boot")
    }
}

/// Why a node did not start.
#[derive(Debug)]
pub enum StartError {
    /// The configuration contradicts itself.
    Config(String),
    /// The data belongs to another node.
    Foreign {
        /// The id the data was made with.
        found: u64,
        /// The id in the configuration.
        configured: u64,
    },
    /// The data is damaged or of a format that this version does not read.
    Damaged(String),
    /// The disk failed.
    Disk(std::io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(what) => write!(f, "configuration: {what}"),
            Self::Foreign { found, configured } => {
                write!(f, "the data folder belongs to node {found}, not to node {configured}")
            }
            Self::Damaged(what) => write!(f, "the data folder is damaged: {what}"),
            Self::Disk(error) => write!(f, "disk: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

/// Why a member was not replaced.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
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
