//! A cluster under test, seen from outside: where its nodes are, what can be done to them.
//!
//! One trait for three kinds: [`sim`] (the real crates in virtual time), [`processes`] (real binaries on loopback),
//! [`compose`] (the docker-compose cluster). Workloads, plans and checkers know only the trait.

pub mod sim;

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use kv_client::api::{KvClient, Status};
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

    /// Datagrams that faults of links have hit so far. A fault that hit nothing did not happen.
    fn hits(&self) -> impl Future<Output = u64> + Send;
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
    let mut found: Option<(u64, u64)> = None;
    for node in cluster.nodes() {
        if let Some(status) = status(cluster, peer, node).await
            && status.role == kv_client::api::Role::Leader
        {
            found = found.max(Some((status.term, node)));
        }
    }
    found.map(|(_, node)| node)
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
