//! Rows on the disk: two trees per generation of the state, their classes of keys, and the layout of their items.
//!
//! ```text
//! tree sm.<generation>
//! 0x00 | the machine's key                        row
//! 0x01 | session id u64 [| sequence u64]          row (value: session.rs)
//! 0x02                                            version u8 = 2 | crc32c u32 of what follows | state head (CBOR)
//!
//! tree sm.<generation>.pieces
//! 0x03 | log index u64 | n u32 | piece u32        crc32c u32 of key and bytes | bytes: a piece of a large value
//!
//! row item: version u8 = 1 | kind u8 | crc32c u32 of key, kind and all that follows | log index u64 | n u32
//!           then, kind 0: the value            kind 1: length u32 | hash of the value u128; it lies in pieces
//! ```
//! Numbers are big-endian. (log index, n) says which write made the row: the n-th change of that entry. It names the
//! pieces too, so they always have new keys. No item exceeds [`PIECE_SIZE_MAX`], whatever
//! the size of the value: the store's leaves stay small. Pieces lie apart from what every round writes: sled writes a
//! leaf anew after ten changes in it, with all items that are in it.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::hash::{self, Hasher};
use crate::disk::{Change, KEY_SIZE_MAX, PIECE_SIZE_MAX, Store};
use crate::machine::{ROW_KEY_SIZE_MAX, ROW_VALUE_SIZE_MAX};
use crate::state_head::StateHead;

/// The machine's rows.
pub(super) const CLASS_USER: u8 = 0x00;
/// Sessions and records.
pub(super) const CLASS_SESSION: u8 = 0x01;
/// The state head.
pub(super) const CLASS_HEAD: u8 = 0x02;
/// Pieces of large values.
pub(super) const CLASS_PIECE: u8 = 0x03;
/// The most bytes of a value in one item of the store, which holds a header too; larger values lie in pieces of this
/// size.
pub(super) const VALUE_PIECE_SIZE: usize = PIECE_SIZE_MAX - HEADER_SIZE;

// The class byte stands before the machine's key.
const _: () = assert!(ROW_KEY_SIZE_MAX < KEY_SIZE_MAX);

const VERSION: u8 = 1;
/// Version 1 held the effects of a save too.
const HEAD_VERSION: u8 = 2;
const KIND_INLINE: u8 = 0;
const KIND_PIECES: u8 = 1;
/// Rows that one call of the store is asked for.
const BATCH_ROWS: usize = 128;
/// What a row item holds before its value: version, kind, checksum, log index, n.
const HEADER_SIZE: usize = 1 + 1 + 4 + 8 + 4;
/// Behind the header of a row whose value lies in pieces: its length and hash.
const PIECES_HEAD_SIZE: usize = 4 + 16;

/// Keys with the items that they get; `None`: they are removed.
pub(super) type Items = Vec<(Bytes, Option<Bytes>)>;

/// The item of a state head.
pub(super) fn head_item(head: &StateHead) -> io::Result<(Bytes, Option<Bytes>)> {
    let head = head.to_bytes().map_err(io::Error::other)?;
    let mut item = BytesMut::with_capacity(5 + head.len());
    item.put_u8(HEAD_VERSION);
    item.put_u32(crc32c::crc32c(&head));
    item.put_slice(&head);
    Ok((Bytes::from_static(&[CLASS_HEAD]), Some(item.freeze())))
}

/// A row as its item holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) origin: Origin,
    pub(super) content: Content,
}

/// Which write made a row: the n-th change of a log entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Origin {
    pub(super) index: u64,
    pub(super) n: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Inline(Bytes),
    Pieces { length: u32, hash: u128 },
}

impl Row {
    /// The row of a value: inline if it fits into an item. The pieces of a larger one must be written apart.
    pub(super) fn of(origin: Origin, value: &Bytes) -> Self {
        let content = if value.len() <= VALUE_PIECE_SIZE {
            Content::Inline(value.clone())
        } else {
            // ROW_VALUE_SIZE_MAX was checked where the value came in.
            Content::Pieces { length: value.len() as u32, hash: hash::hash(value) }
        };
        Self { origin, content }
    }

