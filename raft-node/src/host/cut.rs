//! Consistent views for snapshots, without stopping writes: the rows as they were when a cut began.
//!
//! A cut is read in chunks from a cursor on. Before a save changes a row that the cursor has not reached yet, the row
//! as it was is saved in the cut; the saved one counts. Cuts live in memory only.

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;

use super::overlay::Change;
use super::row::{CLASS_HEAD, CLASS_USER, Row, Tree, successor};
use crate::snapshot::SnapshotRow;

/// All cuts that are being read.
#[derive(Default)]
pub(super) struct Cuts {
    next_id: u64,
    cuts: BTreeMap<u64, Cut>,
}

struct Cut {
    tree: Tree,
    /// The first key that was not read yet.
    cursor: Bytes,
    /// Rows at or after the cursor as they were, or that they were not there.
    undo: BTreeMap<Bytes, Option<SnapshotRow>>,
    undo_size: usize,
}

/// A part of a cut.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    /// Rows in ascending order; there may be more.
    Rows(Vec<SnapshotRow>),
    /// The last rows.
    Last(Vec<SnapshotRow>),
    /// The cut was given up: too much was overwritten, or the state was replaced.
    Lost,
}

impl Cuts {
    /// Begins a cut of the tree as it is. To be called after a save.
    pub(super) fn begin(&mut self, tree: Tree) -> u64 {
        self.next_id += 1;
        let cursor = Bytes::from_static(&[CLASS_USER]);
        self.cuts.insert(self.next_id, Cut { tree, cursor, undo: BTreeMap::new(), undo_size: 0 });
        self.next_id
    }

    pub(super) fn end(&mut self, id: u64) {
        self.cuts.remove(&id);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.cuts.is_empty()
    }

    /// Gives all cuts up: the tree that they read is going away.
    pub(super) fn lose_all(&mut self) {
        self.cuts.clear();
    }

    /// Saves rows before they are changed. A cut that holds more than `size_max` bytes then is given up.
    pub(super) fn save(&mut self, changes: &BTreeMap<Bytes, Change>, size_max: usize) -> io::Result<()> {
        let mut lost = Vec::new();
        for (&id, cut) in &mut self.cuts {
            for (key, change) in changes.range(cut.cursor.clone()..) {
                if cut.undo.contains_key(key) {
                    continue;
                }
                let row =
                    change.before.as_ref().map(|item| whole(&cut.tree, key.clone(), item)).transpose()?;
                cut.undo_size += undo_size(key, row.as_ref());
                cut.undo.insert(key.clone(), row);
            }
            if cut.undo_size > size_max {
                lost.push(id);
            }
        }
        for id in lost {
            self.cuts.remove(&id);
        }
        Ok(())
    }

    /// The next rows of a cut.
    pub(super) fn chunk(&mut self, id: u64) -> io::Result<Chunk> {
        let Some(cut) = self.cuts.get_mut(&id) else { return Ok(Chunk::Lost) };
        let batch = cut.tree.range(&cut.cursor, Some(&[CLASS_HEAD]), CHUNK_ROWS)?;
        let is_last = batch.len() < CHUNK_ROWS;
        let mut rows = Vec::with_capacity(batch.len());
        let mut size = 0;
        for (key, item) in batch {
            while cut.undo.first_key_value().is_some_and(|(saved, _)| *saved < key) {
                rows.extend(cut.pop_saved());
            }
            if cut.undo.first_key_value().is_some_and(|(saved, _)| *saved == key) {
                rows.extend(cut.pop_saved());
            } else {
                rows.push(whole(&cut.tree, key.clone(), &item)?);
            }
            cut.cursor = successor(&key);
            size += rows.last().map_or(0, SnapshotRow::size);
            if size >= CHUNK_SIZE_FULL {
                return Ok(Chunk::Rows(rows));
            }
        }
        if !is_last {
            return Ok(Chunk::Rows(rows));
        }
        while !cut.undo.is_empty() {
            rows.extend(cut.pop_saved());
        }
        cut.cursor = Bytes::from_static(&[CLASS_HEAD]);
        Ok(Chunk::Last(rows))
    }
}

impl Cut {
    /// The first saved row, if it was there when the cut began.
    fn pop_saved(&mut self) -> Option<SnapshotRow> {
        let (key, row) = self.undo.pop_first()?;
        self.undo_size -= undo_size(&key, row.as_ref());
        row
    }
}

/// A row with its value.
fn whole(tree: &Tree, key: Bytes, item: &Bytes) -> io::Result<SnapshotRow> {
    let row = Row::decode(&key, item)?;
    let value = tree.value(&key, &row)?;
    Ok(SnapshotRow { key, index: row.origin.index, n: row.origin.n, value })
}

/// About the memory that a saved row takes, in bytes.
fn undo_size(key: &Bytes, row: Option<&SnapshotRow>) -> usize {
    key.len() + 64 + row.map_or(0, SnapshotRow::size)
}

/// The most rows of the store in a chunk.
const CHUNK_ROWS: usize = 128;
/// A chunk ends with the row that brings it to this size, in bytes.
const CHUNK_SIZE_FULL: usize = 256 * 1024;
