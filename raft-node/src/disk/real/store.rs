//! The store: a journal, what it adds up to in memory, and the database below.
//!
//! Every change goes into the group that the next sync writes, and into memory, where it can be read. When a file of the
//! journal is full, what is in memory is frozen and saved into the database by a thread of its own, while changes go on
//! into the other file. So the disk sees one short write and one sync for each group, and sled, whose flushes wake all of
//! its threads, sees each key once for all that was changed in one file.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::mem;
use std::ops::Bound;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;

use bytes::Bytes;
use rpc_core::runtime::BoxFuture;

use super::super::{Change, Store, check_item};
use super::database::Database;
use super::journal::{GROUP_HEAD_SIZE, Journal};
use super::mark::{Mark, Marked};
use super::memory::{Memory, Tree};

/// A group of more bytes is written when the change that made it so large is: loading a snapshot syncs only at its end.
const GROUP_SIZE_MAX: usize = 8 * 1024 * 1024;
/// The buffer of a group keeps no more memory than this, in bytes.
const BUFFER_SIZE_MAX: usize = 256 * 1024;

/// The store of one node.
pub(super) struct JournaledStore(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    /// Locked while a sync goes on.
    writer: Mutex<Writer>,
}

/// What the thread of the saves shares.
struct Shared {
    database: Database,
    view: RwLock<View>,
    /// Held as long as anything works on the folder.
    _lock: File,
}

/// What is read, the newest first; the database comes after it.
struct View {
    /// The group that is gathered, behind room for its head.
    group: Vec<u8>,
    /// What the active file of the journal and the group add up to.
    active: Memory,
    /// What the other file adds up to, until the database holds it.
    saving: Option<Arc<Memory>>,
}

struct Writer {
    journal: Journal,
    mark: Mark,
    saver: Saver,
    /// An empty buffer for the next group.
    spare: Vec<u8>,
}

impl JournaledStore {
    /// The store of the journal in `folder` over `database`; `lock` is held as long as anything works there. A file of the
    /// journal is full with `journal_size` bytes.
    ///
    /// # Errors
    /// `InvalidData` when the journal or the database lacks something that was durable; or what the disk says.
    pub(super) fn open(database: Database, lock: File, folder: &Path, journal_size: u64) -> io::Result<Self> {
        let damaged = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        let saved = database.saved()?;
        let (journal, groups) = Journal::open(folder, saved, journal_size)?;
        let (mark, marked) = Mark::open(folder)?;
        let number = journal.number();
        match marked {
            Marked::Number(marked) if marked > number => {
                return Err(damaged(format!(
                    "the store ends at sync {number}, but sync {marked} was done: what came after is lost"
                )));
            }
            Marked::Number(_) => {}
            // The file is durable before the first sync gets a number.
            Marked::Nothing | Marked::Unreadable if number == 0 => {}
            Marked::Nothing => return Err(damaged("the file SYNCED is missing".to_owned())),
            Marked::Unreadable => return Err(damaged("the file SYNCED cannot be read".to_owned())),
        }
        mark.reset(number)?;
        let newest = groups.last().map(|group| group.file);
        let (mut saving, mut active, mut frozen) = (Memory::default(), Memory::default(), saved);
        for group in groups {
            if Some(group.file) == newest {
                active.apply_all(&group.operations)?;
            } else {
                saving.apply_all(&group.operations)?;
                frozen += 1;
            }
        }
        let view = View { group: vec![0; GROUP_HEAD_SIZE], active, saving: None };
        let shared = Arc::new(Shared { database, view: RwLock::new(view), _lock: lock });
        let mut saver = Saver::start(Arc::clone(&shared))?;
        if frozen > saved {
            let saving = Arc::new(saving);
            shared.write().saving = Some(Arc::clone(&saving));
            saver.save(saving, frozen)?;
        }
        let writer = Writer { journal, mark, saver, spare: vec![0; GROUP_HEAD_SIZE] };
        Ok(Self(Arc::new(Inner { shared, writer: Mutex::new(writer) })))
    }
}

impl Inner {
    fn sync_now(&self) -> io::Result<()> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.database.check()?;
        writer.sync(&self.shared).map_err(|error| self.shared.database.fail(error))
    }
}

