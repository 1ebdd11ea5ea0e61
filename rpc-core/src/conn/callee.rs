//! The calls that the peer makes: each is started at most once, and what is forgotten is never started again.

use std::collections::VecDeque;

use bytes::Bytes;

use super::intake::Reassembly;
use super::ranges::RangeSet;
use super::table::CallTable;
use crate::runtime::Instant;
use crate::wire::frame::RequestHead;
use crate::wire::{Form, Lane, Malformed};

/// Calls of the peer, running and answered.
#[derive(Debug)]
pub(super) struct Callee {
    /// 0 if the peer opened the connection and its calls are even, else 1.
    parity: u64,
    calls_max: usize,
    kept_bytes_max: usize,
    calls: CallTable<Serving>,
    /// Halved numbers of all calls from the floor on that were ever taken, refused or cancelled. A call in here is
    /// never started, whether or not its answer is still known.
    taken: RangeSet,
    /// The peer has the outcome of every call below.
    floor: u64,
    largest: u64,
    /// Calls that are running or coming in.
    open: usize,
    /// Delivered answers, oldest first. May hold calls that are gone.
    kept: VecDeque<u64>,
    kept_bytes: usize,
    /// Running calls by when the caller should be told that they run. May hold calls that are gone.
    accept_due: VecDeque<(Instant, u64)>,
}

/// A call of the peer.
#[derive(Debug)]
pub(super) enum Serving {
    /// A large request is coming in.
    Receiving(Box<Receiving>),
    /// The layer above has it.
    Running { lane: Lane },
    /// It was answered. The answer is in the outbox until it was delivered, and then here.
    Done { delivered: Option<Answer> },
}

/// The answer to a call of the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u64,
    pub(super) lane: Lane,
    pub(super) form: Form,
    pub(super) body: Bytes,
}

impl Answer {
    /// A status that says all.
    pub(super) fn bare(status: u64, lane: Lane) -> Self {
        Self { status, lane, form: Form::default(), body: Bytes::new() }
    }
}

/// A large request that is coming in. `head` and `deadline` come with its first byte.
#[derive(Debug)]
pub(super) struct Receiving {
    pub(super) message: Reassembly,
    pub(super) head: Option<(RequestHead, Instant)>,
}

/// What is to be done about a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// It is new.
    New,
    /// It is new, and too many are open: refuse it.
    Busy,
    /// It is known and will be answered, or the peer does not wait for it.
    Ignore,
    /// It is known, and its answer is on the way, or it is this one, which was delivered before.
    Repeat(Option<Answer>),
    /// It was taken once, and its answer is not known any more.
    Forgotten,
}

impl Callee {
    pub(super) fn new(peer_is_initiator: bool, calls_max: usize, kept_bytes_max: usize) -> Self {
        let parity = if peer_is_initiator { 0 } else { 1 };
        Self {
            parity,
            calls_max,
            kept_bytes_max,
            calls: CallTable::default(),
            taken: RangeSet::default(),
            floor: parity,
            largest: parity,
            open: 0,
            kept: VecDeque::new(),
            kept_bytes: 0,
            accept_due: VecDeque::new(),
        }
    }

    /// Running or coming in.
    pub(super) const fn open_count(&self) -> usize {
        self.open
    }

    /// The largest call that the peer has made.
    pub(super) const fn largest(&self) -> u64 {
        self.largest
    }

    pub(super) fn get_mut(&mut self, call: u64) -> Option<&mut Serving> {
        self.calls.get_mut(call)
    }

    /// Judges a request, or a part of one that is not coming in yet. Changes nothing.
    pub(super) fn admission(&self, call: u64) -> Result<Admission, Malformed> {
        if call % 2 != self.parity {
            return Err(Malformed("request with a call of the wrong side"));
        }
        if call < self.floor {
            return Ok(Admission::Ignore);
        }
        Ok(match self.calls.get(call) {
            Some(Serving::Done { delivered }) => Admission::Repeat(delivered.clone()),
            Some(_) => Admission::Ignore,
            None if self.taken.contains(call / 2) => Admission::Forgotten,
            None if self.calls.len() >= self.table_max() => {
                return Err(Malformed("far more calls than announced"));
            }
            None if self.open >= self.calls_max => Admission::Busy,
            None => Admission::New,
        })
    }

