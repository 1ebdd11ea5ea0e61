//! A controller that models the path: how many bytes per second it carries, how long it takes when its queue is empty.
//!
//! After BBR (Cardwell et al., "BBR: Congestion-Based Congestion Control", 2016; draft-ietf-ccwg-bbr), with a loss
//! response of its own:
//!
//! | phase | rate | window | until |
//! | --- | --- | --- | --- |
//! | startup | 2.77 bw | 2.77 bdp | the bandwidth grew by less than 1/4 in three round trips (those that the application limited count if there was a queue and the window was full), or a full queue loses |
//! | drain | 0.36 bw | 2.77 bdp | no more than one bdp is on the way |
//! | cycle: up | 1.25 bw | 2 bdp + slack | one shortest round trip, and 1.25 bdp on the way or a full queue loses |
//! | cycle: down | 0.75 bw | 2 bdp + slack | one shortest round trip, or one bdp on the way |
//! | cycle: cruise | 1.00 bw | 2 bdp + slack | 4 to 8 shortest round trips |
//! | probe of the round trip | 1.00 bw | 4 packets | 100 ms, after 5 s in which no round trip was as short as the shortest |
//!
//! `bw` is the highest delivery rate of the last eight round trips that the application did not limit, `bdp` is `bw`
//! times the shortest round trip. **Slack** is what 2 ms carry: round trips below that are mostly delayed
//! acknowledgements and scheduling, and without it a path whose usual round trip is more than twice its shortest would
//! measure itself smaller with each turn.
//!
//! **Loss** counts as congestion when more than 1/5 of a round trip was lost, or when the round trip has grown by an
//! eighth and 1 ms *and* the share that was lost is above 1/50 plus one and a half times what is usual without a queue.
//! Then 0.85 of what was on the way is a bound for the window, never below one bdp, and below it 0.85 of the bound
//! while nothing more is asked for; each later phase "up" without such a loss raises the bound by a quarter, and goes on, a
//! quarter for each shortest round trip, while the bound is what keeps the window small. Loss without a queue, which is
//! chance, changes nothing. A mark of a router (CE) is never chance: one in a round trip counts as congestion.

use std::time::Duration;

use super::{Acked, Controller, INITIAL_PACKETS, Lost, MIN_PACKETS, Marked};
use crate::runtime::Instant;

/// Model-based congestion control, paced.
#[derive(Debug)]
pub struct Bbr {
    packet_size: u64,
    window: u64,
    phase: Phase,
    /// When the phase began.
    since: Instant,
    /// Highest delivery rate of each of the last round trips, bytes per second.
    rates: [u64; ROUNDS],
    bandwidth: u64,
    /// The rate of [`Controller::pacing_rate`] when the bandwidth is unknown, or was higher in startup.
    rate_floor: u64,
    rtt_min: Duration,
    rtt_min_at: Instant,
    round: Round,
    full: FullPipe,
    /// Upper bound of the window, from losses.
    bound: u64,
    /// The share that is lost by chance: of round trips without a queue, in millionths.
    chance_ppm: u64,
    /// Cruises of the next cycle.
    cruises: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Startup,
    Drain,
    Up,
    Down,
    Cruise,
    /// `window` is what comes back after it; `drained`: the queue is empty as far as it depends on us.
    ProbeRtt {
        window: u64,
        drained: bool,
    },
}

/// The current round trip: it ends when a packet is acknowledged that was sent after it began.
#[derive(Debug, Default)]
struct Round {
    index: usize,
    /// [`Acked::delivered`] at which it ends.
    end: u64,
    acked: u64,
    lost: u64,
    in_flight_max: u64,
    /// The queue was seen to be longer than by chance.
    queued: bool,
    /// It was congested already: one reduction per round trip.
    reduced: bool,
}

impl Round {
    /// Millionths of the bytes that were lost.
    fn lost_ppm(&self) -> u64 {
        self.lost * 1_000_000 / (self.acked + self.lost).max(1)
    }
}

/// Whether startup has filled the pipe.
#[derive(Debug, Default)]
struct FullPipe {
    bandwidth: u64,
    rounds: u32,
}

impl Bbr {
    /// A controller for a new path.
    pub fn new(packet_size: u64) -> Self {
        Self {
            packet_size,
            window: INITIAL_PACKETS * packet_size,
            phase: Phase::Startup,
            since: Instant::default(),
            rates: [0; ROUNDS],
            bandwidth: 0,
            rate_floor: 0,
            rtt_min: Duration::MAX,
            rtt_min_at: Instant::default(),
            round: Round::default(),
            full: FullPipe::default(),
            bound: u64::MAX,
            chance_ppm: 0,
            cruises: 0,
        }
    }

    /// Bytes on the way when the pipe is full and the queue empty.
    fn bdp(&self) -> u64 {
        if self.rtt_min == Duration::MAX {
            return INITIAL_PACKETS * self.packet_size;
        }
        carried(self.bandwidth, self.rtt_min)
    }

