//! What tests may see of a node beyond its status.

mod storage;

pub use self::storage::{StorageProbe, StorageSight};
use crate::status::{LogPosition, Vote};

/// The inside of a node at one moment. The state at `applied` is hashed as `state_hash`: nodes that applied the same
/// entries have the same hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Its vote.
    pub vote: Vote,
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
