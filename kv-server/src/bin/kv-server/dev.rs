//! `kv-server dev`: a cluster on this machine in one command, each node a process of its own.
//!
//! The nodes are children of this process, so that one can be killed or stopped by hand. Each holds a pipe from here
//! as its standard input and stops when that closes, so none survives this process, however it ends. One that dies is
//! started again; for one that was told to stop, or that would only be refused again, the line that does it is printed.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use rpc_core::driver::system;
use rpc_core::runtime::{Instant, Runtime};
use tokio::sync::mpsc;

use self::node::{Node, NodePlan, quote, say};
use crate::config::{ConfigError, MEMBERS_MAX};
use crate::exit::Exit;
use crate::signals::{Signal, Signals};

mod node;
mod readiness;

/// Flags of `kv-server dev`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct DevArgs {
    /// The UDP port of the first node; the others take the next ones
    #[arg(long, default_value_t = PORT_DEFAULT, value_name = "PORT")]
    port: u16,
    /// Where the nodes keep their data, to be found again by the next start; a temporary folder unless given
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// How many nodes
    #[arg(long, default_value_t = 3, value_name = "N")]
    nodes: usize,
    /// Let clients break the nodes' links on purpose, for tests
    #[arg(long)]
    enable_faults: bool,
}

/// The first port unless told otherwise; `kv-client` asks this one and the next two.
const PORT_DEFAULT: u16 = 7301;
/// How long the nodes may take to stop before they are killed: longer than they allow themselves.
const STOP: Duration = Duration::from_secs(8);
/// How long starting may take before the user is told that something is wrong.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs the cluster until it is told to stop.
pub(crate) fn dev(args: DevArgs) -> Result<(), Exit> {
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Exit::Fatal(format!("no tokio runtime: {error}")))?;
    let runtime = system::runtime(tokio.handle().clone());
    tokio.block_on(runtime.enter(run_cluster(runtime.clone(), args)))
}

async fn run_cluster(runtime: Runtime, args: DevArgs) -> Result<(), Exit> {
    let mut signals = Signals::new().map_err(|error| Exit::Fatal(format!("no signal handlers: {error}")))?;
    let started = runtime.now();
    let program =
        std::env::current_exe().map_err(|error| Exit::Fatal(format!("own path unknown: {error}")))?;
    let addresses = free_addresses(args.port, args.nodes)?;
    let folder = Folder::new(args.data.as_deref())?;
    let (deaths, mut died) = mpsc::channel(args.nodes);
    let mut nodes = Vec::with_capacity(args.nodes);
    for (index, address) in addresses.iter().enumerate() {
        let id = index as u64 + 1;
        let plan = NodePlan::new(&program, folder.path(), (id, *address), &addresses, args.enable_faults);
        let mut node = Node::new(plan);
        node.start(&runtime, &deaths)?;
        nodes.push(node);
    }

    let ready = readiness::first_write(&runtime, &addresses);
    tokio::pin!(ready);
    let patience = runtime.sleep_until(started + PATIENCE);
    tokio::pin!(patience);
    let (mut is_ready, mut is_late) = (false, false);
    loop {
        let due = nodes.iter().filter_map(Node::due).min();
        tokio::select! {
            biased;
            signal = signals.next() => {
                say(&format!("{signal}: stopping"));
                break;
            }
            Some((id, status)) = died.recv() => {
                let Some(node) = nodes.iter_mut().find(|node| node.plan.id == id) else { continue };
                node.ended(runtime.now(), status);
                let none_lives = nodes.iter().all(|node| node.process.is_none());
                if none_lives && !is_ready {
                    return Err(Exit::Fatal("no node started".to_owned()));
                }
                if none_lives && nodes.iter().all(|node| node.due().is_none()) {
                    say("no node runs any more; Ctrl-C ends this");
                }
            }
            () = runtime.sleep_until(due.unwrap_or(started)), if due.is_some() => {
                let now = runtime.now();
                for node in nodes.iter_mut().filter(|node| node.due().is_some_and(|due| due <= now)) {
                    node.start_again(&runtime, &deaths);
                }
            }
            ready = &mut ready, if !is_ready => {
                is_ready = true;
                match ready {
                    Ok(()) => announce(&program, &addresses, started, runtime.now(), folder.is_temporary()),
                    Err(problem) => say(&format!("cannot tell whether the cluster serves: {problem}")),
                }
            }
            () = &mut patience, if !is_ready && !is_late => {
                is_late = true;
                say("no write was possible yet; the logs above say why. Still waiting.");
            }
        }
    }
    drop(deaths);
    stop(&runtime, &mut signals, nodes, died).await
    // The folder goes last: a temporary one is removed with all that is in it.
}

