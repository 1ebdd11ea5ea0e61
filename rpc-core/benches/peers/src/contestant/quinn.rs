//! quinn: one bidirectional stream per call, encrypted with a certificate made at the start.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Result;
use bytes::Bytes;
use quinn::congestion::BbrConfig;
use quinn::{Connection, Endpoint, Incoming, TransportConfig, VarInt};
use rustls::RootCertStore;
use rustls::pki_types::PrivateKeyDer;

use crate::contract::{Caller, MESSAGE_SIZE_MAX, Ready, secret_bytes};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Tuning {
    /// As it comes, but for the number of streams: its 100 would hold back 256 calls in flight.
    Default,
    /// For long fat links: BBR and large windows.
    Bbr,
}

impl Tuning {
    fn transport(self) -> Arc<TransportConfig> {
        let mut config = TransportConfig::default();
        config.max_concurrent_bidi_streams(VarInt::from_u32(1_024));
        if self == Self::Bbr {
            config.congestion_controller_factory(Arc::new(BbrConfig::default()));
            config.stream_receive_window(VarInt::from_u32(16 << 20));
            config.receive_window(VarInt::from_u32(64 << 20));
            config.send_window(64 << 20);
        }
        Arc::new(config)
    }
}

pub async fn serve(address: SocketAddr, tuning: Tuning) -> Result<()> {
    // Fails only when it was done before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let certificate = certified.cert.der().clone();
    let key = PrivateKeyDer::Pkcs8(certified.signing_key.serialize_der().into());
    let mut config = quinn::ServerConfig::with_single_cert(vec![certificate.clone()], key)?;
    config.transport_config(tuning.transport());
    let endpoint = Endpoint::server(config, address)?;
    Ready::tell(endpoint.local_addr()?, &certificate)?;
    while let Some(incoming) = endpoint.accept().await {
        tokio::spawn(serve_connection(incoming));
    }
    Ok(())
}

async fn serve_connection(incoming: Incoming) -> Result<()> {
    let connection = incoming.await?;
    loop {
        let (mut answer, mut request) = connection.accept_bi().await?;
        tokio::spawn(async move {
            let data = request.read_to_end(MESSAGE_SIZE_MAX).await?;
            answer.write_chunk(data.into()).await?;
            answer.finish()?;
            anyhow::Ok(())
        });
    }
}

pub struct Client {
    connection: Connection,
    endpoint: Endpoint,
}

impl Client {
    async fn with(server: SocketAddr, secret: &str, tuning: Tuning) -> Result<Self> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut roots = RootCertStore::empty();
        roots.add(secret_bytes(secret)?.into())?;
        let mut config = quinn::ClientConfig::with_root_certificates(Arc::new(roots))?;
        config.transport_config(tuning.transport());
        let mut endpoint = Endpoint::client((Ipv4Addr::UNSPECIFIED, 0).into())?;
        endpoint.set_default_client_config(config);
        let connection = endpoint.connect(server, "localhost")?.await?;
        Ok(Self { connection, endpoint })
    }
}

impl Caller for Client {
    async fn connect(server: SocketAddr, secret: &str) -> Result<Self> {
        Self::with(server, secret, Tuning::Default).await
    }

    async fn echo(&self, data: Bytes) -> Result<Bytes> {
        let (mut request, mut answer) = self.connection.open_bi().await?;
        request.write_chunk(data).await?;
        request.finish()?;
        Ok(answer.read_to_end(MESSAGE_SIZE_MAX).await?.into())
    }

    async fn close(self) {
        self.connection.close(VarInt::from_u32(0), b"done");
        self.endpoint.wait_idle().await;
    }
}

/// A client with [`Tuning::Bbr`].
pub struct BbrClient(Client);

impl Caller for BbrClient {
    async fn connect(server: SocketAddr, secret: &str) -> Result<Self> {
        Ok(Self(Client::with(server, secret, Tuning::Bbr).await?))
    }

    async fn echo(&self, data: Bytes) -> Result<Bytes> {
        self.0.echo(data).await
    }

    async fn close(self) {
        self.0.close().await;
    }
}
