//! openraft's type configuration. All of openraft is imported in this crate only, behind our own types.

use std::fmt;

use bytes::Bytes;
use openraft::type_config::alias::{LogIdOf, SnapshotMetaOf, StoredMembershipOf};
use serde::{Deserialize, Serialize};

use crate::command::Reply;

openraft::declare_raft_types!(
    /// The types that openraft works with.
    pub(crate) TypeConfig:
        D = Proposal,
        R = Reply,
        NodeId = u64,
        Node = Member,
        AsyncRuntime = crate::runtime::NodeRuntime,
);

/// One command, encoded once ([`crate::command::Command::encode`]) and passed on as bytes.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Proposal(pub(crate) Bytes);

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proposal({} bytes)", self.0.len())
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A member as recorded in the replicated membership.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    /// Drawn once per empty data folder, durable before the node's first datagram. Zero only in tests.
    pub incarnation: u128,
    /// `host:port` or `ip:port`.
    pub address: String,
}

/// Where an entry stands in the log: its leader (term and node) and its index.
pub(crate) type LogId = LogIdOf<TypeConfig>;
/// The membership with the log id of the entry that set it.
pub(crate) type StoredMembership = StoredMembershipOf<TypeConfig>;
/// What openraft knows of a snapshot.
pub(crate) type SnapshotMeta = SnapshotMetaOf<TypeConfig>;
