//! Calls back: a client passes a service of its own as an argument, and the server calls it while it works.
//!
//! `cargo run -p rpc-core --example callback`

use std::net::Ipv4Addr;
use std::{error::Error, sync::Arc};

use rpc_core::driver::{system, udp::UdpSocket};
use rpc_core::peer::Peer;
use rpc_core::rpc::{CallError, Ctx, Never, ServiceRef};
use tokio::runtime::Handle;

/// What the server offers.
#[rpc_core::service]
trait Baker {
    async fn bake(&self, ctx: Ctx, cakes: u32, guest: ServiceRef<GuestClient>) -> Result<String, String>;
}

/// What the client passes. It serves nothing: only who was passed this can call it.
#[rpc_core::service]
trait Guest {
    async fn ready(&self, ctx: Ctx, cake: u32) -> Result<(), Never>;
}

struct Bakery;

impl Baker for Bakery {
    async fn bake(&self, _: Ctx, cakes: u32, guest: ServiceRef<GuestClient>) -> Result<String, String> {
        let guest = guest.client().map_err(|error| error.to_string())?;
        for cake in 1..=cakes {
            let told = guest.ready(cake).await;
            told.map_err(|error| format!("stopped after cake {cake}: {error}"))?;
        }
        Ok(format!("{cakes} cakes baked"))
    }
}

struct Hungry;

impl Guest for Hungry {
    async fn ready(&self, ctx: Ctx, cake: u32) -> Result<(), Never> {
        println!("{} says: cake {cake} is ready", ctx.address);
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let runtime = system::runtime(Handle::current());
    let socket = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0).into());
    let bakery = baker_services(Arc::new(Bakery));
    let server = Peer::builder(runtime.clone()).services(bakery).start_insecure(socket()?)?;
    let client = Peer::builder(runtime).start_insecure(socket()?)?;

    let baker = BakerClient::new(client.remote(server.local_addr()));
    let guest = ServiceRef::new(guest_services(Arc::new(Hungry)))?;
    match baker.bake(3, guest).await {
        Ok(done) => println!("{done}"),
        Err(CallError::Method(stopped)) => println!("{stopped}"),
        Err(CallError::Rpc(error)) => return Err(error.into()),
    }
    client.close().await;
    Ok(())
}
