//! What is behind a source: items that arrived, put in order, and the credit that was given for more.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::outlet::{Push, stranded};
use super::{Outlet, TRAVELLED, Window, nowhere};
use crate::rpc::error::{Code, Outcome, RpcError};
use crate::rpc::handle::{Carried, Carrier, HandleId, Kind};

/// The consuming end of a stream, without the items' type.
pub(crate) struct Inlet {
    window: Window,
    state: Mutex<State>,
}

struct State {
    from: From,
    /// What carried the producer is gone: this side has one connection to find it on, or none.
    settled: bool,
    /// Totals that were granted, that arrived, that the reader is done with.
    granted: Window,
    arrived: Window,
    consumed: Window,
    /// The number of the first item that is missing.
    next: u64,
    /// What came before its turn, by its first item, with the number after its last.
    early: BTreeMap<u64, (u64, Bytes)>,
    ready: VecDeque<Bytes>,
    /// The number after the last item, and why there are no more.
    end: Option<(u64, Option<RpcError>)>,
    stopped: bool,
    /// Something is to be said to the producer.
    grant_due: bool,
    stop_due: bool,
    waker: Option<Waker>,
}

/// Where the items come from.
enum From {
    /// The producer is on this side.
    Here(Weak<Outlet>),
    /// The producer is in the body of a call.
    Travelling,
    /// The producer is at a peer.
    There(Carrier, HandleId),
    /// This end itself travelled, or the stream is over.
    Gone,
}

/// What a consumer has to say to its producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// So many items and bytes since the beginning may come.
    Grant(Window),
    /// Nothing more is wanted.
    Stop,
}

/// Both ends, on this side.
pub(super) fn pair(window: Window) -> (Arc<Outlet>, Arc<Inlet>) {
    let mut outlet = None;
    let inlet = Arc::new_cyclic(|inlet| {
        let made = outlet.insert(Arc::new(Outlet::here(window, Weak::clone(inlet))));
        Inlet::new(window, From::Here(Arc::downgrade(made)))
    });
    (outlet.expect("the closure has run"), inlet)
}

