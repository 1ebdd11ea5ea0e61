//! The bodies of setup packets: who speaks, what it accepts, and the messages of the handshake.
//!
//! ```text
//! INIT, dcid = 0      | n u8 | (version u32) * n | mode u8 | len u8 | cookie | len u16 | message 1 | zeros | tag
//! INIT, dcid != 0     | mode u8 | len u16 | message 3 | tag
//! REPLY               | mode u8 | len u16 | message 2 | zeros | tag
//! RETRY               | len u8 | cookie | tag
//! zeros               up to 1,200 bytes of datagram
//!
//! params              | epoch u64 | client_id u128 | datagram_size_max u16 | message_size_max u64 |
//!                     | calls_max u32 | ack_delay_max_us u32 | idle_timeout_ms u32 | features u32 |
//! ```
//! The version in the header decides the layout. INIT lists every version its sender speaks; who accepts it takes the
//! highest that it speaks too, and drops an INIT whose header names another one: somebody on the way made the
//! initiator believe that the better one is not spoken. The list is in the prologue of the handshake, so that it cannot
//! be shortened to match. `mode` and the messages are those of [`crate::security`]: the params are in message 1 (mode 2:
//! message 3) and in message 2, which begins with the id of the acceptor's connection: that one counts, the scid in the
//! header of REPLY says the same and is not authentic. A cookie is what RETRY brought, given back
//! as it came; without one its length is 0. Bit 0 of `features`: its sender reads compressed bodies, bit 1: it tells how
//! packets came that were marked ECT(0), and reads ACK_ECN; the other bits are sent as 0 and ignored. What follows the last field of the params or of a body is ignored: room for later fields.

use std::time::Duration;

use bytes::Bytes;

use super::packet::{Header, LongKind};
use super::seal::{self, TAG_SIZE};
use super::varint::Reader;
use super::{Malformed, SETUP_DATAGRAM_SIZE, VERSION};

/// Every version that is spoken here.
pub(crate) const VERSIONS: &[u32] = &[VERSION];

/// What an INIT says that asks for a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Init {
    pub(crate) versions: Vec<u32>,
    pub(crate) mode: u8,
    pub(crate) cookie: Bytes,
    pub(crate) message: Bytes,
}

impl Init {
    /// The whole datagram, for the connection that its sender calls `scid`.
    pub(crate) fn datagram(&self, scid: u64) -> Vec<u8> {
        let mut buf = begin(LongKind::Init, 0, scid);
        buf.push(self.versions.len() as u8);
        self.versions.iter().for_each(|version| buf.extend_from_slice(&version.to_be_bytes()));
        buf.push(self.mode);
        buf.push(self.cookie.len() as u8);
        buf.extend_from_slice(&self.cookie);
        put_message(&mut buf, &self.message);
        finish(buf)
    }

    pub(crate) fn read(body: &Bytes) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let count = reader.u8()?;
        let versions = (0..count).map(|_| reader.u32()).collect::<Result<_, _>>()?;
        let mode = reader.u8()?;
        let cookie_size = reader.u8()?;
        let cookie = reader.bytes(u64::from(cookie_size))?;
        Ok(Self { versions, mode, cookie, message: read_message(&mut reader)? })
    }
}

/// What a REPLY says, or an INIT with the third message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) mode: u8,
    pub(crate) message: Bytes,
}

impl Message {
    /// The whole REPLY.
    pub(crate) fn reply(&self, dcid: u64, scid: u64) -> Vec<u8> {
        let mut buf = begin(LongKind::Reply, dcid, scid);
        buf.push(self.mode);
        put_message(&mut buf, &self.message);
        finish(buf)
    }

    /// The whole INIT with the third message.
    pub(crate) fn third(&self, dcid: u64, scid: u64) -> Vec<u8> {
        let mut buf = begin(LongKind::Init, dcid, scid);
        buf.push(self.mode);
        put_message(&mut buf, &self.message);
        seal::put_checksum(&mut buf, 0);
        buf
    }

    pub(crate) fn read(body: &Bytes) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        Ok(Self { mode: reader.u8()?, message: read_message(&mut reader)? })
    }
}

