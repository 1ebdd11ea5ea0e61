//! Packets that are acknowledged, that are lost, that went another way.

use std::sync::{Arc, Mutex};

use super::super::congestion::Algorithm;
use super::*;
use crate::wire::frame::{Frame, put_ack};
use crate::wire::varint::Reader;

const SIZE: u64 = 1_200;
const LARGE: u64 = 1_452;

const fn micros(micros: u64) -> Duration {
    Duration::from_micros(micros)
}

/// One side of a connection that sends packets, each with one frame that has its number.
struct Scene {
    recovery: Recovery,
    mtu: Mtu,
    now: Instant,
    config: Config,
}

impl Scene {
    fn new() -> Self {
        Self::with(Config { congestion: Algorithm::Cubic, ..Config::default() })
    }

    fn with(config: Config) -> Self {
        let now = Instant::from_nanos(1_000_000_000);
        Self { recovery: Recovery::new(now, &config, SIZE), mtu: Mtu::new(LARGE as usize), now, config }
    }

    fn send(&mut self, count: u64) {
        (0..count).for_each(|_| self.send_sized(SIZE));
    }

    fn send_sized(&mut self, size: u64) {
        let frames = vec![SentFrame::Cancel { call: self.recovery.pn_next() }];
        self.recovery.on_sent(self.now, size, frames);
    }

    /// The packets that arrived and those that are lost, of an acknowledgement of `ranges`, highest first.
    fn ack(&mut self, ranges: &[(u64, u64)], delay_us: u64) -> (Vec<u64>, Vec<u64>) {
        let (mut acked, mut lost) = (Vec::new(), Vec::new());
        let ack = ack(ranges, delay_us);
        let count = self.recovery.on_ack(self.now, &ack, None, &mut self.mtu, &mut acked, &mut lost).unwrap();
        assert_eq!(count, lost.len() as u64);
        (numbers(&acked), numbers(&lost))
    }

    /// An acknowledgement that also says how many packets came marked CE.
    fn ack_marked(&mut self, ranges: &[(u64, u64)], ce: u64) {
        let marks = Some(Marks { ce, ..Marks::default() });
        let (mtu, acked, lost) = (&mut self.mtu, &mut Vec::new(), &mut Vec::new());
        self.recovery.on_ack(self.now, &ack(ranges, 0), marks, mtu, acked, lost).unwrap();
    }

    fn fire(&mut self) -> (Fired, Vec<u64>) {
        let mut frames = Vec::new();
        let (fired, _) = self.recovery.on_timeout(self.now, &mut self.mtu, &mut frames);
        (fired, numbers(&frames))
    }

    /// Lets time pass until the next timer, which is in so long.
    fn fire_after(&mut self, wait: Duration) -> (Fired, Vec<u64>) {
        assert_eq!(self.recovery.timeout(), Some(self.now + wait));
        self.now = self.now + wait - Duration::from_nanos(1);
        assert_eq!(self.fire(), (Fired::Nothing, vec![]));
        self.now += Duration::from_nanos(1);
        self.fire()
    }

    fn window(&self) -> u64 {
        self.recovery.congestion.window()
    }
}

fn ack(ranges: &[(u64, u64)], delay_us: u64) -> Ack {
    let mut buf = Vec::new();
    put_ack(&mut buf, delay_us, ranges.iter().copied(), None);
    match Frame::read(&mut Reader::new(&buf.into())) {
        Ok(Frame::Ack(ack)) => ack,
        other => panic!("{other:?}"),
    }
}

fn numbers(frames: &[SentFrame]) -> Vec<u64> {
    let number = |frame: &SentFrame| match frame {
        SentFrame::Cancel { call } => *call,
        other => panic!("{other:?}"),
    };
    frames.iter().map(number).collect()
}

