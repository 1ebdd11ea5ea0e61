//! The phases of the model, brought about by acknowledgements of whole round trips.

use super::super::tests::{acked, at, lost};
use super::*;

const PACKET: u64 = 1_000;
const RTT: u64 = 20;
/// What the path carries in one round trip, and in a second.
const BDP: u64 = 100_000;
const BANDWIDTH: u64 = 5_000_000;

/// A controller and the path that it meets.
struct Scene {
    bbr: Bbr,
    millis: u64,
    delivered: u64,
}

impl Scene {
    fn new() -> Self {
        Self { bbr: Bbr::new(PACKET), millis: 1_000, delivered: 0 }
    }

    /// After startup: the pipe was filled, and is drained.
    fn cruising() -> Self {
        let mut scene = Self::new();
        (0..4).for_each(|_| scene.round(BDP, 2 * BDP));
        assert_eq!(scene.bbr.phase, Phase::Drain);
        scene.round(BDP, BDP);
        assert_eq!((scene.bbr.phase, scene.bbr.bandwidth), (Phase::Cruise, BANDWIDTH));
        scene
    }

    /// A round trip in which `bytes` arrive and `in_flight` stay on the way.
    fn round(&mut self, bytes: u64, in_flight: u64) {
        self.round_of(RTT, bytes, in_flight, |_| ());
    }

    fn round_of(&mut self, rtt: u64, bytes: u64, in_flight: u64, change: fn(&mut Acked)) {
        self.millis += rtt;
        let before = self.delivered;
        self.delivered += bytes;
        let acked = acked(at(self.millis), at(self.millis - rtt), bytes);
        let mut acked = Acked { in_flight, delivered: self.delivered, ..acked };
        acked.sample.delivered_before = before;
        change(&mut acked);
        self.bbr.on_ack(&acked);
    }

    /// A round trip that takes `rtt` and loses so many of a thousand packets.
    fn lossy_round(&mut self, rtt: u64, lost: u64) {
        // What was sent before the round trip began does not end it.
        let arrived = (1_000 - lost) * PACKET;
        self.round_of(rtt, arrived, BDP, |acked| acked.sample.delivered_before = 0);
        self.lose(lost * PACKET);
        self.round_of(rtt, 1, BDP, |_| ());
    }

    fn lose(&mut self, bytes: u64) {
        self.bbr.on_loss(&Lost { bytes, ..lost(at(self.millis), at(self.millis - RTT)) });
    }

    fn mark(&mut self, in_flight: u64) {
        let (now, newest_sent) = (at(self.millis), at(self.millis - RTT));
        self.bbr.on_marked(&Marked { now, packets: 1, bytes: PACKET, newest_sent, in_flight });
    }

    /// As much as this was on the way at most.
    fn send_up_to(&mut self, in_flight: u64) {
        for in_flight in [in_flight / 2, in_flight, in_flight / 4] {
            self.bbr.on_sent(at(self.millis), PACKET, in_flight);
        }
    }

    /// Round trips until the phase is this one.
    fn rounds_until(&mut self, phase: Phase, in_flight: u64) -> u32 {
        let begun = self.millis;
        while self.bbr.phase != phase {
            self.round(BDP, in_flight);
            assert!(self.millis - begun < 2_000, "{:?}", self.bbr);
        }
        ((self.millis - begun) / RTT) as u32
    }
}

