//! The real disk: sled for the store, a plain directory for the files.
//!
//! Four house rules make sled 0.34.7 trustworthy; each is backed by a failure that was reproduced (docs/STORAGE.md):
//! 1. never `apply_batch` or `transaction` (clippy refuses them): they take a process-wide lock, stall and leak;
//! 2. never trust `flush` alone: on Linux it does not sync. Flush, then fdatasync on a descriptor of our own;
//! 3. never let a leaf outgrow a quarter of its segment: sled would move it into a file that it never syncs;
//! 4. clean and check before opening: a left-over temporary snapshot bricks the database, damage makes it panic.

#![expect(
    clippy::disallowed_methods,
    reason = "this is the driver of the disk: opening needs a thread to fail in"
)]

mod ballast;
mod mark;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rpc_core::runtime::BoxFuture;

use self::mark::{Mark, Marked};
use super::plant::Plant;
use super::{Disk, Files, KEY_SIZE_MAX, PIECE_SIZE_MAX, Space, Store, check_item};

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

/// Opens the data folder `folder`; makes it if it is not there.
///
/// # Errors
/// See [`OpenError`]; nothing was changed but what an earlier crash had left behind.
pub fn open(folder: &Path) -> Result<Disk, OpenError> {
    let unusable = |error: io::Error| OpenError::Unusable { folder: folder.to_owned(), error };
    let made = missing_folders(folder);
    fs::create_dir_all(folder).map_err(unusable)?;
    let lock = lock(folder)?;
    let sled = folder.join("sled");
    fs::create_dir_all(&sled).map_err(unusable)?;
    clean(&sled).map_err(unusable)?;
    check_space(&sled)?;
    let db = open_sled(&sled)?;
    let sync = File::open(sled.join("db")).map_err(unusable)?;
    let files = folder.join("files");
    fs::create_dir_all(&files).map_err(unusable)?;
    let (mark, syncs) = open_mark(folder, &db)?;
    ballast::keep(folder, space(folder).map_err(unusable)?);
    // sled never syncs a directory: without this, all of it could be gone after a power cut.
    sync_new(&[&sled.join("db"), &sled.join("conf"), &sled, &files, folder]).map_err(unusable)?;
    for folder in made {
        sync_new(&[parent(folder)]).map_err(unusable)?;
    }
    let store = SledStore(Arc::new(Inner {
        db,
        trees: Mutex::new(BTreeMap::new()),
        sync,
        mark,
        syncs: Mutex::new(syncs),
        blobs: sled.join("blobs"),
        blobs_reported: AtomicBool::new(false),
        poison: OnceLock::new(),
        _lock: lock,
    }));
    Ok(Disk { store: Arc::new(store), files: Arc::new(Directory { folder: files }) })
}

/// As [`open`], but a folder that no node ever used is refused, and nothing is made in it.
///
/// # Errors
/// See [`OpenError`].
pub fn open_existing(folder: &Path) -> Result<Disk, OpenError> {
    if folder.join("sled").is_dir() {
        return open(folder);
    }
    let error = io::Error::new(io::ErrorKind::NotFound, "there is no node's data");
    Err(OpenError::Unusable { folder: folder.to_owned(), error })
}

/// The plain files of `folder`, which must be there.
pub fn files(folder: &Path) -> Arc<dyn Files> {
    Arc::new(Directory { folder: folder.to_owned() })
}

/// Why a data folder was not opened.
#[derive(Debug)]
pub enum OpenError {
    /// It cannot be read and written.
    Unusable {
        /// The folder.
        folder: PathBuf,
        /// What failed.
        error: io::Error,
    },
    /// Another process has it open.
    InUse {
        /// The folder.
        folder: PathBuf,
    },
    /// Too little space is free to open it safely.
    NoSpace {
        /// The folder.
        folder: PathBuf,
        /// Bytes that are free.
        free: u64,
        /// Bytes that are needed.
        needed: u64,
    },
    /// The database in it is damaged.
    Damaged {
        /// The folder.
        folder: PathBuf,
        /// What was found.
        what: String,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unusable { folder, error } => write!(f, "data folder {}: {error}", folder.display()),
            Self::InUse { folder } => write!(f, "data folder {}: another process uses it", folder.display()),
            Self::NoSpace { folder, free, needed } => {
                write!(f, "data folder {}: {free} bytes are free, {needed} are needed", folder.display())
            }
            Self::Damaged { folder, what } => {
                write!(f, "data folder {} is damaged: {what}", folder.display())
            }
        }
    }
}

impl std::error::Error for OpenError {}

/// `folder` and those above it that are not there yet; if all are, `folder` alone, which a power cut may have followed
/// before it was synced.
fn missing_folders(folder: &Path) -> Vec<&Path> {
    let mut missing = vec![folder];
    missing.extend(
        folder.ancestors().skip(1).take_while(|above| !above.as_os_str().is_empty() && !above.exists()),
    );
    missing
}

