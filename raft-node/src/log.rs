//! The Raft log and the vote, in the store: one writer, group commit, nothing answered before it is durable.
//!
//! An append writes its entries into the store in order and returns: they can be read at once. The writer then makes
//! all that was written durable with one sync, and only after it answers, in the order of submission. While one sync
//! runs, the next batch gathers: that is the group commit. Votes take the same way, so that vote and log can never
//! become durable in another order than they were written.
//!
//! Knows nothing of the state machine. Formats: [`record`].

pub(crate) mod record;

use std::collections::VecDeque;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::Stream;
use openraft::EntryPayload;
use openraft::alias::{EntryOf, LogIdOf, VoteOf};
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use rpc_core::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};

use self::record::{HEAD_KEYS, decode_meta, encode_meta};
use crate::disk::{Disk, Store};
use crate::plant;
use crate::probe::ProbedEntry;
use crate::status::{LogPosition, Vote};
use crate::types::{Proposal, TypeConfig};

/// Entries kept in memory for replication and apply, in bytes: older ones are read from the store.
const TAIL_SIZE_MAX: usize = 8 * 1024 * 1024;
/// What an entry takes in memory beside its payload, in bytes, about.
const TAIL_ENTRY_SIZE: usize = 192;
/// Bytes of entries that one read for replication gives, unless the first entry alone is larger.
const READ_SIZE_MAX: usize = 256 * 1024;
/// Work that waits for the writer; a full queue makes an append wait.
const QUEUE_COUNT_MAX: usize = 65_536;
/// Answers that one sync gives.
const GROUP_COUNT_MAX: usize = 4_096;
/// Entries that one chunk of a stream holds.
const CHUNK_COUNT: u64 = 256;

/// The log of one node. Cheap to clone.
#[derive(Clone)]
pub(crate) struct LogStore {
    shared: Arc<Shared>,
    writer: mpsc::Sender<Work>,
}

struct Shared {
    disk: Disk,
    log: Mutex<Log>,
}

/// What is in the store, as far as it matters on every call.
#[derive(Default)]
struct Log {
    vote: Option<VoteOf<TypeConfig>>,
    /// The vote that openraft was told to be durable.
    vote_saved: Option<VoteOf<TypeConfig>>,
    committed: Option<LogIdOf<TypeConfig>>,
    purged: Option<LogIdOf<TypeConfig>>,
    last: Option<LogIdOf<TypeConfig>>,
    /// The newest entries, without gaps up to `last`, each with the size of its payload.
    tail: VecDeque<(EntryOf<TypeConfig>, usize)>,
    tail_size: usize,
    /// Bytes of the payloads of all entries that were ever pushed.
    pushed_size: u64,
    /// Nothing was ever dropped from the front of the tail.
    tail_is_all: bool,
}

/// What the writer is asked for, in the order of the writes that it covers.
enum Work {
    Appended(IOFlushed<TypeConfig>),
    Durable(oneshot::Sender<io::Result<()>>),
}

/// The vote of a node, and where its log begins and ends.
pub(crate) struct Bounds {
    pub(crate) vote: Option<VoteOf<TypeConfig>>,
    /// The last entry known here to be committed.
    pub(crate) committed: Option<LogIdOf<TypeConfig>>,
    /// The last entry that was removed.
    pub(crate) purged: Option<LogIdOf<TypeConfig>>,
    /// The last entry.
    pub(crate) last: Option<LogIdOf<TypeConfig>>,
}

/// Makes the log in `store`, which must be empty, one of which everything up to `last` was purged, and gives the vote
/// of the next term to `node`. Nothing is synced.
pub(crate) fn begin_behind(store: &dyn Store, last: LogIdOf<TypeConfig>, node: u64) -> io::Result<()> {
    let vote = VoteOf::<TypeConfig>::new(last.leader_id.term + 1, node);
    encode_meta(store, record::VOTE, &vote)?;
    encode_meta(store, record::COMMITTED, &Some(last))?;
    encode_meta(store, record::PURGED, &last)
}

