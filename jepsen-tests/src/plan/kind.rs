//! The kinds of faults: their names, what is drawn for each, what shows that they happened.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use raft_node::disk::sim::CutPoint;
use rpc_core::driver::fault::LinkPolicy;
use rpc_core::random::SeededRandom;
use serde::{Deserialize, Serialize};

use super::fault::{Fault, HEALTHY, Who};

/// A kind of faults that can be asked for by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// Two groups that do not hear each other.
    Partition,
    /// The leader cut off from all others.
    Isolate,
    /// One direction cut.
    OneWay,
    /// Two groups with one node between them that hears both.
    Bridge,
    /// Every node hears a majority, and no two the same one.
    Ring,
    /// A partition that comes and goes faster than elections.
    Flap,
    /// Datagrams lost.
    Loss,
    /// Datagrams duplicated.
    Duplicate,
    /// Datagrams reordered by delays of their own.
    Reorder,
    /// All datagrams late.
    Delay,
    /// One node with slow links.
    SlowNode,
    /// Bits flipped.
    Corrupt,
    /// Datagrams cut short.
    Truncate,
    /// Datagrams that come again seconds later.
    Replay,
    /// Links with a low rate and a short queue.
    Narrow,
    /// Nodes killed and started again: one, the leader, a majority, all. In simulation with a power cut.
    Kill,
    /// The power goes at a chosen point: before a vote is written, before a snapshot gets its name, and so on.
    Cut,
    /// The power goes when a node that was away has installed a snapshot, and nothing was synced since.
    Install,
    /// Nodes stopped for a while.
    Pause,
    /// Disks whose sync fails: one, the leader's, a majority's, all.
    Disk,
    /// Disks without space.
    DiskFull,
    /// Disks that take long to sync.
    SlowDisk,
    /// Clocks that run too fast or too slow.
    ClockRate,
    /// Wall clocks that jump.
    ClockJump,
    /// Machines suspended for a while: their clocks stand still, too.
    Suspend,
    /// Every node in turn asked to stop, and started again.
    Rolling,
    /// The leader told to hand over.
    Transfer,
}

