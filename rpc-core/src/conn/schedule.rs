//! The way that large messages of all connections of an endpoint share while they come in.
//!
//! When large messages come from several peers at once, each peer's congestion control fills the queue before the way
//! that they share, and everything else waits in it. Only the receiver sees all of them. So as soon as messages of two
//! connections come in, it tells their senders how far they may go (GRANT): together no more than is on the way when
//! the way is full and its queue is not, the message with the fewest bytes left first, one decision in four for the
//! oldest. With messages of one connection, however many, nobody waits and no frame is spent: their sender keeps the
//! same order by itself.
//!
//! How much the way carries is measured: the highest rate of the last eight round trips, and a quarter more, so that
//! it is noticed when there is more. How much one sender makes of it is measured too, and it is granted no more than twice
//! that: the rest goes to the next ones, so a slow sender does not hold the way. Messages of which nothing has come for a
//! while do not count at all.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::time::Duration;

use super::budget::Arrival;
use crate::runtime::Instant;

/// Large messages that come in, and how far their senders may go.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    messages: BTreeMap<Arrival, Message>,
    by_remaining: BTreeSet<(u64, Arrival)>,
    by_age: BTreeMap<u64, Arrival>,
    age_next: u64,
    /// Messages whose senders were told nothing.
    untold: BTreeSet<Arrival>,
    capacity: Capacity,
    /// Something has changed that a decision depends on.
    due: bool,
    decisions: u64,
    /// Decisions about many messages are made less often.
    not_before: Instant,
    /// When to decide again although nothing came.
    again: Option<Instant>,
    /// What is to be told.
    told: VecDeque<(Arrival, u64)>,
}

#[derive(Debug)]
struct Message {
    total: u64,
    received: u64,
    /// Behind the last byte that has come.
    reach: u64,
    /// What its sender was told.
    upto: Option<u64>,
    age: u64,
    path: Path,
    /// When so much of it has come, it is time to decide again.
    decide_at: u64,
    /// Up to where it was told to go when it had used up the last such mark, and when that was.
    mark: (u64, Instant),
    /// It takes long to get there.
    slow: bool,
    /// When something came, or was granted.
    moved: Instant,
}

impl Message {
    fn is_late(&self, now: Instant) -> bool {
        now - self.mark.1 > STALLED + self.path.round
    }

    /// Bytes that are on the way, or may be sent; of a slow sender no more than four rounds of what it has shown.
    fn outstanding(&self, now: Instant) -> u64 {
        let allowed = self.upto.unwrap_or(self.reach).max(self.reach) - self.received;
        if self.slow || (self.reach < self.mark.0 && self.is_late(now)) {
            allowed.min((self.path.pace * 4).max(PIECE_MIN))
        } else {
            allowed
        }
    }
}

/// What is known of the way from one peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path {
    /// From a grant to the bytes that it allows, without queues.
    pub(super) round: Duration,
    /// Bytes of large messages that lately came in a round.
    pub(super) pace: u64,
}

/// What came of a large message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    pub(super) total: u64,
    pub(super) received: u64,
    /// Received before the part that came.
    pub(super) before: u64,
    /// Behind the last byte of the part that came.
    pub(super) end: u64,
}

impl Schedule {
    /// A part of a message came, and the message is not complete.
    pub(super) fn on_part(&mut self, now: Instant, arrival: Arrival, path: Path, progress: Progress) {
        let Progress { total, received, before, end } = progress;
        if total <= UNSCHEDULED {
            return;
        }
        self.capacity.on_bytes(now, received - before, path.round);
        let message = self.messages.entry(arrival).or_insert_with(|| {
            self.age_next += 1;
            self.by_age.insert(self.age_next, arrival);
            self.untold.insert(arrival);
            let age = self.age_next;
            Message {
                total,
                received: 0,
                reach: 0,
                upto: None,
                age,
                path,
                decide_at: 0,
                mark: (0, now),
                slow: false,
                moved: now,
            }
        });
        self.by_remaining.remove(&(total - message.received, arrival));
        self.by_remaining.insert((total - received, arrival));
        message.received = received;
        message.reach = message.reach.max(end);
        message.path = path;
        message.moved = now;
        if let Some(upto) =
            message.upto.filter(|upto| message.reach >= message.mark.0 && *upto > message.mark.0)
        {
            message.slow = message.is_late(now);
            message.mark = (upto, now);
        }
        if message.reach >= message.decide_at {
            message.decide_at = message.reach + (window(path) / 8).max(PIECE_MIN);
            self.due = true;
        }
    }

