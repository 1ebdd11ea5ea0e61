//! Operations that the database does not hold yet: how they are written down, and what they add up to.
//!
//! ```text
//! kind u8 | tree length u8 | tree |                                                big-endian
//!   0 insert: | key length u16 | key | value length u32 | value |
//!   1 remove: | key length u16 | key |
//!   2 remove range: | first key length u16 | first key | end length u16 | end |       no end: length 0
//! ```

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;

use super::super::{Change, take_range};
use super::ranges::Ranges;

const INSERT: u8 = 0;
const REMOVE: u8 = 1;
const REMOVE_RANGE: u8 = 2;

impl Change<'_> {
    /// Writes it as a change of `tree` behind what is in `buffer`. Names of trees have at most 255 bytes, keys 64 KiB - 1.
    pub(super) fn encode(&self, tree: &str, buffer: &mut Vec<u8>) -> io::Result<()> {
        let too_long =
            |_| io::Error::new(io::ErrorKind::InvalidInput, format!("a name in tree {tree} is too long"));
        let kind = match self {
            Self::Insert(..) => INSERT,
            Self::Remove(_) => REMOVE,
            Self::RemoveRange(..) => REMOVE_RANGE,
        };
        buffer.extend([kind, u8::try_from(tree.len()).map_err(too_long)?]);
        buffer.extend(tree.as_bytes());
        let put_key = |key: &[u8], buffer: &mut Vec<u8>| {
            buffer.extend(u16::try_from(key.len()).map_err(too_long)?.to_be_bytes());
            buffer.extend(key);
            Ok::<_, io::Error>(())
        };
        match *self {
            Self::Insert(key, value) => {
                put_key(key, buffer)?;
                buffer.extend(u32::try_from(value.len()).map_err(too_long)?.to_be_bytes());
                buffer.extend(value);
            }
            Self::Remove(key) => put_key(key, buffer)?,
            Self::RemoveRange(from, to) => {
                put_key(from, buffer)?;
                put_key(to.unwrap_or_default(), buffer)?;
            }
        }
        Ok(())
    }

    /// Takes the next change from the front of `bytes`: the tree, and the change. `None`: these are no changes.
    fn decode<'a>(bytes: &mut &'a [u8]) -> Option<(&'a str, Change<'a>)> {
        let [kind, tree_length] = *bytes.split_off(..2)?.first_chunk()?;
        let tree = std::str::from_utf8(bytes.split_off(..usize::from(tree_length))?).ok()?;
        let take_key = |bytes: &mut &'a [u8]| {
            let length = u16::from_be_bytes(*bytes.split_off(..2)?.first_chunk()?);
            bytes.split_off(..usize::from(length))
        };
        let key = take_key(bytes)?;
        let change = match kind {
            INSERT => {
                let length = u32::from_be_bytes(*bytes.split_off(..4)?.first_chunk()?);
                Change::Insert(key, bytes.split_off(..length as usize)?)
            }
            REMOVE => Change::Remove(key),
            REMOVE_RANGE => {
                Change::RemoveRange(key, take_key(bytes).map(|to| (!to.is_empty()).then_some(to))?)
            }
            _ => return None,
        };
        Some((tree, change))
    }
}

/// What a series of changes adds up to.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// By name.
    pub(super) trees: BTreeMap<String, Tree>,
}

/// What became of one tree.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// What was there before these changes is gone.
    pub(super) removed: Ranges,
    /// Keys with their values; `None`: removed. They are newer than the removed ranges.
    pub(super) items: BTreeMap<Bytes, Option<Bytes>>,
}

impl Memory {
    /// Applies one change.
    pub(super) fn apply(&mut self, name: &str, change: Change<'_>) {
        // Not `entry`: it would copy the name each time.
        if !self.trees.contains_key(name) {
            self.trees.insert(name.to_owned(), Tree::default());
        }
        let Some(tree) = self.trees.get_mut(name) else { return };
        let (key, value) = match change {
            Change::Insert(key, value) => (key, Some(Bytes::copy_from_slice(value))),
            Change::Remove(key) => (key, None),
            Change::RemoveRange(from, to) => {
                // What comes and goes between two saves never reaches the database.
                take_range(&mut tree.items, from, to);
                tree.removed.add(from, to);
                return;
            }
        };
        match tree.items.get_mut(key) {
            Some(known) => *known = value,
            None => drop(tree.items.insert(Bytes::copy_from_slice(key), value)),
        }
    }

    /// Applies the changes of a group.
    ///
    /// # Errors
    /// `InvalidData` if they are none.
    pub(super) fn apply_all(&mut self, mut changes: &[u8]) -> io::Result<()> {
        while !changes.is_empty() {
            let unreadable =
                || io::Error::new(io::ErrorKind::InvalidData, "a group of the journal holds no changes");
            let (tree, change) = Change::decode(&mut changes).ok_or_else(unreadable)?;
            self.apply(tree, change);
        }
        Ok(())
    }
}
