//! Frames: what is acknowledged and, when lost, sent again. Many ride in one packet.
//!
//! ```text
//!  0 PADDING    |                                                                       fills a packet
//!  1 PING       |                                                                       wants an acknowledgement
//!  2 ACK        | largest v | delay_us v | n v | first v | (gap v, len v) * n           RFC 9000 section 19.3
//!  3 ACK_ECN    | as ACK | not_ect v | ect1 v | ce v                                    packets that did not come ECT(0)
//!  4 REQ        | call v | method v | flags u8 | left_us v | sent_us v | len v | body   a whole request
//!  5 RESP       | call v | status v | flags u8 | len v | body                           a whole response
//!  6 PART       | call v | flags u8 | offset v | [total v] | [head] | len v | data      a piece of either
//!                 head of a request: method v | left_us v | sent_us v, of a response: status v
//!  8 CANCEL     | call v | code v                                                       the caller gave up
//!  9 SEEN       | floor v                               the caller's calls below floor have ended: forget them
//! 10 ACCEPTED   | call v                                a handler that takes its time is running
//! 12 MAX_DATA   | bytes v                               the window for large messages, see below
//! 13 GRANT      | call v | upto v                       the large message of this call may be sent so far, see below
//! 15 DRAIN      | last_call v | after_ms v              calls above last_call are not taken
//! 16 CLOSE      | code v | len v | reason               the connection is gone
//! 17 PATH_CHALLENGE | data u64                           are you at the address that this packet is sent to?
//! 18 PATH_RESPONSE  | data u64                           the same eight bytes, to where the challenge came from
//! ```
//! Ids 7, 11, 14, 19 are reserved. An unknown id below 64 closes the connection; one from 64 on is
//! followed by `len v` and is skipped (room for extensions, which must not matter to who does not know them).
//!
//! Flags of REQ, RESP and PART: bits 0-1 the lane (0 control, 1 normal, 2 bulk), bit 2 idempotent, bit 3 the part is of
//! a response, bit 4 `total` is present (always set in this version), bit 5 `head` is present (set exactly when the
//! offset is 0), bits 6 and 7 the form of the body (6: it begins with metadata, 7: it is compressed; in a PART read
//! together with the head). `left_us` is the time until the caller's deadline and `sent_us` the time on the sender's connection
//! clock, both in microseconds and both written anew whenever the frame is sent again.
//!
//! **MAX_DATA** announces how many bytes of large messages (in parts) the receiver of the frame may have started and
//! not yet seen completely acknowledged, counted apart for each lane. Before the frame arrives it is 0; it never
//! shrinks. A message that is alone in its lane may go whatever its size.
//!
//! **GRANT** comes from the receiver of a large message (the request of a call of its peer, or the response to one of
//! its own). Without one a message may be sent as far as MAX_DATA allows. From the first one on only bytes below the
//! largest `upto` seen may be sent; 0 holds the message. A receiver without memory sends 0 and drops the packet as if
//! it were lost, and later the size of the message.

use bytes::Bytes;

use super::varint::{self, Reader};
use super::{Form, Lane, Malformed, Marks};

/// Most that a REQ frame adds to its body.
pub(crate) const REQUEST_OVERHEAD_MAX: usize = 1 + 8 + 5 + 1 + 8 + 8 + 4;
/// Most that a RESP frame adds to its body.
pub(crate) const RESPONSE_OVERHEAD_MAX: usize = 1 + 8 + 8 + 1 + 4;
/// Most that a PART frame adds to its data.
pub(crate) const PART_OVERHEAD_MAX: usize = 1 + 8 + 1 + 8 + 8 + 21 + 4;
/// Longest reason of a CLOSE frame, in bytes; what is longer is cut.
pub(crate) const REASON_SIZE_MAX: usize = 256;

const PADDING: u64 = 0;
const PING: u64 = 1;
const ACK: u64 = 2;
const ACK_ECN: u64 = 3;
const REQ: u64 = 4;
const RESP: u64 = 5;
const PART: u64 = 6;
const CANCEL: u64 = 8;
const SEEN: u64 = 9;
const ACCEPTED: u64 = 10;
const MAX_DATA: u64 = 12;
const GRANT: u64 = 13;
const DRAIN: u64 = 15;
const CLOSE: u64 = 16;
const PATH_CHALLENGE: u64 = 17;
const PATH_RESPONSE: u64 = 18;
const EXTENSION_MIN: u64 = 64;

const FLAG_LANE: u8 = 0b0000_0011;
const FLAG_IDEMPOTENT: u8 = 0b0000_0100;
const FLAG_RESPONSE: u8 = 0b0000_1000;
const FLAG_TOTAL: u8 = 0b0001_0000;
const FLAG_HEAD: u8 = 0b0010_0000;
const FLAG_META: u8 = 0b0100_0000;
const FLAG_COMPRESSED: u8 = 0b1000_0000;

