//! rpc-core as a user writes it: a trait, the macro, default limits, a shared key (or none, to see what that costs).

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use rpc_core::driver::{system, udp::UdpSocket};
use rpc_core::peer::Peer;
use rpc_core::rpc::{Ctx, Never};
use rpc_core::security::{Security, SharedKey};
use tokio::runtime::Handle;

use crate::contract::{Caller, Ready, secret_bytes};

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

/// How long a peer in latency mode asks its socket before it sleeps, on both sides.
pub const SPIN: Duration = Duration::from_micros(50);

pub async fn serve(address: SocketAddr, protection: Protection, spin: Duration) -> Result<()> {
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
        .latency_mode(spin)
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

impl Client {
    /// With the server's key if it told one.
    fn with(server: SocketAddr, secret: &str, spin: Duration) -> Result<Self> {
        let security = match secret_bytes(secret)?.try_into() {
            Ok(key) => Security::shared_key(SharedKey::new(key)),
            Err(_) => Security::insecure(),
        };
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0).into())?;
        let peer = Peer::builder(system::runtime(Handle::current()))
            .security(security)
            .latency_mode(spin)
            .start(socket)?;
        let echo = EchoClient::new(peer.remote(server));
        Ok(Self { peer, echo })
    }
}

impl Caller for Client {
    async fn connect(server: SocketAddr, secret: &str) -> Result<Self> {
        Self::with(server, secret, Duration::ZERO)
    }

    async fn echo(&self, data: Bytes) -> Result<Bytes> {
        Ok(self.echo.echo(data).await?)
    }

    async fn close(self) {
        self.peer.close().await;
    }
}

/// A client in latency mode.
pub struct SpinClient(Client);

impl Caller for SpinClient {
    async fn connect(server: SocketAddr, secret: &str) -> Result<Self> {
        Ok(Self(Client::with(server, secret, SPIN)?))
    }

    async fn echo(&self, data: Bytes) -> Result<Bytes> {
        self.0.echo(data).await
    }

    async fn close(self) {
        self.0.close().await;
    }
}
