//! Greets over UDP: one trait, a server that implements it, a client that calls it. Prints
//!
//! ```text
//! Hello, Ada!
//! remote procedure
//! You call from 127.0.0.1.
//! Goodbye, Ada.
//! ```
//!
//! `cargo run -p rpc-core --example greet`

use std::error::Error;
use std::net::Ipv4Addr;
use std::sync::Arc;

use rpc_core::driver::{system, udp::UdpSocket};
use rpc_core::peer::Peer;
use rpc_core::rpc::{Ctx, Never};
use tokio::runtime::Handle;

/// What the server offers. `Never` is the error of methods that cannot fail; the call itself still can.
#[rpc_core::service]
trait Greeter {
    /// Arguments travel by value; `ctx` does not travel: it tells the server who calls, and until when they wait.
    async fn hello(&self, ctx: Ctx, name: String) -> Result<String, Never>;
    async fn goodbye(&self, ctx: Ctx, name: String) -> Result<String, Never>;
    /// Several arguments are one CBOR array on the wire.
    async fn add_2_words(&self, ctx: Ctx, first: String, second: String) -> Result<String, Never>;
    /// None are null.
    async fn no_args(&self, ctx: Ctx) -> Result<String, Never>;
}

struct English;

impl Greeter for English {
    async fn hello(&self, _: Ctx, name: String) -> Result<String, Never> {
        Ok(format!("Hello, {name}!"))
    }

    async fn goodbye(&self, _: Ctx, name: String) -> Result<String, Never> {
        Ok(format!("Goodbye, {name}."))
    }

    async fn add_2_words(&self, _: Ctx, first: String, second: String) -> Result<String, Never> {
        Ok(format!("{first} {second}"))
    }

    async fn no_args(&self, ctx: Ctx) -> Result<String, Never> {
        Ok(format!("You call from {}.", ctx.address.ip()))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let runtime = system::runtime(Handle::current());
    let socket = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0).into());
    let services = greeter_services(Arc::new(English));
    let server = Peer::builder(runtime.clone()).services(services).start_insecure(socket()?)?;
    let client = Peer::builder(runtime).start_insecure(socket()?)?;

    let greeter = GreeterClient::new(client.remote(server.local_addr()));
    println!("{}", greeter.hello("Ada".into()).await?);
    println!("{}", greeter.add_2_words("remote".into(), "procedure".into()).await?);
    println!("{}", greeter.no_args().await?);
    println!("{}", greeter.goodbye("Ada".into()).await?);
    client.close().await;
    Ok(())
}
