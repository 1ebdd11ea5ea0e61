//! The docker-compose cluster of the current folder, which must be up: containers are killed and paused by the engine,
//! links are cut by iptables in the containers' network namespaces. Nothing in the containers takes part in that.
//!
//! A cut drops what arrives, at the receiving end, so that the sender notices nothing, as on a real network. The rules
//! lie in a chain of their own, which is removed at the end.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rpc_core::driver::fault::FaultHits;
use rpc_core::peer::Peer;
use rpc_core::runtime::Runtime;
use rpc_core::security::Security;
use serde::Deserialize;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::processes::peer;
use super::{Cluster, ClusterError, Hits, LinkState};
use crate::plan::{Fault, FaultKind};

/// The port on which every node listens in its container.
const PORT: &str = "7301/udp";
/// The chain that holds the cuts.
const CHAIN: &str = "JEPSEN-TESTS";

/// A cluster of containers. Clones are handles on the same one.
#[derive(Clone)]
pub struct ComposeCluster {
    inner: Arc<Inner>,
}

struct Inner {
    runtime: Runtime,
    /// Container ids by node.
    containers: BTreeMap<u64, String>,
    /// Where the host reaches the nodes.
    addresses: BTreeMap<u64, SocketAddr>,
    /// Whether this run breaks links at all; else neither root nor iptables is needed.
    breaks_links: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    nodes: BTreeMap<u64, Node>,
    links: LinkState,
    hits: u64,
    /// Nodes that were killed, paused, by kind of fault.
    others: BTreeMap<FaultKind, u64>,
    failures: Vec<String>,
}

/// What is known of a container.
#[derive(Clone, Debug, Default)]
struct Node {
    /// The process id on the host; 0 while it is dead.
    pid: u32,
    /// Where the other nodes see it.
    ip: Option<IpAddr>,
    /// How often the engine restarted it on its own.
    restarts: u64,
    is_paused: bool,
    is_killed: bool,
}

impl ComposeCluster {
    /// Finds the containers of the services `node1` to `node{count}`.
    ///
    /// # Errors
    /// When docker-compose, docker or (if the run `breaks_links`) root or iptables is missing, or the project is not up.
    pub async fn find(runtime: Runtime, count: u64, breaks_links: bool) -> Result<Self, ClusterError> {
        output("docker", &["version", "--format", "{{.Server.Version}}"], "").await?;
        let mut containers = BTreeMap::new();
        for id in 1..=count {
            containers.insert(id, container(id).await?);
        }
        let inspected = inspect(&containers).await?;
        let mut addresses = BTreeMap::new();
        for (id, container) in &inspected {
            if !container.state.running || container.state.paused {
                return Err(ClusterError(format!("node{id} is not running: docker-compose up -d")));
            }
            addresses.insert(*id, container.published(*id)?);
        }
        let nodes = inspected.iter().map(|(id, container)| (*id, container.node())).collect();
        let state = Mutex::new(State { nodes, ..State::default() });
        let cluster = Self { inner: Arc::new(Inner { runtime, containers, addresses, breaks_links, state }) };
        cluster.cut().await?;
        Ok(cluster)
    }

    /// Puts the rules of all containers in order. Each container's rules change in one step.
    async fn cut(&self) -> Result<(), ClusterError> {
        if !self.inner.breaks_links {
            return Ok(());
        }
        // The counters go with the rules.
        self.count().await?;
        let running = self.running();
        for (id, node) in &running {
            let from = |other: u64| running.iter().find(|(node, _)| *node == other)?.1.ip;
            let cut: Vec<IpAddr> = {
                let state = self.state();
                self.nodes()
                    .into_iter()
                    .filter(|other| state.links.is_cut(*other, *id))
                    .filter_map(from)
                    .collect()
            };
            let rules: String = cut.iter().map(|ip| format!("-A {CHAIN} -s {ip} -j DROP\n")).collect();
            let table = format!("*filter\n:{CHAIN} - [0:0]\n{rules}COMMIT\n");
            in_network(*id, node, "iptables-restore", &["--noflush"], &table).await?;
            // Only on eth0: what a container says to itself (its name server is there) is no link.
            let jump = ["INPUT", "-i", "eth0", "-j", CHAIN];
            if iptables(*id, node, &[&["-C"], &jump[..]].concat()).await.is_err() {
                iptables(*id, node, &[&["-I"], &jump[..]].concat()).await?;
            }
        }
        Ok(())
    }

