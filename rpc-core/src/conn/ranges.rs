//! A set of numbers kept as ranges: packet numbers, call numbers, byte offsets.

use std::collections::VecDeque;

/// Disjoint half-open ranges in ascending order, never touching each other.
#[derive(Clone, Debug, Default)]
pub(super) struct RangeSet {
    ranges: VecDeque<(u64, u64)>,
    total: u64,
}

impl RangeSet {
    /// Numbers in the set.
    pub(super) const fn total(&self) -> u64 {
        self.total
    }

    /// Ranges in the set.
    pub(super) fn count(&self) -> usize {
        self.ranges.len()
    }

    pub(super) fn first(&self) -> Option<(u64, u64)> {
        self.ranges.front().copied()
    }

    /// The ranges from the highest to the lowest.
    pub(super) fn descending(&self) -> impl ExactSizeIterator<Item = (u64, u64)> {
        self.ranges.iter().rev().copied()
    }

    pub(super) fn contains(&self, number: u64) -> bool {
        let index = self.ranges.partition_point(|(_, end)| *end <= number);
        self.ranges.get(index).is_some_and(|(start, _)| *start <= number)
    }

    /// Adds `start..end`.
    pub(super) fn insert(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        // Mostly numbers come in order.
        match self.ranges.back_mut() {
            Some((_, last)) if *last == start => {
                *last = end;
                self.total += end - start;
                return;
            }
            Some((_, last)) if *last > start => {}
            _ => {
                self.ranges.push_back((start, end));
                self.total += end - start;
                return;
            }
        }
        let from = self.ranges.partition_point(|range| range.1 < start);
        let to = self.ranges.partition_point(|range| range.0 <= end);
        let (mut start, mut end) = (start, end);
        for index in from..to {
            let range = self.ranges[index];
            start = start.min(range.0);
            end = end.max(range.1);
            self.total -= range.1 - range.0;
        }
        self.total += end - start;
        if from < to {
            self.ranges[from] = (start, end);
            self.ranges.drain(from + 1..to);
        } else {
            self.ranges.insert(from, (start, end));
        }
    }

    /// Takes `start..end` out.
    pub(super) fn remove(&mut self, start: u64, end: u64) {
        let mut index = self.ranges.partition_point(|range| range.1 <= start);
        while let Some(range) = self.ranges.get(index).copied().filter(|range| range.0 < end && start < end) {
            self.total -= range.1.min(end) - range.0.max(start);
            match (range.0 < start, end < range.1) {
                (true, true) => {
                    self.ranges[index].1 = start;
                    self.ranges.insert(index + 1, (end, range.1));
                    return;
                }
                (true, false) => {
                    self.ranges[index].1 = start;
                    index += 1;
                }
                (false, true) => {
                    self.ranges[index].0 = end;
                    return;
                }
                (false, false) => {
                    self.ranges.remove(index);
                }
            }
        }
    }

    /// Takes everything out that is also in `other`, looking only at `start..end`.
    pub(super) fn remove_all(&mut self, other: &Self, start: u64, end: u64) {
        let from = other.ranges.partition_point(|range| range.1 <= start);
        for range in other.ranges.range(from..).take_while(|range| range.0 < end) {
            self.remove(range.0, range.1);
        }
    }

    /// Takes out every number below `floor`.
    pub(super) fn remove_below(&mut self, floor: u64) {
        while let Some(front) = self.ranges.front_mut().filter(|range| range.0 < floor) {
            if front.1 > floor {
                self.total -= floor - front.0;
                front.0 = floor;
                return;
            }
            self.total -= front.1 - front.0;
            self.ranges.pop_front();
        }
    }

    /// Takes out the lowest range.
    pub(super) fn pop_first(&mut self) -> Option<(u64, u64)> {
        let range = self.ranges.pop_front()?;
        self.total -= range.1 - range.0;
        Some(range)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn agrees_with_a_plain_set_under_random_operations() {
        let mut state = 7_u64;
        let mut random = move |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let (mut ranges, mut plain, mut other) = (RangeSet::default(), BTreeSet::new(), RangeSet::default());
        for step in 0..20_000 {
            let start = random(200);
            let end = start + random(12);
            match random(12) {
                0..=5 => {
                    ranges.insert(start, end);
                    plain.extend(start..end);
                }
                6..=8 => {
                    ranges.remove(start, end);
                    plain.retain(|number| !(start..end).contains(number));
                }
                9 => {
                    let floor = start / 8;
                    ranges.remove_below(floor);
                    plain.retain(|number| *number >= floor);
                }
                10 => {
                    other.insert(start, end);
                    ranges.remove_all(&other, start, end);
                    plain.retain(|number| !(start..end).contains(number) || !other.contains(*number));
                    other.remove(start, end + 3);
                }
                _ => {
                    if let Some((start, end)) = ranges.pop_first() {
                        plain.retain(|number| !(start..end).contains(number));
                    }
                }
            }
            assert_eq!(ranges.total(), plain.len() as u64, "step {step}");
            assert!((0..220).all(|number| ranges.contains(number) == plain.contains(&number)), "step {step}");
            let list: Vec<_> = ranges.descending().collect();
            assert!(list.windows(2).all(|pair| pair[1].1 < pair[0].0), "step {step}: {list:?}");
        }
    }
}
