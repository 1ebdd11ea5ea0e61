//! rpc-core as a user writes it: a trait, the macro, default limits, a shared key (or none, to see what that costs).

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Result;
use bytes::Bytes;
use rpc_core::driver::{system, udp::UdpSocket};
use rpc_core::peer::Peer;
use rpc_core::rpc::{Ctx, Never};
use rpc_core::security::{Security, SharedKey};
use tokio::runtime::Handle;

use super::{Caller, Ready, secret_bytes};

#[rpc_core::service]
trait Echo {
    #[rpc(timeout = "60s")]
    async fn echo(&self, ctx: Ctx, data: Bytes) -> Result<Bytes, Never>;
}

struct Mirror;

impl Echo for Mirror {
    async fn echo(&self, _: Ctx, data: Bytes) -> Result<Bytes, Never> {
        Ok(data)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    Sealed,
    Plain,
}

pub async fn serve(address: SocketAddr, protection: Protection) -> Result<()> {
    let runtime = system::runtime(Handle::current());
    let (key, security) = match protection {
        Protection::Sealed => {
            let mut key = [0; 32];
            runtime.fill_random(&mut key);
            (key.to_vec(), Security::shared_key(SharedKey::new(key)))
        }
        Protection::Plain => (Vec::new(), Security::insecure()),
    };
    let peer = Peer::builder(runtime)
        .services(echo_services(Arc::new(Mirror)))
        .security(security)
        .start(UdpSocket::bind(address)?)?;
    Ready::tell(peer.local_addr(), &key)?;
    peer.closed().await;
    Ok(())
}

/// A peer of its own, with its own socket: a peer has one connection to each address.
pub struct Client {
    peer: Peer,
    echo: EchoClient,
}

impl Caller for Client {
    /// With the server's key if it told one.
    async fn connect(server: SocketAddr, secret: &str) -> Result<Self> {
        let security = match secret_bytes(secret)?.try_into() {
            Ok(key) => Security::shared_key(SharedKey::new(key)),
            Err(_) => Security::insecure(),
        };
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0).into())?;
        let peer = Peer::builder(system::runtime(Handle::current())).security(security).start(socket)?;
        let echo = EchoClient::new(peer.remote(server));
        Ok(Self { peer, echo })
    }

    async fn echo(&self, data: Bytes) -> Result<Bytes> {
        Ok(self.echo.echo(data).await?)
    }

    async fn close(self) {
        self.peer.close().await;
    }
}