impl LogStore {
    /// Opens the log in `disk`, checks every entry, and starts the writer.
    ///
    /// # Errors
    /// `InvalidData` with the log index when an entry is damaged or missing; the error of the disk when it fails.
    pub(crate) fn open(disk: Disk, runtime: &Runtime) -> io::Result<Self> {
        let log = Log::load(&disk)?;
        let (writer, work) = mpsc::channel(QUEUE_COUNT_MAX);
        let shared = Arc::new(Shared { disk, log: Mutex::new(log) });
        runtime.spawn_thread("log writer", write(shared.disk.clone(), work));
        Ok(Self { shared, writer })
    }

    /// Waits until everything written so far is durable.
    pub(crate) async fn sync(&self) -> io::Result<()> {
        let (sender, done) = oneshot::channel();
        self.submit(Work::Durable(sender)).await?;
        done.await.map_err(|_| writer_gone())?
    }

    /// The vote, and where the log begins and ends.
    pub(crate) fn bounds(&self) -> Bounds {
        let Log { vote, committed, purged, last, .. } = *self.log();
        Bounds { vote, committed, purged, last }
    }

    /// Bytes of the payloads of the entries that were there at the opening and of those appended since.
    pub(crate) fn size_appended(&self) -> u64 {
        self.log().pushed_size
    }

    /// The vote that is durable.
    pub(crate) fn vote_saved(&self) -> Vote {
        let seen = |vote: VoteOf<TypeConfig>| Vote {
            term: vote.leader_id.term,
            node: vote.leader_id.node_id,
            committed: vote.committed,
        };
        self.log().vote_saved.map(seen).unwrap_or_default()
    }

    /// What a probe sees of the entries from index `from` on, at most `count`.
    pub(crate) fn probe(&self, from: u64, count: u64) -> io::Result<Vec<ProbedEntry>> {
        let entries = self.entries(&(from..from.saturating_add(count)), usize::MAX)?;
        let probed = entries.into_iter().map(|entry| {
            let LogIdOf::<TypeConfig> { leader_id, index } = entry.log_id;
            let crc = match &entry.payload {
                EntryPayload::Normal(Proposal(bytes)) => crc32c::crc32c(bytes),
                other => crc32c::crc32c(other.to_string().as_bytes()),
            };
            let position = LogPosition { term: leader_id.term, leader: leader_id.node_id, index };
            ProbedEntry { position, crc }
        });
        Ok(probed.collect())
    }

    async fn submit(&self, work: Work) -> io::Result<()> {
        self.writer.send(work).await.map_err(|_| writer_gone())
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.shared.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The entries of `range` that exist, ascending; stops after `size_max` bytes of payload, not before the first.
    /// Holds the lock, so that all of them come from one state of the log.
    fn entries(
        &self,
        range: &impl RangeBounds<u64>,
        size_max: usize,
    ) -> io::Result<Vec<EntryOf<TypeConfig>>> {
        let log = self.log();
        let first = log.purged.map_or(0, |purged| purged.index + 1);
        let end = log.last.map_or(0, |last| last.index + 1);
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start + 1,
            Bound::Unbounded => 0,
        };
        let stop = match range.end_bound() {
            Bound::Included(stop) => stop + 1,
            Bound::Excluded(stop) => *stop,
            Bound::Unbounded => u64::MAX,
        };
        let tail_first = end - log.tail.len() as u64;
        // A log that was never purged begins where its first entry was put.
        let first = if log.purged.is_none() && log.tail_is_all { tail_first } else { first };
        let (mut index, stop) = (start.max(first), stop.min(end));
        let (mut entries, mut size) = (Vec::new(), 0);
        while index < stop {
            let (entry, payload_size) = match index.checked_sub(tail_first) {
                Some(position) => log.tail[position as usize].clone(),
                None => record::read(&*self.shared.disk.store, index)?,
            };
            size += payload_size;
            if size > size_max && !entries.is_empty() {
                break;
            }
            entries.push(entry);
            index += 1;
        }
        Ok(entries)
    }
}

