//! What nodes say to each other, in types that are neither openraft's nor the log's: CBOR with short names, entries as
//! bytes that were encoded once. Every message but an introduction travels in an [`Envelope`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;
use openraft::alias::{EntryOf, LogIdOf, VoteOf};
use openraft::entry::RaftEntry;
use openraft::vote::RaftLeaderId;
use openraft::{EntryPayload, Membership};
use serde::{Deserialize, Serialize};

use crate::freshness::Stamp;
use crate::identity::NodeName;
use crate::outcome::Refusal;
use crate::snapshot::SnapshotOffer;
use crate::types::{Member, Proposal, TypeConfig};

/// The version of all messages of this module.
pub(crate) const VERSION: u8 = 1;

/// Who speaks to whom, in which cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    /// [`VERSION`] of the sender.
    #[serde(rename = "v")]
    pub(crate) version: u8,
    /// The sender's cluster.
    #[serde(rename = "c")]
    pub(crate) cluster: u128,
    /// The sender.
    #[serde(rename = "f")]
    pub(crate) from: NodeName,
    /// For whom it is meant.
    #[serde(rename = "t")]
    pub(crate) to: NodeName,
}

/// A message with its header.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Envelope<T> {
    #[serde(rename = "h")]
    pub(crate) header: Header,
    #[serde(rename = "b")]
    pub(crate) body: T,
}

/// Why a node does not take a message. None of these had any effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Denied {
    /// The receiver speaks another version.
    #[serde(rename = "v")]
    Version(u8),
    /// The receiver belongs to another cluster, or to none and does not join this one.
    #[serde(rename = "c")]
    Cluster(Option<u128>),
    /// The receiver is somebody else.
    #[serde(rename = "n")]
    NotMe(NodeName),
    /// The receiver knows the sender's id by another incarnation: the sender's data was lost, or replaced.
    #[serde(rename = "y")]
    NotYou(NodeName),
    /// The receiver is not running (yet, or any more).
    #[serde(rename = "r")]
    NotRunning,
    /// A newer stream of appends took the place of this one.
    #[serde(rename = "s")]
    StreamOver,
    /// The message contradicts itself.
    #[serde(rename = "m")]
    Malformed,
    /// The receiver's disk failed, or refused what was sent.
    #[serde(rename = "d")]
    Disk(String),
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(version) => write!(f, "it speaks version {version}, this node {VERSION}"),
            Self::Cluster(Some(cluster)) => write!(f, "it belongs to another cluster, {cluster:032x}"),
            Self::Cluster(None) => f.write_str("it belongs to no cluster"),
            Self::NotMe(name) => write!(f, "it is node {}, incarnation {:032x}", name.id, name.incarnation),
            Self::NotYou(name) => {
                write!(f, "it knows node {} by another incarnation, {:032x}", name.id, name.incarnation)
            }
            Self::NotRunning => f.write_str("it is not running"),
            Self::StreamOver => f.write_str("a newer stream of appends took the place of this one"),
            Self::Malformed => f.write_str("it found the message malformed"),
            Self::Disk(reason) => write!(f, "its disk: {reason}"),
        }
    }
}

impl std::error::Error for Denied {}

/// A log id: term, leader, index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogPlace(u64, u64, u64);

impl From<LogIdOf<TypeConfig>> for LogPlace {
    fn from(id: LogIdOf<TypeConfig>) -> Self {
        Self(id.leader_id.term, id.leader_id.node_id, id.index)
    }
}

impl From<LogPlace> for LogIdOf<TypeConfig> {
    fn from(LogPlace(term, leader, index): LogPlace) -> Self {
        Self::new(RaftLeaderId::new(term, leader), index)
    }
}

/// A vote: term, node, whether a quorum agreed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ballot(u64, u64, bool);

impl From<VoteOf<TypeConfig>> for Ballot {
    fn from(vote: VoteOf<TypeConfig>) -> Self {
        Self(vote.leader_id.term, vote.leader_id.node_id, vote.committed)
    }
}

impl From<Ballot> for VoteOf<TypeConfig> {
    fn from(Ballot(term, node, committed): Ballot) -> Self {
        Self { leader_id: RaftLeaderId::new(term, node), committed }
    }
}

/// A log entry.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LogEntry(LogPlace, Content);

/// What a log entry holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Content {
    #[serde(rename = "b")]
    Blank,
    #[serde(rename = "n")]
    Command(Bytes),
    #[serde(rename = "m")]
    Members {
        #[serde(rename = "v")]
        voters: Vec<BTreeSet<u64>>,
        #[serde(rename = "m")]
        members: BTreeMap<u64, (u128, String)>,
    },
}

