//! What a node tells about itself, in our own types.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use openraft::alias::VoteOf;

use crate::outcome::Hint;
use crate::types::{LogId, TypeConfig};

/// What a node knows about itself and its cluster at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The id in the replicated membership; differs from the configured one after a replacement.
    pub id: u64,
    /// Drawn once for this data folder.
    pub incarnation: u128,
    /// The cluster this node belongs to.
    pub cluster: Option<u128>,
    /// Where it stands in its life.
    pub phase: Phase,
    /// Its part in the current term.
    pub role: Role,
    /// The leader it knows.
    pub leader: Option<Hint>,
    /// The vote it gave last; its term is the current one.
    pub vote: Vote,
    /// The last entry of its log.
    pub last_log_index: Option<u64>,
    /// The last entry it knows to be committed.
    pub committed: Option<LogPosition>,
    /// The last entry its state machine holds.
    pub applied: Option<LogPosition>,
    /// A hash over everything that applying can read, at `applied`: equal on all nodes that applied the same entries.
    pub state_hash: u128,
    /// Sessions open in the state.
    pub sessions: usize,
    /// The last entry in its snapshot.
    pub snapshot: Option<LogPosition>,
    /// The last entry removed from its log.
    pub purged: Option<LogPosition>,
    /// The members of the cluster, by id.
    pub members: Vec<MemberStatus>,
    /// On a leader: how long ago a quorum acknowledged it.
    pub quorum_ack_age: Option<Duration>,
}

impl Status {
    /// Whether this node can serve: it is a member and knows a leader (or leads, with a quorum).
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Running && self.leader.is_some()
    }
}

/// Where a node stands in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// An empty node that asks the listed members who they are.
    Forming {
        /// Those that have not answered yet.
        missing: Vec<u64>,
    },
    /// An empty node that waits to be taken in.
    Joining,
    /// An empty node under an id that the cluster knows with another incarnation: its data was lost. It neither votes
    /// nor appends until it is replaced by a new id.
    Replaced {
        /// The id, to be replaced.
        id: u64,
    },
    /// A member.
    Running,
    /// Stopping: it takes no new requests.
    Draining,
    /// It stopped, for this reason.
    Stopped(StopReason),
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forming { missing } => write!(f, "forming a cluster, waiting for members {missing:?}"),
            Self::Joining => f.write_str("waiting to be taken into the cluster"),
            Self::Replaced { id } => write!(f, "the cluster knows node {id} with other data: replace it"),
            Self::Running => f.write_str("running"),
            Self::Draining => f.write_str("draining"),
            Self::Stopped(reason) => write!(f, "stopped: {reason}"),
        }
    }
}

/// Why a node stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// It was asked to.
    Shutdown,
    /// Disk or state failed; the process must end, and say this.
    Fatal(String),
    /// The data is another cluster's than that of the members that are listed; the process must end, and say this.
    Foreign(String),
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shutdown => f.write_str("shut down"),
            Self::Fatal(reason) | Self::Foreign(reason) => f.write_str(reason),
        }
    }
}

/// A node's part in a term.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Receives the log, does not vote.
    Learner,
    /// Receives the log and votes.
    Follower,
    /// Asks for votes.
    Candidate,
    /// Writes the log.
    Leader,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Learner => "learner",
            Self::Follower => "follower",
            Self::Candidate => "candidate",
            Self::Leader => "leader",
        })
    }
}

/// A vote: for `node` in `term`; committed once a quorum gave the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    /// The term.
    pub term: u64,
    /// For whom.
    pub node: u64,
    /// Whether a quorum agreed.
    pub committed: bool,
}

/// The id of a log entry: its index and the leader that wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPosition {
    /// The leader's term.
    pub term: u64,
    /// The leader.
    pub leader: u64,
    /// The index.
    pub index: u64,
}

impl LogPosition {
    pub(crate) fn of(id: LogId) -> Self {
        Self { term: id.leader_id.term, leader: id.leader_id.node_id, index: id.index }
    }
}

impl Vote {
    pub(crate) fn of(vote: VoteOf<TypeConfig>) -> Self {
        Self { term: vote.leader_id.term, node: vote.leader_id.node_id, committed: vote.committed }
    }
}

impl PartialOrd for LogPosition {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for LogPosition {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.term, self.leader, self.index).cmp(&(other.term, other.leader, other.index))
    }
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (term {} of node {})", self.index, self.term, self.leader)
    }
}

/// One member as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// Its id.
    pub id: u64,
    /// Drawn once for its data folder.
    pub incarnation: u128,
    /// Its `host:port`.
    pub address: String,
    /// Whether it votes.
    pub voter: bool,
    /// On the leader: the last log index that it holds durably.
    pub matched: Option<u64>,
    /// On the leader: how long ago it acknowledged the leader.
    pub ack_age: Option<Duration>,
}
