//! A table by call number.

use std::collections::VecDeque;

/// Entries by the number of their call.
///
/// The calls of one side are every second number, are made in order, and mostly end in about that order. So the entries
/// stand in a row, and where one is found by counting from the first. One that is removed leaves an empty place behind
/// until it is at either end, or the empty places are more than half of the row; where the row has gaps, an entry is
/// found by bisection.
#[derive(Debug)]
pub(crate) struct CallTable<T> {
    /// Ascending. The first and the last are not empty.
    places: VecDeque<(u64, Option<T>)>,
    /// The number of the first, if there is one.
    first: u64,
    count: usize,
}

impl<T> Default for CallTable<T> {
    fn default() -> Self {
        Self { places: VecDeque::new(), first: 0, count: 0 }
    }
}

impl<T> CallTable<T> {
    pub(crate) const fn len(&self) -> usize {
        self.count
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(crate) fn get(&self, call: u64) -> Option<&T> {
        let index = self.find(call).ok()?;
        self.places.get(index)?.1.as_ref()
    }

    pub(crate) fn get_mut(&mut self, call: u64) -> Option<&mut T> {
        let index = self.find(call).ok()?;
        self.places.get_mut(index)?.1.as_mut()
    }

    /// Adds an entry, or replaces it and gives back what was there.
    pub(crate) fn insert(&mut self, call: u64, entry: T) -> Option<T> {
        let before = match self.find(call) {
            Ok(index) => self.places[index].1.replace(entry),
            Err(index) => {
                if index == 0 {
                    self.first = call;
                }
                if index == self.places.len() {
                    self.places.push_back((call, Some(entry)));
                } else {
                    self.places.insert(index, (call, Some(entry)));
                }
                None
            }
        };
        self.count += usize::from(before.is_none());
        before
    }

    pub(crate) fn remove(&mut self, call: u64) -> Option<T> {
        let index = self.find(call).ok()?;
        let entry = self.places.get_mut(index)?.1.take()?;
        self.count -= 1;
        if index == 0 {
            while self.places.front().is_some_and(|place| place.1.is_none()) {
                self.places.pop_front();
            }
            self.first = self.places.front().map_or(0, |place| place.0);
        }
        while self.places.back().is_some_and(|place| place.1.is_none()) {
            self.places.pop_back();
        }
        if self.places.len() > 2 * self.count + EMPTY_MAX {
            self.places.retain(|place| place.1.is_some());
        }
        Some(entry)
    }

    pub(crate) fn clear(&mut self) {
        self.places.clear();
        self.count = 0;
    }

    /// The lowest call.
    pub(crate) fn first(&self) -> Option<u64> {
        self.places.front().map(|place| place.0)
    }

    /// All entries, the lowest call first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.places.iter().filter_map(|(call, entry)| Some((*call, entry.as_ref()?)))
    }

    /// All entries, the lowest call first.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (u64, &mut T)> {
        self.places.iter_mut().filter_map(|(call, entry)| Some((*call, entry.as_mut()?)))
    }

    /// The place of `call`, or where it would be put.
    #[inline]
    fn find(&self, call: u64) -> Result<usize, usize> {
        // A call below the first is far behind the last in this arithmetic.
        let steps = (call.wrapping_sub(self.first) / 2) as usize;
        match self.places.get(steps) {
            Some(place) if place.0 == call => Ok(steps),
            _ => self.search(call),
        }
    }

    fn search(&self, call: u64) -> Result<usize, usize> {
        match self.places.back() {
            Some(last) if call <= last.0 => {}
            _ => return Err(self.places.len()),
        }
        if call < self.first {
            return Err(0);
        }
        self.places.binary_search_by_key(&call, |place| place.0)
    }
}

/// Empty places that may stand between as many entries as there are, besides as many as those.
const EMPTY_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::random::SeededRandom;

    #[test]
    fn it_holds_what_an_ordered_map_holds_and_stays_as_small() {
        let (mut table, mut map) = (CallTable::default(), BTreeMap::new());
        let mut random = SeededRandom::new(7);
        let mut next = 0;
        for step in 0..200_000_u64 {
            let near = next - random.below(next.min(200) + 1);
            match random.below(10) {
                0..=4 => {
                    next += 1 + random.below(2);
                    assert_eq!(table.insert(2 * next, step), map.insert(2 * next, step));
                }
                5 => assert_eq!(table.insert(2 * near, step), map.insert(2 * near, step)),
                6 => assert_eq!(table.get(2 * near), map.get(&(2 * near))),
                7 => assert_eq!(table.get_mut(2 * near), map.get_mut(&(2 * near))),
                _ => {
                    let oldest = map.keys().next().copied().unwrap_or(0);
                    let call = if random.below(3) == 0 { oldest } else { 2 * near };
                    assert_eq!(table.remove(call), map.remove(&call));
                }
            }
            while map.len() > 100 {
                let call = *map.keys().nth(random.below(100) as usize).unwrap();
                assert_eq!(table.remove(call), map.remove(&call));
            }
            assert_eq!((table.len(), table.first()), (map.len(), map.keys().next().copied()));
            assert!(table.places.len() <= 2 * table.len() + EMPTY_MAX + 1);
        }
        assert!(table.iter().eq(map.iter().map(|(call, entry)| (*call, entry))));
    }
}
