//! The log format: what one entry asks for, and what applying it answers.
//!
//! An outcome belongs to (session, sequence), never to one attempt: the rules are in docs/GUARANTEES.md. These types
//! are durable formats: they are versioned and never shared with the wire.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// One log entry's command. `time_ms` is the leader's wall clock in milliseconds since the Unix epoch when it was
/// proposed; log time is the greatest seen so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Opens a session; its id is this entry's log index.
    Open {
        /// Tells repeated opens of one client apart; the same nonce in the table answers the session it opened.
        nonce: u128,
        /// The leader's time.
        time_ms: u64,
    },
    /// A write of the state machine.
    Write {
        /// The session it belongs to.
        session: u64,
        /// Its number in the session, from 1.
        sequence: u64,
        /// Every answer with a number below this was received.
        floor: u64,
        /// The leader's time.
        time_ms: u64,
        /// What the state machine is asked, opaque here.
        body: Bytes,
    },
    /// Asks for the outcome of (session, sequence), and settles it: without a record it becomes a tombstone.
    Resolve {
        /// The session it belongs to.
        session: u64,
        /// The number of the write.
        sequence: u64,
        /// The leader's time.
        time_ms: u64,
    },
    /// Ends a session: its records are dropped.
    Close {
        /// The session.
        session: u64,
        /// The leader's time.
        time_ms: u64,
    },
    /// Moves log time forward and drops the sessions whose last use is a session lifetime ago.
    Expire {
        /// The leader's time.
        time_ms: u64,
    },
}

/// What applying a command answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Nothing to answer: blank and membership entries.
    None,
    /// The session is open.
    Opened {
        /// Its id.
        session: u64,
    },
    /// The session table is full: nothing was opened.
    SessionsFull,
    /// The settled outcome of a write, from [`Command::Write`] or [`Command::Resolve`].
    Settled(Record),
    /// No such session (never opened, expired or closed): the command was a no-op. The outcome of earlier writes of
    /// that session cannot be known any more.
    SessionExpired,
    /// The sequence lies below the floor: its answer was received before. The command was a no-op.
    Stale,
    /// The session holds as many records as it may; the write was a no-op. A later attempt with a higher floor may
    /// pass: this is not a settled outcome.
    RecordsFull,
    /// The session is closed.
    Closed,
    /// Sessions were expired.
    Expired {
        /// How many.
        count: u64,
    },
}

/// The settled outcome of one write, kept until the session's floor passes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Whether the write was applied.
    pub verdict: Verdict,
    /// The revision at which it was settled: revision base + log index.
    pub revision: u64,
    /// What the state machine answered: at most [`DETAIL_SIZE_MAX`] bytes, never values.
    pub detail: Bytes,
}

/// How a write was settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Applied; what it did or that its condition failed is in the detail.
    Applied,
    /// A tombstone: it never had and never will have an effect.
    RolledBack,
}

/// The most bytes of detail in a record.
pub const DETAIL_SIZE_MAX: usize = 256;
/// The most sessions in the table; then opening is refused, nothing is evicted early.
pub const SESSIONS_MAX: usize = 100_000;
/// The most records (sequences at or above the floor) that one session may hold.
pub const RECORDS_PER_SESSION_MAX: usize = 1_024;
