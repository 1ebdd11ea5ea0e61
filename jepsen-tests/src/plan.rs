//! The fault plan: what goes wrong, when, to whom. Data drawn from a seed, so that it can be printed, replayed, shrunk.
//!
//! A plan names nodes by role where that matters (`the leader`): who that is shows only when the step comes.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rpc_core::driver::fault::{FaultHits, LinkPolicy};
use rpc_core::random::SeededRandom;
use serde::{Deserialize, Serialize};

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
    /// What.
    pub fault: Fault,
}

/// Something that goes wrong, or is put right again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// Nodes of different groups do not hear each other.
    Partition(Vec<Vec<u64>>),
    /// The leader is cut off from the other nodes.
    IsolateLeader,
    /// Datagrams from the first node to the other nodes are lost; those to it arrive.
    OneWay(u64),
    /// All links between nodes obey this policy.
    Links(LinkPolicy),
    /// Links are healthy again.
    HealLinks,
    /// The nodes end at once; what was not synced may be lost where the cluster can lose it.
    Kill(Who),
    /// The next sync of the nodes' disks fails, so that they must stop; what was not synced may be lost, writes torn.
    FailSync(Who),
    /// All nodes that were killed or had to stop start again.
    Restart,
    /// The nodes stand still.
    Pause(Who),
    /// All nodes that were paused go on.
    Resume,
}

/// Whom a fault hits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Who {
    /// Whoever leads when the step comes; the first node if nobody does.
    Leader,
    /// These nodes.
    Nodes(Vec<u64>),
    /// All nodes.
    All,
}

/// A kind of faults that can be asked for by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// Halves, the leader isolated.
    Partition,
    /// One direction cut.
    OneWay,
    /// Datagrams lost.
    Loss,
    /// Datagrams duplicated.
    Duplicate,
    /// Datagrams reordered by delays of their own.
    Reorder,
    /// Bits flipped, datagrams cut short.
    Corrupt,
    /// Nodes killed and started again: one, the leader, a majority, all.
    Kill,
    /// Nodes stopped for a while.
    Pause,
    /// Disks whose sync fails: one, the leader's, a majority's, all.
    Disk,
}

impl FaultKind {
    /// All kinds with their names.
    pub const ALL: [(Self, &'static str); 9] = [
        (Self::Partition, "partition"),
        (Self::OneWay, "one-way"),
        (Self::Loss, "loss"),
        (Self::Duplicate, "duplicate"),
        (Self::Reorder, "reorder"),
        (Self::Corrupt, "corrupt"),
        (Self::Kill, "kill"),
        (Self::Pause, "pause"),
        (Self::Disk, "disk"),
    ];

    /// Whether this kind breaks links, not nodes.
    pub fn is_of_links(self) -> bool {
        !matches!(self, Self::Kill | Self::Pause | Self::Disk)
    }

    /// Datagrams that faults of this kind hit; none for what breaks nodes.
    pub fn hits(self, hits: &FaultHits) -> u64 {
        match self {
            Self::Partition | Self::OneWay => hits.cut,
            Self::Loss => hits.lost,
            Self::Duplicate => hits.duplicated,
            Self::Reorder => hits.delayed,
            Self::Corrupt => hits.corrupted + hits.truncated,
            Self::Kill | Self::Pause | Self::Disk => 0,
        }
    }

    /// A fault of this kind among the nodes `1..=nodes`, and what ends it.
    fn draw(self, nodes: u64, random: &mut SeededRandom) -> (Fault, Fault) {
        let links = |policy| (Fault::Links(policy), Fault::HealLinks);
        let healthy =
            LinkPolicy { delay_min_us: 50, delay_max_us: HEALTHY_DELAY_MAX_US, ..LinkPolicy::default() };
        let per_million = |random: &mut SeededRandom, low, high| random.between(low, high) as u32;
        match self {
            Self::Partition if random.chance(500_000) => (Fault::IsolateLeader, Fault::HealLinks),
            Self::Partition => (Fault::Partition(halves(nodes, random)), Fault::HealLinks),
            Self::OneWay => (Fault::OneWay(random.between(1, nodes)), Fault::HealLinks),
            Self::Loss => links(LinkPolicy { loss: per_million(random, 50_000, 400_000), ..healthy }),
            Self::Duplicate => {
                links(LinkPolicy { duplicate: per_million(random, 100_000, 600_000), ..healthy })
            }
            Self::Reorder => {
                links(LinkPolicy { delay_max_us: random.between(5_000, 60_000) as u32, ..healthy })
            }
            Self::Corrupt => links(LinkPolicy {
                corrupt: per_million(random, 20_000, 200_000),
                truncate: per_million(random, 10_000, 100_000),
                ..healthy
            }),
            Self::Kill => (Fault::Kill(Who::draw(nodes, random)), Fault::Restart),
            Self::Pause => (Fault::Pause(Who::draw(nodes, random)), Fault::Resume),
            Self::Disk => (Fault::FailSync(Who::draw(nodes, random)), Fault::Restart),
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(kind, _)| kind == self).map_or("?", |(_, name)| name);
        f.write_str(name)
    }
}

impl FromStr for FaultKind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.iter().find(|(_, known)| *known == name).map(|(kind, _)| *kind).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|(_, name)| *name).collect();
            format!("no fault `{name}`: there are {}", known.join(", "))
        })
    }
}

