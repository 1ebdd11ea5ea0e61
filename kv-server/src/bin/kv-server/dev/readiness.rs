//! Whether a cluster serves: asks for a first write, as a client would.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use kv_client::api::{CloseRequest, KvClient, OpenRequest};
use rpc_core::driver::udp::UdpSocket;
use rpc_core::peer::Peer;
use rpc_core::runtime::Runtime;

/// How long one node may take for an answer before the next is asked.
const ANSWER: Duration = Duration::from_millis(500);
/// Between two rounds of asking: what "serves after 0.4 s" may be wrong by.
const PAUSE: Duration = Duration::from_millis(10);

/// Waits until a write is committed: opening a session is one that leaves nothing behind once it is closed.
pub(super) async fn first_write(runtime: &Runtime, addresses: &[SocketAddr]) -> Result<(), String> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0).into())
        .map_err(|error| format!("no UDP socket to ask the nodes with: {error}"))?;
    let peer = Peer::builder(runtime.clone()).start_insecure(socket).map_err(|error| error.to_string())?;
    let nonce = runtime.random_u128();
    let nodes: Vec<KvClient> = addresses.iter().map(|address| KvClient::new(peer.remote(*address))).collect();
    'asking: loop {
        for node in &nodes {
            // The same nonce each time: however many of these are committed, there is one session.
            if let Ok(opened) = node.open_session(OpenRequest { nonce }).timeout(ANSWER).once().await {
                let close = CloseRequest { cluster: opened.cluster, session: opened.session };
                // If it is lost, the session expires.
                let _ = node.close_session(close).timeout(ANSWER).await;
                break 'asking;
            }
        }
        runtime.sleep(PAUSE).await;
    }
    peer.close().await;
    Ok(())
}