    pub(super) fn encode(&self, key: &[u8]) -> Bytes {
        let mut item =
            BytesMut::with_capacity(HEADER_SIZE + PIECES_HEAD_SIZE + VALUE_PIECE_SIZE.min(self.length()));
        item.put_u8(VERSION);
        item.put_u8(KIND_INLINE);
        item.put_u32(0);
        item.put_u64(self.origin.index);
        item.put_u32(self.origin.n);
        match &self.content {
            Content::Inline(value) => item.put_slice(value),
            Content::Pieces { length, hash } => {
                item[1] = KIND_PIECES;
                item.put_u32(*length);
                item.put_u128(*hash);
            }
        }
        let crc = item_crc(key, &item);
        item[2..6].copy_from_slice(&crc.to_be_bytes());
        item.freeze()
    }

    /// Reads an item; `InvalidData` that names the key if it is damaged.
    pub(super) fn decode(key: &[u8], item: &Bytes) -> io::Result<Self> {
        let damaged = |what: &str| damaged(key, what);
        if item.len() < HEADER_SIZE {
            return Err(damaged("item too short"));
        }
        if item[0] != VERSION {
            return Err(damaged("unknown version"));
        }
        let mut rest = item.slice(2..);
        if rest.get_u32() != item_crc(key, item) {
            return Err(damaged("checksum"));
        }
        let origin = Origin { index: rest.get_u64(), n: rest.get_u32() };
        let content = match item[1] {
            KIND_INLINE => Content::Inline(rest),
            KIND_PIECES if rest.len() == PIECES_HEAD_SIZE => {
                Content::Pieces { length: rest.get_u32(), hash: rest.get_u128() }
            }
            _ => return Err(damaged("unknown kind")),
        };
        Ok(Self { origin, content })
    }

    /// What the state hash adds for this row.
    pub(super) fn hash(&self, key: &[u8]) -> u128 {
        let mut hasher = Hasher::new();
        hasher.write(&(key.len() as u64).to_be_bytes());
        hasher.write(key);
        hasher.write(&self.origin.index.to_be_bytes());
        hasher.write(&self.origin.n.to_be_bytes());
        match &self.content {
            Content::Inline(value) => {
                hasher.write(&[KIND_INLINE]);
                hasher.write(value);
            }
            Content::Pieces { length, hash } => {
                hasher.write(&[KIND_PIECES]);
                hasher.write(&length.to_be_bytes());
                hasher.write(&hash.to_be_bytes());
            }
        }
        hasher.finish()
    }

    /// The pieces of the value, if it lies in any.
    pub(super) fn pieces(&self) -> Option<PieceSet> {
        match self.content {
            Content::Inline(_) => None,
            Content::Pieces { length, .. } => Some(PieceSet { origin: self.origin, length }),
        }
    }

    /// The pieces of `value`, if it lies in any, as items.
    pub(super) fn piece_items(&self, value: &Bytes) -> impl Iterator<Item = (Bytes, Option<Bytes>)> {
        let keys = self.pieces().into_iter().flat_map(|set| set.keys());
        keys.zip(value.chunks(VALUE_PIECE_SIZE)).map(|(key, bytes)| {
            let mut item = BytesMut::with_capacity(4 + bytes.len());
            item.put_u32(crc32c::crc32c_append(crc32c::crc32c(&key), bytes));
            item.put_slice(bytes);
            (key, Some(item.freeze()))
        })
    }

    fn length(&self) -> usize {
        match &self.content {
            Content::Inline(value) => value.len(),
            Content::Pieces { length, .. } => *length as usize,
        }
    }
}

/// The checksum of a row item: the key, the kind, and everything behind the checksum itself.
fn item_crc(key: &[u8], item: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(key), &item[1..2]);
    crc32c::crc32c_append(crc, &item[6..])
}

/// The pieces of one large value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PieceSet {
    pub(super) origin: Origin,
    /// The length of the value in bytes.
    pub(super) length: u32,
}

impl PieceSet {
    fn key(self, piece: u32) -> [u8; 17] {
        let mut key = [CLASS_PIECE; 17];
        key[1..9].copy_from_slice(&self.origin.index.to_be_bytes());
        key[9..13].copy_from_slice(&self.origin.n.to_be_bytes());
        key[13..].copy_from_slice(&piece.to_be_bytes());
        key
    }

