//! Writes, their limits, and how they are settled.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Hint, KEY_SIZE_MAX, KvError, Limited, VALUE_SIZE_MAX};

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
