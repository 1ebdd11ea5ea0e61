//! The hash of the replicated state: SipHash-2-4 with 128 bits of output, and a sum of it over rows.
//!
//! The state hash is `sum of H(row) over all rows mod 2^128`, mixed with the hash of the state head. A sum does not
//! depend on the order of rows and follows an insert or remove by one addition or subtraction. The key is fixed: the
//! hash finds nodes that have drifted apart by bugs or damage; it is no defence against somebody who forges rows.
//! (Aumasson, Bernstein: "SipHash: a fast short-input PRF", 2012; 128-bit variant of the reference code.)

/// A hash being computed.
#[derive(Clone, Debug)]
pub(crate) struct Hasher {
    v: [u64; 4],
    /// Bytes that do not fill a word yet, the first in the lowest place.
    tail: u64,
    size: u64,
}

impl Hasher {
    /// Begins a hash of the state.
    pub(crate) fn new() -> Self {
        Self::with_key(*b"raft-node: state")
    }

    fn with_key(key: [u8; 16]) -> Self {
        let key = u128::from_le_bytes(key);
        let (k0, k1) = (key as u64, (key >> 64) as u64);
        let v = [
            k0 ^ 0x736f_6d65_7073_6575,
            k1 ^ 0x646f_7261_6e64_6f6d ^ 0xee,
            k0 ^ 0x6c79_6765_6e65_7261,
            k1 ^ 0x7465_6462_7974_6573,
        ];
        Self { v, tail: 0, size: 0 }
    }

    /// Takes more bytes; how they are cut into calls does not matter.
    pub(crate) fn write(&mut self, mut bytes: &[u8]) {
        while !self.size.is_multiple_of(8) {
            let Some((&first, rest)) = bytes.split_first() else { return };
            self.push(first);
            bytes = rest;
        }
        while let Some((word, rest)) = bytes.split_first_chunk() {
            self.compress(u64::from_le_bytes(*word));
            self.size += 8;
            bytes = rest;
        }
        for &byte in bytes {
            self.push(byte);
        }
    }

    /// The hash of all bytes written.
    pub(crate) fn finish(mut self) -> u128 {
        self.compress(self.tail | self.size << 56);
        self.v[2] ^= 0xee;
        self.rounds(4);
        let low = self.v[0] ^ self.v[1] ^ self.v[2] ^ self.v[3];
        self.v[1] ^= 0xdd;
        self.rounds(4);
        let high = self.v[0] ^ self.v[1] ^ self.v[2] ^ self.v[3];
        u128::from(low) | u128::from(high) << 64
    }

    fn push(&mut self, byte: u8) {
        self.tail |= u64::from(byte) << (8 * (self.size % 8));
        self.size += 1;
        if self.size.is_multiple_of(8) {
            self.compress(self.tail);
            self.tail = 0;
        }
    }

    fn compress(&mut self, word: u64) {
        self.v[3] ^= word;
        self.rounds(2);
        self.v[0] ^= word;
    }

    fn rounds(&mut self, count: usize) {
        let [mut a, mut b, mut c, mut d] = self.v;
        for _ in 0..count {
            a = a.wrapping_add(b);
            b = b.rotate_left(13) ^ a;
            a = a.rotate_left(32);
            c = c.wrapping_add(d);
            d = d.rotate_left(16) ^ c;
            a = a.wrapping_add(d);
            d = d.rotate_left(21) ^ a;
            c = c.wrapping_add(b);
            b = b.rotate_left(17) ^ c;
            c = c.rotate_left(32);
        }
        self.v = [a, b, c, d];
    }
}

/// The hash of some bytes.
pub(crate) fn hash(bytes: &[u8]) -> u128 {
    let mut hasher = Hasher::new();
    hasher.write(bytes);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::Hasher;

    fn keyed(bytes: &[u8]) -> [u8; 16] {
        let mut hasher = Hasher::with_key([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
        hasher.write(bytes);
        hasher.finish().to_le_bytes()
    }

    #[test]
    fn the_vectors_of_the_reference_code_come_out() {
        let none =
            [0xa3, 0x81, 0x7f, 0x04, 0xba, 0x25, 0xa8, 0xe6, 0x6d, 0xf6, 0x72, 0x14, 0xc7, 0x55, 2, 0x93];
        let one =
            [0xda, 0x87, 0xc1, 0xd8, 0x6b, 0x99, 0xaf, 0x44, 0x34, 0x76, 0x59, 0x11, 0x9b, 0x22, 0xfc, 0x45];
        assert_eq!(keyed(&[]), none);
        assert_eq!(keyed(&[0]), one);
    }

    #[test]
    fn how_bytes_are_cut_into_calls_does_not_matter() {
        let bytes: Vec<u8> = (0..100).collect();
        for cut in 0..bytes.len() {
            let mut hasher = Hasher::new();
            hasher.write(&bytes[..cut]);
            hasher.write(&bytes[cut..]);
            assert_eq!(hasher.finish(), super::hash(&bytes));
        }
    }
}