    fn count(self) -> u32 {
        self.length.div_ceil(VALUE_PIECE_SIZE as u32)
    }

    /// The keys of all pieces.
    pub(super) fn keys(&self) -> impl Iterator<Item = Bytes> + use<> {
        let set = *self;
        (0..set.count()).map(move |piece| Bytes::copy_from_slice(&set.key(piece)))
    }
}

/// One generation of the state in the store.
#[derive(Clone)]
pub(super) struct Tree {
    store: Arc<dyn Store>,
    name: Arc<str>,
    pieces_name: Arc<str>,
    pub(super) generation: u64,
}

impl Tree {
    pub(super) fn new(store: Arc<dyn Store>, generation: u64) -> Self {
        let name = format!("{TREE_PREFIX}{generation}");
        let pieces_name = format!("{name}.pieces").into();
        Self { store, name: name.into(), pieces_name, generation }
    }

    /// Whether a tree of the store is part of this generation.
    pub(super) fn owns(&self, name: &str) -> bool {
        *self.name == *name || *self.pieces_name == *name
    }

    /// The state head of the last save, if there was one.
    pub(super) fn head(&self) -> io::Result<Option<StateHead>> {
        let damaged = |what: &str| damaged(&[CLASS_HEAD], what);
        let Some(item) = self.get(&[CLASS_HEAD])? else { return Ok(None) };
        let (&HEAD_VERSION, item) = item.split_first().ok_or_else(|| damaged("it is empty"))? else {
            return Err(damaged("its version is unknown"));
        };
        let (crc, head) = item.split_first_chunk().ok_or_else(|| damaged("it is too short"))?;
        if u32::from_be_bytes(*crc) != crc32c::crc32c(head) {
            return Err(damaged("checksum"));
        }
        StateHead::from_bytes(head).map(Some).map_err(|error| damaged(&error))
    }

    /// Removes all of it.
    pub(super) fn remove_all(&self) -> io::Result<()> {
        self.store.remove_range(&self.name, &[], None)?;
        self.store.remove_range(&self.pieces_name, &[], None)
    }

    /// The tree of the store that holds `key`.
    fn name_of(&self, key: &[u8]) -> &str {
        match key {
            [CLASS_PIECE, ..] => &self.pieces_name,
            _ => &self.name,
        }
    }

