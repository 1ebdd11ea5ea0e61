//! Operations that the database does not hold yet: how they are written down, and what they add up to.
//!
//! ```text
//! kind u8 | tree length u8 | tree |                                                big-endian
//!   0 insert: | key length u16 | key | value length u32 | value |
//!   1 remove: | key length u16 | key |
//!   2 the whole tree is dropped
//! ```

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;

const INSERT: u8 = 0;
const REMOVE: u8 = 1;
const DROP: u8 = 2;

/// One change of one tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change<'a> {
    /// A key gets a value.
    Insert(&'a [u8], &'a [u8]),
    /// A key is removed.
    Remove(&'a [u8]),
    /// All keys are removed.
    Drop,
}

impl Change<'_> {
    /// Writes the change of `tree` behind what is in `buffer`. Names of trees have at most 255 bytes, keys 64 KiB - 1.
    pub(super) fn encode(&self, tree: &str, buffer: &mut Vec<u8>) -> io::Result<()> {
        let too_long =
            |_| io::Error::new(io::ErrorKind::InvalidInput, format!("a name in tree {tree} is too long"));
        let (kind, key, value) = match *self {
            Self::Insert(key, value) => (INSERT, Some(key), Some(value)),
            Self::Remove(key) => (REMOVE, Some(key), None),
            Self::Drop => (DROP, None, None),
        };
        let tree_length = u8::try_from(tree.len()).map_err(too_long)?;
        let key_length = u16::try_from(key.map_or(0, <[u8]>::len)).map_err(too_long)?;
        let value_length = u32::try_from(value.map_or(0, <[u8]>::len)).map_err(too_long)?;
        buffer.extend([kind, tree_length]);
        buffer.extend(tree.as_bytes());
        if let Some(key) = key {
            buffer.extend(key_length.to_be_bytes());
            buffer.extend(key);
        }
        if let Some(value) = value {
            buffer.extend(value_length.to_be_bytes());
            buffer.extend(value);
        }
        Ok(())
    }

    /// Takes the next change from the front of `bytes`: the tree, and the change. `None`: these are no changes.
    fn decode<'a>(bytes: &mut &'a [u8]) -> Option<(&'a str, Change<'a>)> {
        let [kind, tree_length] = *bytes.split_off(..2)?.first_chunk()?;
        let tree = std::str::from_utf8(bytes.split_off(..usize::from(tree_length))?).ok()?;
        if kind == DROP {
            return Some((tree, Change::Drop));
        }
        let key_length = u16::from_be_bytes(*bytes.split_off(..2)?.first_chunk()?);
        let key = bytes.split_off(..usize::from(key_length))?;
        if kind == REMOVE {
            return Some((tree, Change::Remove(key)));
        }
        let value_length = u32::from_be_bytes(*bytes.split_off(..4)?.first_chunk()?);
        let value = bytes.split_off(..value_length as usize)?;
        (kind == INSERT).then_some((tree, Change::Insert(key, value)))
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
    pub(super) is_dropped: bool,
    /// Keys with their values; `None`: removed.
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
            Change::Drop => {
                *tree = Tree { is_dropped: true, items: BTreeMap::new() };
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
