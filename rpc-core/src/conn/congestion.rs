//! How much may be on the way, and how fast it may leave: congestion control behind a trait.
//!
//! [`Cubic`] takes every loss for congestion (RFC 9438). [`Bbr`] measures what the path carries and how long it takes,
//! and takes a loss for congestion only when the queue has grown too: it keeps its speed on links that lose packets by
//! chance. [`Algorithm`] in [`Config`](super::Config) chooses, one of these or a controller of the user's own; the
//! figures behind the default are in docs/BENCHMARKS.md.

mod bbr;
mod cubic;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use self::bbr::Bbr;
pub use self::cubic::Cubic;
use crate::runtime::Instant;

/// Decides how many bytes may be sent and not yet acknowledged, and at which rate. One for each path of a connection;
/// a change of the peer's address starts with a new one.
///
/// All sizes are bytes of UDP payload of packets that want an acknowledgement. Calls come in the order of events, and
/// `now` never goes back.
pub trait Controller: Send + fmt::Debug {
    /// Packets have this size from now on (path MTU discovery moved it).
    fn set_packet_size(&mut self, packet_size: u64);

    /// A packet was sent; `in_flight` counts it.
    fn on_sent(&mut self, _now: Instant, _size: u64, _in_flight: u64) {}

    /// An acknowledgement brought news. Called before [`Controller::on_loss`] for the losses that it revealed.
    fn on_ack(&mut self, acked: &Acked);

    /// Packets were lost.
    fn on_loss(&mut self, lost: &Lost);

    /// Packets arrived with the mark of a queue that grows (CE, RFC 3168). Called after [`Controller::on_ack`]. A mark asks
    /// for an answer as a loss does, though nothing was lost; unless told otherwise it is taken for one.
    fn on_marked(&mut self, marked: &Marked) {
        let Marked { now, bytes, newest_sent, in_flight, .. } = *marked;
        self.on_loss(&Lost { now, bytes, newest_sent, in_flight });
    }

    /// The probe timeout expired. That alone says nothing about congestion (RFC 9002 section 7.5).
    fn on_pto(&mut self) {}

    /// Bytes that may be on the way. At least one packet.
    fn window(&self) -> u64;

    /// Bytes per second at which packets should leave; `None` for a rate that sends the window once in 4/5 of a round
    /// trip. Not kept on paths with round trips below a millisecond, where timers are too coarse.
    fn pacing_rate(&self) -> Option<u64> {
        None
    }
}

/// What one acknowledgement said.
#[derive(Clone, Copy, Debug)]
pub struct Acked {
    /// When it came.
    pub now: Instant,
    /// Bytes newly acknowledged.
    pub bytes: u64,
    /// When the latest of the packets was sent.
    pub newest_sent: Instant,
    /// Bytes still on the way.
    pub in_flight: u64,
    /// The window, not the application, decided how much was on the way.
    pub limited: bool,
    /// Smoothed round trip time.
    pub rtt: Duration,
    /// The round trip time of this acknowledgement, with the peer's delay in it.
    pub rtt_latest: Duration,
    /// Bytes acknowledged since the path is in use, these included.
    pub delivered: u64,
    /// How fast packets arrived lately.
    pub sample: RateSample,
}

/// One measurement of the delivery rate (draft-cheng-iccrg-delivery-rate-estimation).
#[derive(Clone, Copy, Debug)]
pub struct RateSample {
    /// [`Acked::delivered`] when the packet that is measured was sent: it marks round trips.
    pub delivered_before: u64,
    /// Bytes that were acknowledged from then on.
    pub bytes: u64,
    /// In which time: the longer one of sending and acknowledging them. Zero measures nothing.
    pub interval: Duration,
    /// There was less to send than the path would have carried.
    pub application_limited: bool,
}

/// Packets that were lost.
#[derive(Clone, Copy, Debug)]
pub struct Lost {
    /// When that was noticed.
    pub now: Instant,
    /// Their bytes.
    pub bytes: u64,
    /// When the latest of them was sent.
    pub newest_sent: Instant,
    /// Bytes on the way, without them.
    pub in_flight: u64,
}

/// Packets that arrived marked.
#[derive(Clone, Copy, Debug)]
pub struct Marked {
    /// When the peer said so.
    pub now: Instant,
    /// How many marks are new.
    pub packets: u64,
    /// About their bytes: which packets were marked is not told.
    pub bytes: u64,
    /// When the latest of the packets was sent that were acknowledged with it.
    pub newest_sent: Instant,
    /// Bytes still on the way.
    pub in_flight: u64,
}

/// Which controller a connection uses.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Algorithm {
    /// [`Cubic`].
    Cubic,
    /// [`Bbr`].
    #[default]
    Bbr,
    /// One of the user's own; made by [`Algorithm::custom`].
    Custom(Factory),
}

/// Makes the controllers of [`Algorithm::Custom`].
#[derive(Clone)]
pub struct Factory(Arc<dyn Fn(u64) -> Box<dyn Controller> + Send + Sync>);

impl Algorithm {
    /// A controller of the user's own. `factory` is called with the packet size in bytes, once for each path of each
    /// connection: when a connection begins, and when the peer turned out to be at another address.
    ///
    /// ```
    /// use rpc_core::conn::congestion::{Acked, Algorithm, Controller, Lost};
    /// use rpc_core::endpoint::Config;
    ///
    /// /// Always the same window: for a link that is known and not shared.
    /// #[derive(Debug)]
    /// struct Fixed(u64);
    ///
    /// impl Controller for Fixed {
    ///     fn set_packet_size(&mut self, _packet_size: u64) {}
    ///     fn on_ack(&mut self, _acked: &Acked) {}
    ///     fn on_loss(&mut self, _lost: &Lost) {}
    ///     fn window(&self) -> u64 {
    ///         self.0
    ///     }
    /// }
    ///
    /// let congestion = Algorithm::custom(|packet_size| Box::new(Fixed(64 * packet_size)));
    /// let config = Config { congestion, ..Config::default() };
    /// # drop(config);
    /// ```
    pub fn custom(factory: impl Fn(u64) -> Box<dyn Controller> + Send + Sync + 'static) -> Self {
        Self::Custom(Factory(Arc::new(factory)))
    }

    pub(super) fn start(&self, packet_size: u64) -> Box<dyn Controller> {
        match self {
            Self::Cubic => Box::new(Cubic::new(packet_size)),
            Self::Bbr => Box::new(Bbr::new(packet_size)),
            Self::Custom(Factory(make)) => make(packet_size),
        }
    }
}

impl fmt::Debug for Factory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Factory")
    }
}

/// Packets in the first window (RFC 6928, RFC 9002 section 7.2).
const INITIAL_PACKETS: u64 = 10;
/// The RFC allows 2; with 4 a lost packet is still noticed by acknowledgements of later ones instead of a timeout.
const MIN_PACKETS: u64 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) const fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    pub(super) fn acked(now: Instant, newest_sent: Instant, bytes: u64) -> Acked {
        let sample = RateSample {
            delivered_before: 0,
            bytes,
            interval: now - newest_sent,
            application_limited: false,
        };
        let rtt = now - newest_sent;
        Acked {
            now,
            bytes,
            newest_sent,
            in_flight: 0,
            limited: true,
            rtt,
            rtt_latest: rtt,
            delivered: bytes,
            sample,
        }
    }

    pub(super) const fn lost(now: Instant, newest_sent: Instant) -> Lost {
        Lost { now, bytes: 1_000, newest_sent, in_flight: 0 }
    }
}