#[test]
fn three_packets_later_is_lost_at_once_and_less_after_an_eighth_more_than_a_round_trip() {
    let mut scene = Scene::new();
    scene.send(5);
    scene.now += micros(10_000);
    assert_eq!(scene.ack(&[(3, 3)], 0), (vec![3], vec![0]));
    assert_eq!(scene.fire_after(micros(1_250)), (Fired::Loss, vec![1, 2]));
    assert!(!scene.recovery.is_idle(), "what was sent later is not judged yet");
    assert_eq!(scene.ack(&[(0, 4)], 0), (vec![4], vec![]), "what is lost does not arrive");
    assert!(scene.recovery.is_idle() && scene.recovery.sent.is_empty());
    assert_eq!((scene.recovery.bytes_in_flight, scene.recovery.timeout()), (0, None));
}

#[test]
fn what_was_delayed_lately_is_waited_for() {
    let mut scene = Scene::new();
    scene.send(1);
    scene.now += micros(10_000);
    scene.ack(&[(0, 0)], 0);
    scene.send(2);
    scene.now += micros(40_000);
    // The smoothed round trip is 13.75 ms, the latest one 40 ms.
    assert_eq!(scene.ack(&[(2, 2)], 0), (vec![2], vec![]));
    assert_eq!(scene.fire_after(micros(5_000)), (Fired::Loss, vec![1]));
}

#[test]
fn silence_brings_two_probes_with_the_oldest_frames_and_doubles_up_to_the_cap() {
    let mut scene = Scene::new();
    scene.send(10);
    assert!(!scene.recovery.may_send(scene.now, SIZE), "the window is full");
    // 10 ms, four times 5 ms, and the peer's delay.
    assert_eq!(scene.fire_after(micros(31_000)), (Fired::Pto, vec![0, 1]));
    for _ in 0..2 {
        assert!(scene.recovery.may_send(scene.now, SIZE), "two go whatever the window says");
        scene.send(1);
    }
    assert!(!scene.recovery.may_send(scene.now, SIZE));
    for wait in [62_000, 124_000, 248_000, 496_000, 992_000, 1_000_000, 1_000_000] {
        assert_eq!(scene.fire_after(micros(wait)).0, Fired::Pto);
    }
    scene.now += micros(1_000);
    scene.ack(&[(11, 11)], 0);
    assert!(!scene.recovery.probing(), "somebody is there");
    scene.send(1);
    let pto = scene.recovery.pto();
    assert!(pto > micros(1_000_000), "{pto:?}");
    let mut slow = Scene::with(Config { initial_rtt: micros(2_000_000), ..Config::default() });
    slow.send(1);
    assert_eq!(slow.fire_after(micros(6_001_000)).0, Fired::Pto, "the cap is not below the first wait");
}

#[test]
fn an_acknowledgement_begins_the_doubling_anew() {
    let mut scene = Scene::new();
    scene.send(1);
    scene.fire_after(micros(31_000));
    scene.fire_after(micros(62_000));
    scene.send(1);
    scene.now += micros(10_000);
    assert_eq!(scene.ack(&[(1, 1)], 0).1, [0]);
    scene.send(1);
    assert_eq!(scene.fire_after(micros(31_000)), (Fired::Pto, vec![2]));
}

#[test]
fn what_was_never_sent_is_not_acknowledged() {
    let mut scene = Scene::new();
    scene.send(5);
    let (recovery, mtu) = (&mut scene.recovery, &mut scene.mtu);
    let never = ack(&[(5, 5)], 0);
    assert!(recovery.on_ack(scene.now, &never, None, mtu, &mut Vec::new(), &mut Vec::new()).is_err());
    assert_eq!(scene.ack(&[(4, 4), (0, 0)], 0).0, [4, 0]);
}

