//! The replicated state: applies committed entries to the disk in rounds, and serves reads at round boundaries.
use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;

use futures_util::Stream;
use openraft::RaftSnapshotBuilder;
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::type_config::alias::SnapshotOf;
use rpc_core::runtime::Runtime;

use crate::disk::Disk;
use crate::machine::{RowsRead, StateMachine};
use crate::snapshot::{SnapshotFile, SnapshotOffer, SnapshotReceiver};
use crate::types::{LogId, SnapshotMeta, StoredMembership, TypeConfig};

/// Hosts one state machine: openraft's state machine on one side, reads on the other. Cheap to clone.
pub struct Host<S> {
    machine: Arc<S>,
}

/// What a host may be tuned with. None of it may change what applying a command does.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// The most memory that a snapshot may hold for rows overwritten while it is built, in bytes; beyond it, the
    /// build starts again. Default 256 MiB.
    pub snapshot_undo_bytes_max: usize,
}

impl Default for HostConfig {
    fn default() -> Self {
        Self { snapshot_undo_bytes_max: 256 * 1024 * 1024 }
    }
}

/// The state at a round boundary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    pub(crate) log_id: Option<LogId>,
    /// The revision of the last applied entry: revision base + log index; zero before the first.
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

/// The most that may wait for an applied index at once.
pub const WAITERS_MAX: usize = 65_536;

impl<S: StateMachine> Host<S> {
    /// Opens the state on `disk`, at the last round that is on it whole. Drops what a crash left behind.
    pub fn open(_disk: Disk, _machine: Arc<S>, _runtime: Runtime, _config: HostConfig) -> io::Result<Self> {
        Err(io::Error::other("not landed yet"))
    }

    /// Reads rows and watermark at one round boundary. Does not wait for the disk to sync. Rounds wait for `reader`:
    /// keep it short.
    pub fn read<R>(&self, _reader: impl FnOnce(&dyn RowsRead, &Applied) -> R) -> R {
        unimplemented!("not landed yet")
    }

    /// The state's watermark.
    pub fn applied(&self) -> Applied {
        unimplemented!("not landed yet")
    }

    /// Completes when the entry at `index` is applied and can be read.
    pub fn wait_applied(&self, _index: u64) -> impl Future<Output = Result<(), WaitError>> + Send + 'static {
        async { Err(WaitError::Closed) }
    }

    /// The cluster's id, once [`crate::command::Command::Found`] was applied.
    pub fn cluster(&self) -> Option<u128> {
        unimplemented!("not landed yet")
    }

    /// What the session table holds.
    pub fn sessions(&self) -> SessionsSummary {
        unimplemented!("not landed yet")
    }

    /// The last applied membership.
    pub(crate) fn membership(&self) -> StoredMembership {
        unimplemented!("not landed yet")
    }

    /// Begins to receive a snapshot, or goes on with one that was begun.
    pub fn receive_snapshot(&self, _offer: SnapshotOffer) -> io::Result<SnapshotReceiver> {
        Err(io::Error::other("not landed yet"))
    }
}

impl<S> Clone for Host<S> {
    fn clone(&self) -> Self {
        Self { machine: Arc::clone(&self.machine) }
    }
}

impl<S> fmt::Debug for Host<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Host")
    }
}

impl<S: StateMachine> RaftStateMachine<TypeConfig> for Host<S> {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = SnapshotBuilder<S>;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        unimplemented!("not landed yet")
    }

    async fn apply<Strm>(&mut self, _entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + Send,
    {
        unimplemented!("not landed yet")
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        unimplemented!("not landed yet")
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMeta,
        _snapshot: SnapshotFile,
    ) -> Result<(), io::Error> {
        unimplemented!("not landed yet")
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<TypeConfig, SnapshotFile>>, io::Error> {
        unimplemented!("not landed yet")
    }
}

/// Builds one snapshot.
pub struct SnapshotBuilder<S> {
    host: Host<S>,
}

impl<S: StateMachine> RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder<S> {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<TypeConfig, SnapshotFile>, io::Error> {
        let _ = &self.host;
        unimplemented!("not landed yet")
    }
}
