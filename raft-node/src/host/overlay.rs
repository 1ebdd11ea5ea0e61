//! What was applied and is not written yet: it lies in memory over the tree, and is written in one save.
//!
//! The log holds every entry until a snapshot holds its effect, so the tree may lag: opening finds the last save, and
//! Raft applies the entries behind it again. Rows that are changed often, and records of sessions that come and go
//! with each write, reach the disk once a save or never.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::row::{Items, PieceSet, Row, VALUE_PIECE_SIZE};

/// All changes since the last save, by key of the tree.
#[derive(Default)]
pub(super) struct Overlay {
    changes: BTreeMap<Bytes, Change>,
    /// About the size of the items of a save, pieces of values apart, in bytes.
    item_size: usize,
    /// Bytes of values held in memory.
    value_size: usize,
    /// Entries whose changes are in here.
    entry_count: usize,
}

/// What a round changes, by key.
pub(super) type Changes = Vec<(Bytes, Change)>;

/// One row, changed once or often.
pub(super) struct Change {
    /// The item that the tree holds.
    pub(super) before: Option<Bytes>,
    /// The pieces that this item names.
    pub(super) before_pieces: Option<PieceSet>,
    /// The row and its value as they are now.
    pub(super) after: Option<(Row, Bytes)>,
}

impl Change {
    /// The row's value now.
    pub(super) fn value(&self) -> Option<Bytes> {
        self.after.as_ref().map(|(_, value)| value.clone())
    }
}

impl Overlay {
    /// The change of a row, if it was changed.
    pub(super) fn get(&self, key: &Bytes) -> Option<&Change> {
        self.changes.get(key)
    }

    /// All changes, by key.
    pub(super) fn changes(&self) -> &BTreeMap<Bytes, Change> {
        &self.changes
    }

    /// Lays the changes of a round of `entry_count` entries over those that are here. What a row had in the tree is
    /// known from its first change.
    pub(super) fn merge(&mut self, round: Changes, entry_count: usize) {
        self.entry_count += entry_count;
        for (key, mut change) in round {
            if let Some(known) = self.changes.remove(&key) {
                self.count(&key, &known, false);
                (change.before, change.before_pieces) = (known.before, known.before_pieces);
            }
            if change.before.is_some() || change.after.is_some() {
                self.count(&key, &change, true);
                self.changes.insert(key, change);
            }
        }
    }

    fn count(&mut self, key: &Bytes, change: &Change, is_new: bool) {
        let value = change.after.as_ref().map_or(0, |(_, value)| value.len());
        let item = key.len() + value.min(VALUE_PIECE_SIZE) + ROW_OVERHEAD;
        if is_new {
            self.item_size += item;
            self.value_size += value;
        } else {
            self.item_size -= item;
            self.value_size -= value;
        }
    }

    /// Whether a save is due, with items of `size_max` bytes.
    pub(super) fn is_full(&self, size_max: usize) -> bool {
        self.entry_count > 0
            && (self.item_size >= size_max
                || self.value_size >= VALUE_SIZE_FULL
                || self.entry_count >= ENTRY_COUNT_FULL)
    }

    /// Whether no entry was applied since the last save.
    pub(super) fn is_empty(&self) -> bool {
        self.entry_count == 0
    }

    /// What a save of all this writes.
    pub(super) fn items(&self) -> Items {
        let mut items = Items::with_capacity(self.changes.len() + 1);
        for (key, Change { before_pieces, after, .. }) in &self.changes {
            items.extend(before_pieces.iter().flat_map(PieceSet::keys).map(|key| (key, None)));
            if let Some((row, value)) = after {
                items.extend(row.piece_items(value));
            }
            items.push((key.clone(), after.as_ref().map(|(row, _)| row.encode(key))));
        }
        items
    }
}

/// A round ends, and a save is due, with the entry that brings the values in memory to this size, in bytes.
pub(super) const VALUE_SIZE_FULL: usize = 4 * 1024 * 1024;
/// What a row takes beside key and value, in bytes.
pub(super) const ROW_OVERHEAD: usize = 32;
/// A save is due after so many entries: what a start may have to apply again.
const ENTRY_COUNT_FULL: usize = 4_096;
