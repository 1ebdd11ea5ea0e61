//! Packets in: what each frame does.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use super::callee::{Admission, Answer, Receiving, Serving};
use super::caller::Arriving;
use super::path::NewPath;
use super::{
    CLOSING_MAX, COOKIES_MAX, CallId, Conn, Cx, Datagram, Event, Head, Key, LostReason, Phase, SentFrame,
    Third,
};
use crate::plant;
use crate::runtime::Instant;
use crate::wire::frame::{Ack, Frame, Part, PartHead, RequestHead};
use crate::wire::packet::{self, SHORT_HEADER_SIZE};
use crate::wire::seal::Keys;
use crate::wire::setup::{Message, Params};
use crate::wire::varint::Reader;
use crate::wire::{Ecn, Form, Lane, Malformed, Marks, VERSION, close, status};

impl Conn {
    /// An INIT for this connection came again; false if it is not the one that was accepted.
    pub(crate) fn on_init_again(&mut self, first: &Bytes) -> bool {
        let Phase::Accepting { accepted, due, .. } = &mut self.phase else { return true };
        if accepted.first != first {
            return false;
        }
        // The REPLY may be lost.
        *due = true;
        true
    }

    /// The peer wants to see a cookie before it answers.
    pub(crate) fn on_retry(&mut self, cx: &mut Cx<'_>, cookie: Bytes) {
        match &mut self.phase {
            Phase::Connecting { attempt, due, .. } if attempt.cookies < COOKIES_MAX => {
                attempt.cookies += 1;
                attempt.init.cookie = Bytes::copy_from_slice(&cookie);
                attempt.setup = attempt.init.datagram(self.id.0);
                *due = true;
            }
            _ => cx.counters.dropped_unexpected += 1,
        }
    }

    /// A REPLY came; true if it completes the exchange for us.
    pub(crate) fn on_reply(&mut self, cx: &mut Cx<'_>, message: &Bytes) -> Result<bool, Malformed> {
        let Phase::Connecting { attempt, sent, next, backoff, .. } = &mut self.phase else {
            cx.counters.dropped_unexpected += 1;
            return Ok(false);
        };
        let Ok(payload) = attempt.handshake.read(message) else {
            cx.counters.dropped_bad_seal += 1;
            return Ok(false);
        };
        let (remote_id, peer) = Params::read_second(payload)?;
        let identity = attempt.handshake.identity();
        if !cx.security.allows(&identity) {
            cx.counters.refused_identities += 1;
            self.end(cx, LostReason::Refused { identity }, None);
            return Ok(false);
        }
        if cx.security.has_third_message() {
            let message = attempt.handshake.write(&attempt.params).map_err(|_| Malformed("handshake"))?;
            let third = Message { mode: cx.security.wire_mode(), message: message.into() };
            self.third =
                Some(Third::new(cx.now, cx.now + cx.config.setup_timeout, third.third(remote_id, self.id.0)));
        }
        self.keys = Keys::new(cx.now, attempt.handshake.secrets());
        self.identity = identity;
        // Which INIT a REPLY answers is only known when there was one (RFC 6298 section 3, Karn).
        if *sent == 1 {
            self.recovery.rtt.update(cx.now - (*next - *backoff), Duration::ZERO);
        }
        self.remote_id = remote_id;
        self.peer = Some(peer);
        self.establish(cx);
        Ok(true)
    }

    /// The third message of the handshake came.
    pub(crate) fn on_third(&mut self, cx: &mut Cx<'_>, message: &Bytes) -> Result<(), Malformed> {
        let Phase::Accepting { accepted, .. } = &mut self.phase else {
            cx.counters.dropped_duplicate += 1;
            return Ok(());
        };
        let Some(pending) = &mut accepted.pending else {
            cx.counters.dropped_unexpected += 1;
            return Ok(());
        };
        let Ok((payload, handshake)) = pending.complete(message) else {
            cx.counters.dropped_bad_seal += 1;
            return Ok(());
        };
        let peer = Params::read_only(payload)?;
        self.identity = handshake.identity();
        self.keys = Keys::new(cx.now, handshake.secrets());
        if !cx.security.allows(&self.identity) {
            cx.counters.refused_identities += 1;
            // The layer above has not heard of the connection.
            let until = cx.now + CLOSING_MAX;
            let reason = format!("not allowed here: {}", self.identity);
            self.phase = Phase::Closing { code: close::UNAUTHORIZED, reason, due: true, repeats: 0, until };
            return Ok(());
        }
        self.peer = Some(peer);
        self.establish(cx);
        Ok(())
    }

