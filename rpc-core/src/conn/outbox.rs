//! Requests and responses that are to be delivered: what goes next, what must go again, what has arrived.
//!
//! Small messages (one frame) go before parts of large ones, and the control lane goes before everything. Of the large
//! messages the one with the least left goes first; every eighth part is of the oldest, so that none starves.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use super::ranges::RangeSet;
use super::sent::{Key, SentFrame};
use super::table::CallTable;
use crate::runtime::Instant;
use crate::wire::frame::{self, PART_OVERHEAD_MAX, PartHead, REQUEST_OVERHEAD_MAX, RESPONSE_OVERHEAD_MAX};
use crate::wire::{Form, Lane, varint};

/// What a message says besides its body.
#[derive(Clone, Copy, Debug)]
pub(super) enum Head {
    Request { method: u32, idempotent: bool, form: Form, deadline: Instant },
    Response { status: u64, form: Form },
}

/// The two points in time that a request is written with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    pub(super) now: Instant,
    /// Origin of the connection clock.
    pub(super) start: Instant,
}

/// The messages on their way out.
#[derive(Debug)]
pub(super) struct Outbox {
    messages: Messages,
    /// Frames that fit one packet; a message is small when its frame is not longer.
    payload_max: usize,
    /// Small messages to be sent, per lane. May hold names of messages that are gone.
    small: [VecDeque<Key>; 3],
    /// Large messages that wait for the window, per lane. May hold names of messages that are gone.
    waiting: [VecDeque<Key>; 3],
    /// Started large messages with bytes to send, per lane: bytes left, age, name.
    by_remaining: [BTreeSet<(u64, u64, Key)>; 3],
    /// The same by age, without the control lane.
    by_age: BTreeMap<u64, Key>,
    /// What the peer allows to be started, per lane.
    window: u64,
    /// Bytes of started large messages, per lane.
    started: [u64; 3],
    /// Cancelled requests that the peer may still hold buffers for, until it acknowledges the CANCEL.
    cancelled: BTreeMap<u64, (Lane, u64)>,
    age_next: u64,
    parts_written: u64,
}

/// A message on its way out.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) head: Head,
    pub(super) lane: Lane,
    pub(super) body: Bytes,
    /// Some byte of it was put into a packet.
    sent: bool,
    progress: Progress,
}

/// Messages by name.
#[derive(Debug, Default)]
struct Messages {
    requests: CallTable<Message>,
    responses: CallTable<Message>,
}

impl Messages {
    const fn of(&self, key: Key) -> &CallTable<Message> {
        if key.response { &self.responses } else { &self.requests }
    }

    const fn of_mut(&mut self, key: Key) -> &mut CallTable<Message> {
        if key.response { &mut self.responses } else { &mut self.requests }
    }

    const fn len(&self) -> usize {
        self.requests.len() + self.responses.len()
    }

    const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn contains(&self, key: Key) -> bool {
        self.get(key).is_some()
    }

    fn get(&self, key: Key) -> Option<&Message> {
        self.of(key).get(key.call)
    }

    fn get_mut(&mut self, key: Key) -> Option<&mut Message> {
        self.of_mut(key).get_mut(key.call)
    }

    fn insert(&mut self, key: Key, message: Message) {
        self.of_mut(key).insert(key.call, message);
    }

    fn remove(&mut self, key: Key) -> Option<Message> {
        self.of_mut(key).remove(key.call)
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = (Key, &mut Message)> {
        let requests =
            self.requests.iter_mut().map(|(call, message)| (Key { call, response: false }, message));
        let responses =
            self.responses.iter_mut().map(|(call, message)| (Key { call, response: true }, message));
        requests.chain(responses)
    }
}

#[derive(Debug)]
enum Progress {
    Small { queued: bool },
    Large(Box<Large>),
}

#[derive(Debug)]
struct Large {
    age: u64,
    started: bool,
    /// The receiver holds it back: only bytes below may be sent.
    granted: Option<u64>,
    /// First byte that was never sent.
    next: u64,
    /// Bytes below `next` to be sent again; never an acknowledged one.
    resend: RangeSet,
    acked: RangeSet,
    /// The bytes left under which it stands in `by_remaining`.
    listed: Option<u64>,
}

impl Outbox {
    pub(super) fn new(payload_max: usize) -> Self {
        Self {
            messages: Messages::default(),
            payload_max,
            small: Default::default(),
            waiting: Default::default(),
            by_remaining: Default::default(),
            by_age: BTreeMap::new(),
            window: 0,
            started: [0; 3],
            cancelled: BTreeMap::new(),
            age_next: 0,
            parts_written: 0,
        }
    }

