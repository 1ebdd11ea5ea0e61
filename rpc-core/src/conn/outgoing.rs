//! Packets out: which frames go into the next one.

use std::net::SocketAddr;

use super::{CLOSE_REPEATS_MAX, Conn, Cx, Key, Phase, SentFrame};
use crate::runtime::Instant;
use crate::wire::Ecn;
use crate::wire::frame::{self, NUMBERS_SIZE_MAX};
use crate::wire::packet::{ACK_ELICITING_SIZE_MIN, Header, SHORT_HEADER_SIZE};
use crate::wire::seal::{Rotation, TAG_SIZE};
use crate::wire::status;

/// A datagram was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packed {
    /// It is full, and there is more to send.
    pub(crate) more: bool,
    /// Where to.
    pub(crate) destination: SocketAddr,
    pub(crate) ecn: Ecn,
}

impl Packed {
    /// A datagram that is not marked.
    const fn plain(destination: SocketAddr) -> Self {
        Self { more: false, destination, ecn: Ecn::NotEct }
    }
}

impl Conn {
    /// Appends the next datagram to `buf`; `None` when there is nothing to send now. With `fill` a datagram that others
    /// follow is padded to its full size, so that all of them go out with one system call.
    pub(crate) fn pack(&mut self, cx: &mut Cx<'_>, fill: bool, buf: &mut Vec<u8>) -> Option<Packed> {
        match &mut self.phase {
            Phase::Connecting { attempt, due, sent, .. } => {
                if !std::mem::take(due) {
                    return None;
                }
                *sent += 1;
                buf.extend_from_slice(&attempt.setup);
                Some(Packed::plain(self.remote))
            }
            Phase::Accepting { accepted, due, .. } => {
                if !std::mem::take(due) {
                    return None;
                }
                buf.extend_from_slice(&accepted.setup);
                Some(Packed::plain(self.remote))
            }
            Phase::Open => {
                self.rotate(cx);
                let alone = if buf.is_empty() { self.pack_alone(cx.now, buf) } else { None };
                alone.or_else(|| self.pack_open(cx.now, fill, buf))
            }
            Phase::Closing { code, reason, due, repeats, .. } => {
                if !*due || *repeats > CLOSE_REPEATS_MAX {
                    return None;
                }
                *due = false;
                *repeats += 1;
                let start = buf.len();
                let dcid = self.remote_id;
                Header::Short { dcid, pn_low: self.recovery.pn_next() as u32 }.put(buf);
                frame::put_close(buf, *code, reason.as_bytes());
                self.finish(start, buf);
                self.recovery.on_sent_untracked(Ecn::NotEct);
                Some(Packed::plain(self.remote))
            }
            Phase::Ended { .. } | Phase::Gone => None,
        }
    }

    fn pack_open(&mut self, now: Instant, fill: bool, buf: &mut Vec<u8>) -> Option<Packed> {
        let (start, ecn) = (buf.len(), self.recovery.ecn.mark());
        let end = start + self.mtu.current() - TAG_SIZE;
        Header::Short { dcid: self.remote_id, pn_low: self.recovery.pn_next() as u32 }.put(buf);
        let mut frames = self.recovery.frames();
        if self.received.is_owed() {
            frames.push(self.received.put(now, buf));
        }
        let before = frames.len();
        let mut more = false;
        if self.wants_to_send() && self.recovery.may_send(now, self.mtu.current() as u64) {
            more = self.put_frames(now, end, buf, &mut frames);
            if more {
                self.mtu.on_full_packet();
            } else {
                self.recovery.on_application_limited();
            }
            let confirm = self.received.is_due() && self.received.wants_confirmation();
            if frames.len() == before && (self.ping_due || self.recovery.probing() || confirm) {
                frame::put_ping(buf);
                frames.push(SentFrame::Ping);
            }
        }
        let ack_eliciting = frames.len() > before;
        if !ack_eliciting && !self.received.is_due() {
            buf.truncate(start);
            self.recovery.recycle(frames);
            return None;
        }
        if before > 0 {
            self.received.on_sent();
        }
        if more && fill {
            buf.resize(end, 0);
        }
        if ack_eliciting {
            self.ping_due = false;
            self.finish(start, buf);
            self.recovery.on_sent(now, (buf.len() - start) as u64, frames);
        } else {
            self.keys.seal(self.recovery.pn_next(), buf, start, SHORT_HEADER_SIZE);
            self.recovery.on_sent_untracked(ecn);
            self.recovery.recycle(frames);
        }
        Some(Packed { more, destination: self.remote, ecn })
    }

