//! The body of INIT and REPLY: who speaks, and what it accepts.
//!
//! ```text
//! | n u8 | (version u32) * n | epoch u64 | client_id u128 | datagram_size_max u16 | message_size_max u64 |
//! | calls_max u32 | ack_delay_max_us u32 | idle_timeout_ms u32 | features u32 | zeros up to 1,200 bytes of datagram | tag
//! ```
//! The version in the header decides the layout. INIT lists every version its sender speaks, so that a later version
//! can notice a downgrade. Bit 0 of `features`: its sender reads compressed bodies; the other bits are sent as 0 and
//! ignored. What follows the last field is ignored: room for the key exchange and for later fields.

use std::time::Duration;

use bytes::Bytes;

use super::packet::{Header, LongKind};
use super::seal::{Keys, TAG_SIZE};
use super::varint::Reader;
use super::{Malformed, SETUP_DATAGRAM_SIZE, VERSION};

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
}

impl Params {
    /// A whole INIT or REPLY datagram.
    pub(crate) fn datagram(&self, kind: LongKind, dcid: u64, scid: u64) -> Vec<u8> {
        let mut buf = Vec::with_capacity(SETUP_DATAGRAM_SIZE);
        Header::Long { kind, version: VERSION, dcid, scid }.put(&mut buf);
        buf.push(1);
        buf.extend_from_slice(&VERSION.to_be_bytes());
        buf.extend_from_slice(&self.epoch.to_be_bytes());
        buf.extend_from_slice(&self.client_id.to_be_bytes());
        buf.extend_from_slice(&self.datagram_size_max.to_be_bytes());
        buf.extend_from_slice(&self.message_size_max.to_be_bytes());
        buf.extend_from_slice(&self.calls_max.to_be_bytes());
        let saturated = |number: u128| u32::try_from(number).unwrap_or(u32::MAX);
        buf.extend_from_slice(&saturated(self.ack_delay_max.as_micros()).to_be_bytes());
        buf.extend_from_slice(&saturated(self.idle_timeout.as_millis()).to_be_bytes());
        let features = if self.compression { FEATURE_COMPRESSION } else { 0 };
        buf.extend_from_slice(&features.to_be_bytes());
        buf.resize(SETUP_DATAGRAM_SIZE - TAG_SIZE, 0);
        Keys::Insecure.seal(0, &mut buf, 0);
        buf
    }

    /// Reads the body of an INIT or REPLY of our version, and caps what makes no sense.
    pub(crate) fn read(body: &Bytes) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let versions = reader.u8()?;
        let mut listed = false;
        for _ in 0..versions {
            listed |= reader.u32()? == VERSION;
        }
        if !listed {
            return Err(Malformed("setup does not list its own version"));
        }
        let params = Self {
            epoch: reader.u64()?,
            client_id: reader.u128()?,
            datagram_size_max: reader.u16()?,
            message_size_max: reader.u64()?,
            calls_max: reader.u32()?,
            ack_delay_max: Duration::from_micros(u64::from(reader.u32()?)).min(ACK_DELAY_CAP),
            idle_timeout: Duration::from_millis(u64::from(reader.u32()?)).max(IDLE_TIMEOUT_MIN),
            compression: reader.u32()? & FEATURE_COMPRESSION != 0,
        };
        if usize::from(params.datagram_size_max) < SETUP_DATAGRAM_SIZE {
            return Err(Malformed("datagram size below 1,200"));
        }
        Ok(params)
    }
}

const FEATURE_COMPRESSION: u32 = 1;
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
        }
    }

    #[test]
    fn setup_reads_back_and_is_padded() {
        let datagram = Bytes::from(params().datagram(LongKind::Init, 0, 5));
        assert_eq!(datagram.len(), SETUP_DATAGRAM_SIZE);
        let body = Keys::Insecure.open(0, &datagram, LONG_HEADER_SIZE).unwrap();
        assert_eq!(Params::read(&body), Ok(params()));
        for cut in 0..55 {
            assert!(Params::read(&body.slice(..cut)).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn senseless_values_are_capped_or_refused() {
        let slow = Params { ack_delay_max: Duration::from_secs(9), ..params() };
        let datagram = Bytes::from(slow.datagram(LongKind::Reply, 1, 5));
        let body = Keys::Insecure.open(0, &datagram, LONG_HEADER_SIZE).unwrap();
        assert_eq!(Params::read(&body).unwrap().ack_delay_max, ACK_DELAY_CAP);
        let tiny = Params { datagram_size_max: 100, ..params() };
        let datagram = Bytes::from(tiny.datagram(LongKind::Reply, 1, 5));
        let body = Keys::Insecure.open(0, &datagram, LONG_HEADER_SIZE).unwrap();
        assert!(Params::read(&body).is_err());
    }
}