    /// Adds what the rules have hit since they were made or counted last.
    async fn count(&self) -> Result<(), ClusterError> {
        for (id, node) in self.running() {
            // A container without the chain has hit nothing yet; everything else shows when rules are made.
            let Ok(table) = iptables(id, &node, &["-vnxL", CHAIN, "-Z"]).await else { continue };
            self.state().hits += packets(&table);
        }
        Ok(())
    }

    async fn kill(&self, ids: &[u64]) -> Result<(), ClusterError> {
        self.look().await?;
        if self.inner.breaks_links {
            self.count().await?;
        }
        let alive: Vec<u64> = ids.iter().copied().filter(|id| self.known(*id).pid != 0).collect();
        if alive.is_empty() {
            return Ok(());
        }
        for id in &alive {
            self.change(*id, |node| {
                *node = Node { is_killed: true, restarts: node.restarts, ..Node::default() }
            });
        }
        self.docker("kill", &alive).await
    }

    async fn restart(&self) -> Result<(), ClusterError> {
        let killed: Vec<u64> = self.nodes().into_iter().filter(|id| self.known(*id).is_killed).collect();
        if killed.is_empty() {
            return Ok(());
        }
        self.docker("start", &killed).await?;
        for (id, container) in inspect(&self.inner.containers).await? {
            let Node { pid, ip, restarts, .. } = container.node();
            let is_new = killed.contains(&id);
            self.change(id, |node| {
                if is_new {
                    *node = Node { pid, ip, restarts, ..Node::default() };
                }
            });
        }
        // A container has a network namespace of its own, without rules, and perhaps another address.
        self.cut().await
    }

    async fn pause(&self, ids: &[u64]) -> Result<(), ClusterError> {
        self.look().await?;
        let running = |id: &u64| self.known(*id).pid != 0 && !self.known(*id).is_paused;
        let ids: Vec<u64> = ids.iter().copied().filter(running).collect();
        if ids.is_empty() {
            return Ok(());
        }
        ids.iter().for_each(|id| self.change(*id, |node| node.is_paused = true));
        self.docker("pause", &ids).await
    }

    async fn resume(&self) -> Result<(), ClusterError> {
        let paused: Vec<u64> = self.nodes().into_iter().filter(|id| self.known(*id).is_paused).collect();
        if paused.is_empty() {
            return Ok(());
        }
        paused.iter().for_each(|id| self.change(*id, |node| node.is_paused = false));
        self.docker("unpause", &paused).await
    }

    async fn docker(&self, verb: &str, ids: &[u64]) -> Result<(), ClusterError> {
        let containers = ids.iter().map(|id| self.inner.containers[id].as_str());
        let arguments: Vec<&str> = std::iter::once(verb).chain(containers).collect();
        output("docker", &arguments, "").await?;
        Ok(())
    }

    /// Looks for containers that ended, or were started again, on their own.
    async fn look(&self) -> Result<(), ClusterError> {
        for (id, container) in inspect(&self.inner.containers).await? {
            let known = self.known(id);
            let now = container.node();
            let problem = if known.pid != 0 && now.pid == 0 {
                format!("node{id} ended on its own with exit code {}", container.state.exit_code)
            } else if known.pid != 0 && (now.pid != known.pid || now.restarts > known.restarts) {
                format!("node{id} ended on its own and was started again by the engine")
            } else {
                continue;
            };
            self.change(id, |node| (node.pid, node.ip, node.restarts) = (now.pid, now.ip, now.restarts));
            self.state().failures.push(problem);
        }
        Ok(())
    }

    fn running(&self) -> Vec<(u64, Node)> {
        let nodes = self.state().nodes.clone();
        nodes.into_iter().filter(|(_, node)| node.pid != 0).collect()
    }

    fn known(&self, id: u64) -> Node {
        self.state().nodes.get(&id).cloned().unwrap_or_default()
    }

