//! The same nodes on real sockets, clocks and disks: a check that nothing needs the simulation.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use raft_node::config::SnapshotTrigger;
use raft_node::disk::real;
use raft_node::outcome::{Consistency, OpenOutcome, WriteOutcome};
use raft_node::resolver::SystemNames;
use raft_node::status::StopReason;
use raft_node::{Boot, Node, NodeConfig};
use rpc_core::driver::system;
use rpc_core::driver::udp::UdpSocket;
use rpc_core::peer::Peer;
use rpc_core::runtime::Runtime;

use crate::counter::{self, Counter, add};

/// Small, so that a test of seconds fills it often.
const JOURNAL_SIZE: u64 = 1 << 20;

struct Running {
    node: Node<Counter>,
    peer: Peer,
}

async fn start(
    runtime: &Runtime,
    folder: &Path,
    id: u64,
    sockets: &[SocketAddr],
    socket: UdpSocket,
    configure: fn(&mut NodeConfig),
) -> Running {
    let members = (1..).zip(sockets.iter().map(SocketAddr::to_string)).collect();
    let closed = runtime.now() + Duration::from_secs(20);
    let disk = loop {
        match real::open_with(&folder.join(id.to_string()), JOURNAL_SIZE) {
            // The node before it in this process holds the folder until its last task has ended.
            Err(real::OpenError::InUse { .. }) if runtime.now() < closed => {
                runtime.sleep(Duration::from_millis(1)).await;
            }
            opened => break opened.expect("the folder can be opened"),
        }
    };
    let mut config = NodeConfig::new(id, members);
    configure(&mut config);
    let boot = Boot::open(runtime.clone(), disk, Arc::new(Counter), config).await.expect("the node opens");
    let builder = Peer::builder(runtime.clone()).services(boot.services());
    let peer = builder.start_insecure(socket).expect("method names differ");
    Running {
        node: boot.start(peer.clone(), Arc::new(SystemNames::new(runtime.clone(), peer.local_addr()))),
        peer,
    }
}

#[test]
fn three_nodes_on_loopback_commit_restart_and_still_know_it() {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let runtime = system::runtime(tokio.handle().clone());
    let folder = tempfile::tempdir().expect("a folder");
    tokio.block_on(runtime.enter(async {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let bound: Vec<UdpSocket> = (0..3).map(|_| UdpSocket::bind(any).expect("a port")).collect();
        let addresses: Vec<SocketAddr> = bound.iter().map(address).collect();
        let deadline = || runtime.now() + Duration::from_secs(20);
        let mut nodes = Vec::new();
        for (id, socket) in (1..).zip(bound) {
            nodes.push(start(&runtime, folder.path(), id, &addresses, socket, |_| {}).await);
        }
        let node = &nodes[0].node;
        let OpenOutcome::Opened { session } = node.open_session(7, deadline()).await else {
            panic!("not opened")
        };
        for sequence in 1..=20 {
            let outcome = node.write(session, sequence, sequence, add("x", sequence), deadline()).await;
            assert!(matches!(outcome, WriteOutcome::Settled(_)), "{outcome:?}");
        }
        for Running { node, peer } in nodes {
            node.shutdown(Duration::from_secs(5)).await;
            assert_eq!(node.stopped().await, StopReason::Shutdown);
            peer.close().await;
        }
        let mut nodes = Vec::new();
        for (id, address) in (1..).zip(&addresses) {
            let socket = UdpSocket::bind(*address).expect("the port is free again");
            nodes.push(start(&runtime, folder.path(), id, &addresses, socket, |_| {}).await);
        }
        let read =
            nodes[2].node.read(Consistency::Linearizable, deadline(), |rows| counter::value(rows, "x")).await;
        assert_eq!(read.expect("a read").value, 210);
        for Running { node, peer } in nodes {
            node.shutdown(Duration::from_secs(5)).await;
            peer.close().await;
        }
    }));
}

/// 128 MB of entries over 80 kB of state, which take 240 MB where nothing is purged: log, journal, database and snapshots give back what is not needed any more.
#[test]
fn the_folder_stays_as_it_is_however_much_is_written() {
    const CLIENTS: usize = 40;
    const WRITES: u64 = 800;
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let runtime = system::runtime(tokio.handle().clone());
    let folder = tempfile::tempdir().expect("a folder");
    tokio.block_on(runtime.enter(async {
        let socket = UdpSocket::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
        let addresses = [address(&socket)];
        let configure = |config: &mut NodeConfig| {
            config.snapshots = SnapshotTrigger { entries: 1_000, bytes: 4 << 20, entries_kept: 100 };
        };
        let Running { node, peer } = start(&runtime, folder.path(), 1, &addresses, socket, configure).await;
        let deadline = runtime.now() + Duration::from_secs(120);
        let clients = (0..CLIENTS).map(|client| {
            let node = node.clone();
            async move {
                let OpenOutcome::Opened { session } = node.open_session(client as u128, deadline).await
                else {
                    panic!("not opened")
                };
                let name = format!("{:04000}", client % 20);
                for sequence in 1..=WRITES {
                    let outcome = node.write(session, sequence, sequence, add(&name, 1), deadline).await;
                    assert!(matches!(outcome, WriteOutcome::Settled(_)), "{outcome:?}");
                }
            }
        });
        join_all(clients).await;
        let size = size_of(&folder.path().join("1"));
        assert!(size < 100_000_000, "{size} bytes");
        node.shutdown(Duration::from_secs(5)).await;
        peer.close().await;
    }));
}

/// Bytes of all files below `folder` but the ballast.
fn size_of(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry"));
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => size_of(&entry.path()),
        Ok(metadata) if entry.file_name() != "BALLAST" => metadata.len(),
        // Files of the database come and go.
        Ok(_) | Err(_) => 0,
    };
    entries.map(size).sum()
}

fn address(socket: &UdpSocket) -> SocketAddr {
    use rpc_core::driver::DatagramSocket;
    socket.local_addr()
}
