//! One round: entries are applied to a layer of changes in memory, which then becomes one set of effects.

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;

use super::row::{CLASS_USER, Origin, PieceSet, Row, Tree, VALUE_PIECE_SIZE, user_key};
use crate::machine::{ROW_KEY_SIZE_MAX, ROW_VALUE_SIZE_MAX, Rows, RowsRead};

/// The changes of the entries applied so far, laid over the tree.
pub(super) struct Round {
    tree: Tree,
    changes: BTreeMap<Bytes, Change>,
    /// About the size of the redo record, in bytes.
    redo_size: usize,
    /// Bytes of values held in memory.
    value_size: usize,
}

struct Change {
    /// The item at the round's beginning.
    before: Option<Bytes>,
    after: Option<(Origin, Bytes)>,
}

/// What a round does to the disk.
#[derive(Default)]
pub(super) struct Effects {
    /// Row items to set, or rows to remove, by key.
    pub(super) rows: Vec<(Bytes, Option<Bytes>)>,
    /// The items that these rows had before.
    pub(super) befores: BTreeMap<Bytes, Option<Bytes>>,
    /// Large values, whose pieces are to be written.
    pub(super) written: Vec<(PieceSet, Bytes)>,
    /// Pieces that no row names any more.
    pub(super) dropped: Vec<PieceSet>,
    /// What the sum of row hashes changes by, modulo 2^128.
    pub(super) hash_change: u128,
}

impl Round {
    pub(super) fn new(tree: Tree) -> Self {
        Self { tree, changes: BTreeMap::new(), redo_size: 0, value_size: 0 }
    }

    /// Whether the round is to end here.
    pub(super) fn is_full(&self) -> bool {
        self.redo_size >= REDO_SIZE_FULL || self.value_size >= VALUE_SIZE_FULL
    }

    /// Sets or removes a row by its key in the tree.
    pub(super) fn set(&mut self, key: Bytes, after: Option<(Origin, Bytes)>) -> io::Result<()> {
        let value = after.as_ref().map_or(0, |(_, value)| value.len());
        self.redo_size += key.len() + value.min(VALUE_PIECE_SIZE) + ROW_OVERHEAD;
        self.value_size += value;
        if let Some(change) = self.changes.get_mut(&key) {
            change.after = after;
            return Ok(());
        }
        let before = self.tree.get(&key)?;
        if before.is_some() || after.is_some() {
            self.changes.insert(key, Change { before, after });
        }
        Ok(())
    }

    /// The changes as they go to the disk.
    pub(super) fn into_effects(self) -> io::Result<Effects> {
        let mut effects = Effects::default();
        for (key, Change { before, after }) in self.changes {
            if before.is_none() && after.is_none() {
                continue;
            }
            if let Some(item) = &before {
                let row = Row::decode(&key, item)?;
                effects.hash_change = effects.hash_change.wrapping_sub(row.hash(&key));
                effects.dropped.extend(row.pieces());
            }
            let item = after.map(|(origin, value)| {
                let row = Row::of(origin, &value);
                effects.hash_change = effects.hash_change.wrapping_add(row.hash(&key));
                effects.written.extend(row.pieces().map(|set| (set, value)));
                row.encode(&key)
            });
            effects.rows.push((key.clone(), item));
            effects.befores.insert(key, before);
        }
        Ok(effects)
    }

    fn value(&self, key: &Bytes) -> io::Result<Option<Bytes>> {
        if let Some(change) = self.changes.get(key) {
            return Ok(change.after.as_ref().map(|(_, value)| value.clone()));
        }
        self.tree.get(key)?.map(|item| self.tree.item_value(key, &item)).transpose()
    }
}

/// The machine's rows, as the command of one entry sees them.
pub(super) struct MachineRows<'a> {
    round: &'a mut Round,
    /// The next change.
    origin: Origin,
}

impl<'a> MachineRows<'a> {
    pub(super) fn new(round: &'a mut Round, index: u64) -> Self {
        Self { round, origin: Origin { index, n: 0 } }
    }
}

impl RowsRead for MachineRows<'_> {
    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        self.round.value(&user_key(key))
    }

    fn range(&self, from: &[u8], to: Option<&[u8]>, limit: usize) -> io::Result<Vec<(Bytes, Bytes)>> {
        let after = |_: &Bytes, change: &Change| Ok(change.after.as_ref().map(|(_, value)| value.clone()));
        user_range(&self.round.tree, &self.round.changes, after, from, to, limit)
    }
}

impl Rows for MachineRows<'_> {
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
    present: impl Fn(&Bytes, &T) -> io::Result<Option<Bytes>>,
    from: &[u8],
    to: Option<&[u8]>,
    limit: usize,
) -> io::Result<Vec<(Bytes, Bytes)>> {
    let end = to.map_or_else(|| Bytes::from_static(&[CLASS_USER + 1]), user_key);
    let found = tree.layered(layer, present, &user_key(from), &end, limit)?;
    Ok(found.into_iter().map(|(key, value)| (key.slice(1..), value)).collect())
}

/// A round ends with the entry that brings its redo record to this size, in bytes.
const REDO_SIZE_FULL: usize = 256 * 1024;
/// A round ends with the entry that brings the values it holds to this size, in bytes.
const VALUE_SIZE_FULL: usize = 4 * 1024 * 1024;
/// What a row takes in the redo record beside key and value, in bytes.
const ROW_OVERHEAD: usize = 32;