    fn enter(&mut self, phase: Phase, now: Instant) {
        self.phase = phase;
        self.since = now;
    }

    /// Takes in the rate; true when a round trip ended with it.
    fn measure(&mut self, acked: &Acked) -> bool {
        let sample = &acked.sample;
        let ended = sample.delivered_before >= self.round.end;
        if ended {
            self.round.end = acked.delivered;
        }
        let nanos = sample.interval.as_nanos();
        if nanos == 0 {
            return ended;
        }
        let rate = u64::try_from(u128::from(sample.bytes) * 1_000_000_000 / nanos).unwrap_or(u64::MAX);
        if sample.application_limited && rate <= self.bandwidth {
            return ended;
        }
        if ended {
            self.round.index = (self.round.index + 1) % ROUNDS;
            self.rates[self.round.index] = 0;
        }
        let slot = &mut self.rates[self.round.index];
        *slot = rate.max(*slot);
        self.bandwidth = self.rates.iter().copied().max().unwrap_or(0);
        ended
    }

    fn measure_rtt(&mut self, acked: &Acked) {
        if acked.rtt_latest <= self.rtt_min {
            self.rtt_min = acked.rtt_latest;
        }
        // About as short is as good: the value is still true.
        if acked.rtt_latest <= self.rtt_min + self.rtt_min / 16 {
            self.rtt_min_at = acked.now;
        }
        self.round.queued |= acked.rtt > self.rtt_min + self.rtt_min / 8 + QUEUE_MIN;
    }

    /// Judges the losses of the round trip so far; true if they mean congestion.
    fn is_congested(&self) -> bool {
        let Round { lost, queued, .. } = self.round;
        let share = self.round.lost_ppm();
        let few = lost <= LOSS_PACKETS_MIN * self.packet_size;
        !few && (share > LOSS_MAX_PPM || (queued && share > self.chance_ppm / 2 * 3 + LOSS_QUEUED_PPM))
    }

    fn reduce(&mut self, now: Instant) {
        if self.round.reduced {
            return;
        }
        self.round.reduced = true;
        if self.phase == Phase::Startup {
            self.enter(Phase::Drain, now);
        } else if self.phase == Phase::Up {
            self.enter(Phase::Down, now);
        }
        let seen = self.round.in_flight_max.min(self.bound);
        self.bound = (seen / 20 * 17).max(self.bdp()).max(MIN_PACKETS * self.packet_size);
    }

    fn end_round(&mut self, acked: &Acked) {
        if !self.round.queued {
            self.chance_ppm = (self.chance_ppm * 7 + self.round.lost_ppm()) / 8;
        }
        // Who sends messages one at a time is limited by himself in every sample; with a queue and a full window the path
        // shows all the same that it has no more. Otherwise he would send in bursts, at this rate, for ever.
        let is_telling = !acked.sample.application_limited || (self.round.queued && acked.limited);
        if self.phase == Phase::Startup && is_telling {
            if self.bandwidth >= self.full.bandwidth / 4 * 5 {
                self.full = FullPipe { bandwidth: self.bandwidth, rounds: 0 };
            } else {
                self.full.rounds += 1;
                if self.full.rounds >= FULL_ROUNDS {
                    self.enter(Phase::Drain, acked.now);
                }
            }
        }
        let Round { index, end, .. } = self.round;
        self.round = Round { index, end, ..Round::default() };
    }

    fn advance(&mut self, acked: &Acked) {
        let Acked { now, in_flight, .. } = *acked;
        let passed = now - self.since;
        match self.phase {
            Phase::Startup => {}
            Phase::Drain | Phase::Down if in_flight <= self.bdp() => self.cruise(acked),
            Phase::Drain => {}
            Phase::Down if passed > self.rtt_min => self.cruise(acked),
            Phase::Down => {}
            Phase::Up if passed > self.rtt_min => {
                let bounded = acked.limited && self.window >= self.bound;
                if bounded {
                    // The bound, not the path, decides: on with it, round trip by round trip, until the path does.
                    self.bound = self.bound.saturating_add(self.bound / 4);
                    self.enter(Phase::Up, now);
                } else if in_flight >= self.bdp() / 4 * 5 || !acked.limited {
                    self.bound = self.bound.saturating_add(self.bound / 4);
                    self.enter(Phase::Down, now);
                }
            }
            Phase::Up => {}
            Phase::Cruise if passed > self.rtt_min * self.cruises => self.enter(Phase::Up, now),
            Phase::Cruise => {}
            Phase::ProbeRtt { window, drained: false } if in_flight <= self.window => {
                self.enter(Phase::ProbeRtt { window, drained: true }, now);
            }
            Phase::ProbeRtt { window, drained } => {
                if drained && passed > PROBE_RTT.max(self.rtt_min) {
                    self.window = window;
                    self.cruise(acked);
                }
            }
        }
        let cycling = matches!(self.phase, Phase::Up | Phase::Down | Phase::Cruise);
        if cycling && now - self.rtt_min_at > RTT_MIN_AGE {
            // What is measured from here on counts, longer or not.
            self.rtt_min = acked.rtt_latest;
            self.rtt_min_at = now;
            self.enter(Phase::ProbeRtt { window: self.window, drained: false }, now);
        }
    }

