//! The limits and timings of an endpoint and its connections.

use std::time::Duration;

use super::congestion::Algorithm;

/// Limits and timings. Both ends of a connection may be configured differently: what one end must know of the other
/// travels in the setup exchange, and each sender keeps to the smaller of the two.
#[derive(Clone, Debug)]
pub struct Config {
    /// Largest datagram sent or accepted, in bytes of UDP payload. Default 16,000, which only paths within a machine
    /// carry: there it saves a third of the processor time of calls with 1 KiB and more. Values outside 1,200..=65,000
    /// are moved to the nearer end. Each connection starts with 1,200, which every path carries, and looks for more when
    /// there is more to send than one packet: this size, then those of jumbo frames and of Ethernet. Larger datagrams
    /// that arrive are still read.
    pub datagram_size_max: usize,
    /// Largest body of one request or response, in bytes. Default 64 MiB. A larger one is refused locally with
    /// [`SendError::TooLarge`](super::SendError::TooLarge); a peer that sends one is disconnected.
    pub message_size_max: usize,
    /// Open calls per connection and direction. Default 1,024. Above it a local request is refused with
    /// [`SendError::Busy`](super::SendError::Busy), a request of the peer is answered SERVER_BUSY without being
    /// executed, and a peer far above it is disconnected. Cancellations that wait to be sent are limited alike.
    pub calls_max: u32,
    /// Bytes of large messages (those that do not fit one packet) that the peer may have started and that are not
    /// completely acknowledged, per lane. Default 16 MiB. One message of up to `message_size_max` is always allowed
    /// when it is alone in its lane; a peer above the limit is disconnected. Bounds the memory for reassembly.
    pub message_window: u64,
    /// Bytes of large messages that are coming in on all connections together. Default 256 MiB, at least
    /// `message_size_max`. Charged before anything is allocated; a message for which there is no room waits, the
    /// shortest goes first. A peer that begins messages and does not go on holds its share until the calls are
    /// cancelled or the connection ends.
    pub reassembly_bytes_max: u64,
    /// Bytes of answers kept per connection, after they were delivered, for requests that are repeated. Default
    /// 4 MiB. Above it the oldest is forgotten; a repeat of its request is answered UNKNOWN_OUTCOME, never executed.
    pub answers_kept_bytes: usize,
    /// Connections that peers may hold open. Default 10,000. Above it a setup attempt is dropped and counted; the
    /// peer repeats it until its own setup timeout. Connections that this side opens are not limited.
    pub connections_max: usize,
    /// Connections that one address (whatever its ports) may hold open. Default 10,000. Above it a setup attempt is
    /// dropped and counted.
    pub connections_per_address_max: usize,
    /// Setup exchanges of one address (whatever its ports) that wait for its first data packet. Default 64. Above it a
    /// setup attempt is dropped and counted.
    pub half_open_per_address_max: usize,
    /// Setup exchanges that wait for their first data packet, of all addresses, from which on an address must show with
    /// a cookie that it is real before anything is remembered about it. Default 100; 0: always, which costs every
    /// setup another round trip.
    pub cookies_above: usize,
    /// Packets sealed with one key; the next takes another. Default 2^23 (RFC 9001 section 6.6), values below 1 count
    /// as 1.
    pub key_packets_max: u64,
    /// How long one key is used. Default 1 h.
    pub key_age_max: Duration,
    /// How long an acknowledgement may wait for a packet to ride on. Default 1 ms.
    pub ack_delay_max: Duration,
    /// Round trip time assumed before the first measurement. Default 10 ms.
    pub initial_rtt: Duration,
    /// Upper bound of the probe timeout however often it expired, so that a healed partition is noticed within it.
    /// Default 1 s.
    pub pto_max: Duration,
    /// A peer that was silent for so long while something was expected of it is lost; a connection without an open
    /// call is closed after so long without traffic, by the side that opened it (the smaller value of both sides; the
    /// other side waits three times as long, so that it does not forget what is about to be used). Default 10 s.
    pub idle_timeout: Duration,
    /// A connection with open calls, or one marked with [`Endpoint::keep`](crate::endpoint::Endpoint::keep), that
    /// heard nothing for so long asks whether the peer is there. Default 3 s, at least 1 ms.
    pub keep_alive: Duration,
    /// A setup exchange is repeated (20 ms after the first attempt, doubling up to 1 s) until it is answered or so
    /// much time has passed; then the connection is lost. Default 5 s.
    pub setup_timeout: Duration,
    /// How much may be on the way to a peer, and how fast it may leave. Each side decides for what it sends. Default
    /// [`Algorithm::Bbr`]; [`Algorithm::custom`] takes a controller of the user's own.
    pub congestion: Algorithm,
    /// Whether this side reads compressed bodies, which it tells the peer. Default true.
    pub compression: bool,
    /// Whether packets are marked so that routers can tell of congestion instead of dropping (RFC 3168), and marks of the
    /// peer's packets are told to it. Both sides must want it. Default true.
    pub ecn: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            datagram_size_max: 16_000,
            message_size_max: 64 << 20,
            calls_max: 1_024,
            message_window: 16 << 20,
            reassembly_bytes_max: 256 << 20,
            answers_kept_bytes: 4 << 20,
            connections_max: 10_000,
            connections_per_address_max: 10_000,
            half_open_per_address_max: 64,
            cookies_above: 100,
            key_packets_max: 1 << 23,
            key_age_max: Duration::from_secs(3_600),
            ack_delay_max: Duration::from_millis(1),
            initial_rtt: Duration::from_millis(10),
            pto_max: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(10),
            keep_alive: Duration::from_secs(3),
            setup_timeout: Duration::from_secs(5),
            congestion: Algorithm::default(),
            compression: true,
            ecn: true,
        }
    }
}
