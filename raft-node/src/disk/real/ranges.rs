//! Ranges of keys.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

/// A set of keys, made of ranges that do not touch each other.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges {
    /// By their first key: the key behind the last one, or nothing if they have no end.
    ends: BTreeMap<Bytes, Option<Bytes>>,
}

impl Ranges {
    /// Adds the keys with `from <= key` and, if given, `key < to`.
    pub(super) fn add(&mut self, from: &[u8], to: Option<&[u8]>) {
        if to.is_some_and(|to| to <= from) {
            return;
        }
        let (mut from, mut to) = (Bytes::copy_from_slice(from), to.map(Bytes::copy_from_slice));
        // Those that it touches become part of it: the last one that begins before it, and all that begin in it.
        if let Some((before, end)) = self.ends.range(..=from.clone()).next_back()
            && end.as_ref().is_none_or(|end| *end >= from)
        {
            from = before.clone();
        }
        while let Some((begin, _)) = self.ends.range(from.clone()..).next()
            && to.as_ref().is_none_or(|to| begin <= to)
        {
            let begin = begin.clone();
            let end = self.ends.remove(&begin).flatten();
            to = to.zip(end).map(|(to, end)| to.max(end));
        }
        self.ends.insert(from, to);
    }

    /// Whether `key` is in it.
    pub(super) fn holds(&self, key: &[u8]) -> bool {
        self.end_of(key).is_some()
    }

    /// The end of the range that holds `key`, if one does: the next key that is not in it, or nothing if there is none.
    pub(super) fn end_of(&self, key: &[u8]) -> Option<Option<&Bytes>> {
        let (_, end) = self.ends.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back()?;
        end.as_ref().is_none_or(|end| key < end).then_some(end.as_ref())
    }

    /// Whether it holds every key.
    pub(super) fn is_all(&self) -> bool {
        self.ends.get(&[][..]).is_some_and(Option::is_none)
    }

    /// Each range: its first key, and the key behind its last one, if it has an end.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Bytes, Option<&Bytes>)> {
        self.ends.iter().map(|(from, to)| (from, to.as_ref()))
    }
}

#[cfg(test)]
mod tests {
    use rpc_core::random::SeededRandom;

    use super::*;

    #[test]
    fn ranges_hold_what_was_added_and_never_touch() {
        let mut random = SeededRandom::new(1);
        for _ in 0..2_000 {
            let (mut ranges, mut model) = (Ranges::default(), [false; 20]);
            for _ in 0..random.between(1, 6) {
                let (from, to) = (random.below(20) as u8, random.below(20) as u8);
                let to = random.chance(800_000).then_some([to]);
                ranges.add(&[from], to.as_ref().map(<[u8; 1]>::as_slice));
                let end = to.map_or(20, |[to]| usize::from(to));
                model.iter_mut().take(end).skip(usize::from(from)).for_each(|held| *held = true);
            }
            let held: Vec<bool> = (0..20).map(|key| ranges.holds(&[key])).collect();
            assert_eq!(held, model, "{ranges:?}");
            assert!(!ranges.is_all() || held.iter().all(|held| *held), "{ranges:?}");
            let mut end = None;
            for (from, to) in ranges.iter() {
                assert!(end < Some(from.clone()) && to.is_none_or(|to| from < to), "{ranges:?}");
                end = Some(to.cloned().unwrap_or_else(|| Bytes::from_static(&[255])));
            }
        }
    }
}