/// What a request says besides its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestHead {
    pub(crate) method: u32,
    pub(crate) lane: Lane,
    pub(crate) idempotent: bool,
    pub(crate) form: Form,
    pub(crate) left_us: u64,
    pub(crate) sent_us: u64,
}

/// What stands before the first byte of a large message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PartHead {
    Request(RequestHead),
    Response { status: u64, form: Form },
}

/// One piece of a large message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) call: u64,
    pub(crate) response: bool,
    pub(crate) lane: Lane,
    pub(crate) offset: u64,
    pub(crate) total: u64,
    /// Present exactly when `offset` is 0.
    pub(crate) head: Option<PartHead>,
    pub(crate) data: Bytes,
}

/// A frame as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    Padding,
    Ping,
    Ack(Ack),
    AckEcn { ack: Ack, marks: Marks },
    Request { call: u64, head: RequestHead, body: Bytes },
    Response { call: u64, status: u64, form: Form, body: Bytes },
    Part(Part),
    Cancel { call: u64, code: u64 },
    Seen { floor: u64 },
    Accepted { call: u64 },
    MaxData { bytes: u64 },
    Grant { call: u64, upto: u64 },
    Drain { last_call: u64, after_ms: u64 },
    Close { code: u64, reason: Bytes },
    PathChallenge { data: u64 },
    PathResponse { data: u64 },
    Extension,
}

impl Frame {
    /// Reads the next frame.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(match reader.varint()? {
            PADDING => {
                reader.skip_zeros();
                Self::Padding
            }
            PING => Self::Ping,
            ACK => Self::Ack(Ack::read(reader)?),
            ACK_ECN => {
                let ack = Ack::read(reader)?;
                let (not_ect, ect1, ce) = (reader.varint()?, reader.varint()?, reader.varint()?);
                Self::AckEcn { ack, marks: Marks { not_ect, ect1, ce } }
            }
            REQ => {
                let call = reader.varint()?;
                let method = method(reader.varint()?)?;
                let flags = reader.u8()?;
                let (left_us, sent_us) = (reader.varint()?, reader.varint()?);
                let idempotent = flags & FLAG_IDEMPOTENT != 0;
                let (lane, form) = (lane(flags)?, form(flags));
                let head = RequestHead { method, lane, idempotent, form, left_us, sent_us };
                let size = reader.varint()?;
                Self::Request { call, head, body: reader.bytes(size)? }
            }
            RESP => {
                let (call, status) = (reader.varint()?, reader.varint()?);
                let flags = reader.u8()?;
                lane(flags)?;
                let size = reader.varint()?;
                Self::Response { call, status, form: form(flags), body: reader.bytes(size)? }
            }
            PART => Self::Part(read_part(reader)?),
            CANCEL => Self::Cancel { call: reader.varint()?, code: reader.varint()? },
            SEEN => Self::Seen { floor: reader.varint()? },
            ACCEPTED => Self::Accepted { call: reader.varint()? },
            MAX_DATA => Self::MaxData { bytes: reader.varint()? },
            GRANT => Self::Grant { call: reader.varint()?, upto: reader.varint()? },
            DRAIN => Self::Drain { last_call: reader.varint()?, after_ms: reader.varint()? },
            CLOSE => {
                let (code, size) = (reader.varint()?, reader.varint()?);
                let reason = reader.bytes(size)?;
                Self::Close { code, reason: reason.slice(..reason.len().min(REASON_SIZE_MAX)) }
            }
            PATH_CHALLENGE => Self::PathChallenge { data: reader.u64()? },
            PATH_RESPONSE => Self::PathResponse { data: reader.u64()? },
            EXTENSION_MIN.. => {
                let size = reader.varint()?;
                reader.bytes(size)?;
                Self::Extension
            }
            _ => return Err(Malformed("unknown frame")),
        })
    }

    /// Whether the packet that carries this frame is acknowledged.
    pub(crate) const fn is_ack_eliciting(&self) -> bool {
        !matches!(self, Self::Padding | Self::Ack(_) | Self::AckEcn { .. } | Self::Close { .. })
    }
}

