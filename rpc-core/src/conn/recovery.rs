//! What was sent and is not yet acknowledged; when it counts as lost (RFC 9002).

use std::collections::VecDeque;
use std::time::Duration;

use super::config::Config;
use super::congestion::{Acked, Controller, Lost, Marked, RateSample};
use super::ecn::Marking;
use super::mtu::Mtu;
use super::pacer::Pacer;
use super::sent::SentFrame;
use crate::runtime::Instant;
use crate::wire::frame::Ack;
use crate::wire::{Ecn, Malformed, Marks, SETUP_DATAGRAM_SIZE};

/// Measured round trip time, RFC 9002 section 5.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rtt {
    pub(super) smoothed: Duration,
    variation: Duration,
    latest: Duration,
    pub(super) min: Duration,
    measured: bool,
}

impl Rtt {
    fn new(initial: Duration) -> Self {
        Self { smoothed: initial, variation: initial / 2, latest: initial, min: initial, measured: false }
    }

    /// Takes in one measurement; `ack_delay` is how long the peer says it waited.
    pub(super) fn update(&mut self, latest: Duration, ack_delay: Duration) {
        self.latest = latest;
        if !self.measured {
            *self = Self { smoothed: latest, variation: latest / 2, latest, min: latest, measured: true };
            return;
        }
        self.min = self.min.min(latest);
        let adjusted = if latest >= self.min + ack_delay { latest - ack_delay } else { latest };
        self.variation = (self.variation * 3 + self.smoothed.abs_diff(adjusted)) / 4;
        self.smoothed = (self.smoothed * 7 + adjusted) / 8;
    }

    /// How long to wait for an acknowledgement before asking (RFC 9002 section 6.2.1).
    fn pto(&self, ack_delay_max: Duration) -> Duration {
        self.smoothed + (self.variation * 4).max(GRANULARITY) + ack_delay_max
    }

    /// How much later a packet must have been acknowledged than sent for an older one to count as lost
    /// (RFC 9002 section 6.1.2).
    fn loss_delay(&self) -> Duration {
        (self.smoothed.max(self.latest) * 9 / 8).max(GRANULARITY)
    }
}

/// Packets in flight and the timers that watch them.
#[derive(Debug)]
pub(super) struct Recovery {
    /// Ascending packet numbers; only packets that want an acknowledgement.
    sent: VecDeque<SentPacket>,
    pn_next: u64,
    largest_acked: Option<u64>,
    bytes_in_flight: u64,
    packets_in_flight: usize,
    /// When the oldest packet below `largest_acked` counts as lost.
    loss_at: Option<Instant>,
    last_sent: Instant,
    pto_count: u32,
    pto_max: Duration,
    /// Packets that may be sent whatever the congestion window says.
    probes: u32,
    /// How long the peer's acknowledgements may wait.
    pub(super) peer_ack_delay: Duration,
    pub(super) rtt: Rtt,
    congestion: Box<dyn Controller>,
    /// Packets below it went another way.
    path_start: u64,
    pacer: Pacer,
    delivery: Delivery,
    pub(super) ecn: Marking,
    /// Empty vectors, to be filled again.
    spare: Vec<Vec<SentFrame>>,
}

#[derive(Debug)]
struct SentPacket {
    pn: u64,
    time: Instant,
    size: u64,
    frames: Vec<SentFrame>,
    /// Neither acknowledged nor lost yet.
    live: bool,
    marked: bool,
    /// What was delivered when it was sent.
    delivery: Delivery,
}

/// How much has arrived, and since when: what a delivery rate is computed from
/// (draft-cheng-iccrg-delivery-rate-estimation section 3).
#[derive(Clone, Copy, Debug)]
struct Delivery {
    /// Bytes acknowledged so far.
    bytes: u64,
    /// When the last of them were.
    time: Instant,
    /// When the packet that they were part of was sent.
    first_sent: Instant,
    /// Until so many bytes are acknowledged, the application had too little to send.
    application_limited: u64,
}

impl Delivery {
    const fn new(now: Instant) -> Self {
        Self { bytes: 0, time: now, first_sent: now, application_limited: 0 }
    }

