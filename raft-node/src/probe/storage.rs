//! The storage of a node without the node: what tests of durability write to, and look into after a power cut.
//!
//! It takes the same steps as a node does when it starts, and then those that Raft would ask for.

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use openraft::entry::RaftEntry;
use openraft::impls::leader_id_adv::LeaderId;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, LogId};
use rpc_core::runtime::Runtime;

use crate::disk::Disk;
use crate::host::HostConfig;
use crate::machine::{RowsRead, StateMachine};
use crate::status::{LogPosition, Vote};
use crate::storage::{StartError, Storage};
use crate::types::{Proposal, TypeConfig};

type Entry = openraft::alias::EntryOf<TypeConfig>;

/// Identity, log and state of one node, driven by hand. Entries are commands; node 1 leads every term.
pub struct StorageProbe<S> {
    storage: Storage<S>,
    runtime: Runtime,
}

/// What the storage holds, apart from entries and rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StorageSight {
    /// The incarnation in the identity.
    pub incarnation: u128,
    /// The vote.
    pub vote: Option<Vote>,
    /// The last entry removed from the log.
    pub purged: Option<LogPosition>,
    /// The last entry of the log; the last removed one, if none is left.
    pub last: Option<LogPosition>,
    /// The last entry that the state holds.
    pub applied: Option<LogPosition>,
    /// The last entry in the newest snapshot that verifies.
    pub snapshot: Option<LogPosition>,
}

impl<S: StateMachine> StorageProbe<S> {
    /// Opens the storage of node 1 in `disk`, as a node does at its start.
    ///
    /// # Errors
    /// As [`crate::Boot::open`].
    pub async fn open(runtime: Runtime, disk: Disk, machine: Arc<S>) -> Result<Self, StartError> {
        let storage = Storage::open(&runtime, &disk, machine, 1, HostConfig::default()).await?;
        Ok(Self { storage, runtime })
    }

    /// What is there.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn sight(&mut self) -> io::Result<StorageSight> {
        let runtime = self.runtime.clone();
        let Storage { identity, log, host } = &mut self.storage;
        let look = async {
            let state = log.get_log_state().await?;
            let vote = log.read_vote().await?.map(|vote| Vote {
                term: vote.leader_id.term,
                node: vote.leader_id.node_id,
                committed: vote.committed,
            });
            let snapshot = host.get_current_snapshot().await?.and_then(|snapshot| snapshot.meta.last_log_id);
            Ok(StorageSight {
                incarnation: identity.incarnation,
                vote,
                purged: state.last_purged_log_id.map(position),
                last: state.last_log_id.map(position),
                applied: host.applied().log_id.map(position),
                snapshot: snapshot.map(position),
            })
        };
        runtime.enter(look).await
    }

    /// All entries of the log, each read and verified: where they stand and their commands as they were appended.
    ///
    /// # Errors
    /// Of the disk, or `InvalidData` when an entry is damaged.
    pub async fn entries(&mut self) -> io::Result<Vec<(LogPosition, Bytes)>> {
        let entries = self.storage.log.try_get_log_entries(..).await?;
        let entries = entries.into_iter().map(|entry| {
            let command = match &entry.payload {
                EntryPayload::Normal(Proposal(command)) => command.clone(),
                _ => Bytes::new(),
            };
            (position(entry.log_id()), command)
        });
        Ok(entries.collect())
    }

    /// Reads rows of the state.
    pub fn read<R>(&self, reader: impl FnOnce(&dyn RowsRead) -> R) -> R {
        self.storage.host.read(|rows, _| reader(rows))
    }

    /// Votes for node 1 in `term`; durable when this returns.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn vote(&mut self, term: u64) -> io::Result<()> {
        self.storage.log.save_vote(&openraft::alias::VoteOf::<TypeConfig>::new(term, 1)).await
    }

    /// Appends encoded commands behind the last entry; durable when this returns. The first entry of a log has index 0.
    ///
    /// # Errors
    /// Of the disk, or when `first` does not follow the last entry.
    pub async fn append(&mut self, term: u64, first: u64, commands: Vec<Bytes>) -> io::Result<()> {
        let entries = (first..)
            .zip(commands)
            .map(|(index, command)| Entry::new(log_id(term, index), EntryPayload::Normal(Proposal(command))));
        self.storage.log.append(entries.collect::<Vec<_>>(), IOFlushed::noop()).await?;
        self.storage.log.sync().await
    }

    /// Removes the entries behind `last`, as a follower of a new leader does.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn truncate_after(&mut self, term: u64, last: u64) -> io::Result<()> {
        self.storage.log.truncate_after(Some(log_id(term, last))).await
    }

    /// Applies the entries of the log up to index `last` that are not applied yet.
    ///
    /// # Errors
    /// Of the disk, or of the machine.
    pub async fn apply(&mut self, last: u64) -> io::Result<()> {
        let first = self.storage.host.applied().index().map_or(0, |applied| applied + 1);
        let entries = self.storage.log.try_get_log_entries(first..=last).await?;
        let entries = stream::iter(entries.into_iter().map(|entry| Ok((entry, None))));
        self.storage.host.apply(entries).await
    }

    /// Builds a snapshot of the state as it is now; durable when this returns.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn snapshot(&mut self) -> io::Result<()> {
        let runtime = self.runtime.clone();
        let host = &mut self.storage.host;
        runtime.enter(async { host.get_snapshot_builder().await.build_snapshot().await.map(drop) }).await
    }

    /// Replaces the state by that of a snapshot of it, as if another node had sent that.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn install(&mut self) -> io::Result<()> {
        let runtime = self.runtime.clone();
        let host = &mut self.storage.host;
        let install = async {
            let built = host.get_snapshot_builder().await.build_snapshot().await?;
            host.install_snapshot(&built.meta, built.snapshot).await
        };
        runtime.enter(install).await
    }

    /// Removes the entries up to (`term`, `last`), which a snapshot must cover.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn purge(&mut self, term: u64, last: u64) -> io::Result<()> {
        self.storage.log.purge(log_id(term, last)).await
    }
}

impl<S> fmt::Debug for StorageProbe<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StorageProbe")
    }
}

fn log_id(term: u64, index: u64) -> crate::types::LogId {
    LogId::new(LeaderId { term, node_id: 1 }, index)
}

fn position(id: crate::types::LogId) -> LogPosition {
    LogPosition { term: id.leader_id.term, leader: id.leader_id.node_id, index: id.index }
}