/// A whole RETRY, for the sender of an INIT that calls its connection `dcid`.
pub(crate) fn retry(dcid: u64, cookie: &[u8]) -> Vec<u8> {
    let mut buf = begin(LongKind::Retry, dcid, 0);
    buf.push(cookie.len() as u8);
    buf.extend_from_slice(cookie);
    seal::put_checksum(&mut buf, 0);
    buf
}

/// The cookie of a RETRY.
pub(crate) fn read_retry(body: &Bytes) -> Result<Bytes, Malformed> {
    let mut reader = Reader::new(body);
    let size = reader.u8()?;
    reader.bytes(u64::from(size))
}

/// The version that two sides should use: the highest that both speak.
pub(crate) fn best_version(offered: &[u32], spoken: &[u32]) -> Option<u32> {
    offered.iter().filter(|version| spoken.contains(version)).max().copied()
}

fn begin(kind: LongKind, dcid: u64, scid: u64) -> Vec<u8> {
    let mut buf = Vec::with_capacity(SETUP_DATAGRAM_SIZE);
    Header::Long { kind, version: VERSION, dcid, scid }.put(&mut buf);
    buf
}

fn finish(mut buf: Vec<u8>) -> Vec<u8> {
    buf.resize(SETUP_DATAGRAM_SIZE - TAG_SIZE, 0);
    seal::put_checksum(&mut buf, 0);
    buf
}

fn put_message(buf: &mut Vec<u8>, message: &[u8]) {
    buf.extend_from_slice(&(message.len() as u16).to_be_bytes());
    buf.extend_from_slice(message);
}

/// A copy: what it is read from is far longer.
fn read_message(reader: &mut Reader<'_>) -> Result<Bytes, Malformed> {
    let size = reader.u16()?;
    reader.bytes(u64::from(size)).map(|message| Bytes::copy_from_slice(&message))
}

/// What one side tells the other in the setup exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Params {
    /// The process that speaks.
    pub(crate) epoch: u64,
    /// The identity it claims.
    pub(crate) client_id: u128,
    /// Largest datagram it accepts.
    pub(crate) datagram_size_max: u16,
    /// Largest message it accepts.
    pub(crate) message_size_max: u64,
    /// Calls it lets the other side have open.
    pub(crate) calls_max: u32,
    /// How long its acknowledgements may wait.
    pub(crate) ack_delay_max: Duration,
    /// When it gives up a silent connection.
    pub(crate) idle_timeout: Duration,
    /// Whether it reads compressed bodies.
    pub(crate) compression: bool,
    /// Whether it tells how packets came that were marked ECT(0), and reads what is told about its own.
    pub(crate) ecn: bool,
}

impl Params {
    /// The payload of a handshake message, message 2 with the scid of its header.
    pub(crate) fn payload(&self, scid: Option<u64>) -> Vec<u8> {
        let mut buf = Vec::new();
        if let Some(scid) = scid {
            buf.extend_from_slice(&scid.to_be_bytes());
        }
        buf.extend_from_slice(&self.epoch.to_be_bytes());
        buf.extend_from_slice(&self.client_id.to_be_bytes());
        buf.extend_from_slice(&self.datagram_size_max.to_be_bytes());
        buf.extend_from_slice(&self.message_size_max.to_be_bytes());
        buf.extend_from_slice(&self.calls_max.to_be_bytes());
        let saturated = |number: u128| u32::try_from(number).unwrap_or(u32::MAX);
        buf.extend_from_slice(&saturated(self.ack_delay_max.as_micros()).to_be_bytes());
        buf.extend_from_slice(&saturated(self.idle_timeout.as_millis()).to_be_bytes());
        let compression = if self.compression { FEATURE_COMPRESSION } else { 0 };
        let features = compression | if self.ecn { FEATURE_ECN } else { 0 };
        buf.extend_from_slice(&features.to_be_bytes());
        buf
    }

    /// Reads the payload of message 2: the id of its sender's connection, and the params.
    pub(crate) fn read_second(payload: Vec<u8>) -> Result<(u64, Self), Malformed> {
        let payload = Bytes::from(payload);
        let mut reader = Reader::new(&payload);
        Ok((reader.u64()?, Self::read(&mut reader)?))
    }

