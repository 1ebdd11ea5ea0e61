//! The real disk: sled behind a journal for the store, a plain directory for the files.
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
mod database;
mod directory;
mod journal;
mod mark;
mod memory;
mod ranges;
mod store;

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::database::Database;
use self::directory::Directory;
use self::store::JournaledStore;
use super::plant::Plant;
use super::{Disk, Files, Space};

/// The size of a file of the journal in bytes: what one save into the database takes at once, and twice that is in memory at
/// most.
const JOURNAL_SIZE: u64 = 16 * 1024 * 1024;

/// Opens the data folder `folder`; makes it if it is not there.
///
/// # Errors
/// See [`OpenError`]; nothing was changed but what an earlier crash had left behind.
pub fn open(folder: &Path) -> Result<Disk, OpenError> {
    open_with(folder, JOURNAL_SIZE)
}

/// As [`open`]; a file of the journal is full with `journal_size` bytes, and then saved into the database.
///
/// # Errors
/// See [`OpenError`].
pub fn open_with(folder: &Path, journal_size: u64) -> Result<Disk, OpenError> {
    let unusable = |error: io::Error| OpenError::Unusable { folder: folder.to_owned(), error };
    let made = missing_folders(folder);
    fs::create_dir_all(folder).map_err(unusable)?;
    let lock = lock(folder)?;
    let sled = folder.join("sled");
    let database = Database::open(&sled)?;
    let files = folder.join("files");
    fs::create_dir_all(&files).map_err(unusable)?;
    let store =
        JournaledStore::open(database, lock, folder, journal_size).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => {
                OpenError::Damaged { folder: folder.to_owned(), what: error.to_string() }
            }
            _ => unusable(error),
        })?;
    ballast::keep(folder, space(folder).map_err(unusable)?);
    // sled never syncs a directory: without this, all of it could be gone after a power cut.
    sync_new(&[&sled.join("db"), &sled.join("conf"), &sled, &files, folder]).map_err(unusable)?;
    for folder in made {
        sync_new(&[parent(folder)]).map_err(unusable)?;
    }
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

fn space(folder: &Path) -> io::Result<Space> {
    let space = rustix::fs::statvfs(folder)?;
    let bytes = |blocks: u64| blocks.saturating_mul(space.f_frsize);
    Ok(Space { free: bytes(space.f_bavail), total: bytes(space.f_blocks) })
}

fn sync_new(paths: &[&Path]) -> io::Result<()> {
    if Plant::DirectorySync.is_there() {
        return Ok(());
    }
    paths.iter().try_for_each(|path| File::open(path)?.sync_all())
}
