//! The types of a history.

use std::fmt;

use bytes::Bytes;

/// How an operation ended: the three words of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome<T> {
    /// Answered: committed, or read.
    Ok(T),
    /// Surely without effect, now and for ever.
    Fail,
    /// Unknown: it may take effect at any time after its call, or never.
    Info,
}

impl<T> Outcome<T> {
    /// The word of the file format.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Ok(_) => "ok",
            Self::Fail => "fail",
            Self::Info => "info",
        }
    }

    /// The same outcome without its answer.
    pub fn kind(&self) -> Outcome<()> {
        match self {
            Self::Ok(_) => Outcome::Ok(()),
            Self::Fail => Outcome::Fail,
            Self::Info => Outcome::Info,
        }
    }
}

/// What was asked of a key, with the answer. `None` as a value means that the key is absent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// A read; its answer is the value that was seen.
    Get {
        /// The value that was read.
        outcome: Outcome<Option<Bytes>>,
    },
    /// An unconditional write.
    Put {
        /// The value written.
        value: Bytes,
        /// Answered with the server's word whether the key existed, if it gave one.
        outcome: Outcome<Option<bool>>,
    },
    /// A write on the condition that the key holds `expect`.
    Cas {
        /// The value that the key must hold.
        expect: Option<Bytes>,
        /// The new value.
        value: Bytes,
        /// Answered true if swapped, false if the key did **not** hold `expect`.
        outcome: Outcome<bool>,
    },
    /// Removes the key.
    Delete {
        /// Answered with the server's word whether the key existed, if it gave one.
        outcome: Outcome<Option<bool>>,
    },
    /// Appends to the value; an absent key counts as empty. In foreign histories only: history.jsonl has no word for it.
    Append {
        /// What is appended.
        value: Bytes,
        /// Answered without a value.
        outcome: Outcome<()>,
    },
}

impl Action {
    /// How the operation ended.
    pub fn result(&self) -> Outcome<()> {
        match self {
            Self::Get { outcome } => outcome.kind(),
            Self::Put { outcome, .. } | Self::Delete { outcome } => outcome.kind(),
            Self::Cas { outcome, .. } => outcome.kind(),
            Self::Append { outcome, .. } => outcome.kind(),
        }
    }

    /// The word of the file format.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Get { .. } => "get",
            Self::Put { .. } => "put",
            Self::Cas { .. } => "cas",
            Self::Delete { .. } => "delete",
            Self::Append { .. } => "append",
        }
    }

    /// Whether the operation changes the register, or may (a delete counts even where nothing was there).
    pub const fn writes(&self) -> bool {
        match self {
            Self::Get { .. } => false,
            Self::Cas { outcome, .. } => !matches!(outcome, Outcome::Ok(false) | Outcome::Fail),
            Self::Put { outcome, .. } | Self::Delete { outcome } => !matches!(outcome, Outcome::Fail),
            Self::Append { outcome, .. } => !matches!(outcome, Outcome::Fail),
        }
    }

    /// What the key holds right after this operation took effect, where that does not depend on what it held before.
    pub fn leaves(&self) -> Option<Option<&Bytes>> {
        match self {
            Self::Put { value, .. } | Self::Cas { value, .. } => Some(Some(value)),
            Self::Delete { .. } => Some(None),
            Self::Get { .. } | Self::Append { .. } => None,
        }
    }

    /// The value that the answer shows to have been there.
    pub fn sees(&self) -> Option<Option<&Bytes>> {
        match self {
            Self::Get { outcome: Outcome::Ok(value) } => Some(value.as_ref()),
            Self::Cas { expect, outcome: Outcome::Ok(true), .. } => Some(expect.as_ref()),
            _ => None,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn existed(outcome: &Outcome<Option<bool>>) -> &'static str {
            match outcome {
                Outcome::Ok(Some(true)) => "ok, existed",
                Outcome::Ok(Some(false)) => "ok, did not exist",
                other => other.word(),
            }
        }
        match self {
            Self::Get { outcome: Outcome::Ok(value) } => write!(f, "get = {}", Shown(value.as_ref())),
            Self::Get { outcome } => write!(f, "get: {}", outcome.word()),
            Self::Put { value, outcome } => write!(f, "put {}: {}", Shown(Some(value)), existed(outcome)),
            Self::Cas { expect, value, outcome } => {
                let answer = match outcome {
                    Outcome::Ok(true) => "swapped",
                    Outcome::Ok(false) => "mismatch",
                    other => other.word(),
                };
                write!(f, "cas {} to {}: {answer}", Shown(expect.as_ref()), Shown(Some(value)))
            }
            Self::Delete { outcome } => write!(f, "delete: {}", existed(outcome)),
            Self::Append { value, outcome } => write!(f, "append {}: {}", Shown(Some(value)), outcome.word()),
        }
    }
}