impl Inlet {
    /// The consumer for a source that the peer passed.
    pub(crate) fn import(carrier: &Carrier, id: HandleId, window: Window) -> Result<Arc<Self>, &'static str> {
        let inlet = Arc::new(Self::there(carrier.clone(), id, window));
        carrier.0.import(id, Arc::<Self>::clone(&inlet))?;
        carrier.clone().0.stir(id);
        Ok(inlet)
    }

    /// The consumer of a stream that a peer produces; the first grant is due.
    fn there(carrier: Carrier, id: HandleId, window: Window) -> Self {
        let inlet = Self::new(window, From::There(carrier, id));
        {
            let mut state = inlet.lock();
            (state.grant_due, state.settled) = (true, true);
        }
        inlet
    }

    /// A consumer that nobody produces for.
    pub(super) fn nowhere() -> Arc<Self> {
        let inlet = Self::new(Window::MAX, From::Gone);
        inlet.lock().end = Some((0, Some(nowhere())));
        Arc::new(inlet)
    }

    fn new(window: Window, from: From) -> Self {
        let none = Window { items: 0, bytes: 0 };
        let state = State {
            from,
            settled: false,
            granted: window,
            arrived: none,
            consumed: none,
            next: 0,
            early: BTreeMap::new(),
            ready: VecDeque::new(),
            end: None,
            stopped: false,
            grant_due: false,
            stop_due: false,
            waker: None,
        };
        Self { window, state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Items arrived. True when nothing more can arrive.
    ///
    /// # Errors
    /// When nobody wants them, or they break the rules of streams, which ends this one.
    pub(crate) fn push(&self, push: Push) -> Result<bool, RpcError> {
        let mut state = self.lock();
        if state.stopped {
            return Err(RpcError::not_executed(Code::Cancelled, "the consumer is gone"));
        }
        match state.push(push) {
            Ok(()) => {
                let complete = state.is_complete();
                let waker = state.waker.take();
                drop(state);
                if let Some(waker) = waker {
                    waker.wake();
                }
                Ok(complete)
            }
            Err(what) => {
                drop(state);
                let error = RpcError::new(Code::BadRequest, Outcome::NotExecuted, what);
                self.fail(error.clone());
                Err(error)
            }
        }
    }

    /// Items in order; `None` when the stream is complete.
    pub(super) fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, RpcError>>> {
        let mut state = self.lock();
        if let Some(items) = state.ready.pop_front() {
            return Poll::Ready(Some(Ok(items)));
        }
        match &state.end {
            Some((end, error)) if *end <= state.next => Poll::Ready(error.clone().map(Err)),
            _ => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// The reader is done with one item of `size` bytes.
    pub(super) fn consumed(&self, size: u64) {
        let mut state = self.lock();
        state.consumed = state.consumed.plus(1, size);
        let left_items = state.granted.items.saturating_sub(state.consumed.items);
        let left_bytes = state.granted.bytes.saturating_sub(state.consumed.bytes);
        let low = left_items <= self.window.items / 2 || left_bytes <= self.window.bytes / 2;
        if low && state.end.is_none() && !state.grant_due {
            state.grant_due = true;
            self.speak(state);
        }
    }

    /// The reader wants nothing more.
    pub(super) fn stop(&self) {
        let mut state = self.lock();
        if state.stopped || matches!(state.from, From::Gone) {
            return;
        }
        state.stopped = true;
        (state.ready, state.early) = (VecDeque::new(), BTreeMap::new());
        state.stop_due = !state.is_complete();
        self.speak(state);
    }

    /// What is to be said to the producer now. The flag is taken back: it will be said.
    pub(crate) fn next_word(&self) -> Option<Word> {
        let mut state = self.lock();
        if std::mem::take(&mut state.stop_due) {
            return Some(Word::Stop);
        }
        if !std::mem::take(&mut state.grant_due) || state.stopped || state.end.is_some() {
            return None;
        }
        state.granted = state.consumed.plus(self.window.items, self.window.bytes);
        Some(Word::Grant(state.granted))
    }

    /// This end travels: gives the producer that stays.
    pub(super) fn travel(&self) -> Result<Arc<Outlet>, &'static str> {
        let mut state = self.lock();
        let From::Here(outlet) = &state.from else { return Err(TRAVELLED) };
        let outlet = outlet.upgrade().ok_or(TRAVELLED)?;
        state.from = From::Gone;
        drop(state);
        if outlet.await_consumer() { Ok(outlet) } else { Err(TRAVELLED) }
    }

    /// The producer travels.
    pub(super) fn await_producer(&self) {
        self.lock().from = From::Travelling;
    }

    /// No more items can arrive, because of `error`; the reader gets it after those that are in order.
    pub(crate) fn fail(&self, error: RpcError) {
        let mut state = self.lock();
        let from = std::mem::replace(&mut state.from, From::Gone);
        if !state.is_complete() {
            state.early.clear();
            state.end = Some((state.next, Some(error)));
        }
        let waker = state.waker.take();
        drop(state);
        drop(from);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Lets the producer hear what is due.
    fn speak(&self, state: MutexGuard<'_, State>) {
        match &state.from {
            From::There(carrier, id) => {
                let (carrier, id) = (carrier.clone(), *id);
                drop(state);
                carrier.0.stir(id);
            }
            From::Here(outlet) => {
                let outlet = outlet.upgrade();
                drop(state);
                match (outlet, self.next_word()) {
                    (Some(outlet), Some(Word::Grant(limit))) => outlet.grant(limit),
                    (Some(outlet), Some(Word::Stop)) => outlet.fail(stopped()),
                    _ => {}
                }
            }
            From::Travelling | From::Gone => {}
        }
    }

    /// Bytes that arrived and were not given to the reader.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        let state = self.lock();
        let early: usize = state.early.values().map(|(_, items)| items.len()).sum();
        early + state.ready.iter().map(Bytes::len).sum::<usize>()
    }
}

impl Carried for Inlet {
    fn kind(&self) -> Kind {
        Kind::Sink(self.window)
    }

    fn attach(&self, carrier: &Carrier, id: HandleId) -> bool {
        let mut state = self.lock();
        let free = matches!(state.from, From::Travelling);
        if free {
            state.from = From::There(carrier.clone(), id);
            // The reader may have gone meanwhile.
            if state.stop_due {
                self.speak(state);
            }
        }
        free
    }

    fn detach(&self, error: &RpcError) {
        let mut state = self.lock();
        if state.is_fresh() && !state.settled {
            state.from = From::Travelling;
        } else {
            drop(state);
            self.fail(error.clone());
        }
    }

    fn strand(&self) {
        let mut state = self.lock();
        state.settled = true;
        if matches!(state.from, From::Travelling) {
            drop(state);
            self.fail(stranded());
        }
    }
}

impl fmt::Debug for Inlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inlet").field("window", &self.window).finish_non_exhaustive()
    }
}

