//! A mesh: nodes that find each other from one address, greet each other, and notice when one of them leaves.
//!
//! `cargo run -p rpc-core --example mesh`

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use std::{error::Error, sync::Arc};

use rpc_core::driver::{system, udp::UdpSocket};
use rpc_core::gather;
use rpc_core::gossip::{Advertisement, Config, Gossip, NodeId};
use rpc_core::peer::Peer;
use rpc_core::rpc::{Ctx, Never};
use rpc_core::runtime::Runtime;
use tokio::runtime::Handle;

/// What every node of the mesh serves.
#[rpc_core::service]
trait Greeter {
    async fn greet(&self, ctx: Ctx, from: String) -> Result<String, Never>;
}

struct Polite {
    name: &'static str,
}

impl Greeter for Polite {
    async fn greet(&self, _: Ctx, from: String) -> Result<String, Never> {
        Ok(format!("{} greets {from}", self.name))
    }
}

/// Server, client and member of the mesh at once.
struct Node {
    name: &'static str,
    peer: Peer,
    gossip: Gossip,
}

const NAMES: [&str; 5] = ["anna", "ben", "clara", "david", "emma"];

impl Node {
    fn start(
        runtime: &Runtime,
        id: usize,
        name: &'static str,
        seed: Option<SocketAddr>,
    ) -> Result<Self, Box<dyn Error>> {
        let peer = Peer::builder(runtime.clone())
            .services(greeter_services(Arc::new(Polite { name })))
            .start_insecure(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0).into())?)?;
        // Faster than a program needs it.
        let config = Config { interval: Duration::from_millis(50), ..Config::default() };
        let gossip = Gossip::new(runtime.clone(), NodeId(id as u64), config);
        let own = Advertisement { services: ["greet".to_owned()].into(), ..peer.local_addr().into() };
        gossip.start(&peer, own, seed)?;
        Ok(Self { name, peer, gossip })
    }

    /// Waits until so many nodes are known here.
    async fn knows(&self, count: usize) {
        let mut watch = self.gossip.watch();
        while self.gossip.known().len() != count {
            watch.changed().await;
        }
    }

    /// Greets all known nodes at once; gives how many greeted back.
    async fn greet_all(&self) -> usize {
        let known = self.gossip.known();
        let addresses = known.values().filter_map(|node| node.addresses.first());
        let greeters = addresses.map(|address| GreeterClient::new(self.peer.remote(*address)));
        let replies = gather::all(greeters.map(|greeter| greeter.greet(self.name.to_owned()))).await;
        replies.values().for_each(|(_, greeting)| println!("{greeting}"));
        replies.values().count()
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let runtime = system::runtime(Handle::current());
    let mut nodes = vec![Node::start(&runtime, 0, NAMES[0], None)?];
    // All the others are told is where the first one is.
    let seed = nodes[0].peer.local_addr();
    for (id, name) in NAMES.into_iter().enumerate().skip(1) {
        nodes.push(Node::start(&runtime, id, name, Some(seed))?);
    }
    for node in &nodes {
        runtime.timeout(Duration::from_secs(20), node.knows(NAMES.len())).await?;
        assert_eq!(node.greet_all().await, NAMES.len(), "every node greets back");
    }

    println!("\n{:<6} {:<22} services", "node", "address");
    for (node, says) in nodes[0].gossip.known() {
        println!("{:<6} {:<22} {:?}", node.0, says.addresses[0].to_string(), says.services);
    }

    let gone = nodes.remove(2);
    let told = gone.gossip.leave().await;
    gone.peer.close().await;
    for node in &nodes {
        runtime.timeout(Duration::from_secs(20), node.knows(NAMES.len() - 1)).await?;
    }
    println!("\n{} left, told {told} others, and is known to nobody", gone.name);
    for node in nodes {
        node.peer.close().await;
    }
    Ok(())
}