    /// Nothing is on its way out.
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Something may be ready to be sent. False is certain.
    pub(super) fn has_queued(&self) -> bool {
        self.small.iter().chain(&self.waiting).any(|queue| !queue.is_empty())
            || self.by_remaining.iter().any(|order| !order.is_empty())
    }

    /// What a packet carries.
    pub(super) const fn payload_max(&self) -> usize {
        self.payload_max
    }

    /// Packets carry so much from now on. When that is less than before, a message that was small may have become
    /// large: it goes again from its start, in parts, and whichever form arrives first is the message.
    pub(super) fn set_payload_max(&mut self, payload_max: usize) {
        let shrinks = payload_max < self.payload_max;
        self.payload_max = payload_max;
        if !shrinks {
            return;
        }
        for (key, message) in self.messages.iter_mut() {
            let small = matches!(message.progress, Progress::Small { .. });
            if small && !is_small(key, &message.body, payload_max) {
                self.age_next += 1;
                message.progress = Progress::large(self.age_next);
                self.waiting[message.lane as usize].push_back(key);
            }
        }
    }

    /// The peer announced its window.
    pub(super) fn raise_window(&mut self, window: u64) {
        self.window = self.window.max(window);
    }

    /// The receiver of a message says how far it may be sent.
    pub(super) fn on_grant(&mut self, key: Key, upto: u64) {
        if let Some(Message { progress: Progress::Large(large), .. }) = self.messages.get_mut(key) {
            large.granted = large.granted.max(Some(upto));
            self.relist(key);
        }
    }

    /// Adds a message. The name must be free.
    pub(super) fn push(&mut self, key: Key, lane: Lane, head: Head, body: Bytes) {
        let progress = if is_small(key, &body, self.payload_max) {
            compact(&mut self.small[lane as usize], &self.messages);
            self.small[lane as usize].push_back(key);
            Progress::Small { queued: true }
        } else {
            compact(&mut self.waiting[lane as usize], &self.messages);
            self.waiting[lane as usize].push_back(key);
            self.age_next += 1;
            Progress::large(self.age_next)
        };
        self.messages.insert(key, Message { head, lane, body, sent: false, progress });
    }

    pub(super) fn contains(&self, key: Key) -> bool {
        self.messages.contains(key)
    }

    /// Whether some byte of a message may have reached the peer: it was put into a packet, or it is not here any more
    /// because it was delivered.
    pub(super) fn may_have_reached(&self, key: Key) -> bool {
        self.messages.get(key).is_none_or(|message| message.sent)
    }

    /// The size of every request that waits to be sent, by call.
    pub(super) fn request_sizes(&self) -> impl Iterator<Item = (u64, usize)> {
        self.messages.requests.iter().map(|(call, message)| (call, message.body.len()))
    }

    /// Drops a message that the peer holds no buffer for any more.
    pub(super) fn remove(&mut self, key: Key) {
        if let Some((lane, size)) = self.take(key) {
            self.started[lane as usize] -= size;
        }
    }

    /// Drops a request for which a CANCEL is sent; its share of the window is free when that is acknowledged.
    pub(super) fn remove_cancelled(&mut self, call: u64) {
        if let Some(charge) = self.take(Key { call, response: false }) {
            self.cancelled.insert(call, charge);
        }
    }

    /// The CANCEL of `call` arrived.
    pub(super) fn on_cancel_acked(&mut self, call: u64) {
        if let Some((lane, size)) = self.cancelled.remove(&call) {
            self.started[lane as usize] -= size;
        }
    }

    /// A frame arrived; the message if it is thereby delivered.
    pub(super) fn on_acked(&mut self, frame: SentFrame) -> Option<(Key, Message)> {
        let key = match frame {
            SentFrame::Message(key) => key,
            SentFrame::Part { key, offset, size } => {
                let message = self.messages.get_mut(key)?;
                let Progress::Large(large) = &mut message.progress else { return None };
                let end = offset + u64::from(size);
                large.acked.insert(offset, end);
                large.resend.remove(offset, end);
                if large.acked.total() < message.body.len() as u64 {
                    self.relist(key);
                    return None;
                }
                key
            }
            _ => return None,
        };
        let message = self.messages.remove(key)?;
        if let Some((lane, size)) = self.unlist(key, &message) {
            self.started[lane as usize] -= size;
        }
        Some((key, message))
    }

