//! Explicit congestion notification (RFC 3168): two bits of the IP header, and what a receiver tells about them.

/// The two bits of a datagram's IP header in which routers tell of a queue that grows, instead of dropping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ecn {
    /// The sender does not listen to marks: a router that has to can only drop.
    #[default]
    NotEct = 0b00,
    /// The sender listens to marks and wants them early (RFC 9331). Never sent by this crate.
    Ect1 = 0b01,
    /// The sender listens to marks.
    Ect0 = 0b10,
    /// Congestion experienced: a router marked it on the way.
    Ce = 0b11,
}

/// How many packets of a connection came otherwise than marked ECT(0), since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    pub(crate) not_ect: u64,
    pub(crate) ect1: u64,
    pub(crate) ce: u64,
}
