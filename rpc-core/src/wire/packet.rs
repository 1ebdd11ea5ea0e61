//! Packet headers.
//!
//! ```text
//! short (data)   | 0 1 K 0 rrrr | dcid u64 | pn u32 | frames | tag 16
//! long (setup)   | 1 1 tt rrrr  | version u32 | dcid u64 | scid u64 | body | tag 16     tt: 0 INIT 1 RETRY 2 REPLY 3 VNEG
//! reset          | 0 1 rrrrrr   | dcid u64 | pn u32 | random 10 | token 16
//! ```
//! `K` is the key phase, `r` are reserved bits, sent as zero and ignored (in a reset they are random). `dcid` was
//! chosen by the receiver of the packet, `scid` by its sender; both are random and, in setup, 0 when not known. `pn`
//! is the low half of a 64-bit packet number that is never reused. The first 21 bytes of a long header are the same in
//! every version.
//!
//! **Reset.** Who gets a packet of a connection that it does not know, because it was restarted, answers with a reset:
//! `dcid` and `pn` of that packet, and a token over the 23 bytes before it:
//!
//! ```text
//! insecure       | CRC32C u32 | 0xff * 12 |
//! encrypted      | the first 16 bytes of HMAC-SHA-256(reset_key, the 23 bytes) |        reset_key: see crate::security
//! ```
//! The receiver looks for a connection on which it sends *to that address with that id*, and on which that packet number
//! was sent: the id has 64 random bits, so nobody off the path can make one up. A restarted process needs no state for
//! it. On the path anybody can in the insecure mode; with encryption only holders of the shared key can, and what a
//! holder can be made to sign for a connection that it never had is why a reset is then not the end at once: it makes
//! the receiver ask whether the peer is there ([`crate::conn`]). A reset is shorter than any packet that is answered by
//! one, so that two endpoints never answer each other for ever.

use bytes::Bytes;

use super::seal::{self, TAG_SIZE};
use super::varint::Reader;
use super::{Malformed, VERSION};
use crate::security::{self, ResetKey};

/// Size of a short header.
pub(crate) const SHORT_HEADER_SIZE: usize = 1 + 8 + 4;
/// What a data packet costs besides its frames.
pub(crate) const SHORT_OVERHEAD: usize = SHORT_HEADER_SIZE + TAG_SIZE;
/// Size of a long header.
pub(crate) const LONG_HEADER_SIZE: usize = 1 + 4 + 8 + 8;
/// Size of a reset.
pub(crate) const RESET_SIZE: usize = SHORT_HEADER_SIZE + RESET_RANDOM_SIZE + TAG_SIZE;
/// Packets that want an acknowledgement are at least so long: longer than the reset that may answer them.
pub(crate) const ACK_ELICITING_SIZE_MIN: usize = RESET_SIZE + 1;

const RESET_RANDOM_SIZE: usize = 10;
const FORM_MASK: u8 = 0b1100_0000;
const FORM_SHORT: u8 = 0b0100_0000;
const FORM_LONG: u8 = 0b1100_0000;

/// The kind of a setup packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LongKind {
    /// Asks for a connection.
    Init,
    /// Asks for the same INIT with a cookie.
    Retry,
    /// Accepts a connection.
    Reply,
    /// Lists the versions that its sender speaks.
    VersionNegotiation,
}

/// What the first bytes of a datagram say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Header {
    /// A data packet, or a reset.
    Short { dcid: u64, pn_low: u32 },
    /// A setup packet.
    Long { kind: LongKind, version: u32, dcid: u64, scid: u64 },
}

/// Why a datagram has no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderError {
    /// It is too short.
    Truncated,
    /// Its first bits name no form.
    Form,
}

