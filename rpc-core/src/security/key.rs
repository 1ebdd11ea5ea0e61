//! The keys that people keep in files, and their text forms.
//!
//! ```text
//! rpc-core shared key 1          rpc-core node key 1
//! <64 hex digits>                <64 hex digits>
//! ```
//! Lines end with a newline; white space at the end is ignored.

use std::fmt;
use std::str::FromStr;

use curve25519_dalek::montgomery::MontgomeryPoint;

const SHARED_TITLE: &str = "rpc-core shared key 1";
const NODE_TITLE: &str = "rpc-core node key 1";

/// The secret that all members of a cluster and their clients share: 32 random bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct SharedKey([u8; 32]);

impl SharedKey {
    /// The key with these bytes, which must be random.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The text form, with the secret in it.
    pub fn to_text(&self) -> String {
        text(SHARED_TITLE, &self.0)
    }
}

impl FromStr for SharedKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        parse(SHARED_TITLE, text).map(Self)
    }
}

impl fmt::Debug for SharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedKey")
    }
}

/// The private key of one node: an X25519 key of 32 random bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct NodeKey([u8; 32]);

impl NodeKey {
    /// The key with these bytes, which must be random.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// What the node's peers know it by.
    pub fn public(&self) -> PublicKey {
        PublicKey(MontgomeryPoint::mul_base_clamped(self.0).to_bytes())
    }

    pub(crate) const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The text form, with the secret in it.
    pub fn to_text(&self) -> String {
        text(NODE_TITLE, &self.0)
    }
}

impl FromStr for NodeKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        parse(NODE_TITLE, text).map(Self)
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey({})", self.public())
    }
}

/// The public key of one node. Its text form is 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        from_hex(text.trim_end()).map(Self)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// Why a text is no key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// The first line is not the one of this kind of key.
    Title {
        /// What it should be.
        expected: &'static str,
    },
    /// The key is not 64 hex digits.
    Digits,
    /// All bytes are zero, as in a file that was never written.
    Zero,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Title { expected } => write!(f, "the first line is not \"{expected}\""),
            Self::Digits => f.write_str("the key is not 64 hex digits"),
            Self::Zero => f.write_str("the key is all zeros"),
        }
    }
}

impl std::error::Error for KeyError {}

fn text(title: &str, bytes: &[u8; 32]) -> String {
    format!("{title}\n{}\n", PublicKey(*bytes))
}

fn parse(title: &'static str, text: &str) -> Result<[u8; 32], KeyError> {
    let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
    if first.trim_end() != title {
        return Err(KeyError::Title { expected: title });
    }
    let bytes = from_hex(rest.trim_end())?;
    if bytes == [0; 32] { Err(KeyError::Zero) } else { Ok(bytes) }
}

fn from_hex(text: &str) -> Result<[u8; 32], KeyError> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return Err(KeyError::Digits);
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16).ok_or(KeyError::Digits);
        *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_back_from_their_text_and_print_no_secret() {
        let shared = SharedKey::new(std::array::from_fn(|index| index as u8 + 200));
        assert_eq!(shared.to_text().parse(), Ok(shared.clone()));
        let node = NodeKey::new([7; 32]);
        assert_eq!(node.to_text().parse(), Ok(node.clone()));
        assert_eq!(node.public().to_string().parse(), Ok(node.public()));
        assert_eq!(format!("{shared:?}"), "SharedKey");
        assert!(!format!("{node:?}").contains("0707"));
    }

    #[test]
    fn what_is_no_key_says_why() {
        let node = NodeKey::new([7; 32]).to_text();
        assert_eq!(node.parse::<SharedKey>(), Err(KeyError::Title { expected: SHARED_TITLE }));
        assert_eq!("".parse::<SharedKey>(), Err(KeyError::Title { expected: SHARED_TITLE }));
        assert_eq!(format!("{NODE_TITLE}\n12").parse::<NodeKey>(), Err(KeyError::Digits));
        assert_eq!(format!("{NODE_TITLE}\n{}", "x".repeat(64)).parse::<NodeKey>(), Err(KeyError::Digits));
        assert_eq!(format!("{NODE_TITLE}\n{}", "0".repeat(64)).parse::<NodeKey>(), Err(KeyError::Zero));
    }
}
