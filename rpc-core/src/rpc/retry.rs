//! When a call is tried again: after which pause, and whether the remote may be asked once more at all.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::error::RpcError;
use crate::runtime::{Instant, Runtime};

/// When calls are tried again, see [`Builder::retries`](crate::peer::Builder::retries).
///
/// Retries of many callers make an overloaded peer's trouble worse. So each remote has a budget: a bucket of tokens
/// that a retry takes one from, and that calls and time fill (the idea of gRFC A6, with time added so that a caller of
/// few calls has retries too). When it is empty, a call ends with its first error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The bound of the first random pause; it doubles with each retry. Default 20 ms.
    pub backoff_min: Duration,
    /// The largest bound of a random pause. Default 1 s.
    pub backoff_max: Duration,
    /// Retries that the budget allows in addition for 100 calls. Default 10.
    pub budget_percent: u32,
    /// Retries that the budget allows per second whatever the number of calls. Default 10.
    pub budget_per_second: u32,
    /// The most retries that a budget saves up. Default 100; it begins full.
    pub budget_max: u32,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_secs(1),
            budget_percent: 10,
            budget_per_second: 10,
            budget_max: 100,
        }
    }
}

impl RetryPolicy {
    /// The pause before the retry number `retry` (from 0): random up to a bound that doubles (full jitter), after
    /// what the callee asked for.
    pub(crate) fn pause(&self, retry: u32, error: &RpcError, runtime: &Runtime) -> Duration {
        let factor = 1u32.checked_shl(retry).unwrap_or(u32::MAX);
        let bound = self.backoff_min.saturating_mul(factor).min(self.backoff_max);
        let nanos = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX).max(1);
        error.retry_after.unwrap_or_default() + Duration::from_nanos(runtime.random_u64() % nanos)
    }
}

/// The retries that one remote is still good for. In thousandths, so that a call is worth a part of one.
#[derive(Debug)]
pub struct Budget {
    tokens: AtomicU64,
    max: u64,
    per_call: u64,
    per_second: u64,
    filled: Mutex<Option<Instant>>,
}

const TOKEN: u64 = 1_000;

impl Budget {
    /// A full one.
    pub fn new(policy: &RetryPolicy) -> Self {
        let max = u64::from(policy.budget_max) * TOKEN;
        Self {
            tokens: AtomicU64::new(max),
            max,
            per_call: u64::from(policy.budget_percent) * TOKEN / 100,
            per_second: u64::from(policy.budget_per_second) * TOKEN,
            filled: Mutex::new(None),
        }
    }

    /// A call was made. One load where the budget is full, as it is when all is well.
    pub(super) fn on_call(&self) {
        if self.tokens.load(Ordering::Relaxed) < self.max {
            self.add(self.per_call);
        }
    }

    /// Takes what one retry costs; false if there is not so much.
    pub(super) fn take(&self, now: Instant) -> bool {
        {
            let mut filled = self.filled.lock().unwrap_or_else(PoisonError::into_inner);
            let since = now.saturating_since(filled.unwrap_or(now));
            let nanos = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
            self.add(
                (u128::from(self.per_second) * u128::from(nanos) / 1_000_000_000).min(u128::from(self.max))
                    as u64,
            );
            *filled = Some(now);
        }
        self.tokens
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |tokens| tokens.checked_sub(TOKEN))
            .is_ok()
    }

    fn add(&self, tokens: u64) {
        let sum = |now: u64| Some(now.saturating_add(tokens).min(self.max));
        let _ = self.tokens.fetch_update(Ordering::Relaxed, Ordering::Relaxed, sum);
    }
}

/// The budgets of the remotes that somebody calls.
#[derive(Debug)]
pub(crate) struct Budgets {
    policy: RetryPolicy,
    by_address: Mutex<BTreeMap<SocketAddr, Arc<Budget>>>,
}

impl Budgets {
    pub(crate) fn new(policy: RetryPolicy) -> Self {
        Self { policy, by_address: Mutex::default() }
    }

    /// The budget of the remote at `address`: the same for all who hold one.
    pub(crate) fn of(&self, address: SocketAddr) -> Arc<Budget> {
        let mut budgets = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(budget) = budgets.get(&address) {
            return Arc::clone(budget);
        }
        if budgets.len() >= BUDGETS_MAX {
            budgets.retain(|_, budget| Arc::strong_count(budget) > 1);
        }
        let budget = Arc::new(Budget::new(&self.policy));
        budgets.insert(address, Arc::clone(&budget));
        budget
    }
}

/// From so many remotes on, the budgets of those that nobody holds are forgotten: they begin full again.
const BUDGETS_MAX: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::Code;
    use crate::sim::World;

    #[test]
    fn a_budget_is_spent_by_retries_and_filled_by_calls_and_time() {
        let policy = RetryPolicy { budget_max: 3, ..RetryPolicy::default() };
        let budget = Budget::new(&policy);
        let at = |ms: u64| Instant::from_nanos(ms * 1_000_000);
        let allowed = |ms: u64| (0..10).filter(|_| budget.take(at(ms))).count();
        assert_eq!(allowed(0), 3, "it begins full");
        (0..20).for_each(|_| budget.on_call());
        assert_eq!(allowed(0), 2, "a tenth of the calls");
        assert_eq!(allowed(100), 1, "ten in a second");
        assert_eq!(allowed(60_000), 3, "never above the limit");
    }

    #[test]
    fn budgets_that_nobody_holds_are_forgotten_when_there_are_many() {
        let budgets = Budgets::new(RetryPolicy::default());
        let remote = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let held = budgets.of(remote(0));
        (1..3_000).for_each(|port| drop(budgets.of(remote(port))));
        assert!(budgets.by_address.lock().unwrap().len() <= BUDGETS_MAX);
        assert!(Arc::ptr_eq(&held, &budgets.of(remote(0))));
    }

    #[test]
    fn pauses_are_random_up_to_a_doubling_bound_and_heed_the_callee() {
        let runtime = World::new(1).observer();
        let policy = RetryPolicy::default();
        let mut error = RpcError::not_executed(Code::ServerBusy, "");
        for (retry, bound) in [(0, 20), (3, 160), (6, 1_000), (200, 1_000)] {
            let pauses: Vec<_> = (0..200).map(|_| policy.pause(retry, &error, &runtime)).collect();
            let bound = Duration::from_millis(bound);
            assert!(pauses.iter().all(|pause| *pause < bound));
            assert!(
                pauses.iter().any(|pause| *pause > bound / 2)
                    && pauses.iter().any(|pause| *pause < bound / 2)
            );
        }
        error.retry_after = Some(Duration::from_secs(3));
        assert!(policy.pause(0, &error, &runtime) >= Duration::from_secs(3));
    }
}