/// A register's value as a person reads it: quoted and cut, or `absent`.
pub(crate) struct Shown<'a>(pub(crate) Option<&'a Bytes>);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("absent"),
            Some(value) if value.len() <= SHOWN_BYTES_MAX => write!(f, "\"{}\"", value.escape_ascii()),
            // The end tells appended values apart, the start those that were padded.
            Some(value) => write!(
                f,
                "\"{}...{}\" ({} bytes)",
                value[..SHOWN_BYTES_MAX / 2].escape_ascii(),
                value[value.len() - SHOWN_BYTES_MAX / 2..].escape_ascii(),
                value.len()
            ),
        }
    }
}

/// Longest value that is printed whole, in bytes.
const SHOWN_BYTES_MAX: usize = 40;

/// Where a write's outcome can be looked up later: (session, sequence).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Token(
    /// The session.
    pub u64,
    /// The sequence within the session.
    pub u64,
);

/// One operation of one client process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// The client process. It has one operation open at a time; after an `info` it is not used again.
    pub process: u64,
    /// The key. Keys are independent registers.
    pub key: String,
    /// What was asked, and the answer.
    pub action: Action,
    /// The revision that the answer carries. On an `info` write: the revision at which it is known, from a later look
    /// into the log, to have taken effect.
    pub rev: Option<u64>,
    /// The node that answered.
    pub node: Option<u64>,
    /// Where the outcome can be looked up.
    pub token: Option<Token>,
    /// When the operation was called: nanoseconds on the history's one monotonic clock (line numbers where a format
    /// has no clock).
    pub call: u64,
    /// When the answer came, on the same clock and not before `call`. Means nothing for `info`. Intervals are closed:
    /// an operation that is called at the instant another returns is concurrent to it.
    pub ret: u64,
}

impl Operation {
    /// When the operation was over; `None` if it may still take effect.
    pub fn ended(&self) -> Option<u64> {
        match self.action.result() {
            Outcome::Info => None,
            Outcome::Ok(()) | Outcome::Fail => Some(self.ret),
        }
    }

    /// Whether the operation was answered.
    pub fn is_ok(&self) -> bool {
        self.action.result() == Outcome::Ok(())
    }

    /// Whether the operation was over before `other` was called.
    pub fn precedes(&self, other: &Self) -> bool {
        self.ended().is_some_and(|ended| ended < other.call)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}: {} [{}, ", self.process, self.action, self.call)?;
        match self.ended() {
            Some(ended) => write!(f, "{ended}]")?,
            None => f.write_str("?]")?,
        }
        if let Some(rev) = self.rev {
            write!(f, " rev {rev}")?;
        }
        if let Some(node) = self.node {
            write!(f, " node {node}")?;
        }
        Ok(())
    }
}

/// A fault that was at work, for the reader of a history; checkers of values skip it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nemesis {
    /// The kind of fault, for example `partition`.
    pub f: String,
    /// What it did, for example `[1]|[2,3]`.
    pub value: Option<String>,
    /// When it began, on the operations' clock.
    pub call: u64,
    /// When it ended, if it did.
    pub ret: Option<u64>,
}

/// What a key holds before the first operation, and what its operations mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Semantics {
    /// A register that is absent at first.
    #[default]
    Register,
    /// A text that is empty at first: an absent key reads as `""`.
    Text,
}

/// All that was seen of one run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// What the keys are.
    pub semantics: Semantics,
    /// The operations, in any order.
    pub operations: Vec<Operation>,
    /// The faults, in any order.
    pub nemeses: Vec<Nemesis>,
}