    /// The peer, or somebody who saw our INIT, speaks other versions than the one that was offered.
    pub(crate) fn on_version_negotiation(&mut self, cx: &mut Cx<'_>, supported: Vec<u32>) {
        match &mut self.phase {
            // A list with our version in it does not answer our INIT.
            Phase::Connecting { attempt, .. } if !supported.contains(&VERSION) => {
                // Nothing says that it is the peer's. With encryption a REPLY would, so it may still come.
                if cx.security.is_encrypted() {
                    attempt.supported = Some(supported);
                } else {
                    self.end(cx, LostReason::Version { supported }, None);
                }
            }
            _ => cx.counters.dropped_unexpected += 1,
        }
    }

    /// Somebody at the peer's address does not know a packet that we may have sent; true if the connection may be gone.
    pub(crate) fn on_reset(&mut self, cx: &mut Cx<'_>, pn_low: u32) -> bool {
        let was_sent = u64::from(pn_low) < self.recovery.pn_next();
        if !was_sent || matches!(self.phase, Phase::Connecting { .. } | Phase::Accepting { .. }) {
            return false;
        }
        if matches!(self.keys, Keys::Sealed(_)) && self.is_established() {
            // Any holder of the shared key can sign a reset, also for a connection that is well: only silence shows.
            if self.doubted_until.is_none() {
                self.doubted_until = Some(cx.now + self.recovery.pto() * 3);
                self.ping_due = true;
            }
        } else {
            self.on_peer_restarted(cx);
        }
        true
    }

    /// A data packet came.
    pub(crate) fn on_packet(&mut self, cx: &mut Cx<'_>, pn_low: u32, datagram: Datagram) {
        let Datagram { from, ecn, contents: datagram } = datagram;
        if from != self.remote && !self.is_established() {
            cx.counters.dropped_unexpected_address += 1;
            return;
        }
        if matches!(self.phase, Phase::Connecting { .. } | Phase::Ended { .. } | Phase::Gone)
            || self.keys.is_none()
        {
            cx.counters.dropped_unexpected += 1;
            return;
        }
        let pn = packet::expand_packet_number(self.received.largest(), pn_low);
        if self.received.is_duplicate(pn) {
            cx.counters.dropped_duplicate += 1;
            return;
        }
        let (keep, size) = (self.recovery.pto() * 3, datagram.len());
        let Some(payload) = self.keys.open(cx.now, keep, pn, datagram, SHORT_HEADER_SIZE) else {
            match self.keys {
                Keys::Sealed(_) => cx.counters.dropped_bad_seal += 1,
                Keys::None | Keys::Insecure => cx.counters.dropped_bad_checksum += 1,
            }
            return;
        };
        match &mut self.phase {
            Phase::Open => {}
            Phase::Accepting { .. } => self.establish(cx),
            Phase::Closing { due, .. } => {
                *due = true;
                return;
            }
            Phase::Connecting { .. } | Phase::Ended { .. } | Phase::Gone => return,
        }
        self.heard = cx.now;
        self.third = None;
        self.doubted_until = None;
        if cx.budget.is_tight() && !self.has_room(cx, &payload) {
            cx.counters.dropped_reassembly_max += 1;
            return;
        }
        let newest = self.received.largest().is_none_or(|largest| pn > largest);
        match self.on_frames(cx, from, &payload) {
            Ok(ack_eliciting) => {
                cx.counters.marks_received += u64::from(ecn == Ecn::Ce);
                self.received.on_packet(cx.now, pn, ecn, ack_eliciting, cx.config.ack_delay_max);
                self.on_address(cx, from, newest, size);
            }
            Err(Malformed(what)) => {
                cx.counters.dropped_bad_frame += 1;
                self.end(cx, LostReason::Violation(what), Some((close::VIOLATION, what)));
            }
        }
    }

    /// Whether there is memory for every large message that begins in a packet. If not the packet counts as lost: what
    /// was acknowledged would never come again.
    fn has_room(&mut self, cx: &mut Cx<'_>, payload: &Bytes) -> bool {
        let mut reader = Reader::new(payload);
        let mut room = true;
        while !reader.is_empty() {
            // What cannot be read is found again by who reads it in earnest.
            let Ok(frame) = Frame::read(&mut reader) else { return true };
            let Frame::Part(part) = frame else { continue };
            let new = if part.response {
                matches!(self.caller.response(part.call), Some(None))
            } else {
                !self.draining && matches!(self.callee.admission(part.call), Ok(Admission::New))
            };
            if !new {
                continue;
            }
            let (may_open, hold) = self.intake.may_open(cx.budget, &part);
            room &= may_open;
            if hold {
                cx.counters.messages_held += 1;
                self.grants_due.push_back((part.call, 0));
            }
        }
        room
    }

