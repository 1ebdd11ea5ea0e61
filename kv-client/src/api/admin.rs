//! What is asked about nodes, not keys: status, health, members, snapshots, connections, traces, link faults, version.

use std::fmt;
use std::net::SocketAddr;

use bytes::Bytes;
use rpc_core::driver::fault::{Direction, FaultHits, LinkPolicy};
use serde::{Deserialize, Serialize};

use super::{Hint, KvError};

/// What a node knows about itself and its cluster at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The node's id in the membership.
    pub id: u64,
    /// Drawn once for its data folder.
    pub incarnation: u128,
    /// The cluster it belongs to; `None` before it belongs to one.
    pub cluster: Option<u128>,
    /// Where it stands in its life, for people.
    pub phase: String,
    /// Whether it can serve now: a member that knows a leader (or leads with a quorum).
    pub ready: bool,
    /// Its part in the current term.
    pub role: Role,
    /// The leader it knows, itself included.
    pub leader: Option<Hint>,
    /// The current term.
    pub term: u64,
    /// The index of the last entry in its log.
    pub last_log: Option<u64>,
    /// The index of the last entry it knows to be committed.
    pub committed: Option<u64>,
    /// The index of the last entry its state machine holds.
    pub applied: Option<u64>,
    /// The index of the last entry in its snapshot.
    pub snapshot: Option<u64>,
    /// The revision of the last applied entry.
    pub revision: u64,
    /// A hash over the whole state at `applied`: equal on all nodes that applied the same entries.
    pub state_hash: u128,
    /// The members, by id.
    pub members: Vec<Member>,
    /// Open sessions.
    pub sessions: u64,
    /// The version of the server.
    pub version: String,
    /// Milliseconds since the node started.
    pub uptime_ms: u64,
    /// Whether link faults may be set on it.
    pub faults_enabled: bool,
    /// Whether its traffic is only checked, not encrypted.
    pub insecure: bool,
    /// Counters since the start, by name (the names of docs/METRICS where there is such a metric).
    pub counters: Vec<(String, u64)>,
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

/// One member as the asked node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its id.
    pub id: u64,
    /// Its `host:port`.
    pub address: String,
    /// Drawn once for its data folder.
    pub incarnation: u128,
    /// Whether it votes.
    pub voter: bool,
    /// From the leader: the last log index that it holds durably.
    pub matched: Option<u64>,
    /// From the leader: milliseconds since it acknowledged the leader.
    pub ack_age_ms: Option<u64>,
}

/// The health of one process and its disk; the quorum plays no part in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Whether process and disk work.
    pub healthy: bool,
    /// What does not, in one sentence.
    pub reason: Option<String>,
}

/// A change of who is a member, or who leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberChange {
    /// An empty node takes the place of a member whose data was lost.
    Replace {
        /// The id of the lost member.
        old: u64,
        /// Where its successor listens (`host:port`); `None`: where the old one did.
        address: Option<String>,
    },
    /// An empty node becomes a member: it learns the log, and then votes.
    Add {
        /// Where it listens (`host:port`).
        address: String,
    },
    /// A member is one no more.
    Remove {
        /// Its id.
        id: u64,
    },
    /// A voter leads.
    Lead {
        /// Its id; `None`: the one that holds most of the log.
        id: Option<u64>,
    },
}

/// The change is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// The id of the new member, which votes now; of the removed one; or of the leader.
    pub id: u64,
}

/// Why a change was not made. It can be repeated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChangeError {
    /// The request did not reach a leader that could act on it.
    Refused(KvError),
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
        needed: u64,
    },
    /// The old member is answering with its data: only a lost one is replaced.
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
    /// The change began and was not finished by the deadline.
    Unfinished {
        /// What was being done.
        step: String,
    },
}

impl fmt::Display for ChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => error.fmt(f),
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

/// A snapshot of the whole state, to be read in parts from the node that has it, as long as it has no two newer ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotOffer {
    /// Names it at this node.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// The CRC32C of all of it.
    pub crc: u32,
    /// The log index of the last entry in it.
    pub index: u64,
    /// The revision of that entry: it holds every write at or below, and none above.
    pub revision: u64,
}

/// Asks for a part of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotPart {
    /// As the offer names it.
    pub name: String,
    /// Where the part begins, in bytes.
    pub offset: u64,
}

/// A part of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotBytes {
    /// At least one byte, unless the offset was at the end.
    pub bytes: Bytes,
}

/// Asks for the connections of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionsRequest {
    /// End the connections with this address first.
    pub close: Option<SocketAddr>,
}

/// The connections of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// The asked node.
    pub node: u64,
    /// Connections that were closed.
    pub closed: u64,
    /// Those that are there, clients and other nodes alike.
    pub connections: Vec<Connection>,
}

/// A connection of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// The other end.
    pub address: SocketAddr,
    /// Whether the other end opened it.
    pub inbound: bool,
    /// Whether what travels is encrypted and authenticated.
    pub encrypted: bool,
    /// Milliseconds since the last valid packet from there.
    pub idle_ms: u64,
    /// The smoothed round trip time in microseconds.
    pub rtt_us: u64,
    /// Requests from there that are being served.
    pub serving: u64,
    /// Requests to there that are open.
    pub calling: u64,
    /// Bytes in datagrams from there.
    pub bytes_received: u64,
    /// Bytes in datagrams to there.
    pub bytes_sent: u64,
}

/// Changes the link faults of a node's socket; only where they were enabled at its start. An empty request changes
/// nothing and answers what is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultsRequest {
    /// Draw later faults from this seed.
    pub seed: Option<u64>,
    /// Remove all faults before `set` is obeyed.
    pub heal: bool,
    /// Set the policies of these directed links.
    pub set: Vec<LinkFault>,
}

/// The policy of one directed link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkFault {
    /// Which way, seen from the asked node.
    pub direction: Direction,
    /// The other end.
    pub remote: SocketAddr,
    /// What happens to the datagrams.
    pub policy: LinkPolicy,
}

/// The link faults in force after a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultsReply {
    /// The links that have a policy.
    pub links: Vec<LinkFault>,
    /// Datagrams hit since the start; faults that hit nothing prove nothing.
    pub hits: FaultHits,
}

/// Asks for the steps of one trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceRequest {
    /// The trace.
    pub trace: u128,
}

/// What one node remembers of a trace. It remembers the latest steps only, and none after a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traced {
    /// The asked node's id.
    pub node: u64,
    /// Its steps, in the order in which they ended.
    pub spans: Vec<TraceSpan>,
}

/// One step that a node took for a traced request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceSpan {
    /// The call that was being served, as its caller numbered it.
    pub call: u64,
    /// How many methods called on before this one was called: 0 for what a client called.
    pub hops: u64,
    /// What was done.
    pub step: TraceStep,
    /// Microseconds from its beginning to this answer.
    pub age_us: u64,
    /// Microseconds that it took.
    pub time_us: u64,
    /// How it ended, in a word: `answered`, `refused`, `busy`, `unknown`, `given up`.
    pub outcome: String,
}

/// What a node does for a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TraceStep {
    /// It served a call.
    Served {
        /// The full name of the method.
        method: String,
        /// Who called.
        caller: SocketAddr,
    },
    /// It asked the leader.
    Forwarded {
        /// The leader's id.
        to: u64,
    },
    /// It took a command through the log: appended, durable on a majority, applied.
    Proposed,
    /// It had a quorum confirm that it leads, for a read.
    Confirmed,
}

/// Who answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// The version of the server.
    pub version: String,
    /// The version of the contract that it speaks: [`super::PROTOCOL`].
    pub protocol: u32,
}
