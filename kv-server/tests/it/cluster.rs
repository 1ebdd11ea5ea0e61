//! Servers in a simulated world.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use kv_client::api::{
    GetRequest, KvClient, KvError, OpenRequest, Opened, Status, WriteAnswer, WriteOp, WriteReply,
    WriteRequest,
};
use kv_server::server::{Server, ServerConfig};
use raft_node::NodeConfig;
use raft_node::disk::sim::{SimDisk, SimDiskOptions};
use raft_node::resolver::Literal;
use rpc_core::driver::fault::LinkPolicy;
use rpc_core::peer::Peer;
use rpc_core::rpc::CallError;
use rpc_core::runtime::Runtime;
use rpc_core::security::Security;
use rpc_core::sim::{OBSERVER, World};

/// How long anything may take in virtual time.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
/// How long one call may take.
pub(crate) const CALL: Duration = Duration::from_secs(5);

/// A cluster in a world of its own, with a client beside it.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) world: World,
    pub(crate) clock: Runtime,
    pub(crate) client: Peer,
    disks: Arc<BTreeMap<u64, SimDisk>>,
    servers: Arc<Mutex<BTreeMap<u64, Server>>>,
    configure: fn(&mut ServerConfig),
}

/// Runs `test` on a cluster of `count` nodes that were all started.
pub(crate) fn simulate<F>(
    seed: u64,
    count: u64,
    configure: fn(&mut ServerConfig),
    test: impl FnOnce(Cluster) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let world = World::new(seed);
    let clock = world.observer();
    let socket = world.bind(OBSERVER, SocketAddr::from((Ipv4Addr::LOCALHOST, 9_000)));
    let client = Peer::builder(clock.clone()).start_insecure(socket).unwrap();
    let disk = |node| (node, SimDisk::new(world.fork_random(), SimDiskOptions::default()));
    let disks = Arc::new((1..=count).map(disk).collect());
    let cluster = Cluster { world: world.clone(), clock, client, disks, servers: Arc::default(), configure };
    let started = cluster.clone();
    let test = test(cluster);
    world.run(async move {
        for node in 1..=count {
            started.start(node).await;
        }
        test.await;
    });
}

pub(crate) fn address(node: u64) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 7_300 + u16::try_from(node).unwrap()))
}

pub(crate) fn key(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub(crate) fn put(name: &str, value: &str) -> WriteOp {
    WriteOp::Put { key: key(name), value: key(value) }
}

impl Cluster {
    /// Starts a node, or starts it again with the disk that it left.
    pub(crate) async fn start(&self, node: u64) {
        let runtime = self.world.start(node);
        let socket = self.world.bind(node, address(node));
        let disk = self.disks[&node].open(&runtime);
        let members = self.disks.keys().map(|id| (*id, address(*id).to_string())).collect();
        let mut config = ServerConfig::new(NodeConfig::new(node, members), Security::insecure());
        config.node.host.unsaved_size_max = UNSAVED_SIZE_MAX;
        (self.configure)(&mut config);
        let starting = Server::start(runtime.clone(), disk, socket, config, Arc::new(Literal));
        let server = runtime.spawn("start", starting).await.unwrap().unwrap();
        self.servers.lock().unwrap().insert(node, server);
    }

    /// Cuts a node's power.
    pub(crate) fn crash(&self, node: u64) {
        self.world.crash(node);
        self.disks[&node].crash();
        self.servers.lock().unwrap().remove(&node);
    }

    /// Empties the disk of a crashed node.
    pub(crate) fn wipe(&self, node: u64) {
        self.disks[&node].wipe();
    }

    /// Lets the next sync of a node's disk fail.
    pub(crate) fn fail_disk(&self, node: u64) {
        self.disks[&node].fail_syncs(1);
    }

    pub(crate) fn server(&self, node: u64) -> Server {
        self.servers.lock().unwrap()[&node].clone()
    }

    /// The service of one node.
    pub(crate) fn at(&self, node: u64) -> KvClient {
        KvClient::new(self.client.remote(address(node)))
    }

    pub(crate) async fn status(&self, node: u64) -> Option<Status> {
        self.at(node).status().timeout(CALL).await.ok()
    }

    /// Waits until `check` gives something.
    pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(
        &self,
        what: &str,
        check: impl Fn() -> F,
    ) -> T {
        let checking = async {
            loop {
                if let Some(found) = check().await {
                    return found;
                }
                self.clock.sleep(Duration::from_millis(20)).await;
            }
        };
        let found = self.clock.timeout(DEADLINE, checking).await;
        found.unwrap_or_else(|_| panic!("not within {DEADLINE:?}: {what}"))
    }

    /// Waits until a node of `nodes` leads, and all of them say so.
    pub(crate) async fn leader(&self, nodes: &[u64]) -> u64 {
        self.eventually("one leader", async || {
            let mut leaders = Vec::new();
            for node in nodes {
                let status = self.status(*node).await?;
                leaders.push(status.leader.filter(|_| status.ready)?.id);
            }
            let leader = *leaders.first()?;
            (nodes.contains(&leader) && leaders.iter().all(|other| *other == leader)).then_some(leader)
        })
        .await
    }

    /// Opens a session through `node`, which must serve by now or soon.
    pub(crate) async fn session(&self, node: u64) -> Session {
        let nonce = self.clock.random_u128();
        let opened = self
            .eventually("a session", async || {
                self.at(node).open_session(OpenRequest { nonce }).timeout(CALL).await.ok()
            })
            .await;
        Session { cluster: self.clone(), opened }
    }

    /// The value of a key, as `node` reads it.
    pub(crate) async fn get(&self, node: u64, name: &str) -> Option<Bytes> {
        let request = GetRequest { key: key(name), consistency: Default::default() };
        let reply = self
            .eventually("a read", async || self.at(node).get(request.clone()).timeout(CALL).await.ok())
            .await;
        reply.value.map(|versioned| versioned.value)
    }

    /// Cuts all links of a node, both ways, but those to the client.
    pub(crate) fn isolate(&self, node: u64) {
        for other in self.disks.keys().filter(|other| **other != node) {
            let cut = LinkPolicy { cut: true, ..LinkPolicy::default() };
            self.world.set_link(node, *other, cut);
            self.world.set_link(*other, node, cut);
        }
    }
}

/// A session whose writes are numbered by the test.
pub(crate) struct Session {
    cluster: Cluster,
    pub(crate) opened: Opened,
}

impl Session {
    pub(crate) fn request(&self, sequence: u64, op: WriteOp) -> WriteRequest {
        let Opened { cluster, session, .. } = self.opened;
        WriteRequest { cluster, session, sequence, floor: 1, op }
    }

    /// One attempt of a write through `node`.
    pub(crate) async fn attempt(
        &self,
        node: u64,
        sequence: u64,
        op: WriteOp,
    ) -> Result<WriteAnswer, CallError<KvError>> {
        let request = self.request(sequence, op);
        self.cluster.at(node).write(request.clone()).timeout(CALL).once().await
    }

    /// Writes through `node`, which must serve: what became of it.
    pub(crate) async fn write(&self, node: u64, sequence: u64, op: WriteOp) -> WriteReply {
        self.attempt(node, sequence, op).await.unwrap().reply
    }
}

/// Bytes of state in memory only: few, so that tests of some hundred writes meet many saves.
const UNSAVED_SIZE_MAX: usize = 2_000;