impl State {
    /// Nothing of the stream has arrived.
    fn is_fresh(&self) -> bool {
        self.arrived.items == 0 && self.end.is_none()
    }

    /// All items have arrived, or none will.
    fn is_complete(&self) -> bool {
        self.end.as_ref().is_some_and(|(end, _)| *end <= self.next)
    }

    fn push(&mut self, push: Push) -> Result<(), &'static str> {
        let Push { first, count, items, end } = push;
        let after = first.checked_add(count).ok_or("a push beyond all numbers")?;
        if count > items.len() as u64 || (count == 0) != items.is_empty() || (count == 0 && end.is_none()) {
            return Err("a push whose count cannot be right");
        }
        self.arrived = self.arrived.plus(count, items.len() as u64);
        if !self.granted.holds(self.arrived) || after > self.granted.items {
            return Err("a push beyond the credit");
        }
        let before = self.early.range(..after).next_back().map_or(self.next, |(_, (after, _))| *after);
        if first < before {
            return Err("a push that overlaps another");
        }
        if self.end.as_ref().is_some_and(|(known, _)| after > *known || end.is_some()) {
            return Err("a push after the end");
        }
        if let Some(error) = end {
            let last = self.early.last_key_value().map_or(self.next, |(_, (after, _))| *after);
            if last > after {
                return Err("an end before items");
            }
            self.end = Some((after, error));
        }
        if count > 0 {
            self.early.insert(first, (after, items));
        }
        while let Some(entry) = self.early.first_entry() {
            if *entry.key() != self.next {
                break;
            }
            let (after, items) = entry.remove();
            self.next = after;
            self.ready.push_back(items);
        }
        Ok(())
    }
}

