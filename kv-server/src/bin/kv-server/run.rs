//! `kv-server run`: one node on a real machine, from its configuration to its exit code.

use std::io::{IsTerminal, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kv_server::server::{Refused, Server};
use raft_node::disk::real::OpenError;
use raft_node::disk::{self, Disk};
use raft_node::resolver::SystemNames;
use rpc_core::driver::system;
use rpc_core::driver::udp::UdpSocket;
use rpc_core::runtime::Runtime;
use tokio::sync::oneshot;
use tracing_subscriber::EnvFilter;

use crate::config::{RunArgs, RunConfig};
use crate::exit::Exit;
use crate::rebuild::Rebuilder;
use crate::signals::Signals;

/// How long a stop may take: handing leadership over and answering what is open. Container systems allow ten seconds.
const GRACE: Duration = Duration::from_secs(5);

/// Runs one node until it is told to stop.
pub(crate) fn run(args: RunArgs) -> Result<(), Exit> {
    let config = RunConfig::load(args, |name| std::env::var(name).ok())?;
    log_to_stderr(&config.log);
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Exit::Fatal(format!("no tokio runtime: {error}")))?;
    let runtime = system::runtime(tokio.handle().clone());
    let ended = tokio.block_on(runtime.enter(run_node(runtime.clone(), config)));
    // A lookup of a name may still block one of its threads: nothing that it finds matters any more.
    tokio.shutdown_background();
    ended
}

fn log_to_stderr(filter: &str) {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}

async fn run_node(runtime: Runtime, config: RunConfig) -> Result<(), Exit> {
    let mut signals = Signals::new().map_err(|error| Exit::Fatal(format!("no signal handlers: {error}")))?;
    let orphaned = orphaned(&runtime, config.supervised);
    let RunConfig { server: config, listen, data, rebuild, .. } = config;
    let id = config.node.id;
    let others: Vec<String> = config
        .node
        .members
        .iter()
        .filter(|(member, _)| *member != id)
        .map(|(_, address)| address.clone())
        .collect();
    let rebuilder =
        rebuild.then(|| Rebuilder::new(&runtime, config.security.clone(), &others)).transpose()?;
    let server = loop {
        // The socket first: a taken port must leave no folder behind. Nothing is sent before the node knows who it is.
        let socket = UdpSocket::bind(listen).map_err(|error| Exit::Listen { address: listen, error })?;
        let disk = tokio::select! {
            biased;
            disk = open_disk(&runtime, &data) => disk,
            signal = signals.next() => {
                tracing::info!(%signal, "stopped before there was space");
                return Ok(());
            }
        };
        let names = Arc::new(SystemNames::new(runtime.clone(), listen));
        let started = match disk {
            Ok(disk) => Server::start(runtime.clone(), disk, socket, config.clone(), names)
                .await
                .map_err(|error| Exit::Start { folder: data.clone(), error }),
            Err(exit) => Err(exit),
        };
        let damage = started.as_ref().err().and_then(Exit::damage);
        match (damage, &rebuilder) {
            (Some(damage), Some(rebuilder)) => rebuilder.set_aside(&data, &damage).await?,
            _ => break started?,
        }
    };
    tracing::info!(node_id = id, %listen, data = %data.display(), "listening");
    explain_refusal(&runtime, server.clone(), others.join(","), rebuilder);

    tokio::select! {
        biased;
        reason = server.fatal() => {
            return Err(if server.is_foreign() { Exit::Foreign(reason) } else { Exit::Fatal(reason) });
        }
        signal = signals.next() => tracing::info!(node_id = id, %signal, "stopping"),
        () = orphaned => tracing::info!(node_id = id, "stopping: whoever started this node is gone"),
    }
    tokio::select! {
        biased;
        stopped = server.shutdown(GRACE) => stopped.map_err(Exit::Fatal)?,
        signal = signals.next() => return Err(Exit::Interrupted(signal)),
    }
    tracing::info!(node_id = id, "stopped");
    Ok(())
}

/// Opens the data folder; as long as there is too little space to do it safely, waits for some.
async fn open_disk(runtime: &Runtime, folder: &Path) -> Result<Disk, Exit> {
    let mut told = false;
    loop {
        match disk::real::open(folder) {
            Err(error @ OpenError::NoSpace { .. }) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::error!(%error, "waiting for space");
                }
            }
            opened => return opened.map_err(Exit::Disk),
        }
        runtime.sleep(SPACE_PAUSE).await;
    }
}

/// Between two looks at a disk that was too full to be opened.
const SPACE_PAUSE: Duration = Duration::from_secs(2);

/// Completes when standard input closes, if this node is supervised; else never.
async fn orphaned(runtime: &Runtime, supervised: bool) {
    if !supervised {
        return std::future::pending().await;
    }
    let (sender, closed) = oneshot::channel::<()>();
    runtime.spawn_thread("supervisor pipe", async move {
        let mut sink = [0; 64];
        while std::io::stdin().read(&mut sink).is_ok_and(|count| count > 0) {}
        drop(sender);
    });
    let _ = closed.await;
}

/// Says, on standard error whatever the log filter, when the cluster refuses this node, and what to type then; or does it.
fn explain_refusal(runtime: &Runtime, server: Server, others: String, rebuilder: Option<Rebuilder>) {
    runtime.spawn("refusal", async move {
        let Refused { id } = server.refused().await;
        if let Some(rebuilder) = rebuilder {
            return rebuilder.replace(id).await;
        }
        eprintln!(
            "kv-server: refused: the cluster knows node {id} with other data than this folder, which is empty. It \
             takes no part until it is replaced; leave it running and type (or start it with --rebuild):\n  \
             kv-client --endpoints {others} member replace {id}"
        );
    });
}
