//! The contract between client and server: the service trait, and the types that travel. They are ours, versioned by
//! [`PROTOCOL`], and apart from the types of the log.
//!
//! Knows nothing of routing, retries or how a node does what it answers.
//!
//! **What an error means.** A method either answers, or fails with a [`KvError`]. All of them but
//! [`KvError::Unknown`] are *definite for this attempt*: the call that got it has no effect and never will. They say
//! nothing about other attempts of the same write: an outcome belongs to (session, sequence), and once one attempt
//! may have reached a proposer, only a [`WriteReply`] settles it.

use std::fmt;
use std::net::SocketAddr;

use bytes::Bytes;
use rpc_core::driver::fault::{Direction, FaultHits, LinkPolicy};
use serde::{Deserialize, Serialize};

mod service;

pub use service::{Kv, KvClient, kv_services};

/// The version of this contract. A server answers it in [`Version`]; types only grow within one version.
pub const PROTOCOL: u32 = 1;
/// The longest key in bytes; the shortest has one.
pub const KEY_SIZE_MAX: usize = 4 * 1024;
/// The largest value in bytes.
pub const VALUE_SIZE_MAX: usize = 1024 * 1024;
/// The sequences that one session may have at or above its floor: a write must satisfy
/// `sequence - floor < SEQUENCE_WINDOW`, or it is refused with [`KvError::RecordsFull`].
pub const SEQUENCE_WINDOW: u64 = 960;

/// Opens a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenRequest {
    /// Random; repeated opens with the same nonce answer the same session.
    #[serde(rename = "n")]
    pub nonce: u128,
}

/// An open session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// Its id; never used again in this cluster.
    #[serde(rename = "s")]
    pub session: u64,
    /// The cluster that it belongs to.
    #[serde(rename = "c")]
    pub cluster: u128,
    /// How long it lives after its last use.
    #[serde(rename = "x")]
    pub lifetime_ms: u64,
    /// The leader, if it is not the node that answered.
    #[serde(rename = "l")]
    pub leader: Option<Hint>,
}

/// Ends a session: its records are dropped, so that its writes cannot be asked for any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloseRequest {
    /// The cluster that the session belongs to.
    #[serde(rename = "c")]
    pub cluster: u128,
    /// The session.
    #[serde(rename = "s")]
    pub session: u64,
}

/// A write, exactly once however often it is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteRequest {
    /// The cluster that the session belongs to: session ids of two clusters may be equal.
    #[serde(rename = "c")]
    pub cluster: u128,
    /// The session.
    #[serde(rename = "s")]
    pub session: u64,
    /// The number of the write in the session, from 1.
    #[serde(rename = "q")]
    pub sequence: u64,
    /// Every answer with a lower sequence was received, from 1.
    #[serde(rename = "f")]
    pub floor: u64,
    /// What to write.
    #[serde(rename = "o")]
    pub op: WriteOp,
}

/// What a write does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WriteOp {
    /// Sets a key, whatever it holds.
    #[serde(rename = "p")]
    Put {
        /// 1 to [`KEY_SIZE_MAX`] bytes.
        #[serde(rename = "k")]
        key: Bytes,
        /// Up to [`VALUE_SIZE_MAX`] bytes.
        #[serde(rename = "v")]
        value: Bytes,
    },
    /// Removes a key; one that is not there stays so.
    #[serde(rename = "d")]
    Delete {
        /// 1 to [`KEY_SIZE_MAX`] bytes.
        #[serde(rename = "k")]
        key: Bytes,
    },
    /// Sets a key if the condition holds.
    #[serde(rename = "c")]
    Cas {
        /// 1 to [`KEY_SIZE_MAX`] bytes.
        #[serde(rename = "k")]
        key: Bytes,
        /// What must be true of the key before.
        #[serde(rename = "e")]
        expect: Expect,
        /// Up to [`VALUE_SIZE_MAX`] bytes.
        #[serde(rename = "v")]
        value: Bytes,
    },
}

