//! The journal: what was written since the last save into the database, in order.
//!
//! A group is what one sync makes durable. Groups are numbered without gaps and written one behind the other; when a
//! file is full, the other one is begun, whose groups the database holds by then.
//!
//! ```text
//! files JOURNAL.0 and JOURNAL.1; all parts begin at multiples of 4,096 bytes; big-endian
//! head, at 0  | magic "raftjnl" | version u8 = 1 | salt u64 | crc32c u32 of all before |
//! group       | crc32c u32 of salt and all behind | length u32 | number u64 | operations, `length` bytes |
//! ```
//! Behind the newest group lies what the file held before: groups with lower numbers, or nothing. A sector that holds
//! something durable is never written again before the database holds it, and a group is begun only when the one before
//! is durable: so only the newest group can be torn, and a group that cannot be read with a later one behind it is
//! damage. The salt keeps a value of a client from looking like a group.
//!
//! The files have their full size from the beginning and are used again and again: once written, a sync changes nothing but
//! their content.

use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};

use super::super::plant::Plant;

const MAGIC: &[u8; 8] = b"raftjnl\x01";
const HEAD_SIZE: usize = 8 + 8 + 4;
/// The head of a group in bytes; the buffer of a group begins with as many, to be filled in.
pub(super) const GROUP_HEAD_SIZE: usize = 4 + 4 + 8;
/// No two parts of a file share a page, and so no sector.
const PAGE_SIZE: u64 = 4_096;

/// The two files, and where the next group goes.
pub(super) struct Journal {
    files: [(File, u64); 2],
    /// The file that is being filled.
    active: usize,
    /// Where the next group goes in it.
    position: u64,
    /// The number of the newest group.
    number: u64,
    /// A file is full when it has this size, in bytes; its last group may lie beyond.
    size: u64,
}

/// A group that the database may not hold.
pub(super) struct Group {
    /// Which of the files holds it.
    pub(super) file: usize,
    /// Its operations.
    pub(super) operations: Vec<u8>,
}

impl Journal {
    /// Opens the journal in `folder`, or makes it, and gives the groups after number `saved`. They are durable then, and
    /// the next group goes behind the last of them.
    ///
    /// # Errors
    /// `InvalidData` when a head cannot be read or a group between two others is missing; or what the disk says.
    pub(super) fn open(folder: &Path, saved: u64, size: u64) -> io::Result<(Self, Vec<Group>)> {
        let files = [open_file(folder, 0, size)?, open_file(folder, 1, size)?];
        // Each group has a page of its own at least.
        let mut number_max = saved;
        for (file, _) in &files {
            number_max = number_max.saturating_add(file.metadata()?.len() / PAGE_SIZE);
        }
        let mut found = Vec::new();
        for (index, file) in files.iter().enumerate() {
            found.extend(scan(file, index, saved + 1..=number_max)?);
        }
        found.sort_by_key(|(number, ..)| *number);
        if let Some((missing, (number, ..))) = (saved + 1..).zip(&found).find(|(due, found)| *due != found.0)
        {
            return Err(damaged(format!(
                "group {missing} of the journal is lost, and group {number} is there"
            )));
        }
        let mut journal = Self { files, active: 0, position: PAGE_SIZE, number: saved, size };
        if let Some((number, end, group)) = found.last() {
            (journal.number, journal.position, journal.active) = (*number, *end, group.file);
            // After a killed process, or a sync that failed, the newest group may be in the system's cache alone, which may
            // even think that it is written. Those before are durable.
            let mut newest = vec![0; GROUP_HEAD_SIZE + group.operations.len()];
            let (file, start) = (&journal.files[group.file].0, end - pages(newest.len()));
            file.read_exact_at(&mut newest, start)?;
            file.write_all_at(&newest, start)?;
            file.sync_all()?;
        }
        Ok((journal, found.into_iter().map(|(.., group)| group).collect()))
    }

    /// The number of the newest group.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Whether a group of `length` bytes, head and all, fills the active file.
    pub(super) fn is_filled_by(&self, length: usize) -> bool {
        self.position + pages(length) >= self.size
    }

