//! The sync mark: what tells a torn end of sled's file from acknowledged data that was damaged.
//!
//! sled takes damage near the end of its file for the end of what a crash left, and drops all that follows without a
//! word. So every sync is numbered: the number goes into the store before the sync and, once that is done, into a file
//! beside it. Since the store comes back as a prefix of its operations, a store that knows a lower number than the file
//! has lost something that was durable.
//!
//! ```text
//! file SYNCED, two sectors at 0 and 4,096; the numbers take turns
//! | magic "raftmrk" | version u8 = 1 | number u64 | crc32c u32 of all before |     big-endian
//! ```
//! The file is synced at opening and then at most every [`SYNC_PAUSE`]: a power cut may set it back by as much, a
//! killed process by nothing.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long the file may stay unsynced while syncs of the store go on.
const SYNC_PAUSE: Duration = Duration::from_millis(100);
const FILE: &str = "SYNCED";
const MAGIC: &[u8; 8] = b"raftmrk\x01";
const RECORD_SIZE: usize = 8 + 8 + 4;
/// Between the two records: they never share a sector or a page.
const SLOT_SIZE: u64 = 4_096;

/// The file with the number of the last sync.
pub(super) struct Mark {
    file: File,
    synced_at: Mutex<Option<Instant>>,
}

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Marked {
    /// There was no file.
    Nothing,
    /// No record in it can be read.
    Unreadable,
    /// At least so many syncs were done.
    Number(u64),
}

impl Mark {
    /// Opens the file in `folder`, or makes it; what it says.
    pub(super) fn open(folder: &Path) -> io::Result<(Self, Marked)> {
        let path = folder.join(FILE);
        let existed = path.exists();
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let numbers: Vec<u64> = [0, 1].into_iter().filter_map(|slot| read(&file, slot)).collect();
        let marked = match numbers.into_iter().max() {
            Some(number) => Marked::Number(number),
            None if existed => Marked::Unreadable,
            None => Marked::Nothing,
        };
        Ok((Self { file, synced_at: Mutex::new(None) }, marked))
    }

    /// Makes both records say `number`, durably; the folder must be synced once after the first time.
    pub(super) fn reset(&self, number: u64) -> io::Result<()> {
        self.write(0, number)?;
        self.write(1, number)?;
        self.file.sync_all()
    }

    /// Notes that sync `number` of the store is done.
    pub(super) fn advance(&self, number: u64) -> io::Result<()> {
        self.write(number % 2, number)?;
        let mut synced_at = self.synced_at.lock().unwrap_or_else(PoisonError::into_inner);
        if synced_at.is_none_or(|at| at.elapsed() >= SYNC_PAUSE) {
            self.file.sync_data()?;
            *synced_at = Some(Instant::now());
        }
        Ok(())
    }

    fn write(&self, slot: u64, number: u64) -> io::Result<()> {
        let mut record = [0; RECORD_SIZE];
        record[..8].copy_from_slice(MAGIC);
        record[8..16].copy_from_slice(&number.to_be_bytes());
        let crc = crc32c::crc32c(&record[..16]);
        record[16..].copy_from_slice(&crc.to_be_bytes());
        self.file.write_all_at(&record, slot * SLOT_SIZE)
    }
}

fn read(file: &File, slot: u64) -> Option<u64> {
    let mut record = [0; RECORD_SIZE];
    file.read_exact_at(&mut record, slot * SLOT_SIZE).ok()?;
    let (content, crc) = record.split_at(16);
    (content[..8] == MAGIC[..] && crc == crc32c::crc32c(content).to_be_bytes())
        .then(|| u64::from_be_bytes(std::array::from_fn(|byte| content[8 + byte])))
}