    /// A valid packet of `size` bytes came from `from`: is the peer somewhere else now?
    fn on_address(&mut self, cx: &mut Cx<'_>, from: SocketAddr, newest: bool, size: usize) {
        match &mut self.new_path {
            // The peer is still where it was.
            Some(_) if from == self.remote && newest => self.new_path = None,
            _ if from == self.remote => {}
            Some(path) if path.address == from => path.on_received(size),
            _ if newest => self.new_path = Some(NewPath::new(cx.now, from, size, (cx.random)())),
            _ => {}
        }
    }

    fn on_frames(&mut self, cx: &mut Cx<'_>, from: SocketAddr, payload: &Bytes) -> Result<bool, Malformed> {
        let mut reader = Reader::new(payload);
        if reader.is_empty() {
            return Err(Malformed("packet without frames"));
        }
        let mut ack_eliciting = false;
        while !reader.is_empty() && self.is_established() {
            let frame = Frame::read(&mut reader)?;
            ack_eliciting |= frame.is_ack_eliciting();
            match frame {
                Frame::Padding | Frame::Ping | Frame::Extension => {}
                Frame::Ack(ack) => self.on_ack(cx, &ack, None)?,
                Frame::AckEcn { ack, marks } => self.on_ack(cx, &ack, Some(marks))?,
                Frame::Request { call, head, body } => self.on_request(cx, call, &head, body)?,
                Frame::Response { call, status, form, body } => {
                    self.on_response(cx, call, status, form, body)?;
                }
                Frame::Part(part) if part.response => self.on_response_part(cx, &part)?,
                Frame::Part(part) => self.on_request_part(cx, &part)?,
                Frame::Cancel { call, .. } => {
                    self.intake.forget(cx.budget, call);
                    if let Some(serving) = self.callee.cancel(call)? {
                        self.discard(cx, call, serving);
                    }
                }
                Frame::Seen { floor } => {
                    while let Some((call, serving)) = self.callee.forget_below(floor) {
                        self.discard(cx, call, serving);
                    }
                }
                // That the peer is alive is known from the packet.
                Frame::Accepted { call } => self.own(call)?,
                Frame::MaxData { bytes } => self.outbox.raise_window(bytes),
                Frame::Grant { call, upto } => {
                    let response = call.is_multiple_of(2) != self.initiator;
                    self.outbox.on_grant(Key { call, response }, upto);
                }
                Frame::Drain { .. } => {
                    if !std::mem::replace(&mut self.peer_draining, true) {
                        cx.events.push_back(Event::Draining { conn: self.id });
                    }
                }
                Frame::PathChallenge { data } => self.path_response = Some((from, data)),
                Frame::PathResponse { data } => {
                    if let Some(path) =
                        self.new_path.take_if(|path| path.address == from && path.challenge == data)
                    {
                        self.on_path_validated(cx, &path);
                    }
                }
                Frame::Close { code, reason } => {
                    let reason = String::from_utf8_lossy(&reason).into_owned();
                    self.end(cx, LostReason::Closed { code, reason }, None);
                }
            }
        }
        Ok(ack_eliciting)
    }

    fn on_ack(&mut self, cx: &mut Cx<'_>, ack: &Ack, marks: Option<Marks>) -> Result<(), Malformed> {
        let (mut acked, mut lost) = (std::mem::take(&mut self.acked), std::mem::take(&mut self.lost));
        let failed = self.recovery.ecn.has_failed();
        let result = self.recovery.on_ack(cx.now, ack, marks, &mut self.mtu, &mut acked, &mut lost);
        cx.counters.ecn_failed += u64::from(self.recovery.ecn.has_failed() && !failed);
        for frame in acked.drain(..) {
            match frame {
                SentFrame::Ack { largest, news } => self.received.on_confirmed(largest, news),
                SentFrame::Cancel { call } => self.outbox.on_cancel_acked(call),
                SentFrame::MtuProbe { size } => self.mtu.on_acked(cx.now, size as usize),
                _ => {
                    if let Some((key, message)) = self.outbox.on_acked(frame)
                        && let Head::Response { status, form } = message.head
                    {
                        let answer = Answer { status, lane: message.lane, form, body: message.body };
                        cx.counters.answers_evicted += self.callee.on_delivered(key.call, answer);
                    }
                }
            }
        }
        self.on_mtu_changed(cx);
        self.send_again(cx, &mut lost);
        (self.acked, self.lost) = (acked, lost);
        cx.counters.packets_lost += result?;
        Ok(())
    }

