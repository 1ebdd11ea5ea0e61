//! A simulated disk: it outlives the crashes of its node and then holds what a real one might hold.
//!
//! A sync takes virtual time; a crash may fall into it. After a crash the store is a prefix of all its operations, at
//! least up to the last sync that completed; a file has its synced content plus any of the later writes, torn at
//! sectors; names are a prefix of the operations on the directory since it was last synced.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rpc_core::random::SeededRandom;
use rpc_core::runtime::{BoxFuture, Runtime};

use super::{Change, Disk, Files, Space, Store, check_item, take_range};

/// Writes are torn at multiples of this.
const SECTOR_SIZE: usize = 512;
/// How large a disk says it is, in bytes.
const DISK_SIZE: u64 = 100 << 30;

/// How a simulated disk behaves.
#[derive(Clone, Copy, Debug)]
pub struct SimDiskOptions {
    /// The least time of a sync.
    pub sync_time_min: Duration,
    /// The greatest time of a sync.
    pub sync_time_max: Duration,
}

impl Default for SimDiskOptions {
    /// 0.1 to 1 ms: a disk with a fast cache.
    fn default() -> Self {
        Self { sync_time_min: Duration::from_micros(100), sync_time_max: Duration::from_millis(1) }
    }
}

/// A place in the life of a node at which the power may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum CutPoint {
    /// Before a vote is written.
    Vote,
    /// Before a log entry is written.
    Append,
    /// Before a log entry is removed: a purge, or a truncation.
    Purge,
    /// At the end of a sync of the store, before it counts.
    Sync,
    /// Before a row of the state is written.
    Apply,
    /// Before a part of a snapshot is written.
    SnapshotWrite,
    /// Before a finished snapshot gets its name.
    SnapshotRename,
    /// Before an installed snapshot becomes the state.
    Switch,
    /// Right after that, at the end of the next sync: the first one that can make it durable.
    Switched,
}

impl CutPoint {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Vote,
        Self::Append,
        Self::Purge,
        Self::Sync,
        Self::Apply,
        Self::SnapshotWrite,
        Self::SnapshotRename,
        Self::Switch,
        Self::Switched,
    ];

    /// Whether the operation `what` on `name` is at this point. `switched`: a snapshot became the state since the last sync.
    fn is_at(self, what: &str, name: &str, key: &[u8], switched: bool) -> bool {
        match self {
            Self::Switched => switched && Self::Sync.is_at(what, name, key, switched),
            Self::Vote => (what, name, key) == ("insert", "meta", b"vote"),
            Self::Append => (what, name) == ("insert", "log"),
            Self::Purge => (what, name) == ("remove range", "log"),
            Self::Sync => (what, name) == ("synced", "store"),
            Self::Apply => what == "insert" && name.starts_with("sm."),
            Self::SnapshotWrite => what == "write",
            Self::SnapshotRename => what == "rename" && key.ends_with(b".snap"),
            Self::Switch => (what, name, key) == ("insert", "meta", b"sm_generation"),
        }
    }
}

/// A disk in a simulated world. Cheap to clone: all clones are one disk.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

struct State {
    options: SimDiskOptions,
    random: SeededRandom,
    /// The current life of the node; handles of earlier ones fail.
    life: u64,
    /// Why every call fails; cleared by a restart, as a broken cable is by a new one.
    poison: Option<&'static str>,
    /// How many of the next syncs fail.
    failing_syncs: u32,
    /// Where the power goes.
    cut: Option<CutPoint>,
    /// Whether a snapshot became the state since the last sync of the store.
    switched: bool,
    /// Where it went.
    cuts: Vec<CutPoint>,
    /// Calls that failed for want of space.
    full_count: u64,
    failed_count: u64,
    /// Syncs of the store that completed, over all lives.
    sync_count: u64,
    space: Space,
    store: StoreState,
    files: FilesState,
}

#[derive(Default)]
struct StoreState {
    trees: BTreeMap<String, BTreeMap<Bytes, Bytes>>,
    /// How to take back each write from number `durable` on.
    journal: Vec<Vec<Undo>>,
    /// This many operations survive any crash.
    durable: u64,
}

/// How to take back one change.
enum Undo {
    /// The value that a key had.
    Row(String, Bytes, Option<Bytes>),
    /// What was in a range.
    Range(String, BTreeMap<Bytes, Bytes>),
}