    /// Takes a new call; it will never be taken again.
    pub(super) fn take(&mut self, call: u64, serving: Serving) -> Result<(), Malformed> {
        self.taken.insert(call / 2, call / 2 + 1);
        if self.taken.count() > self.table_max() {
            return Err(Malformed("calls with too many gaps"));
        }
        self.largest = self.largest.max(call);
        if !matches!(serving, Serving::Done { .. }) {
            self.open += 1;
        }
        self.calls.insert(call, serving);
        Ok(())
    }

    /// A running call's caller is to be told at `due` that it runs, if it still does.
    pub(super) fn watch(&mut self, call: u64, due: Instant) {
        while self.accept_due.front().is_some_and(|(_, call)| !self.is_running(*call)) {
            self.accept_due.pop_front();
        }
        self.accept_due.push_back((due, call));
    }

    pub(super) fn is_running(&self, call: u64) -> bool {
        call >= self.floor && matches!(self.calls.get(call), Some(Serving::Running { .. }))
    }

    /// A call of the table that was running or coming in is answered.
    pub(super) fn answer(&mut self, call: u64) {
        let Some(serving) = self.calls.get_mut(call) else { return };
        let before = std::mem::replace(serving, Serving::Done { delivered: None });
        self.open -= usize::from(!matches!(before, Serving::Done { .. }));
    }

    /// The peer has the answer: it is kept as long as there is room. Returns how many were forgotten for it.
    pub(super) fn on_delivered(&mut self, call: u64, answer: Answer) -> u64 {
        let Some(Serving::Done { delivered }) = self.calls.get_mut(call) else { return 0 };
        if delivered.is_some() {
            return 0;
        }
        self.kept_bytes += answer.body.len();
        *delivered = Some(answer);
        self.kept.push_back(call);
        let mut evicted = 0;
        while self.kept_bytes > self.kept_bytes_max || self.kept.len() > self.calls_max {
            let Some(oldest) = self.kept.pop_front() else { break };
            // Gone already if the peer said that it has seen it.
            if matches!(self.calls.get(oldest), Some(Serving::Done { delivered: Some(_) })) {
                self.remove(oldest);
                evicted += 1;
            }
        }
        evicted
    }

    /// The peer gave `call` up: it never runs from now on. Returns what it was.
    pub(super) fn cancel(&mut self, call: u64) -> Result<Option<Serving>, Malformed> {
        if call % 2 != self.parity {
            return Err(Malformed("cancellation of a call of the wrong side"));
        }
        if call < self.floor {
            return Ok(None);
        }
        self.taken.insert(call / 2, call / 2 + 1);
        if self.taken.count() > self.table_max() {
            return Err(Malformed("calls with too many gaps"));
        }
        self.largest = self.largest.max(call);
        Ok(self.remove(call))
    }

    /// The peer has the outcome of every call below `floor`. Returns the lowest call that can be forgotten; to be
    /// called until there is none.
    pub(super) fn forget_below(&mut self, floor: u64) -> Option<(u64, Serving)> {
        if floor > self.floor {
            self.floor = floor;
            self.taken.remove_below(floor.div_ceil(2));
        }
        let lowest = self.calls.first().filter(|call| *call < self.floor);
        let Some(call) = lowest else {
            while self.kept.front().is_some_and(|call| *call < self.floor) {
                self.kept.pop_front();
            }
            return None;
        };
        Some((call, self.remove(call)?))
    }

    /// Every call, taken out.
    pub(super) fn clear(&mut self) {
        self.calls.clear();
        self.kept.clear();
        self.accept_due.clear();
        self.open = 0;
        self.kept_bytes = 0;
    }

    /// When [`Callee::accept_due`] has something.
    pub(super) fn accept_timeout(&self) -> Option<Instant> {
        self.accept_due.front().map(|entry| entry.0)
    }

    /// The next running call whose caller should be told now.
    pub(super) fn accept_due(&mut self, now: Instant) -> Option<u64> {
        while let Some((due, call)) = self.accept_due.front().copied() {
            if !self.is_running(call) {
                self.accept_due.pop_front();
            } else if due <= now {
                self.accept_due.pop_front();
                return Some(call);
            } else {
                return None;
            }
        }
        None
    }