impl From<EntryOf<TypeConfig>> for LogEntry {
    fn from(entry: EntryOf<TypeConfig>) -> Self {
        let content = match entry.payload {
            EntryPayload::Blank => Content::Blank,
            EntryPayload::Normal(Proposal(bytes)) => Content::Command(bytes),
            EntryPayload::Membership(membership) => Content::Members {
                voters: membership.get_joint_config().clone(),
                members: membership
                    .nodes()
                    .map(|(id, member)| (*id, (member.incarnation, member.address.clone())))
                    .collect(),
            },
        };
        Self(entry.log_id.into(), content)
    }
}

impl LogEntry {
    /// The entry as openraft knows it, if the message makes sense.
    pub(crate) fn into_entry(self) -> Result<EntryOf<TypeConfig>, Denied> {
        let Self(place, content) = self;
        let payload = match content {
            Content::Blank => EntryPayload::Blank,
            Content::Command(bytes) => EntryPayload::Normal(Proposal(bytes)),
            Content::Members { voters, members } => {
                let member = |(id, (incarnation, address))| (id, Member { incarnation, address });
                let nodes: BTreeMap<u64, Member> = members.into_iter().map(member).collect();
                EntryPayload::Membership(Membership::new(voters, nodes).map_err(|_| Denied::Malformed)?)
            }
        };
        Ok(RaftEntry::new(place.into(), payload))
    }
}

/// Append entries, or a heartbeat without any.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Append {
    /// The leader's vote.
    #[serde(rename = "v")]
    pub(crate) vote: Ballot,
    /// The entry before the first one here.
    #[serde(rename = "p")]
    pub(crate) previous: Option<LogPlace>,
    /// What the leader knows to be committed.
    #[serde(rename = "c")]
    pub(crate) commit: Option<LogPlace>,
    /// The entries.
    #[serde(rename = "e")]
    pub(crate) entries: Vec<LogEntry>,
    /// What the leader knew at the sending.
    #[serde(rename = "a")]
    pub(crate) known: Option<Known>,
    /// The last stamp of the receiver that the sender has got: it was made before this message.
    #[serde(rename = "s")]
    pub(crate) stamp: Option<Stamp>,
}

/// What a leader knows for certain: nothing behind `commit` was answered by anybody until `age_us` ago.
///
/// Not the `commit` of the append beside it: openraft may have made that long before, for a follower that was away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Known {
    /// The index of the last committed entry.
    #[serde(rename = "c")]
    pub(crate) commit: u64,
    /// How long ago a quorum had acknowledged the leader, in microseconds.
    #[serde(rename = "a")]
    pub(crate) age_us: u64,
}

/// An [`Append`] at its place in a stream of them. A stream is one after the other, however they arrive.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StreamAppend {
    /// The stream; a later one of the same process has a higher number, and ends the earlier.
    #[serde(rename = "s")]
    pub(crate) stream: u64,
    /// The place in the stream, from 0.
    #[serde(rename = "q")]
    pub(crate) sequence: u64,
    #[serde(rename = "a")]
    pub(crate) append: Append,
}

/// The answer to an append.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Appended {
    /// The log holds everything up to here, durably.
    #[serde(rename = "m")]
    Matching(Option<LogPlace>),
    /// The log does not hold the previous entry.
    #[serde(rename = "c")]
    Conflict(LogPlace),
    /// Somebody else has a higher vote.
    #[serde(rename = "h")]
    HigherVote(Ballot),
}

/// An answer to an append, with the moment at which it was given.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Stamped(pub(crate) Appended, pub(crate) Stamp);

/// A request for a vote, or for what a vote would be.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct VoteRequest {
    #[serde(rename = "v")]
    pub(crate) vote: Ballot,
    #[serde(rename = "l")]
    pub(crate) last: Option<LogPlace>,
    /// Whether the leader asked the candidate to take over.
    #[serde(rename = "t")]
    pub(crate) transfer: bool,
}

/// The answer to a request for a vote.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Voted {
    #[serde(rename = "v")]
    pub(crate) vote: Ballot,
    #[serde(rename = "g")]
    pub(crate) granted: bool,
    #[serde(rename = "l")]
    pub(crate) last: Option<LogPlace>,
}

/// A leader asks the receiver to take over.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Transfer {
    #[serde(rename = "v")]
    pub(crate) from_leader: Ballot,
    #[serde(rename = "t")]
    pub(crate) to: u64,
    #[serde(rename = "l")]
    pub(crate) last: Option<LogPlace>,
}

/// The answer to a transfer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Transferred {
    #[serde(rename = "o")]
    Accepted,
    /// For people: the receiver's vote or log is not what the leader expects.
    #[serde(rename = "r")]
    Refused(String),
}

/// A snapshot is about to come; the answer is how much of it is there already.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SnapshotBegin {
    #[serde(rename = "n")]
    pub(crate) name: String,
    /// In bytes.
    #[serde(rename = "s")]
    pub(crate) size: u64,
    /// CRC32C of the whole.
    #[serde(rename = "c")]
    pub(crate) crc: u32,
}