    /// A frame may be lost; true if it has to go again.
    pub(super) fn on_lost(&mut self, frame: SentFrame) -> bool {
        match frame {
            SentFrame::Message(key) => match self.messages.get_mut(key) {
                Some(Message { progress: Progress::Small { queued }, lane, .. }) if !*queued => {
                    *queued = true;
                    self.small[*lane as usize].push_front(key);
                    true
                }
                _ => false,
            },
            SentFrame::Part { key, offset, size } => {
                let Some(Message { progress: Progress::Large(large), .. }) = self.messages.get_mut(key)
                else {
                    return false;
                };
                let end = offset + u64::from(size);
                large.resend.insert(offset, end);
                large.resend.remove_all(&large.acked, offset, end);
                self.relist(key);
                true
            }
            _ => false,
        }
    }

    /// Writes as many frames as fit below `end` bytes of `buf`; true if there was one that did not fit.
    pub(super) fn fill(
        &mut self,
        buf: &mut Vec<u8>,
        end: usize,
        clock: Clock,
        frames: &mut Vec<SentFrame>,
    ) -> bool {
        self.start_waiting();
        self.fill_small(Lane::Control, buf, end, clock, frames)
            || self.fill_parts(true, buf, end, clock, frames)
            || self.fill_small(Lane::Normal, buf, end, clock, frames)
            || self.fill_small(Lane::Bulk, buf, end, clock, frames)
            || self.fill_parts(false, buf, end, clock, frames)
    }

    fn fill_small(
        &mut self,
        lane: Lane,
        buf: &mut Vec<u8>,
        end: usize,
        clock: Clock,
        frames: &mut Vec<SentFrame>,
    ) -> bool {
        while let Some(key) = self.small[lane as usize].front().copied() {
            if let Some(Message { head, body, sent, progress: Progress::Small { queued }, .. }) =
                self.messages.get_mut(key)
                && *queued
            {
                let size_max = body.len() + small_overhead(key, head, clock);
                if buf.len() + size_max > end {
                    return true;
                }
                match *head {
                    Head::Request { .. } => {
                        frame::put_request(buf, key.call, &request_head(head, lane, clock), body);
                    }
                    Head::Response { status, form } => {
                        frame::put_response(buf, key.call, status, lane, form, body);
                    }
                }
                *queued = false;
                *sent = true;
                frames.push(SentFrame::Message(key));
            }
            self.small[lane as usize].pop_front();
        }
        false
    }

    fn fill_parts(
        &mut self,
        control: bool,
        buf: &mut Vec<u8>,
        end: usize,
        clock: Clock,
        frames: &mut Vec<SentFrame>,
    ) -> bool {
        while let Some(key) = self.next_part(control) {
            let space = end.saturating_sub(buf.len());
            if space < PART_OVERHEAD_MAX + PART_SIZE_MIN {
                return true;
            }
            let Some(message) = self.messages.get_mut(key) else { return false };
            let Progress::Large(large) = &mut message.progress else { return false };
            let total = message.body.len() as u64;
            let (offset, limit) = large.resend.first().unwrap_or((large.next, total));
            let limit = limit.min(large.granted.unwrap_or(total));
            let head = match message.head {
                Head::Request { .. } => PartHead::Request(request_head(&message.head, message.lane, clock)),
                Head::Response { status, form } => PartHead::Response { status, form },
            };
            let size = (limit - offset).min((space - part_overhead(key, &head, offset, total, space)) as u64);
            let data = &message.body[offset as usize..(offset + size) as usize];
            frame::put_part(buf, key.call, message.lane, &head, offset, total, data);
            if offset < large.next {
                large.resend.remove(offset, offset + size);
            } else {
                large.next += size;
            }
            message.sent = true;
            frames.push(SentFrame::Part { key, offset, size: size as u32 });
            if !control {
                self.parts_written += 1;
            }
            self.relist(key);
        }
        false
    }

    fn next_part(&self, control: bool) -> Option<Key> {
        let [of_control, of_normal, of_bulk] = &self.by_remaining;
        if control {
            return of_control.first().map(|entry| entry.2);
        }
        if self.parts_written % OLDEST_EVERY == OLDEST_EVERY - 1 {
            return self.by_age.first_key_value().map(|entry| *entry.1);
        }
        of_normal.first().or_else(|| of_bulk.first()).map(|entry| entry.2)
    }

