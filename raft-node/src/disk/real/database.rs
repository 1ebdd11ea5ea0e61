//! The database: sled, tamed. What is saved here is durable before the journal gives it up.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use super::super::plant::Plant;
use super::super::{KEY_SIZE_MAX, PIECE_SIZE_MAX};
use super::memory::Memory;
use super::{OpenError, ballast, space};

/// Bytes of one segment of sled's log, a power of two. 8 MiB because of the index nodes: sled cuts a separator only to
/// where two neighbours differ, so keys can be chosen such that each of them keeps its 4 KiB. The price: sled
/// keeps about three buffers of this size, which glibc makes resident by zeroing them, some 25 MB of an idle node.
const SEGMENT_SIZE: usize = 8 * 1024 * 1024;
/// A node of sled's tree above this leaves the log (rule 3): a quarter of a segment, less its header.
const NODE_SIZE_MAX: usize = SEGMENT_SIZE / 4 - 1024;
/// Items of a leaf: split above 16, merged below 4 with a neighbour, and some that are put while it is being split.
const LEAF_COUNT_MAX: usize = 16 + 3 + 9;
/// Separators of an index node: split above 256, merged below 64 with a neighbour, and some in between.
const INDEX_COUNT_MAX: usize = 256 + 63 + 9;
/// What sled adds to each item or separator, and the two bounds of a node spread over them, generously.
const ITEM_OVERHEAD: usize = 64;
const _: () = assert!(LEAF_COUNT_MAX * (PIECE_SIZE_MAX + KEY_SIZE_MAX + ITEM_OVERHEAD) < NODE_SIZE_MAX);
const _: () = assert!(INDEX_COUNT_MAX * (KEY_SIZE_MAX + ITEM_OVERHEAD) < NODE_SIZE_MAX);
/// Bytes of pages that sled may keep in memory.
const CACHE_SIZE: u64 = 64 * 1024 * 1024;
/// What must be free on the file system beside a copy of the newest snapshot of sled's own, in bytes.
const SPACE_MIN: u64 = 64 * 1024 * 1024;

/// Where the database keeps the number of the newest group of the journal that it holds.
const SAVED_TREE: &str = "syncs";
const SAVED_KEY: &[u8] = b"last";

/// The database of one node. Its first error poisons it.
pub(super) struct Database {
    db: sled::Db,
    trees: Mutex<BTreeMap<String, sled::Tree>>,
    /// A descriptor of the database file for fdatasync, which works per file, not per descriptor.
    file: File,
    blobs: PathBuf,
    blobs_reported: AtomicBool,
    /// The first error, here or in the journal; every later call fails with it.
    poison: OnceLock<(io::ErrorKind, String)>,
}