fn parent(folder: &Path) -> &Path {
    match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => folder,
    }
}

fn lock(folder: &Path) -> Result<File, OpenError> {
    let unusable = |error| OpenError::Unusable { folder: folder.to_owned(), error };
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(folder.join("LOCK"))
        .map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { folder: folder.to_owned() }),
        Err(TryLockError::Error(error)) => Err(unusable(error)),
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

fn space(folder: &Path) -> io::Result<Space> {
    let space = rustix::fs::statvfs(folder)?;
    let bytes = |blocks: u64| blocks.saturating_mul(space.f_frsize);
    Ok(Space { free: bytes(space.f_bavail), total: bytes(space.f_blocks) })
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

/// The number of the last sync that the database knows; fails if more than that were done.
fn open_mark(folder: &Path, db: &sled::Db) -> Result<(Mark, u64), OpenError> {
    let unusable = |error: io::Error| OpenError::Unusable { folder: folder.to_owned(), error };
    let damaged = |what: String| OpenError::Damaged { folder: folder.to_owned(), what };
    let stored = guarded(|| db.open_tree(MARK_TREE)?.get(MARK_KEY));
    let stored = match stored.map_err(|error| damaged(error.to_string()))? {
        None => 0,
        Some(item) => match item.split_first_chunk::<8>() {
            Some((number, crc)) if *crc == crc32c::crc32c(number).to_be_bytes() => {
                u64::from_be_bytes(*number)
            }
            _ => return Err(damaged("the number of its last sync cannot be read".to_owned())),
        },
    };
    let (mark, marked) = Mark::open(folder).map_err(unusable)?;
    match marked {
        Marked::Number(number) if number > stored => Err(damaged(format!(
            "the database ends at sync {stored}, but sync {number} was done: what came after is lost"
        ))),
        Marked::Number(_) => Ok(()),
        // The file is durable before the first sync gets a number.
        Marked::Nothing if stored == 0 => Ok(()),
        Marked::Unreadable if stored == 0 => Ok(()),
        Marked::Nothing => Err(damaged("the file SYNCED is missing".to_owned())),
        Marked::Unreadable => Err(damaged("the file SYNCED cannot be read".to_owned())),
    }?;
    mark.reset(stored).map_err(unusable)?;
    Ok((mark, stored))
}

/// Where the database keeps the number of its last sync.
const MARK_TREE: &str = "syncs";
const MARK_KEY: &[u8] = b"last";

/// Runs what reads or writes sled's pages; damaged ones make sled panic.
fn guarded<T>(work: impl FnOnce() -> sled::Result<T>) -> io::Result<T> {
    let damaged = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(sled::Error::Io(error))) => Err(error),
        Ok(Err(error)) => Err(damaged(format!("the database is damaged: {error}"))),
        Err(_) => Err(damaged("the database is damaged (sled panicked)".to_owned())),
    }
}

fn sync_new(paths: &[&Path]) -> io::Result<()> {
    if Plant::DirectorySync.is_there() {
        return Ok(());
    }
    paths.iter().try_for_each(|path| File::open(path)?.sync_all())
}

/// Shared with the futures of its syncs.
struct SledStore(Arc<Inner>);

struct Inner {
    db: sled::Db,
    trees: Mutex<BTreeMap<String, sled::Tree>>,
    /// A descriptor of the database file for fdatasync, which works per file, not per descriptor.
    sync: File,
    mark: Mark,
    /// The number of the last sync; locked while one goes on.
    syncs: Mutex<u64>,
    blobs: PathBuf,
    blobs_reported: AtomicBool,
    /// The first error; every later call fails with it.
    poison: OnceLock<(io::ErrorKind, String)>,
    /// Held as long as the store.
    _lock: File,
}

impl Inner {
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

    fn check(&self) -> io::Result<()> {
        match self.poison.get() {
            Some((kind, reason)) => Err(io::Error::new(*kind, format!("the store failed before: {reason}"))),
            None => Ok(()),
        }
    }

    /// Runs what reads or writes sled's pages; its first failure poisons the store.
    fn run<T>(&self, work: impl FnOnce() -> sled::Result<T>) -> io::Result<T> {
        self.check()?;
        guarded(work).map_err(|error| self.fail(error))
    }

    fn fail(&self, error: io::Error) -> io::Error {
        let (kind, reason) = self.poison.get_or_init(|| (error.kind(), error.to_string()));
        io::Error::new(*kind, reason.clone())
    }

