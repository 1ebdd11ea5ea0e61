//! What is counted of each method that a peer serves, and of the calls that it makes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::error::Code;

/// Powers of two of microseconds that latencies are sorted into: up to 1 us, 2 us, 4 us, .., 4 s, and all above.
pub const LATENCY_BUCKETS: usize = 24;
/// Codes that are counted one by one; those above share the last place.
const CODES: usize = 24;

/// The counts of one method that is served.
#[derive(Debug, Default)]
pub(crate) struct MethodMetrics {
    started: AtomicU64,
    given_up: AtomicU64,
    method_errors: AtomicU64,
    codes: [AtomicU64; CODES],
    latency: [AtomicU64; LATENCY_BUCKETS],
}

/// How a call ended, for the counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Result,
    MethodError,
    Error(Code),
}

impl MethodMetrics {
    pub(crate) fn on_start(&self) {
        self.started.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn on_end(&self, end: End, latency: Duration) {
        match end {
            End::Result => {}
            End::MethodError => drop(self.method_errors.fetch_add(1, Ordering::Relaxed)),
            End::Error(code) => {
                let place = usize::from(u16::from(code)).min(CODES - 1);
                self.codes[place].fetch_add(1, Ordering::Relaxed);
            }
        }
        self.latency[bucket(latency)].fetch_add(1, Ordering::Relaxed);
    }

    /// The caller gave up, or the peer was closed, before there was an answer.
    pub(crate) fn on_given_up(&self) {
        self.given_up.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> MethodSnapshot {
        let latency: [u64; LATENCY_BUCKETS] =
            std::array::from_fn(|place| self.latency[place].load(Ordering::Relaxed));
        let ended = latency.iter().sum();
        let given_up = self.given_up.load(Ordering::Relaxed);
        let codes = self.codes.iter().enumerate().filter_map(|(number, count)| {
            let count = count.load(Ordering::Relaxed);
            (count > 0).then_some((Code::from(number as u16), count))
        });
        MethodSnapshot {
            ended,
            given_up,
            in_flight: self.started.load(Ordering::Relaxed).saturating_sub(ended + given_up),
            method_errors: self.method_errors.load(Ordering::Relaxed),
            errors: codes.collect(),
            latency,
        }
    }

    pub(crate) fn in_flight(&self) -> u64 {
        self.snapshot().in_flight
    }
}

fn bucket(latency: Duration) -> usize {
    let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
    let power = u64::BITS - us.saturating_sub(1).leading_zeros();
    (power as usize).min(LATENCY_BUCKETS - 1)
}

/// The counts of one method at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MethodSnapshot {
    /// Requests that were answered.
    pub ended: u64,
    /// Requests whose caller gave up before there was an answer.
    pub given_up: u64,
    /// Requests that wait or run.
    pub in_flight: u64,
    /// Of those that ended: with the method's own error.
    pub method_errors: u64,
    /// Of those that ended: with an error of the system, by code; codes from 23 on together as 23.
    pub errors: Vec<(Code, u64)>,
    /// Of those that ended: how many took up to 2^i microseconds from arrival to answer, and more than 2^(i-1).
    pub latency: [u64; LATENCY_BUCKETS],
}

impl MethodSnapshot {
    /// The latency that `share` (0 to 1) of the calls did not exceed, rounded up to a power of two of microseconds;
    /// `None` before the first call ended.
    pub fn latency_quantile(&self, share: f64) -> Option<Duration> {
        let rank = (self.ended as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        let place = self.latency.iter().position(|count| {
            seen += count;
            seen >= rank
        })?;
        Some(Duration::from_micros(1 << place))
    }
}

/// What was counted of the calls that a peer makes.
#[derive(Debug, Default)]
pub struct CallCounters {
    pub(crate) retries: AtomicU64,
    pub(crate) retries_over_budget: AtomicU64,
    pub(crate) retries_past_deadline: AtomicU64,
}

impl CallCounters {
    pub(crate) fn snapshot(&self) -> CallSnapshot {
        CallSnapshot {
            retries: self.retries.load(Ordering::Relaxed),
            retries_over_budget: self.retries_over_budget.load(Ordering::Relaxed),
            retries_past_deadline: self.retries_past_deadline.load(Ordering::Relaxed),
        }
    }
}

/// What a peer's own calls did beside their first transmission, since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallSnapshot {
    /// Transmissions after the first of their call.
    pub retries: u64,
    /// Calls that ended because the budget of retries was spent.
    pub retries_over_budget: u64,
    /// Calls that ended because the next try would have been past the deadline.
    pub retries_past_deadline: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_sorted_by_powers_of_two() {
        for (us, place) in [(0, 0), (1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (1_024, 10), (u64::MAX, 23)] {
            assert_eq!(bucket(Duration::from_micros(us)), place, "{us}");
        }
    }

    #[test]
    fn counts_add_up() {
        let metrics = MethodMetrics::default();
        assert_eq!(metrics.snapshot().latency_quantile(0.5), None);
        for ms in 1..=10 {
            metrics.on_start();
            metrics.on_end(End::Result, Duration::from_millis(ms));
        }
        metrics.on_start();
        metrics.on_end(End::Error(Code::ServerBusy), Duration::ZERO);
        metrics.on_start();
        let seen = metrics.snapshot();
        assert_eq!((seen.ended, seen.in_flight), (11, 1));
        assert_eq!(seen.errors, [(Code::ServerBusy, 1)]);
        assert_eq!(seen.latency_quantile(0.5), Some(Duration::from_micros(8_192)));
        assert_eq!(seen.latency_quantile(0.01), Some(Duration::from_micros(1)));
    }
}
