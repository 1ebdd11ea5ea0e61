//! rpc-core as a user writes it: a trait, the macro, default limits.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Result;
use bytes::Bytes;
use rpc_core::driver::{system, udp::UdpSocket};
use rpc_core::peer::Peer;
use rpc_core::rpc::{Ctx, Never};
use tokio::runtime::Handle;

use super::{Caller, Ready};

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

pub async fn serve(address: SocketAddr) -> Result<()> {
    let peer = Peer::builder(system::runtime(Handle::current()))
        .services(echo_services(Arc::new(Mirror)))
        .start_insecure(UdpSocket::bind(address)?)?;
    Ready::tell(peer.local_addr(), &[])?;
    peer.closed().await;
    Ok(())
}

/// A peer of its own, with its own socket: a peer has one connection to each address.
pub struct Client {
    peer: Peer,
    echo: EchoClient,
}

impl Caller for Client {
    async fn connect(server: SocketAddr, _secret: &str) -> Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0).into())?;
        let peer = Peer::builder(system::runtime(Handle::current())).start_insecure(socket)?;
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
