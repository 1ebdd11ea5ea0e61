//! The memory that large messages of all connections of an endpoint share while they come in.
//!
//! A message is charged with its whole size before its buffer is allocated. As long as there is room nobody waits and
//! no frame is spent on it. A message for which there is no room is held (GRANT up to 0), and its packet counts as
//! never received; when others have ended, the message with the fewest bytes among all connections goes first (GRANT
//! up to its size). Every eighth grant is for the one that waits longest, for which room is then kept, so that no
//! message starves.

use std::collections::{BTreeMap, BTreeSet};

use super::schedule::Schedule;

/// Names a message that comes in: the connection, and the call whose parity tells whether it is request or response.
pub(super) type Arrival = (u64, u64);

/// What is charged, and who waits.
#[derive(Debug)]
pub(crate) struct Budget {
    /// Who may go on of those that have their memory.
    pub(crate) schedule: Schedule,
    limit: u64,
    /// The largest message that may come in.
    message_size_max: u64,
    used: u64,
    waiting: BTreeSet<(u64, Arrival)>,
    by_age: BTreeMap<u64, (u64, Arrival)>,
    ages: BTreeMap<Arrival, u64>,
    age_next: u64,
    granted: u64,
}

impl Budget {
    /// A budget of `limit` bytes, but at least one message of the largest size.
    pub(crate) fn new(limit: u64, message_size_max: u64) -> Self {
        Self {
            schedule: Schedule::default(),
            limit: limit.max(message_size_max),
            message_size_max,
            used: 0,
            waiting: BTreeSet::new(),
            by_age: BTreeMap::new(),
            ages: BTreeMap::new(),
            age_next: 0,
            granted: 0,
        }
    }

    /// Bytes charged.
    pub(crate) const fn used(&self) -> u64 {
        self.used
    }

    /// A new message may find no room. While this is false there is room for any one.
    pub(super) fn is_tight(&self) -> bool {
        self.used + self.message_size_max > self.limit || !self.waiting.is_empty()
    }

    /// Charges a message that is known to have room.
    pub(super) const fn charge(&mut self, size: u64) {
        self.used += size;
    }

    /// Gives back what was charged.
    pub(super) const fn release(&mut self, size: u64) {
        self.used -= size;
    }

    /// Charges a new message; false if it has to wait its turn.
    pub(super) fn take(&mut self, size: u64) -> bool {
        let shortest = self.waiting.first().is_none_or(|(waiting, _)| size < *waiting);
        let free = self.waiting.is_empty() || !self.is_turn_of_oldest();
        let fits = self.used + size <= self.limit && shortest && free;
        if fits {
            self.used += size;
        }
        fits
    }

    /// Lets a message wait.
    pub(super) fn wait(&mut self, arrival: Arrival, size: u64) {
        self.age_next += 1;
        self.waiting.insert((size, arrival));
        self.by_age.insert(self.age_next, (size, arrival));
        self.ages.insert(arrival, self.age_next);
    }

    /// A message that waits does so no more.
    pub(super) fn give_up(&mut self, arrival: Arrival) {
        if let Some((size, arrival)) = self.ages.remove(&arrival).and_then(|age| self.by_age.remove(&age)) {
            self.waiting.remove(&(size, arrival));
        }
    }

    /// Charges the next message that has waited, if there is room for it.
    pub(crate) fn grant(&mut self) -> Option<(u64, u64)> {
        let oldest = self.by_age.first_key_value().map(|(_, waiting)| *waiting);
        let (size, arrival) = if self.is_turn_of_oldest() { oldest? } else { *self.waiting.first()? };
        if self.used + size > self.limit {
            return None;
        }
        self.give_up(arrival);
        self.used += size;
        self.granted += 1;
        Some(arrival)
    }

    const fn is_turn_of_oldest(&self) -> bool {
        self.granted % OLDEST_EVERY == OLDEST_EVERY - 1
    }
}

/// One grant in so many is for the message that waits longest.
const OLDEST_EVERY: u64 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_goes_first_and_nobody_starves() {
        let mut budget = Budget::new(100, 60);
        assert!(!budget.is_tight() && budget.take(60) && budget.is_tight());
        budget.wait((1, 0), 60);
        let (mut order, mut next) = (Vec::new(), 2);
        for _ in 0..30 {
            budget.wait((next, 0), 50);
            next += 1;
            let held = budget.used();
            budget.release(held);
            while let Some((conn, _)) = budget.grant() {
                assert!(budget.used() <= 100);
                order.push(conn);
            }
        }
        assert!(order.iter().take(20).any(|conn| *conn == 1), "{order:?}");
        assert_eq!(order[0], 2);
    }

    #[test]
    fn what_gave_up_is_not_granted() {
        let mut budget = Budget::new(10, 10);
        assert!(budget.take(10) && !budget.take(1));
        budget.wait((1, 4), 1);
        budget.wait((2, 4), 2);
        assert_eq!(budget.grant(), None);
        budget.give_up((1, 4));
        budget.release(10);
        assert_eq!((budget.grant(), budget.grant(), budget.used()), (Some((2, 4)), None, 2));
        assert!(!budget.is_tight() || budget.used() > 0);
    }

    #[test]
    fn who_comes_new_goes_before_longer_ones_only_and_never_before_the_turn_of_the_oldest() {
        let mut budget = Budget::new(10, 100);
        assert!(budget.take(100), "one message of the largest size always fits");
        budget.wait((1, 0), 50);
        budget.release(100);
        assert!(budget.is_tight(), "somebody waits");
        assert!(!budget.take(50) && budget.take(49));
        budget.release(49);
        assert_eq!(budget.grant(), Some((1, 0)));
        budget.release(50);
        for turn in 1..7 {
            budget.wait((turn, 0), 60);
            assert_eq!(budget.grant(), Some((turn, 0)));
            budget.release(60);
        }
        budget.wait((7, 0), 60);
        budget.wait((8, 0), 50);
        assert!(!budget.take(1), "room is kept for who waits longest");
        assert_eq!(budget.grant(), Some((7, 0)), "though it is longer");
    }

    #[test]
    fn the_last_byte_can_be_used_and_no_more() {
        let mut budget = Budget::new(100, 60);
        assert!(budget.take(40) && !budget.is_tight(), "the largest still fits");
        assert!(budget.take(60) && budget.is_tight());
        assert!(!budget.take(1));
        budget.release(100);
        assert!(budget.take(41) && budget.is_tight());
        budget.wait((1, 0), 60);
        assert_eq!(budget.grant(), None);
        budget.release(1);
        assert_eq!((budget.grant(), budget.used()), (Some((1, 0)), 100));
    }
}
