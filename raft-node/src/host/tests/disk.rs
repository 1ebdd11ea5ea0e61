//! A disk in memory that can be cut after any operation, and damaged at any byte.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rpc_core::runtime::BoxFuture;

use crate::disk::{Change, Disk, Files, PIECE_SIZE_MAX, Space, Store};

#[derive(Clone, Default)]
pub(super) struct TestDisk {
    state: Arc<Mutex<Content>>,
}

#[derive(Clone, Default)]
pub(super) struct Content {
    pub(super) trees: BTreeMap<String, BTreeMap<Bytes, Bytes>>,
    pub(super) files: BTreeMap<String, Vec<u8>>,
    log: Vec<Operation>,
    on_write: Option<Arc<dyn Fn() + Send + Sync>>,
}

/// Operations in the one order that a crash keeps a prefix of. (What may happen to files that are not synced is the
/// simulated disk's to test.)
#[derive(Clone, Debug)]
pub(super) enum Operation {
    Change(Vec<(String, Row)>),
    Create(String),
    Write(String, u64, Bytes),
    Rename(String, String),
    RemoveFile(String),
}

/// A change of one tree.
#[derive(Clone, Debug)]
pub(super) enum Row {
    Insert(Bytes, Bytes),
    Remove(Bytes),
    RemoveRange(Bytes, Option<Bytes>),
}

impl TestDisk {
    pub(super) fn of(content: Content) -> Self {
        Self { state: Arc::new(Mutex::new(content)) }
    }

    pub(super) fn handle(&self) -> Disk {
        Disk { store: Arc::new(self.clone()), files: Arc::new(self.clone()) }
    }

    pub(super) fn content(&self) -> MutexGuard<'_, Content> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `probe` after every write from now on.
    pub(super) fn on_write(&self, probe: impl Fn() + Send + Sync + 'static) {
        self.content().on_write = Some(Arc::new(probe));
    }

    /// What a crash after each number of operations since `start` leaves, from none to all.
    pub(super) fn prefixes_since(&self, start: &Content) -> Vec<Content> {
        let mut content = start.clone();
        let first = content.log.len();
        content.log.clear();
        content.on_write = None;
        let mut prefixes = vec![content.clone()];
        for operation in &self.content().log[first..] {
            content.perform(operation);
            prefixes.push(content.clone());
        }
        prefixes
    }

    fn perform(&self, operation: Operation) {
        let mut content = self.content();
        content.perform(&operation);
        content.log.push(operation);
    }
}

impl Content {
    /// The generations of the state of which anything is there.
    pub(super) fn generations(&self) -> BTreeSet<&str> {
        let names = self.trees.keys().filter(|name| name.starts_with("sm."));
        names.filter_map(|name| name.split('.').nth(1)).collect()
    }

    /// The trees of states, and the pieces of large values in them.
    pub(super) fn piece_keys(&self) -> Vec<Bytes> {
        let states = self.trees.iter().filter(|(name, _)| name.starts_with("sm."));
        states.flat_map(|(_, tree)| tree.keys().filter(|key| key[0] == 3).cloned()).collect()
    }

    fn perform(&mut self, operation: &Operation) {
        match operation.clone() {
            Operation::Change(changes) => changes.into_iter().for_each(|(tree, row)| match row {
                Row::Insert(key, value) => drop(self.trees.entry(tree).or_default().insert(key, value)),
                Row::Remove(key) => self.retain(tree, |known| *known != key),
                Row::RemoveRange(from, to) => {
                    self.retain(tree, |known| *known < from || to.as_ref().is_some_and(|to| known >= to));
                }
            }),
            Operation::Create(name) => {
                self.files.insert(name, Vec::new());
            }
            Operation::Write(name, offset, bytes) => {
                let file = self.files.entry(name).or_default();
                let (start, end) = (offset as usize, offset as usize + bytes.len());
                file.resize(file.len().max(end), 0);
                file[start..end].copy_from_slice(&bytes);
            }
            Operation::Rename(from, to) => {
                let file = self.files.remove(&from).unwrap_or_default();
                self.files.insert(to, file);
            }
            Operation::RemoveFile(name) => {
                self.files.remove(&name);
            }
        }
    }

    fn retain(&mut self, tree: String, is_kept: impl Fn(&Bytes) -> bool) {
        let rows = self.trees.entry(tree.clone()).or_default();
        rows.retain(|key, _| is_kept(key));
        if rows.is_empty() {
            self.trees.remove(&tree);
        }
    }

    fn file(&self, name: &str) -> io::Result<&Vec<u8>> {
        self.files.get(name).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no file {name}")))
    }
}

impl Store for TestDisk {
    fn write(&self, changes: &[(&str, Change<'_>)]) -> io::Result<()> {
        let copy = Bytes::copy_from_slice;
        let row = |change: &Change<'_>| match *change {
            Change::Insert(key, value) => {
                assert!(value.len() <= PIECE_SIZE_MAX, "no item is larger than a piece: {}", value.len());
                Row::Insert(copy(key), copy(value))
            }
            Change::Remove(key) => Row::Remove(copy(key)),
            Change::RemoveRange(from, to) => Row::RemoveRange(copy(from), to.map(copy)),
        };
        let changes = changes.iter().map(|(tree, change)| ((*tree).to_owned(), row(change)));
        self.perform(Operation::Change(changes.collect()));
        let probe = self.content().on_write.clone();
        if let Some(probe) = probe {
            probe();
        }
        Ok(())
    }

    fn get(&self, tree: &str, key: &[u8]) -> io::Result<Option<Bytes>> {
        Ok(self.content().trees.get(tree).and_then(|rows| rows.get(key)).cloned())
    }

    fn range(
        &self,
        tree: &str,
        from: &[u8],
        to: Option<&[u8]>,
        limit: usize,
    ) -> io::Result<Vec<(Bytes, Bytes)>> {
        let content = self.content();
        let Some(rows) = content.trees.get(tree) else { return Ok(Vec::new()) };
        let rows = rows.range(Bytes::copy_from_slice(from)..);
        let rows = rows.take_while(|(key, _)| to.is_none_or(|to| key.as_ref() < to)).take(limit);
        Ok(rows.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn trees(&self) -> io::Result<Vec<String>> {
        Ok(self.content().trees.keys().cloned().collect())
    }

    fn sync(&self) -> BoxFuture<io::Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

impl Files for TestDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.content().files.keys().cloned().collect())
    }

    fn size(&self, name: &str) -> io::Result<u64> {
        Ok(self.content().file(name)?.len() as u64)
    }

    fn read(&self, name: &str, offset: u64, length: usize) -> io::Result<Bytes> {
        let content = self.content();
        let file = content.file(name)?;
        let start = (offset as usize).min(file.len());
        let end = (start + length).min(file.len());
        Ok(Bytes::copy_from_slice(&file[start..end]))
    }

    fn create(&self, name: &str) -> io::Result<()> {
        self.perform(Operation::Create(name.to_owned()));
        Ok(())
    }

    fn write(&self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.perform(Operation::Write(name.to_owned(), offset, Bytes::copy_from_slice(bytes)));
        Ok(())
    }

    fn sync(&self, _name: &str) -> BoxFuture<io::Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.content().file(from)?;
        self.perform(Operation::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.perform(Operation::RemoveFile(name.to_owned()));
        Ok(())
    }

    fn sync_directory(&self) -> BoxFuture<io::Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn space(&self) -> io::Result<Space> {
        Ok(Space { free: u64::MAX, total: u64::MAX })
    }
}
