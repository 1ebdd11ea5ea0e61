//! Real `kv-server` processes on loopback, with real disks: killed with SIGKILL, stopped with SIGSTOP; links are broken
//! by the seeded policies inside the nodes' sockets, which are set through the store's own service.
//!
//! Every process ends with this one, however it ends: dropped children are killed, and each node holds a pipe from
//! here and stops when that closes.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kv_client::api::{FaultsReply, FaultsRequest, KvClient, KvError, LinkFault};
use rpc_core::driver::fault::{Direction, FaultHits, LinkPolicy};
use rpc_core::driver::key_file;
use rpc_core::driver::udp::UdpSocket;
use rpc_core::peer::Peer;
use rpc_core::random::SeededRandom;
use rpc_core::rpc::CallError;
use rpc_core::runtime::Runtime;
use rpc_core::security::{Security, SharedKey};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::{Cluster, ClusterError, Hits, LinkState};
use crate::plan::{Fault, FaultKind};

/// How long a running node may take to obey its link faults; a node that starts opens its disk first.
const OBEDIENCE: Duration = Duration::from_secs(10);
/// How long one attempt to reach a node may take.
const ATTEMPT: Duration = Duration::from_millis(250);
/// How long a node that is asked to stop may take.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(20);
/// Ports of nodes are drawn from here: below the range from which Linux draws the ports of clients, one of which might
/// else take the port of a node that is dead for a while.
const PORTS: std::ops::Range<u64> = 12_000..32_000;
/// Ports that are tried for one node.
const PORT_ATTEMPTS: u32 = 100;

/// A cluster of processes. Clones are handles on the same one; with the last one the processes end.
#[derive(Clone)]
pub struct ProcessCluster {
    inner: Arc<Inner>,
}

struct Inner {
    runtime: Runtime,
    program: PathBuf,
    /// Holds a data folder for each node.
    data: PathBuf,
    /// Holds the log of each node.
    logs: PathBuf,
    seed: u64,
    /// The key that nodes and clients share.
    key_file: PathBuf,
    security: Security,
    addresses: BTreeMap<u64, SocketAddr>,
    admin: Peer,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    nodes: BTreeMap<u64, Node>,
    links: LinkState,
    /// What processes hit that are dead by now.
    hits_before: FaultHits,
    failures: Vec<String>,
    /// Nodes that were killed, stopped, paused, by kind of fault.
    others: BTreeMap<FaultKind, u64>,
}

#[derive(Default)]
struct Node {
    process: Option<Child>,
    is_paused: bool,
    /// Killed, to be started again.
    is_killed: bool,
    /// How many processes this node was.
    lives: u64,
    /// Whether this process draws its faults from the run's seed by now.
    is_seeded: bool,
    /// What this process hit when it was asked last.
    hits: FaultHits,
}

/// Where the processes of a cluster come from and what they may write.
#[derive(Clone, Debug)]
pub struct Options {
    /// The binary `kv-server`.
    pub program: PathBuf,
    /// How many nodes.
    pub nodes: u64,
    /// An empty folder for the nodes' data.
    pub data: PathBuf,
    /// A folder for the nodes' logs, `node1.log` and so on; what they hold is overwritten.
    pub logs: PathBuf,
    /// Decides which datagrams the faults of links hit.
    pub seed: u64,
}

impl ProcessCluster {
    /// Starts the processes. Must be called within the tokio runtime of `runtime`.
    ///
    /// # Errors
    /// When a process does not start, or does not let its links be broken.
    pub async fn start(runtime: Runtime, options: Options) -> Result<Self, ClusterError> {
        let Options { program, nodes, data, logs, seed } = options;
        let addresses = free_addresses(&runtime, nodes)?;
        let mut key = [0; 32];
        runtime.fill_random(&mut key);
        let (key, key_file) = (SharedKey::new(key), data.join("key"));
        key_file::write(&key_file, &key).map_err(|error| ClusterError(error.to_string()))?;
        let security = Security::shared_key(key);
        let inner = Inner {
            admin: peer(&runtime, security.clone())?,
            security,
            key_file,
            runtime,
            program,
            data,
            logs,
            seed,
            addresses,
            state: Mutex::default(),
        };
        let cluster = Self { inner: Arc::new(inner) };
        for id in cluster.nodes() {
            let log = cluster.log(id);
            File::create(&log).map_err(|error| cannot("write", &log, &error))?;
            cluster.spawn(id)?;
        }
        cluster.obey_all().await?;
        Ok(cluster)
    }

    /// The log of a node.
    pub fn log(&self, id: u64) -> PathBuf {
        self.inner.logs.join(format!("node{id}.log"))
    }