fn read_part(reader: &mut Reader<'_>) -> Result<Part, Malformed> {
    let call = reader.varint()?;
    let flags = reader.u8()?;
    let offset = reader.varint()?;
    if flags & FLAG_TOTAL == 0 {
        return Err(Malformed("part without total"));
    }
    let total = reader.varint()?;
    if (flags & FLAG_HEAD != 0) != (offset == 0) {
        return Err(Malformed("part with its head in the wrong place"));
    }
    let (lane, response) = (lane(flags)?, flags & FLAG_RESPONSE != 0);
    let head = match (offset, response) {
        (0, true) => Some(PartHead::Response { status: reader.varint()?, form: form(flags) }),
        (0, false) => {
            let method = method(reader.varint()?)?;
            let (left_us, sent_us) = (reader.varint()?, reader.varint()?);
            let idempotent = flags & FLAG_IDEMPOTENT != 0;
            let form = form(flags);
            Some(PartHead::Request(RequestHead { method, lane, idempotent, form, left_us, sent_us }))
        }
        _ => None,
    };
    let size = reader.varint()?;
    let data = reader.bytes(size)?;
    if data.is_empty() || offset.checked_add(size).is_none_or(|end| end > total) {
        return Err(Malformed("part outside of its message"));
    }
    Ok(Part { call, response, lane, offset, total, head, data })
}

/// An acknowledgement as it was read, its ranges checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ack {
    pub(crate) largest: u64,
    pub(crate) delay_us: u64,
    first: u64,
    count: u64,
    more: Bytes,
}

impl Ack {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (largest, delay_us) = (reader.varint()?, reader.varint()?);
        let (count, first) = (reader.varint()?, reader.varint()?);
        let start = reader.position();
        let mut lowest = largest.checked_sub(first).ok_or(ACK_BELOW_ZERO)?;
        for _ in 0..count {
            let (gap, size) = (reader.varint()?, reader.varint()?);
            lowest =
                lowest.checked_sub(gap + 2).and_then(|end| end.checked_sub(size)).ok_or(ACK_BELOW_ZERO)?;
        }
        Ok(Self { largest, delay_us, first, count, more: reader.since(start) })
    }

    /// The acknowledged packet numbers as inclusive ranges, highest first.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = (u64, u64)> {
        let mut reader = Reader::new(&self.more);
        let mut next = Some((self.largest - self.first, self.largest));
        let mut left = self.count;
        std::iter::from_fn(move || {
            let (start, end) = next.take()?;
            if left > 0 {
                left -= 1;
                // Checked when the frame was read.
                if let (Ok(gap), Ok(size)) = (reader.varint(), reader.varint()) {
                    let end = start - gap - 2;
                    next = Some((end - size, end));
                }
            }
            Some((start, end))
        })
    }
}

/// Appends PING.
pub(crate) fn put_ping(buf: &mut Vec<u8>) {
    varint::put(buf, PING);
}

/// Appends ACK, or ACK_ECN, for `ranges`: inclusive, highest first, apart by at least one number. Must not be empty.
pub(crate) fn put_ack(
    buf: &mut Vec<u8>,
    delay_us: u64,
    mut ranges: impl ExactSizeIterator<Item = (u64, u64)>,
    marks: Option<Marks>,
) {
    let more = ranges.len().saturating_sub(1);
    let Some((mut lowest, largest)) = ranges.next() else { return };
    varint::put(buf, if marks.is_some() { ACK_ECN } else { ACK });
    varint::put(buf, largest);
    varint::put(buf, delay_us);
    varint::put(buf, more as u64);
    varint::put(buf, largest - lowest);
    for (start, end) in ranges {
        varint::put(buf, lowest - end - 2);
        varint::put(buf, end - start);
        lowest = start;
    }
    if let Some(Marks { not_ect, ect1, ce }) = marks {
        varint::put(buf, not_ect);
        varint::put(buf, ect1);
        varint::put(buf, ce);
    }
}

/// Appends REQ.
pub(crate) fn put_request(buf: &mut Vec<u8>, call: u64, head: &RequestHead, body: &[u8]) {
    varint::put(buf, REQ);
    varint::put(buf, call);
    varint::put(buf, u64::from(head.method));
    buf.push(lane_bits(head.lane) | form_bits(head.form) | if head.idempotent { FLAG_IDEMPOTENT } else { 0 });
    varint::put(buf, head.left_us);
    varint::put(buf, head.sent_us);
    varint::put(buf, body.len() as u64);
    buf.extend_from_slice(body);
}

/// Appends RESP.
pub(crate) fn put_response(buf: &mut Vec<u8>, call: u64, status: u64, lane: Lane, form: Form, body: &[u8]) {
    varint::put(buf, RESP);
    varint::put(buf, call);
    varint::put(buf, status);
    buf.push(lane_bits(lane) | form_bits(form));
    varint::put(buf, body.len() as u64);
    buf.extend_from_slice(body);
}