/// The condition of a [`WriteOp::Cas`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expect {
    /// The key is not there.
    #[serde(rename = "a")]
    Absent,
    /// The key was last written at this revision.
    #[serde(rename = "r")]
    Revision(u64),
    /// The key holds exactly these bytes.
    #[serde(rename = "v")]
    Value(Bytes),
}

impl WriteOp {
    /// The key it is about.
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Put { key, .. } | Self::Delete { key } | Self::Cas { key, .. } => key,
        }
    }

    /// Checks key and values against their limits, as client and server both do before anything is proposed.
    ///
    /// # Errors
    /// [`KvError::EmptyKey`] or [`KvError::TooLarge`].
    pub fn check(&self) -> Result<(), KvError> {
        check_key(self.key())?;
        match self {
            Self::Put { value, .. } => check_value(value),
            Self::Delete { .. } => Ok(()),
            Self::Cas { expect, value, .. } => {
                if let Expect::Value(expected) = expect {
                    check_value(expected)?;
                }
                check_value(value)
            }
        }
    }
}

/// Checks a key against its limits.
///
/// # Errors
/// [`KvError::EmptyKey`] or [`KvError::TooLarge`].
pub fn check_key(key: &[u8]) -> Result<(), KvError> {
    match key.len() {
        0 => Err(KvError::EmptyKey),
        size if size > KEY_SIZE_MAX => Err(KvError::too_large(Limited::Key, size, KEY_SIZE_MAX)),
        _ => Ok(()),
    }
}

/// Checks a value against its limit.
///
/// # Errors
/// [`KvError::TooLarge`].
pub fn check_value(value: &[u8]) -> Result<(), KvError> {
    if value.len() > VALUE_SIZE_MAX {
        return Err(KvError::too_large(Limited::Value, value.len(), VALUE_SIZE_MAX));
    }
    Ok(())
}

/// The answer to a write that is settled for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteAnswer {
    /// How it was settled.
    #[serde(rename = "r")]
    pub reply: WriteReply,
    /// The leader, if it is not the node that answered.
    #[serde(rename = "l")]
    pub leader: Option<Hint>,
}

/// How a write was settled for ever, each at a revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WriteReply {
    /// It took effect.
    #[serde(rename = "c")]
    Committed {
        /// The revision of the write.
        #[serde(rename = "r")]
        revision: u64,
        /// Whether the key was there before.
        #[serde(rename = "x")]
        existed: bool,
    },
    /// The condition did not hold: no effect.
    #[serde(rename = "f")]
    ConditionFailed {
        /// The revision at which it was judged.
        #[serde(rename = "r")]
        revision: u64,
        /// The revision at which the key was last written; `None` if it was not there.
        #[serde(rename = "m")]
        mod_revision: Option<u64>,
    },
    /// A resolve came first: it never had and never will have an effect.
    #[serde(rename = "b")]
    RolledBack {
        /// The revision of the tombstone.
        #[serde(rename = "r")]
        revision: u64,
    },
    /// The state machine refused the command (beyond a limit, or of a format it does not know): no effect.
    #[serde(rename = "j")]
    Rejected {
        /// The revision at which it was refused.
        #[serde(rename = "r")]
        revision: u64,
    },
}

impl WriteReply {
    /// The revision at which the write was settled.
    pub fn revision(&self) -> u64 {
        match self {
            Self::Committed { revision, .. }
            | Self::ConditionFailed { revision, .. }
            | Self::RolledBack { revision }
            | Self::Rejected { revision } => *revision,
        }
    }
}

/// Asks what became of a write, and settles it: a write without a record is rolled back for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolveRequest {
    /// The cluster that the session belongs to.
    #[serde(rename = "c")]
    pub cluster: u128,
    /// The session.
    #[serde(rename = "s")]
    pub session: u64,
    /// The number of the write.
    #[serde(rename = "q")]
    pub sequence: u64,
    /// As in [`WriteRequest`] when the session's owner asks; 0 from anybody who holds only a token.
    #[serde(rename = "f")]
    pub floor: u64,
}

