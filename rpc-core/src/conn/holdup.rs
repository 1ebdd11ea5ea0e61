//! How long a request was held up on the way, without comparing clocks.

use std::time::Duration;

use crate::runtime::Instant;

/// Watches the difference between the receiver's and the sender's connection clock. The smallest one seen lately stands
/// for a packet that was not held up; how much a difference is above it is how long its packet was.
///
/// "Lately" is between one and two periods of 2 s. Clocks that drift apart by 100 millionths add at most 0.4 ms; one
/// that stood still for a while, as in a suspended virtual machine, makes requests look late for at most 4 s. For that, a
/// request behind a queue that was as long for longer counts as not held up: it is executed though its caller may have
/// given up, which is what a late request without any deadline would be. After a pause, the base is still the one
/// from before it. The first request of a connection has nothing to be compared with and counts as not held up.
#[derive(Debug)]
pub(super) struct HoldUp {
    /// Origin of this side's connection clock.
    start: Instant,
    period_end: Instant,
    smallest: Option<i64>,
    smallest_before: Option<i64>,
}

const PERIOD: Duration = Duration::from_secs(2);

impl HoldUp {
    pub(super) fn new(start: Instant) -> Self {
        Self { start, period_end: start + PERIOD, smallest: None, smallest_before: None }
    }

    /// How long a frame was held up that says it was sent at `sent_us` of the sender's connection clock.
    pub(super) fn measure(&mut self, now: Instant, sent_us: u64) -> Duration {
        let difference =
            saturated((now - self.start).as_micros()).saturating_sub(saturated(u128::from(sent_us)));
        if now >= self.period_end {
            self.smallest_before = self.smallest.take();
            self.period_end = now + PERIOD;
        }
        let smallest = self.smallest.map_or(difference, |smallest| smallest.min(difference));
        self.smallest = Some(smallest);
        let smallest = self.smallest_before.map_or(smallest, |before| before.min(smallest));
        Duration::from_micros(difference.saturating_sub(smallest).try_into().unwrap_or(0))
    }
}

fn saturated(micros: u128) -> i64 {
    i64::try_from(micros).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(1_000_000_000 + millis * 1_000_000)
    }

    #[test]
    fn what_is_later_than_the_fastest_was_held_up() {
        let mut holdup = HoldUp::new(at(0));
        // The sender's clock started 500 ms before ours; the path takes 10 ms.
        assert_eq!(holdup.measure(at(15), 505_000), Duration::ZERO);
        assert_eq!(holdup.measure(at(25), 515_000), Duration::ZERO);
        assert_eq!(holdup.measure(at(325), 515_000), Duration::from_millis(300));
        assert_eq!(holdup.measure(at(20), 512_000), Duration::ZERO, "a faster packet moves the base");
        assert_eq!(holdup.measure(at(25), 515_000), Duration::from_millis(2));
    }

    #[test]
    fn drifting_clocks_are_followed() {
        let mut holdup = HoldUp::new(at(0));
        // The sender's clock loses 100 microseconds per second against ours.
        let worst = (1..3_600).map(|second| holdup.measure(at(second * 1_000), second * 999_900)).max();
        assert!(worst < Some(Duration::from_micros(410)), "{worst:?}");
    }

    #[test]
    fn a_sender_whose_clock_stood_still_is_forgiven_soon() {
        let mut holdup = HoldUp::new(at(0));
        holdup.measure(at(1_000), 1_000_000);
        // Suspended for 60 s: all its requests look as late as that, but not for long.
        let late = (0..100).map(|step| (61_000 + step * 100, 1_000_000 + step * 100_000));
        let mut measured = late.map(|(now, sent_us)| (now, holdup.measure(at(now), sent_us)));
        let forgiven = measured.find(|(_, held_up)| held_up.is_zero());
        assert!(forgiven.is_some_and(|(now, _)| now <= 65_100), "{forgiven:?}");
    }

    #[test]
    fn what_waited_for_a_paused_receiver_was_held_up_however_long() {
        let mut holdup = HoldUp::new(at(0));
        holdup.measure(at(1_000), 1_000_000);
        for sent_ms in [1_500, 2_000, 2_500] {
            let held_up = holdup.measure(at(90_000), sent_ms * 1_000);
            assert_eq!(held_up, Duration::from_millis(90_000 - sent_ms));
        }
    }

    #[test]
    fn absurd_send_times_do_no_harm() {
        let mut holdup = HoldUp::new(at(0));
        holdup.measure(at(1), u64::MAX);
        holdup.measure(at(1), 0);
        holdup.measure(at(1 << 40), 0);
    }
}
