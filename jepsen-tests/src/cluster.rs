//! A cluster under test, seen from outside: where its nodes are, what can be done to them.
//!
//! One trait for three kinds: [`sim`] (the real crates in virtual time), [`processes`] (real binaries on loopback),
//! [`compose`] (the docker-compose cluster). Workloads, plans and checkers know only the trait.

pub mod compose;
pub mod processes;
pub mod sim;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use kv_client::api::{KvClient, Role, Status};
use rpc_core::driver::fault::{FaultHits, LinkPolicy};
use rpc_core::peer::Peer;
use rpc_core::runtime::Runtime;

use crate::plan::{Fault, FaultKind, HEALTHY, Who};

/// A running cluster. Clones are handles on the same one.
pub trait Cluster: Clone + Send + Sync + 'static {
    /// The ids of the nodes, ascending.
    fn nodes(&self) -> Vec<u64>;

    /// Where a client reaches a node.
    fn address(&self, node: u64) -> SocketAddr;

    /// The clock of the run; history and plan are told by it.
    fn clock(&self) -> Runtime;

    /// A socket of its own for client process number `client`, outside all faults.
    fn client(&self, client: u64) -> Result<(Runtime, Peer), ClusterError>;

    /// Lets a fault happen, or end. `leader` is who leads now, if anybody does.
    fn apply(
        &self,
        fault: &Fault,
        leader: Option<u64>,
    ) -> impl Future<Output = Result<(), ClusterError>> + Send;

    /// Ends all faults: links are healthy, every node runs.
    fn heal(&self) -> impl Future<Output = Result<(), ClusterError>> + Send;

    /// Ends what the cluster started and removes what it left: processes are gone, containers are as they were found.
    /// Nothing may be asked of the cluster after that.
    fn release(&self) -> impl Future<Output = Result<(), ClusterError>> + Send;

    /// What faults have hit so far. A fault that hit nothing did not happen.
    fn hits(&self) -> impl Future<Output = Hits> + Send;

    /// What must hold at every moment and did not.
    fn violations(&self) -> impl Future<Output = Vec<String>> + Send {
        std::future::ready(Vec::new())
    }

    /// Nodes that ended on their own, which none may, and why.
    fn failures(&self) -> impl Future<Output = Vec<String>> + Send;
}

/// What faults have hit.
#[derive(Clone, Debug, Default)]
pub struct Hits {
    /// Datagrams.
    pub links: FaultHits,
    /// By kind: nodes, syncs, clocks, whatever it is that shows that it happened.
    pub others: BTreeMap<FaultKind, u64>,
}

impl Hits {
    /// How much faults of `kind` have hit.
    pub fn of(&self, kind: FaultKind) -> u64 {
        match kind {
            kind if kind.is_of_cuts() => self.links.cut,
            FaultKind::Loss => self.links.lost,
            FaultKind::Duplicate => self.links.duplicated,
            FaultKind::Reorder | FaultKind::Delay | FaultKind::SlowNode => self.links.delayed,
            FaultKind::Corrupt => self.links.corrupted,
            FaultKind::Truncate => self.links.truncated,
            FaultKind::Replay => self.links.replayed,
            other => self.others.get(&other).copied().unwrap_or_default(),
        }
    }
}

/// The harness failed, not the store: the run proves nothing.
#[derive(Debug)]
pub struct ClusterError(pub String);

impl fmt::Display for ClusterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ClusterError {}

/// How long a node may take to tell its status.
const STATUS_PATIENCE: Duration = Duration::from_millis(500);

/// Asks one node for its status.
///
/// # Errors
/// Why it gives none.
pub async fn status<C: Cluster>(cluster: &C, peer: &Peer, node: u64) -> Result<Status, String> {
    let asked = KvClient::new(peer.remote(cluster.address(node))).status().timeout(STATUS_PATIENCE).await;
    asked.map_err(|error| error.to_string())
}

/// The node that leads in the highest term that any node knows of, if it says so itself.
pub async fn leader<C: Cluster>(cluster: &C, peer: &Peer) -> Option<u64> {
    let nodes = cluster.nodes();
    let all = join_all(nodes.iter().map(|node| status(cluster, peer, *node))).await;
    let known = nodes.into_iter().zip(all).filter_map(|(node, status)| Some((status.ok()?, node)));
    let leaders = known.filter(|(status, _)| status.role == Role::Leader);
    leaders.map(|(status, node)| (status.term, node)).max().map(|(_, node)| node)
}

impl Who {
    /// The nodes that are meant now.
    pub fn resolve(&self, nodes: &[u64], leader: Option<u64>) -> Vec<u64> {
        match self {
            Self::Leader => vec![leader.unwrap_or(nodes[0])],
            Self::Nodes(named) => named.clone(),
            Self::All => nodes.to_vec(),
        }
    }
}

