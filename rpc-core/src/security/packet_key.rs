//! From the end of a handshake to the keys of single packets.

use std::fmt;

use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};

use super::SharedKey;

/// The first secrets of one side.
#[derive(Debug)]
pub(crate) struct Secrets {
    pub(crate) send: Secret,
    pub(crate) receive: Secret,
}

/// The secret of one direction in one key phase.
#[derive(Clone)]
pub(crate) struct Secret([u8; 32]);

impl Secret {
    pub(super) fn first(hash: &[u8], key: &[u8; 32]) -> Self {
        // Extract is HMAC(salt, ikm); ring gives no access to its output, so it is computed as that.
        let key_of_salt = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, hash);
        let tag = ring::hmac::sign(&key_of_salt, key);
        Self(std::array::from_fn(|index| tag.as_ref()[index]))
    }

    /// The secret of the next phase.
    pub(crate) fn next(&self) -> Self {
        Self(expand(&self.prk(), b"ku"))
    }

    #[cfg(test)]
    pub(crate) const fn of(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    #[cfg(test)]
    pub(crate) const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The key of this phase.
    pub(crate) fn key(&self) -> PacketKey {
        let prk = self.prk();
        let key: [u8; 16] = expand(&prk, b"key");
        let iv = expand(&prk, b"iv");
        PacketKey { key: UnboundKey::new(&AES_128_GCM, &key).ok().map(LessSafeKey::new), iv }
    }

    fn prk(&self) -> Prk {
        Prk::new_less_safe(HKDF_SHA256, &self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Seals and opens the packets of one direction in one key phase.
pub(crate) struct PacketKey {
    /// Always there: a key of the right length is never refused.
    key: Option<LessSafeKey>,
    iv: [u8; 12],
}

impl PacketKey {
    /// Encrypts `frames` in place and gives the tag; the caller uses each packet number once. `None` only if the
    /// packet is too long for the cipher, which no datagram is.
    pub(crate) fn seal(&self, packet_number: u64, header: &[u8], frames: &mut [u8]) -> Option<[u8; 16]> {
        let key = self.key.as_ref()?;
        let tag =
            key.seal_in_place_separate_tag(self.nonce(packet_number), Aad::from(header), frames).ok()?;
        tag.as_ref().try_into().ok()
    }

    /// Decrypts `sealed`, frames and tag, in place; false, and `sealed` is worth nothing any more, if it was not sealed
    /// with this key, number and header.
    pub(crate) fn open(&self, packet_number: u64, header: &[u8], sealed: &mut [u8]) -> bool {
        self.key.as_ref().is_some_and(|key| {
            key.open_in_place(self.nonce(packet_number), Aad::from(header), sealed).is_ok()
        })
    }

    fn nonce(&self, packet_number: u64) -> Nonce {
        let mut nonce = self.iv;
        for (byte, number) in nonce[4..].iter_mut().zip(packet_number.to_be_bytes()) {
            *byte ^= number;
        }
        Nonce::assume_unique_for_key(nonce)
    }
}

impl fmt::Debug for PacketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PacketKey")
    }
}

pub(super) fn reset_key(shared: &SharedKey) -> [u8; 32] {
    expand(&Salt::new(HKDF_SHA256, b"rpc-core").extract(shared.bytes()), b"reset")
}

/// HKDF-Expand of RFC 5869 to `N` bytes, at most 255 * 32 of them.
fn expand<const N: usize>(prk: &Prk, info: &[u8]) -> [u8; N] {
    struct Size(usize);

    impl KeyType for Size {
        fn len(&self) -> usize {
            self.0
        }
    }

    const { assert!(N <= 255 * 32) };
    let mut bytes = [0; N];
    let filled = prk.expand(&[info], Size(N)).and_then(|okm| okm.fill(&mut bytes));
    assert!(filled.is_ok(), "an output of this size is never refused");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_key_number_and_header_open_a_packet() {
        let secret = Secret::first(&[1; 32], &[2; 32]);
        let (key, header) = (secret.key(), [3; 13]);
        let mut sealed = b"frames".to_vec();
        let tag = key.seal(5, &header, &mut sealed).unwrap();
        assert_ne!(sealed, b"frames");
        sealed.extend_from_slice(&tag);
        let opens = |key: &PacketKey, number, header: &[u8]| {
            let mut copy = sealed.clone();
            key.open(number, header, &mut copy).then(|| copy[..6].to_vec())
        };
        assert_eq!(opens(&key, 5, &header), Some(b"frames".to_vec()));
        assert_eq!(opens(&key, 5 + (1 << 32), &header), None);
        assert_eq!(opens(&key, 5, &[4; 13]), None);
        assert_eq!(opens(&secret.next().key(), 5, &header), None);
        assert_eq!(opens(&Secret::first(&[1; 32], &[9; 32]).key(), 5, &header), None);
    }
}
