//! Exit codes: part of the interface (docs/CLI.md).

use std::fmt;

use kv_client::api::KvError;
use kv_client::{Reason, Refusal};

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done; for a write: committed.
    Done,
    /// A definite failure, here or at the server.
    Failure,
    /// The command line makes no sense (clap uses the same code).
    Usage,
    /// No such key.
    NotFound,
    /// The condition of a cas did not hold.
    ConditionFailed,
    /// The write is certainly not applied, or the read cannot be served.
    NotApplied,
    /// The outcome is unknown; the token was printed.
    Unknown,
    /// The caller may not do this.
    Denied,
    /// Beyond a limit.
    Limit,
    /// Ended by SIGINT.
    Interrupted,
    /// Ended by SIGTERM.
    Terminated,
}

impl Exit {
    /// The code of the process.
    pub(crate) fn code(self) -> i32 {
        match self {
            Self::Done => 0,
            Self::Failure => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::ConditionFailed => 4,
            Self::NotApplied => 5,
            Self::Unknown => 6,
            Self::Denied => 7,
            Self::Limit => 8,
            Self::Interrupted => 130,
            Self::Terminated => 143,
        }
    }

    /// This exit, after one sentence on stderr.
    pub(crate) fn because(self, sentence: impl fmt::Display) -> Self {
        eprintln!("kv-client: {sentence}");
        self
    }

    /// The exit of a write that was not committed.
    pub(crate) fn of_reason(reason: &Reason) -> Self {
        match reason {
            Reason::ConditionFailed { .. } => Self::ConditionFailed,
            Reason::RolledBack { .. } => Self::NotApplied,
            Reason::Rejected { .. } => Self::Failure,
            Reason::Refused(refusal) => Self::of_refusal(refusal),
        }
    }

    /// The exit of a request that was refused.
    pub(crate) fn of_refusal(refusal: &Refusal) -> Self {
        match refusal {
            Refusal::Node(KvError::TooLarge { .. } | KvError::EmptyKey | KvError::DiskFull { .. }) => {
                Self::Limit
            }
            Refusal::Node(KvError::Denied { .. }) => Self::Denied,
            Refusal::Node(KvError::Disk { .. }) => Self::Failure,
            Refusal::Node(_) | Refusal::Unreachable { .. } => Self::NotApplied,
        }
    }
}

#[cfg(test)]
mod tests {
    use kv_client::api::Limited;

    use super::*;

    #[test]
    fn each_reason_has_its_documented_code() {
        let refused = |error| Reason::Refused(Refusal::Node(error));
        let table = [
            (Reason::ConditionFailed { revision: 1, mod_revision: None }, 4),
            (Reason::RolledBack { revision: 1 }, 5),
            (Reason::Rejected { revision: 1 }, 1),
            (Reason::Refused(Refusal::Unreachable { detail: String::new() }), 5),
            (refused(KvError::NoQuorum), 5),
            (refused(KvError::NotLeader { leader: None }), 5),
            (refused(KvError::SessionsFull), 5),
            (refused(KvError::EmptyKey), 8),
            (refused(KvError::TooLarge { what: Limited::Value, size: 2, max: 1 }), 8),
            (refused(KvError::Denied { reason: String::new() }), 7),
            (refused(KvError::Disk { reason: String::new() }), 1),
            (refused(KvError::DiskFull { free: 1, reserve: 2 }), 8),
        ];
        for (reason, code) in table {
            assert_eq!(Exit::of_reason(&reason).code(), code, "{reason:?}");
        }
    }
}