/// The directed links between nodes that a fault cuts: (from, to).
pub fn cut_links(fault: &Fault, nodes: &[u64], leader: Option<u64>) -> Vec<(u64, u64)> {
    let pairs = || {
        nodes.iter().flat_map(|from| nodes.iter().map(move |to| (*from, *to))).filter(|(from, to)| from != to)
    };
    match fault {
        Fault::Partition(groups) => {
            let group = |node: u64| groups.iter().position(|group| group.contains(&node));
            pairs().filter(|(from, to)| group(*from) != group(*to)).collect()
        }
        Fault::IsolateLeader => {
            let leader = leader.unwrap_or(nodes[0]);
            pairs().filter(|(from, to)| *from == leader || *to == leader).collect()
        }
        Fault::OneWay(node) => pairs().filter(|(from, _)| from == node).collect(),
        Fault::Bridge(order) => {
            let side = |node: &u64| order.iter().position(|other| other == node).unwrap_or_default();
            let middle = order.len() / 2;
            let is_between = |from: usize, to: usize| from.min(to) < middle && from.max(to) > middle;
            pairs().filter(|(from, to)| is_between(side(from), side(to))).collect()
        }
        Fault::Ring(order) => {
            let place = |node: &u64| order.iter().position(|other| other == node).unwrap_or_default();
            let (count, reach) = (order.len(), (order.len() / 2).div_ceil(2));
            let is_far = |from: usize, to: usize| {
                let distance = from.abs_diff(to);
                distance.min(count - distance) > reach
            };
            pairs().filter(|(from, to)| is_far(place(from), place(to))).collect()
        }
        _ => Vec::new(),
    }
}

/// The faults of links that are in force.
#[derive(Clone, Debug, Default)]
struct LinkState {
    cut: BTreeSet<(u64, u64)>,
    policy: Option<LinkPolicy>,
    policies: BTreeMap<u64, LinkPolicy>,
}

impl LinkState {
    /// Adds a fault of links.
    fn add(&mut self, fault: &Fault, nodes: &[u64], leader: Option<u64>) {
        match fault {
            Fault::Links(policy) => self.policy = Some(*policy),
            Fault::LinksOf(node, policy) => {
                self.policies.insert(*node, *policy);
            }
            cut => self.cut.extend(cut_links(cut, nodes, leader)),
        }
    }

    fn is_cut(&self, from: u64, to: u64) -> bool {
        self.cut.contains(&(from, to))
    }

    /// What a link does to the datagrams that it lets through; `None`: it is healthy.
    fn policy(&self, from: u64, to: u64) -> Option<LinkPolicy> {
        let of_node = [from, to].iter().find_map(|node| self.policies.get(node));
        of_node.or(self.policy.as_ref()).copied()
    }

    /// The policy of a link that is cut, broken or healthy; `None`: nothing is wrong with it.
    fn of(&self, from: u64, to: u64) -> Option<LinkPolicy> {
        let (cut, policy) = (self.is_cut(from, to), self.policy(from, to));
        (cut || policy.is_some()).then(|| LinkPolicy { cut, ..policy.unwrap_or(HEALTHY) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whom each node hears, itself included.
    fn heard(fault: &Fault, nodes: u64) -> Vec<BTreeSet<u64>> {
        let nodes: Vec<u64> = (1..=nodes).collect();
        let cut: BTreeSet<_> = cut_links(fault, &nodes, Some(1)).into_iter().collect();
        let hears =
            |to: u64| nodes.iter().copied().filter(move |from| *from == to || !cut.contains(&(*from, to)));
        nodes.iter().map(|to| hears.clone()(*to).collect()).collect()
    }

    #[test]
    fn in_a_ring_everybody_hears_a_majority_and_no_two_the_same() {
        for count in [5, 7] {
            let heard = heard(&Fault::Ring((1..=count).collect()), count);
            assert!(heard.iter().all(|heard| heard.len() as u64 > count / 2), "{heard:?}");
            assert!(heard.iter().all(|heard| (heard.len() as u64) < count), "{heard:?}");
            assert_eq!(heard.iter().collect::<BTreeSet<_>>().len() as u64, count);
        }
    }

    #[test]
    fn a_bridge_hears_both_sides_that_do_not_hear_each_other() {
        let heard = heard(&Fault::Bridge(vec![4, 2, 1, 3, 5]), 5);
        let sets: Vec<BTreeSet<u64>> =
            [vec![1, 2, 3, 4, 5], vec![1, 2, 4], vec![1, 3, 5], vec![1, 2, 4], vec![1, 3, 5]]
                .into_iter()
                .map(|set| set.into_iter().collect())
                .collect();
        assert_eq!(heard, sets);
    }
}
