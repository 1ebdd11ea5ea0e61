//! One node of the store on whatever runtime, disk and network it is handed: the binary hands it a machine, a test a
//! simulated world. So nothing here touches a clock, a file, a socket or a task of its own.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use raft_node::disk::Disk;
use raft_node::resolver::Resolver;
use raft_node::status::{Phase, StopReason};
use raft_node::{Boot, Node, NodeConfig};
use rpc_core::driver::DatagramSocket;
use rpc_core::driver::fault::{FaultySocket, LinkFaults};
use rpc_core::peer::{Builder, Peer};
use rpc_core::runtime::Runtime;
use rpc_core::security::Security;

use crate::machine::KvMachine;
use crate::service::{Running, Service, ServiceConfig, services};

pub use raft_node::StartError;

/// What a node of the store is told at its start.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The node below: its id, its members, timers and limits.
    pub node: NodeConfig,
    /// Lets clients break this node's links on purpose.
    pub enable_faults: bool,
    /// Client requests that are served at once. Default 16,384; above it a request is answered busy before any work.
    pub requests_max: usize,
    /// How packets of clients and of other nodes are protected.
    pub security: Security,
    /// Limits and timers of the transport.
    pub transport: rpc_core::endpoint::Config,
}

impl ServerConfig {
    /// A configuration with default limits and timers.
    pub fn new(node: NodeConfig, security: Security) -> Self {
        Self {
            node,
            security,
            enable_faults: false,
            requests_max: 16_384,
            transport: rpc_core::endpoint::Config::default(),
        }
    }
}

/// A running node of the store. Cheap to clone.
#[derive(Clone)]
pub struct Server {
    runtime: Runtime,
    node: Node<KvMachine>,
    peer: Peer,
    service: Arc<Service>,
}

impl Server {
    /// Starts a node with its data in `disk` and its traffic through `socket`. It serves as soon as its cluster does.
    ///
    /// Who it is is durable before the first datagram leaves.
    ///
    /// # Errors
    /// When the configuration contradicts itself, or the disk fails, is damaged or belongs to another node.
    pub async fn start(
        runtime: Runtime,
        disk: Disk,
        socket: impl DatagramSocket,
        config: ServerConfig,
        resolver: Arc<dyn Resolver>,
    ) -> Result<Self, StartError> {
        let ServerConfig { node, enable_faults, requests_max, security, transport } = config;
        let service =
            ServiceConfig { node_id: node.id, requests_max, session_lifetime: node.session_lifetime };
        let faults = enable_faults.then(|| LinkFaults::new(runtime.random_u64()));
        let service = Arc::new(Service::new(service, runtime.clone(), faults.clone()));
        let boot = Boot::open(runtime.clone(), disk, Arc::new(KvMachine), node).await?;
        let builder = Peer::builder(runtime.clone())
            .services(boot.services().merge(services(&service)))
            .security(security)
            .config(transport);
        let peer = match faults {
            Some(faults) => start_peer(builder, FaultySocket::new(socket, faults, runtime.clone())),
            None => start_peer(builder, socket),
        }?;
        let node = boot.start(peer.clone(), resolver);
        service.start(Running { node: node.clone(), peer: peer.clone() });
        Ok(Self { runtime, node, peer, service })
    }

    /// The node below, for what only tests and operators on this machine ask.
    pub fn node(&self) -> &Node<KvMachine> {
        &self.node
    }

    /// The address of the socket.
    pub fn local_addr(&self) -> SocketAddr {
        self.peer.local_addr()
    }

    /// Completes when the node failed, with the reason in one sentence; the process must then end. Never completes
    /// after a shutdown.
    pub async fn fatal(&self) -> String {
        let stopped = async {
            match self.node.stopped().await {
                StopReason::Fatal(reason) | StopReason::Foreign(reason) => reason,
                StopReason::Shutdown => std::future::pending().await,
            }
        };
        let closed = async {
            self.peer.closed().await;
            match self.node.status().phase {
                Phase::Draining | Phase::Stopped(StopReason::Shutdown) => std::future::pending().await,
                Phase::Stopped(StopReason::Fatal(reason) | StopReason::Foreign(reason)) => reason,
                _ => "the socket failed".to_owned(),
            }
        };
        tokio::select! {
            biased;
            reason = stopped => reason,
            reason = closed => reason,
        }
    }

    /// Whether the node stopped because its data belongs to another cluster.
    pub fn is_foreign(&self) -> bool {
        matches!(self.node.status().phase, Phase::Stopped(StopReason::Foreign(_)))
    }

    /// Completes when the cluster refuses this node, because it knows its id with other data than this (empty) disk
    /// holds: it takes no part until somebody replaces it. Never completes on a node that its cluster accepts.
    pub async fn refused(&self) -> Refused {
        let is_decided = |status: &raft_node::status::Status| {
            !matches!(status.phase, Phase::Forming { .. } | Phase::Joining)
        };
        loop {
            let deadline = self.runtime.now() + DECISION_CHECK;
            match self.node.wait_for(is_decided, deadline).await.map(|status| status.phase) {
                Ok(Phase::Replaced { id }) => return Refused { id },
                Ok(_) => std::future::pending().await,
                Err(_) => {}
            }
        }
    }

    /// Stops: takes no new requests, hands leadership over, lets open requests end for at most `grace`, makes
    /// everything durable.
    ///
    /// # Errors
    /// With the reason, when the node had failed instead.
    pub async fn shutdown(&self, grace: Duration) -> Result<(), String> {
        let deadline = self.runtime.now() + grace;
        self.service.drain();
        self.node.shutdown(grace).await;
        let rest = deadline - self.runtime.now();
        self.peer.drain(rest.max(ANSWERS)).await;
        match self.node.status().phase {
            Phase::Stopped(StopReason::Fatal(reason) | StopReason::Foreign(reason)) => Err(reason),
            _ => Ok(()),
        }
    }
}

/// A node that the cluster refuses under its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The id that must be replaced.
    pub id: u64,
}

/// How often a wait without end looks up.
const DECISION_CHECK: Duration = Duration::from_secs(3_600);
/// What the last answers are given to leave, even when the grace is over.
const ANSWERS: Duration = Duration::from_millis(100);

fn start_peer(builder: Builder, socket: impl DatagramSocket) -> Result<Peer, StartError> {
    builder.start(socket).map_err(|error| StartError::Config(error.to_string()))
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({:?} on {})", self.node, self.peer.local_addr())
    }
}