/// Appends PART. `head` is written when `offset` is 0.
pub(crate) fn put_part(
    buf: &mut Vec<u8>,
    call: u64,
    lane: Lane,
    head: &PartHead,
    offset: u64,
    total: u64,
    data: &[u8],
) {
    let mut flags = lane_bits(lane) | FLAG_TOTAL;
    match head {
        PartHead::Request(head) if head.idempotent => flags |= FLAG_IDEMPOTENT | form_bits(head.form),
        PartHead::Request(head) => flags |= form_bits(head.form),
        PartHead::Response { form, .. } => flags |= FLAG_RESPONSE | form_bits(*form),
    }
    if offset == 0 {
        flags |= FLAG_HEAD;
    }
    varint::put(buf, PART);
    varint::put(buf, call);
    buf.push(flags);
    varint::put(buf, offset);
    varint::put(buf, total);
    if offset == 0 {
        match head {
            PartHead::Request(head) => {
                varint::put(buf, u64::from(head.method));
                varint::put(buf, head.left_us);
                varint::put(buf, head.sent_us);
            }
            PartHead::Response { status, .. } => varint::put(buf, *status),
        }
    }
    varint::put(buf, data.len() as u64);
    buf.extend_from_slice(data);
}

/// Appends CANCEL.
pub(crate) fn put_cancel(buf: &mut Vec<u8>, call: u64, code: u64) {
    put_numbers(buf, &[CANCEL, call, code]);
}

/// Appends SEEN.
pub(crate) fn put_seen(buf: &mut Vec<u8>, floor: u64) {
    put_numbers(buf, &[SEEN, floor]);
}

/// Appends ACCEPTED.
pub(crate) fn put_accepted(buf: &mut Vec<u8>, call: u64) {
    put_numbers(buf, &[ACCEPTED, call]);
}

/// Appends MAX_DATA.
pub(crate) fn put_max_data(buf: &mut Vec<u8>, bytes: u64) {
    put_numbers(buf, &[MAX_DATA, bytes]);
}

/// Appends GRANT.
pub(crate) fn put_grant(buf: &mut Vec<u8>, call: u64, upto: u64) {
    put_numbers(buf, &[GRANT, call, upto]);
}

/// Appends DRAIN.
pub(crate) fn put_drain(buf: &mut Vec<u8>, last_call: u64, after_ms: u64) {
    put_numbers(buf, &[DRAIN, last_call, after_ms]);
}

/// Appends PATH_CHALLENGE.
pub(crate) fn put_path_challenge(buf: &mut Vec<u8>, data: u64) {
    varint::put(buf, PATH_CHALLENGE);
    buf.extend_from_slice(&data.to_be_bytes());
}

/// Appends PATH_RESPONSE.
pub(crate) fn put_path_response(buf: &mut Vec<u8>, data: u64) {
    varint::put(buf, PATH_RESPONSE);
    buf.extend_from_slice(&data.to_be_bytes());
}

/// Appends CLOSE; a long reason is cut.
pub(crate) fn put_close(buf: &mut Vec<u8>, code: u64, reason: &[u8]) {
    let reason = &reason[..reason.len().min(REASON_SIZE_MAX)];
    put_numbers(buf, &[CLOSE, code, reason.len() as u64]);
    buf.extend_from_slice(reason);
}

/// Most that a frame of numbers takes.
pub(crate) const NUMBERS_SIZE_MAX: usize = 1 + 8 + 8;

fn put_numbers(buf: &mut Vec<u8>, numbers: &[u64]) {
    for number in numbers {
        varint::put(buf, *number);
    }
}

fn method(number: u64) -> Result<u32, Malformed> {
    u32::try_from(number).ok().filter(|method| *method < 1 << 30).ok_or(Malformed("method above 30 bits"))
}

const fn lane_bits(lane: Lane) -> u8 {
    match lane {
        Lane::Control => 0,
        Lane::Normal => 1,
        Lane::Bulk => 2,
    }
}

const fn form_bits(form: Form) -> u8 {
    let meta = if form.meta { FLAG_META } else { 0 };
    meta | if form.compressed { FLAG_COMPRESSED } else { 0 }
}

const fn form(flags: u8) -> Form {
    Form { meta: flags & FLAG_META != 0, compressed: flags & FLAG_COMPRESSED != 0 }
}

const fn lane(flags: u8) -> Result<Lane, Malformed> {
    match flags & FLAG_LANE {
        0 => Ok(Lane::Control),
        1 => Ok(Lane::Normal),
        2 => Ok(Lane::Bulk),
        _ => Err(Malformed("unknown lane")),
    }
}

const ACK_BELOW_ZERO: Malformed = Malformed("acknowledgement below packet number 0");

#[cfg(test)]
mod tests;
