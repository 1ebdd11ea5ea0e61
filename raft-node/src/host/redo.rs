//! The redo record: what makes a save atomic without batches.
//!
//! It holds every effect of one save and the state head then, and is written by a single insert before the plain
//! inserts and removes. A crash keeps a prefix of all operations; so on opening, the effects of the redo record that is
//! found are put again, and the state is exactly that of its save.
//! ```text
//! 0x02                            version u8 = 1 | crc32c u32 of all that follows | kind u8
//!                                 kind 0: payload     kind 1: slot u8 | pieces u32 | length u32 | crc32c u32 of the payload
//! 0x02 | slot u8 | piece u32      a piece of a payload that is too large for one item
//! ```
//! Pieces are written before the head that names them. Two slots take turns: the pieces of the save before stay whole
//! until the new head has replaced the one that names them.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::row::{CLASS_REDO, Origin, PieceSet, Tree, damaged};
use crate::disk::PIECE_SIZE_MAX;
use crate::state_head::StateHead;

/// What one save does.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Redo {
    /// The state head of the save.
    pub(super) head: StateHead,
    /// Row items to set, or rows to remove.
    pub(super) effects: Vec<(Bytes, Option<Bytes>)>,
    /// Pieces of values that were replaced or removed: (log index, n, length).
    dropped: Vec<(u64, u32, u32)>,
}

impl Redo {
    pub(super) fn new(head: StateHead, effects: Vec<(Bytes, Option<Bytes>)>, dropped: &[PieceSet]) -> Self {
        let dropped = dropped.iter().map(|set| (set.origin.index, set.origin.n, set.length)).collect();
        Self { head, effects, dropped }
    }

    /// Makes this save the one that opening finds. `slot` must alternate from save to save.
    pub(super) fn write(&self, tree: &Tree, slot: u8) -> io::Result<()> {
        let mut payload = Vec::with_capacity(512);
        ciborium::into_writer(self, &mut payload).map_err(io::Error::other)?;
        let mut body = BytesMut::with_capacity(32);
        if payload.len() <= PIECE_SIZE_MAX - HEADER_SIZE {
            body.put_u8(0);
            body.put_slice(&payload);
        } else {
            let mut pieces = 0;
            for bytes in payload.chunks(PIECE_SIZE_MAX) {
                tree.insert(&piece_key(slot, pieces), bytes)?;
                pieces += 1;
            }
            let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
            body.put_u8(1);
            body.put_u8(slot);
            body.put_u32(pieces);
            body.put_u32(length);
            body.put_u32(crc32c::crc32c(&payload));
        }
        let mut item = BytesMut::with_capacity(5 + body.len());
        item.put_u8(VERSION);
        item.put_u32(crc32c::crc32c(&body));
        item.put_slice(&body);
        tree.insert(&[CLASS_REDO], &item)
    }

    /// The redo record of the last save and its slot, if there was one.
    pub(super) fn read(tree: &Tree) -> io::Result<Option<(Self, u8)>> {
        let damaged = |what: &str| damaged(&[CLASS_REDO], what);
        let Some(mut item) = tree.get(&[CLASS_REDO])? else { return Ok(None) };
        if item.len() < 6 || item.get_u8() != VERSION {
            return Err(damaged("unknown version"));
        }
        if item.get_u32() != crc32c::crc32c(&item) {
            return Err(damaged("checksum"));
        }
        let (payload, slot) = match item.get_u8() {
            0 => (item, 0),
            1 if item.len() == 13 => {
                let (slot, pieces) = (item.get_u8(), item.get_u32());
                let (length, crc) = (item.get_u32(), item.get_u32());
                let mut payload = BytesMut::new();
                for piece in 0..pieces {
                    let bytes =
                        tree.get(&piece_key(slot, piece))?.ok_or_else(|| damaged("a piece is missing"))?;
                    payload.put_slice(&bytes);
                }
                if payload.len() != length as usize || crc32c::crc32c(&payload) != crc {
                    return Err(damaged("checksum of the pieces"));
                }
                (payload.freeze(), slot)
            }
            _ => return Err(damaged("unknown kind")),
        };
        let redo = ciborium::from_reader(payload.as_ref()).map_err(|error| damaged(&error.to_string()))?;
        Ok(Some((redo, slot)))
    }

    /// Puts the effects again: what of them is there already is put once more, which changes nothing.
    pub(super) fn replay(&self, tree: &Tree) -> io::Result<()> {
        for (key, item) in &self.effects {
            match item {
                Some(item) => tree.insert(key, item)?,
                None => tree.remove(key)?,
            }
        }
        for &(index, n, length) in &self.dropped {
            tree.remove_pieces(PieceSet { origin: Origin { index, n }, length })?;
        }
        tree.remove_pieces_after(self.head.last_applied.map(|id| id.index))
    }
}

fn piece_key(slot: u8, piece: u32) -> [u8; 6] {
    let [a, b, c, d] = piece.to_be_bytes();
    [CLASS_REDO, slot, a, b, c, d]
}

const VERSION: u8 = 1;
/// Version, checksum, kind.
const HEADER_SIZE: usize = 1 + 4 + 1;