    fn change(&self, id: u64, change: impl FnOnce(&mut Node)) {
        if let Some(node) = self.state().nodes.get_mut(&id) {
            change(node);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cluster for ComposeCluster {
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
        Ok((self.inner.runtime.clone(), peer(&self.inner.runtime, Security::insecure())?))
    }

    async fn apply(&self, fault: &Fault, leader: Option<u64>) -> Result<(), ClusterError> {
        let nodes = self.nodes();
        match fault {
            Fault::Partition(_)
            | Fault::IsolateLeader
            | Fault::OneWay(_)
            | Fault::Bridge(_)
            | Fault::Ring(_) => {
                self.state().links.add(fault, &nodes, leader);
                self.cut().await
            }
            Fault::HealLinks => {
                self.state().links = LinkState::default();
                self.cut().await
            }
            Fault::Kill(who) => {
                *self.state().others.entry(FaultKind::Kill).or_default() += 1;
                self.kill(&who.resolve(&nodes, leader)).await
            }
            Fault::Restart => self.restart().await,
            Fault::Pause(who) => {
                *self.state().others.entry(FaultKind::Pause).or_default() += 1;
                self.pause(&who.resolve(&nodes, leader)).await
            }
            Fault::Resume => self.resume().await,
            other => Err(ClusterError(format!("containers have no fault for `{other}`"))),
        }
    }

    async fn heal(&self) -> Result<(), ClusterError> {
        self.state().links = LinkState::default();
        self.resume().await?;
        self.restart().await?;
        self.cut().await
    }

    async fn release(&self) -> Result<(), ClusterError> {
        self.heal().await?;
        if !self.inner.breaks_links {
            return Ok(());
        }
        for (id, node) in self.running() {
            for arguments in [&["-D", "INPUT", "-i", "eth0", "-j", CHAIN][..], &["-F", CHAIN], &["-X", CHAIN]]
            {
                iptables(id, &node, arguments).await?;
            }
        }
        Ok(())
    }

    async fn hits(&self) -> Hits {
        if self.inner.breaks_links {
            // Hits that cannot be counted make a fault look as if it hit nothing, which voids the run.
            let _ = self.count().await;
        }
        let state = self.state();
        Hits { links: FaultHits { cut: state.hits, ..FaultHits::default() }, others: state.others.clone() }
    }

    async fn failures(&self) -> Vec<String> {
        let looked = self.look().await;
        let mut failures = self.state().failures.clone();
        failures.extend(looked.err().map(|error| error.to_string()));
        failures
    }
}

/// The part of `docker inspect` that matters.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Container {
    state: ContainerState,
    #[serde(default)]
    restart_count: u64,
    network_settings: NetworkSettings,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ContainerState {
    running: bool,
    paused: bool,
    pid: u32,
    exit_code: i64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkSettings {
    /// Published ports, by the container's port.
    #[serde(default)]
    ports: BTreeMap<String, Option<Vec<Published>>>,
    #[serde(default)]
    networks: BTreeMap<String, Network>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Published {
    host_ip: String,
    host_port: String,
}

#[derive(Debug, Deserialize)]
struct Network {
    #[serde(default, rename = "IPAddress")]
    ip_address: String,
}

impl Container {
    fn node(&self) -> Node {
        let ip = self.network_settings.networks.values().find_map(|network| network.ip_address.parse().ok());
        Node { pid: self.state.pid, ip, restarts: self.restart_count, ..Node::default() }
    }

    /// Where the host reaches the node.
    fn published(&self, id: u64) -> Result<SocketAddr, ClusterError> {
        let published = self.network_settings.ports.get(PORT).into_iter().flatten().flatten();
        let mut addresses = published.filter_map(|published| {
            let ip = published.host_ip.parse::<IpAddr>().ok()?;
            let ip = if ip.is_unspecified() { IpAddr::from([127, 0, 0, 1]) } else { ip };
            Some(SocketAddr::new(ip, published.host_port.parse().ok()?))
        });
        let found = addresses.find(SocketAddr::is_ipv4);
        found.ok_or_else(|| ClusterError(format!("node{id} has no published port for {PORT}")))
    }
}

/// The container of a node's service. `docker-compose` is asked first, then the plugin `docker compose`.
async fn container(id: u64) -> Result<String, ClusterError> {
    let service = format!("node{id}");
    let arguments = ["ps", "-q", &service];
    let listed = match output("docker-compose", &arguments, "").await {
        Err(Failure::Missing(_)) => output("docker", &[&["compose"], &arguments[..]].concat(), "").await,
        listed => listed,
    };
    let listed = listed.map_err(|error| {
        ClusterError(format!("no compose project with a service {service} is up in this folder: {error}"))
    })?;
    let found = listed.lines().map(str::trim).rfind(|line| !line.is_empty());
    found
        .map(str::to_owned)
        .ok_or_else(|| ClusterError(format!("the service {service} is not up: docker-compose up -d --build")))
}

async fn inspect(containers: &BTreeMap<u64, String>) -> Result<Vec<(u64, Container)>, ClusterError> {
    let arguments: Vec<&str> =
        std::iter::once("inspect").chain(containers.values().map(String::as_str)).collect();
    let json = output("docker", &arguments, "").await?;
    let inspected: Vec<Container> = serde_json::from_str(&json)
        .map_err(|error| ClusterError(format!("docker inspect said what is not understood: {error}")))?;
    Ok(containers.keys().copied().zip(inspected).collect())
}

async fn iptables(id: u64, node: &Node, arguments: &[&str]) -> Result<String, ClusterError> {
    in_network(id, node, "iptables", arguments, "").await
}

/// Runs one of the iptables programs of the host in the network namespace of a container.
async fn in_network(
    id: u64,
    node: &Node,
    program: &str,
    arguments: &[&str],
    input: &str,
) -> Result<String, ClusterError> {
    let network = format!("--net=/proc/{}/ns/net", node.pid);
    // Other programs may be changing rules: wait for them, for some seconds.
    let arguments = [&[network.as_str(), program, "-w", "5"], arguments].concat();
    let failed = |error| {
        ClusterError(format!("cannot cut the links of node{id}, which needs root and iptables: {error}"))
    };
    output("nsenter", &arguments, input).await.map_err(failed)
}

/// The packets that the rules of a listed chain dropped.
fn packets(table: &str) -> u64 {
    let rules = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rules.filter(|words| words.get(2) == Some(&"DROP")).filter_map(|words| words[0].parse::<u64>().ok()).sum()
}

/// Why a program of the host gave no output.
#[derive(Debug)]
enum Failure {
    /// It is not installed.
    Missing(String),
    /// It says why.
    Failed(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing(program) => write!(f, "there is no `{program}` on this machine"),
            Self::Failed(why) => f.write_str(why),
        }
    }
}

impl From<Failure> for ClusterError {
    fn from(failure: Failure) -> Self {
        Self(failure.to_string())
    }
}

/// What `program` prints, given `input`.
async fn output(program: &str, arguments: &[&str], input: &str) -> Result<String, Failure> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Failure::Missing(program.to_owned()),
        _ => Failure::Failed(format!("{program}: {error}")),
    };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // Ctrl-C in the terminal is for this process, which then heals what it broke.
    let mut child = command.process_group(0).spawn().map_err(failed)?;
    if let Some(mut pipe) = child.stdin.take() {
        // A program that reads nothing closes the pipe; its exit status says whether that was right.
        let _ = pipe.write_all(input.as_bytes()).await;
    }
    let output = child.wait_with_output().await.map_err(failed)?;
    if !output.status.success() {
        let why = first_paragraph(&String::from_utf8_lossy(&output.stderr));
        let command = [&[program], arguments].concat().join(" ");
        return Err(Failure::Failed(format!("`{command}` ended with {}: {why}", output.status)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What a program said first, as one line; what it says after that is seldom for this program's user.
fn first_paragraph(text: &str) -> String {
    let lines = text.trim().lines().map(str::trim).take_while(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_packets_are_counted_and_others_are_not() {
        let table = "Chain JEPSEN-TESTS (1 references)\n    pkts      bytes target     prot opt in     out     source               destination\n\
                     \x20     14     1204 DROP       all  --  *      *       198.18.77.3          0.0.0.0/0\n\
                     \x20      5      400 RETURN     all  --  *      *       198.18.77.4          0.0.0.0/0\n\
                     \x20      3      210 DROP       all  --  *      *       198.18.77.5          0.0.0.0/0\n";
        assert_eq!(packets(table), 17);
    }

    #[test]
    fn an_inspected_container_tells_where_it_is() {
        let json = r#"{"State":{"Running":true,"Paused":false,"Pid":77,"ExitCode":0},"RestartCount":2,
            "NetworkSettings":{"Ports":{"7301/udp":[{"HostIp":"127.0.0.1","HostPort":"7302"}],"9/tcp":null},
            "Networks":{"kv_cluster":{"IPAddress":"198.18.77.3"}}}}"#;
        let container: Container = serde_json::from_str(json).unwrap();
        assert_eq!(container.published(2).unwrap(), SocketAddr::from(([127, 0, 0, 1], 7302)));
        let node = container.node();
        assert_eq!((node.pid, node.ip, node.restarts), (77, Some(IpAddr::from([198, 18, 77, 3])), 2));
    }
}