impl Writer {
    fn sync(&mut self, shared: &Shared) -> io::Result<()> {
        let length = shared.read().group.len();
        if length == GROUP_HEAD_SIZE {
            // What was written before is durable: its sync is done, or this one would wait.
            return Ok(());
        }
        let fills = self.journal.is_filled_by(length);
        if fills {
            self.saver.finish()?;
        }
        let (mut group, frozen) = {
            let mut view = shared.write();
            let group = mem::replace(&mut view.group, mem::take(&mut self.spare));
            if fills {
                view.saving = Some(Arc::new(mem::take(&mut view.active)));
            }
            (group, view.saving.clone().filter(|_| fills))
        };
        self.journal.append(&mut group)?;
        self.mark.advance(self.journal.number())?;
        if let Some(frozen) = frozen {
            self.saver.save(frozen, self.journal.number())?;
            self.journal.turn();
        }
        group.truncate(GROUP_HEAD_SIZE);
        group.shrink_to(BUFFER_SIZE_MAX);
        self.spare = group;
        Ok(())
    }
}

/// The thread that saves what is frozen.
struct Saver {
    /// `None` when the store is being dropped.
    work: Option<Sender<(Arc<Memory>, u64)>>,
    done: Receiver<io::Result<()>>,
    is_saving: bool,
    thread: Option<JoinHandle<()>>,
}

impl Saver {
    fn start(shared: Arc<Shared>) -> io::Result<Self> {
        let (work, frozen) = mpsc::channel::<(Arc<Memory>, u64)>();
        let (tell, done) = mpsc::channel();
        let run = move || {
            for (memory, number) in frozen {
                let saved = shared.database.save(&memory, number);
                if saved.is_ok() {
                    shared.write().saving = None;
                }
                // Freed here and not where a sync waits.
                drop(memory);
                // Nobody listens when the store is being dropped.
                let _ = tell.send(saved);
            }
        };
        let thread = std::thread::Builder::new().name("database".to_owned()).spawn(run)?;
        Ok(Self { work: Some(work), done, is_saving: false, thread: Some(thread) })
    }

    /// Begins to save `memory`, which ends with group `number`; nothing else is being saved.
    fn save(&mut self, memory: Arc<Memory>, number: u64) -> io::Result<()> {
        self.is_saving = true;
        let sent = self.work.as_ref().and_then(|work| work.send((memory, number)).ok());
        sent.ok_or_else(gone)
    }

    /// Waits until nothing is being saved.
    fn finish(&mut self) -> io::Result<()> {
        if mem::take(&mut self.is_saving) {
            return self.done.recv().map_err(|_| gone())?;
        }
        Ok(())
    }
}

impl Drop for Saver {
    fn drop(&mut self) {
        self.work = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed where it happened.
            let _ = thread.join();
        }
    }
}

fn gone() -> io::Error {
    io::Error::other("the thread of the database is gone")
}

impl Shared {
    fn read(&self) -> RwLockReadGuard<'_, View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, View> {
        self.view.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl View {
    /// What is known of `tree` above the database, the newest first.
    fn layers<'a>(&'a self, tree: &str) -> impl Iterator<Item = &'a Tree> + use<'a> {
        let memories = [Some(&self.active), self.saving.as_deref()];
        memories.map(|memory| memory.and_then(|memory| memory.trees.get(tree))).into_iter().flatten()
    }
}

/// One layer of a tree, seen through what those above it removed: its items, ascending.
struct Layer<'a> {
    /// The newest first.
    above: Vec<&'a Tree>,
    /// Gives the items from a key on.
    open: Open<'a>,
    items: Items<'a>,
    /// The first one that was not taken.
    next: Option<(Bytes, Option<Bytes>)>,
}

type Open<'a> = Box<dyn Fn(&[u8]) -> io::Result<Items<'a>> + 'a>;
type Items<'a> = Box<dyn Iterator<Item = io::Result<(Bytes, Option<Bytes>)>> + 'a>;

impl<'a> Layer<'a> {
    fn new(
        above: Vec<&'a Tree>,
        from: &[u8],
        open: impl Fn(&[u8]) -> io::Result<Items<'a>> + 'a,
    ) -> io::Result<Self> {
        let mut layer = Self { above, open: Box::new(open), items: Box::new(std::iter::empty()), next: None };
        layer.seek(from)?;
        Ok(layer)
    }

    /// Goes on at `from`, or behind what is removed there.
    fn seek(&mut self, from: &[u8]) -> io::Result<()> {
        let mut from = from;
        while let Some(end) = self.above.iter().find_map(|above| above.removed.end_of(from)) {
            let Some(end) = end else {
                self.items = Box::new(std::iter::empty());
                self.next = None;
                return Ok(());
            };
            from = end;
        }
        self.items = (self.open)(from)?;
        self.step()
    }