#[test]
fn round_trips_are_measured_with_the_largest_packet_and_without_the_peers_delay() {
    let mut scene = Scene::new();
    let mut measure = |rtt_us: u64, delay_us: u64| {
        scene.send(1);
        let pn = scene.recovery.pn_next() - 1;
        scene.now += micros(rtt_us);
        scene.ack(&[(pn, pn)], delay_us);
        scene.recovery.rtt.smoothed
    };
    assert_eq!(measure(10_000, 500), micros(10_000), "the first as it is");
    assert_eq!(measure(18_000, 1_000), micros((7 * 10_000 + 17_000) / 8));
    assert_eq!(measure(11_875, 500_000), micros(10_875), "1 ms is the most that the peer waits");
    assert_eq!(measure(10_875, 0), micros(10_875));
    let before = scene.recovery.rtt.smoothed;
    scene.send(2);
    let last = scene.recovery.pn_next() - 1;
    scene.now += before;
    scene.ack(&[(last, last)], 0);
    scene.now += micros(1_000);
    assert_eq!(scene.ack(&[(last - 1, last)], 0).0, [last - 1]);
    assert_eq!(scene.recovery.rtt.smoothed, before, "only the largest one tells how long it took");
}

#[test]
fn a_delay_never_makes_a_round_trip_shorter_than_the_shortest() {
    let mut rtt = Rtt::new(micros(1));
    rtt.update(micros(10_000), micros(0));
    rtt.update(micros(10_500), micros(1_000));
    assert_eq!(rtt.smoothed, (micros(10_000) * 7 + micros(10_500)) / 8);
    rtt.update(micros(2_000), micros(0));
    let before = rtt.smoothed;
    rtt.update(micros(4_000), micros(1_000));
    assert_eq!(rtt.smoothed, (before * 7 + micros(3_000)) / 8, "the shortest is 2 ms now");
}

#[test]
fn the_window_counts_what_is_neither_acknowledged_nor_lost() {
    let mut scene = Scene::new();
    for _ in 0..10 {
        assert!(scene.recovery.may_send(scene.now, SIZE));
        scene.send(1);
    }
    assert!(!scene.recovery.may_send(scene.now, SIZE));
    scene.now += micros(10_000);
    scene.ack(&[(9, 9)], 0);
    assert_eq!(scene.recovery.bytes_in_flight, 2 * SIZE, "seven are lost, one arrived");
    assert_eq!(scene.window(), 11 * SIZE * 7 / 10, "one arrived, then it shrinks");
    assert!(scene.recovery.may_send(scene.now, SIZE));
}

#[test]
fn what_went_another_way_says_nothing_about_this_one() {
    let mut scene = Scene::new();
    scene.send(10);
    scene.fire_after(micros(31_000));
    scene.fire_after(micros(62_000));
    while scene.recovery.pacer.may_send(scene.now, SIZE, 10_000) {
        scene.recovery.pacer.on_sent(SIZE);
    }
    assert!(scene.recovery.pace_timeout().is_some());
    scene.recovery.on_new_path(scene.now, &scene.config, SIZE, None);
    assert_eq!(scene.recovery.pace_timeout(), None, "nothing has to wait for its turn there");
    scene.send(1);
    assert_eq!(scene.recovery.timeout(), Some(scene.now + micros(31_000)), "not doubled here");
    scene.now += micros(20_000);
    assert_eq!(scene.ack(&[(3, 3)], 0).1, [0, 1, 2]);
    assert_eq!(scene.recovery.rtt.smoothed, micros(10_000), "no round trip of this path");
    scene.ack(&[(10, 10)], 0);
    assert_eq!(scene.recovery.rtt.smoothed, micros(20_000));
    assert_eq!(scene.window(), 10 * SIZE + SIZE, "the losses were elsewhere");
    scene.recovery.on_new_path(scene.now, &scene.config, SIZE, Some(micros(50_000)));
    assert_eq!((scene.recovery.rtt.smoothed, scene.window()), (micros(50_000), 10 * SIZE));
    scene.recovery.on_new_path(scene.now, &scene.config, SIZE, None);
    assert_eq!(scene.recovery.rtt.smoothed, micros(10_000));
}

