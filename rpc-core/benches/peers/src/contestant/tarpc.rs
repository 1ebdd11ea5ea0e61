//! tarpc over TCP with bincode. Its own TCP transport leaves Nagle's algorithm on; here it is off.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use futures_util::StreamExt;
use serde_bytes::ByteBuf;
use tarpc::serde_transport::{self, Transport};
use tarpc::server::{BaseChannel, Channel};
use tarpc::tokio_serde::formats::Bincode;
use tarpc::tokio_util::codec::LengthDelimitedCodec;
use tarpc::{client, context};
use tokio::net::{TcpListener, TcpStream};

use crate::contract::{Caller, MESSAGE_SIZE_MAX, Ready};

#[tarpc::service]
trait Echo {
    async fn echo(data: ByteBuf) -> ByteBuf;
}

#[derive(Clone)]
struct Mirror;

impl Echo for Mirror {
    async fn echo(self, _: context::Context, data: ByteBuf) -> ByteBuf {
        data
    }
}

fn transport<Item, SinkItem>(
    stream: TcpStream,
) -> Result<Transport<TcpStream, Item, SinkItem, Bincode<Item, SinkItem>>>
where
    Item: for<'de> serde::Deserialize<'de>,
    SinkItem: serde::Serialize,
{
    stream.set_nodelay(true)?;
    let codec = LengthDelimitedCodec::builder().max_frame_length(MESSAGE_SIZE_MAX).new_framed(stream);
    Ok(serde_transport::new(codec, Bincode::default()))
}

pub async fn serve(address: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address).await?;
    Ready::tell(listener.local_addr()?, &[])?;
    loop {
        let (stream, _) = listener.accept().await?;
        let requests = BaseChannel::with_defaults(transport(stream)?).execute(Mirror.serve());
        tokio::spawn(requests.for_each(|response| async {
            tokio::spawn(response);
        }));
    }
}

pub struct Client(EchoClient);

impl Caller for Client {
    async fn connect(server: SocketAddr, _secret: &str) -> Result<Self> {
        let stream = TcpStream::connect(server).await?;
        Ok(Self(EchoClient::new(client::Config::default(), transport(stream)?).spawn()))
    }

    async fn echo(&self, data: Bytes) -> Result<Bytes> {
        let mut context = context::current();
        context.deadline = Instant::now() + Duration::from_secs(60);
        // The copy is the price of an owned argument type; its decoder makes another one.
        Ok(self.0.echo(context, ByteBuf::from(data.to_vec())).await?.into_vec().into())
    }
}