    /// The sample of a packet sent at `sent` when this was delivered, now that `after` is.
    fn sample(&self, sent: Instant, after: &Self) -> RateSample {
        RateSample {
            delivered_before: self.bytes,
            bytes: after.bytes - self.bytes,
            interval: (sent - self.first_sent).max(after.time - self.time),
            application_limited: self.application_limited > self.bytes,
        }
    }
}

/// What came of a timer that fired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fired {
    Nothing,
    /// Frames were added that are lost.
    Loss,
    /// Frames were added that may be lost: the oldest in flight.
    Pto,
}

impl Recovery {
    pub(super) fn new(now: Instant, config: &Config, packet_size: u64) -> Self {
        Self {
            sent: VecDeque::new(),
            pn_next: 0,
            largest_acked: None,
            bytes_in_flight: 0,
            packets_in_flight: 0,
            loss_at: None,
            last_sent: now,
            pto_count: 0,
            pto_max: config.pto_max,
            probes: 0,
            peer_ack_delay: config.ack_delay_max,
            rtt: Rtt::new(config.initial_rtt),
            congestion: config.congestion.start(packet_size),
            path_start: 0,
            pacer: Pacer::default(),
            delivery: Delivery::new(now),
            ecn: Marking::default(),
            spare: Vec::new(),
        }
    }

    /// Packets have another size from now on.
    pub(super) fn set_packet_size(&mut self, packet_size: u64) {
        self.congestion.set_packet_size(packet_size);
    }

    /// The number of the next packet. Each is used once, because [`Recovery::on_sent`] or
    /// [`Recovery::on_sent_untracked`] follows.
    pub(super) const fn pn_next(&self) -> u64 {
        self.pn_next
    }

    /// The largest packet number that the peer has acknowledged.
    pub(super) const fn largest_acked(&self) -> Option<u64> {
        self.largest_acked
    }

    pub(super) const fn probing(&self) -> bool {
        self.probes > 0
    }

    /// Whether a packet of `size` bytes that wants an acknowledgement may be sent now.
    pub(super) fn may_send(&mut self, now: Instant, size: u64) -> bool {
        if self.probing() {
            return true;
        }
        let window = self.congestion.window();
        if self.bytes_in_flight + size > window {
            return false;
        }
        if self.rtt.smoothed < PACED_RTT_MIN {
            return true;
        }
        let rate = self.congestion.pacing_rate().unwrap_or_else(|| {
            let nanos = self.rtt.smoothed.as_nanos();
            u64::try_from(u128::from(window) * 1_250_000_000 / nanos).unwrap_or(u64::MAX)
        });
        self.pacer.may_send(now, size, rate)
    }

    /// There is nothing more to send, though more might go: what is measured now says little about the path.
    pub(super) fn on_application_limited(&mut self) {
        self.delivery.application_limited = self.delivery.bytes + self.bytes_in_flight.max(1);
    }

    /// The peer is at another address from now on: nothing is known about the way there, except what one round trip
    /// took if it was measured.
    pub(super) fn on_new_path(
        &mut self,
        now: Instant,
        config: &Config,
        packet_size: u64,
        rtt: Option<Duration>,
    ) {
        self.rtt = Rtt::new(config.initial_rtt);
        if let Some(rtt) = rtt {
            self.rtt.update(rtt, Duration::ZERO);
        }
        self.congestion = config.congestion.start(packet_size);
        self.pacer = Pacer::default();
        self.path_start = self.pn_next;
        self.delivery = Delivery { bytes: self.delivery.bytes, ..Delivery::new(now) };
        self.pto_count = 0;
        self.ecn.on_new_path();
    }

    /// When something may be sent that has to wait for its turn.
    pub(super) const fn pace_timeout(&self) -> Option<Instant> {
        self.pacer.timeout()
    }

    pub(super) const fn is_idle(&self) -> bool {
        self.packets_in_flight == 0
    }

    pub(super) const fn last_sent(&self) -> Instant {
        self.last_sent
    }

    /// The probe timeout without backoff.
    pub(super) fn pto(&self) -> Duration {
        self.rtt.pto(self.peer_ack_delay)
    }

    /// An empty vector for the frames of the next packet.
    pub(super) fn frames(&mut self) -> Vec<SentFrame> {
        self.spare.pop().unwrap_or_default()
    }

