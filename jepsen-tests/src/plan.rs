//! The fault plan: what goes wrong, when, to whom. Data drawn from a seed, so that it can be printed, replayed, shrunk.
//!
//! A plan names nodes by role where that matters (`the leader`): who that is shows only when the step comes.

mod fault;
mod kind;

use std::fmt;
use std::time::Duration;

use rpc_core::random::SeededRandom;
use serde::{Deserialize, Serialize};

pub use self::fault::{Fault, HEALTHY, Who};
pub(crate) use self::kind::CUT_POINTS;
pub use self::kind::FaultKind;

/// Faults in the order of their time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The steps, ascending.
    pub steps: Vec<Step>,
    /// When the faults end: then everything heals, and must serve again.
    pub duration: Duration,
}

/// One fault and its time since the start of the workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// When.
    pub at: Duration,
    /// Which fault it belongs to: steps with the same number come and go together.
    pub number: u64,
    /// Of which kind that is.
    pub kind: FaultKind,
    /// What.
    pub fault: Fault,
}

impl Plan {
    /// Draws faults of `kinds` for `duration`: each begins after a pause, lasts a while, and may overlap one other. Kinds
    /// come in random order, but none again before each was there.
    pub fn draw(kinds: &[FaultKind], nodes: u64, duration: Duration, random: &mut SeededRandom) -> Self {
        let mut steps = Vec::new();
        let mut bag: Vec<FaultKind> = Vec::new();
        let mut number = 0;
        for lane in 0..2 {
            let mut at = Duration::from_millis(random.between(300, 1_500) * (lane + 1));
            loop {
                if bag.is_empty() {
                    bag.extend(kinds);
                    random.shuffle(&mut bag);
                }
                let Some(kind) = bag.pop() else { break };
                let lasts = Duration::from_millis(random.between(600, 3_000));
                if at + lasts > duration {
                    bag.push(kind);
                    break;
                }
                number += 1;
                let drawn = kind.draw(nodes, lasts, random);
                let step = |(after, fault)| Step { at: at + after, number, kind, fault };
                steps.extend(drawn.into_iter().map(step));
                at += lasts + Duration::from_millis(random.between(700, 2_500) * (lane + 1));
            }
        }
        steps.sort_by_key(|step| step.at);
        Self { steps, duration }
    }

    /// By how many percent the slowest clock of this plan is behind the fastest, at most.
    pub fn drift_percent(&self) -> u64 {
        let has_drift = self.steps.iter().any(|step| step.kind == FaultKind::ClockRate);
        let (slow, fast) = (100 - kind::CLOCK_RATE_PERCENT, 100 + kind::CLOCK_RATE_PERCENT);
        if has_drift { u64::from(fast * 100 / slow - 100) } else { 0 }
    }

    /// The kinds that are in it, each once.
    pub fn kinds(&self) -> Vec<FaultKind> {
        let mut kinds: Vec<FaultKind> = self.steps.iter().map(|step| step.kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    }

    /// The numbers of its faults.
    pub fn numbers(&self) -> Vec<u64> {
        let mut numbers: Vec<u64> = self.steps.iter().map(|step| step.number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    /// The same plan with these of its faults only.
    #[must_use]
    pub fn with(&self, numbers: &[u64]) -> Self {
        let kept = self.steps.iter().filter(|step| numbers.contains(&step.number));
        Self { steps: kept.cloned().collect(), duration: self.duration }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            writeln!(f, "{:>8.3} s  {}", step.at.as_secs_f64(), step.fault)?;
        }
        write!(f, "{:>8.3} s  heal everything", self.duration.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn all() -> Vec<FaultKind> {
        FaultKind::ALL.iter().map(|(kind, _)| *kind).collect()
    }

    #[test]
    fn a_seed_draws_one_plan_and_it_survives_json() {
        let draw = |seed| Plan::draw(&all(), 5, Duration::from_secs(60), &mut SeededRandom::new(seed));
        assert_eq!(draw(5), draw(5));
        assert_ne!(draw(5), draw(6));
        let json = serde_json::to_string(&draw(5)).unwrap();
        assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), draw(5));
    }

    #[test]
    fn every_fault_of_a_plan_ends_within_it() {
        for (seed, (kind, _)) in (0..).zip(FaultKind::ALL) {
            let plan = Plan::draw(&[kind], 5, Duration::from_secs(20), &mut SeededRandom::new(seed));
            assert!(plan.numbers().len() >= 3, "{kind}: {plan}");
            for number in plan.numbers() {
                let steps = plan.with(&[number]).steps;
                let ends = steps.iter().filter(|step| step.fault.is_end()).count();
                assert_eq!(2 * ends, steps.len(), "{kind}: {plan}");
                assert!(steps.last().is_some_and(|last| last.fault.is_end() && last.at <= plan.duration));
            }
        }
    }

    #[test]
    fn no_kind_comes_again_before_each_was_there() {
        for seed in 0..200 {
            let plan = Plan::draw(&all(), 5, Duration::from_secs(120), &mut SeededRandom::new(seed));
            let mut counts: BTreeMap<FaultKind, u64> = all().into_iter().map(|kind| (kind, 0)).collect();
            for number in plan.numbers() {
                *counts.entry(plan.with(&[number]).steps[0].kind).or_default() += 1;
            }
            let (least, most) = (counts.values().min().unwrap(), counts.values().max().unwrap());
            assert!(*least >= 1 && most - least <= 1, "seed {seed}: {counts:?}\n{plan}");
        }
    }

    #[test]
    fn a_wrong_fault_name_lists_the_right_ones() {
        assert!("fire".parse::<FaultKind>().unwrap_err().contains("partition, isolate, one-way"));
    }
}