impl Database {
    /// Opens the database in the folder `sled`, or makes it.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub(super) fn open(sled: &Path) -> Result<Self, OpenError> {
        let unusable = |error: io::Error| OpenError::Unusable { folder: sled.to_owned(), error };
        fs::create_dir_all(sled).map_err(unusable)?;
        clean(sled).map_err(unusable)?;
        check_space(sled)?;
        let db = open_sled(sled)?;
        let file = File::open(sled.join("db")).map_err(unusable)?;
        Ok(Self {
            db,
            trees: Mutex::new(BTreeMap::new()),
            file,
            blobs: sled.join("blobs"),
            blobs_reported: AtomicBool::new(false),
            poison: OnceLock::new(),
        })
    }

    /// The number of the newest group of the journal that it holds.
    ///
    /// # Errors
    /// `InvalidData` when it cannot be read.
    pub(super) fn saved(&self) -> io::Result<u64> {
        let Some(item) = self.get(SAVED_TREE, SAVED_KEY)? else { return Ok(0) };
        match item.split_first_chunk::<8>() {
            Some((number, crc)) if *crc == crc32c::crc32c(number).to_be_bytes() => {
                Ok(u64::from_be_bytes(*number))
            }
            _ => Err(self.fail(io::Error::new(
                io::ErrorKind::InvalidData,
                "the number of the last sync that the database holds cannot be read",
            ))),
        }
    }

    /// Takes all of `memory`, which ends with group `number`, and makes it durable. After a crash the number is there
    /// only with all that goes before it, because sled keeps a prefix of its operations.
    pub(super) fn save(&self, memory: &Memory, number: u64) -> io::Result<()> {
        for (name, tree) in &memory.trees {
            if tree.removed.is_all() {
                self.trees().remove(name);
                self.run(|| self.db.drop_tree(name).map(drop))?;
                if tree.items.is_empty() {
                    continue;
                }
            }
            let saved = self.tree(name)?;
            for (from, to) in tree.removed.iter() {
                let bounds =
                    (Bound::Included(&from[..]), to.map_or(Bound::Unbounded, |to| Bound::Excluded(&to[..])));
                for pair in self.range(name, bounds)? {
                    let (key, _) = pair?;
                    self.run(|| saved.remove(&key).map(drop))?;
                }
            }
            for (key, value) in &tree.items {
                match value {
                    Some(value) => self.run(|| saved.insert(key, &value[..]).map(drop))?,
                    None => self.run(|| saved.remove(key).map(drop))?,
                }
            }
        }
        let number = number.to_be_bytes();
        let item = [number.as_slice(), &crc32c::crc32c(&number).to_be_bytes()].concat();
        let numbers = self.tree(SAVED_TREE)?;
        self.run(|| numbers.insert(SAVED_KEY, item))?;
        self.run(|| self.db.flush())?;
        if Plant::Fdatasync.is_there() || Plant::DatabaseSync.is_there() {
            return Ok(());
        }
        self.sync_blobs().and_then(|()| self.file.sync_data()).map_err(|error| self.fail(error))
    }

    /// The value of `key` of `tree`.
    pub(super) fn get(&self, tree: &str, key: &[u8]) -> io::Result<Option<Bytes>> {
        let tree = self.tree(tree)?;
        let value = self.run(|| tree.get(key))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    /// The pairs of `tree` between the bounds, ascending, each read when it is asked for.
    pub(super) fn range<'a>(
        &'a self,
        tree: &str,
        bounds: (Bound<&[u8]>, Bound<&[u8]>),
    ) -> io::Result<impl Iterator<Item = io::Result<(Bytes, Bytes)>> + use<'a>> {
        let tree = self.tree(tree)?;
        let mut pairs = self.run(|| Ok(tree.range::<&[u8], _>(bounds)))?;
        Ok(std::iter::from_fn(move || {
            let pair = self.run(|| pairs.next().transpose()).transpose()?;
            Some(pair.map(|(key, value)| (Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value))))
        }))
    }

    /// The names of all trees, empty ones too.
    pub(super) fn names(&self) -> io::Result<Vec<String>> {
        self.check()?;
        let names = self.db.tree_names().into_iter().map(|name| String::from_utf8_lossy(&name).into_owned());
        Ok(names.filter(|name| name != SAVED_TREE).collect())
    }

    /// Fails if anything failed before.
    pub(super) fn check(&self) -> io::Result<()> {
        match self.poison.get() {
            Some((kind, reason)) => Err(io::Error::new(*kind, format!("the store failed before: {reason}"))),
            None => Ok(()),
        }
    }

    /// Makes every later call fail; what to tell the caller.
    pub(super) fn fail(&self, error: io::Error) -> io::Error {
        let (kind, reason) = self.poison.get_or_init(|| (error.kind(), error.to_string()));
        io::Error::new(*kind, reason.clone())
    }

    fn tree(&self, name: &str) -> io::Result<sled::Tree> {
        self.check()?;
        let mut trees = self.trees();
        if let Some(tree) = trees.get(name) {
            return Ok(tree.clone());
        }
        let tree = self.run(|| self.db.open_tree(name))?;
        trees.insert(name.to_owned(), tree.clone());
        Ok(tree)
    }

    fn trees(&self) -> MutexGuard<'_, BTreeMap<String, sled::Tree>> {
        self.trees.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs what reads or writes sled's pages; damaged ones make sled panic. The first failure poisons the store.
    fn run<T>(&self, work: impl FnOnce() -> sled::Result<T>) -> io::Result<T> {
        self.check()?;
        let damaged = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        let error = match catch_unwind(AssertUnwindSafe(work)) {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(sled::Error::Io(error))) => error,
            Ok(Err(error)) => damaged(format!("the database is damaged: {error}")),
            Err(_) => damaged("the database is damaged (sled panicked)".to_owned()),
        };
        Err(self.fail(error))
    }

    /// Rule 3's net: should there be a blob in spite of all limits, it is synced before what points to it.
    fn sync_blobs(&self) -> io::Result<()> {
        let mut blobs = fs::read_dir(&self.blobs)?.peekable();
        if blobs.peek().is_none() {
            return Ok(());
        }
        if !self.blobs_reported.swap(true, Ordering::Relaxed) {
            tracing::error!(folder = %self.blobs.display(), "nodes of the tree outgrew their segment");
        }
        for blob in blobs {
            match File::open(blob?.path()) {
                Ok(file) => file.sync_all()?,
                // sled has removed it meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        File::open(&self.blobs)?.sync_all()
    }
}

/// Removes half-written snapshots of sled's own. They sort last and would be taken for the newest; the snapshot before
/// is still there, because it is removed only after the rename.
fn clean(sled: &Path) -> io::Result<()> {
    if Plant::Cleaning.is_there() {
        return Ok(());
    }
    for entry in fs::read_dir(sled)? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Opening writes a snapshot; on a full disk it fails and leaves the file that bricks the next start.
fn check_space(sled: &Path) -> Result<(), OpenError> {
    let unusable = |error: io::Error| OpenError::Unusable { folder: sled.to_owned(), error };
    let mut snapshot_size = 0;
    for entry in fs::read_dir(sled).map_err(unusable)? {
        let entry = entry.map_err(unusable)?;
        if entry.file_name().to_string_lossy().starts_with("snap.") {
            snapshot_size = snapshot_size.max(entry.metadata().map_err(unusable)?.len());
        }
    }
    let needed = snapshot_size + SPACE_MIN;
    let mut free = space(sled).map_err(unusable)?.free;
    if free < needed {
        // This is what it is there for.
        ballast::drop(sled.parent().unwrap_or(sled)).map_err(unusable)?;
        free = space(sled).map_err(unusable)?.free;
    }
    if free < needed {
        return Err(OpenError::NoSpace { folder: sled.to_owned(), free, needed });
    }
    Ok(())
}

/// Opens sled on a thread of its own: damaged data makes it panic.
fn open_sled(sled: &Path) -> Result<sled::Db, OpenError> {
    let config = sled::Config::new()
        .path(sled)
        .cache_capacity(CACHE_SIZE)
        .segment_size(SEGMENT_SIZE)
        .mode(sled::Mode::HighThroughput)
        .use_compression(false)
        // Keeps sled's own collection of garbage running; durability does not depend on it.
        .flush_every_ms(Some(500));
    let opening = move || {
        let mut tries = 0;
        loop {
            match catch_unwind(AssertUnwindSafe(|| config.open())) {
                Ok(Err(sled::Error::Io(error))) if is_lock(&error) && tries < LOCK_TRIES_MAX => tries += 1,
                opened => return opened,
            }
            std::thread::sleep(LOCK_PAUSE);
        }
    };
    let opened = std::thread::spawn(opening).join();
    let damaged = |what: String| OpenError::Damaged { folder: sled.to_owned(), what };
    match opened {
        Ok(Ok(Ok(db))) => Ok(db),
        Ok(Ok(Err(sled::Error::Io(error)))) => Err(OpenError::Unusable { folder: sled.to_owned(), error }),
        Ok(Ok(Err(error))) => Err(damaged(error.to_string())),
        Ok(Err(_)) | Err(_) => Err(damaged("the database could not be read (sled panicked)".to_owned())),
    }
}

/// sled has a lock of its own. Ours is held, so its holder can only be the threads of a store that was just closed in
/// this process: they end by themselves, a little later than the store.
fn is_lock(error: &io::Error) -> bool {
    error.to_string().starts_with("could not acquire lock")
}

/// Between two tries to get sled's lock, and how many there are: 10 s in all.
const LOCK_PAUSE: Duration = Duration::from_millis(10);
const LOCK_TRIES_MAX: u32 = 1_000;