#[derive(Default)]
struct FilesState {
    names: BTreeMap<String, u64>,
    /// Names as the last directory sync left them.
    durable_names: BTreeMap<String, u64>,
    /// Operations on names since then, the first of them with number `durable`.
    journal: Vec<NameChange>,
    durable: u64,
    contents: BTreeMap<u64, Content>,
    next: u64,
}

#[derive(Clone)]
enum NameChange {
    Create(String, u64),
    /// Both names change at once.
    Rename(String, String, u64),
    Remove(String),
}

#[derive(Default)]
struct Content {
    bytes: Vec<u8>,
    durable_bytes: Vec<u8>,
    /// Changes since then, the first of them with number `durable`.
    journal: Vec<ContentChange>,
    durable: u64,
}

enum ContentChange {
    Empty,
    Write(u64, Bytes),
}

impl SimDisk {
    /// An empty disk whose behaviour is drawn from `random`.
    pub fn new(random: SeededRandom, options: SimDiskOptions) -> Self {
        let state = State {
            options,
            random,
            life: 0,
            poison: None,
            failing_syncs: 0,
            cut: None,
            switched: false,
            cuts: Vec::new(),
            full_count: 0,
            failed_count: 0,
            sync_count: 0,
            space: Space { free: DISK_SIZE, total: DISK_SIZE },
            store: StoreState::default(),
            files: FilesState::default(),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// The disk as a life of its node sees it; `runtime` is that life's. Ends the handles of earlier lives.
    pub fn open(&self, runtime: &Runtime) -> Disk {
        let life = {
            let mut state = self.lock();
            state.life += 1;
            state.poison = None;
            state.life
        };
        let handle = Handle { disk: self.clone(), life, runtime: runtime.clone() };
        Disk { store: Arc::new(handle.clone()), files: Arc::new(handle) }
    }

    /// Loses what a power cut may lose.
    pub fn crash(&self) {
        let mut state = self.lock();
        let State { random, store, files, life, .. } = &mut *state;
        *life += 1;
        store.crash(random);
        files.crash(random);
        state.switched = false;
    }

    /// Loses everything, as a new disk under an old name does.
    pub fn wipe(&self) {
        let mut state = self.lock();
        state.life += 1;
        state.store = StoreState::default();
        state.files = FilesState::default();
    }

    /// Lets the next `count` syncs fail; the first one poisons the disk until the node restarts.
    pub fn fail_syncs(&self, count: u32) {
        self.lock().failing_syncs = count;
    }

    /// Lets the power go when the node next comes to this point; `None`: not any more. What it wanted to do there is not
    /// done, and every later call fails until the node restarts.
    pub fn cut_at(&self, point: Option<CutPoint>) {
        self.lock().cut = point;
    }

    /// Whether every call fails until the node restarts.
    pub fn is_broken(&self) -> bool {
        self.lock().poison.is_some()
    }

    /// How many syncs failed because they were to.
    pub fn failed_count(&self) -> u64 {
        self.lock().failed_count
    }

    /// How often the power went at one of `points`.
    pub fn cut_count(&self, points: &[CutPoint]) -> u64 {
        self.lock().cuts.iter().filter(|point| points.contains(point)).count() as u64
    }

    /// How often the space was looked at while less than the reserve was left, or a sync failed for want of it.
    pub fn full_count(&self) -> u64 {
        self.lock().full_count
    }

    /// Lets syncs take another time from now on.
    pub fn set_options(&self, options: SimDiskOptions) {
        self.lock().options = options;
    }

    /// Leaves so many bytes free. With none left, syncs fail as those of a full disk do.
    pub fn set_free(&self, bytes: u64) {
        self.lock().space.free = bytes.min(DISK_SIZE);
    }

    /// Operations on the store that a crash now could lose.
    pub fn unsynced_count(&self) -> usize {
        self.lock().store.journal.len()
    }

    /// Syncs of the store that completed, over all lives of the node.
    pub fn sync_count(&self) -> u64 {
        self.lock().sync_count
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Passes the point before the operation `what` on `name`, unless the power goes there.
    fn pass(&mut self, what: &str, name: &str, key: &[u8]) -> io::Result<()> {
        let switched = self.switched;
        let Some(point) = self.cut.take_if(|point| point.is_at(what, name, key, switched)) else {
            return Ok(());
        };
        self.cuts.push(point);
        self.poison = Some("the power is gone (planned fault)");
        Err(io::Error::other("the power went (planned fault)"))
    }
}

impl StoreState {
    fn count(&self) -> u64 {
        self.durable + self.journal.len() as u64
    }

    fn write(&mut self, changes: &[(&str, Change<'_>)]) {
        let undo = |(tree, change): &(&str, Change<'_>)| {
            let name = (*tree).to_owned();
            let rows = self.trees.entry(name.clone()).or_default();
            match *change {
                Change::Insert(key, value) => {
                    let key = Bytes::copy_from_slice(key);
                    let before = rows.insert(key.clone(), Bytes::copy_from_slice(value));
                    Undo::Row(name, key, before)
                }
                Change::Remove(key) => Undo::Row(name, Bytes::copy_from_slice(key), rows.remove(key)),
                Change::RemoveRange(from, to) => Undo::Range(name, take_range(rows, from, to)),
            }
        };
        let undos = changes.iter().map(undo).collect();
        self.journal.push(undos);
    }

    fn synced(&mut self, count: u64) {
        if let Some(done) = count.checked_sub(self.durable) {
            self.journal.drain(..done as usize);
            self.durable = count;
        }
    }

    fn crash(&mut self, random: &mut SeededRandom) {
        let pending = self.journal.len() as u64;
        let keep = match random.below(3) {
            0 => 0,
            1 => pending,
            _ => random.between(0, pending),
        };
        for undo in self.journal.drain(keep as usize..).rev().flat_map(|undos| undos.into_iter().rev()) {
            match undo {
                Undo::Row(tree, key, Some(before)) => {
                    self.trees.entry(tree).or_default().insert(key, before);
                }
                Undo::Row(tree, key, None) => {
                    self.trees.entry(tree).or_default().remove(&key);
                }
                Undo::Range(tree, rows) => self.trees.entry(tree).or_default().extend(rows),
            }
        }
        self.journal.clear();
        self.durable += keep;
    }
}

impl FilesState {
    fn content(&mut self, name: &str) -> io::Result<&mut Content> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, format!("no file {name}"));
        let file = self.names.get(name).ok_or_else(missing)?;
        self.contents.get_mut(file).ok_or_else(missing)
    }

    fn change_names(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.journal.push(change);
    }

    fn count(&self) -> u64 {
        self.durable + self.journal.len() as u64
    }

    fn directory_synced(&mut self, count: u64) {
        let Some(done) = count.checked_sub(self.durable) else { return };
        for change in self.journal.drain(..done as usize) {
            change.apply(&mut self.durable_names);
        }
        self.durable = count;
        self.forget_unnamed();
    }

    fn forget_unnamed(&mut self) {
        let (names, durable) = (&self.names, &self.durable_names);
        let used = |file: &u64| names.values().chain(durable.values()).any(|used| used == file);
        self.contents.retain(|file, _| used(file));
    }

    fn crash(&mut self, random: &mut SeededRandom) {
        self.durable = self.count();
        let keep = random.between(0, self.journal.len() as u64) as usize;
        for change in self.journal.drain(..).take(keep) {
            change.apply(&mut self.durable_names);
        }
        self.names = self.durable_names.clone();
        for content in self.contents.values_mut() {
            content.crash(random);
        }
        self.forget_unnamed();
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            Self::Create(name, file) => names.insert(name.clone(), *file),
            Self::Rename(from, to, file) => {
                names.remove(from);
                names.insert(to.clone(), *file)
            }
            Self::Remove(name) => names.remove(name),
        };
    }
}

impl Content {
    fn change(&mut self, change: ContentChange) {
        change.apply(&mut self.bytes, |_| true);
        self.journal.push(change);
    }

    fn count(&self) -> u64 {
        self.durable + self.journal.len() as u64
    }

    fn synced(&mut self, count: u64) {
        let Some(done) = count.checked_sub(self.durable) else { return };
        for change in self.journal.drain(..done as usize) {
            change.apply(&mut self.durable_bytes, |_| true);
        }
        self.durable = count;
    }

    /// Any of the unsynced writes may have reached the disk, each sector of it on its own.
    fn crash(&mut self, random: &mut SeededRandom) {
        self.durable = self.count();
        for change in self.journal.drain(..) {
            match random.below(3) {
                0 => {}
                1 => change.apply(&mut self.durable_bytes, |_| true),
                _ => change.apply(&mut self.durable_bytes, |_| random.chance(500_000)),
            }
        }
        self.bytes = self.durable_bytes.clone();
    }
}

impl ContentChange {
    /// Applies the change to `bytes`, of a write only the sectors that `reaches` lets through.
    fn apply(&self, bytes: &mut Vec<u8>, mut reaches: impl FnMut(usize) -> bool) {
        match self {
            Self::Empty => bytes.clear(),
            Self::Write(offset, written) => {
                let mut start = 0;
                while start < written.len() {
                    let position = *offset as usize + start;
                    let length = (SECTOR_SIZE - position % SECTOR_SIZE).min(written.len() - start);
                    if reaches(position / SECTOR_SIZE) {
                        if bytes.len() < position + length {
                            bytes.resize(position + length, 0);
                        }
                        bytes[position..position + length].copy_from_slice(&written[start..start + length]);
                    }
                    start += length;
                }
            }
        }
    }
}

/// The disk in the hands of one life of its node.
#[derive(Clone)]
struct Handle {
    disk: SimDisk,
    life: u64,
    runtime: Runtime,
}

impl Handle {
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.lock();
        if state.life != self.life {
            return Err(io::Error::other("this handle belongs to an earlier life of the node"));
        }
        if let Some(reason) = state.poison {
            return Err(io::Error::other(reason));
        }
        Ok(state)
    }

    /// As [`Handle::state`], unless the power goes at what is about to be done.
    fn state_at(&self, what: &str, name: &str, key: &[u8]) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state()?;
        state.pass(what, name, key)?;
        Ok(state)
    }

