//! A replicated counter: a state machine of ten lines (`machine.rs`) on three nodes, each with a socket and a data folder
//! of its own. One of them, the leader, is stopped on the way; the others go on, and nothing is counted twice.
//!
//! ```text
//! cargo run --release -p raft-node --example counter
//! ```

mod machine;

use std::error::Error;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use raft_node::outcome::{Consistency, OpenOutcome, WriteOutcome};
use raft_node::resolver::Literal;
use raft_node::status::{Role, Status};
use raft_node::{Boot, Node, NodeConfig, disk};
use rpc_core::driver::udp::UdpSocket;
use rpc_core::driver::{DatagramSocket as _, system};
use rpc_core::peer::Peer;
use rpc_core::runtime::Runtime;

use self::machine::{Counter, add, number, value};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let runtime = system::runtime(tokio.handle().clone());
    tokio.block_on(runtime.clone().enter(count(runtime)))
}

async fn count(runtime: Runtime) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut nodes = start(&runtime, folder.path()).await?;
    let deadline = || runtime.now() + Duration::from_secs(10);

    let ready = |status: &Status| status.is_ready();
    nodes[0].wait_for(ready, deadline()).await.map_err(|status| format!("no leader: {status:?}"))?;

    // Any node may be asked anything. A session makes each write happen once, however often it is sent.
    let OpenOutcome::Opened { session } = nodes[0].open_session(runtime.random_u128(), deadline()).await
    else {
        return Err("no session".into());
    };
    for sequence in 1..=5 {
        println!("write {sequence}: visits = {}", visit(&runtime, &nodes[1], session, sequence).await?);
    }

    let leads = |node: &Node<Counter>| node.status().role == Role::Leader;
    let leader = nodes.iter().position(leads).ok_or("nobody leads")?;
    let leader = nodes.remove(leader);
    println!("the leader, node {}, stops", leader.status().id);
    leader.shutdown(Duration::from_secs(1)).await;

    println!("write 5 again: visits = {}, as before", visit(&runtime, &nodes[0], session, 5).await?);
    println!("write 6: visits = {}", visit(&runtime, &nodes[0], session, 6).await?);
    let read = nodes[1].read(Consistency::Linearizable, deadline(), |rows| value(rows, "visits")).await?;
    println!("read at revision {}: visits = {}", read.revision, read.value);
    if read.value == 60 { Ok(()) } else { Err("something was counted twice, or not at all".into()) }
}

/// Three nodes, each on its own socket and folder.
async fn start(runtime: &Runtime, folder: &Path) -> Result<Vec<Node<Counter>>> {
    let bind = |_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0).into());
    let sockets: Vec<UdpSocket> = (0..3).map(bind).collect::<std::io::Result<_>>()?;
    let mut members = Vec::new();
    for (id, socket) in (1..).zip(&sockets) {
        members.push((id, socket.local_addr().to_string()));
    }
    let mut nodes = Vec::new();
    for (id, socket) in (1..).zip(sockets) {
        let disk = disk::real::open(&folder.join(format!("node{id}")))
            .map_err(|error| format!("node {id}: {error}"))?;
        let config = NodeConfig::new(id, members.clone());
        let boot = Boot::open(runtime.clone(), disk, Arc::new(Counter), config).await?;
        // More services may be merged here: those that clients call.
        let peer = Peer::builder(runtime.clone()).services(boot.services()).start_insecure(socket)?;
        nodes.push(boot.start(peer, Arc::new(Literal)));
    }
    Ok(nodes)
}

/// Counts ten visits; the sum. Whoever was refused may ask again: the session makes sure that it is counted once.
async fn visit(runtime: &Runtime, node: &Node<Counter>, session: u64, sequence: u64) -> Result<u64> {
    let deadline = runtime.now() + Duration::from_secs(10);
    loop {
        match node.write(session, sequence, 1, add("visits", 10), deadline).await {
            WriteOutcome::Settled(record) => return Ok(number(&record.detail)),
            WriteOutcome::Refused(_) if runtime.now() < deadline => {
                runtime.sleep(Duration::from_millis(20)).await;
            }
            other => return Err(format!("not settled: {other:?}").into()),
        }
    }
}