    /// Starts large messages in their order as far as the window allows.
    fn start_waiting(&mut self) {
        for lane in [Lane::Control, Lane::Normal, Lane::Bulk] {
            while let Some(key) = self.waiting[lane as usize].front().copied() {
                if let Some(Message { progress: Progress::Large(large), body, .. }) =
                    self.messages.get_mut(key)
                    && !large.started
                {
                    let (size, started) = (body.len() as u64, &mut self.started[lane as usize]);
                    if *started > 0 && *started + size > self.window {
                        break;
                    }
                    *started += size;
                    large.started = true;
                    self.relist(key);
                }
                self.waiting[lane as usize].pop_front();
            }
        }
    }

    /// Puts a started large message where it belongs in the order of what goes next.
    fn relist(&mut self, key: Key) {
        let Some(message) = self.messages.get_mut(key) else { return };
        let Progress::Large(large) = &mut message.progress else { return };
        let remaining = message.body.len() as u64 - large.next + large.resend.total();
        let first = large.resend.first().map_or(large.next, |range| range.0);
        let granted = large.granted.is_none_or(|upto| first < upto);
        let listed = (large.started && remaining > 0 && granted).then_some(remaining);
        if listed == large.listed {
            return;
        }
        let order = &mut self.by_remaining[message.lane as usize];
        if let Some(before) = large.listed {
            order.remove(&(before, large.age, key));
        }
        if let Some(remaining) = listed {
            order.insert((remaining, large.age, key));
        }
        if message.lane != Lane::Control {
            match (large.listed, listed) {
                (None, Some(_)) => drop(self.by_age.insert(large.age, key)),
                (Some(_), None) => drop(self.by_age.remove(&large.age)),
                _ => {}
            }
        }
        large.listed = listed;
    }

    /// Entries of the queues.
    #[cfg(test)]
    pub(super) fn queued(&self) -> usize {
        self.small.iter().chain(&self.waiting).map(VecDeque::len).sum()
    }

    /// Takes a message out; what it holds of the window if it is large and was started.
    fn take(&mut self, key: Key) -> Option<(Lane, u64)> {
        let message = self.messages.remove(key)?;
        self.unlist(key, &message)
    }

    /// Forgets where a message stood that was taken out; what it holds of the window.
    fn unlist(&mut self, key: Key, message: &Message) -> Option<(Lane, u64)> {
        let Progress::Large(large) = &message.progress else { return None };
        if let Some(remaining) = large.listed {
            self.by_remaining[message.lane as usize].remove(&(remaining, large.age, key));
            self.by_age.remove(&large.age);
        }
        large.started.then_some((message.lane, message.body.len() as u64))
    }
}

impl Progress {
    /// A large message of which nothing was sent.
    fn large(age: u64) -> Self {
        Self::Large(Box::new(Large {
            age,
            started: false,
            granted: None,
            next: 0,
            resend: RangeSet::default(),
            acked: RangeSet::default(),
            listed: None,
        }))
    }
}

/// Whether the frame of a message fits one packet.
fn is_small(key: Key, body: &[u8], payload_max: usize) -> bool {
    let overhead = if key.response { RESPONSE_OVERHEAD_MAX } else { REQUEST_OVERHEAD_MAX };
    body.len() + overhead <= payload_max
}

/// Forgets names of messages that are gone when they are most of a queue that cannot be sent.
fn compact(queue: &mut VecDeque<Key>, messages: &Messages) {
    if queue.len() > 2 * messages.len() + QUEUE_SLACK {
        queue.retain(|key| messages.contains(*key));
    }
}

fn request_head(head: &Head, lane: Lane, clock: Clock) -> frame::RequestHead {
    let (method, idempotent, form, deadline) = match *head {
        Head::Request { method, idempotent, form, deadline } => (method, idempotent, form, deadline),
        Head::Response { form, .. } => (0, false, form, clock.now),
    };
    let micros = |from: Instant, to: Instant| u64::try_from((to - from).as_micros()).unwrap_or(u64::MAX);
    frame::RequestHead {
        method,
        lane,
        idempotent,
        form,
        left_us: micros(clock.now, deadline),
        sent_us: micros(clock.start, clock.now),
    }
}

/// What the frame of a small message adds to its body, at most: exact but for the length.
fn small_overhead(key: Key, head: &Head, clock: Clock) -> usize {
    1 + varint::size(key.call)
        + 1
        + 4
        + match head {
            Head::Response { status, .. } => varint::size(*status),
            Head::Request { method, .. } => {
                let head = request_head(head, Lane::Normal, clock);
                varint::size(u64::from(*method)) + varint::size(head.left_us) + varint::size(head.sent_us)
            }
        }
}

/// What a PART frame that fills `space` adds to its data.
fn part_overhead(key: Key, head: &PartHead, offset: u64, total: u64, space: usize) -> usize {
    let head = match head {
        _ if offset > 0 => 0,
        PartHead::Response { status, .. } => varint::size(*status),
        PartHead::Request(head) => {
            varint::size(u64::from(head.method)) + varint::size(head.left_us) + varint::size(head.sent_us)
        }
    };
    let length = varint::size(space as u64);
    1 + varint::size(key.call) + 1 + varint::size(offset) + varint::size(total) + head + length
}

/// A part shorter than this is not worth its header; it waits for the next packet.
const PART_SIZE_MIN: usize = 64;
/// Names of messages that are gone which a queue may hold besides as many as there are messages.
const QUEUE_SLACK: usize = 64;
/// One part in so many is of the oldest large message.
const OLDEST_EVERY: u64 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn clock() -> Clock {
        Clock { now: Instant::from_nanos(5_000), start: Instant::default() }
    }

