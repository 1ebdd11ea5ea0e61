//! QUIC varints and the cursor that everything on the wire is read with.
//!
//! ```text
//! 00xxxxxx                       0 ..= 63
//! 01xxxxxx xxxxxxxx              0 ..= 2^14-1
//! 10xxxxxx 3 more bytes          0 ..= 2^30-1
//! 11xxxxxx 7 more bytes          0 ..= 2^62-1
//! ```
//! Longer forms than needed are accepted (RFC 9000 section 16); this side writes the shortest.

use bytes::Bytes;

use super::Malformed;

/// The largest value of a varint.
pub(crate) const MAX: u64 = (1 << 62) - 1;

/// Appends `value`; values above [`MAX`] are written as [`MAX`].
pub(crate) fn put(buf: &mut Vec<u8>, value: u64) {
    match value {
        0..=0x3f => buf.push(value as u8),
        0x40..=0x3fff => buf.extend_from_slice(&(value as u16 | 0x4000).to_be_bytes()),
        0x4000..=0x3fff_ffff => buf.extend_from_slice(&(value as u32 | 0x8000_0000).to_be_bytes()),
        _ => buf.extend_from_slice(&(value.min(MAX) | 0xc000_0000_0000_0000).to_be_bytes()),
    }
}

/// Bytes that [`put`] appends for `value`.
pub(crate) const fn size(value: u64) -> usize {
    match value {
        0..=0x3f => 1,
        0x40..=0x3fff => 2,
        0x4000..=0x3fff_ffff => 4,
        _ => 8,
    }
}

/// Reads from the front of a packet. Bodies come out as slices of it, not as copies.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    whole: &'a Bytes,
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(whole: &'a Bytes) -> Self {
        Self { whole, at: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.at == self.whole.len()
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        let byte = *self.whole.get(self.at).ok_or(TRUNCATED)?;
        self.at += 1;
        Ok(byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn u128(&mut self) -> Result<u128, Malformed> {
        self.array().map(u128::from_be_bytes)
    }

    pub(crate) fn varint(&mut self) -> Result<u64, Malformed> {
        let first = *self.whole.get(self.at).ok_or(TRUNCATED)?;
        Ok(match first >> 6 {
            0 => u64::from(self.u8()?),
            1 => u64::from(self.u16()? & 0x3fff),
            2 => u64::from(self.u32()? & 0x3fff_ffff),
            _ => self.u64()? & MAX,
        })
    }

    /// The next `count` bytes. Checked against what is there, so a claimed length allocates nothing.
    pub(crate) fn bytes(&mut self, count: u64) -> Result<Bytes, Malformed> {
        let count = usize::try_from(count).map_err(|_| TRUNCATED)?;
        if count > self.whole.len() - self.at {
            return Err(TRUNCATED);
        }
        let bytes = self.whole.slice(self.at..self.at + count);
        self.at += count;
        Ok(bytes)
    }

    /// Steps over zero bytes.
    pub(crate) fn skip_zeros(&mut self) {
        let rest = &self.whole[self.at..];
        // Padding is long: eight bytes at a time first.
        let words = rest.as_chunks::<8>().0.iter().take_while(|word| **word == [0; 8]).count();
        let bytes = rest[8 * words..].iter().take_while(|byte| **byte == 0).count();
        self.at += 8 * words + bytes;
    }

    /// Position from the start of the packet, for [`Reader::since`].
    pub(crate) const fn position(&self) -> usize {
        self.at
    }

    /// The bytes read since `position`.
    pub(crate) fn since(&self, position: usize) -> Bytes {
        self.whole.slice(position..self.at)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let array = self.whole.get(self.at..).and_then(|rest| rest.first_chunk::<N>()).ok_or(TRUNCATED)?;
        self.at += N;
        Ok(*array)
    }
}

const TRUNCATED: Malformed = Malformed("truncated");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_reads_back_and_has_the_size_it_claims() {
        for value in [0, 1, 63, 64, 16_383, 16_384, (1 << 30) - 1, 1 << 30, MAX] {
            let mut buf = Vec::new();
            put(&mut buf, value);
            assert_eq!(buf.len(), size(value));
            let bytes = Bytes::from(buf);
            let mut reader = Reader::new(&bytes);
            assert_eq!(reader.varint(), Ok(value));
            assert!(reader.is_empty());
            for cut in 0..bytes.len() {
                assert_eq!(Reader::new(&bytes.slice(..cut)).varint(), Err(TRUNCATED));
            }
        }
    }

    #[test]
    fn examples_of_rfc_9000_appendix_a1() {
        for (bytes, value) in [
            (&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c][..], 151_288_809_941_952_652),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x25], 37),
            (&[0x40, 0x25], 37),
        ] {
            assert_eq!(Reader::new(&Bytes::copy_from_slice(bytes)).varint(), Ok(value));
        }
    }

    #[test]
    fn a_length_beyond_the_packet_is_refused() {
        let bytes = Bytes::from_static(b"abc");
        assert_eq!(Reader::new(&bytes).bytes(u64::MAX), Err(TRUNCATED));
        assert_eq!(Reader::new(&bytes).bytes(4), Err(TRUNCATED));
        assert_eq!(Reader::new(&bytes).bytes(3), Ok(bytes.clone()));
    }
}
