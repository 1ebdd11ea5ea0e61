//! What tests may see of a node beyond its status.

mod storage;

pub use self::storage::{StorageProbe, StorageSight};
use crate::status::{LogPosition, Vote};

/// One entry of a log: `crc` is the CRC-32C of what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbedEntry {
    /// Its term, the leader that appended it, its index.
    pub position: LogPosition,
    /// The checksum of its payload.
    pub crc: u32,
}

/// The inside of a node at one moment. The state at `applied` is hashed as `state_hash`: nodes that applied the same
/// entries have the same hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Its vote.
    pub vote: Vote,
    /// The vote that is durable: what a crash may not take back.
    pub vote_saved: Vote,
    /// The index of its last log entry.
    pub last_log_index: Option<u64>,
    /// The last entry it knows to be committed.
    pub committed: Option<LogPosition>,
    /// The last entry its state holds.
    pub applied: Option<LogPosition>,
    /// A hash over everything that applying can read.
    pub state_hash: u128,
    /// The last entry removed from its log.
    pub purged: Option<LogPosition>,
}
