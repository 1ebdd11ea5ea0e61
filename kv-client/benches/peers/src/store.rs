//! What the load needs of a store, whoever made it: one implementation for each contestant, beside how it is started.

use std::ops::Range;

use anyhow::Result;
use async_trait::async_trait;
use bytes::Bytes;

/// A cluster of one contestant, as its clients see it.
#[async_trait]
pub trait Store: Send + Sync {
    /// Makes what must be there before the first put: a bucket, a parent. May be repeated.
    async fn prepare(&self) -> Result<()> {
        Ok(())
    }

    /// The node that leads, counted from 0. Nodes that are dead or stopped are passed over.
    async fn leader(&self) -> Result<usize>;

    /// A client with a connection of its own.
    async fn connect(&self, to: Target) -> Result<Box<dyn Session>>;
}

/// Which node a client speaks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The one that leads. A client library that finds it by itself is left to do so.
    Leader,
    /// This one, counted from 0, whoever leads.
    Node(usize),
}

/// One client: it asks again when it has its answer.
#[async_trait]
pub trait Session: Send {
    /// Sets a key. Returns once the store says that it is committed.
    async fn put(&mut self, key: &str, value: Bytes) -> Result<()>;

    /// Reads a key, as strongly as the store can.
    async fn get(&mut self, key: &str) -> Result<Option<Found>>;

    /// Sets a key if it is at that version. The new version, or `None` if it was at another one.
    async fn cas(&mut self, key: &str, expected: &Version, value: Bytes) -> Result<Option<Version>>;

    /// Fills keys that nobody reads yet, in whatever way is fastest.
    async fn fill(&mut self, keys: Range<u64>, size: usize) -> Result<()> {
        for index in keys {
            let key = key(index);
            let value = value(&key, size, index);
            self.put(&key, value).await?;
        }
        Ok(())
    }

    /// Says goodbye, where a server would remember the client for long.
    async fn close(self: Box<Self>) {}
}

/// A value and its version.
#[derive(Clone, Debug)]
pub struct Found {
    pub value: Bytes,
    pub version: Version,
}

/// What a compare-and-set compares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Version {
    /// The number that the last write of the key got.
    Number(u64),
    /// The value itself, of stores that count nothing.
    Value(Bytes),
}

impl Version {
    /// The number of a store that counts.
    pub fn number(&self) -> Result<u64> {
        match self {
            Self::Number(number) => Ok(*number),
            Self::Value(_) => anyhow::bail!("a version of another store"),
        }
    }
}

/// How many values of this size go into one request, `most` at most: none of the stores takes a megabyte and a half.
pub fn batch(size: usize, most: u64) -> u64 {
    (BATCH_BYTES / (size as u64 + 100)).clamp(1, most)
}

/// The key of this number.
pub fn key(index: u64) -> String {
    format!("k{index:08}")
}

/// A value of this size that tells its key and its writer, so that a wrong answer shows. `salt` makes two values of one
/// key differ.
pub fn value(key: &str, size: usize, salt: u64) -> Bytes {
    let mut bytes = Vec::with_capacity(size);
    bytes.extend_from_slice(&key.as_bytes()[..key.len().min(size)]);
    let mut word = salt;
    while bytes.len() < size {
        // SplitMix64 (Steele, Lea, Flood 2014): no store shall win by compressing.
        word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let mixed = (mixed ^ (mixed >> 31)).to_le_bytes();
        bytes.extend_from_slice(&mixed[..mixed.len().min(size - bytes.len())]);
    }
    bytes.into()
}

/// Whether a read of `key` may have answered this.
pub fn is_value_of(key: &str, size: usize, found: &[u8]) -> bool {
    let named = key.len().min(size);
    found.len() == size && found[..named] == key.as_bytes()[..named]
}

/// Bytes of a batch, about 100 for each key and its frame included.
const BATCH_BYTES: u64 = 500_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_tell_their_key() {
        for size in [0, 1, 9, 256, 1_000] {
            let value = value(&key(7), size, 3);
            assert_eq!(value.len(), size);
            assert!(is_value_of(&key(7), size, &value));
            assert!(!is_value_of(&key(7), size + 1, &value));
        }
        assert!(!is_value_of(&key(8), 256, &value(&key(7), 256, 3)));
        assert_ne!(value(&key(7), 256, 3), value(&key(7), 256, 4));
    }
}
