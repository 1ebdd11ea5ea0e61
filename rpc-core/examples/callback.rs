//! Calls back: while the server works for a client, it calls a service of that client over the same connection.
//!
//! `cargo run -p rpc-core --example callback`

use std::net::Ipv4Addr;
use std::{error::Error, sync::Arc};

use rpc_core::driver::{system, udp::UdpSocket};
use rpc_core::peer::Peer;
use rpc_core::rpc::{Ctx, Never};
use tokio::runtime::Handle;

/// What the server offers.
#[rpc_core::service]
trait Baker {
    async fn bake(&self, ctx: Ctx, cakes: u32) -> Result<String, Never>;
}

/// What a client offers while it waits.
#[rpc_core::service]
trait Guest {
    async fn ready(&self, ctx: Ctx, cake: u32) -> Result<(), Never>;
}

struct Bakery;

impl Baker for Bakery {
    async fn bake(&self, ctx: Ctx, cakes: u32) -> Result<String, Never> {
        let guest = GuestClient::new(ctx.caller);
        for cake in 1..=cakes {
            if let Err(error) = guest.ready(cake).await {
                return Ok(format!("stopped after cake {cake}: the guest did not confirm it ({error})"));
            }
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
    let (bakery, hungry) = (baker_services(Arc::new(Bakery)), guest_services(Arc::new(Hungry)));
    let server = Peer::builder(runtime.clone()).services(bakery).start_insecure(socket()?)?;
    let client = Peer::builder(runtime).services(hungry).start_insecure(socket()?)?;

    println!("{}", BakerClient::new(client.remote(server.local_addr())).bake(3).await?);
    client.close().await;
    Ok(())
}