#[test]
fn a_probe_for_the_path_mtu_that_is_lost_is_no_congestion_and_is_told() {
    let mut scene = Scene::new();
    scene.mtu.on_full_packet();
    for _ in 0..2 {
        let size = scene.mtu.probe(scene.now).expect("another probe");
        scene.mtu.on_sent();
        let frames = vec![SentFrame::MtuProbe { size: size as u32 }];
        scene.recovery.on_sent(scene.now, size as u64, frames);
        scene.send(3);
        scene.now += micros(10_000);
        let last = scene.recovery.pn_next() - 1;
        let (mut acked, mut lost) = (Vec::new(), Vec::new());
        let ack = ack(&[(last - 2, last)], 0);
        assert_eq!(
            scene.recovery.on_ack(scene.now, &ack, None, &mut scene.mtu, &mut acked, &mut lost),
            Ok(1)
        );
        assert!(matches!(lost[..], [SentFrame::MtuProbe { .. }]));
    }
    assert!(scene.window() >= 10 * SIZE);
}

/// A path that carried large packets before.
fn large() -> Scene {
    let mut scene = Scene::new();
    scene.mtu.on_acked(scene.now, LARGE as usize);
    scene
}

#[test]
fn large_packets_that_are_lost_while_others_arrive_are_chance_and_while_none_does_a_black_hole() {
    let mut scene = large();
    for _ in 0..30 {
        (0..4).for_each(|_| scene.send_sized(LARGE));
        scene.now += micros(10_000);
        let last = scene.recovery.pn_next() - 1;
        assert_eq!(scene.ack(&[(last - 2, last)], 0).1, [last - 3]);
    }
    assert_eq!(scene.mtu.current(), LARGE as usize);
    for _ in 0..12 {
        scene.send_sized(LARGE);
        scene.send(3);
        scene.now += micros(10_000);
        let last = scene.recovery.pn_next() - 1;
        assert_eq!(scene.ack(&[(last - 2, last)], 0).1, [last - 3]);
    }
    assert_eq!(scene.mtu.current(), SIZE as usize);
}

#[test]
fn silence_after_large_packets_may_be_a_black_hole_and_after_small_ones_is_silence() {
    for (size, found) in [(LARGE, SIZE), (SIZE, LARGE)] {
        let mut scene = large();
        scene.send_sized(size);
        scene.fire_after(micros(31_000));
        assert_eq!(scene.mtu.current(), LARGE as usize, "once is chance");
        scene.fire_after(micros(62_000));
        assert_eq!(scene.mtu.current(), found as usize);
    }
}

/// Notes what it is told.
#[derive(Clone, Debug, Default)]
struct Recorder {
    acked: Arc<Mutex<Vec<Acked>>>,
    marked: Arc<Mutex<Vec<Marked>>>,
}

impl Controller for Recorder {
    fn set_packet_size(&mut self, _: u64) {}

    fn on_ack(&mut self, acked: &Acked) {
        self.acked.lock().unwrap().push(*acked);
    }

    fn on_loss(&mut self, _: &Lost) {}

    fn on_marked(&mut self, marked: &Marked) {
        self.marked.lock().unwrap().push(*marked);
    }

    fn window(&self) -> u64 {
        4 * SIZE
    }
}

#[test]
fn a_controller_is_told_how_much_arrived_in_which_time_and_whether_more_would_have() {
    let mut scene = Scene::new();
    let recorder = Recorder::default();
    let acked = Arc::clone(&recorder.acked);
    scene.recovery.congestion = Box::new(recorder);
    let start = scene.now;
    scene.send(1);
    scene.now += micros(1_000);
    scene.send(1);
    scene.now += micros(9_000);
    scene.ack(&[(0, 1)], 0);
    let told = acked.lock().unwrap().pop().unwrap();
    assert_eq!((told.bytes, told.in_flight, told.delivered), (2 * SIZE, 0, 2 * SIZE));
    assert_eq!((told.newest_sent, told.rtt_latest), (start + micros(1_000), micros(9_000)));
    assert!(told.limited, "half of the window was used");
    assert_eq!((told.sample.delivered_before, told.sample.bytes), (0, 2 * SIZE));
    assert_eq!(told.sample.interval, micros(10_000), "acknowledging took longer than sending");
    assert!(!told.sample.application_limited);

    // Nothing was on the way for a while: that time does not count.
    scene.now += micros(500_000);
    scene.recovery.on_application_limited();
    scene.send(1);
    scene.now += micros(10_000);
    scene.ack(&[(2, 2)], 0);
    let told = acked.lock().unwrap().pop().unwrap();
    assert_eq!((told.sample.delivered_before, told.sample.bytes), (2 * SIZE, SIZE));
    assert_eq!(told.sample.interval, micros(10_000));
    assert!(told.sample.application_limited && !told.limited);

    // Acknowledged in a short time, but sent over a longer one.
    scene.send(2);
    scene.now += micros(40_000);
    scene.ack(&[(3, 3)], 0);
    scene.now += micros(1_000);
    scene.send(1);
    scene.now += micros(1_000);
    scene.ack(&[(4, 5)], 0);
    let told = acked.lock().unwrap().pop().unwrap();
    assert_eq!((told.sample.bytes, told.sample.interval), (2 * SIZE, micros(41_000)));
    assert!(!told.sample.application_limited, "what was limited had arrived before");
    acked.lock().unwrap().clear();
    scene.send(1);
    scene.recovery.on_new_path(scene.now, &scene.config, SIZE, None);
    scene.recovery.congestion = Box::new(Recorder { acked: Arc::clone(&acked), ..Recorder::default() });
    scene.ack(&[(6, 6)], 0);
    assert!(acked.lock().unwrap().is_empty(), "it went another way");
}

