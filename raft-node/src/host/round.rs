//! One round: entries are applied to a layer of changes in memory, over what was applied before.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;

use super::overlay::{Change, Changes, Overlay, ROW_OVERHEAD, VALUE_SIZE_FULL};
use super::row::{CLASS_USER, Origin, Row, Tree, VALUE_PIECE_SIZE, user_key};
use crate::machine::{ROW_KEY_SIZE_MAX, ROW_VALUE_SIZE_MAX, Rows, RowsRead};

/// The changes of the entries applied so far, laid over what was applied before, laid over the tree.
pub(super) struct Round<'a> {
    tree: &'a Tree,
    overlay: &'a Overlay,
    changes: BTreeMap<Bytes, Step>,
    /// The last row that was read from the tree: who reads a row often writes it next.
    last_read: RefCell<Option<(Bytes, Option<Bytes>)>>,
    /// About the size of the items of its rows, pieces of values apart, in bytes.
    item_size: usize,
    /// Bytes of values held in memory.
    value_size: usize,
}

struct Step {
    /// The item in the tree; `None` where the overlay knows it.
    stored: Option<Option<Bytes>>,
    after: Option<(Origin, Bytes)>,
}

impl<'a> Round<'a> {
    pub(super) fn new(tree: &'a Tree, overlay: &'a Overlay) -> Self {
        Self {
            tree,
            overlay,
            changes: BTreeMap::new(),
            last_read: RefCell::default(),
            item_size: 0,
            value_size: 0,
        }
    }

    /// Whether the round is to end here.
    pub(super) fn is_full(&self) -> bool {
        self.item_size >= ITEM_SIZE_FULL || self.value_size >= VALUE_SIZE_FULL
    }

    /// Sets or removes a row by its key in the tree.
    pub(super) fn set(&mut self, key: Bytes, after: Option<(Origin, Bytes)>) -> io::Result<()> {
        let value = after.as_ref().map_or(0, |(_, value)| value.len());
        self.item_size += key.len() + value.min(VALUE_PIECE_SIZE) + ROW_OVERHEAD;
        self.value_size += value;
        if let Some(step) = self.changes.get_mut(&key) {
            step.after = after;
            return Ok(());
        }
        let stored = match self.overlay.get(&key) {
            Some(_) => None,
            None => Some(self.stored(&key)?),
        };
        self.changes.insert(key, Step { stored, after });
        Ok(())
    }

    /// The changes as the overlay takes them, and what the sum of row hashes changes by, modulo 2^128.
    pub(super) fn into_changes(self) -> io::Result<(Changes, u128)> {
        let mut changes = Vec::with_capacity(self.changes.len());
        let mut hash_change: u128 = 0;
        for (key, Step { stored, after }) in self.changes {
            let before = match &stored {
                Some(item) => item.as_ref().map(|item| Row::decode(&key, item)).transpose()?,
                None => None,
            };
            let known = self.overlay.get(&key).and_then(|change| change.after.as_ref());
            if let Some(row) = known.map(|(row, _)| row).or(before.as_ref()) {
                hash_change = hash_change.wrapping_sub(row.hash(&key));
            }
            let after = after.map(|(origin, value)| (Row::of(origin, &value), value));
            if let Some((row, _)) = &after {
                hash_change = hash_change.wrapping_add(row.hash(&key));
            }
            let before_pieces = before.as_ref().and_then(Row::pieces);
            changes.push((key, Change { before: stored.flatten(), before_pieces, after }));
        }
        Ok((changes, hash_change))
    }

    /// The item of a row in the tree.
    fn stored(&self, key: &Bytes) -> io::Result<Option<Bytes>> {
        let mut last_read = self.last_read.borrow_mut();
        if let Some((_, item)) = last_read.as_ref().filter(|(read, _)| read == key) {
            return Ok(item.clone());
        }
        let item = self.tree.get(key)?;
        *last_read = Some((key.clone(), item.clone()));
        Ok(item)
    }

    fn value(&self, key: &Bytes) -> io::Result<Option<Bytes>> {
        if let Some(step) = self.changes.get(key) {
            return Ok(step.after.as_ref().map(|(_, value)| value.clone()));
        }
        if let Some(change) = self.overlay.get(key) {
            return Ok(change.value());
        }
        self.stored(key)?.map(|item| self.tree.item_value(key, &item)).transpose()
    }
}

/// The machine's rows, as the command of one entry sees them.
pub(super) struct MachineRows<'a, 'b> {
    round: &'a mut Round<'b>,
    /// The next change.
    origin: Origin,
}

impl<'a, 'b> MachineRows<'a, 'b> {
    pub(super) fn new(round: &'a mut Round<'b>, index: u64) -> Self {
        Self { round, origin: Origin { index, n: 0 } }
    }
}

impl RowsRead for MachineRows<'_, '_> {
    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        self.round.value(&user_key(key))
    }

    fn range(&self, from: &[u8], to: Option<&[u8]>, limit: usize) -> io::Result<Vec<(Bytes, Bytes)>> {
        // Of what lies over the tree in this range, the round's own counts.
        let (first, end) = (user_key(from), user_end(to));
        if first >= end {
            return Ok(Vec::new());
        }
        let range = first..end;
        let known = self.round.overlay.changes().range(range.clone());
        let mut layer: BTreeMap<_, _> = known.map(|(key, change)| (key.clone(), change.value())).collect();
        let own = self.round.changes.range(range);
        layer.extend(
            own.map(|(key, step)| (key.clone(), step.after.as_ref().map(|(_, value)| value.clone()))),
        );
        user_range(self.round.tree, &layer, Option::clone, from, to, limit)
    }
}

impl Rows for MachineRows<'_, '_> {
    fn put(&mut self, key: &[u8], value: Bytes) -> io::Result<()> {
        if key.len() > ROW_KEY_SIZE_MAX || value.len() > ROW_VALUE_SIZE_MAX {
            let (key, value) = (key.len(), value.len());
            let what =
                format!("row with a key of {key} bytes and a value of {value} bytes exceeds the limits");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        self.round.set(user_key(key), Some((self.origin, value)))?;
        self.origin.n += 1;
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> io::Result<()> {
        self.round.set(user_key(key), None)
    }
}

/// The machine's rows in `tree` under `layer`, with the machine's own keys.
pub(super) fn user_range<T>(
    tree: &Tree,
    layer: &BTreeMap<Bytes, T>,
    value: impl Fn(&T) -> Option<Bytes>,
    from: &[u8],
    to: Option<&[u8]>,
    limit: usize,
) -> io::Result<Vec<(Bytes, Bytes)>> {
    let found = tree.layered(layer, value, &user_key(from), &user_end(to), limit)?;
    Ok(found.into_iter().map(|(key, value)| (key.slice(1..), value)).collect())
}

/// Where a range of the machine's rows ends in the tree.
fn user_end(to: Option<&[u8]>) -> Bytes {
    to.map_or_else(|| Bytes::from_static(&[CLASS_USER + 1]), user_key)
}

/// A round ends with the entry that brings the items of its rows to this size, in bytes.
const ITEM_SIZE_FULL: usize = 256 * 1024;