    fn table_max(&self) -> usize {
        self.calls_max.saturating_mul(TABLE_FACTOR).max(TABLE_MIN)
    }

    fn remove(&mut self, call: u64) -> Option<Serving> {
        let serving = self.calls.remove(call)?;
        match &serving {
            Serving::Done { delivered: Some(answer) } => self.kept_bytes -= answer.body.len(),
            Serving::Done { delivered: None } => {}
            Serving::Receiving(_) | Serving::Running { .. } => self.open -= 1,
        }
        Some(serving)
    }
}

/// A peer may be behind in what it knows to be over, so the tables hold some times as many calls as it may have open.
const TABLE_FACTOR: usize = 8;
const TABLE_MIN: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(size: usize) -> Answer {
        Answer { status: 0, lane: Lane::Normal, form: Form::default(), body: vec![7; size].into() }
    }

    /// A call that ran and whose answer arrived; how many others were forgotten for it.
    fn run(callee: &mut Callee, call: u64, size: usize) -> u64 {
        assert_eq!(callee.admission(call), Ok(Admission::New));
        callee.take(call, Serving::Running { lane: Lane::Normal }).unwrap();
        callee.answer(call);
        callee.on_delivered(call, answer(size))
    }

    #[test]
    fn answers_are_kept_up_to_a_count_and_to_bytes_and_the_fact_is_kept_of_all() {
        let mut callee = Callee::new(true, 3, 100);
        assert_eq!([0, 2, 4, 6].map(|call| run(&mut callee, call, 10)), [0, 0, 0, 1]);
        assert_eq!(callee.admission(0), Ok(Admission::Forgotten));
        assert_eq!(callee.admission(2), Ok(Admission::Repeat(Some(answer(10)))));
        assert_eq!(callee.on_delivered(6, answer(90)), 0, "it was delivered before");
        assert_eq!(run(&mut callee, 8, 85), 2, "105 bytes, and then 95");
        assert_eq!(callee.admission(4), Ok(Admission::Forgotten));
        assert_eq!(callee.admission(6), Ok(Admission::Repeat(Some(answer(10)))));
        let mut seen = Vec::new();
        while let Some((call, _)) = callee.forget_below(10) {
            seen.push(call);
        }
        assert_eq!((seen, callee.kept.len(), callee.kept_bytes), (vec![6, 8], 0, 0));
        assert_eq!(callee.admission(8), Ok(Admission::Ignore));
        assert_eq!(run(&mut callee, 10, 100), 0, "all of the room is free again");
    }

    #[test]
    fn what_is_cancelled_before_it_comes_never_runs_and_counts_as_made() {
        let mut callee = Callee::new(false, 3, 100);
        assert!(matches!(callee.cancel(7), Ok(None)));
        assert_eq!((callee.admission(7), callee.largest()), (Ok(Admission::Forgotten), 7));
        assert!(callee.cancel(8).is_err(), "of the wrong side");
        for call in (1..=3).map(|index| 2 * index + 7) {
            callee.take(call, Serving::Running { lane: Lane::Normal }).unwrap();
        }
        assert_eq!(callee.admission(15), Ok(Admission::Busy));
        assert!(matches!(callee.cancel(13), Ok(Some(Serving::Running { .. }))));
        assert_eq!((callee.admission(15), callee.open_count()), (Ok(Admission::New), 2));
    }

    #[test]
    fn a_peer_that_never_says_what_it_has_seen_or_leaves_gaps_is_bounded() {
        let mut callee = Callee::new(true, 3, 100);
        for call in (0..).step_by(2).take(TABLE_MIN) {
            assert_eq!(callee.admission(call), Ok(Admission::New));
            callee.take(call, Serving::Done { delivered: None }).unwrap();
        }
        assert!(callee.admission(2 * TABLE_MIN as u64).is_err());
        let mut callee = Callee::new(true, 3, 100);
        for call in (0..).step_by(4).take(TABLE_MIN) {
            assert!(matches!(callee.cancel(call), Ok(None)));
        }
        assert!(callee.cancel(4 * TABLE_MIN as u64).is_err());
    }
}
