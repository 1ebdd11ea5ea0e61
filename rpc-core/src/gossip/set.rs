//! One node's copy of the set: the merged map, the ages of its entries, and its limits. Reads no clock.

use std::collections::BTreeMap;
use std::time::Duration;

use super::contract::{
    Advertisement, BUCKETS, Difference, Digest, ENTRIES_MAX, Entry, NODES_MAX, News, NodeId, Reason, Refusal,
    TOMBSTONES_MAX,
};
use crate::crdt::{HybridClock, LwwMap, Stamp, bucket};
use crate::runtime::Instant;

/// An entry that was written by a clock further ahead than this is refused. Clocks only order the entries of one node,
/// which are its own, so the bound may be wide; without it, somebody who lies about a node could leave it no later
/// stamp to outbid the lie with.
pub const AHEAD_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Now, by both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) now: Instant,
    pub(super) wall_ms: u64,
}

/// One node's copy of the set.
#[derive(Debug)]
pub(super) struct EndpointSet {
    own: NodeId,
    clock: HybridClock,
    map: LwwMap<NodeId, Advertisement>,
    /// When each entry is forgotten unless it is written anew.
    until: BTreeMap<NodeId, Instant>,
    tombstones: usize,
    silent: Duration,
    tombstones_kept: Duration,
}

/// What came of another node's entries.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// The known nodes are others now, or say other things.
    pub(super) changed: bool,
    /// Somebody wrote this node's own entry: it must be written anew.
    pub(super) contested: bool,
    pub(super) refused: Vec<Refusal>,
}

impl EndpointSet {
    pub(super) fn new(own: NodeId, silent: Duration, tombstones_kept: Duration) -> Self {
        Self {
            own,
            clock: HybridClock::new(own.0),
            map: LwwMap::new(),
            until: BTreeMap::new(),
            tombstones: 0,
            silent,
            tombstones_kept,
        }
    }

    pub(super) const fn own(&self) -> NodeId {
        self.own
    }

    /// The nodes that did not leave.
    pub(super) fn known(&self) -> impl Iterator<Item = (NodeId, &Advertisement)> {
        self.map.iter().map(|(node, advertisement)| (*node, advertisement))
    }

    pub(super) fn find(&self, node: NodeId) -> Option<&Advertisement> {
        self.map.get(&node)
    }

    /// Writes this node's own entry anew; `None` when it left. True if it says something else now.
    pub(super) fn write_own(&mut self, moment: Moment, own: Option<Advertisement>) -> bool {
        let changed = self.map.get(&self.own) != own.as_ref();
        let stamp = self.clock.tick(moment.wall_ms);
        self.write(self.own, stamp, own, moment.now, Duration::ZERO);
        changed
    }

    /// The time since the own entry was written.
    pub(super) fn own_age(&self, moment: Moment) -> Duration {
        self.age(self.own, moment.now)
    }

    /// Forgets the nodes that were silent for too long and the tombstones that are too old. True if nodes went.
    pub(super) fn expire(&mut self, moment: Moment) -> bool {
        let due = |node: &NodeId, until: &Instant| *until <= moment.now && *node != self.own;
        let due: Vec<_> =
            self.until.iter().filter(|(node, until)| due(node, until)).map(|entry| *entry.0).collect();
        let mut changed = false;
        for node in due {
            changed |= self.forget(node);
        }
        changed
    }

    pub(super) fn digest(&self) -> Digest {
        Digest { buckets: self.map.digest(BUCKETS, |node| node.0) }
    }

    /// What is here in the buckets in which `digest` differs. A digest of another length differs in all.
    pub(super) fn difference(&self, digest: &Digest) -> Difference {
        let Digest { buckets: own } = self.digest();
        let comparable = digest.buckets.len() == own.len();
        let differs = |index: &usize| !comparable || own[*index] != digest.buckets[*index];
        let buckets: Vec<_> = (0..own.len()).filter(differs).map(|index| index as u32).collect();
        let stamps = self.map.stamps().map(|(node, stamp)| (*node, stamp));
        let stamps = stamps.filter(|(node, _)| buckets.contains(&bucket_of(*node))).collect();
        Difference { buckets, stamps }
    }

    /// What the sender of `difference` lacks and what it has to offer, each up to the limit of one exchange; and
    /// whether there is more.
    pub(super) fn news(&self, moment: Moment, difference: &Difference) -> (News, bool) {
        let theirs: BTreeMap<_, _> = difference.stamps.iter().copied().collect();
        let newer = self.map.newer_than(&theirs);
        let lacking = newer.stamps().map(|(node, _)| *node);
        let lacking: Vec<_> = lacking.filter(|node| difference.buckets.contains(&bucket_of(*node))).collect();
        let offered =
            |node: &NodeId, stamp: &Stamp| self.map.entry(node).is_none_or(|own| own.stamp() < *stamp);
        let wanted: Vec<_> =
            theirs.iter().filter(|(node, stamp)| offered(node, stamp)).map(|(node, _)| *node).collect();
        let more = lacking.len().max(wanted.len()) > ENTRIES_MAX;
        let entries = self.entries(moment, &lacking);
        (News { entries, wanted: wanted.into_iter().take(ENTRIES_MAX).collect() }, more)
    }