#[test]
fn startup_sends_faster_than_was_measured_until_nothing_grows_then_drains() {
    let mut scene = Scene::new();
    assert_eq!((scene.bbr.window(), scene.bbr.pacing_rate()), (10 * PACKET, None));
    (0..3).for_each(|_| scene.round(BDP, 2 * BDP));
    assert_eq!(scene.bbr.window(), 277 * BDP / 100);
    // The window was 210,000 bytes when the last acknowledgement came.
    assert_eq!(scene.bbr.pacing_rate(), Some(10_500_000 / 100 * 277));
    for _ in 0..9 {
        scene.round_of(RTT, BDP, BDP, |acked| acked.sample.application_limited = true);
    }
    assert_eq!(scene.bbr.phase, Phase::Startup, "what the application limits does not grow");
    for _ in 0..9 {
        scene.round_of(2 * RTT, BDP, BDP, |acked| {
            (acked.sample.application_limited, acked.limited) = (true, false);
        });
    }
    assert_eq!(scene.bbr.phase, Phase::Startup, "nor is a queue his that does not fill the window");
    scene.round(BDP, 2 * BDP);
    assert_eq!((scene.bbr.phase, scene.bbr.pacing_rate()), (Phase::Drain, Some(BANDWIDTH / 100 * 36)));
    (0..3).for_each(|_| scene.round(BDP, BDP + 1));
    assert_eq!(scene.bbr.phase, Phase::Drain);
    scene.round(BDP, BDP);
    assert_eq!((scene.bbr.phase, scene.bbr.pacing_rate()), (Phase::Cruise, Some(BANDWIDTH)));
    assert_eq!(scene.bbr.window(), 2 * BDP + BANDWIDTH / 500 + 3 * PACKET, "with the slack of 2 ms");
}

/// One message at a time, sent in one burst: a client of echoes stayed in startup for ever, and delayed the answers'
/// acknowledgements by its bursts.
#[test]
fn startup_ends_with_a_full_window_and_a_queue_though_the_application_limits_every_sample() {
    let mut scene = Scene::new();
    (0..3).for_each(|_| scene.round(BDP, 2 * BDP));
    assert_eq!(scene.bbr.phase, Phase::Startup);
    for _ in 0..5 {
        scene.round_of(2 * RTT, BDP, 2 * BDP, |acked| acked.sample.application_limited = true);
    }
    assert_ne!(scene.bbr.phase, Phase::Startup);
}

#[test]
fn the_highest_rate_of_eight_round_trips_counts_and_what_was_limited_lowers_nothing() {
    let mut scene = Scene::cruising();
    for _ in 0..20 {
        scene.round_of(RTT, BDP / 10, BDP, |acked| acked.sample.application_limited = true);
    }
    assert_eq!(scene.bbr.bandwidth, BANDWIDTH);
    (0..7).for_each(|_| scene.round(BDP / 2, BDP));
    assert_eq!(scene.bbr.bandwidth, BANDWIDTH);
    scene.round(BDP / 2, BDP);
    assert_eq!(scene.bbr.bandwidth, BANDWIDTH / 2);
    scene.round_of(RTT, 2 * BDP, BDP, |acked| acked.sample.application_limited = true);
    assert_eq!(scene.bbr.bandwidth, 2 * BANDWIDTH, "limited, and yet more");
}

#[test]
fn a_mark_bounds_the_window_once_in_a_round_trip_and_never_below_what_the_path_holds() {
    let mut scene = Scene::cruising();
    scene.send_up_to(2 * BDP);
    (0..3).for_each(|_| scene.mark(BDP));
    assert_eq!((scene.bbr.bound, scene.bbr.window()), (BDP / 10 * 17, BDP / 10 * 17));
    scene.round(BDP, BDP);
    assert_eq!(scene.bbr.window(), BDP * 17 / 10 / 20 * 17, "room for who comes new");
    scene.send_up_to(BDP * 11 / 10);
    scene.mark(BDP);
    assert_eq!((scene.bbr.bound, scene.bbr.window()), (BDP, BDP));
}

#[test]
fn more_than_a_few_lost_packets_are_congestion_when_they_are_a_fifth() {
    let mut scene = Scene::cruising();
    let before = scene.bbr.window();
    scene.send_up_to(2 * BDP);
    scene.lose(4 * PACKET);
    assert_eq!((scene.bbr.bound, scene.bbr.window()), (u64::MAX, before), "four are chance");
    scene.lose(PACKET);
    assert_eq!((scene.bbr.bound, scene.bbr.window()), (BDP / 10 * 17, BDP / 10 * 17));
}