impl Fault {
    /// The kinds that it is of; none for what puts something right.
    pub fn kinds(&self) -> Vec<FaultKind> {
        match self {
            Self::Partition(_) | Self::IsolateLeader => vec![FaultKind::Partition],
            Self::OneWay(_) => vec![FaultKind::OneWay],
            Self::Links(policy) => [
                (policy.cut, FaultKind::Partition),
                (policy.loss > 0, FaultKind::Loss),
                (policy.duplicate > 0, FaultKind::Duplicate),
                (policy.delay_max_us > HEALTHY_DELAY_MAX_US, FaultKind::Reorder),
                (policy.corrupt > 0 || policy.truncate > 0, FaultKind::Corrupt),
            ]
            .into_iter()
            .filter_map(|(is_there, kind)| is_there.then_some(kind))
            .collect(),
            Self::Kill(_) => vec![FaultKind::Kill],
            Self::Pause(_) => vec![FaultKind::Pause],
            Self::FailSync(_) => vec![FaultKind::Disk],
            Self::HealLinks | Self::Restart | Self::Resume => Vec::new(),
        }
    }

    /// The name of this sort of fault in a history.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Partition(_) | Self::IsolateLeader => "partition",
            Self::OneWay(_) => "one-way",
            Self::Links(_) => "links",
            Self::Kill(_) => "kill",
            Self::Pause(_) => "pause",
            Self::FailSync(_) => "disk",
            Self::HealLinks | Self::Restart | Self::Resume => "heal",
        }
    }

    /// Whether this puts faults of the sort `word` right.
    pub fn ends(&self, word: &str) -> bool {
        match self {
            Self::HealLinks => matches!(word, "partition" | "one-way" | "links"),
            Self::Restart => matches!(word, "kill" | "disk"),
            Self::Resume => word == "pause",
            _ => false,
        }
    }

    /// Whether this puts something right.
    pub fn is_end(&self) -> bool {
        matches!(self, Self::HealLinks | Self::Restart | Self::Resume)
    }
}

/// The longest delay, in microseconds, of a link that has no fault: a real network is not instant.
const HEALTHY_DELAY_MAX_US: u32 = 500;

impl Who {
    fn draw(nodes: u64, random: &mut SeededRandom) -> Self {
        match random.below(10) {
            0..4 => Self::Leader,
            4..7 => Self::Nodes(vec![random.between(1, nodes)]),
            7..9 => {
                let mut all: Vec<u64> = (1..=nodes).collect();
                random.shuffle(&mut all);
                all.truncate(nodes as usize / 2 + 1);
                Self::Nodes(all)
            }
            _ => Self::All,
        }
    }
}

/// Two groups, neither empty.
fn halves(nodes: u64, random: &mut SeededRandom) -> Vec<Vec<u64>> {
    let mut all: Vec<u64> = (1..=nodes).collect();
    random.shuffle(&mut all);
    let rest = all.split_off(random.between(1, nodes - 1) as usize);
    vec![all, rest]
}