    /// Gives a vector of [`Recovery::frames`] back.
    pub(super) fn recycle(&mut self, mut frames: Vec<SentFrame>) {
        if self.spare.len() < SPARE_MAX {
            frames.clear();
            self.spare.push(frames);
        }
    }

    /// The next packet was sent and wants an acknowledgement.
    pub(super) fn on_sent(&mut self, now: Instant, size: u64, frames: Vec<SentFrame>) {
        if self.packets_in_flight == 0 {
            (self.delivery.time, self.delivery.first_sent) = (now, now);
        }
        let mark = self.ecn.mark();
        self.ecn.on_sent(mark);
        self.sent.push_back(SentPacket {
            pn: self.pn_next,
            time: now,
            size,
            frames,
            live: true,
            marked: mark != Ecn::NotEct,
            delivery: self.delivery,
        });
        self.pn_next += 1;
        self.bytes_in_flight += size;
        self.packets_in_flight += 1;
        self.last_sent = now;
        self.probes = self.probes.saturating_sub(1);
        self.pacer.on_sent(size);
        self.congestion.on_sent(now, size, self.bytes_in_flight);
    }

    /// The next packet was sent, marked so; nobody acknowledges it.
    pub(super) const fn on_sent_untracked(&mut self, mark: Ecn) {
        self.ecn.on_sent(mark);
        self.pn_next += 1;
    }

    /// Takes in an acknowledgement, and what it says about marks. Appends the frames that arrived to `acked`, those that count as lost now to `lost`;
    /// returns how many packets were lost.
    pub(super) fn on_ack(
        &mut self,
        now: Instant,
        ack: &Ack,
        marks: Option<Marks>,
        mtu: &mut Mtu,
        acked: &mut Vec<SentFrame>,
        lost: &mut Vec<SentFrame>,
    ) -> Result<u64, Malformed> {
        if ack.largest >= self.pn_next {
            return Err(Malformed("acknowledgement of a packet that was never sent"));
        }
        let limited = self.bytes_in_flight * 2 >= self.congestion.window();
        let mut newest = None::<(Instant, Delivery)>;
        let (before, mut packets, mut marked) = (self.delivery.bytes, 0_u64, 0);
        for (start, end) in ack.ranges() {
            let mut index = self.sent.partition_point(|packet| packet.pn < start);
            while let Some(packet) = self.sent.get_mut(index).filter(|packet| packet.pn <= end) {
                index += 1;
                if !packet.live {
                    continue;
                }
                packet.live = false;
                let frames = std::mem::take(&mut packet.frames);
                let (time, size, delivery) = (packet.time, packet.size, packet.delivery);
                self.bytes_in_flight -= size;
                self.packets_in_flight -= 1;
                self.delivery.bytes += size;
                let (pn, same_path) = (packet.pn, packet.pn >= self.path_start);
                mtu.on_packet_acked(size);
                if pn == ack.largest && same_path {
                    let delay = Duration::from_micros(ack.delay_us).min(self.peer_ack_delay);
                    self.rtt.update(now - time, delay);
                }
                packets += 1;
                marked += u64::from(packet.marked && same_path);
                if same_path && newest.is_none_or(|(newest, _)| newest <= time) {
                    newest = Some((time, delivery));
                }
                acked.extend_from_slice(&frames);
                self.recycle(frames);
            }
        }
        self.ecn.on_ack(marks, self.largest_acked <= Some(ack.largest), marked);
        if packets == 0 {
            return Ok(0);
        }
        self.delivery.time = now;
        if let Some((newest_sent, delivery)) = newest {
            self.delivery.first_sent = newest_sent;
            self.congestion.on_ack(&Acked {
                now,
                bytes: self.delivery.bytes - before,
                newest_sent,
                in_flight: self.bytes_in_flight,
                limited,
                rtt: self.rtt.smoothed,
                rtt_latest: now - newest_sent,
                delivered: self.delivery.bytes,
                sample: delivery.sample(newest_sent, &self.delivery),
            });
            let news = self.ecn.news();
            if news > 0 {
                let bytes = (self.delivery.bytes - before) / packets * news.min(packets);
                let in_flight = self.bytes_in_flight;
                self.congestion.on_marked(&Marked { now, packets: news, bytes, newest_sent, in_flight });
            }
        }
        self.largest_acked = self.largest_acked.max(Some(ack.largest));
        self.pto_count = 0;
        self.probes = 0;
        let count = self.detect_lost(now, mtu, lost);
        self.trim();
        Ok(count)
    }

