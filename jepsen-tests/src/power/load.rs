//! The worker: opens the storage, tells what it found, then writes until it is killed, and tells what is done.
//!
//! Everything that it writes follows from (term, index), so that whoever judges needs no copy of it.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use raft_node::command::Command;
use raft_node::disk::real;
use raft_node::machine::{ApplyContext, Rows, StateMachine};
use raft_node::probe::{StorageProbe, StorageSight};
use raft_node::status::LogPosition;
use rpc_core::driver::system;
use rpc_core::random::SeededRandom;
use rpc_core::runtime::Runtime;

/// Rows of the state: few, so that they are overwritten all the time.
const KEYS: u64 = 60;
/// Entries that stay in the log behind a snapshot.
const ENTRIES_KEPT: u64 = 40;
/// The number of the first entry: it opens the session that all others belong to. Entries are numbered from 1 here, so
/// that 0 is none; their index in the log is one less.
pub const FIRST: u64 = 1;
/// The session: the index of the entry that opened it.
const SESSION: u64 = FIRST - 1;

/// What a log entry does to the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It opens the session.
    Open,
    /// It sets a row.
    Put(u8, Bytes),
    /// It removes a row.
    Delete(u8),
}

/// What the entry of that term and number does.
pub fn change(term: u64, number: u64) -> Change {
    if number == FIRST {
        return Change::Open;
    }
    let mut random = SeededRandom::new(term.rotate_left(32) ^ number);
    let key = random.below(KEYS) as u8;
    if random.below(12) == 0 {
        return Change::Delete(key);
    }
    let size = match random.below(40) {
        0 => random.between(100_000, 200_000),
        1..4 => random.between(15_000, 40_000),
        4..10 => random.between(1_000, 8_000),
        _ => random.below(600),
    };
    let mut value = vec![0; size as usize];
    random.fill(&mut value);
    Change::Put(key, value.into())
}

/// The command of that entry, as it is appended.
///
/// # Errors
/// When it cannot be encoded.
pub fn command(term: u64, number: u64) -> io::Result<Bytes> {
    let body = match change(term, number) {
        Change::Open => {
            return Command::Open { nonce: 1, time_ms: number }.encode().map_err(io::Error::other);
        }
        Change::Put(key, value) => [&[PUT, key], value.as_ref()].concat().into(),
        Change::Delete(key) => Bytes::copy_from_slice(&[DELETE, key]),
    };
    let floor = number.saturating_sub(20);
    let write = Command::Write { session: SESSION, sequence: number, floor, time_ms: number, body };
    write.encode().map_err(io::Error::other)
}

/// The first byte of a command's body; the key follows, and then the value, which may be empty.
const PUT: u8 = 0;
const DELETE: u8 = 1;

/// Puts and deletes rows by number.
struct Table;

impl StateMachine for Table {
    fn apply(&self, _: &ApplyContext, rows: &mut dyn Rows, command: &Bytes) -> io::Result<Bytes> {
        match command[..] {
            [PUT, key, ..] => rows.put(&[key], command.slice(2..))?,
            [DELETE, key] => rows.delete(&[key])?,
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "no command of this test")),
        }
        Ok(Bytes::new())
    }
}

/// Opens the storage in `folder` and writes until something fails; what is written is drawn from `seed`. `life` must
/// grow from worker to worker of a folder.
///
/// # Errors
/// Whatever failed, with what was being done.
pub fn work(folder: &Path, seed: u64, life: u64) -> Result<(), String> {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let tokio = tokio.map_err(|error| format!("no runtime: {error}"))?;
    let runtime = system::runtime(tokio.handle().clone());
    let mut random = SeededRandom::new(seed);
    // Full after a few syncs, some times in a life, never.
    let journal_size = [64 << 10, 1 << 20, 16 << 20][random.below(3) as usize];
    tokio.block_on(runtime.enter(async {
        say(format_args!("opening"))?;
        let disk = real::open_with(folder, journal_size).map_err(|error| error.to_string())?;
        let storage = StorageProbe::open(runtime.clone(), disk, Arc::new(Table)).await;
        let mut storage = storage.map_err(|error| error.to_string())?;
        let sight = tell(&mut storage).await?;
        let term = life * TERMS_PER_LIFE;
        let settled = number(sight.last);
        let (next, applied) = (settled + 1, number(sight.applied));
        let mut worker = Worker { runtime: runtime.clone(), storage, random, term, next, applied, settled };
        worker.write_for_ever(sight).await
    }))
}