    fn push(outbox: &mut Outbox, call: u64, lane: Lane, size: usize) -> Key {
        let key = Key { call, response: true };
        outbox.push(key, lane, Head::Response { status: 0, form: Form::default() }, vec![7; size].into());
        key
    }

    fn fill(outbox: &mut Outbox) -> Vec<SentFrame> {
        let (mut buf, mut frames) = (Vec::new(), Vec::new());
        outbox.fill(&mut buf, 1_171, clock(), &mut frames);
        assert!(buf.len() <= 1_171);
        frames
    }

    fn parts_of(key: Key, frames: &[SentFrame]) -> usize {
        frames.iter().filter(|frame| matches!(frame, SentFrame::Part { key: k, .. } if *k == key)).count()
    }

    #[test]
    fn lanes_and_sizes_decide_what_goes_first() {
        let mut outbox = Outbox::new(1_171);
        outbox.raise_window(1 << 20);
        let long = push(&mut outbox, 0, Lane::Normal, 10_000);
        let bulk = push(&mut outbox, 2, Lane::Bulk, 2_000);
        let short = push(&mut outbox, 4, Lane::Normal, 1_300);
        let small = push(&mut outbox, 6, Lane::Normal, 10);
        let beat = push(&mut outbox, 8, Lane::Control, 10);
        let note = push(&mut outbox, 10, Lane::Bulk, 10);
        let plan = push(&mut outbox, 12, Lane::Control, 2_000);
        let late = push(&mut outbox, 14, Lane::Normal, 10);
        let mut order = Vec::new();
        for _ in 0..30 {
            for frame in fill(&mut outbox) {
                let (SentFrame::Message(key) | SentFrame::Part { key, .. }) = frame else { continue };
                if !order.contains(&key) {
                    order.push(key);
                }
            }
        }
        assert_eq!(order, [beat, plan, small, late, note, short, long, bulk]);
    }

    #[test]
    fn every_eighth_part_is_of_the_oldest_while_shorter_ones_keep_coming() {
        let mut outbox = Outbox::new(1_171);
        outbox.raise_window(1 << 30);
        let old = push(&mut outbox, 0, Lane::Bulk, 1 << 20);
        let mut parts = 0;
        for call in 1..=400 {
            push(&mut outbox, 2 * call, Lane::Normal, 1_300);
            parts += parts_of(old, &fill(&mut outbox));
        }
        assert!((50..=110).contains(&parts), "{parts} parts of the oldest in 400 packets");
    }

    #[test]
    fn what_was_acknowledged_is_not_sent_again_when_a_copy_is_lost() {
        let mut outbox = Outbox::new(1_171);
        let key = push(&mut outbox, 0, Lane::Normal, 2_000);
        let first = fill(&mut outbox)[0];
        fill(&mut outbox);
        assert!(outbox.on_acked(first).is_none());
        assert!(outbox.on_lost(first));
        assert!(fill(&mut outbox).is_empty());
        assert!(outbox.on_lost(SentFrame::Part { key, offset: 0, size: 2_000 }));
        let again = fill(&mut outbox);
        let SentFrame::Part { offset, .. } = again[0] else { panic!("{again:?}") };
        assert!(offset > 1_000);
        let delivered = outbox.on_acked(SentFrame::Part { key, offset: 0, size: 2_000 });
        assert_eq!(delivered.map(|(key, message)| (key, message.body.len())), Some((key, 2_000)));
        assert!(outbox.is_empty() && outbox.started == [0; 3]);
    }

