//! What travels in datagrams: varints, packet headers, frames, the seal. Pure encoding; knows no connection.

pub mod close;
pub mod status;

/// Size of a setup datagram, in bytes of UDP payload. Every path must carry it, and it bounds what a setup packet with
/// a forged source address can be amplified to.
pub const SETUP_DATAGRAM_SIZE: usize = 1_200;
