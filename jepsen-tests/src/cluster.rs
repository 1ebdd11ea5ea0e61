//! A cluster under test, seen from outside: where its nodes are, what can be done to them.
//!
//! One trait for three kinds: [`sim`] (the real crates in virtual time), [`processes`] (real binaries on loopback),
//! [`compose`] (the docker-compose cluster). Workloads, plans and checkers know only the trait.

pub mod compose;
pub mod processes;
pub mod sim;

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use kv_client::api::{KvClient, Role, Status};
use rpc_core::driver::fault::{FaultHits, LinkPolicy};
use rpc_core::peer::Peer;
use rpc_core::runtime::Runtime;

use crate::plan::{Fault, Who};

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

    /// Datagrams that faults of links have hit so far. A fault that hit nothing did not happen.
    fn hits(&self) -> impl Future<Output = FaultHits> + Send;

    /// Nodes that ended on their own, which none may, and why.
    fn failures(&self) -> impl Future<Output = Vec<String>> + Send;
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
pub async fn status<C: Cluster>(cluster: &C, peer: &Peer, node: u64) -> Option<Status> {
    KvClient::new(peer.remote(cluster.address(node))).status().timeout(STATUS_PATIENCE).await.ok()
}

/// The node that leads in the highest term that any node knows of, if it says so itself.
pub async fn leader<C: Cluster>(cluster: &C, peer: &Peer) -> Option<u64> {
    let nodes = cluster.nodes();
    let all = join_all(nodes.iter().map(|node| status(cluster, peer, *node))).await;
    let known = nodes.into_iter().zip(all).filter_map(|(node, status)| Some((status?, node)));
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
        _ => Vec::new(),
    }
}

/// The faults of links that are in force.
#[derive(Clone, Debug, Default)]
struct LinkState {
    cut: BTreeSet<(u64, u64)>,
    policy: Option<LinkPolicy>,
}

impl LinkState {
    /// Adds a fault of links.
    fn add(&mut self, fault: &Fault, nodes: &[u64], leader: Option<u64>) {
        match fault {
            Fault::Links(policy) => self.policy = Some(*policy),
            cut => self.cut.extend(cut_links(cut, nodes, leader)),
        }
    }

    fn is_cut(&self, from: u64, to: u64) -> bool {
        self.cut.contains(&(from, to))
    }
}