    fn on_request(
        &mut self,
        cx: &mut Cx<'_>,
        call: u64,
        head: &RequestHead,
        body: Bytes,
    ) -> Result<(), Malformed> {
        if body.len() > cx.config.message_size_max {
            return Err(Malformed("message above the announced size"));
        }
        let deadline = self.deadline(cx.now, head);
        // It was also sent in parts, when the path shrank: here is all of it.
        if let Some(serving @ Serving::Receiving(_)) = self.callee.get_mut(call) {
            let next = Serving::Running { lane: head.lane };
            let Serving::Receiving(receiving) = std::mem::replace(serving, next) else { return Ok(()) };
            self.intake.close(cx.budget, receiving.message);
            match self.refusal(cx, deadline) {
                Some(status) => self.answer(call, Answer::bare(status, head.lane)),
                None => self.dispatch(cx, call, head, deadline, body),
            }
            return Ok(());
        }
        self.intake.forget(cx.budget, call);
        if self.admit(cx, call, head.lane, true)? {
            if let Some(status) = self.refusal(cx, deadline) {
                return self.refuse(call, status, head.lane);
            }
            self.callee.take(call, Serving::Running { lane: head.lane })?;
            self.dispatch(cx, call, head, deadline, body);
        }
        Ok(())
    }

    fn on_request_part(&mut self, cx: &mut Cx<'_>, part: &Part) -> Result<(), Malformed> {
        let Part { call, lane, .. } = *part;
        if !matches!(self.callee.get_mut(call), Some(Serving::Receiving(_))) {
            if !self.admit(cx, call, lane, part.offset == 0)? {
                self.intake.forget(cx.budget, call);
                return Ok(());
            }
            if self.draining {
                cx.counters.requests_draining += 1;
                self.intake.forget(cx.budget, call);
                return self.refuse(call, status::DRAINING, lane);
            }
            let message = self.intake.open(cx.budget, part)?;
            self.callee.take(call, Serving::Receiving(Box::new(Receiving { message, head: None })))?;
        }
        let deadline = match &part.head {
            Some(PartHead::Request(head)) => Some((*head, self.deadline(cx.now, head))),
            _ => None,
        };
        let Some(Serving::Receiving(receiving)) = self.callee.get_mut(call) else { return Ok(()) };
        // A head that comes again was written later, with less time left; the hold-up shows in the first one.
        receiving.head = receiving.head.or(deadline);
        let timing = (cx.now, self.recovery.rtt.min);
        let complete = self.intake.insert(cx.budget, timing, &mut receiving.message, part)?;
        let Some((head, deadline)) = receiving.head else { return Ok(()) };
        let refusal = if complete || deadline <= cx.now { self.refusal(cx, deadline) } else { None };
        if !complete && refusal.is_none() {
            return Ok(());
        }
        let next = Serving::Running { lane };
        let Some(serving) = self.callee.get_mut(call) else { return Ok(()) };
        let Serving::Receiving(receiving) = std::mem::replace(serving, next) else { return Ok(()) };
        let body = self.intake.close(cx.budget, receiving.message);
        match refusal {
            Some(status) => self.answer(call, Answer::bare(status, lane)),
            None => self.dispatch(cx, call, &head, deadline, body),
        }
        Ok(())
    }

    fn on_response(
        &mut self,
        cx: &mut Cx<'_>,
        call: u64,
        status: u64,
        form: Form,
        body: Bytes,
    ) -> Result<(), Malformed> {
        self.own(call)?;
        if body.len() > cx.config.message_size_max {
            return Err(Malformed("message above the announced size"));
        }
        let call =
            if plant::ANSWER_MISMATCHED.is_planted() { self.caller.open_or_oldest(call) } else { call };
        // A call that has ended was answered before, or cancelled.
        let Some(arriving) = self.caller.end(call) else { return Ok(()) };
        if let Some(arriving) = arriving {
            self.intake.close(cx.budget, arriving.message);
        }
        self.intake.forget(cx.budget, call);
        self.outbox.remove(Key { call, response: false });
        cx.events.push_back(Event::Response { conn: self.id, call: CallId(call), status, form, body });
        Ok(())
    }

