//! Replicated values that merge: copies that were changed apart become the same when they meet, in whatever order.
//!
//! | type | holds | two copies merge to |
//! | --- | --- | --- |
//! | [`GSet`] | a set that only grows | the union |
//! | [`Lww`] | one value, the last write wins | the value with the later [`Stamp`] |
//! | [`LwwMap`] | values by key, removable | for each key the later write, a removal being one |
//!
//! A merge ([`Crdt`]) is the least upper bound in a partial order, hence associative, commutative and idempotent: an
//! exchange may be lost, repeated or reordered and does no harm. To send only what differs, a map gives a
//! [digest](LwwMap::digest), its [stamps](LwwMap::stamps) and the [part](LwwMap::newer_than) that another copy lacks; a
//! part is a map like any other.
//!
//! **Why a hybrid clock.** A write must win over all writes that its writer had seen. A wall clock alone does not give
//! that (it may have been set back in between), a counter alone does not tell the later of two writers who do not know
//! each other. A [`HybridClock`] is the wall clock that never goes below what it has seen, and counts where the wall
//! stands still: Kulkarni, Demirbas et al., "Logical Physical Clocks" (2014).
//!
//! **What a clock that is far ahead can do.** Its stamps win until the others' clocks get there, and whoever sees them
//! continues from them. So [`HybridClock::observe`] refuses stamps more than a bound ahead of the wall clock that it is
//! handed: a bad clock wins by at most that bound, and nobody's clock can be driven to its end.
//!
//! These types have no limits of their own, because a merge that leaves something out is none. Who takes copies from a
//! network checks their size first, as [`crate::gossip`] does.

mod clock;
mod lww;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

pub use self::clock::{FarAhead, HybridClock, Stamp};
pub(crate) use self::lww::bucket;
pub use self::lww::{Lww, LwwMap};

/// A value whose copies merge.
///
/// For all copies `a`, `b`, `c`: merging `b` into `a` equals merging `a` into `b`; merging `b` merged with `c` into `a`
/// equals merging `c` into `a` merged with `b`; merging `a` into `a` changes nothing.
pub trait Crdt {
    /// Takes in another copy. True if this changed anything here.
    fn merge(&mut self, other: Self) -> bool;
}

/// A set that only grows.
///
/// ```
/// use rpc_core::crdt::{Crdt, GSet};
///
/// let mut here: GSet<&str> = ["a", "b"].into_iter().collect();
/// assert!(here.merge(["b", "c"].into_iter().collect()));
/// assert!(here.iter().eq(&["a", "b", "c"]));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GSet<T: Ord>(BTreeSet<T>);

impl<T: Ord> GSet<T> {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a member; false if it was one.
    pub fn insert(&mut self, member: T) -> bool {
        self.0.insert(member)
    }

    /// Whether `member` is in the set.
    pub fn contains(&self, member: &T) -> bool {
        self.0.contains(member)
    }

    /// The members, ascending.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &T> {
        self.0.iter()
    }

    /// The members that `other` lacks: what to send to it.
    pub fn newer_than(&self, other: &Self) -> Self
    where
        T: Clone,
    {
        self.0.difference(&other.0).cloned().collect()
    }
}

impl<T: Ord> Crdt for GSet<T> {
    fn merge(&mut self, mut other: Self) -> bool {
        let before = self.0.len();
        self.0.append(&mut other.0);
        self.0.len() > before
    }
}

impl<T: Ord> Default for GSet<T> {
    fn default() -> Self {
        Self(BTreeSet::new())
    }
}

impl<T: Ord> FromIterator<T> for GSet<T> {
    fn from_iter<I: IntoIterator<Item = T>>(members: I) -> Self {
        Self(members.into_iter().collect())
    }
}

#[cfg(test)]
mod tests;