    fn trace(&self, what: &str, name: &str, key: &[u8], size: usize) {
        self.runtime.trace(|| format!("disk {what} {name} {:08x} {size}", crc32c::crc32c(key)));
    }

    /// Waits as long as a sync takes, then lets `done` mark what it covered.
    fn sync_with(
        &self,
        what: &'static str,
        name: &str,
        done: impl FnOnce(&mut State) -> io::Result<()> + Send + 'static,
    ) -> BoxFuture<io::Result<()>> {
        let duration = self.state().map(|mut state| {
            let SimDiskOptions { sync_time_min, sync_time_max } = state.options;
            let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
            let drawn = state.random.between(nanos(sync_time_min), nanos(sync_time_max));
            Duration::from_nanos(drawn)
        });
        self.trace(what, name, &[], 0);
        let (handle, name) = (self.clone(), name.to_owned());
        Box::pin(async move {
            handle.runtime.sleep(duration?).await;
            let mut state = handle.state_at("synced", &name, &[])?;
            if state.failing_syncs > 0 {
                state.failing_syncs -= 1;
                state.failed_count += 1;
                state.poison = Some("a sync failed before: the disk cannot be trusted");
                return Err(io::Error::other("sync failed (planned fault)"));
            }
            if state.space.free == 0 {
                state.full_count += 1;
                state.poison = Some("a sync failed before: no space was left");
                return Err(io::Error::new(io::ErrorKind::StorageFull, "no space left (planned fault)"));
            }
            done(&mut state)?;
            drop(state);
            handle.trace("synced", what, &[], 0);
            Ok(())
        })
    }
}