    /// A message is complete, or given up.
    pub(super) fn remove(&mut self, arrival: Arrival) {
        if let Some(message) = self.messages.remove(&arrival) {
            self.by_remaining.remove(&(message.total - message.received, arrival));
            self.by_age.remove(&message.age);
            self.untold.remove(&arrival);
            self.due = true;
        }
    }

    /// A connection is over.
    pub(super) fn remove_all(&mut self, conn: u64) {
        while let Some((arrival, _)) = self.messages.range((conn, 0)..=(conn, u64::MAX)).next() {
            self.remove(*arrival);
        }
    }

    /// When [`Schedule::on_timeout`] has something to do.
    pub(crate) const fn timeout(&self) -> Option<Instant> {
        self.again
    }

    /// Notes that time has passed.
    pub(crate) fn on_timeout(&mut self, now: Instant) {
        if self.again.is_some_and(|again| again <= now) {
            self.again = None;
            self.due = true;
        }
    }

    /// The next message whose sender is to be told how far it may go.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<(Arrival, u64)> {
        if self.due && now < self.not_before {
            self.again = Some(self.again.map_or(self.not_before, |again| again.min(self.not_before)));
        } else if std::mem::take(&mut self.due) {
            self.decide(now);
            self.not_before = now + DECISION_COST * u32::try_from(self.messages.len()).unwrap_or(u32::MAX);
        }
        while let Some((arrival, upto)) = self.told.pop_front() {
            if self.messages.contains_key(&arrival) {
                return Some((arrival, upto));
            }
        }
        None
    }

    /// Messages of more than one connection come in.
    fn is_contended(&self) -> bool {
        let conn = |entry: Option<(&Arrival, _)>| entry.map(|(arrival, _)| arrival.0);
        conn(self.messages.first_key_value()) != conn(self.messages.last_key_value())
    }

    fn decide(&mut self, now: Instant) {
        if !self.is_contended() {
            self.again = None;
            if self.untold.len() == self.messages.len() {
                return;
            }
            let all: Vec<_> = self.by_remaining.iter().map(|entry| entry.1).collect();
            for arrival in all {
                self.tell(now, arrival, u64::MAX);
            }
            return;
        }
        self.again = Some(now + STALLED);
        let Some(capacity) = self.capacity.best() else { return };
        let mut left = capacity + capacity / 4;
        self.decisions += 1;
        let oldest = self.by_age.first_key_value().map(|(_, arrival)| *arrival);
        let oldest = oldest.filter(|_| self.decisions.is_multiple_of(OLDEST_EVERY));
        let (mut turn, mut last) = (oldest.map(|arrival| (0, arrival)), None);
        let mut reached = BTreeSet::new();
        loop {
            let next = turn.take().or_else(|| {
                let from = last.map_or(Bound::Unbounded, Bound::Excluded);
                last = self.by_remaining.range((from, Bound::Unbounded)).next().copied();
                last
            });
            let Some((_, arrival)) = next else { break };
            // At least one sender always goes on.
            let least = if reached.is_empty() { UNSCHEDULED } else { 0 };
            let most = if last.is_none() { UNSCHEDULED } else { u64::MAX };
            reached.insert(arrival);
            let Some(message) = self.messages.get(&arrival) else { continue };
            let Path { round, .. } = message.path;
            let room = carried(left, round).max(least).min(window(message.path)).min(most);
            self.tell(now, arrival, room);
            let Some(message) = self.messages.get(&arrival) else { continue };
            if now - message.moved < STALLED + round {
                left = left.saturating_sub(rate(message.outstanding(now), round));
            }
            if left == 0 {
                break;
            }
        }
        // Who was not reached has to wait.
        let waiting: Vec<_> = self.untold.difference(&reached).copied().collect();
        for arrival in waiting {
            self.tell(now, arrival, 0);
        }
    }

    /// Lets a message be sent so far that `room` bytes of it are on the way.
    fn tell(&mut self, now: Instant, arrival: Arrival, room: u64) {
        let Some(message) = self.messages.get_mut(&arrival) else { return };
        let upto =
            message.received.saturating_add(room).max(message.reach).max(UNSCHEDULED).min(message.total);
        let worth = match message.upto {
            // Its sender goes on by itself.
            None => upto < message.total,
            Some(before) => {
                upto >= before + (room / 8).max(PIECE_MIN) || (upto == message.total && upto > before)
            }
        };
        if worth {
            if message.reach >= message.mark.0 {
                message.mark = (upto, now);
            }
            message.upto = Some(upto);
            message.moved = now;
            self.untold.remove(&arrival);
            self.told.push_back((arrival, upto));
        }
    }
}