/// One that sends marked packets, and what its controller hears.
fn marking() -> (Scene, Recorder) {
    let (mut scene, recorder) = (Scene::new(), Recorder::default());
    scene.recovery.congestion = Box::new(recorder.clone());
    scene.recovery.ecn.start();
    (scene, recorder)
}

#[test]
fn marks_are_told_with_about_their_bytes_and_an_acknowledgement_that_was_overtaken_takes_none_back() {
    let (mut scene, recorder) = marking();
    let heard = || recorder.marked.lock().unwrap().pop().map(|marked| (marked.packets, marked.bytes));
    scene.send(14);
    scene.ack_marked(&[(0, 8)], 2);
    assert_eq!(heard(), None, "nine packets are no test");
    scene.ack_marked(&[(0, 9)], 2);
    assert_eq!(heard(), Some((2, SIZE)), "more marks than packets that are new");
    scene.ack_marked(&[(0, 12)], 4);
    assert_eq!(heard(), Some((2, 2 * SIZE)));
    scene.ack_marked(&[(0, 11)], 3);
    assert_eq!((heard(), scene.recovery.ecn.mark()), (None, Ecn::Ect0));
    scene.ack_marked(&[(0, 13)], 3);
    assert_eq!((heard(), scene.recovery.ecn.mark()), (None, Ecn::NotEct), "a count does not go back");
}

#[test]
fn marks_are_tested_again_on_another_path_and_after_silence_with_packets_that_went_out_marked() {
    let (mut scene, recorder) = marking();
    let heard = || recorder.marked.lock().unwrap().len();
    scene.send(20);
    scene.ack_marked(&[(0, 9)], 0);
    scene.recovery.on_new_path(scene.now, &scene.config, SIZE, None);
    scene.recovery.congestion = Box::new(recorder.clone());
    scene.ack_marked(&[(0, 19)], 1);
    assert_eq!(heard(), 0, "they went the other way");
    scene.send(9);
    scene.ack_marked(&[(0, 28)], 1);
    assert_eq!(heard(), 0);
    scene.send(1);
    scene.ack_marked(&[(0, 29)], 2);
    assert_eq!(heard(), 1);

    scene.send(1);
    for silent in 1..=3 {
        assert_eq!(scene.recovery.ecn.mark(), Ecn::Ect0, "{silent}");
        scene.now = scene.recovery.timeout().unwrap();
        assert_eq!(scene.fire().0, Fired::Pto);
    }
    assert_eq!(scene.recovery.ecn.mark(), Ecn::NotEct);
    scene.send(20);
    scene.ack_marked(&[(0, 31)], 2);
    assert_eq!(scene.recovery.ecn.mark(), Ecn::Ect0);
    scene.ack_marked(&[(0, 50)], 3);
    assert_eq!(heard(), 1, "what went out without a mark shows nothing");
}
