//! What a caller is told: three words for writes, and why.

use std::fmt;

use crate::api::{KvError, WriteReply};
use crate::token::Token;

/// What became of a write. There is no fourth word, and no guessing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It took effect, durably on a majority.
    Committed {
        /// The revision of the write.
        revision: u64,
        /// Whether the key was there before.
        existed: bool,
    },
    /// It has no effect now and never will: the same may be tried again as a new write.
    NotCommitted(Reason),
    /// It may have taken effect, or may still do so, or may not: [`crate::Client::resolve`] settles it.
    Unknown(Token),
}

impl From<WriteReply> for Outcome {
    fn from(settled: WriteReply) -> Self {
        match settled {
            WriteReply::Committed { revision, existed } => Self::Committed { revision, existed },
            WriteReply::ConditionFailed { revision, mod_revision } => {
                Self::NotCommitted(Reason::ConditionFailed { revision, mod_revision })
            }
            WriteReply::RolledBack { revision } => Self::NotCommitted(Reason::RolledBack { revision }),
            WriteReply::Rejected { revision } => Self::NotCommitted(Reason::Rejected { revision }),
        }
    }
}

/// Why a write was not committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The condition did not hold.
    ConditionFailed {
        /// The revision at which it was judged.
        revision: u64,
        /// The revision at which the key was last written; `None` if it was not there.
        mod_revision: Option<u64>,
    },
    /// A resolve came first.
    RolledBack {
        /// The revision of the tombstone.
        revision: u64,
    },
    /// The state machine refused the command.
    Rejected {
        /// The revision at which it was refused.
        revision: u64,
    },
    /// It was refused before anything was proposed.
    Refused(Refusal),
}

impl Reason {
    /// The reason as one word, for programs (docs/CLI.md lists them).
    pub fn code(&self) -> &'static str {
        match self {
            Self::ConditionFailed { .. } => "condition_failed",
            Self::RolledBack { .. } => "rolled_back",
            Self::Rejected { .. } => "rejected",
            Self::Refused(refusal) => refusal.code(),
        }
    }

    /// The revision at which the write was settled, if it got so far.
    pub fn revision(&self) -> Option<u64> {
        match self {
            Self::ConditionFailed { revision, .. }
            | Self::RolledBack { revision }
            | Self::Rejected { revision } => Some(*revision),
            Self::Refused(_) => None,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConditionFailed { revision, mod_revision: Some(found) } => {
                write!(f, "the condition failed at revision {revision}: the key was last written at {found}")
            }
            Self::ConditionFailed { revision, mod_revision: None } => {
                write!(f, "the condition failed at revision {revision}: the key is not there")
            }
            Self::RolledBack { revision } => write!(f, "rolled back at revision {revision}"),
            Self::Rejected { revision } => {
                write!(f, "refused by the state machine at revision {revision}")
            }
            Self::Refused(refusal) => refusal.fmt(f),
        }
    }
}

/// Why a request has certainly no effect, or was not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A node said so, or the limits did before any node was asked.
    Node(KvError),
    /// No node could be asked, or none answered in time.
    Unreachable {
        /// Who was asked, and what came of it.
        detail: String,
    },
}

impl Refusal {
    /// The reason as one word, for programs (docs/CLI.md lists them).
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "unreachable",
            Self::Node(error) => match error {
                KvError::NotLeader { .. } => "not_leader",
                KvError::NoQuorum => "no_quorum",
                KvError::Busy { .. } => "busy",
                KvError::TooLarge { .. } => "too_large",
                KvError::EmptyKey => "empty_key",
                KvError::SessionsFull => "sessions_full",
                KvError::SessionExpired => "session_expired",
                KvError::Stale => "stale",
                KvError::RecordsFull => "records_full",
                KvError::Draining => "draining",
                KvError::NotMember { .. } => "not_member",
                KvError::ForeignCluster { .. } => "foreign_cluster",
                KvError::Deadline => "deadline",
                KvError::Denied { .. } => "denied",
                KvError::Disk { .. } => "disk",
                KvError::DiskFull { .. } => "disk_full",
                KvError::Unknown => "unknown",
            },
        }
    }
}

impl From<KvError> for Refusal {
    fn from(error: KvError) -> Self {
        Self::Node(error)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(error) => error.fmt(f),
            Self::Unreachable { detail } => f.write_str(detail),
        }
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_settled_reply_has_its_word() {
        let table = [
            (
                WriteReply::Committed { revision: 1, existed: false },
                Outcome::Committed { revision: 1, existed: false },
            ),
            (
                WriteReply::ConditionFailed { revision: 2, mod_revision: Some(1) },
                Outcome::NotCommitted(Reason::ConditionFailed { revision: 2, mod_revision: Some(1) }),
            ),
            (
                WriteReply::RolledBack { revision: 3 },
                Outcome::NotCommitted(Reason::RolledBack { revision: 3 }),
            ),
            (WriteReply::Rejected { revision: 4 }, Outcome::NotCommitted(Reason::Rejected { revision: 4 })),
        ];
        for (reply, outcome) in table {
            assert_eq!(Outcome::from(reply), outcome);
        }
    }
}