impl Header {
    /// Reads the header of a datagram; the datagram is at least as long as header and tag.
    pub(crate) fn read(datagram: &Bytes) -> Result<Self, HeaderError> {
        let mut reader = Reader::new(datagram);
        let flags = reader.u8().map_err(|_| HeaderError::Truncated)?;
        let size_min = TAG_SIZE
            + match flags & FORM_MASK {
                FORM_SHORT => SHORT_HEADER_SIZE,
                FORM_LONG => LONG_HEADER_SIZE,
                _ => return Err(HeaderError::Form),
            };
        if datagram.len() < size_min {
            return Err(HeaderError::Truncated);
        }
        let header = if flags & FORM_MASK == FORM_SHORT {
            reader.u64().and_then(|dcid| Ok(Self::Short { dcid, pn_low: reader.u32()? }))
        } else {
            let kind = match flags >> 4 & 3 {
                0 => LongKind::Init,
                1 => LongKind::Retry,
                2 => LongKind::Reply,
                _ => LongKind::VersionNegotiation,
            };
            reader.u32().and_then(|version| {
                Ok(Self::Long { kind, version, dcid: reader.u64()?, scid: reader.u64()? })
            })
        };
        header.map_err(|Malformed(_)| HeaderError::Truncated)
    }

    /// Appends the header.
    pub(crate) fn put(&self, buf: &mut Vec<u8>) {
        match *self {
            Self::Short { dcid, pn_low } => {
                buf.push(FORM_SHORT);
                buf.extend_from_slice(&dcid.to_be_bytes());
                buf.extend_from_slice(&pn_low.to_be_bytes());
            }
            Self::Long { kind, version, dcid, scid } => {
                buf.push(FORM_LONG | (kind as u8) << 4);
                buf.extend_from_slice(&version.to_be_bytes());
                buf.extend_from_slice(&dcid.to_be_bytes());
                buf.extend_from_slice(&scid.to_be_bytes());
            }
        }
    }
}

/// The packet number whose low half is `low` and that is nearest to the one after `largest` (RFC 9000 appendix A.3).
pub(crate) fn expand_packet_number(largest: Option<u64>, low: u32) -> u64 {
    const WINDOW: u64 = 1 << 32;
    let expected = largest.map_or(0, |largest| largest + 1);
    let candidate = expected & !(WINDOW - 1) | u64::from(low);
    if candidate + WINDOW / 2 <= expected {
        candidate + WINDOW
    } else if candidate > expected + WINDOW / 2 && candidate >= WINDOW {
        candidate - WINDOW
    } else {
        candidate
    }
}

/// A reset for a packet of an unknown connection; `random` fills what has no meaning.
pub(crate) fn reset(
    dcid: u64,
    pn_low: u32,
    key: Option<&ResetKey>,
    mut random: impl FnMut() -> u64,
) -> Vec<u8> {
    let mut buf = Vec::with_capacity(RESET_SIZE);
    Header::Short { dcid, pn_low }.put(&mut buf);
    buf[0] |= random() as u8 & !FORM_MASK;
    buf.extend_from_slice(&random().to_be_bytes());
    buf.extend_from_slice(&(random() as u16).to_be_bytes());
    let token = reset_token(&buf, key);
    buf.extend_from_slice(&token);
    buf
}

/// The connection id and packet number that a reset answers, if the datagram is one.
pub(crate) fn read_reset(datagram: &Bytes, key: Option<&ResetKey>) -> Option<(u64, u32)> {
    if datagram.len() != RESET_SIZE || datagram[0] & FORM_MASK != FORM_SHORT {
        return None;
    }
    let (head, token) = datagram.split_last_chunk::<TAG_SIZE>()?;
    let mut reader = Reader::new(datagram);
    reader.u8().ok()?;
    let (dcid, pn_low) = (reader.u64().ok()?, reader.u32().ok()?);
    security::equal(&reset_token(head, key), token).then_some((dcid, pn_low))
}

fn reset_token(head: &[u8], key: Option<&ResetKey>) -> [u8; TAG_SIZE] {
    key.map_or_else(
        || {
            let mut token = [0xff; TAG_SIZE];
            token[..4].copy_from_slice(&crc32c::crc32c(head).to_be_bytes());
            token
        },
        |key| key.token(head),
    )
}

