//! tonic: gRPC over HTTP/2 over TCP. The service is described in `build.rs`, the message here: no protoc.

use std::net::SocketAddr;

use ::tonic::transport::server::TcpIncoming;
use ::tonic::transport::{Channel, Server};
use ::tonic::{Request, Response, Status};
use anyhow::{Result, anyhow};
use bytes::Bytes;
use tokio::net::TcpListener;

use crate::contract::{Caller, MESSAGE_SIZE_MAX, Ready};

/// `message Body { bytes data = 1; }`
#[derive(Clone, PartialEq, prost::Message)]
pub struct Body {
    #[prost(bytes = "bytes", tag = "1")]
    data: Bytes,
}

mod generated {
    include!(concat!(env!("OUT_DIR"), "/bench.Echo.rs"));
}

use generated::echo_client::EchoClient;
use generated::echo_server::{Echo, EchoServer};

struct Mirror;

#[::tonic::async_trait]
impl Echo for Mirror {
    async fn echo(&self, request: Request<Body>) -> Result<Response<Body>, Status> {
        Ok(Response::new(request.into_inner()))
    }
}

pub async fn serve(address: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address).await?;
    Ready::tell(listener.local_addr()?, &[])?;
    let service = EchoServer::new(Mirror)
        .max_decoding_message_size(MESSAGE_SIZE_MAX)
        .max_encoding_message_size(MESSAGE_SIZE_MAX);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    Ok(Server::builder().add_service(service).serve_with_incoming(incoming).await?)
}

pub struct Client(EchoClient<Channel>);

impl Caller for Client {
    async fn connect(server: SocketAddr, _secret: &str) -> Result<Self> {
        let channel = Channel::from_shared(format!("http://{server}"))?.tcp_nodelay(true).connect().await?;
        let client = EchoClient::new(channel)
            .max_decoding_message_size(MESSAGE_SIZE_MAX)
            .max_encoding_message_size(MESSAGE_SIZE_MAX);
        Ok(Self(client))
    }

    async fn echo(&self, data: Bytes) -> Result<Bytes> {
        let answer = self.0.clone().echo(Body { data }).await;
        Ok(answer.map_err(|status| anyhow!("{status}"))?.into_inner().data)
    }
}