    #[test]
    fn what_arrives_after_it_was_given_up_is_not_sent_again_and_what_is_lost_goes_before_what_waits() {
        let mut outbox = Outbox::new(1_171);
        outbox.raise_window(1 << 20);
        let key = push(&mut outbox, 0, Lane::Normal, 2_000);
        assert!(!outbox.may_have_reached(key));
        let first = fill(&mut outbox)[0];
        assert!(outbox.may_have_reached(key), "a part of it");
        assert!(outbox.on_lost(first));
        assert!(outbox.on_acked(first).is_none());
        let SentFrame::Part { offset, .. } = fill(&mut outbox)[0] else { panic!("no part") };
        assert!(offset > 1_000);
        assert!(fill(&mut outbox).is_empty());
        let lost = push(&mut outbox, 2, Lane::Normal, 10);
        let frames = fill(&mut outbox);
        let waits = push(&mut outbox, 4, Lane::Normal, 10);
        assert!(outbox.on_lost(frames[0]) && !outbox.on_lost(frames[0]));
        assert_eq!(fill(&mut outbox), [SentFrame::Message(lost), SentFrame::Message(waits)]);
    }

    /// Sends all that may be sent: how many bytes of each message.
    fn drain(outbox: &mut Outbox) -> BTreeMap<u64, u64> {
        let mut sent = BTreeMap::new();
        while let frames = fill(outbox)
            && !frames.is_empty()
        {
            for frame in frames {
                let SentFrame::Part { key, size, .. } = frame else { panic!("{frame:?}") };
                *sent.entry(key.call).or_default() += u64::from(size);
            }
        }
        sent
    }

    #[test]
    fn the_window_holds_what_is_started_and_one_message_may_always_go() {
        let mut outbox = Outbox::new(1_171);
        outbox.raise_window(3_000);
        // Overtaken by the one before.
        outbox.raise_window(2_000);
        let key = push(&mut outbox, 0, Lane::Normal, 5_000);
        for (call, size) in [(2, 1_400), (4, 1_600), (6, 1_400)] {
            push(&mut outbox, call, Lane::Normal, size);
        }
        push(&mut outbox, 8, Lane::Bulk, 2_000);
        assert_eq!(drain(&mut outbox), [(0, 5_000), (8, 2_000)].into(), "each lane has a window");
        outbox.remove(key);
        assert_eq!(drain(&mut outbox), [(2, 1_400), (4, 1_600)].into());
    }

    #[test]
    fn a_grant_holds_back_and_never_takes_back() {
        let mut outbox = Outbox::new(1_171);
        outbox.raise_window(1 << 20);
        let key = push(&mut outbox, 0, Lane::Normal, 5_000);
        outbox.on_grant(key, 0);
        assert_eq!(drain(&mut outbox), BTreeMap::new());
        outbox.on_grant(key, 2_500);
        assert_eq!(drain(&mut outbox), [(0, 2_500)].into());
        // Overtaken by the one before.
        outbox.on_grant(key, 1_000);
        assert!(outbox.on_lost(SentFrame::Part { key, offset: 1_500, size: 1_000 }));
        assert_eq!(drain(&mut outbox), [(0, 1_000)].into());
        outbox.on_grant(key, 5_000);
        assert_eq!(drain(&mut outbox), [(0, 2_500)].into());
    }

    #[test]
    fn a_cancelled_request_holds_its_share_of_the_window_until_the_peer_knows() {
        let mut outbox = Outbox::new(1_171);
        outbox.raise_window(3_000);
        let request = |outbox: &mut Outbox, call| {
            let head =
                Head::Request { method: 1, idempotent: false, form: Form::default(), deadline: clock().now };
            outbox.push(Key { call, response: false }, Lane::Normal, head, vec![1; 2_000].into());
        };
        request(&mut outbox, 0);
        assert!(!fill(&mut outbox).is_empty());
        outbox.remove_cancelled(0);
        request(&mut outbox, 2);
        assert!(fill(&mut outbox).is_empty());
        outbox.on_cancel_acked(0);
        assert!(!fill(&mut outbox).is_empty());
    }
}
