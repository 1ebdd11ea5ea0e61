//! The seam to the disk: an ordered byte store and a directory of files.
//!
//! It lies low on purpose: all house logic above it (pieces, checksums, purge order, generation switch, snapshot files,
//! identity) is one code for the real disk and the simulated one. The adapters below it are thin.

mod plant;
pub mod real;
pub mod sim;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use rpc_core::runtime::BoxFuture;

/// Both halves of one node's disk. Cheap to clone.
#[derive(Clone)]
pub struct Disk {
    /// The ordered byte store.
    pub store: Arc<dyn Store>,
    /// Plain files beside it: snapshots, identity.
    pub files: Arc<dyn Files>,
}

/// An ordered byte store with named trees.
///
/// All writes to all trees have one global order, the order in which the calls returned. After a crash the store
/// holds a *prefix* of that order which contains at least everything that was written before the last completed
/// [`Store::sync`] was called. A write is there with all of its changes or not at all.
/// An error is sticky: the store is poisoned, every later call fails, the process must be restarted.
/// Writes return without waiting for the disk, but for one that makes what is not synced larger than a real disk gathers
/// (8 MiB): it syncs. A key above [`KEY_SIZE_MAX`] or a value above [`PIECE_SIZE_MAX`] is refused
/// with `InvalidInput`, which is not sticky.
pub trait Store: Send + Sync + 'static {
    /// Makes changes, each of a tree, in their order and all of them together.
    fn write(&self, changes: &[(&str, Change<'_>)]) -> io::Result<()>;

    /// Sets `key` of `tree`.
    fn insert(&self, tree: &str, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.write(&[(tree, Change::Insert(key, value))])
    }

    /// Removes `key` of `tree`, if it is there.
    fn remove(&self, tree: &str, key: &[u8]) -> io::Result<()> {
        self.write(&[(tree, Change::Remove(key))])
    }

    /// Removes all keys of `tree` with `from <= key` and, if given, `key < to`.
    fn remove_range(&self, tree: &str, from: &[u8], to: Option<&[u8]>) -> io::Result<()> {
        self.write(&[(tree, Change::RemoveRange(from, to))])
    }

    /// The value of `key` of `tree`.
    fn get(&self, tree: &str, key: &[u8]) -> io::Result<Option<Bytes>>;

    /// Up to `limit` pairs with `from <= key` and, if given, `key < to`, ascending.
    fn range(
        &self,
        tree: &str,
        from: &[u8],
        to: Option<&[u8]>,
        limit: usize,
    ) -> io::Result<Vec<(Bytes, Bytes)>>;

    /// The names of all trees that hold anything, ascending.
    fn trees(&self) -> io::Result<Vec<String>>;

    /// Makes everything durable that was written before this call. Blocks the thread on a real disk while polled
    /// (only the writer thread calls it); takes virtual time in simulation.
    fn sync(&self) -> BoxFuture<io::Result<()>>;
}

/// One change of one tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// A key gets a value.
    Insert(&'a [u8], &'a [u8]),
    /// A key is removed, if it is there.
    Remove(&'a [u8]),
    /// All keys from the first one on are removed, up to the second one, if it is given. Costs as much as one key until
    /// the database below has them too, however many there are.
    RemoveRange(&'a [u8], Option<&'a [u8]>),
}

/// A flat directory of files. Names hold no separators.
///
/// What was written is durable after [`Files::sync`] of that file; that a name exists, or leads to another file, is
/// durable only after [`Files::sync_directory`].
pub trait Files: Send + Sync + 'static {
    /// The names of all files, ascending.
    fn list(&self) -> io::Result<Vec<String>>;

    /// The size of a file in bytes; an error of kind `NotFound` if there is none.
    fn size(&self, name: &str) -> io::Result<u64>;

    /// Up to `length` bytes at `offset`; fewer at the end of the file.
    fn read(&self, name: &str, offset: u64, length: usize) -> io::Result<Bytes>;

    /// Creates or empties a file.
    fn create(&self, name: &str) -> io::Result<()>;

    /// Writes at `offset`, extending the file if needed (a gap reads as zeros).
    fn write(&self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes the content of a file durable. Blocks while polled on a real disk; takes virtual time in simulation.
    fn sync(&self, name: &str) -> BoxFuture<io::Result<()>>;

    /// Renames a file, replacing what had the new name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file, if it is there.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes creations, renames and removals durable.
    fn sync_directory(&self) -> BoxFuture<io::Result<()>>;

    /// What is left on the disk.
    fn space(&self) -> io::Result<Space>;
}

/// Space on the file system that holds a disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// What this process may still write.
    pub free: u64,
    /// The size of the file system.
    pub total: u64,
}

impl Space {
    /// What is kept for what must go on when no more writes are taken (votes, entries of a leader with more space,
    /// snapshots, the garbage of sled): 10 % of the file system, at most [`RESERVE_MAX`].
    pub fn reserve(self) -> u64 {
        (self.total / 10).min(RESERVE_MAX)
    }
}

/// The most that is kept free, in bytes.
pub const RESERVE_MAX: u64 = 1 << 30;

/// The largest value that is put into a [`Store`], in bytes; what is larger goes in pieces under keys of their own,
/// because sled moves a leaf that outgrows its segment into a file that it never syncs ([`real`]).
///
/// 16 KiB: a command with a value of 4 KiB stays whole, which takes a third less processor time than pieces of 4 KiB;
/// larger pieces gain nothing more (docs/STORAGE.md).
pub const PIECE_SIZE_MAX: usize = 16 * 1024;

/// The longest key of a [`Store`], in bytes: a row key of 4 KiB and what the layers above put before it.
pub const KEY_SIZE_MAX: usize = 4 * 1024 + 128;

/// Takes the keys with `from <= key` and, if given, `key < to` out of `rows`.
fn take_range<V>(rows: &mut BTreeMap<Bytes, V>, from: &[u8], to: Option<&[u8]>) -> BTreeMap<Bytes, V> {
    if to.is_some_and(|to| to <= from) {
        return BTreeMap::new();
    }
    let mut taken = rows.split_off(from);
    if let Some(to) = to {
        rows.append(&mut taken.split_off(to));
    }
    taken
}

/// Both adapters refuse the same items.
fn check_item(tree: &str, change: &Change<'_>) -> io::Result<()> {
    let Change::Insert(key, value) = change else { return Ok(()) };
    if key.len() <= KEY_SIZE_MAX && value.len() <= PIECE_SIZE_MAX {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        format!(
            "item of tree {tree}: key of {} bytes (at most {KEY_SIZE_MAX}), value of {} (at most {PIECE_SIZE_MAX})",
            key.len(),
            value.len()
        ),
    ))
}

#[cfg(test)]
mod tests;