    /// Reads the payload of another message.
    pub(crate) fn read_only(payload: Vec<u8>) -> Result<Self, Malformed> {
        let payload = Bytes::from(payload);
        Self::read(&mut Reader::new(&payload))
    }

    /// Reads the params, and caps what makes no sense.
    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let mut params = Self {
            epoch: reader.u64()?,
            client_id: reader.u128()?,
            datagram_size_max: reader.u16()?,
            message_size_max: reader.u64()?,
            calls_max: reader.u32()?,
            ack_delay_max: Duration::from_micros(u64::from(reader.u32()?)).min(ACK_DELAY_CAP),
            idle_timeout: Duration::from_millis(u64::from(reader.u32()?)).max(IDLE_TIMEOUT_MIN),
            compression: false,
            ecn: false,
        };
        let features = reader.u32()?;
        params.compression = features & FEATURE_COMPRESSION != 0;
        params.ecn = features & FEATURE_ECN != 0;
        if usize::from(params.datagram_size_max) < SETUP_DATAGRAM_SIZE {
            return Err(Malformed("datagram size below 1,200"));
        }
        Ok(params)
    }
}

const FEATURE_COMPRESSION: u32 = 1;
const FEATURE_ECN: u32 = 2;
/// A peer that claims to acknowledge later than this is not believed: it would only slow down its own recovery.
const ACK_DELAY_CAP: Duration = Duration::from_millis(25);
/// A peer that claims to give up sooner is not believed.
const IDLE_TIMEOUT_MIN: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::packet::LONG_HEADER_SIZE;

    fn params() -> Params {
        Params {
            epoch: 0x1122,
            client_id: 7 << 100,
            datagram_size_max: 1_452,
            message_size_max: 1 << 26,
            calls_max: 1_024,
            ack_delay_max: Duration::from_millis(1),
            idle_timeout: Duration::from_secs(10),
            compression: true,
            ecn: false,
        }
    }

    #[test]
    fn setup_reads_back_and_is_padded() {
        let init = Init {
            versions: vec![1, 2],
            mode: 1,
            cookie: Bytes::from_static(b"cookie"),
            message: params().payload(None).into(),
        };
        let datagram = Bytes::from(init.datagram(5));
        assert_eq!(datagram.len(), SETUP_DATAGRAM_SIZE);
        let body = seal::checked(&datagram, LONG_HEADER_SIZE).unwrap();
        assert_eq!(Init::read(&body), Ok(init.clone()));
        for cut in 0..69 {
            assert!(Init::read(&body.slice(..cut)).is_err(), "cut at {cut}");
        }
        let reply = Message { mode: 2, message: params().payload(Some(9)).into() };
        let datagram = Bytes::from(reply.reply(5, 9));
        assert_eq!(datagram.len(), SETUP_DATAGRAM_SIZE);
        let body = seal::checked(&datagram, LONG_HEADER_SIZE).unwrap();
        assert_eq!(Message::read(&body), Ok(reply));
    }

    #[test]
    fn params_read_back_and_are_refused_when_cut() {
        let payload = params().payload(Some(9));
        assert_eq!(Params::read_second(payload.clone()), Ok((9, params())));
        for params in [params(), Params { compression: false, ecn: true, ..params() }] {
            assert_eq!(Params::read_only(params.payload(None)), Ok(params));
        }
        for cut in 0..payload.len() {
            assert!(Params::read_second(payload[..cut].to_vec()).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn senseless_values_are_capped_or_refused() {
        let slow = Params { ack_delay_max: Duration::from_secs(9), ..params() };
        assert_eq!(Params::read_only(slow.payload(None)).unwrap().ack_delay_max, ACK_DELAY_CAP);
        let tiny = Params { datagram_size_max: 100, ..params() };
        assert!(Params::read_only(tiny.payload(None)).is_err());
    }

    #[test]
    fn the_highest_common_version_is_the_one_to_use() {
        assert_eq!(best_version(&[1], &[1]), Some(1));
        assert_eq!(best_version(&[2, 1], &[1]), Some(1));
        assert_eq!(best_version(&[1, 2, 9], &[3, 2, 1]), Some(2));
        assert_eq!(best_version(&[4], &[1]), None);
        assert_eq!(best_version(&[], &[1]), None);
    }
}