impl Log {
    fn load(disk: &Disk) -> io::Result<Self> {
        let store = &*disk.store;
        let mut log = Self {
            vote: decode_meta(store, record::VOTE)?,
            committed: decode_meta::<Option<_>>(store, record::COMMITTED)?.flatten(),
            purged: decode_meta(store, record::PURGED)?,
            tail_is_all: true,
            ..Self::default()
        };
        log.vote_saved = log.vote;
        log.last = log.purged;
        let first = log.purged.map_or(0, |purged| purged.index + 1);
        // A crash can leave purged entries behind, and pieces whose entry was never finished.
        record::remove_below(store, first)?;
        for index in first.. {
            if store.get(HEAD_KEYS, &index.to_be_bytes())?.is_none() {
                break;
            }
            let (entry, size) = record::read(store, index)?;
            if log.last.is_some_and(|last| entry.log_id().leader_id < last.leader_id) {
                return Err(record::damaged(index, "its leader is older than the one of the entry before"));
            }
            log.push(entry, size);
        }
        let end = log.last.map_or(0, |last| last.index + 1);
        record::refuse_entries_from(store, end)?;
        record::remove_pieces_from(store, end)?;
        Ok(log)
    }

    fn push(&mut self, entry: EntryOf<TypeConfig>, size: usize) {
        self.last = Some(entry.log_id());
        self.tail.push_back((entry, size));
        self.tail_size += size + TAIL_ENTRY_SIZE;
        self.pushed_size += size as u64;
        while self.tail_size > TAIL_SIZE_MAX {
            self.tail_is_all = false;
            if !self.forget_oldest() {
                break;
            }
        }
    }

    fn pop(&mut self) {
        if let Some((_, size)) = self.tail.pop_back() {
            self.tail_size -= size + TAIL_ENTRY_SIZE;
        }
    }

    fn forget_oldest(&mut self) -> bool {
        let oldest = self.tail.pop_front();
        self.tail_size -= oldest.as_ref().map_or(0, |(_, size)| size + TAIL_ENTRY_SIZE);
        oldest.is_some()
    }
}

/// The writer: one sync for all that waits, then the answers in order. Ends when the log is dropped.
async fn write(disk: Disk, mut work: mpsc::Receiver<Work>) {
    let mut group = Vec::new();
    while work.recv_many(&mut group, GROUP_COUNT_MAX).await > 0 {
        let is_synced =
            !plant::ACK_BEFORE_SYNC.is_planted() || group.iter().any(|work| matches!(work, Work::Durable(_)));
        let synced = if is_synced { disk.store.sync().await } else { Ok(()) };
        for work in group.drain(..) {
            match work {
                Work::Appended(flushed) => flushed.io_completed(copy(&synced)),
                Work::Durable(waiting) => drop(waiting.send(copy(&synced))),
            }
        }
    }
}

fn copy(result: &io::Result<()>) -> io::Result<()> {
    result.as_ref().copied().map_err(|error| io::Error::new(error.kind(), error.to_string()))
}