    /// The entries of `nodes`, as far as they are known, up to the limit of one exchange.
    pub(super) fn entries(&self, moment: Moment, nodes: &[NodeId]) -> Vec<Entry> {
        let entry = |node: &NodeId| {
            let entry = self.map.entry(node)?;
            let age_ms = u64::try_from(self.age(*node, moment.now).as_millis()).unwrap_or(u64::MAX);
            Some(Entry { node: *node, stamp: entry.stamp(), age_ms, advertisement: entry.value().clone() })
        };
        nodes.iter().filter_map(entry).take(ENTRIES_MAX).collect()
    }

    /// Merges another node's entries.
    pub(super) fn take(&mut self, moment: Moment, entries: Vec<Entry>) -> Taken {
        let mut taken = Taken::default();
        for entry in entries {
            let node = entry.node;
            match self.take_one(moment, entry, &mut taken) {
                Ok(changed) => taken.changed |= changed,
                Err(reason) => taken.refused.push(Refusal { node, reason }),
            }
        }
        taken
    }

    fn take_one(&mut self, moment: Moment, entry: Entry, taken: &mut Taken) -> Result<bool, Reason> {
        let Entry { node, stamp, age_ms, advertisement } = entry;
        if let Some(advertisement) = &advertisement {
            advertisement.check()?;
        }
        if self.map.entry(&node).is_some_and(|own| own.stamp() >= stamp) {
            return Ok(false);
        }
        if node == self.own {
            self.clock.observe(stamp, moment.wall_ms, AHEAD_MAX).map_err(|_| Reason::FarAhead)?;
            taken.contested = true;
            return Ok(false);
        }
        // Only looked at, not observed: no other node's stamps need to be outbid by ours.
        self.clock.clone().observe(stamp, moment.wall_ms, AHEAD_MAX).map_err(|_| Reason::FarAhead)?;
        let age = Duration::from_millis(age_ms);
        if age >= self.kept(advertisement.is_none()) {
            // Nobody keeps it any more, or will not for long.
            return Ok(false);
        }
        let before = self.map.get(&node);
        let nodes = self.map.entries().len() - self.tombstones;
        if advertisement.is_some() && before.is_none() && nodes >= NODES_MAX {
            return Err(Reason::TooManyNodes);
        }
        let changed = before != advertisement.as_ref();
        self.write(node, stamp, advertisement, moment.now, age);
        Ok(changed)
    }

    fn write(
        &mut self,
        node: NodeId,
        stamp: Stamp,
        value: Option<Advertisement>,
        now: Instant,
        age: Duration,
    ) {
        let was_tombstone = self.is_tombstone(node);
        let is_tombstone = value.is_none();
        self.map.write(node, stamp, value);
        self.until.insert(node, now + self.kept(is_tombstone).saturating_sub(age));
        self.tombstones += usize::from(is_tombstone);
        self.tombstones -= usize::from(was_tombstone);
        if self.tombstones > TOMBSTONES_MAX {
            let tombstones =
                self.until.iter().filter(|(node, _)| self.is_tombstone(**node) && **node != self.own);
            let oldest = tombstones.min_by_key(|(_, until)| **until).map(|(node, _)| *node);
            oldest.map(|node| self.forget(node));
        }
    }

    /// True if it was a node and no tombstone.
    fn forget(&mut self, node: NodeId) -> bool {
        let was_tombstone = self.is_tombstone(node);
        self.tombstones -= usize::from(was_tombstone);
        self.map.forget(&node);
        self.until.remove(&node);
        !was_tombstone
    }

    fn is_tombstone(&self, node: NodeId) -> bool {
        self.map.entry(&node).is_some_and(|entry| entry.value().is_none())
    }

    fn age(&self, node: NodeId, now: Instant) -> Duration {
        let left = self.until.get(&node).map_or(Duration::ZERO, |until| *until - now);
        self.kept(self.is_tombstone(node)).saturating_sub(left)
    }

    const fn kept(&self, is_tombstone: bool) -> Duration {
        if is_tombstone { self.tombstones_kept } else { self.silent }
    }
}

fn bucket_of(node: NodeId) -> u32 {
    bucket(node.0, BUCKETS) as u32
}
