//! The last write wins: one value, and values by key.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Crdt, Stamp};

/// One value of which the latest write stays. Of two writes with one stamp, which only a liar makes, the greater value
/// stays, so that all copies agree nevertheless.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Lww<T> {
    // The order of the fields is the order that `merge` goes by.
    stamp: Stamp,
    value: T,
}

impl<T> Lww<T> {
    /// `value`, written at `stamp`.
    pub const fn new(stamp: Stamp, value: T) -> Self {
        Self { stamp, value }
    }

    /// When the value was written.
    pub const fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// The value.
    pub const fn value(&self) -> &T {
        &self.value
    }
}

impl<T: Ord> Crdt for Lww<T> {
    fn merge(&mut self, other: Self) -> bool {
        let later = other > *self;
        if later {
            *self = other;
        }
        later
    }
}

/// Values by key. A removal is a write of nothing (a tombstone), which stays until it is [purged](LwwMap::forget), so
/// that an older copy of the value does not bring it back.
///
/// ```
/// use rpc_core::crdt::{Crdt, HybridClock, LwwMap};
///
/// let (mut anna, mut ben) = (HybridClock::new(1), HybridClock::new(2));
/// let mut here = LwwMap::new();
/// here.write("door", anna.tick(1_000), Some("open"));
/// let mut there = here.clone();
/// there.write("door", ben.tick(1_001), None);
/// assert!(here.merge(there));
/// assert_eq!(here.get(&"door"), None);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LwwMap<K: Ord, V>(BTreeMap<K, Lww<Option<V>>>);

impl<K: Ord, V> LwwMap<K, V> {
    /// The empty map.
    pub fn new() -> Self {
        Self::default()
    }

    /// The value of `key`; `None` if there is none or it was removed.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.0.get(key)?.value.as_ref()
    }

    /// The last write to `key`, a removal too.
    pub fn entry(&self, key: &K) -> Option<&Lww<Option<V>>> {
        self.0.get(key)
    }

    /// Keys and values, ascending, without what was removed.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.iter().filter_map(|(key, entry)| Some((key, entry.value.as_ref()?)))
    }

    /// The last write to each key, ascending, with removals.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = (&K, &Lww<Option<V>>)> {
        self.0.iter()
    }

    /// When each key was written last: what another copy must know to send only what is missing here.
    pub fn stamps(&self) -> impl ExactSizeIterator<Item = (&K, Stamp)> {
        self.0.iter().map(|(key, entry)| (key, entry.stamp))
    }

    /// What is written here later than `known` says, or that it does not name.
    pub fn newer_than(&self, known: &BTreeMap<K, Stamp>) -> Self
    where
        K: Clone,
        V: Clone,
    {
        let newer = |key: &K, entry: &Lww<_>| known.get(key).is_none_or(|stamp| entry.stamp > *stamp);
        let entries = self.0.iter().filter(|(key, entry)| newer(key, entry));
        Self(entries.map(|(key, entry)| (key.clone(), entry.clone())).collect())
    }

    /// Drops all memory of `key`: an older copy elsewhere can bring it back.
    pub fn forget(&mut self, key: &K) {
        self.0.remove(key);
    }

    /// Hashes of the map in `count` buckets, each over the keys whose `number` modulo `count` is its position: FNV-1a
    /// (64 bits) over `number u64 | wall_ms u64 | counter u32 | writer u64` for each key, ascending. Two copies are
    /// equal in a bucket whose hashes agree; `number` must differ between keys.
    pub fn digest(&self, count: usize, number: impl Fn(&K) -> u64) -> Vec<u64> {
        let mut buckets = vec![FNV_OFFSET; count.max(1)];
        for (key, stamp) in self.stamps() {
            let number = number(key);
            let bucket = bucket(number, buckets.len());
            let words = [number, stamp.wall_ms].map(u64::to_be_bytes).into_iter().flatten();
            let bytes = words.chain(stamp.counter.to_be_bytes()).chain(stamp.writer.to_be_bytes());
            buckets[bucket] = bytes.fold(buckets[bucket], fnv1a);
        }
        buckets
    }
}

impl<K: Ord, V: Ord> LwwMap<K, V> {
    /// Writes `value` to `key`, or removes it. False if a later write is here already.
    pub fn write(&mut self, key: K, stamp: Stamp, value: Option<V>) -> bool {
        let write = Lww::new(stamp, value);
        match self.0.get_mut(&key) {
            Some(entry) => entry.merge(write),
            None => self.0.insert(key, write).is_none(),
        }
    }
}

impl<K: Ord, V: Ord> Crdt for LwwMap<K, V> {
    fn merge(&mut self, other: Self) -> bool {
        let mut changed = false;
        for (key, Lww { stamp, value }) in other.0 {
            changed |= self.write(key, stamp, value);
        }
        changed
    }
}

impl<K: Ord, V> Default for LwwMap<K, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

/// The bucket of a key's number.
pub(crate) const fn bucket(number: u64, count: usize) -> usize {
    (number % count as u64) as usize
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

const fn fnv1a(hash: u64, byte: u8) -> u64 {
    (hash ^ byte as u64).wrapping_mul(FNV_PRIME)
}
