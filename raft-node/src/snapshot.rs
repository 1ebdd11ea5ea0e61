//! Snapshot files: their names, handles on them, and how they come in from another node.
//!
//! A snapshot holds exactly what applying can read, at one log index: the state head, the machine's rows, sessions and
//! records. Its layout is in `snapshot/format.rs`. Nothing here knows how the state lies in the store.

mod format;
mod receiver;

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use rpc_core::runtime::Runtime;
use tokio::sync::oneshot;

pub(crate) use self::format::{SnapshotReader, SnapshotRow, SnapshotWriter};
pub use self::receiver::SnapshotReceiver;
use crate::disk::Files;
use crate::state_head::StateHead;
use crate::types::{LogId, SnapshotMeta};

/// A complete snapshot file: a cheap handle. Reading it fails with `NotFound` once newer snapshots replaced it.
#[derive(Clone)]
pub struct SnapshotFile {
    files: Arc<dyn Files>,
    offer: SnapshotOffer,
}

/// What a sender tells a receiver before the first part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotOffer {
    /// The file's name, `<index>-<term>-<random>.snap`: names these very bytes.
    pub name: String,
    /// The file's size in bytes.
    pub size: u64,
    /// The CRC32C of the whole file.
    pub crc: u32,
}

impl SnapshotFile {
    pub(crate) fn new(files: Arc<dyn Files>, offer: SnapshotOffer) -> Self {
        Self { files, offer }
    }

    /// The finished file of that name, its size and checksum read from the disk.
    pub(crate) async fn find(files: Arc<dyn Files>, name: String) -> io::Result<Self> {
        let mut offer = SnapshotOffer { name, size: 0, crc: 0 };
        loop {
            let bytes = files.read(&offer.name, offer.size, READ_SIZE)?;
            if bytes.is_empty() {
                return Ok(Self::new(files, offer));
            }
            offer.crc = crc32c::crc32c_append(offer.crc, &bytes);
            offer.size += bytes.len() as u64;
            breathe().await;
        }
    }

    /// The same file in another directory, made durable there.
    pub(crate) async fn copy_to(&self, files: &Arc<dyn Files>) -> io::Result<Self> {
        let name =
            SnapshotName::parse(&self.offer.name).ok_or_else(|| damaged(&self.offer.name, "its name"))?;
        let building = name.with(SUFFIX_BUILDING);
        files.create(&building)?;
        let mut offset = 0;
        while offset < self.offer.size {
            let bytes = self.read(offset, READ_SIZE)?;
            if bytes.is_empty() {
                return Err(damaged(&self.offer.name, "it ends early"));
            }
            files.write(&building, offset, &bytes)?;
            offset += bytes.len() as u64;
            breathe().await;
        }
        files.sync(&building).await?;
        files.rename(&building, &self.offer.name)?;
        files.sync_directory().await?;
        Ok(Self::new(Arc::clone(files), self.offer.clone()))
    }

    /// What to tell a receiver.
    pub fn offer(&self) -> &SnapshotOffer {
        &self.offer
    }

    /// Up to `length` bytes at `offset`; fewer at the end of the file.
    pub fn read(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        self.files.read(&self.offer.name, offset, length)
    }

    /// Whether the file lies in this directory.
    pub(crate) fn lies_in(&self, files: &Arc<dyn Files>) -> bool {
        Arc::ptr_eq(&self.files, files)
    }

    /// Reads the whole file; its head and the count of its rows if every byte of it is as written.
    pub(crate) async fn verify(&self) -> io::Result<(StateHead, u64)> {
        let mut reader = SnapshotReader::open(self.clone())?;
        let head = reader.head().clone();
        let mut rows: u64 = 0;
        while reader.next_row()?.is_some() {
            rows += 1;
            if rows.is_multiple_of(ROWS_PER_TURN) {
                breathe().await;
            }
        }
        Ok((head, rows))
    }
}

impl fmt::Debug for SnapshotFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotFile").field("offer", &self.offer).finish_non_exhaustive()
    }
}

