//! One fault, or what puts faults right.

use std::fmt;

use raft_node::disk::sim::CutPoint;
use rpc_core::driver::fault::LinkPolicy;
use rpc_core::random::SeededRandom;
use serde::{Deserialize, Serialize};

/// Something that goes wrong, or is put right again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// Nodes of different groups do not hear each other.
    Partition(Vec<Vec<u64>>),
    /// The leader is cut off from the other nodes.
    IsolateLeader,
    /// Datagrams from the first node to the other nodes are lost; those to it arrive.
    OneWay(u64),
    /// The nodes before and behind the one in the middle do not hear each other.
    Bridge(Vec<u64>),
    /// Each node hears those next to it in this circle, so that they are a majority with it, and no others.
    Ring(Vec<u64>),
    /// All links between nodes obey this policy.
    Links(LinkPolicy),
    /// All links from and to one node obey this policy.
    LinksOf(u64, LinkPolicy),
    /// All links between nodes carry so many bytes per second.
    Narrow(u64),
    /// Links are healthy again.
    HealLinks,
    /// The nodes end at once; what was not synced may be lost where the cluster can lose it.
    Kill(Who),
    /// The power of the nodes goes when they next come to this point.
    Cut(Who, CutPoint),
    /// The next sync of the nodes' disks fails, so that they must stop; what was not synced may be lost, writes torn.
    FailSync(Who),
    /// A node is asked to stop.
    Stop(u64),
    /// All nodes that were killed or had to stop start again.
    Restart,
    /// The nodes' disks have no space left for writes of clients.
    FillDisk(Who),
    /// Syncs of the nodes' disks take about so many milliseconds.
    SlowDisk(Who, u32),
    /// Disks are as they were.
    HealDisks,
    /// The nodes' clocks run at so many parts per million of time.
    ClockRate(Who, u32),
    /// The nodes' wall clocks jump by so many milliseconds.
    ClockJump(Who, i64),
    /// Clocks run as they should; what they show stays.
    HealClocks,
    /// The nodes stand still.
    Pause(Who),
    /// All nodes that were paused go on.
    Resume,
    /// The nodes' machines are suspended: processes and clocks stand still, what is sent to them is lost.
    Suspend(Who),
    /// All machines that were suspended go on.
    Wake,
    /// The leader hands over to somebody else.
    Transfer,
    /// What needs no putting right is over.
    Done,
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

impl Fault {
    /// Whether this puts something right.
    pub fn is_end(&self) -> bool {
        matches!(
            self,
            Self::HealLinks
                | Self::Restart
                | Self::Resume
                | Self::Wake
                | Self::HealDisks
                | Self::HealClocks
                | Self::Done
        )
    }
}

/// The links of a network without faults.
pub const HEALTHY: LinkPolicy = LinkPolicy {
    cut: false,
    loss: 0,
    duplicate: 0,
    replay: 0,
    corrupt: 0,
    truncate: 0,
    delay_min_us: 50,
    delay_max_us: 500,
};

impl Who {
    pub(super) fn draw(nodes: u64, random: &mut SeededRandom) -> Self {
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

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Partition(groups) => {
                let groups: Vec<String> = groups.iter().map(|group| format!("{group:?}")).collect();
                write!(f, "partition {}", groups.join("|"))
            }
            Self::IsolateLeader => f.write_str("isolate the leader"),
            Self::OneWay(node) => write!(f, "one-way: nothing from {node} arrives"),
            Self::Bridge(nodes) => {
                write!(f, "bridge: only {} hears all of {nodes:?}", nodes[nodes.len() / 2])
            }
            Self::Ring(nodes) => write!(f, "ring: each hears only its neighbours in {nodes:?}"),
            Self::Links(policy) => write!(f, "links:{}", Shown(policy)),
            Self::LinksOf(node, policy) => write!(f, "links of {node}:{}", Shown(policy)),
            Self::Narrow(rate) => write!(f, "links carry {} KB/s", rate / 1_000),
            Self::HealLinks => f.write_str("heal links"),
            Self::Kill(who) => write!(f, "kill {who}"),
            Self::Cut(who, point) => write!(f, "the power of {who} goes at {point:?}"),
            Self::FailSync(who) => write!(f, "the next sync fails: {who}"),
            Self::Stop(node) => write!(f, "ask {node} to stop"),
            Self::Restart => f.write_str("restart"),
            Self::FillDisk(who) => write!(f, "no space on the disk of {who}"),
            Self::SlowDisk(who, ms) => write!(f, "syncs take about {ms} ms: {who}"),
            Self::HealDisks => f.write_str("heal disks"),
            Self::ClockRate(who, rate) => write!(f, "clocks run at {} %: {who}", f64::from(*rate) / 10_000.0),
            Self::ClockJump(who, ms) => write!(f, "wall clocks jump by {ms} ms: {who}"),
            Self::HealClocks => f.write_str("heal clocks"),
            Self::Pause(who) => write!(f, "pause {who}"),
            Self::Resume => f.write_str("resume"),
            Self::Suspend(who) => write!(f, "suspend {who}"),
            Self::Wake => f.write_str("wake"),
            Self::Transfer => f.write_str("the leader hands over"),
            Self::Done => f.write_str("over"),
        }
    }
}

struct Shown<'a>(&'a LinkPolicy);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(policy) = self;
        for (what, share) in [
            ("loss", policy.loss),
            ("duplicate", policy.duplicate),
            ("replay", policy.replay),
            ("corrupt", policy.corrupt),
            ("truncate", policy.truncate),
        ] {
            if share > 0 {
                write!(f, " {what} {:.1} %", f64::from(share) / 10_000.0)?;
            }
        }
        write!(f, " delay {}..{} us", policy.delay_min_us, policy.delay_max_us)
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
