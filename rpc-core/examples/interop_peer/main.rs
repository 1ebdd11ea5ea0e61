//! The Rust side of `rpc-core/interop`, where a peer in another language is held against this one.
//!
//! ```text
//! interop_peer [OPTIONS] serve           prints "listening ADDRESS", ends with its standard input
//! interop_peer [OPTIONS] call ADDRESS    calls what `serve` serves, and checks the answers
//!
//! --key HEX      encrypt with this shared key
//! --node OWN PEER  with it: the own private node key, and the peer's public one
//! --rotate N     seal N packets with one key
//! --cookies      answer every INIT with RETRY first
//! --scarce       memory for one large message at a time
//! ```
//!
//! Without arguments it calls a peer of its own.

use std::error::Error;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};

use rpc_core::blocking;
use rpc_core::driver::{system, udp::UdpSocket};
use rpc_core::endpoint::Config;
use rpc_core::peer::{Builder, Peer};
use rpc_core::security::{NodeKey, PublicKey, Security, SharedKey};
use tokio::runtime::Handle;

mod bodies;
mod checks;
mod services;

#[derive(Clone, Default)]
struct Options {
    key: Option<SharedKey>,
    node: Option<(NodeKey, PublicKey)>,
    config: Config,
}

impl Options {
    fn build(self, builder: Builder) -> Builder {
        let security = match (self.key, self.node) {
            (None, _) => Security::insecure(),
            (Some(key), None) => Security::shared_key(key),
            (Some(key), Some((own, peer))) => Security::node_keys(key, own, move |shown| *shown == peer),
        };
        builder.security(security).config(self.config).services(services::all())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut options = Options::default();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--key" => options.key = Some(SharedKey::new(bytes(&value()?)?)),
            "--node" => options.node = Some((NodeKey::new(bytes(&value()?)?), PublicKey(bytes(&value()?)?))),
            "--rotate" => options.config.key_packets_max = value()?.parse()?,
            "--cookies" => options.config.cookies_above = 0,
            "--scarce" => {
                options.config.message_size_max = bodies::LARGE + 1_024;
                options.config.reassembly_bytes_max = 0; // at least the largest message
            }
            "serve" => return serve(options),
            "call" => return call(options, Some(value()?.parse()?)),
            other => return Err(format!("what is {other}?").into()),
        }
    }
    call(options, None)
}

fn bytes(hex: &str) -> Result<[u8; 32], Box<dyn Error>> {
    let digits = hex.as_bytes().chunks(2).map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?));
    let bytes = digits.collect::<Result<Vec<u8>, Box<dyn Error>>>()?;
    Ok(bytes.try_into().map_err(|_| "a key is 32 bytes")?)
}

fn serve(options: Options) -> Result<(), Box<dyn Error>> {
    let any = (Ipv4Addr::LOCALHOST, 0).into();
    let peer = blocking::Peer::start(any, |builder, socket| options.build(builder).start(socket))?;
    println!("listening {}", peer.local_addr());
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn call(options: Options, address: Option<SocketAddr>) -> Result<(), Box<dyn Error>> {
    let runtime = system::runtime(Handle::current());
    let socket = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0).into());
    let own = options.clone().build(Peer::builder(runtime.clone())).start(socket()?)?;
    let client = options.build(Peer::builder(runtime.clone())).start(socket()?)?;
    let remote = client.remote(address.unwrap_or_else(|| own.local_addr()));

    checks::all(&remote, &runtime).await?;
    client.close().await;
    own.close().await;
    Ok(())
}