/// Why a producer need not go on.
pub(crate) fn stopped() -> RpcError {
    RpcError::new(Code::Cancelled, Outcome::Executed, "the consumer is gone")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SeededRandom;

    const WINDOW: Window = Window { items: 100, bytes: 400 };

    fn push(first: u64, count: u64, end: bool) -> Push {
        let items = (first..first + count).map(|number| number as u8).collect::<Vec<_>>().into();
        Push { first, count, items, end: end.then_some(None) }
    }

    fn take(inlet: &Inlet) -> Option<Vec<u8>> {
        let mut cx = Context::from_waker(Waker::noop());
        let mut taken = Vec::new();
        loop {
            match inlet.poll_take(&mut cx) {
                Poll::Ready(Some(Ok(items))) => taken.extend_from_slice(&items),
                Poll::Ready(Some(Err(_))) => return None,
                Poll::Ready(None) | Poll::Pending => return Some(taken),
            }
        }
    }

    #[test]
    fn pushes_in_any_order_come_out_in_order() {
        let mut random = SeededRandom::new(1);
        for _ in 0..500 {
            let inlet = Inlet::new(WINDOW, From::Travelling);
            let (mut pushes, mut first) = (Vec::new(), 0);
            while first < WINDOW.items {
                let count = (1 + random.below(9)).min(WINDOW.items - first);
                pushes.push(push(first, count, first + count == WINDOW.items));
                first += count;
            }
            let last = pushes.len() - 1;
            while !pushes.is_empty() {
                let next = pushes.swap_remove(random.below(pushes.len() as u64) as usize);
                let complete = inlet.push(next).unwrap();
                assert_eq!(complete, pushes.is_empty(), "of {last}");
            }
            assert_eq!(inlet.held(), 100);
            assert_eq!(take(&inlet), Some((0..100).collect()));
            assert_eq!(take(&inlet), Some(vec![]), "the end");
        }
    }

    #[test]
    fn a_producer_that_breaks_the_rules_ends_its_stream() {
        let empty = Bytes::new();
        let hostile: [&[Push]; 13] = [
            &[push(0, 101, false)],
            &[push(99, 2, false)],
            &[Push { first: u64::MAX, ..push(0, 1, false) }],
            &[push(0, 5, false), push(4, 3, false)],
            &[push(5, 5, false), push(4, 2, false)],
            &[push(5, 5, false), push(6, 1, false)],
            &[push(0, 2, true), push(2, 1, false)],
            &[push(5, 5, false), push(0, 2, true)],
            &[push(5, 5, true), push(0, 5, true)],
            &[push(5, 5, true), push(10, 1, false)],
            &[Push { first: 0, count: 0, items: empty.clone(), end: None }],
            &[Push { first: 0, count: 0, items: Bytes::from_static(&[1]), end: Some(None) }],
            &[Push { first: 0, count: 2, items: Bytes::from_static(&[1]), end: None }],
        ];
        for pushes in hostile {
            let inlet = Inlet::new(WINDOW, From::Travelling);
            let (last, honest) = pushes.split_last().unwrap();
            for push in honest {
                inlet.push(push.clone()).unwrap();
            }
            assert_eq!(inlet.push(last.clone()).unwrap_err().code, Code::BadRequest, "{pushes:?}");
            assert!(inlet.held() <= 100, "what came too early is dropped");
            let mut cx = Context::from_waker(Waker::noop());
            while let taken = inlet.poll_take(&mut cx)
                && !matches!(taken, Poll::Ready(None | Some(Err(_))))
            {
                assert!(taken.is_ready(), "the reader waits after {pushes:?}");
            }
            assert_eq!(inlet.held(), 0);
        }
        let long = Push { first: 0, count: 1, items: vec![0; 401].into(), end: None };
        assert!(Inlet::new(WINDOW, From::Travelling).push(long).is_err(), "more bytes than granted");
        let lost = Push { first: 0, count: 0, items: empty, end: Some(Some(stopped())) };
        let inlet = Inlet::new(WINDOW, From::Travelling);
        assert_eq!(inlet.push(lost), Ok(true));
        assert_eq!(take(&inlet), None);
    }

    #[test]
    fn credit_comes_back_when_half_of_it_is_used_up() {
        let inlet = Inlet::new(WINDOW, From::Travelling);
        inlet.push(push(0, 100, false)).unwrap();
        assert_eq!(take(&inlet).unwrap().len(), 100);
        for consumed in 1..=49 {
            inlet.consumed(1);
            assert_eq!(inlet.next_word(), None, "after {consumed}");
        }
        inlet.consumed(1);
        assert_eq!(inlet.next_word(), Some(Word::Grant(Window { items: 150, bytes: 450 })));
        assert_eq!(inlet.next_word(), None);
    }

    #[test]
    fn the_end_comes_after_all_items_and_nothing_changes_it_then() {
        let inlet = Inlet::new(WINDOW, From::Travelling);
        assert_eq!(inlet.push(push(5, 5, true)), Ok(false));
        assert!(inlet.poll_take(&mut Context::from_waker(Waker::noop())).is_pending(), "five are missing");
        assert_eq!(inlet.push(push(0, 5, false)), Ok(true));
        inlet.fail(stopped());
        assert_eq!(take(&inlet), Some((0..10).collect()), "the connection is lost after the end");
    }

    #[test]
    fn a_reader_that_stopped_holds_nothing_takes_nothing_and_says_so_once() {
        let inlet = Inlet::new(WINDOW, From::Travelling);
        inlet.push(push(0, 60, false)).unwrap();
        inlet.push(push(70, 5, false)).unwrap();
        (0..60).for_each(|_| inlet.consumed(1));
        inlet.stop();
        inlet.stop();
        assert_eq!((inlet.held(), inlet.next_word(), inlet.next_word()), (0, Some(Word::Stop), None));
        inlet.stop();
        assert_eq!(inlet.next_word(), None);
        assert_eq!(inlet.push(push(60, 1, false)).unwrap_err().code, Code::Cancelled);
        assert_eq!(inlet.held(), 0);
    }

    #[test]
    fn a_stream_that_is_complete_is_neither_stopped_nor_granted_more() {
        let inlet = Inlet::new(WINDOW, From::Travelling);
        inlet.push(push(0, 60, false)).unwrap();
        (0..50).for_each(|_| inlet.consumed(1));
        inlet.push(push(60, 1, true)).unwrap();
        assert_eq!(inlet.next_word(), None);
        inlet.stop();
        assert_eq!(inlet.next_word(), None);
    }

    #[test]
    fn credit_also_comes_back_when_half_of_the_bytes_are_used_up() {
        let inlet = Inlet::new(WINDOW, From::Travelling);
        let long = |first| Push { first, count: 1, items: vec![0; 100].into(), end: None };
        inlet.push(long(0)).unwrap();
        inlet.push(long(1)).unwrap();
        inlet.consumed(100);
        assert_eq!(inlet.next_word(), None);
        inlet.consumed(100);
        assert_eq!(inlet.next_word(), Some(Word::Grant(Window { items: 102, bytes: 600 })));
    }
}