impl Plan {
    /// Draws faults of `kinds` for `duration`: each begins after a pause, lasts a while, and may overlap one other. Kinds
    /// come in random order, but none again before each was there.
    pub fn draw(kinds: &[FaultKind], nodes: u64, duration: Duration, random: &mut SeededRandom) -> Self {
        let mut steps = Vec::new();
        let mut bag: Vec<FaultKind> = Vec::new();
        for lane in 0..2 {
            let mut at = Duration::from_millis(random.between(300, 1_500) * (lane + 1));
            loop {
                if bag.is_empty() {
                    bag.extend(kinds);
                    random.shuffle(&mut bag);
                }
                let Some(kind) = bag.pop() else { break };
                let (fault, end) = kind.draw(nodes, random);
                let lasts = Duration::from_millis(random.between(600, 3_000));
                if at + lasts > duration {
                    bag.push(kind);
                    break;
                }
                steps.push(Step { at, fault });
                steps.push(Step { at: at + lasts, fault: end });
                at += lasts + Duration::from_millis(random.between(700, 2_500) * (lane + 1));
            }
        }
        steps.sort_by_key(|step| step.at);
        Self { steps, duration }
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

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Partition(groups) => {
                let groups: Vec<String> = groups.iter().map(|group| format!("{group:?}")).collect();
                write!(f, "partition {}", groups.join("|"))
            }
            Self::IsolateLeader => f.write_str("isolate the leader"),
            Self::OneWay(node) => write!(f, "one-way: nothing from {node} arrives"),
            Self::Links(policy) => {
                f.write_str("links:")?;
                for (what, share) in [
                    ("loss", policy.loss),
                    ("duplicate", policy.duplicate),
                    ("corrupt", policy.corrupt),
                    ("truncate", policy.truncate),
                ] {
                    if share > 0 {
                        write!(f, " {what} {:.1} %", f64::from(share) / 10_000.0)?;
                    }
                }
                write!(f, " delay {}..{} us", policy.delay_min_us, policy.delay_max_us)
            }
            Self::HealLinks => f.write_str("heal links"),
            Self::Kill(who) => write!(f, "kill {who}"),
            Self::Restart => f.write_str("restart"),
            Self::Pause(who) => write!(f, "pause {who}"),
            Self::FailSync(who) => write!(f, "the next sync fails: {who}"),
            Self::Resume => f.write_str("resume"),
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leader => f.write_str("the leader"),
            Self::Nodes(nodes) => write!(f, "{nodes:?}"),
            Self::All => f.write_str("all"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_draws_one_plan_and_it_survives_json() {
        let kinds: Vec<FaultKind> = FaultKind::ALL.iter().map(|(kind, _)| *kind).collect();
        let draw = |seed| Plan::draw(&kinds, 3, Duration::from_secs(20), &mut SeededRandom::new(seed));
        assert_eq!(draw(5), draw(5));
        assert_ne!(draw(5), draw(6));
        let json = serde_json::to_string(&draw(5)).unwrap();
        assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), draw(5));
    }

    #[test]
    fn every_fault_of_a_plan_ends_within_it() {
        for seed in 0..200 {
            let plan =
                Plan::draw(&[FaultKind::Kill], 3, Duration::from_secs(20), &mut SeededRandom::new(seed));
            let kills = plan.steps.iter().filter(|step| matches!(step.fault, Fault::Kill(_))).count();
            assert!(kills >= 3, "seed {seed}: {plan}");
            assert_eq!(kills * 2, plan.steps.len());
            assert!(plan.steps.iter().all(|step| step.at <= plan.duration));
        }
    }

    #[test]
    fn no_kind_comes_again_before_each_was_there() {
        let kinds: Vec<FaultKind> = FaultKind::ALL.iter().map(|(kind, _)| *kind).collect();
        for seed in 0..200 {
            let plan = Plan::draw(&kinds, 3, Duration::from_secs(60), &mut SeededRandom::new(seed));
            let mut counts = [0_u32; FaultKind::ALL.len()];
            for kind in plan.steps.iter().flat_map(|step| step.fault.kinds()) {
                counts[kinds.iter().position(|other| *other == kind).unwrap()] += 1;
            }
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            assert!(*least >= 1 && most - least <= 1, "seed {seed}: {counts:?}\n{plan}");
        }
    }

    #[test]
    fn a_wrong_fault_name_lists_the_right_ones() {
        assert!("fire".parse::<FaultKind>().unwrap_err().contains("partition, one-way"));
    }
}