    /// Passes the item that is next.
    fn step(&mut self) -> io::Result<()> {
        self.next = self.items.next().transpose()?;
        match &self.next {
            Some((key, _)) if self.above.iter().any(|above| above.removed.holds(key)) => {
                let key = key.clone();
                self.seek(&key)
            }
            _ => Ok(()),
        }
    }
}

impl Store for JournaledStore {
    fn write(&self, changes: &[(&str, Change<'_>)]) -> io::Result<()> {
        changes.iter().try_for_each(|(tree, change)| check_item(tree, change))?;
        self.0.shared.database.check()?;
        let mut view = self.0.shared.write();
        let begin = view.group.len();
        // One group holds them all, and a crash leaves groups whole.
        if let Err(error) = changes.iter().try_for_each(|(tree, change)| change.encode(tree, &mut view.group))
        {
            view.group.truncate(begin);
            return Err(error);
        }
        changes.iter().for_each(|(tree, change)| view.active.apply(tree, *change));
        let is_full = view.group.len() >= GROUP_SIZE_MAX;
        drop(view);
        if is_full { self.0.sync_now() } else { Ok(()) }
    }

    fn get(&self, tree: &str, key: &[u8]) -> io::Result<Option<Bytes>> {
        self.0.shared.database.check()?;
        let view = self.0.shared.read();
        for layer in view.layers(tree) {
            if let Some(value) = layer.items.get(key) {
                return Ok(value.clone());
            }
            if layer.removed.holds(key) {
                return Ok(None);
            }
        }
        self.0.shared.database.get(tree, key)
    }

    fn range(
        &self,
        tree: &str,
        from: &[u8],
        to: Option<&[u8]>,
        limit: usize,
    ) -> io::Result<Vec<(Bytes, Bytes)>> {
        self.0.shared.database.check()?;
        if to.is_some_and(|to| to <= from) {
            return Ok(Vec::new());
        }
        let view = self.0.shared.read();
        let end = to.map_or(Bound::Unbounded, Bound::Excluded);
        let (mut layers, mut above) = (Vec::with_capacity(3), Vec::with_capacity(2));
        for known in view.layers(tree) {
            let open = move |from: &[u8]| {
                // A range that was removed may end beyond.
                let from = to.map_or(from, |to| from.min(to));
                let items = known.items.range::<[u8], _>((Bound::Included(from), end));
                Ok(Box::new(items.map(|(key, value)| Ok((key.clone(), value.clone())))) as Items<'_>)
            };
            layers.push(Layer::new(above.clone(), from, open)?);
            above.push(known);
        }
        let open = |from: &[u8]| {
            let from = to.map_or(from, |to| from.min(to));
            let saved = self.0.shared.database.range(tree, (Bound::Included(from), end))?;
            Ok(Box::new(saved.map(|pair| pair.map(|(key, value)| (key, Some(value))))) as Items<'_>)
        };
        layers.push(Layer::new(above, from, open)?);
        let mut found = Vec::new();
        while found.len() < limit {
            let least =
                layers.iter().filter_map(|layer| layer.next.as_ref()).map(|(key, _)| key).min().cloned();
            let Some(least) = least else { break };
            // Each layer passes the key; the newest that knows it decides.
            let mut decided = None;
            for layer in &mut layers {
                if layer.next.as_ref().is_some_and(|(key, _)| *key == least) {
                    decided = decided.or_else(|| layer.next.take().map(|(_, value)| value));
                    layer.step()?;
                }
            }
            found.extend(decided.flatten().map(|value| (least, value)));
        }
        Ok(found)
    }

    fn trees(&self) -> io::Result<Vec<String>> {
        let mut names = BTreeSet::from_iter(self.0.shared.database.names()?);
        {
            let view = self.0.shared.read();
            let memories = [Some(&view.active), view.saving.as_deref()].into_iter().flatten();
            names.extend(memories.flat_map(|memory| memory.trees.keys().cloned()));
        }
        let mut full = Vec::new();
        for name in names {
            if !self.range(&name, &[], None, 1)?.is_empty() {
                full.push(name);
            }
        }
        Ok(full)
    }

    fn sync(&self) -> BoxFuture<io::Result<()>> {
        let inner = Arc::clone(&self.0);
        // Only the writer polls this, on a thread of its own: blocking it is what that thread is for.
        Box::pin(async move { inner.sync_now() })
    }
}