/// What the shared way carries. Known when it has not grown for some rounds: until then nobody need wait.
#[derive(Debug, Default)]
struct Capacity {
    meter: Meter,
    /// Bytes per second in each of the last rounds.
    rates: [u64; ROUNDS],
    index: usize,
    /// The rate before it ceased to grow, and the rounds since then.
    full: u64,
    full_rounds: u32,
}

impl Capacity {
    fn on_bytes(&mut self, now: Instant, bytes: u64, round: Duration) {
        let Some((bytes, passed)) = self.meter.on_bytes(now, bytes, round) else { return };
        let rate = rate(bytes, passed);
        self.index = (self.index + 1) % ROUNDS;
        self.rates[self.index] = rate;
        if rate >= self.full / 4 * 5 {
            (self.full, self.full_rounds) = (rate, 0);
        } else {
            self.full_rounds = self.full_rounds.saturating_add(1);
        }
    }

    fn best(&self) -> Option<u64> {
        let best = self.rates.iter().copied().max();
        best.filter(|best| *best > 0 && self.full_rounds >= FULL_ROUNDS)
    }
}

/// Counts bytes round by round. A pause is not a slow round: after it a new one begins.
#[derive(Debug, Default)]
pub(super) struct Meter {
    since: Instant,
    last: Instant,
    bytes: u64,
}

impl Meter {
    /// Bytes came; those of a round and its length if one is over.
    pub(super) fn on_bytes(&mut self, now: Instant, bytes: u64, round: Duration) -> Option<(u64, Duration)> {
        if now - self.last > round * 2 {
            (self.since, self.bytes) = (now, 0);
        }
        self.last = now;
        self.bytes += bytes;
        let passed = now - self.since;
        if passed < round {
            return None;
        }
        self.since = now;
        Some((std::mem::take(&mut self.bytes), passed))
    }
}

/// What one sender may have on the way: twice what it has lately had, so that it can show that it has more.
fn window(path: Path) -> u64 {
    (path.pace * 2).max(UNSCHEDULED)
}

/// Bytes that `rate` carries in `time`.
fn carried(rate: u64, time: Duration) -> u64 {
    u64::try_from(u128::from(rate) * time.as_nanos() / 1_000_000_000).unwrap_or(u64::MAX)
}

/// Bytes per second of `bytes` in `time`.
fn rate(bytes: u64, time: Duration) -> u64 {
    u64::try_from(u128::from(bytes) * 1_000_000_000 / time.as_nanos().max(1)).unwrap_or(u64::MAX)
}

