//! The log format: what one entry asks for, and what applying it answers.
//!
//! An outcome belongs to (session, sequence), never to one attempt: the rules are in docs/GUARANTEES.md. These types
//! are durable formats: they are versioned and never shared with the wire. Encoded form: one version byte
//! ([`FORMAT_VERSION`]), then one CBOR item (RFC 8949) with the short names that the attributes below show, and
//! nothing after it.

use std::fmt;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// One log entry's command. `time_ms` is the leader's wall clock in milliseconds since the Unix epoch when it was
/// proposed; log time is the greatest seen so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Founds the cluster: fixes what all nodes must agree on for ever. The first one counts, later ones are no-ops.
    #[serde(rename = "f")]
    Found {
        /// The cluster's id, drawn by the node that initialized it.
        #[serde(rename = "c")]
        cluster: u128,
        /// How long an unused session lives, in milliseconds of log time.
        #[serde(rename = "l")]
        session_lifetime_ms: u64,
        /// The leader's time.
        #[serde(rename = "t")]
        time_ms: u64,
    },
    /// Opens a session; its id is this entry's log index.
    #[serde(rename = "o")]
    Open {
        /// Tells repeated opens of one client apart; the same nonce in the table answers the session it opened.
        #[serde(rename = "n")]
        nonce: u128,
        /// The leader's time.
        #[serde(rename = "t")]
        time_ms: u64,
    },
    /// A write of the state machine.
    #[serde(rename = "w")]
    Write {
        /// The session it belongs to.
        #[serde(rename = "s")]
        session: u64,
        /// Its number in the session, from 1.
        #[serde(rename = "q")]
        sequence: u64,
        /// Every answer with a number below this was received. The sequence lies less than [`SEQUENCE_WINDOW`] above.
        #[serde(rename = "f")]
        floor: u64,
        /// The leader's time.
        #[serde(rename = "t")]
        time_ms: u64,
        /// What the state machine is asked, opaque here.
        #[serde(rename = "b")]
        body: Bytes,
    },
    /// Asks for the outcome of (session, sequence), and settles it: without a record it becomes a tombstone.
    #[serde(rename = "r")]
    Resolve {
        /// The session it belongs to.
        #[serde(rename = "s")]
        session: u64,
        /// The number of the write.
        #[serde(rename = "q")]
        sequence: u64,
        /// As in a write, when the session's owner asks; 0 from anybody who holds only a token.
        #[serde(rename = "f")]
        floor: u64,
        /// The leader's time.
        #[serde(rename = "t")]
        time_ms: u64,
    },
    /// Ends a session: its records are dropped.
    #[serde(rename = "c")]
    Close {
        /// The session.
        #[serde(rename = "s")]
        session: u64,
        /// The leader's time.
        #[serde(rename = "t")]
        time_ms: u64,
    },
    /// Moves log time forward and drops the sessions whose last use is a session lifetime ago, longest unused first,
    /// until [`EXPIRE_ROWS_MAX`] rows are dropped; the leader asks again while something is due.
    #[serde(rename = "e")]
    Expire {
        /// The leader's time.
        #[serde(rename = "t")]
        time_ms: u64,
    },
}

/// What applying a command answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Nothing to answer: blank and membership entries.
    #[serde(rename = "n")]
    None,
    /// The cluster is founded.
    #[serde(rename = "f")]
    Founded {
        /// Its id: the one in the command, or the one that was there before.
        #[serde(rename = "c")]
        cluster: u128,
    },
    /// The session is open.
    #[serde(rename = "o")]
    Opened {
        /// Its id.
        #[serde(rename = "s")]
        session: u64,
    },
    /// The session table is full: nothing was opened.
    #[serde(rename = "m")]
    SessionsFull,
    /// The settled outcome of a write, from [`Command::Write`] or [`Command::Resolve`].
    #[serde(rename = "r")]
    Settled(Record),
    /// No such session (never opened, expired or closed): the command was a no-op. The outcome of earlier writes of
    /// that session cannot be known any more.
    #[serde(rename = "x")]
    SessionExpired,
    /// The sequence lies below the floor: its answer was received before. The command was a no-op.
    #[serde(rename = "s")]
    Stale,
    /// The sequence lies too far above the floor to be recorded; the command was a no-op. A later attempt with a
    /// higher floor may pass: this is not a settled outcome. A resolve meets it only when the sequence is
    /// [`SEQUENCE_WINDOW`] or more above the floor and [`RESOLVES_AHEAD_MAX`] such are recorded.
    #[serde(rename = "l")]
    RecordsFull,
    /// The session is closed.
    #[serde(rename = "c")]
    Closed,
    /// Sessions were expired.
    #[serde(rename = "e")]
    Expired {
        /// How many.
        #[serde(rename = "k")]
        count: u64,
    },
}

/// The settled outcome of one write, kept until the session's floor passes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Whether the write was applied.
    #[serde(rename = "v")]
    pub verdict: Verdict,
    /// The revision at which it was settled: revision base + log index.
    #[serde(rename = "r")]
    pub revision: u64,
    /// What the state machine answered: at most [`DETAIL_SIZE_MAX`] bytes, never values.
    #[serde(rename = "d")]
    pub detail: Bytes,
}