    /// Starts the process of a node, the same way every time.
    fn spawn(&self, id: u64) -> Result<(), ClusterError> {
        let Inner { program, data, addresses, .. } = &*self.inner;
        let log = self.log(id);
        let log = File::options().append(true).open(&log).map_err(|error| cannot("write", &log, &error))?;
        let members: Vec<String> =
            addresses.iter().map(|(member, address)| format!("{member}={address}")).collect();
        let mut command = Command::new(program);
        // What the user's environment says about nodes is meant for other ones.
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_setting(name)) {
            command.env_remove(name);
        }
        let child = command
            .args(["run", "--enable-faults", "--supervised", "--id", &id.to_string()])
            .args(["--members", &members.join(","), "--data"])
            .arg(data.join(format!("node{id}")))
            .arg("--key-file")
            .arg(&self.inner.key_file)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            // Ctrl-C in the terminal reaches this process only, which decides what becomes of the nodes.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| cannot("start", program, &error))?;
        let mut state = self.state();
        let node = state.nodes.entry(id).or_default();
        *node = Node { process: Some(child), lives: node.lives + 1, ..Node::default() };
        Ok(())
    }

    /// Sets the link faults of all nodes that can obey now; the others are told when they are back.
    async fn obey_all(&self) -> Result<(), ClusterError> {
        let obey = |id| {
            let cluster = self.clone();
            self.inner.runtime.spawn("link faults", async move { cluster.obey(id).await })
        };
        let tasks: Vec<_> = self.nodes().into_iter().map(obey).collect();
        for task in tasks {
            task.await.map_err(|_| ClusterError("a task of the harness ended early".to_owned()))??;
        }
        Ok(())
    }

    /// Sets the link faults of one node, unless it is not running.
    async fn obey(&self, id: u64) -> Result<(), ClusterError> {
        let deadline = self.inner.runtime.now() + OBEDIENCE;
        loop {
            if !self.is_running(id) {
                return Ok(());
            }
            let error = match self.ask(id, self.request(id)).await {
                Ok(_) => {
                    self.node(id, |node| node.is_seeded = true);
                    return Ok(());
                }
                Err(CallError::Method(error)) => {
                    return Err(ClusterError(format!("node {id} does not break its links: {error}")));
                }
                Err(CallError::Rpc(error)) => error,
            };
            if self.inner.runtime.now() >= deadline {
                let log = self.log(id);
                return Err(ClusterError(format!(
                    "node {id} runs, but did not answer within {} s: {error} (its log: {})",
                    OBEDIENCE.as_secs(),
                    log.display()
                )));
            }
            self.inner.runtime.sleep(PAUSE).await;
        }
    }

    /// All that a node must do to its links. A cut is made at both ends, so that it holds while one of them is away.
    fn request(&self, id: u64) -> FaultsRequest {
        let state = self.state();
        let node = state.nodes.get(&id);
        let is_seeded = node.is_none_or(|node| node.is_seeded);
        let life = node.map_or(0, |node| node.lives);
        let mut set = Vec::new();
        for (other, remote) in self.inner.addresses.iter().filter(|(other, _)| **other != id) {
            let outgoing = LinkPolicy {
                cut: state.links.is_cut(id, *other),
                ..state.links.policy(id, *other).unwrap_or_default()
            };
            let incoming = LinkPolicy { cut: state.links.is_cut(*other, id), ..LinkPolicy::default() };
            for (direction, policy) in [(Direction::Outgoing, outgoing), (Direction::Incoming, incoming)] {
                if policy != LinkPolicy::default() {
                    set.push(LinkFault { direction, remote: *remote, policy });
                }
            }
        }
        let seed =
            (!is_seeded).then(|| SeededRandom::new(self.inner.seed ^ (id << 48) ^ (life << 32)).next_u64());
        FaultsRequest { seed, heal: true, set }
    }

    /// Asks a node for what its faults hit so far; what cannot answer now was asked before it was stopped.
    async fn look(&self, id: u64) {
        if self.is_running(id) {
            // Without an answer the last one stands: a fault may seem to have hit less than it did, never more.
            let _ = self.ask(id, FaultsRequest::default()).await;
        }
    }

    async fn ask(&self, id: u64, request: FaultsRequest) -> Result<FaultsReply, CallError<KvError>> {
        let remote = self.inner.admin.remote(self.address(id));
        let reply = KvClient::new(remote).faults(request).timeout(ATTEMPT).await?;
        self.node(id, |node| node.hits = reply.hits);
        Ok(reply)
    }

    async fn look_all(&self) {
        let look = |id| {
            let cluster = self.clone();
            self.inner.runtime.spawn("link hits", async move { cluster.look(id).await })
        };
        let tasks: Vec<_> = self.nodes().into_iter().map(look).collect();
        for task in tasks {
            // A task that is gone saw nothing, as a node that did not answer.
            let _ = task.await;
        }
    }

    async fn kill(&self, ids: &[u64]) {
        for id in ids {
            self.look(*id).await;
        }
        let mut dying = Vec::new();
        {
            let mut state = self.state();
            let State { nodes, hits_before, others, .. } = &mut *state;
            for id in ids {
                if let Some(node) = nodes.get_mut(id)
                    && let Some(process) = node.process.take()
                {
                    *hits_before += std::mem::take(&mut node.hits);
                    (node.is_killed, node.is_paused) = (true, false);
                    dying.push(process);
                    *others.entry(FaultKind::Kill).or_default() += 1;
                }
            }
        }
        end(dying).await;
    }

    /// Asks a node to stop, and waits until it has.
    async fn stop(&self, id: u64) -> Result<(), ClusterError> {
        if !self.is_running(id) {
            return Ok(());
        }
        self.look(id).await;
        self.signal(id, Signal::TERM)?;
        let process = {
            let mut state = self.state();
            let State { nodes, hits_before, .. } = &mut *state;
            let Some(node) = nodes.get_mut(&id) else { return Ok(()) };
            *hits_before += std::mem::take(&mut node.hits);
            node.is_killed = true;
            node.process.take()
        };
        let Some(mut process) = process else { return Ok(()) };
        let ended = self.inner.runtime.timeout(STOP_TIMEOUT, process.wait()).await;
        match ended {
            Ok(Ok(status)) if status.success() => {
                *self.state().others.entry(FaultKind::Rolling).or_default() += 1;
            }
            Ok(Ok(status)) => self.state().failures.push(obituary(id, status, &self.log(id))),
            Ok(Err(error)) => return Err(ClusterError(format!("node {id} was not waited for: {error}"))),
            Err(_) => {
                let late = format!("node {id} was asked to stop, and did not within {STOP_TIMEOUT:?}");
                self.state().failures.push(late);
                end(vec![process]).await;
            }
        }
        Ok(())
    }

    async fn restart(&self) -> Result<(), ClusterError> {
        let killed: Vec<u64> =
            self.state().nodes.iter().filter(|(_, node)| node.is_killed).map(|(id, _)| *id).collect();
        for id in killed {
            self.spawn(id)?;
        }
        self.obey_all().await
    }

    async fn pause(&self, ids: &[u64]) -> Result<(), ClusterError> {
        for id in ids.iter().filter(|id| self.is_running(**id)) {
            self.look(*id).await;
            self.signal(*id, Signal::STOP)?;
            self.node(*id, |node| node.is_paused = true);
            *self.state().others.entry(FaultKind::Pause).or_default() += 1;
        }
        Ok(())
    }

    async fn resume(&self) -> Result<(), ClusterError> {
        let paused: Vec<u64> =
            self.state().nodes.iter().filter(|(_, node)| node.is_paused).map(|(id, _)| *id).collect();
        for id in paused {
            self.signal(id, Signal::CONT)?;
            self.node(id, |node| node.is_paused = false);
        }
        self.obey_all().await
    }

    fn signal(&self, id: u64, signal: Signal) -> Result<(), ClusterError> {
        let state = self.state();
        // Our own child, not waited for yet: its process id cannot be anybody else's.
        let process = state.nodes.get(&id).and_then(|node| node.process.as_ref());
        let pid = process.and_then(Child::id).and_then(|pid| Pid::from_raw(pid.cast_signed()));
        let Some(pid) = pid else { return Ok(()) };
        kill_process(pid, signal).map_err(|error| ClusterError(format!("no signal to node {id}: {error}")))
    }

    /// Whether a node can answer now. Notices processes that ended on their own.
    fn is_running(&self, id: u64) -> bool {
        let mut state = self.state();
        let State { nodes, failures, hits_before, .. } = &mut *state;
        let Some(node) = nodes.get_mut(&id) else { return false };
        let Some(process) = &mut node.process else { return false };
        if let Ok(Some(status)) = process.try_wait() {
            failures.push(obituary(id, status, &self.log(id)));
            node.process = None;
            *hits_before += std::mem::take(&mut node.hits);
            return false;
        }
        !node.is_paused
    }

    fn node(&self, id: u64, change: impl FnOnce(&mut Node)) {
        if let Some(node) = self.state().nodes.get_mut(&id) {
            change(node);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cluster for ProcessCluster {
    fn nodes(&self) -> Vec<u64> {
        self.inner.addresses.keys().copied().collect()
    }

    fn address(&self, node: u64) -> SocketAddr {
        self.inner.addresses[&node]
    }

    fn clock(&self) -> Runtime {
        self.inner.runtime.clone()
    }

    fn client(&self, _client: u64) -> Result<(Runtime, Peer), ClusterError> {
        Ok((self.inner.runtime.clone(), peer(&self.inner.runtime, self.inner.security.clone())?))
    }

    async fn apply(&self, fault: &Fault, leader: Option<u64>) -> Result<(), ClusterError> {
        let nodes = self.nodes();
        match fault {
            Fault::Partition(_)
            | Fault::IsolateLeader
            | Fault::OneWay(_)
            | Fault::Bridge(_)
            | Fault::Ring(_)
            | Fault::Links(_)
            | Fault::LinksOf(..) => {
                self.state().links.add(fault, &nodes, leader);
                self.obey_all().await
            }
            Fault::HealLinks => {
                self.state().links = LinkState::default();
                self.obey_all().await
            }
            Fault::Kill(who) => {
                self.kill(&who.resolve(&nodes, leader)).await;
                Ok(())
            }
            Fault::Stop(node) => self.stop(*node).await,
            Fault::Restart => self.restart().await,
            Fault::Pause(who) => self.pause(&who.resolve(&nodes, leader)).await,
            Fault::Resume => self.resume().await,
            other => Err(ClusterError(format!("processes have no fault for `{other}`"))),
        }
    }

    async fn heal(&self) -> Result<(), ClusterError> {
        self.state().links = LinkState::default();
        self.resume().await?;
        self.restart().await
    }

    async fn release(&self) -> Result<(), ClusterError> {
        let nodes = std::mem::take(&mut self.state().nodes);
        end(nodes.into_values().filter_map(|node| node.process).collect()).await;
        Ok(())
    }

    async fn hits(&self) -> Hits {
        self.look_all().await;
        let state = self.state();
        let mut links = state.hits_before;
        state.nodes.values().for_each(|node| links += node.hits);
        Hits { links, others: state.others.clone() }
    }

    async fn failures(&self) -> Vec<String> {
        for id in self.nodes() {
            self.is_running(id);
        }
        self.state().failures.clone()
    }
}

/// A socket of its own on loopback.
pub(super) fn peer(runtime: &Runtime, security: Security) -> Result<Peer, ClusterError> {
    let socket = UdpSocket::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let socket = socket.map_err(|error| ClusterError(format!("no socket for a client: {error}")))?;
    Peer::builder(runtime.clone())
        .security(security)
        .start(socket)
        .map_err(|error| ClusterError(error.to_string()))
}

/// Addresses on loopback that are free at this moment.
fn free_addresses(runtime: &Runtime, count: u64) -> Result<BTreeMap<u64, SocketAddr>, ClusterError> {
    let mut random = SeededRandom::new(runtime.random_u64());
    let mut found = Vec::new();
    let mut attempts = PORT_ATTEMPTS * u32::try_from(count).unwrap_or(u32::MAX);
    while (found.len() as u64) < count {
        if attempts == 0 {
            return Err(ClusterError(format!(
                "no {count} free UDP ports from {} to {}",
                PORTS.start, PORTS.end
            )));
        }
        attempts -= 1;
        let port = random.between(PORTS.start, PORTS.end - 1) as u16;
        // All are held until all are found, so that none is found twice.
        found.extend(std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).ok());
    }
    let addresses = found.iter().map(std::net::UdpSocket::local_addr).collect::<io::Result<Vec<_>>>();
    let addresses =
        addresses.map_err(|error| ClusterError(format!("a socket without an address: {error}")))?;
    Ok((1..).zip(addresses).collect())
}

fn is_setting(name: &OsString) -> bool {
    name.to_str().is_some_and(|name| name.starts_with("KV_") && name != "KV_LOG")
}

/// Kills the processes, all at once, and waits until they are gone.
async fn end(mut processes: Vec<Child>) {
    for process in &mut processes {
        // An error means that it is dead already.
        let _ = process.start_kill();
    }
    for mut process in processes {
        let _ = process.wait().await;
    }
}

/// How a node ended that nobody ended, with what it said last.
fn obituary(id: u64, status: ExitStatus, log: &Path) -> String {
    let lines =
        File::open(log).ok().map(BufReader::new).into_iter().flat_map(BufRead::lines).map_while(Result::ok);
    let last = lines.filter(|line| !line.trim().is_empty()).last().unwrap_or_default();
    format!("node {id} ({status}): {last} ({})", log.display())
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> ClusterError {
    ClusterError(format!("cannot {what} {}: {error}", path.display()))
}
