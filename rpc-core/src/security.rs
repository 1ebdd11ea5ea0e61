//! Who may talk to whom, and what nobody else can read: modes, keys, identities, and every derivation.
//!
//! Pure computation: knows no packet, no connection, no clock, and draws nothing at random; what must be random is
//! handed in.
//!
//! # Modes
//! [`Security`] is one of three, and both ends of a connection must have the same:
//!
//! | `mode` | name | who gets in | identity |
//! | --- | --- | --- | --- |
//! | 0 | insecure | everybody | none |
//! | 1 | `Noise_NNpsk0_25519_AESGCM_SHA256` | who has the shared key | "holder of the shared key" |
//! | 2 | `Noise_XXpsk3_25519_AESGCM_SHA256` | who has the shared key and an allowed node key | the node's public key |
//!
//! # The handshake
//! The Noise Protocol Framework (revision 34) as it stands; `psk` is the 32 bytes of the shared key.
//!
//! ```text
//! prologue        | "rpc-core" | version u32 | scid u64 | n u8 | (version u32) * n |
//! ```
//! with version and scid of INIT's header and the version list of its body, as [`crate::wire`] draws them: an INIT
//! whose version, id or list was changed on the way does not open. The payloads of the messages (in mode 0 the payload is
//! sent as it is, where the Noise message would stand):
//!
//! ```text
//! message 1, in INIT             mode 0, 1: params          mode 2: empty (it would be readable)
//! message 2, in REPLY            scid u64 | params          the id of the acceptor's connection
//! message 3, in INIT, dcid != 0  mode 2 only: params
//! ```
//!
//! # Packet keys
//! When the last Noise message was written or read, `h` is the handshake hash and `(k1, k2)` the two keys of Noise's
//! `Split()`: k1 of the initiator's packets, k2 of the acceptor's. For each direction
//!
//! ```text
//! secret_0     = HKDF-Extract(salt = h, ikm = k)               HKDF of RFC 5869 with SHA-256
//! secret_(n+1) = HKDF-Expand(secret_n, "ku", 32)               the key of phase n+1
//! key_n        = HKDF-Expand(secret_n, "key", 16)              AES-128-GCM
//! iv_n         = HKDF-Expand(secret_n, "iv", 12)
//! nonce        = iv_n XOR (0 u32 | packet number u64)
//! aad          = the 13 bytes of the short header, as sent
//! ```
//! The frames are encrypted in place, the 16 bytes of tag follow them. `K` in the header is the lowest bit of n.
//! Snow does the handshake only; no packet passes through its transport.
//!
//! # What else comes from the shared key
//! ```text
//! reset_key    = HKDF-Expand(HKDF-Extract(salt = "rpc-core", ikm = shared key), "reset", 32)
//! reset token  = the first 16 bytes of HMAC-SHA-256(reset_key, the 23 bytes of the reset before the token)
//! ```

mod cookie;
mod handshake;
mod key;
mod packet_key;
mod resolver;

use std::fmt;
use std::sync::Arc;

use ring::hmac;

pub use self::key::{KeyError, NodeKey, PublicKey, SharedKey};

pub(crate) use self::cookie::CookieKey;
pub(crate) use self::handshake::{Handshake, Pending, Prologue};
pub(crate) use self::packet_key::{PacketKey, Secret, Secrets};

/// How an endpoint protects its packets and whom it lets in. Cheap to clone; shows no secret when printed.
#[derive(Clone)]
pub struct Security {
    mode: Mode,
}

#[derive(Clone)]
enum Mode {
    Insecure,
    SharedKey(SharedKey),
    NodeKeys { shared: SharedKey, own: NodeKey, allowed: Allowed },
}

type Allowed = Arc<dyn Fn(&PublicKey) -> bool + Send + Sync>;

impl Security {
    /// No secrecy and no authenticity: a checksum finds damage, and everybody who reaches the socket is served. For
    /// tests and for networks that protect themselves.
    pub fn insecure() -> Self {
        Self { mode: Mode::Insecure }
    }

    /// Packets are encrypted and authenticated; who has `key` gets in.
    pub fn shared_key(key: SharedKey) -> Self {
        Self { mode: Mode::SharedKey(key) }
    }

    /// As [`Security::shared_key`], and each side proves that it holds a node key of its own. Peers whose public key
    /// `allowed` refuses are closed with [`crate::wire::close::UNAUTHORIZED`] before anything of theirs is read. The
    /// predicate is called once per connection, on the task that drives the socket: it must not block.
    pub fn node_keys(
        shared: SharedKey,
        own: NodeKey,
        allowed: impl Fn(&PublicKey) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self { mode: Mode::NodeKeys { shared, own, allowed: Arc::new(allowed) } }
    }

    /// Whether packets are encrypted.
    pub fn is_encrypted(&self) -> bool {
        !matches!(self.mode, Mode::Insecure)
    }

    /// The number of the mode on the wire.
    pub(crate) fn wire_mode(&self) -> u8 {
        match self.mode {
            Mode::Insecure => 0,
            Mode::SharedKey(_) => 1,
            Mode::NodeKeys { .. } => 2,
        }
    }

    /// Whether the handshake has a third message, which carries the initiator's parameters.
    pub(crate) fn has_third_message(&self) -> bool {
        matches!(self.mode, Mode::NodeKeys { .. })
    }

    /// Whether a peer that proved to be `identity` may stay.
    pub(crate) fn allows(&self, identity: &Identity) -> bool {
        match (&self.mode, identity) {
            (Mode::NodeKeys { allowed, .. }, Identity::Node(key)) => allowed(key),
            (Mode::NodeKeys { .. }, _) => false,
            _ => true,
        }
    }

    /// The key of reset tokens; none in the insecure mode.
    pub(crate) fn reset_key(&self) -> Option<ResetKey> {
        match &self.mode {
            Mode::Insecure => None,
            Mode::SharedKey(shared) | Mode::NodeKeys { shared, .. } => {
                Some(ResetKey(hmac::Key::new(hmac::HMAC_SHA256, &packet_key::reset_key(shared))))
            }
        }
    }
}

impl fmt::Display for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.mode {
            Mode::Insecure => "insecure",
            Mode::SharedKey(_) => "shared key",
            Mode::NodeKeys { .. } => "node keys",
        })
    }
}

impl fmt::Debug for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Security({self})")
    }
}

/// What a peer has proved about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Identity {
    /// Nothing: the connection is insecure.
    #[default]
    None,
    /// That it holds the shared key.
    SharedKey,
    /// That it holds the shared key and the private half of this node key.
    Node(PublicKey),
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::SharedKey => f.write_str("holder of the shared key"),
            Self::Node(key) => write!(f, "node {key}"),
        }
    }
}

/// Makes the tokens of stateless resets.
pub(crate) struct ResetKey(hmac::Key);

impl ResetKey {
    /// The token behind `head`, the bytes of the reset before it.
    pub(crate) fn token(&self, head: &[u8]) -> [u8; 16] {
        let tag = hmac::sign(&self.0, head);
        std::array::from_fn(|index| tag.as_ref()[index])
    }
}

impl fmt::Debug for ResetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResetKey")
    }
}

/// Whether two secrets are equal, in a time that does not depend on where they differ.
pub(crate) fn equal(a: &[u8; 16], b: &[u8; 16]) -> bool {
    a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}