/// What became of a write that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Resolved {
    /// It is settled.
    #[serde(rename = "s")]
    Settled(WriteReply),
    /// It cannot be known any more; this never means *not committed*.
    #[serde(rename = "u")]
    Unknowable(Unknowable),
}

/// Why the outcome of a write cannot be known any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unknowable {
    /// The session is not in the table: it expired or was closed.
    #[serde(rename = "x")]
    SessionExpired,
    /// The session's owner had received the answer, so that it was dropped.
    #[serde(rename = "s")]
    AnswerReceived,
    /// The write belongs to another cluster.
    #[serde(rename = "c")]
    ForeignCluster,
}

impl fmt::Display for Unknowable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SessionExpired => "its session has expired or was closed",
            Self::AnswerReceived => "its answer was received before, and dropped after that",
            Self::ForeignCluster => "it belongs to another cluster",
        })
    }
}

/// Reads a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetRequest {
    /// 1 to [`KEY_SIZE_MAX`] bytes.
    #[serde(rename = "k")]
    pub key: Bytes,
    /// How fresh the answer must be.
    #[serde(rename = "c")]
    pub consistency: Consistency,
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Consistency {
    /// It sees every write that was answered before it began.
    #[default]
    #[serde(rename = "l")]
    Linearizable,
    /// It sees what the asked node has applied, and is told how old that may be.
    #[serde(rename = "s")]
    Stale,
}

/// What a read saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetReply {
    /// The key's value; `None` if it is not there.
    #[serde(rename = "v")]
    pub value: Option<Versioned>,
    /// The revision of the last applied write that the read saw.
    #[serde(rename = "r")]
    pub revision: u64,
    /// How old it may be.
    #[serde(rename = "a")]
    pub age: Age,
    /// The leader, if it is not the node that answered.
    #[serde(rename = "l")]
    pub leader: Option<Hint>,
}

/// A value and the revision that wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versioned {
    /// The bytes.
    #[serde(rename = "v")]
    pub value: Bytes,
    /// The revision at which the key was last written.
    #[serde(rename = "m")]
    pub mod_revision: u64,
}

/// How old a read may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Age {
    /// Everything that was answered before the read began is in it.
    #[serde(rename = "l")]
    Linearizable,
    /// Everything that was answered so many milliseconds before is in it.
    #[serde(rename = "m")]
    AtMostMs(u64),
    /// The node cannot tell.
    #[serde(rename = "u")]
    Unbounded,
}

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
    /// The state hash at `applied`, where the node has one.
    pub state_hash: Option<u64>,
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

/// Replaces a member whose data was lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplaceRequest {
    /// The id of the lost member.
    pub old: u64,
    /// Where its successor, an empty node, listens (`host:port`); `None`: where the old one did.
    pub address: Option<String>,
}

/// A member was replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replaced {
    /// The id of the successor, which votes now.
    pub new: u64,
}

/// Why a member was not replaced. It can be repeated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplaceError {
    /// The request did not reach a leader that could act on it.
    Refused(KvError),
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

impl fmt::Display for ReplaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => error.fmt(f),
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

/// Who answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// The version of the server.
    pub version: String,
    /// The version of the contract that it speaks: [`PROTOCOL`].
    pub protocol: u32,
}

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

    fn too_large(what: Limited, size: usize, max: usize) -> Self {
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
            Self::Deadline => f.write_str("the time was over before anything was proposed"),
            Self::Denied { reason } => write!(f, "denied: {reason}"),
            Self::Disk { reason } => write!(f, "the node's disk failed: {reason}"),
            Self::Unknown => f.write_str("the outcome is unknown"),
        }
    }
}

impl std::error::Error for KvError {}
