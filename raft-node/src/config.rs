//! What a node is told at its start: who it is, whom it knows, its timers and limits.

use std::time::Duration;

use crate::command::{BODY_SIZE_MAX, SESSION_LIFETIME_MS_DEFAULT};
use crate::host::HostConfig;

/// What a node is told at its start. The same on the first start and on every later one.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// This node's id in [`NodeConfig::members`], from 1 to [`CONFIGURED_ID_MAX`]. A data folder belongs to the id it
    /// was made with. A node that replaced a lost one has an id above that in the cluster; its configuration stays.
    pub id: u64,
    /// The members a new cluster is made of, this node included: id and `host:port`. Later the replicated membership
    /// counts; then these are only the addresses to ask who is who.
    pub members: Vec<(u64, String)>,
    /// Whether an empty data folder means that this node waits to be taken into a running cluster, instead of making
    /// a new one with the other members.
    pub joining: bool,
    /// Heartbeats and elections.
    pub timers: Timers,
    /// What is refused before it is proposed.
    pub limits: Limits,
    /// When the log is replaced by a snapshot.
    pub snapshots: SnapshotTrigger,
    /// How much of the state may lie in memory only.
    pub host: HostConfig,
    /// How long an unused session lives. Fixed for ever when the cluster is founded; default 24 h.
    pub session_lifetime: Duration,
}

/// The highest id in a configuration. Ids above are given to nodes that take the place of lost ones.
pub const CONFIGURED_ID_MAX: u64 = 999;

impl NodeConfig {
    /// A configuration with default timers and limits.
    pub fn new(id: u64, members: Vec<(u64, String)>) -> Self {
        Self {
            id,
            members,
            joining: false,
            timers: Timers::default(),
            limits: Limits::default(),
            snapshots: SnapshotTrigger::default(),
            host: HostConfig::default(),
            session_lifetime: Duration::from_millis(SESSION_LIFETIME_MS_DEFAULT),
        }
    }

    /// This node's own address as the others reach it; empty if it is not listed.
    pub fn address(&self) -> &str {
        self.members.iter().find(|(id, _)| *id == self.id).map_or("", |(_, address)| address)
    }
}

/// Heartbeats and elections, as on a LAN. After a leader's last heartbeat a follower waits for
/// `election_max` (its lease) and then up to `election_max` more (its own, drawn once) before it asks for votes.
#[derive(Clone, Debug)]
pub struct Timers {
    /// Between two heartbeats. Default 50 ms.
    pub heartbeat: Duration,
    /// The shortest election timeout. Default 200 ms; several heartbeats.
    pub election_min: Duration,
    /// The longest election timeout, and the leader's lease. Default 350 ms.
    pub election_max: Duration,
    /// A leader that reaches no quorum for so long is silent between probes this far apart. Default 1 s; at least
    /// twice `election_max`.
    pub quorum_loss_probe: Duration,
}

impl Timers {
    /// How long a follower may take to make entries durable before it counts as unreachable: a slow disk is no error.
    pub(crate) fn append_timeout(&self) -> Duration {
        self.election_max * 5
    }
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(50),
            election_min: Duration::from_millis(200),
            election_max: Duration::from_millis(350),
            quorum_loss_probe: Duration::from_secs(1),
        }
    }
}

/// What is refused before it is proposed, with an answer that is definite.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The largest body of a write in bytes. Default, and most: [`BODY_SIZE_MAX`].
    pub body_size_max: usize,
    /// Proposals of this node that are not answered yet. Default 8,192; above it a write is refused as busy.
    pub proposals_max: usize,
    /// Bytes of bodies in those proposals. Default 64 MiB; above it a write is refused as busy.
    pub proposal_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { body_size_max: BODY_SIZE_MAX, proposals_max: 8_192, proposal_bytes_max: 64 << 20 }
    }
}

/// When the log is replaced by a snapshot: as soon as one of the two is reached since the last one.
#[derive(Clone, Debug)]
pub struct SnapshotTrigger {
    /// Applied log entries. Default 100,000.
    pub entries: u64,
    /// Bytes of log entries. Default 256 MiB.
    pub bytes: u64,
    /// Entries kept behind a snapshot, for followers that lag a little. Default 10,000.
    pub entries_kept: u64,
}

impl Default for SnapshotTrigger {
    fn default() -> Self {
        Self { entries: 100_000, bytes: 256 << 20, entries_kept: 10_000 }
    }
}