/// Terms that one worker may use.
const TERMS_PER_LIFE: u64 = 1_000;

/// Tells all that is there.
async fn tell(storage: &mut StorageProbe<Table>) -> Result<StorageSight, String> {
    let read = |error: io::Error| format!("what was opened cannot be read: {error}");
    let sight = storage.sight().await.map_err(read)?;
    say(format_args!("identity {:032x}", sight.incarnation))?;
    say(format_args!("voted {}", sight.vote.map_or(0, |vote| vote.term)))?;
    for (position, bytes) in storage.entries().await.map_err(read)? {
        let (term, number) = (position.term, number(Some(position)));
        let right = command(term, number).is_ok_and(|command| command == bytes);
        say(format_args!("entry {term} {number} {}", if right { "right" } else { "wrong" }))?;
    }
    let rows = storage.read(|rows| rows.range(&[], None, usize::MAX)).map_err(read)?;
    for (key, value) in rows {
        say(format_args!("row {} {} {:08x}", key[0], value.len(), checksum(&value)))?;
    }
    say(format_args!(
        "opened {} {} {} {}",
        number(sight.purged),
        number(sight.last),
        number(sight.applied),
        number(sight.snapshot)
    ))?;
    Ok(sight)
}

fn number(position: Option<LogPosition>) -> u64 {
    position.map_or(0, |position| position.index + 1)
}

/// A sum that tells values apart (FNV-1a, 32 bits).
pub fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |sum, byte| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

struct Worker {
    runtime: Runtime,
    storage: StorageProbe<Table>,
    random: SeededRandom,
    term: u64,
    next: u64,
    applied: u64,
    /// Entries that were found at the start: an earlier worker may have applied them, though the state that was found
    /// is behind, and what was applied is never truncated.
    settled: u64,
}

impl Worker {
    async fn write_for_ever(&mut self, sight: StorageSight) -> Result<(), String> {
        let mut purged = number(sight.purged);
        self.vote().await?;
        loop {
            match self.random.below(100) {
                0..4 => self.vote().await?,
                4..8 => self.truncate(purged).await?,
                8..14 if self.applied > purged + ENTRIES_KEPT => purged = self.compact().await?,
                14..16 if self.applied > 0 => self.install().await?,
                16..18 => self.rest().await,
                18..40 => self.apply().await?,
                _ => self.append().await?,
            }
        }
    }

    /// Does nothing for a while: the next sync makes durable, by chance, what an earlier one should have.
    async fn rest(&mut self) {
        self.runtime.sleep(Duration::from_millis(self.random.below(30))).await;
    }

    async fn vote(&mut self) -> Result<(), String> {
        self.term += 1;
        say(format_args!("vote {}", self.term))?;
        self.storage.vote(self.term).await.map_err(|error| format!("vote: {error}"))?;
        say(format_args!("vote-done {}", self.term))
    }

    async fn append(&mut self) -> Result<(), String> {
        let (term, first) = (self.term, self.next);
        let count = if self.random.below(4) == 0 { self.random.between(2, 24) } else { 1 };
        let commands = (first..first + count).map(|number| command(term, number)).collect::<io::Result<_>>();
        let commands = commands.map_err(|error| error.to_string())?;
        say(format_args!("append {term} {first} {count}"))?;
        let appended = self.storage.append(term, first - 1, commands).await;
        appended.map_err(|error| format!("append: {error}"))?;
        self.next = first + count;
        say(format_args!("append-done {}", self.next - 1))
    }