impl From<&SnapshotOffer> for SnapshotBegin {
    fn from(offer: &SnapshotOffer) -> Self {
        Self { name: offer.name.clone(), size: offer.size, crc: offer.crc }
    }
}

impl From<SnapshotBegin> for SnapshotOffer {
    fn from(begin: SnapshotBegin) -> Self {
        Self { name: begin.name, size: begin.size, crc: begin.crc }
    }
}

/// A part of a snapshot; the answer is how much is there from the beginning on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SnapshotPart {
    #[serde(rename = "n")]
    pub(crate) name: String,
    #[serde(rename = "o")]
    pub(crate) offset: u64,
    #[serde(rename = "b")]
    pub(crate) bytes: Bytes,
}

/// All parts were sent: verify and install it; the answer is the receiver's vote.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SnapshotFinish {
    #[serde(rename = "n")]
    pub(crate) name: String,
    #[serde(rename = "v")]
    pub(crate) vote: Ballot,
}

/// What a node asks the leader on behalf of a client.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// As [`crate::command::Command::Open`].
    #[serde(rename = "o")]
    Open {
        #[serde(rename = "n")]
        nonce: u128,
    },
    /// As [`crate::command::Command::Write`].
    #[serde(rename = "w")]
    Write {
        #[serde(rename = "s")]
        session: u64,
        #[serde(rename = "q")]
        sequence: u64,
        #[serde(rename = "f")]
        floor: u64,
        #[serde(rename = "b")]
        body: Bytes,
    },
    /// As [`crate::command::Command::Resolve`].
    #[serde(rename = "r")]
    Resolve {
        #[serde(rename = "s")]
        session: u64,
        #[serde(rename = "q")]
        sequence: u64,
        #[serde(rename = "f")]
        floor: u64,
    },
    /// As [`crate::command::Command::Close`].
    #[serde(rename = "c")]
    Close {
        #[serde(rename = "s")]
        session: u64,
    },
}

/// What became of an [`Ask`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    #[serde(rename = "o")]
    Opened(u64),
    #[serde(rename = "m")]
    SessionsFull,
    #[serde(rename = "r")]
    Settled {
        /// Whether it was applied; otherwise it was rolled back.
        #[serde(rename = "a")]
        applied: bool,
        #[serde(rename = "r")]
        revision: u64,
        #[serde(rename = "d")]
        detail: Bytes,
    },
    #[serde(rename = "x")]
    SessionExpired,
    #[serde(rename = "s")]
    Stale,
    #[serde(rename = "l")]
    RecordsFull,
    #[serde(rename = "c")]
    Closed,
    /// It was certainly not proposed.
    #[serde(rename = "n")]
    Refused(Refusal),
    /// It was proposed, and lost from sight.
    #[serde(rename = "u")]
    Lost,
}

/// What the leader answers to a request for a read index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ReadIndex {
    /// A read that waits until this index is applied is linearizable.
    #[serde(rename = "i")]
    At(u64),
    #[serde(rename = "n")]
    Refused(Refusal),
}

#[cfg(test)]
mod tests {
    use rpc_core::rpc::codec;

    use super::*;

    #[test]
    fn an_append_survives_the_wire_and_carries_bytes_as_bytes() {
        let member = Member { incarnation: u128::MAX, address: "a:1".into() };
        let membership = Membership::new(vec![BTreeSet::from([1])], BTreeMap::from([(1, member)])).unwrap();
        let place = LogPlace(3, 1, 9);
        let payloads = [
            EntryPayload::Blank,
            EntryPayload::Normal(Proposal(Bytes::from(vec![0xff; 1_000]))),
            EntryPayload::Membership(membership),
        ];
        let entries: Vec<EntryOf<TypeConfig>> =
            payloads.into_iter().map(|payload| RaftEntry::new(place.into(), payload)).collect();
        let append = Append {
            vote: Ballot(3, 1, true),
            previous: Some(place),
            commit: None,
            entries: entries.iter().cloned().map(LogEntry::from).collect(),
            known: Some(Known { commit: 7, age_us: 5 }),
            stamp: Some(Stamp(u64::MAX, 6)),
        };
        let bytes = codec::encode(&append).unwrap();
        assert!(bytes.len() < 1_200, "{}", bytes.len());
        let read: Append = codec::decode(&bytes).unwrap();
        let entries_read: Result<Vec<EntryOf<TypeConfig>>, Denied> =
            read.entries.into_iter().map(LogEntry::into_entry).collect();
        assert_eq!(format!("{:?}", entries_read.unwrap()), format!("{entries:?}"));
    }

    #[test]
    fn voters_that_are_no_members_are_malformed() {
        let entry = LogEntry(
            LogPlace(1, 1, 1),
            Content::Members {
                voters: vec![BTreeSet::from([1, 2])],
                members: BTreeMap::from([(1, (5, "a:1".into()))]),
            },
        );
        assert_eq!(entry.into_entry().err(), Some(Denied::Malformed));
    }
}