    fn cruise(&mut self, acked: &Acked) {
        // Flows that share a bottleneck must not probe in step: how many bytes each has sent tells them apart.
        self.cruises = 4 + (acked.delivered / self.packet_size.max(1) % 5) as u32;
        self.enter(Phase::Cruise, acked.now);
    }

    fn resize(&mut self, acked: &Acked) {
        let bdp = self.bdp();
        let least = MIN_PACKETS * self.packet_size;
        self.window = match self.phase {
            Phase::Startup if !acked.limited => self.window,
            Phase::Startup => {
                let full = (bdp / 100).saturating_mul(STARTUP_PERCENT);
                self.window.max((self.window + acked.bytes).min(full))
            }
            Phase::ProbeRtt { .. } => least,
            _ => {
                let slack = carried(self.bandwidth, SLACK) + 3 * self.packet_size;
                let target = bdp.saturating_mul(2).saturating_add(slack);
                // Room for who comes new, except while more is asked for.
                let bound =
                    if self.phase == Phase::Up { self.bound } else { (self.bound / 20 * 17).max(bdp) };
                (self.window + acked.bytes).min(target).min(bound).max(least)
            }
        };
        self.window = self.window.min(WINDOW_MAX);
    }
}

impl Controller for Bbr {
    fn set_packet_size(&mut self, packet_size: u64) {
        self.packet_size = packet_size;
        self.window = self.window.max(MIN_PACKETS * packet_size);
    }

    fn on_sent(&mut self, _now: Instant, _size: u64, in_flight: u64) {
        self.round.in_flight_max = self.round.in_flight_max.max(in_flight);
    }

    fn on_ack(&mut self, acked: &Acked) {
        self.round.acked += acked.bytes;
        self.measure_rtt(acked);
        let ended = self.measure(acked);
        if self.phase == Phase::Startup {
            let window_rate = rate(self.window, acked.rtt);
            self.rate_floor = self.rate_floor.max(window_rate);
        }
        self.advance(acked);
        self.resize(acked);
        if ended {
            self.end_round(acked);
        }
    }

    fn on_loss(&mut self, lost: &Lost) {
        self.round.lost += lost.bytes;
        if self.is_congested() {
            self.reduce(lost.now);
            self.window = self.window.min(self.bound);
        }
    }

    fn on_marked(&mut self, marked: &Marked) {
        self.reduce(marked.now);
        self.window = self.window.min(self.bound);
    }

    fn window(&self) -> u64 {
        self.window
    }

    fn pacing_rate(&self) -> Option<u64> {
        let percent = match self.phase {
            Phase::Startup => STARTUP_PERCENT,
            Phase::Drain => 36,
            Phase::Up => 125,
            Phase::Down => 75,
            Phase::Cruise | Phase::ProbeRtt { .. } => 100,
        };
        let floor = if self.phase == Phase::Startup { self.rate_floor } else { 0 };
        let base = self.bandwidth.max(floor);
        (base > 0).then(|| base / 100 * percent)
    }
}

/// Bytes that `rate` carries in `time`.
fn carried(rate: u64, time: Duration) -> u64 {
    u64::try_from(u128::from(rate) * time.as_nanos() / 1_000_000_000).unwrap_or(u64::MAX)
}

/// Bytes per second of `bytes` in `time`.
fn rate(bytes: u64, time: Duration) -> u64 {
    u64::try_from(u128::from(bytes) * 1_000_000_000 / time.as_nanos().max(1)).unwrap_or(u64::MAX)
}

/// Round trips over which the bandwidth is the highest.
const ROUNDS: usize = 8;
/// Round trips without growth after which the pipe is full.
const FULL_ROUNDS: u32 = 3;
/// A window never needs to be more than this; it keeps all sums small.
const WINDOW_MAX: u64 = 1 << 32;
const SLACK: Duration = Duration::from_millis(2);
/// A queue shorter than this is no queue.
const QUEUE_MIN: Duration = Duration::from_millis(1);
/// So many lost packets in a round trip are chance, whatever share they are.
const LOSS_PACKETS_MIN: u64 = 4;
/// The share of a round trip whose loss is never chance.
const LOSS_MAX_PPM: u64 = 200_000;
/// The share of a round trip with a queue whose loss is not chance, above what is usual.
const LOSS_QUEUED_PPM: u64 = 20_000;
/// Twice as much with every round trip takes 2 / ln 2 = 2.885 (BBR); 4 * ln 2 = 2.77 is enough (draft section 4.1.1).
const STARTUP_PERCENT: u64 = 277;
/// How old the shortest round trip may be.
const RTT_MIN_AGE: Duration = Duration::from_secs(5);
/// How long the queue is left to run empty.
const PROBE_RTT: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests;