    /// Applies what is appended, but not always all of it.
    async fn apply(&mut self) -> Result<(), String> {
        let last = (self.next - 1).saturating_sub(self.random.below(6));
        if last <= self.applied {
            return Ok(());
        }
        say(format_args!("apply {last}"))?;
        self.storage.apply(last - 1).await.map_err(|error| format!("apply: {error}"))?;
        self.applied = last;
        Ok(())
    }

    /// Drops the entries that are not applied, and votes: a new leader leads.
    async fn truncate(&mut self, purged: u64) -> Result<(), String> {
        let keep = self.random.between(self.applied.max(self.settled), self.next - 1);
        if keep <= purged || keep + 1 == self.next {
            return Ok(());
        }
        let term = self.term_at(keep).await?;
        self.vote().await?;
        say(format_args!("truncate {keep}"))?;
        self.storage.truncate_after(term, keep - 1).await.map_err(|error| format!("truncate: {error}"))?;
        self.next = keep + 1;
        Ok(())
    }

    /// Builds a snapshot and purges what it makes needless; what is purged now.
    async fn compact(&mut self) -> Result<u64, String> {
        self.storage.snapshot().await.map_err(|error| format!("snapshot: {error}"))?;
        say(format_args!("snapshot-done {}", self.applied))?;
        self.rest().await;
        let last = self.applied - self.random.below(ENTRIES_KEPT);
        let term = self.term_at(last).await?;
        say(format_args!("purge {last}"))?;
        self.storage.purge(term, last - 1).await.map_err(|error| format!("purge: {error}"))?;
        Ok(last)
    }

    async fn install(&mut self) -> Result<(), String> {
        self.storage.install().await.map_err(|error| format!("install: {error}"))?;
        say(format_args!("snapshot-done {}", self.applied))
    }

    async fn term_at(&mut self, entry: u64) -> Result<u64, String> {
        let entries = self.storage.entries().await.map_err(|error| format!("read the log: {error}"))?;
        let found = entries.iter().find(|(position, _)| number(Some(*position)) == entry);
        match found {
            Some((position, _)) => Ok(position.term),
            None => Err(format!("entry {entry} is not in the log")),
        }
    }
}

/// Prints a line for the witness. An error means that nobody listens any more.
fn say(line: std::fmt::Arguments<'_>) -> Result<(), String> {
    writeln!(io::stdout(), "{line}").map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use raft_node::machine::RowsRead;

    use super::*;

    #[derive(Default)]
    struct Memory(BTreeMap<Bytes, Bytes>);

    impl RowsRead for Memory {
        fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
            Ok(self.0.get(key).cloned())
        }

        fn range(&self, _: &[u8], _: Option<&[u8]>, _: usize) -> io::Result<Vec<(Bytes, Bytes)>> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    impl Rows for Memory {
        fn put(&mut self, key: &[u8], value: Bytes) -> io::Result<()> {
            self.0.insert(Bytes::copy_from_slice(key), value);
            Ok(())
        }

        fn delete(&mut self, key: &[u8]) -> io::Result<()> {
            self.0.remove(key);
            Ok(())
        }
    }

    /// The judge goes by [`change`], the machine by [`command`]: also where a value is empty.
    #[test]
    fn a_command_does_what_its_change_says() {
        let (mut rows, mut is_empty_seen) = (Memory::default(), false);
        for number in FIRST + 1..4_000 {
            let Ok(Command::Write { body, .. }) = Command::decode(&command(7, number).unwrap()) else {
                panic!("entry {number} writes nothing");
            };
            Table.apply(&ApplyContext { revision: number, time_ms: number }, &mut rows, &body).unwrap();
            match change(7, number) {
                Change::Open => panic!("only the first opens"),
                Change::Put(key, value) => {
                    is_empty_seen |= value.is_empty();
                    assert_eq!(rows.get(&[key]).unwrap(), Some(value), "entry {number}");
                }
                Change::Delete(key) => assert_eq!(rows.get(&[key]).unwrap(), None, "entry {number}"),
            }
        }
        assert!(is_empty_seen);
    }
}