#[test]
fn with_a_queue_more_loss_than_usual_is_congestion_and_only_without_one_it_is_usual() {
    let queue = 2 * RTT;
    let mut scene = Scene::cruising();
    (0..30).for_each(|_| scene.lossy_round(RTT, 100));
    scene.lossy_round(queue, 100);
    assert_eq!(scene.bbr.bound, u64::MAX, "as much as without a queue");
    scene.lossy_round(queue, 190);
    assert!(scene.bbr.bound < u64::MAX);
    let mut scene = Scene::cruising();
    (0..30).for_each(|_| scene.lossy_round(queue, 15));
    assert_eq!(scene.bbr.bound, u64::MAX);
    scene.lossy_round(queue, 25);
    assert!(scene.bbr.bound < u64::MAX, "what was lost with a queue is not usual");
}

#[test]
fn the_cycle_asks_for_more_every_few_round_trips_and_raises_a_bound_that_holds_it_back() {
    let mut scene = Scene::cruising();
    assert_eq!(scene.rounds_until(Phase::Up, BDP), 5, "more than four");
    assert_eq!(scene.bbr.pacing_rate(), Some(BANDWIDTH / 100 * 125));
    assert_eq!(scene.rounds_until(Phase::Down, BDP * 5 / 4), 2);
    assert_eq!(scene.bbr.pacing_rate(), Some(BANDWIDTH / 100 * 75));
    assert_eq!(scene.rounds_until(Phase::Cruise, BDP), 1);
    scene.send_up_to(2 * BDP);
    scene.mark(BDP);
    assert!((5..=9).contains(&scene.rounds_until(Phase::Up, BDP)));
    // The bound decides for two round trips, and is a quarter higher after each; then the path does.
    let bounds: Vec<_> = std::iter::from_fn(|| {
        scene.round(BDP, 2 * BDP);
        (scene.bbr.phase == Phase::Up).then_some(scene.bbr.bound)
    })
    .collect();
    assert_eq!(bounds, [170_000, 212_500, 212_500, 265_625, 265_625]);
    assert_eq!((scene.bbr.phase, scene.bbr.bound), (Phase::Down, 265_625 + 265_625 / 4));
}

#[test]
fn the_shortest_round_trip_is_measured_anew_when_none_was_as_short_for_five_seconds() {
    let mut scene = Scene::cruising();
    let is_probing = |scene: &Scene| matches!(scene.bbr.phase, Phase::ProbeRtt { .. });
    for _ in 0..300 {
        scene.round_of(RTT + 1, BDP, BDP, |_| ());
        assert!(!is_probing(&scene), "about as short is as good");
    }
    let longer = 2 * RTT;
    let mut before = 0;
    for _ in 0..126 {
        assert!(!is_probing(&scene));
        before = scene.bbr.window();
        scene.round_of(longer, BDP, BDP, |_| ());
    }
    assert!(is_probing(&scene));
    assert_eq!((scene.bbr.window(), scene.bbr.pacing_rate()), (4 * PACKET, Some(BANDWIDTH / 2)));
    scene.bbr.set_packet_size(2 * PACKET);
    assert_eq!(scene.bbr.window(), 8 * PACKET, "four packets of any size");
    for _ in 0..3 {
        scene.round_of(longer, BDP / 2, BDP / 2, |_| ());
        assert!(is_probing(&scene), "the queue has not run empty");
    }
    for _ in 0..3 {
        scene.round_of(longer, 4 * PACKET, 4 * PACKET, |_| ());
        assert!(is_probing(&scene));
    }
    scene.round_of(longer, 4 * PACKET, 4 * PACKET, |_| ());
    assert_eq!(scene.bbr.phase, Phase::Cruise);
    assert!(scene.bbr.window() >= before, "{} after {before}", scene.bbr.window());
}