/// A version negotiation packet: the versions spoken here, for the sender of a setup packet with another one.
///
/// ```text
/// long header (version = the one that was offered, scid = 0) | n u8 | (version u32) * n | tag
/// ```
pub(crate) fn version_negotiation(offered: u32, dcid: u64) -> Vec<u8> {
    let mut buf = Vec::with_capacity(LONG_HEADER_SIZE + 5 + TAG_SIZE);
    Header::Long { kind: LongKind::VersionNegotiation, version: offered, dcid, scid: 0 }.put(&mut buf);
    buf.push(1);
    buf.extend_from_slice(&VERSION.to_be_bytes());
    seal::put_checksum(&mut buf, 0);
    buf
}

/// The versions listed in the body of a version negotiation packet.
pub(crate) fn read_versions(body: &Bytes) -> Result<Vec<u32>, Malformed> {
    let mut reader = Reader::new(body);
    let count = reader.u8()?;
    (0..count).map(|_| reader.u32()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_read_back_and_short_ones_are_refused() {
        let headers = [
            Header::Short { dcid: u64::MAX - 5, pn_low: 77 },
            Header::Long { kind: LongKind::Init, version: 1, dcid: 0, scid: 9 },
            Header::Long { kind: LongKind::Reply, version: 0xffff_ffff, dcid: 3, scid: 4 },
            Header::Long { kind: LongKind::Retry, version: 2, dcid: 3, scid: 4 },
            Header::Long { kind: LongKind::VersionNegotiation, version: 8, dcid: 1, scid: 0 },
        ];
        for header in headers {
            let mut buf = Vec::new();
            header.put(&mut buf);
            buf.extend_from_slice(&[0; TAG_SIZE]);
            let bytes = Bytes::from(buf);
            assert_eq!(Header::read(&bytes), Ok(header));
            for cut in 0..bytes.len() {
                assert_eq!(Header::read(&bytes.slice(..cut)), Err(HeaderError::Truncated));
            }
        }
        assert_eq!(Header::read(&Bytes::from_static(&[0; 64])), Err(HeaderError::Form));
        assert_eq!(Header::read(&Bytes::from_static(&[0x80; 64])), Err(HeaderError::Form));
    }

    #[test]
    fn packet_numbers_expand_across_the_turn_of_the_low_half() {
        assert_eq!(expand_packet_number(None, 0), 0);
        assert_eq!(expand_packet_number(Some(5), 3), 3);
        assert_eq!(expand_packet_number(Some(0xffff_fffe), 0xffff_ffff), 0xffff_ffff);
        assert_eq!(expand_packet_number(Some(0xffff_ffff), 0), 1 << 32);
        assert_eq!(expand_packet_number(Some(1 << 32), 0xffff_ffff), 0xffff_ffff);
        assert_eq!(expand_packet_number(Some((7 << 32) + 10), 12), (7 << 32) + 12);
    }

    #[test]
    fn a_reset_is_recognised_and_nothing_else_is() {
        let security = security::Security::shared_key(security::SharedKey::new([5; 32]));
        let key = security.reset_key();
        for key in [None, key.as_ref()] {
            let reset = Bytes::from(reset(0x0102_0304_0506_0708, 99, key, || 0xabcd_ef01_2345_6789));
            assert_eq!(reset.len(), RESET_SIZE);
            assert_eq!(read_reset(&reset, key), Some((0x0102_0304_0506_0708, 99)));
            let mut damaged = reset.to_vec();
            damaged[30] ^= 1;
            assert_eq!(read_reset(&Bytes::from(damaged), key), None);
            assert_eq!(read_reset(&reset.slice(1..), key), None);
        }
        let insecure = Bytes::from(reset(7, 99, None, || 1));
        assert_eq!(read_reset(&insecure, key.as_ref()), None);
    }
}