/// Nobody waits with a message of up to so many bytes, and every message may be sent so far: what is shorter is over
/// before a decision about it would arrive.
const UNSCHEDULED: u64 = 64 << 10;
/// It is not worth a frame to allow less.
const PIECE_MIN: u64 = 4 << 10;
/// The least time between two decisions for each message: what it takes must not depend on who sends how many.
const DECISION_COST: Duration = Duration::from_micros(1);
/// How long nothing must have come of a message for it not to count.
const STALLED: Duration = Duration::from_millis(100);
/// Rounds over which the rate is the highest.
const ROUNDS: usize = 8;
/// Rounds without growth after which the way is full.
const FULL_ROUNDS: u32 = 3;
/// One decision in so many begins with the oldest message.
const OLDEST_EVERY: u64 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND: Duration = Duration::from_millis(20);
    /// Comes in a round when the way is full.
    const FULL: u64 = 500_000;
    const SIZE: u64 = 100 << 20;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(1_000_000_000 + millis * 1_000_000)
    }

    /// A receiver to which senders send what they may, as fast as they can.
    #[derive(Default)]
    struct Scene {
        schedule: Schedule,
        senders: BTreeMap<u64, Sender>,
        millis: u64,
    }

    struct Sender {
        total: u64,
        sent: u64,
        upto: u64,
        /// What it sends in a millisecond at most.
        pace: u64,
    }

    impl Scene {
        fn add(&mut self, conn: u64, total: u64, pace: u64) {
            self.senders.insert(conn, Sender { total, sent: 0, upto: u64::MAX, pace });
        }

        /// Lets a millisecond pass: the way carries what fits, of each sender its part, rounded up.
        fn step(&mut self) {
            self.millis += 1;
            let now = at(self.millis);
            let may =
                |sender: &Sender| sender.pace.min(sender.upto.min(sender.total).saturating_sub(sender.sent));
            let all: u64 = self.senders.values().map(may).sum();
            for (conn, sender) in &mut self.senders {
                let bytes = (may(sender) * (FULL / 20)).div_ceil(all.max(FULL / 20));
                if bytes == 0 {
                    continue;
                }
                let before = sender.sent;
                sender.sent += bytes;
                let path = Path { round: ROUND, pace: sender.pace.min(FULL / 20) * 20 };
                let progress =
                    Progress { total: sender.total, received: sender.sent, before, end: sender.sent };
                self.schedule.on_part(now, (*conn, 0), path, progress);
                if sender.sent == sender.total {
                    self.schedule.remove((*conn, 0));
                }
            }
            self.senders.retain(|_, sender| sender.sent < sender.total);
            self.schedule.on_timeout(now);
            while let Some(((conn, _), upto)) = self.schedule.poll(now) {
                let sender = self.senders.get_mut(&conn).unwrap();
                assert!(upto <= sender.total && (sender.upto == u64::MAX || upto > sender.upto));
                sender.upto = upto;
            }
        }

        fn run(&mut self, millis: u64) {
            for _ in 0..millis {
                self.step();
            }
        }

        fn sent(&self, conn: u64) -> u64 {
            self.senders[&conn].sent
        }

        /// Bytes that may be on the way.
        fn outstanding(&self) -> u64 {
            self.senders.values().map(|sender| sender.upto.min(sender.total) - sender.sent).sum()
        }
    }

    #[test]
    fn messages_of_one_peer_and_short_ones_are_told_nothing() {
        let mut scene = Scene::default();
        scene.add(1, SIZE, FULL);
        scene.run(500);
        assert_eq!(scene.senders[&1].upto, u64::MAX);
        for conn in 2..10 {
            scene.add(conn, UNSCHEDULED, 1_000);
        }
        scene.run(50);
        assert!(scene.senders.values().all(|sender| sender.upto == u64::MAX));
    }

    #[test]
    fn together_they_may_send_no_more_than_the_way_holds_and_the_shortest_goes_first() {
        let mut scene = Scene::default();
        for conn in 1..=8 {
            scene.add(conn, SIZE - (conn << 20), FULL);
        }
        scene.run(300);
        let before = scene.sent(8);
        assert!(scene.outstanding() <= FULL * 3 / 2 + 9 * UNSCHEDULED, "{}", scene.outstanding());
        scene.run(1_000);
        let share = (scene.sent(8) - before) as f64 / (FULL * 50) as f64;
        assert!(share > 0.7, "{share} of the way for the shortest");
        let oldest = scene.sent(1) as f64 / (FULL * 65) as f64;
        assert!(oldest > 0.05, "{oldest} of the way for the oldest");
        scene.add(9, 10 << 20, FULL);
        scene.run(14 * 50);
        let left = scene.senders.get(&9).map_or(0, |sender| sender.total - sender.sent);
        assert!(
            (10 << 20) - left > FULL * 35 / 2,
            "a shorter one that comes later goes first, {left} are left"
        );
    }

    #[test]
    fn a_slow_sender_does_not_hold_the_way_and_one_that_is_gone_neither() {
        for pace in [200, 0] {
            let mut scene = Scene::default();
            for conn in 1..=4 {
                scene.add(conn, SIZE, FULL);
            }
            scene.run(300);
            for conn in 5..=30 {
                // Something of each comes.
                scene.add(conn, SIZE / 4, 5_000);
                scene.step();
                scene.senders.get_mut(&conn).unwrap().pace = pace;
            }
            scene.run(400);
            let before: u64 = (1..=4).map(|conn| scene.sent(conn)).sum();
            scene.run(1_000);
            let fast: u64 = (1..=4).map(|conn| scene.sent(conn)).sum::<u64>() - before;
            let share = fast as f64 / ((FULL - 26 * pace * 20) * 50) as f64;
            assert!(share > 0.8, "{share} of what is left at {pace} bytes in a millisecond");
        }
    }

    #[test]
    fn when_all_who_may_send_have_stopped_the_others_go_on_though_nothing_comes() {
        let mut scene = Scene::default();
        scene.add(1, SIZE, FULL);
        scene.add(2, SIZE / 2, FULL);
        scene.run(300);
        scene.senders.get_mut(&2).unwrap().pace = 0;
        scene.run(400);
        let before = scene.sent(1);
        scene.run(1_000);
        let share = (scene.sent(1) - before) as f64 / (FULL * 50) as f64;
        assert!(share > 0.8, "{share} of the way");
    }

    #[test]
    fn a_decision_that_comes_too_soon_after_another_is_made_as_soon_as_may_be() {
        let mut schedule = Schedule::default();
        let path = Path { round: ROUND, pace: FULL };
        for conn in 1..=3 {
            let progress = Progress { total: SIZE, received: 1_000, before: 0, end: 1_000 };
            schedule.on_part(at(1), (conn, 0), path, progress);
        }
        assert_eq!(schedule.poll(at(1)), None);
        assert_eq!(schedule.timeout(), Some(at(1) + STALLED));
        schedule.remove((3, 0));
        assert_eq!(schedule.poll(at(1)), None);
        assert_eq!(schedule.timeout(), Some(at(1) + DECISION_COST * 3));
        (1..=2).for_each(|conn| schedule.remove_all(conn));
        assert!(schedule.messages.is_empty() && schedule.untold.is_empty(), "nothing is left of them");
    }

    #[test]
    fn the_way_is_full_when_it_has_not_grown_for_three_rounds_and_a_pause_is_no_round() {
        let mut capacity = Capacity::default();
        let mut millis = 0;
        let mut round = |capacity: &mut Capacity, pause: u64, bytes: u64| {
            millis += pause;
            capacity.on_bytes(at(millis), bytes, ROUND);
            capacity.best()
        };
        assert_eq!(round(&mut capacity, 0, 0), None, "it begins");
        for _ in 0..3 {
            assert_eq!(round(&mut capacity, 20, FULL), None);
        }
        assert_eq!(round(&mut capacity, 20, FULL), Some(FULL * 50));
        for _ in 0..ROUNDS {
            assert_eq!(round(&mut capacity, 1_000, FULL), Some(FULL * 50));
        }
    }

    #[test]
    fn who_is_left_goes_on_by_itself() {
        let mut scene = Scene::default();
        scene.add(1, SIZE, FULL);
        scene.add(2, SIZE - 1, FULL);
        scene.run(300);
        assert!(scene.senders[&1].upto < SIZE);
        scene.schedule.remove_all(2);
        scene.senders.remove(&2);
        scene.step();
        assert_eq!(scene.senders[&1].upto, SIZE);
        assert_eq!(scene.schedule.timeout(), None);
        scene.schedule.remove((1, 0));
        let Schedule { messages, by_remaining, by_age, untold, .. } = &scene.schedule;
        assert!(messages.is_empty() && by_remaining.is_empty() && by_age.is_empty() && untold.is_empty());
    }
}