/// The name of a snapshot, the newest last. Random numbers tell apart files of the same index, which may differ in
/// bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SnapshotName {
    index: u64,
    term: u64,
    random: u64,
}

impl SnapshotName {
    pub(crate) fn new(last: Option<LogId>, random: u64) -> Self {
        let (index, term) = last.map_or((0, 0), |id| (id.index, id.leader_id.term));
        Self { index, term, random }
    }

    /// Reads the name of a finished file; `None` for every other name.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let mut parts = name.strip_suffix(SUFFIX_DONE)?.splitn(3, '-');
        let (index, term) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let random = u64::from_str_radix(parts.next()?, 16).ok()?;
        let parsed = Self { index, term, random };
        (parsed.with(SUFFIX_DONE) == name).then_some(parsed)
    }

    pub(crate) fn with(self, suffix: &str) -> String {
        let Self { index, term, random } = self;
        format!("{index}-{term}-{random:016x}{suffix}")
    }
}

/// The finished snapshots in a directory, newest first.
pub(crate) fn finished(files: &dyn Files) -> io::Result<Vec<SnapshotName>> {
    let mut names: Vec<_> = files.list()?.iter().filter_map(|name| SnapshotName::parse(name)).collect();
    names.sort_unstable();
    names.reverse();
    Ok(names)
}

/// Removes what builders and receivers left unfinished in an earlier life.
pub(crate) fn remove_unfinished(files: &dyn Files) -> io::Result<()> {
    for name in files.list()? {
        if name.ends_with(SUFFIX_BUILDING) || name.ends_with(SUFFIX_RECEIVING) {
            files.remove(&name)?;
        }
    }
    Ok(())
}

/// Removes all finished snapshots but `current` and the newest others, [`SNAPSHOTS_KEPT`] in all.
pub(crate) fn remove_old(files: &dyn Files, current: &str) -> io::Result<()> {
    let names = finished(files)?.into_iter().map(|name| name.with(SUFFIX_DONE));
    names.filter(|name| name != current).skip(SNAPSHOTS_KEPT - 1).try_for_each(|name| files.remove(&name))
}

/// What openraft knows of the snapshot with this head.
pub(crate) fn meta_of(head: &StateHead) -> SnapshotMeta {
    SnapshotMeta { last_log_id: head.last_applied, last_membership: head.membership.clone() }
}

/// Runs `task`, which blocks on the disk, where it may.
pub(crate) async fn on_thread<T: Send + 'static>(
    runtime: &Runtime,
    name: &'static str,
    task: impl Future<Output = io::Result<T>> + Send + 'static,
) -> io::Result<T> {
    let (sender, result) = oneshot::channel();
    runtime.spawn_thread(name, async move {
        // Nobody waits any more when the node is being stopped.
        let _ = sender.send(task.await);
    });
    result.await.unwrap_or_else(|_| Err(io::Error::other(format!("{name} thread ended early"))))
}

/// Lets other tasks run where this one shares a thread with them.
pub(crate) async fn breathe() {
    let mut polled = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut polled, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// The error for a damaged snapshot file.
pub(crate) fn damaged(name: &str, what: impl fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("damaged snapshot {name}: {what}"))
}

/// Finished snapshots kept in the directory: the current one, and one more that may still be on its way to a peer.
pub const SNAPSHOTS_KEPT: usize = 2;
/// The largest snapshot that is received, in bytes; a larger one is refused.
pub const SNAPSHOT_SIZE_MAX: u64 = 1 << 40;
/// The name of a finished file ends so.
pub(crate) const SUFFIX_DONE: &str = ".snap";
/// The name of a file that is being built.
pub(crate) const SUFFIX_BUILDING: &str = ".tmp";
/// The name of a file that is being received.
pub(crate) const SUFFIX_RECEIVING: &str = ".part";
/// The most bytes that are read from a file at once.
const READ_SIZE: usize = 64 * 1024;
/// Rows that are read or written before other tasks may run.
pub(crate) const ROWS_PER_TURN: u64 = 256;
