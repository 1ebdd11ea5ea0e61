//! What travels in datagrams: varints, packet headers, frames, the seal. Pure encoding; knows no connection.
//!
//! All integers are big-endian. `v` in a drawing is a QUIC varint (RFC 9000 section 16). One datagram is one packet.

pub mod close;
pub mod status;

mod ecn;
pub(crate) mod frame;
pub(crate) mod packet;
pub(crate) mod seal;
pub(crate) mod setup;
pub(crate) mod varint;
#[cfg(test)]
pub(crate) mod vectors;

pub use self::ecn::Ecn;
pub(crate) use self::ecn::Marks;

/// Size of a setup datagram, in bytes of UDP payload. Every path must carry it, and it bounds what a setup packet with
/// a forged source address can be amplified to.
pub const SETUP_DATAGRAM_SIZE: usize = 1_200;

/// The version of the protocol that this module writes and reads.
pub const VERSION: u32 = 1;

/// Which traffic goes before which on one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Before everything else: heartbeats, votes.
    Control,
    /// Ordinary calls.
    #[default]
    Normal,
    /// After ordinary calls: snapshots, transfers.
    Bulk,
}

/// How the body of a message is to be read. It travels in two bits of the frame's flags; only the layers above the
/// connection look at it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Form {
    /// The body begins with one CBOR map of metadata, at most 1 KiB; the body proper follows.
    pub meta: bool,
    /// What follows the metadata is `size v` and one LZ4 block that decompresses to so many bytes.
    pub compressed: bool,
}

/// A packet or frame that cannot be read. What is wrong with it, in words for a log and for a CLOSE frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);