/// How a write was settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Applied; what it did or that its condition failed is in the detail.
    #[serde(rename = "a")]
    Applied,
    /// A tombstone: it never had and never will have an effect.
    #[serde(rename = "b")]
    RolledBack,
}

impl Command {
    /// The bytes of a log entry; an error if they exceed [`COMMAND_SIZE_MAX`] (a write whose body is at most
    /// [`BODY_SIZE_MAX`] never does).
    pub fn encode(&self) -> Result<Bytes, CodecError> {
        let body = if let Self::Write { body, .. } = self { body.len() } else { 0 };
        encode(self, body, COMMAND_SIZE_MAX)
    }

    /// Reads what [`Command::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        decode(bytes, COMMAND_SIZE_MAX)
    }

    /// The leader's time that the command carries, in milliseconds since the Unix epoch.
    pub fn time_ms(&self) -> u64 {
        match *self {
            Self::Found { time_ms, .. }
            | Self::Open { time_ms, .. }
            | Self::Write { time_ms, .. }
            | Self::Resolve { time_ms, .. }
            | Self::Close { time_ms, .. }
            | Self::Expire { time_ms } => time_ms,
        }
    }
}

impl Reply {
    /// The bytes of a reply; an error if they exceed [`REPLY_SIZE_MAX`] (a detail within its limit never does).
    pub fn encode(&self) -> Result<Bytes, CodecError> {
        encode(self, DETAIL_SIZE_MAX, REPLY_SIZE_MAX)
    }

    /// Reads what [`Reply::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        decode(bytes, REPLY_SIZE_MAX)
    }
}

fn encode<T: Serialize>(value: &T, body: usize, size_max: usize) -> Result<Bytes, CodecError> {
    let mut bytes = Vec::with_capacity(body + 96);
    bytes.push(FORMAT_VERSION);
    ciborium::into_writer(value, &mut bytes).map_err(|error| CodecError::Malformed(error.to_string()))?;
    if bytes.len() > size_max {
        return Err(CodecError::TooLarge { size: bytes.len(), size_max });
    }
    Ok(bytes.into())
}

fn decode<T: DeserializeOwned>(bytes: &[u8], size_max: usize) -> Result<T, CodecError> {
    if bytes.len() > size_max {
        return Err(CodecError::TooLarge { size: bytes.len(), size_max });
    }
    let Some((&version, mut rest)) = bytes.split_first() else {
        return Err(CodecError::Malformed("no bytes".to_owned()));
    };
    if version != FORMAT_VERSION {
        return Err(CodecError::Version { found: version });
    }
    let value = ciborium::de::from_reader_with_recursion_limit(&mut rest, RECURSION_MAX)
        .map_err(|error| CodecError::Malformed(error.to_string()))?;
    if !rest.is_empty() {
        return Err(CodecError::Trailing { count: rest.len() });
    }
    Ok(value)
}

/// Bytes that are no command or reply, or too many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CodecError {
    /// Longer than allowed.
    TooLarge {
        /// The size in bytes.
        size: usize,
        /// The limit in bytes.
        size_max: usize,
    },
    /// Written by a version of this format that this program does not know.
    Version {
        /// The version byte.
        found: u8,
    },
    /// Not what the version byte promises.
    Malformed(String),
    /// Bytes after the end of the item.
    Trailing {
        /// How many.
        count: usize,
    },
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { size, size_max } => write!(f, "{size} bytes exceed the limit of {size_max}"),
            Self::Version { found } => write!(f, "format version {found} is not {FORMAT_VERSION}"),
            Self::Malformed(reason) => write!(f, "malformed: {reason}"),
            Self::Trailing { count } => write!(f, "{count} bytes after the end"),
        }
    }
}

impl std::error::Error for CodecError {}

/// The version of the encoding of commands and replies.
pub const FORMAT_VERSION: u8 = 1;
/// The most bytes of detail in a record.
pub const DETAIL_SIZE_MAX: usize = 256;
/// The largest encoded command in bytes: 1 MiB of user value and 64 KiB.
pub const COMMAND_SIZE_MAX: usize = (1024 + 64) * 1024;
/// The largest body of a write in bytes: what is left of [`COMMAND_SIZE_MAX`] beside the longest numbers.
pub const BODY_SIZE_MAX: usize = COMMAND_SIZE_MAX - 128;
/// The largest encoded reply in bytes.
pub const REPLY_SIZE_MAX: usize = DETAIL_SIZE_MAX + 128;
/// The most sessions in the table; then opening is refused, nothing is evicted early.
pub const SESSIONS_MAX: usize = 100_000;
/// The most records (sequences at or above the floor) that one session may hold.
pub const RECORDS_PER_SESSION_MAX: usize = SEQUENCE_WINDOW as usize + RESOLVES_AHEAD_MAX;
/// A write is recorded when its sequence is less than this above the session's floor, otherwise refused
/// ([`Reply::RecordsFull`]). So the room for its record, and for a resolve of it, is always there. A client keeps
/// the span of its unanswered sequences below this.
pub const SEQUENCE_WINDOW: u64 = 960;
/// How many tombstones a session may hold at [`SEQUENCE_WINDOW`] or more above its floor: resolves of writes that
/// ran ahead of the floor that was applied last.
pub const RESOLVES_AHEAD_MAX: usize = 64;
/// One expire command drops no further session once it has dropped this many rows (sessions and records).
pub const EXPIRE_ROWS_MAX: usize = 4_096;
/// The lifetime of an unused session unless the cluster was founded with another, in milliseconds: 24 hours.
pub const SESSION_LIFETIME_MS_DEFAULT: u64 = 24 * 60 * 60 * 1_000;
/// The deepest nesting in an encoded command or reply.
const RECURSION_MAX: usize = 8;