fn writer_gone() -> io::Error {
    io::Error::other("the log writer has ended")
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + std::fmt::Debug + Send>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<EntryOf<TypeConfig>>> {
        self.entries(&range, usize::MAX)
    }

    async fn read_vote(&mut self) -> io::Result<Option<VoteOf<TypeConfig>>> {
        Ok(self.log().vote)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> io::Result<Vec<EntryOf<TypeConfig>>> {
        let entries = self.entries(&(start..end), READ_SIZE_MAX)?;
        // openraft takes what it gets as the entries from `start` on; what a purge was faster with must not become a hole
        // in a follower's log. It handles nothing, and goes on with a snapshot.
        let begins_there = entries.first().is_some_and(|first| first.index() == start);
        Ok(if begins_there { entries } else { Vec::new() })
    }

    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = io::Result<EntryOf<TypeConfig>>> + Send
    where
        RB: RangeBounds<u64> + Clone + std::fmt::Debug + Send,
    {
        let log = self.clone();
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start + 1,
            Bound::Unbounded => 0,
        };
        let stop = match range.end_bound() {
            Bound::Included(stop) => stop + 1,
            Bound::Excluded(stop) => *stop,
            Bound::Unbounded => u64::MAX,
        };
        let chunk = VecDeque::new();
        Box::pin(futures_util::stream::unfold(
            (log, start, chunk),
            move |(log, mut next, mut chunk)| async move {
                if chunk.is_empty() && next < stop {
                    match log.entries(&(next..stop.min(next.saturating_add(CHUNK_COUNT))), READ_SIZE_MAX) {
                        Ok(entries) => chunk.extend(entries),
                        Err(error) => return Some((Err(error), (log, stop, chunk))),
                    }
                }
                let entry = chunk.pop_front()?;
                next = entry.index() + 1;
                Some((Ok(entry), (log, next, chunk)))
            },
        ))
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let log = self.log();
        Ok(LogState { last_purged_log_id: log.purged, last_log_id: log.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<TypeConfig>) -> io::Result<()> {
        if !plant::VOTE_NOT_SAVED.is_planted() {
            {
                let mut log = self.log();
                encode_meta(&*self.shared.disk.store, record::VOTE, vote)?;
                log.vote = Some(*vote);
            }
            self.sync().await?;
        }
        self.log().vote_saved = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogIdOf<TypeConfig>>) -> io::Result<()> {
        // Not synced: it becomes durable with the next append, and an older one is right too.
        let mut log = self.log();
        encode_meta(&*self.shared.disk.store, record::COMMITTED, &committed)?;
        log.committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogIdOf<TypeConfig>>> {
        Ok(self.log().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = EntryOf<TypeConfig>> + Send,
        I::IntoIter: Send,
    {
        {
            let mut log = self.log();
            for entry in entries {
                let (index, last) = (entry.index(), log.last.map(|last| last.index));
                if last.is_some_and(|last| index != last + 1) {
                    return Err(io::Error::other(format!("entry {index} does not follow entry {last:?}")));
                }
                let size = record::write(&*self.shared.disk.store, &entry)?;
                log.push(entry, size);
            }
        }
        self.submit(Work::Appended(callback)).await
    }

    async fn truncate_after(&mut self, last: Option<LogIdOf<TypeConfig>>) -> io::Result<()> {
        let mut log = self.log();
        let keep = last.map_or(0, |last| last.index + 1) + u64::from(plant::TRUNCATE_SHORT.is_planted());
        let end = log.last.map_or(0, |last| last.index + 1);
        if keep >= end {
            return Ok(());
        }
        record::remove_from(&*self.shared.disk.store, keep)?;
        (keep..end).for_each(|_| log.pop());
        log.last = last.max(log.purged);
        Ok(())
    }

    async fn purge(&mut self, purged: LogIdOf<TypeConfig>) -> io::Result<()> {
        let mut log = self.log();
        // First the record, then the entries: what is left of them after a crash is removed at the next start.
        encode_meta(&*self.shared.disk.store, record::PURGED, &purged)?;
        record::remove_below(&*self.shared.disk.store, purged.index + 1)?;
        log.purged = Some(purged);
        if log.last < Some(purged) {
            log.last = Some(purged);
            log.tail.clear();
            log.tail_size = 0;
        }
        let kept = log.last.map_or(0, |last| last.index) - purged.index;
        while log.tail.len() as u64 > kept {
            log.forget_oldest();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