impl FaultKind {
    /// All kinds with their names.
    pub const ALL: [(Self, &'static str); 27] = [
        (Self::Partition, "partition"),
        (Self::Isolate, "isolate"),
        (Self::OneWay, "one-way"),
        (Self::Bridge, "bridge"),
        (Self::Ring, "ring"),
        (Self::Flap, "flap"),
        (Self::Loss, "loss"),
        (Self::Duplicate, "duplicate"),
        (Self::Reorder, "reorder"),
        (Self::Delay, "delay"),
        (Self::SlowNode, "slow-node"),
        (Self::Corrupt, "corrupt"),
        (Self::Truncate, "truncate"),
        (Self::Replay, "replay"),
        (Self::Narrow, "narrow"),
        (Self::Kill, "kill"),
        (Self::Cut, "cut"),
        (Self::Install, "install"),
        (Self::Pause, "pause"),
        (Self::Disk, "disk"),
        (Self::DiskFull, "disk-full"),
        (Self::SlowDisk, "slow-disk"),
        (Self::ClockRate, "clock-rate"),
        (Self::ClockJump, "clock-jump"),
        (Self::Suspend, "suspend"),
        (Self::Rolling, "rolling"),
        (Self::Transfer, "transfer"),
    ];

    /// Whether this kind breaks links, not nodes.
    pub fn is_of_links(self) -> bool {
        self <= Self::Narrow
    }

    /// Whether links are cut, whole: what packet filters can do.
    pub fn is_of_cuts(self) -> bool {
        self <= Self::Flap
    }

    /// Whether only a simulation can do this.
    pub fn is_simulated_only(self) -> bool {
        matches!(
            self,
            Self::Narrow
                | Self::Cut
                | Self::Install
                | Self::Disk
                | Self::DiskFull
                | Self::SlowDisk
                | Self::ClockRate
                | Self::ClockJump
                | Self::Suspend
                | Self::Transfer
        )
    }

    /// Whether `end` puts all faults of this kind right.
    pub fn is_ended_by(self, end: &Fault) -> bool {
        match end {
            Fault::HealLinks => self.is_of_links(),
            Fault::Restart => {
                matches!(self, Self::Kill | Self::Cut | Self::Install | Self::Disk | Self::Rolling)
            }
            Fault::HealDisks => matches!(self, Self::DiskFull | Self::SlowDisk),
            Fault::HealClocks => matches!(self, Self::ClockRate | Self::ClockJump),
            Fault::Resume => self == Self::Pause,
            Fault::Wake => self == Self::Suspend,
            Fault::Done => self == Self::Transfer,
            _ => false,
        }
    }

    /// The smallest cluster in which this can happen.
    pub fn nodes_min(self) -> u64 {
        match self {
            Self::Ring => 5,
            Self::Bridge => 3,
            Self::Transfer => 2,
            kind if kind.is_of_links() => 2,
            _ => 1,
        }
    }

    /// What of this kind happens to the nodes `1..=nodes` within `lasts`, each at its time from the beginning on; the last
    /// one puts all of it right.
    pub(super) fn draw(
        self,
        nodes: u64,
        lasts: Duration,
        random: &mut SeededRandom,
    ) -> Vec<(Duration, Fault)> {
        let links = |policy| (Fault::Links(policy), Fault::HealLinks);
        let (fault, end) = match self {
            Self::Partition => (Fault::Partition(halves(nodes, random)), Fault::HealLinks),
            Self::Isolate => (Fault::IsolateLeader, Fault::HealLinks),
            Self::OneWay => (Fault::OneWay(random.between(1, nodes)), Fault::HealLinks),
            Self::Bridge => (Fault::Bridge(shuffled(nodes, random)), Fault::HealLinks),
            Self::Ring => (Fault::Ring(shuffled(nodes, random)), Fault::HealLinks),
            Self::Flap => return flap(nodes, lasts, random),
            Self::Loss => links(LinkPolicy { loss: share(random, 50_000, 400_000), ..HEALTHY }),
            Self::Duplicate => links(LinkPolicy { duplicate: share(random, 100_000, 600_000), ..HEALTHY }),
            Self::Reorder => links(LinkPolicy { delay_max_us: share(random, 5_000, 60_000), ..HEALTHY }),
            Self::Delay => {
                let delay_min_us = share(random, 10_000, 80_000);
                links(LinkPolicy { delay_min_us, delay_max_us: delay_min_us + 1_000, ..HEALTHY })
            }
            Self::SlowNode => {
                let (delay_min_us, delay_max_us) = (share(random, 5_000, 40_000), 120_000);
                let policy = LinkPolicy { delay_min_us, delay_max_us, ..HEALTHY };
                (Fault::LinksOf(random.between(1, nodes), policy), Fault::HealLinks)
            }
            Self::Corrupt => links(LinkPolicy { corrupt: share(random, 20_000, 200_000), ..HEALTHY }),
            Self::Truncate => links(LinkPolicy { truncate: share(random, 10_000, 150_000), ..HEALTHY }),
            Self::Replay => links(LinkPolicy { replay: share(random, 50_000, 400_000), ..HEALTHY }),
            Self::Narrow => (Fault::Narrow(random.between(5_000, 50_000)), Fault::HealLinks),
            Self::Kill => (Fault::Kill(Who::draw(nodes, random)), Fault::Restart),
            Self::Cut => {
                let point = CUT_POINTS[random.below(CUT_POINTS.len() as u64) as usize];
                (Fault::Cut(Who::draw(nodes, random), point), Fault::Restart)
            }
            Self::Install => return install(nodes, lasts, random),
            Self::Pause => (Fault::Pause(Who::draw(nodes, random)), Fault::Resume),
            Self::Disk => (Fault::FailSync(Who::draw(nodes, random)), Fault::Restart),
            Self::DiskFull => (Fault::FillDisk(Who::draw(nodes, random)), Fault::HealDisks),
            Self::SlowDisk => {
                let slow = Fault::SlowDisk(Who::draw(nodes, random), share(random, 5, 60));
                (slow, Fault::HealDisks)
            }
            Self::ClockRate => {
                let least = 100 - CLOCK_RATE_PERCENT;
                let rate = share(random, least * 10_000, (100 + CLOCK_RATE_PERCENT) * 10_000);
                (Fault::ClockRate(Who::draw(nodes, random), rate), Fault::HealClocks)
            }
            Self::ClockJump => {
                let ms = random.between(1_000, CLOCK_JUMP_MAX_MS).cast_signed();
                let ms = if random.chance(500_000) { ms } else { -ms };
                (Fault::ClockJump(Who::draw(nodes, random), ms), Fault::HealClocks)
            }
            Self::Suspend if nodes > 1 && random.chance(500_000) => return asleep(lasts),
            Self::Suspend => (Fault::Suspend(Who::draw(nodes, random)), Fault::Wake),
            Self::Rolling => return rolling(nodes, lasts, random),
            Self::Transfer => (Fault::Transfer, Fault::Done),
        };
        vec![(Duration::ZERO, fault), (lasts, end)]
    }
}

fn flap(nodes: u64, lasts: Duration, random: &mut SeededRandom) -> Vec<(Duration, Fault)> {
    let groups = halves(nodes, random);
    let mut steps = Vec::new();
    let mut at = Duration::ZERO;
    while at < lasts {
        steps.push((at, Fault::Partition(groups.clone())));
        at += Duration::from_millis(random.between(50, 200));
        steps.push((at.min(lasts), Fault::HealLinks));
        at += Duration::from_millis(random.between(50, 200));
    }
    steps
}

/// The leader's machine is suspended, and wakes before its links to the other nodes are back.
fn asleep(lasts: Duration) -> Vec<(Duration, Fault)> {
    vec![
        (Duration::ZERO, Fault::IsolateLeader),
        // It still says that it leads.
        (Duration::ZERO, Fault::Suspend(Who::Leader)),
        (lasts * 3 / 4, Fault::Wake),
        (lasts, Fault::HealLinks),
    ]
}

/// A node is away for so long that it needs a snapshot, and its power goes when it has installed that.
fn install(nodes: u64, lasts: Duration, random: &mut SeededRandom) -> Vec<(Duration, Fault)> {
    let back = lasts * 4 / 5;
    let node = Who::Nodes(vec![random.between(1, nodes)]);
    vec![
        (Duration::ZERO, Fault::Kill(node.clone())),
        (back, Fault::Restart),
        (back, Fault::Cut(node, CutPoint::Switched)),
        (lasts, Fault::Restart),
    ]
}

fn rolling(nodes: u64, lasts: Duration, random: &mut SeededRandom) -> Vec<(Duration, Fault)> {
    let turn = lasts / u32::try_from(nodes).unwrap_or(u32::MAX);
    let order = (0..).zip(shuffled(nodes, random));
    order.flat_map(|(n, node)| [(turn * n, Fault::Stop(node)), (turn * (n + 1), Fault::Restart)]).collect()
}

fn share(random: &mut SeededRandom, low: u32, high: u32) -> u32 {
    u32::try_from(random.between(u64::from(low), u64::from(high))).unwrap_or(high)
}

fn shuffled(nodes: u64, random: &mut SeededRandom) -> Vec<u64> {
    let mut all: Vec<u64> = (1..=nodes).collect();
    random.shuffle(&mut all);
    all
}

/// Two groups, neither empty.
fn halves(nodes: u64, random: &mut SeededRandom) -> Vec<Vec<u64>> {
    let mut all = shuffled(nodes, random);
    let rest = all.split_off(random.between(1, nodes - 1) as usize);
    vec![all, rest]
}

/// Where the power goes by itself. At [`CutPoint::Switched`] it goes in a fault of its own: few nodes come there else.
pub(crate) const CUT_POINTS: [CutPoint; 8] = [
    CutPoint::Vote,
    CutPoint::Append,
    CutPoint::Purge,
    CutPoint::Sync,
    CutPoint::Apply,
    CutPoint::SnapshotWrite,
    CutPoint::SnapshotRename,
    CutPoint::Switch,
];
/// How much too fast or too slow a clock may run: far more than any real one.
pub(super) const CLOCK_RATE_PERCENT: u32 = 20;
/// How far a wall clock jumps at most: in all less than a session lives.
const CLOCK_JUMP_MAX_MS: u64 = 3_600_000;

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