    fn on_response_part(&mut self, cx: &mut Cx<'_>, part: &Part) -> Result<(), Malformed> {
        self.own(part.call)?;
        let Some(slot) = self.caller.response(part.call) else { return Ok(()) };
        let arriving = match slot {
            Some(arriving) => arriving,
            None => {
                let message = self.intake.open(cx.budget, part)?;
                slot.insert(Box::new(Arriving { message, status: 0, form: Form::default() }))
            }
        };
        if let Some(PartHead::Response { status, form }) = part.head {
            (arriving.status, arriving.form) = (status, form);
        }
        let timing = (cx.now, self.recovery.rtt.min);
        if !self.intake.insert(cx.budget, timing, &mut arriving.message, part)? {
            return Ok(());
        }
        let Some(arriving) = slot.take() else { return Ok(()) };
        let body = self.intake.close(cx.budget, arriving.message);
        self.on_response(cx, part.call, arriving.status, arriving.form, body)
    }

    /// Judges a request; true if it is new and may go on. What is known or refused is answered, if `answer` says that
    /// this is the frame to be answered and not one of its further parts.
    fn admit(&mut self, cx: &mut Cx<'_>, call: u64, lane: Lane, answer: bool) -> Result<bool, Malformed> {
        match self.callee.admission(call)? {
            Admission::New => return Ok(true),
            Admission::Busy => {
                cx.counters.requests_busy += 1;
                self.refuse(call, status::SERVER_BUSY, lane)?;
            }
            _ if !answer => {}
            Admission::Ignore => cx.counters.requests_duplicate += 1,
            Admission::Repeat(answer) => {
                cx.counters.requests_duplicate += 1;
                let key = Key { call, response: true };
                let repeated = match answer {
                    Some(answer) if !self.outbox.contains(key) => {
                        self.deliver(call, answer);
                        true
                    }
                    _ => self.repeat(key),
                };
                cx.counters.answers_repeated += u64::from(repeated);
            }
            Admission::Forgotten => {
                cx.counters.requests_duplicate += 1;
                self.refuse(call, status::UNKNOWN_OUTCOME, lane)?;
            }
        }
        Ok(false)
    }

    /// Answers a call that is not in the table, for good.
    fn refuse(&mut self, call: u64, status: u64, lane: Lane) -> Result<(), Malformed> {
        self.callee.take(call, Serving::Done { delivered: None })?;
        self.deliver(call, Answer::bare(status, lane));
        Ok(())
    }

    /// Why a request that is complete is not executed.
    fn refusal(&self, cx: &mut Cx<'_>, deadline: Instant) -> Option<u64> {
        if self.draining {
            cx.counters.requests_draining += 1;
            return Some(status::DRAINING);
        }
        if deadline <= cx.now {
            cx.counters.requests_late += 1;
            return Some(status::TIMEOUT);
        }
        None
    }

    fn dispatch(&mut self, cx: &mut Cx<'_>, call: u64, head: &RequestHead, deadline: Instant, body: Bytes) {
        self.callee.watch(call, cx.now + self.recovery.pto());
        cx.counters.requests_received += 1;
        cx.events.push_back(Event::Request {
            conn: self.id,
            call: CallId(call),
            method: head.method,
            lane: head.lane,
            deadline,
            idempotent: head.idempotent,
            form: head.form,
            body,
        });
    }

    /// The caller's deadline on our clock: what was left when it was sent, less what it was held up for.
    fn deadline(&mut self, now: Instant, head: &RequestHead) -> Instant {
        let held_up = self.holdup.measure(now, head.sent_us);
        now + Duration::from_micros(head.left_us).saturating_sub(held_up)
    }

    /// The peer does not wait for this call any more.
    fn discard(&mut self, cx: &mut Cx<'_>, call: u64, serving: Serving) {
        match serving {
            Serving::Receiving(receiving) => drop(self.intake.close(cx.budget, receiving.message)),
            Serving::Running { .. } => {
                cx.events.push_back(Event::Cancelled { conn: self.id, call: CallId(call) });
            }
            Serving::Done { .. } => self.outbox.remove(Key { call, response: true }),
        }
    }

    /// Checks that `call` is one of ours.
    fn own(&self, call: u64) -> Result<(), Malformed> {
        if call.is_multiple_of(2) != self.initiator || !self.caller.was_opened(call) {
            return Err(Malformed("answer to a call that was never made"));
        }
        Ok(())
    }
}