/// Asks all nodes to stop, and kills what has not stopped in time or at the second signal.
async fn stop(
    runtime: &Runtime,
    signals: &mut Signals,
    mut nodes: Vec<Node>,
    mut died: mpsc::Receiver<(u64, ExitStatus)>,
) -> Result<(), Exit> {
    for node in &mut nodes {
        match &mut node.process {
            Some(process) => drop(process.pipe.take()),
            // It died; if its port is taken again, the printed line was typed.
            None if UdpSocket::bind(node.plan.address).is_err() => {
                say(&format!("node {} was started by hand and is not stopped", node.plan.id));
            }
            None => {}
        }
    }
    let mut interrupted: Option<Signal> = None;
    let mut stopped = runtime.sleep(STOP);
    loop {
        tokio::select! {
            biased;
            death = died.recv() => if death.is_none() { break },
            signal = signals.next() => {
                interrupted = Some(signal);
                break;
            }
            () = &mut stopped => {
                say("some nodes did not stop in time and are killed");
                break;
            }
        }
    }
    for process in nodes.iter_mut().filter_map(|node| node.process.as_mut()) {
        process.kill.take();
    }
    while died.recv().await.is_some() {}
    interrupted.map_or(Ok(()), |signal| Err(Exit::Interrupted(signal)))
}

fn announce(program: &Path, addresses: &[SocketAddr], started: Instant, now: Instant, temporary: bool) {
    let client = program.with_file_name("kv-client");
    let client = if client.is_file() {
        quote(&client.display().to_string())
    } else {
        "cargo run --release -q -p kv-client --".to_owned()
    };
    let is_default = addresses.iter().take(3).map(SocketAddr::port).eq(PORT_DEFAULT..PORT_DEFAULT + 3);
    let endpoints: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
    let endpoints = if is_default { String::new() } else { format!(" --endpoints {}", endpoints.join(",")) };
    let seconds = (now - started).as_secs_f64();
    let fate = if temporary { "all data goes with it" } else { "the data stays" };
    say(&format!(
        "ready: first write after {seconds:.2} s. Now type in another terminal:\n\n  \
         {client}{endpoints} put greeting hello\n\n\
         Ctrl-C stops the cluster; {fate}."
    ));
}

/// The folder of all nodes. A temporary one is removed when this is dropped.
enum Folder {
    Kept(PathBuf),
    Temporary(tempfile::TempDir),
}

impl Folder {
    fn new(data: Option<&Path>) -> Result<Self, Exit> {
        let Some(data) = data else {
            let folder = tempfile::Builder::new().prefix("kv-server-dev-").tempdir();
            let error = |error| Exit::Folder { folder: std::env::temp_dir(), error };
            return folder.map(Self::Temporary).map_err(error);
        };
        let error = |error| Exit::Folder { folder: data.to_owned(), error };
        std::fs::create_dir_all(data).map_err(error)?;
        // The printed lines must work from any folder.
        data.canonicalize().map(Self::Kept).map_err(error)
    }

    fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Temporary(folder) => folder.path(),
        }
    }

    fn is_temporary(&self) -> bool {
        matches!(self, Self::Temporary(_))
    }
}

/// The addresses of the nodes, all free at this moment.
fn free_addresses(first: u16, count: usize) -> Result<Vec<SocketAddr>, Exit> {
    if !(1..=MEMBERS_MAX).contains(&count) {
        let problem = format!("= `{count}` must be from 1 to {MEMBERS_MAX}");
        return Err(ConfigError::new("nodes", &problem).into());
    }
    let last = usize::from(first) + count - 1;
    if first == 0 || last > usize::from(u16::MAX) {
        let problem = format!("= `{first}` must leave {count} ports from 1 to {}", u16::MAX);
        return Err(ConfigError::new("port", &problem).into());
    }
    let ports = (first..=u16::MAX).take(count);
    let sockets =
        ports.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port))).map(|address| match UdpSocket::bind(
            address,
        ) {
            Ok(socket) => Ok((address, socket)),
            Err(error) => Err(Exit::Listen { address, error }),
        });
    let sockets: Vec<(SocketAddr, UdpSocket)> = sockets.collect::<Result<_, _>>()?;
    Ok(sockets.into_iter().map(|(address, _)| address).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named() {
        let taken = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let exit = free_addresses(port, 1).unwrap_err();
        assert_eq!(exit.code(), 1);
        assert_eq!(exit.to_string(), format!("UDP port {port} of 127.0.0.1 is taken by another process"));
    }

    #[test]
    fn node_counts_and_ports_out_of_range_are_usage_errors() {
        for (port, count) in [(0, 3), (65_534, 3), (7301, 0), (7301, MEMBERS_MAX + 1)] {
            assert_eq!(free_addresses(port, count).unwrap_err().code(), 2, "{port} {count}");
        }
    }
}