    /// When [`Recovery::on_timeout`] has something to do.
    pub(super) fn timeout(&self) -> Option<Instant> {
        if self.loss_at.is_some() {
            return self.loss_at;
        }
        (self.packets_in_flight > 0).then(|| self.last_sent + self.pto_with_backoff())
    }

    /// Does what is due: declares packets lost, or asks for two probes that carry the oldest frames again.
    pub(super) fn on_timeout(
        &mut self,
        now: Instant,
        mtu: &mut Mtu,
        frames: &mut Vec<SentFrame>,
    ) -> (Fired, u64) {
        self.pacer.on_timeout(now);
        if self.timeout().is_none_or(|timeout| timeout > now) {
            return (Fired::Nothing, 0);
        }
        if self.loss_at.is_some() {
            let count = self.detect_lost(now, mtu, frames);
            self.trim();
            return (Fired::Loss, count);
        }
        self.pto_count = self.pto_count.saturating_add(1);
        self.congestion.on_pto();
        self.ecn.on_pto(self.pto_count);
        self.probes = PROBES;
        // Until a probe is sent, the timer must not fire again.
        self.last_sent = now;
        for packet in self.sent.iter().filter(|packet| packet.live).take(PROBES as usize) {
            frames.extend_from_slice(&packet.frames);
        }
        if self.sent.iter().any(|packet| packet.live && packet.size > SETUP_DATAGRAM_SIZE as u64) {
            mtu.on_pto(self.pto_count);
        }
        (Fired::Pto, 0)
    }

    fn pto_with_backoff(&self) -> Duration {
        let pto = self.pto();
        let doubled = pto.saturating_mul(1_u32.checked_shl(self.pto_count).unwrap_or(u32::MAX));
        doubled.min(self.pto_max.max(pto))
    }

    /// RFC 9002 section 6.1: three packets later, or 9/8 of a round trip.
    fn detect_lost(&mut self, now: Instant, mtu: &mut Mtu, lost: &mut Vec<SentFrame>) -> u64 {
        self.loss_at = None;
        let Some(largest) = self.largest_acked else { return 0 };
        let delay = self.rtt.loss_delay();
        let (mut count, mut bytes, mut latest) = (0, 0, None);
        for index in 0..self.sent.len() {
            let packet = &mut self.sent[index];
            if packet.pn >= largest {
                break;
            }
            if !packet.live {
                continue;
            }
            if packet.pn + PACKET_THRESHOLD > largest && packet.time + delay > now {
                self.loss_at = Some(packet.time + delay);
                break;
            }
            packet.live = false;
            count += 1;
            // The loss of a probe says something about its size only, one of another path nothing about this one.
            if let Some(SentFrame::MtuProbe { size }) = packet.frames.first() {
                mtu.on_lost(now, *size as usize);
            } else if packet.pn >= self.path_start {
                bytes += packet.size;
                latest = Some(packet.time);
                mtu.on_packet_lost(packet.size);
            }
            self.bytes_in_flight -= packet.size;
            self.packets_in_flight -= 1;
            let frames = std::mem::take(&mut packet.frames);
            lost.extend_from_slice(&frames);
            self.recycle(frames);
        }
        if let Some(newest_sent) = latest {
            let in_flight = self.bytes_in_flight;
            self.congestion.on_loss(&Lost { now, bytes, newest_sent, in_flight });
        }
        count
    }

    fn trim(&mut self) {
        while self.sent.front().is_some_and(|packet| !packet.live) {
            self.sent.pop_front();
        }
    }
}

/// Timers are not finer than this (RFC 9002 kGranularity).
const GRANULARITY: Duration = Duration::from_millis(1);
/// A packet counts as lost when one sent so many later was acknowledged (RFC 9002 kPacketThreshold).
const PACKET_THRESHOLD: u64 = 3;
/// Below it nothing is paced: timers are coarser than the round trip.
const PACED_RTT_MIN: Duration = Duration::from_millis(1);
/// Packets sent when the probe timeout expires.
const PROBES: u32 = 2;
/// Vectors kept for reuse.
const SPARE_MAX: usize = 64;

#[cfg(test)]
mod tests;