const _: () = assert!(RECORDS_PER_SESSION_MAX == 1_024);

#[cfg(test)]
mod tests {
    use super::*;

    fn commands() -> Vec<Command> {
        let body = Bytes::from_static(b"\x00body");
        vec![
            Command::Found { cluster: u128::MAX, session_lifetime_ms: 1, time_ms: 2 },
            Command::Open { nonce: 7, time_ms: u64::MAX },
            Command::Write { session: 1, sequence: 2, floor: 3, time_ms: 4, body },
            Command::Resolve { session: u64::MAX, sequence: u64::MAX, floor: u64::MAX, time_ms: u64::MAX },
            Command::Close { session: 1, time_ms: 5 },
            Command::Expire { time_ms: 6 },
        ]
    }

    fn replies() -> Vec<Reply> {
        let detail = Bytes::from(vec![9; DETAIL_SIZE_MAX]);
        vec![
            Reply::None,
            Reply::Founded { cluster: 1 << 100 },
            Reply::Opened { session: 1 },
            Reply::SessionsFull,
            Reply::Settled(Record { verdict: Verdict::Applied, revision: u64::MAX, detail }),
            Reply::Settled(Record { verdict: Verdict::RolledBack, revision: 1, detail: Bytes::new() }),
            Reply::SessionExpired,
            Reply::Stale,
            Reply::RecordsFull,
            Reply::Closed,
            Reply::Expired { count: 3 },
        ]
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        for command in commands() {
            assert_eq!(Command::decode(&command.encode().unwrap()), Ok(command));
        }
        for reply in replies() {
            assert_eq!(Reply::decode(&reply.encode().unwrap()), Ok(reply));
        }
    }

    #[test]
    fn the_log_format_is_pinned() {
        let body = Bytes::from_static(b"\xff");
        let command = Command::Write { session: 1, sequence: 2, floor: 3, time_ms: 4, body };
        let expected = b"\x01\xa1\x61w\xa5\x61s\x01\x61q\x02\x61f\x03\x61t\x04\x61b\x41\xff";
        assert_eq!(
            command.encode().unwrap(),
            expected.as_slice(),
            "a body is a CBOR byte string (major type 2)"
        );
    }

    #[test]
    fn the_largest_body_fits_with_the_longest_numbers() {
        let body = Bytes::from(vec![0; BODY_SIZE_MAX]);
        let (session, sequence, floor, time_ms) = (u64::MAX, u64::MAX, u64::MAX, u64::MAX);
        let largest = Command::Write { session, sequence, floor, time_ms, body };
        assert_eq!(Command::decode(&largest.encode().unwrap()), Ok(largest));
        let body = Bytes::from(vec![0; COMMAND_SIZE_MAX]);
        let beyond = Command::Write { session, sequence, floor, time_ms, body };
        assert!(matches!(beyond.encode(), Err(CodecError::TooLarge { .. })));
        assert!(matches!(Command::decode(&[0; COMMAND_SIZE_MAX + 1]), Err(CodecError::TooLarge { .. })));
    }

    #[test]
    fn trailing_bytes_other_versions_and_cut_bytes_are_refused() {
        for command in commands() {
            let bytes = command.encode().unwrap();
            let longer = [bytes.as_ref(), b"\x00"].concat();
            assert_eq!(Command::decode(&longer), Err(CodecError::Trailing { count: 1 }));
            let mut newer = bytes.to_vec();
            newer[0] = 2;
            assert_eq!(Command::decode(&newer), Err(CodecError::Version { found: 2 }));
            for length in 0..bytes.len() {
                assert!(matches!(Command::decode(&bytes[..length]), Err(CodecError::Malformed(_))));
            }
        }
    }

    #[test]
    fn hostile_bytes_are_refused_without_allocating_what_they_claim() {
        let claims_much = [b"\x01\xa1\x61w\xa1\x61b\x5b".as_slice(), &u64::MAX.to_be_bytes()].concat();
        assert!(matches!(Command::decode(&claims_much), Err(CodecError::Malformed(_))));
        let deep = [b"\x01".as_slice(), &[0x81; 10_000]].concat();
        assert!(matches!(Command::decode(&deep), Err(CodecError::Malformed(_))));
    }
}