/// What a change does, to which key or from which on, and the size of the value.
fn parts<'a>(change: &Change<'a>) -> (&'static str, &'a [u8], usize) {
    match *change {
        Change::Insert(key, value) => ("insert", key, value.len()),
        Change::Remove(key) => ("remove", key, 0),
        Change::RemoveRange(from, _) => ("remove range", from, 0),
    }
}

impl Store for Handle {
    fn write(&self, changes: &[(&str, Change<'_>)]) -> io::Result<()> {
        let (mut state, mut switches) = (self.state()?, false);
        for (tree, change) in changes {
            check_item(tree, change)?;
            let (what, key, _) = parts(change);
            state.pass(what, tree, key)?;
            switches |= CutPoint::Switch.is_at(what, tree, key, false);
        }
        state.store.write(changes);
        state.switched |= switches;
        drop(state);
        for (tree, change) in changes {
            let (what, key, size) = parts(change);
            self.trace(what, tree, key, size);
        }
        Ok(())
    }

    fn get(&self, tree: &str, key: &[u8]) -> io::Result<Option<Bytes>> {
        Ok(self.state()?.store.trees.get(tree).and_then(|rows| rows.get(key)).cloned())
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
        let state = self.state()?;
        let Some(rows) = state.store.trees.get(tree) else { return Ok(Vec::new()) };
        let bounds = (Bound::Included(from), to.map_or(Bound::Unbounded, Bound::Excluded));
        let pairs = rows.range::<[u8], _>(bounds).take(limit);
        Ok(pairs.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn trees(&self) -> io::Result<Vec<String>> {
        let state = self.state()?;
        Ok(state
            .store
            .trees
            .iter()
            .filter(|(_, rows)| !rows.is_empty())
            .map(|(name, _)| name.clone())
            .collect())
    }

    fn sync(&self) -> BoxFuture<io::Result<()>> {
        // What was written before this call, not what is written while it waits.
        let count = self.disk.lock().store.count();
        self.sync_with("sync", "store", move |state| {
            state.store.synced(count);
            state.switched = false;
            state.sync_count += 1;
            Ok(())
        })
    }
}

impl Files for Handle {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state()?.files.names.keys().cloned().collect())
    }

    fn size(&self, name: &str) -> io::Result<u64> {
        Ok(self.state()?.files.content(name)?.bytes.len() as u64)
    }

    fn read(&self, name: &str, offset: u64, length: usize) -> io::Result<Bytes> {
        let mut state = self.state()?;
        let bytes = &state.files.content(name)?.bytes;
        let start = usize::try_from(offset).map_or(bytes.len(), |offset| offset.min(bytes.len()));
        let end = start.saturating_add(length).min(bytes.len());
        Ok(Bytes::copy_from_slice(&bytes[start..end]))
    }

    fn create(&self, name: &str) -> io::Result<()> {
        let mut state = self.state()?;
        let files = &mut state.files;
        if files.names.contains_key(name) {
            files.content(name)?.change(ContentChange::Empty);
        } else {
            files.next += 1;
            let file = files.next;
            files.contents.insert(file, Content::default());
            files.change_names(NameChange::Create(name.to_owned(), file));
        }
        drop(state);
        self.trace("create", "file", name.as_bytes(), 0);
        Ok(())
    }

    fn write(&self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let written = ContentChange::Write(offset, Bytes::copy_from_slice(bytes));
        self.state_at("write", "file", name.as_bytes())?.files.content(name)?.change(written);
        self.trace("write", "file", name.as_bytes(), bytes.len());
        Ok(())
    }

    fn sync(&self, name: &str) -> BoxFuture<io::Result<()>> {
        let counted = self.state().and_then(|mut state| Ok(state.files.content(name)?.count()));
        let name = name.to_owned();
        self.sync_with("sync", "file", move |state| {
            // A file that was removed or replaced meanwhile needs no sync.
            if let Ok(content) = state.files.content(&name) {
                content.synced(counted?.min(content.count()));
            }
            Ok(())
        })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state_at("rename", "file", to.as_bytes())?;
        state.files.content(from)?;
        let file = state.files.names[from];
        state.files.change_names(NameChange::Rename(from.to_owned(), to.to_owned(), file));
        drop(state);
        self.trace("rename", "file", to.as_bytes(), 0);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state()?;
        if state.files.names.contains_key(name) {
            state.files.change_names(NameChange::Remove(name.to_owned()));
        }
        drop(state);
        self.trace("remove", "file", name.as_bytes(), 0);
        Ok(())
    }

    fn sync_directory(&self) -> BoxFuture<io::Result<()>> {
        let count = self.disk.lock().files.count();
        self.sync_with("sync", "directory", move |state| {
            state.files.directory_synced(count);
            Ok(())
        })
    }

    fn space(&self) -> io::Result<Space> {
        let mut state = self.state()?;
        let space = state.space;
        state.full_count += u64::from(space.free < space.reserve());
        Ok(space)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rpc_core::sim::World;

    use super::*;

    /// Runs `work` on a fresh disk, crashes, and gives the disk to look at.
    fn after_crash<F>(seed: u64, work: impl FnOnce(Disk) -> F) -> Disk
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let world = World::new(seed);
        let disk = SimDisk::new(SeededRandom::new(seed), SimDiskOptions::default());
        world.run(work(disk.open(&world.observer())));
        disk.crash();
        disk.open(&world.observer())
    }

    #[test]
    fn a_crash_keeps_a_prefix_with_all_that_was_synced() {
        let mut lengths = BTreeSet::new();
        for seed in 0..200 {
            let disk = after_crash(seed, |disk| async move {
                for number in 0..10u8 {
                    disk.store.insert(if number % 2 == 0 { "even" } else { "odd" }, &[number], b"x").unwrap();
                }
                let syncing = disk.store.sync();
                disk.store.insert("even", &[10], b"x").unwrap();
                syncing.await.unwrap();
                for number in 11..20u8 {
                    disk.store.insert("odd", &[number], b"x").unwrap();
                }
            });
            let mut kept: Vec<u8> = ["even", "odd"]
                .iter()
                .flat_map(|tree| disk.store.range(tree, &[], None, 100).unwrap())
                .map(|(key, _)| key[0])
                .collect();
            kept.sort_unstable();
            assert!(kept.len() >= 10, "synced operations are kept");
            assert!(
                kept.iter().enumerate().all(|(index, number)| index == *number as usize),
                "no holes: {kept:?}"
            );
            lengths.insert(kept.len());
        }
        assert!(lengths.len() > 5, "crashes fall everywhere: {lengths:?}");
    }

    #[test]
    fn removals_and_overwrites_are_taken_back_too() {
        for seed in 0..100 {
            let disk = after_crash(seed, |disk| async move {
                disk.store.insert("t", b"a", b"1").unwrap();
                disk.store.insert("t", b"b", b"1").unwrap();
                disk.store.sync().await.unwrap();
                disk.store.insert("t", b"a", b"2").unwrap();
                disk.store.remove("t", b"b").unwrap();
                disk.store.insert("t", b"c", b"3").unwrap();
                disk.store.remove_range("t", b"a", Some(b"c")).unwrap();
            });
            let rows = disk.store.range("t", &[], None, 9).unwrap();
            let found: Vec<_> = rows.iter().map(|(key, value)| [&key[..], value].concat()).collect();
            let allowed: [&[&[u8]]; 5] =
                [&[b"a1", b"b1"], &[b"a2", b"b1"], &[b"a2"], &[b"a2", b"c3"], &[b"c3"]];
            assert!(
                allowed.contains(&found.iter().map(Vec::as_slice).collect::<Vec<_>>().as_slice()),
                "{found:?}"
            );
        }
    }

    #[test]
    fn a_write_is_there_with_all_of_its_changes_or_not_at_all() {
        let mut kept = BTreeSet::new();
        for seed in 0..100 {
            let disk = after_crash(seed, |disk| async move {
                for value in [b"1", b"2", b"3"] {
                    let changes =
                        [("a", Change::Insert(b"key", value)), ("b", Change::Insert(b"key", value))];
                    disk.store.write(&changes).unwrap();
                }
                disk.store
                    .write(&[("a", Change::Remove(b"key")), ("b", Change::RemoveRange(b"", None))])
                    .unwrap();
            });
            let (a, b) = (disk.store.get("a", b"key").unwrap(), disk.store.get("b", b"key").unwrap());
            assert_eq!(a, b);
            kept.insert(a);
        }
        assert_eq!(kept.len(), 4, "crashes fall everywhere: {kept:?}");
    }

    #[test]
    fn a_name_needs_a_directory_sync_and_content_a_file_sync() {
        let (mut nameless, mut torn) = (0, 0);
        for seed in 0..200 {
            let disk = after_crash(seed, |disk| async move {
                for (name, sync) in [("kept", true), ("risky", false)] {
                    disk.files.create("part").unwrap();
                    disk.files.write("part", 0, &[7; 2_000]).unwrap();
                    if sync {
                        disk.files.sync("part").await.unwrap();
                    }
                    disk.files.rename("part", name).unwrap();
                    if sync {
                        disk.files.sync_directory().await.unwrap();
                    }
                }
            });
            assert_eq!(disk.files.read("kept", 0, 4_000).unwrap(), vec![7; 2_000]);
            match disk.files.read("risky", 0, 4_000) {
                Ok(bytes) if bytes == vec![7; 2_000] => {}
                Ok(_) => torn += 1,
                Err(_) => nameless += 1,
            }
        }
        assert!(nameless > 10 && torn > 10, "{nameless} {torn}");
    }

    #[test]
    fn a_failed_sync_poisons_until_the_restart_and_an_old_handle_is_dead() {
        let world = World::new(1);
        let disk = SimDisk::new(SeededRandom::new(1), SimDiskOptions::default());
        let first = disk.open(&world.observer());
        disk.fail_syncs(1);
        let store = Arc::clone(&first.store);
        world.run(async move {
            assert!(store.sync().await.is_err());
            assert!(store.insert("t", b"a", b"1").is_err());
        });
        let second = disk.open(&world.observer());
        second.store.insert("t", b"a", b"1").unwrap();
        assert!(first.store.get("t", b"a").is_err());
    }
}
