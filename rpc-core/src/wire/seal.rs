//! What protects a packet: the one place that changes when packets are encrypted.
//!
//! ```text
//! | header | frames                | tag 16                      |
//!                                    insecure: CRC32C u32 | 0 * 12
//! ```
//! In the insecure mode the checksum covers header and frames. An AEAD would encrypt the frames in place, take the
//! packet number as nonce and the header as associated data, and leave every layout as it is.

use bytes::Bytes;

/// Bytes behind the frames.
pub(crate) const TAG_SIZE: usize = 16;

/// The keys of one connection, or of the setup exchange.
#[derive(Clone, Debug)]
pub(crate) enum Keys {
    /// No secrecy and no authenticity: a checksum that finds damage on the way (UDP's own has 16 bits).
    Insecure,
}

impl Keys {
    /// Appends the tag to the packet that starts at `start` in `buf`. The packet number, here unused, is the nonce of
    /// an AEAD.
    pub(crate) fn seal(&self, _packet_number: u64, buf: &mut Vec<u8>, start: usize) {
        match self {
            Self::Insecure => {
                let checksum = crc32c::crc32c(&buf[start..]);
                buf.extend_from_slice(&checksum.to_be_bytes());
                buf.extend_from_slice(&[0; TAG_SIZE - 4]);
            }
        }
    }

    /// The frames of a packet with a header of `header_size` bytes; `None` if the tag does not fit it.
    pub(crate) fn open(&self, _packet_number: u64, packet: &Bytes, header_size: usize) -> Option<Bytes> {
        let end = packet.len().checked_sub(TAG_SIZE).filter(|end| *end >= header_size)?;
        match self {
            Self::Insecure => {
                let checksum = crc32c::crc32c(&packet[..end]).to_be_bytes();
                let tag = &packet[end..];
                (tag[..4] == checksum && tag[4..].iter().all(|byte| *byte == 0))
                    .then(|| packet.slice(header_size..end))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_flipped_bit_is_found() {
        let mut buf = b"header and frames".to_vec();
        Keys::Insecure.seal(7, &mut buf, 0);
        let sealed = Bytes::from(buf);
        assert_eq!(Keys::Insecure.open(7, &sealed, 6), Some(Bytes::from_static(b" and frames")));
        for bit in 0..sealed.len() * 8 {
            let mut damaged = sealed.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Keys::Insecure.open(7, &Bytes::from(damaged), 6), None, "bit {bit}");
        }
        for cut in 0..sealed.len() {
            assert_eq!(Keys::Insecure.open(7, &sealed.slice(..cut), 6), None, "cut at {cut}");
        }
    }
}