    pub(super) fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        self.store.get(self.name_of(key), key)
    }

    /// Sets and removes items, all of them or none.
    pub(super) fn write(&self, items: &Items) -> io::Result<()> {
        let mut changes = Vec::with_capacity(items.len());
        for (key, item) in items {
            let change = item.as_ref().map_or(Change::Remove(key), |item| Change::Insert(key, item));
            changes.push((self.name_of(key), change));
        }
        self.store.write(&changes)
    }

    /// The rows of a range that lies in one of the two trees.
    pub(super) fn range(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        limit: usize,
    ) -> io::Result<Vec<(Bytes, Bytes)>> {
        self.store.range(self.name_of(from), from, to, limit)
    }

    /// The value of a row.
    pub(super) fn value(&self, key: &[u8], row: &Row) -> io::Result<Bytes> {
        match &row.content {
            Content::Inline(value) => Ok(value.clone()),
            Content::Pieces { length, .. } => {
                self.read_pieces(key, PieceSet { origin: row.origin, length: *length })
            }
        }
    }

    /// The value that an item of this tree holds.
    pub(super) fn item_value(&self, key: &[u8], item: &Bytes) -> io::Result<Bytes> {
        self.value(key, &Row::decode(key, item)?)
    }

    fn read_pieces(&self, row_key: &[u8], set: PieceSet) -> io::Result<Bytes> {
        if set.length as usize > ROW_VALUE_SIZE_MAX {
            return Err(damaged(row_key, "value too long"));
        }
        let mut value = BytesMut::with_capacity(set.length as usize);
        for piece in 0..set.count() {
            let key = set.key(piece);
            let item = self.get(&key)?.ok_or_else(|| damaged(row_key, "a piece is missing"))?;
            let Some((crc, bytes)) = item.split_first_chunk() else {
                return Err(damaged(row_key, "a piece is too short"));
            };
            if u32::from_be_bytes(*crc) != crc32c::crc32c_append(crc32c::crc32c(&key), bytes) {
                return Err(damaged(row_key, "checksum of a piece"));
            }
            value.extend_from_slice(bytes);
        }
        if value.len() != set.length as usize {
            return Err(damaged(row_key, "length of the pieces"));
        }
        Ok(value.freeze())
    }

    /// Up to `limit` rows of this tree with `layer` laid over it: a key in `layer` has the value that `value` says, whatever
    /// the tree holds. Ascending.
    pub(super) fn layered<T>(
        &self,
        layer: &BTreeMap<Bytes, T>,
        value: impl Fn(&T) -> Option<Bytes>,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> io::Result<Vec<(Bytes, Bytes)>> {
        let mut found = Vec::new();
        if from >= to {
            return Ok(found);
        }
        let mut over = layer.range(Bytes::copy_from_slice(from)..Bytes::copy_from_slice(to)).peekable();
        let mut next = Bytes::copy_from_slice(from);
        loop {
            let asked = BATCH_ROWS.min(limit.saturating_add(1));
            let batch = self.range(&next, Some(to), asked)?;
            let last = (batch.len() == asked).then(|| batch.last().map(|(key, _)| key.clone())).flatten();
            for (key, item) in batch {
                while let Some((over_key, entry)) = over.next_if(|(over_key, _)| **over_key < key) {
                    if found.len() < limit
                        && let Some(value) = value(entry)
                    {
                        found.push((over_key.clone(), value));
                    }
                }
                if found.len() >= limit {
                    return Ok(found);
                }
                if over.peek().is_none_or(|(over_key, _)| **over_key != key) {
                    let value = self.item_value(&key, &item)?;
                    found.push((key, value));
                }
            }
            let Some(last) = last else { break };
            next = successor(&last);
        }
        for (over_key, entry) in over {
            if found.len() >= limit {
                break;
            }
            if let Some(value) = value(entry) {
                found.push((over_key.clone(), value));
            }
        }
        Ok(found)
    }
}

/// All trees of states begin so; the generation follows.
pub(super) const TREE_PREFIX: &str = "sm.";

/// The first key after `key`.
pub(super) fn successor(key: &[u8]) -> Bytes {
    [key, &[0]].concat().into()
}

/// The key of the machine's row `key` in the tree.
pub(super) fn user_key(key: &[u8]) -> Bytes {
    [&[CLASS_USER], key].concat().into()
}

/// The error for a damaged row.
pub(super) fn damaged(key: &[u8], what: &str) -> io::Error {
    let shown = &key[..key.len().min(64)];
    io::Error::new(io::ErrorKind::InvalidData, format!("damaged row {}: {what}", shown.escape_ascii()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_of_a_row_item_is_seen() {
        let key = b"\x00key";
        for value in [Bytes::from_static(b"value"), Bytes::new(), Bytes::from(vec![7; VALUE_PIECE_SIZE + 1])]
        {
            let row = Row::of(Origin { index: 9, n: 3 }, &value);
            let item = row.encode(key);
            assert_eq!(Row::decode(key, &item).unwrap(), row);
            assert!(Row::decode(b"\x00kez", &item).is_err(), "an item under another key");
            for bit in 0..item.len() * 8 {
                let mut broken = item.to_vec();
                broken[bit / 8] ^= 1 << (bit % 8);
                let error = Row::decode(key, &broken.into()).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::InvalidData);
                assert!(error.to_string().contains("\\x00key"), "{error}");
            }
            for length in 0..item.len() {
                assert!(Row::decode(key, &item.slice(..length)).is_err());
            }
        }
    }

    #[test]
    fn a_row_item_is_pinned() {
        let row = Row::of(Origin { index: 1, n: 2 }, &Bytes::from_static(b"v"));
        let item = row.encode(b"k");
        assert_eq!(&item[..2], [1, 0]);
        assert_eq!(&item[6..], b"\0\0\0\0\0\0\0\x01\0\0\0\x02v");
    }
}