    /// Appends a datagram that shares a system call with no other: to another address, or of another size.
    fn pack_alone(&mut self, now: Instant, buf: &mut Vec<u8>) -> Option<Packed> {
        if let Some(third) = self.third.as_mut().filter(|third| third.due) {
            third.due = false;
            buf.extend_from_slice(&third.datagram);
            return Some(Packed::plain(self.remote));
        }
        if let Some((destination, data)) = self.path_response.take() {
            return Some(self.pack_path(destination, buf, |buf| frame::put_path_response(buf, data)));
        }
        let wait = self.recovery.pto();
        if let Some(mut path) = self.new_path.take_if(|path| path.may_send(PATH_PACKET_SIZE)) {
            let packed =
                self.pack_path(path.address, buf, |buf| frame::put_path_challenge(buf, path.challenge));
            path.on_sent(now, buf.len(), wait);
            self.new_path = Some(path);
            return Some(packed);
        }
        let size = self.mtu.probe(now)?;
        if self.recovery.probing() || !self.recovery.may_send(now, size as u64) {
            return None;
        }
        Header::Short { dcid: self.remote_id, pn_low: self.recovery.pn_next() as u32 }.put(buf);
        frame::put_ping(buf);
        buf.resize(size - TAG_SIZE, 0);
        self.keys.seal(self.recovery.pn_next(), buf, 0, SHORT_HEADER_SIZE);
        let mut frames = self.recovery.frames();
        frames.push(SentFrame::MtuProbe { size: size as u32 });
        let ecn = self.recovery.ecn.mark();
        self.recovery.on_sent(now, size as u64, frames);
        self.mtu.on_sent();
        Some(Packed { ecn, ..Packed::plain(self.remote) })
    }

    /// A packet with one frame about paths. It is not watched: what it asks or answers has a timer of its own.
    fn pack_path(
        &mut self,
        destination: SocketAddr,
        buf: &mut Vec<u8>,
        put: impl FnOnce(&mut Vec<u8>),
    ) -> Packed {
        Header::Short { dcid: self.remote_id, pn_low: self.recovery.pn_next() as u32 }.put(buf);
        put(buf);
        self.finish(0, buf);
        self.recovery.on_sent_untracked(Ecn::NotEct);
        Packed::plain(destination)
    }

    /// Whether there is anything that wants an acknowledgement.
    fn wants_to_send(&self) -> bool {
        self.max_data_due
            || self.drain_due
            || self.ping_due
            || self.recovery.probing()
            || self.received.is_due()
            || !self.cancels_due.is_empty()
            || !self.accepted_due.is_empty()
            || !self.grants_due.is_empty()
            || self.outbox.has_queued()
    }

    /// Appends what wants an acknowledgement, up to `end`; true if something did not fit.
    fn put_frames(
        &mut self,
        now: Instant,
        end: usize,
        buf: &mut Vec<u8>,
        frames: &mut Vec<SentFrame>,
    ) -> bool {
        let before = frames.len();
        if std::mem::take(&mut self.max_data_due) {
            frame::put_max_data(buf, self.intake.window());
            frames.push(SentFrame::MaxData);
        }
        if std::mem::take(&mut self.drain_due) {
            frame::put_drain(buf, self.callee.largest(), 0);
            frames.push(SentFrame::Drain);
        }
        while let Some(call) = self.cancels_due.front().copied() {
            if buf.len() + NUMBERS_SIZE_MAX > end {
                return true;
            }
            self.cancels_due.pop_front();
            frame::put_cancel(buf, call, status::CANCELLED - status::CODE_BASE);
            frames.push(SentFrame::Cancel { call });
        }
        while let Some(call) = self.accepted_due.front().copied() {
            if buf.len() + NUMBERS_SIZE_MAX > end {
                return true;
            }
            self.accepted_due.pop_front();
            frame::put_accepted(buf, call);
            frames.push(SentFrame::Accepted { call });
        }
        while let Some((call, upto)) = self.grants_due.front().copied() {
            if buf.len() + NUMBERS_SIZE_MAX > end {
                return true;
            }
            self.grants_due.pop_front();
            // Of several only the last still counts.
            if self.intake.granted(call) == Some(upto) {
                frame::put_grant(buf, call, upto);
                frames.push(SentFrame::Grant { call, upto });
            }
        }
        let more = self.outbox.fill(buf, end, self.clock(now), frames);
        if frames.len() > before
            && let Some(floor) = self.caller.floor_due()
            && buf.len() + NUMBERS_SIZE_MAX <= end
        {
            frame::put_seen(buf, floor);
            frames.push(SentFrame::Seen { floor });
            self.caller.on_floor_sent(floor);
        }
        more
    }

    /// Pads and seals a packet that may be answered by a reset, which has to be shorter.
    fn finish(&self, start: usize, buf: &mut Vec<u8>) {
        const SIZE_MIN: usize = ACK_ELICITING_SIZE_MIN - TAG_SIZE;
        const { assert!(SIZE_MIN > SHORT_HEADER_SIZE) };
        if buf.len() - start < SIZE_MIN {
            buf.resize(start + SIZE_MIN, 0);
        }
        self.keys.seal(self.recovery.pn_next(), buf, start, SHORT_HEADER_SIZE);
    }

    /// Takes the next key when the present one has sealed enough.
    fn rotate(&mut self, cx: &mut Cx<'_>) {
        let rotation =
            Rotation { packets_max: cx.config.key_packets_max.max(1), age_max: cx.config.key_age_max };
        let (next, acked) = (self.recovery.pn_next(), self.recovery.largest_acked());
        cx.counters.key_rotations += u64::from(self.keys.rotate(cx.now, next, acked, rotation));
    }

    /// Sends an answer that is stored, or was refused, for a call that is in the table.
    pub(super) fn repeat(&mut self, key: Key) -> bool {
        self.outbox.on_lost(SentFrame::Message(key))
    }
}

/// Most bytes of a packet with one frame about paths.
const PATH_PACKET_SIZE: usize = if SHORT_HEADER_SIZE + 9 + TAG_SIZE > ACK_ELICITING_SIZE_MIN {
    SHORT_HEADER_SIZE + 9 + TAG_SIZE
} else {
    ACK_ELICITING_SIZE_MIN
};
