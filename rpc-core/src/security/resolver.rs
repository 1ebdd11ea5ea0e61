//! What snow computes with: X25519 of dalek, AES-256-GCM and SHA-256 of ring, and one ephemeral key that was drawn
//! outside, so that a simulation repeats.

use curve25519_dalek::montgomery::MontgomeryPoint;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::digest;
use snow::Error;
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::CryptoResolver;
use snow::types::{Cipher, Dh, Hash, Random};

/// Resolves the three primitives of our protocol names, and `ephemeral` as the only random number.
pub(super) struct Resolver {
    pub(super) ephemeral: [u8; 32],
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Drawn(Some(self.ephemeral))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        matches!(choice, DHChoice::Curve25519).then(|| Box::<X25519>::default() as _)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        matches!(choice, HashChoice::SHA256)
            .then(|| Box::new(Sha256(digest::Context::new(&digest::SHA256))) as _)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        matches!(choice, CipherChoice::AESGCM).then(|| Box::<AesGcm>::default() as _)
    }
}

/// Gives its bytes once: a handshake draws one ephemeral key.
struct Drawn(Option<[u8; 32]>);

impl Random for Drawn {
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        let drawn = self.0.take().filter(|drawn| drawn.len() == bytes.len()).ok_or(Error::Rng)?;
        bytes.copy_from_slice(&drawn);
        Ok(())
    }
}

#[derive(Default)]
struct X25519 {
    private: [u8; 32],
    public: [u8; 32],
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        32
    }

    fn priv_len(&self) -> usize {
        32
    }

    fn set(&mut self, private: &[u8]) {
        self.private.copy_from_slice(private);
        self.public = MontgomeryPoint::mul_base_clamped(self.private).to_bytes();
    }

    fn generate(&mut self, random: &mut dyn Random) -> Result<(), Error> {
        let mut private = [0; 32];
        random.try_fill_bytes(&mut private)?;
        self.set(&private);
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        &self.private
    }

    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), Error> {
        let point = MontgomeryPoint(*public.first_chunk().ok_or(Error::Dh)?);
        let shared = point.mul_clamped(self.private).to_bytes();
        // A point of small order: the other side contributes nothing (RFC 7748 section 6.1).
        if shared == [0; 32] {
            return Err(Error::Dh);
        }
        out.get_mut(..32).ok_or(Error::Dh)?.copy_from_slice(&shared);
        Ok(())
    }
}

struct Sha256(digest::Context);

impl Hash for Sha256 {
    fn name(&self) -> &'static str {
        "SHA256"
    }

    fn block_len(&self) -> usize {
        64
    }

    fn hash_len(&self) -> usize {
        32
    }

    fn reset(&mut self) {
        self.0 = digest::Context::new(&digest::SHA256);
    }

    fn input(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn result(&mut self, out: &mut [u8]) {
        out[..32].copy_from_slice(self.0.clone().finish().as_ref());
    }
}

/// AES-256-GCM with Noise's nonce: 32 zero bits and the counter, big-endian. Without a key until it is set.
#[derive(Default)]
struct AesGcm(Option<LessSafeKey>);

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

impl Cipher for AesGcm {
    fn name(&self) -> &'static str {
        "AESGCM"
    }

    fn set(&mut self, key: &[u8; 32]) {
        self.0 = UnboundKey::new(&AES_256_GCM, key).ok().map(LessSafeKey::new);
    }

    fn encrypt(&self, counter: u64, aad: &[u8], plain: &[u8], out: &mut [u8]) -> usize {
        let (body, rest) = out.split_at_mut(plain.len());
        body.copy_from_slice(plain);
        let sealed = self
            .0
            .as_ref()
            .and_then(|key| key.seal_in_place_separate_tag(nonce(counter), Aad::from(aad), body).ok());
        match sealed {
            Some(tag) => rest[..16].copy_from_slice(tag.as_ref()),
            // Cannot happen: snow sets a key first, and messages are short. Nothing readable may go out even so.
            None => out[..plain.len() + 16].fill(0),
        }
        plain.len() + 16
    }

    fn decrypt(&self, counter: u64, aad: &[u8], sealed: &[u8], out: &mut [u8]) -> Result<usize, Error> {
        let key = self.0.as_ref().ok_or(Error::Decrypt)?;
        let mut buffer = sealed.to_vec();
        let plain =
            key.open_in_place(nonce(counter), Aad::from(aad), &mut buffer).map_err(|_| Error::Decrypt)?;
        out.get_mut(..plain.len()).ok_or(Error::Decrypt)?.copy_from_slice(plain);
        Ok(plain.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::security::PublicKey;

    /// RFC 7748 section 5.2, and the point of order 1.
    #[test]
    fn x25519_is_that_of_the_rfc_and_refuses_points_of_small_order() {
        let bytes = |hex: &str| hex.parse::<PublicKey>().unwrap().0;
        let mut dh = X25519::default();
        dh.set(&bytes("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4"));
        let mut shared = [0; 32];
        let point = bytes("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c");
        dh.dh(&point, &mut shared).unwrap();
        assert_eq!(shared, bytes("c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"));
        assert!(dh.dh(&[0; 32], &mut shared).is_err());
    }
}
