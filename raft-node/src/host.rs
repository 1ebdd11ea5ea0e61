//! The replicated state: applies committed entries to the disk in rounds, and serves reads at round boundaries.
//!
//! A round of entries is applied in memory, and can be read from there. Some rounds later all of it is saved by one write,
//! rows, pieces of large values and state head, so that a crash leaves the state of one save whole.
//! What was not saved is applied again from the log. A read never waits for the disk, and finds value and watermark of
//! one round boundary.
//!
//! It does not know networks or who leads, and nothing of what the machine's rows mean.

mod core;
mod cut;
mod hash;
mod overlay;
mod raft;
mod round;
mod row;
#[cfg(test)]
mod tests;
mod waiters;
mod writer;

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use rpc_core::runtime::Runtime;

use self::core::Core;
pub use self::raft::SnapshotBuilder;
use crate::disk::{Disk, Files};
use crate::machine::{RowsRead, StateMachine};
use crate::snapshot::{SnapshotFile, SnapshotOffer, SnapshotReceiver, on_thread};
use crate::state_head::StateHead;
use crate::types::{LogId, Member, StoredMembership};

/// Hosts one state machine: openraft's state machine on one side, reads on the other. Cheap to clone.
pub struct Host<S> {
    core: Arc<Core>,
    machine: Arc<S>,
}

/// What a host may be tuned with. None of it may change what applying a command does.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// The most memory that a snapshot may hold for rows overwritten while it is built, in bytes; beyond it, the
    /// build starts again. Default 256 MiB.
    pub snapshot_undo_bytes_max: usize,
    /// Applied changes are written to the disk once their rows have about this size, in bytes; 0: each round.
    /// Until then they lie in memory, and in the log. Default 256 KiB.
    pub unsaved_size_max: usize,
}

impl Default for HostConfig {
    fn default() -> Self {
        Self { snapshot_undo_bytes_max: 256 * 1024 * 1024, unsaved_size_max: 256 * 1024 }
    }
}

/// The state at a round boundary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    pub(crate) log_id: Option<LogId>,
    /// The revision of the last applied entry: revision base + log index; the base before the first.
    pub revision: u64,
    /// Log time in milliseconds since the Unix epoch: the greatest time that any applied command carried.
    pub time_ms: u64,
    /// A hash over everything that applying can read: equal on all nodes that applied the same entries.
    pub state_hash: u128,
}

impl Applied {
    /// The index of the last applied entry.
    pub fn index(&self) -> Option<u64> {
        self.log_id.map(|id| id.index)
    }

    /// The term of the last applied entry.
    pub fn term(&self) -> Option<u64> {
        self.log_id.map(|id| id.leader_id.term)
    }
}

/// What the session table holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionsSummary {
    /// Open sessions.
    pub sessions: usize,
    /// Records of all sessions.
    pub records: usize,
    /// The log time at which the next session is due to expire, in milliseconds since the Unix epoch.
    pub expiry_ms: Option<u64>,
    /// How long an unused session lives, in milliseconds.
    pub lifetime_ms: u64,
}

/// Why waiting for an applied index ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitError {
    /// [`WAITERS_MAX`] wait already.
    Full,
    /// The host is gone.
    Closed,
}

impl fmt::Display for WaitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => write!(f, "{WAITERS_MAX} wait for an applied index already"),
            Self::Closed => f.write_str("the state is closed"),
        }
    }
}

impl std::error::Error for WaitError {}

/// The most that may wait for an applied index at once; one more is refused ([`WaitError::Full`]).
pub const WAITERS_MAX: usize = 65_536;

impl<S: StateMachine> Host<S> {
    /// Opens the state on `disk`, at the last save that is on it whole, and drops what a crash left behind.
    ///
    /// # Errors
    /// When the disk fails, or what lies on it is damaged (`InvalidData`).
    pub fn open(disk: Disk, machine: Arc<S>, runtime: Runtime, config: HostConfig) -> io::Result<Self> {
        Ok(Self { core: Arc::new(Core::open(disk, runtime, config)?), machine })
    }

    /// Reads rows and watermark at one round boundary. Does not wait for the disk to sync. Rounds wait for `reader`:
    /// keep it short.
    pub fn read<R>(&self, reader: impl FnOnce(&dyn RowsRead, &Applied) -> R) -> R {
        self.core.read(reader)
    }

    /// The state's watermark.
    pub fn applied(&self) -> Applied {
        self.core.view().applied
    }

    /// Completes when the entry at `index` is applied and can be read.
    pub fn wait_applied(&self, index: u64) -> impl Future<Output = Result<(), WaitError>> + Send + use<S> {
        let waiting = self.core.wait_applied(index);
        async move {
            match waiting? {
                None => Ok(()),
                Some(applied) => applied.await.map_err(|_| WaitError::Closed),
            }
        }
    }

    /// The cluster's id, once [`crate::command::Command::Found`] was applied.
    pub fn cluster(&self) -> Option<u128> {
        self.core.view().cluster
    }

    /// What the session table holds.
    pub fn sessions(&self) -> SessionsSummary {
        self.core.view().sessions
    }

    /// The last applied membership.
    pub(crate) fn membership(&self) -> StoredMembership {
        self.core.view().membership.clone()
    }

    /// Replaces the state by that in a snapshot file, which stays where it is.
    pub(crate) async fn load(&self, file: &SnapshotFile) -> io::Result<()> {
        self.core.load(file).await.map(drop)
    }

    /// Writes the state, which nobody changes, as a snapshot file into `files`.
    pub(crate) async fn copy_state(&self, files: &Arc<dyn Files>) -> io::Result<SnapshotFile> {
        let (cut, head) = self.core.begin_cut()?;
        let written = self.core.write_cut(cut, &head, files).await;
        self.core.end_cut(cut);
        written?.ok_or_else(|| io::Error::other("the state changed while it was copied"))
    }

    /// Makes the state that of a new cluster with one member; the last log id in it.
    pub(crate) fn found_anew(
        &self,
        cluster: u128,
        revisions: u64,
        founder: (u64, Member),
    ) -> io::Result<LogId> {
        self.core.found_anew(cluster, revisions, founder)
    }

    /// Reads all rows, and compares them with the state hash; how many there are.
    pub(crate) fn verify_rows(&self) -> io::Result<u64> {
        self.core.verify_rows()
    }

    /// The newest snapshot that verifies, with its head.
    pub(crate) async fn current_snapshot(&self) -> io::Result<Option<(StateHead, SnapshotFile)>> {
        let (core, runtime) = (Arc::clone(&self.core), self.core.runtime.clone());
        on_thread(&runtime, "snapshot-find", async move { core.current_snapshot().await }).await
    }

    /// Up to `length` bytes at `offset` of the finished snapshot of that name; `NotFound` when there is none.
    pub(crate) fn read_snapshot(&self, name: &str, offset: u64, length: usize) -> io::Result<Bytes> {
        self.core.read_snapshot(name, offset, length)
    }

    /// Begins to receive a snapshot, or goes on with one that was begun.
    ///
    /// # Errors
    /// When the offer is none that this program could have made (`InvalidInput`), or the disk fails.
    pub fn receive_snapshot(&self, offer: SnapshotOffer) -> io::Result<SnapshotReceiver> {
        self.core.receive_snapshot(offer)
    }
}

impl<S> Clone for Host<S> {
    fn clone(&self) -> Self {
        Self { core: Arc::clone(&self.core), machine: Arc::clone(&self.machine) }
    }
}

impl<S> fmt::Debug for Host<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("applied", &self.core.view().applied).finish_non_exhaustive()
    }
}