    /// Writes the operations behind the first [`GROUP_HEAD_SIZE`] bytes of `group` as the next group, and makes it
    /// durable. The buffer is used up.
    pub(super) fn append(&mut self, group: &mut Vec<u8>) -> io::Result<()> {
        let (file, salt) = &self.files[self.active];
        let too_long = |_| io::Error::other("a group of more than 4 GiB");
        let length = u32::try_from(group.len() - GROUP_HEAD_SIZE).map_err(too_long)?;
        group[4..8].copy_from_slice(&length.to_be_bytes());
        group[8..16].copy_from_slice(&(self.number + 1).to_be_bytes());
        let crc = checksum(*salt, &group[4..]);
        group[..4].copy_from_slice(&crc.to_be_bytes());
        // Whole pages: the kernel need not read what is behind.
        let size = pages(group.len());
        group.resize(size as usize, 0);
        file.write_all_at(group, self.position)?;
        if !Plant::Fdatasync.is_there() {
            file.sync_data()?;
        }
        self.position += size;
        self.number += 1;
        Ok(())
    }

    /// Goes on in the other file, from its beginning: the database must hold what is in it.
    pub(super) fn turn(&mut self) {
        self.active = 1 - self.active;
        self.position = PAGE_SIZE;
    }
}

/// A file of the journal and its salt; made if it is not there.
fn open_file(folder: &Path, index: usize, size: u64) -> io::Result<(File, u64)> {
    let path = folder.join(format!("JOURNAL.{index}"));
    let file = match OpenOptions::new().read(true).write(true).open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return make_file(folder, &path, size),
        Err(error) => return Err(error),
    };
    let mut head = [0; HEAD_SIZE];
    let unreadable = || damaged(format!("the head of {} cannot be read", path.display()));
    match file.read_exact_at(&mut head, 0) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(unreadable()),
        Err(error) => return Err(error),
    }
    let (content, crc) = head.split_at(16);
    if content[..8] != MAGIC[..] || crc != crc32c::crc32c(content).to_be_bytes() {
        return Err(unreadable());
    }
    Ok((file, u64_at(content, 8)))
}

/// The file gets its name only when its head is durable: one without a head is damaged.
fn make_file(folder: &Path, path: &Path, size: u64) -> io::Result<(File, u64)> {
    let made = path.with_extension("new");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&made)?;
    match fallocate(&file, FallocateFlags::empty(), 0, size) {
        // A file system that cannot do this lets the file grow.
        Err(rustix::io::Errno::OPNOTSUPP) | Ok(()) => {}
        Err(error) => return Err(error.into()),
    }
    // Unpredictable is all that it must be.
    let salt = RandomState::new().hash_one(path);
    let mut head = [0; HEAD_SIZE];
    head[..8].copy_from_slice(MAGIC);
    head[8..16].copy_from_slice(&salt.to_be_bytes());
    let crc = crc32c::crc32c(&head[..16]);
    head[16..].copy_from_slice(&crc.to_be_bytes());
    file.write_all_at(&head, 0)?;
    file.sync_all()?;
    fs::rename(&made, path)?;
    super::sync_new(&[folder])?;
    Ok((file, salt))
}

/// The groups with these numbers in a file: number, position behind it, and the group. Groups begin at pages; where none
/// of them begins, it is looked for at the next one.
fn scan(
    (file, salt): &(File, u64),
    index: usize,
    numbers: RangeInclusive<u64>,
) -> io::Result<Vec<(u64, u64, Group)>> {
    let size = file.metadata()?.len();
    let (mut found, mut position) = (Vec::new(), PAGE_SIZE);
    while position + GROUP_HEAD_SIZE as u64 <= size {
        let mut head = [0; GROUP_HEAD_SIZE];
        file.read_exact_at(&mut head, position)?;
        let (length, number) = (u32_at(&head, 4), u64_at(&head, 8));
        let end = position + GROUP_HEAD_SIZE as u64 + u64::from(length);
        position += PAGE_SIZE;
        // A group has operations: what is zero was never written.
        if length == 0 || end > size || !numbers.contains(&number) {
            continue;
        }
        let mut group = vec![0; GROUP_HEAD_SIZE + length as usize];
        file.read_exact_at(&mut group, position - PAGE_SIZE)?;
        if checksum(*salt, &group[4..]) == u32_at(&head, 0) {
            let operations = group.split_off(GROUP_HEAD_SIZE);
            position = position - PAGE_SIZE + pages(GROUP_HEAD_SIZE + operations.len());
            found.push((number, position, Group { file: index, operations }));
        }
    }
    Ok(found)
}

fn checksum(salt: u64, content: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&salt.to_be_bytes()), content)
}

/// The bytes of the pages that `length` bytes take.
fn pages(length: usize) -> u64 {
    (length as u64).next_multiple_of(PAGE_SIZE)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(std::array::from_fn(|byte| bytes[at + byte]))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(std::array::from_fn(|byte| bytes[at + byte]))
}

fn damaged(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
