//! What a checker says, with its evidence.

use std::fmt;

use bytes::Bytes;

use crate::history::{Operation, Outcome};

/// What a checker says about a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order that explains every answer.
    Linearizable {
        /// Operations that were judged; those without an effect or an answer to judge are among them.
        operations: usize,
    },
    /// No order explains this.
    Violation(Box<Violation>),
    /// The checker cannot tell.
    Undecided {
        /// Why not, in a sentence.
        why: String,
    },
}

impl Verdict {
    /// A violation outweighs what is undecided, which outweighs linearizable.
    pub(super) const fn severity(&self) -> u8 {
        match self {
            Self::Linearizable { .. } => 0,
            Self::Undecided { .. } => 1,
            Self::Violation(_) => 2,
        }
    }

    /// The word for it.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Linearizable { .. } => "linearizable",
            Self::Violation(_) => "violation",
            Self::Undecided { .. } => "undecided",
        }
    }
}

/// Why a history is not linearizable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The key.
    pub key: String,
    /// The operation that cannot be explained: everything before its return can.
    pub operation: Operation,
    /// What is wrong with it, in a sentence.
    pub explanation: String,
    /// The operations that the explanation is about, each with its role, in the order to read them.
    pub evidence: Vec<(&'static str, Operation)>,
}

impl Violation {
    /// Adds the writes that failed and whose value was seen all the same: the gravest lie of all.
    pub(super) fn show_failed_writes<'a>(&mut self, operations: impl IntoIterator<Item = &'a Operation>) {
        let Some(seen) = self.operation.action.sees().map(Option::<&Bytes>::cloned) else { return };
        let after_culprit = self
            .evidence
            .iter()
            .position(|(role, _)| *role == "impossible")
            .map_or(self.evidence.len(), |at| at + 1);
        for operation in operations {
            let failed = operation.action.result() == Outcome::Fail && operation.key == self.key;
            if failed && operation.action.leaves() == Some(seen.as_ref()) {
                self.evidence.insert(after_culprit, ("failed", operation.clone()));
            }
        }
    }
}

impl fmt::Display for Violation {
    /// Several lines: the sentence, then the evidence with its roles in a column.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key \"{}\": {}", self.key.escape_debug(), self.explanation)?;
        for (role, operation) in self.evidence.iter().take(EVIDENCE_LINES_MAX) {
            write!(f, "\n  {role:<10} {operation}")?;
        }
        match self.evidence.len().saturating_sub(EVIDENCE_LINES_MAX) {
            0 => Ok(()),
            more => write!(f, "\n  ... and {more} more"),
        }
    }
}

/// Operations that are printed as evidence.
const EVIDENCE_LINES_MAX: usize = 24;