    /// Rule 2.
    fn sync_now(&self) -> io::Result<()> {
        let mut syncs = self.syncs.lock().unwrap_or_else(PoisonError::into_inner);
        let number = (*syncs + 1).to_be_bytes();
        let item = [number.as_slice(), &crc32c::crc32c(&number).to_be_bytes()].concat();
        let marks = self.tree(MARK_TREE)?;
        self.run(|| marks.insert(MARK_KEY, item))?;
        self.run(|| self.db.flush())?;
        if Plant::Fdatasync.is_there() {
            return Ok(());
        }
        self.sync_blobs().map_err(|error| self.fail(error))?;
        self.sync.sync_data().map_err(|error| self.fail(error))?;
        *syncs += 1;
        self.mark.advance(*syncs).map_err(|error| self.fail(error))
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

impl Store for SledStore {
    fn insert(&self, tree: &str, key: &[u8], value: &[u8]) -> io::Result<()> {
        check_item(tree, key, value)?;
        let tree = self.0.tree(tree)?;
        self.0.run(|| tree.insert(key, value).map(drop))
    }

    fn remove(&self, tree: &str, key: &[u8]) -> io::Result<()> {
        let tree = self.0.tree(tree)?;
        self.0.run(|| tree.remove(key).map(drop))
    }

    fn get(&self, tree: &str, key: &[u8]) -> io::Result<Option<Bytes>> {
        let tree = self.0.tree(tree)?;
        let value = self.0.run(|| tree.get(key))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn range(
        &self,
        tree: &str,
        from: &[u8],
        to: Option<&[u8]>,
        limit: usize,
    ) -> io::Result<Vec<(Bytes, Bytes)>> {
        if to.is_some_and(|to| to <= from) {
            return Ok(Vec::new());
        }
        let bounds = (Bound::Included(from), to.map_or(Bound::Unbounded, Bound::Excluded));
        let tree = self.0.tree(tree)?;
        let copied = |pair: sled::Result<(sled::IVec, sled::IVec)>| {
            pair.map(|(key, value)| (Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value)))
        };
        self.0.run(|| tree.range::<&[u8], _>(bounds).take(limit).map(copied).collect())
    }

    fn last(&self, tree: &str) -> io::Result<Option<(Bytes, Bytes)>> {
        let tree = self.0.tree(tree)?;
        let pair = self.0.run(|| tree.last())?;
        Ok(pair.map(|(key, value)| (Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value))))
    }

    fn trees(&self) -> io::Result<Vec<String>> {
        self.0.check()?;
        let mut names = Vec::new();
        for name in self.0.db.tree_names() {
            let name = String::from_utf8_lossy(&name).into_owned();
            let tree = self.0.tree(&name)?;
            // sled's own default tree is always there, and empty.
            if name != MARK_TREE && self.0.run(|| tree.first())?.is_some() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn drop_tree(&self, tree: &str) -> io::Result<()> {
        self.0.check()?;
        self.0.trees().remove(tree);
        self.0.run(|| self.0.db.drop_tree(tree).map(drop))
    }

    fn sync(&self) -> BoxFuture<io::Result<()>> {
        let store = Arc::clone(&self.0);
        // Only the writer polls this, on a thread of its own: blocking it is what that thread is for.
        Box::pin(async move { store.sync_now() })
    }
}

struct Directory {
    folder: PathBuf,
}

impl Directory {
    fn path(&self, name: &str) -> io::Result<PathBuf> {
        if name.is_empty() || name.contains(['/', '\\']) || name == "." || name == ".." {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("`{name}` is no file name")));
        }
        Ok(self.folder.join(name))
    }
}

impl Files for Directory {
    fn list(&self) -> io::Result<Vec<String>> {
        let names =
            fs::read_dir(&self.folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let mut names: Vec<String> = names.collect::<io::Result<_>>()?;
        names.sort();
        Ok(names)
    }

    fn size(&self, name: &str) -> io::Result<u64> {
        Ok(fs::metadata(self.path(name)?)?.len())
    }

    fn read(&self, name: &str, offset: u64, length: usize) -> io::Result<Bytes> {
        let file = File::open(self.path(name)?)?;
        let rest = file.metadata()?.len().saturating_sub(offset);
        let mut bytes = vec![0; length.min(usize::try_from(rest).unwrap_or(usize::MAX))];
        file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes.into())
    }

    fn create(&self, name: &str) -> io::Result<()> {
        File::create(self.path(name)?).map(drop)
    }

    fn write(&self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        OpenOptions::new().write(true).open(self.path(name)?)?.write_all_at(bytes, offset)
    }

    fn sync(&self, name: &str) -> BoxFuture<io::Result<()>> {
        let path = self.path(name);
        Box::pin(async move {
            if Plant::FileSync.is_there() {
                return Ok(());
            }
            File::open(path?)?.sync_all()
        })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from)?, self.path(to)?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.path(name)?) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    fn sync_directory(&self) -> BoxFuture<io::Result<()>> {
        let folder = self.folder.clone();
        Box::pin(async move { sync_new(&[&folder]) })
    }

    fn space(&self) -> io::Result<Space> {
        space(&self.folder)
    }
}
