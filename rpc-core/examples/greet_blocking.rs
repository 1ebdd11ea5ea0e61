//! Greets without async: plain functions on the server, `wait()` on the client. Prints
//!
//! ```text
//! Hello, Ada!
//! remote procedure
//! Goodbye, Ada.
//! in async code: CANCELLED (not executed): blocking is not possible in async code: ..
//! ```
//!
//! `cargo run -p rpc-core --example greet_blocking`

use std::error::Error;
use std::net::Ipv4Addr;
use std::sync::Arc;

use rpc_core::blocking::{Peer, Wait};
use rpc_core::rpc::{Ctx, Never};

/// What the server offers; a plain `fn` runs on the peer's own thread and must not block it.
#[rpc_core::service]
trait Greeter {
    fn hello(&self, ctx: Ctx, name: String) -> Result<String, Never>;
    fn goodbye(&self, ctx: Ctx, name: String) -> Result<String, Never>;
    fn add_2_words(&self, ctx: Ctx, first: String, second: String) -> Result<String, Never>;
}

struct English;

impl Greeter for English {
    fn hello(&self, _: Ctx, name: String) -> Result<String, Never> {
        Ok(format!("Hello, {name}!"))
    }

    fn goodbye(&self, _: Ctx, name: String) -> Result<String, Never> {
        Ok(format!("Goodbye, {name}."))
    }

    fn add_2_words(&self, _: Ctx, first: String, second: String) -> Result<String, Never> {
        Ok(format!("{first} {second}"))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let any = (Ipv4Addr::LOCALHOST, 0).into();
    let services = greeter_services(Arc::new(English));
    let server = Peer::start(any, |peer, socket| peer.services(services).start_insecure(socket))?;
    let client = Peer::start(any, |peer, socket| peer.start_insecure(socket))?;

    let greeter = GreeterClient::new(client.remote(server.local_addr()));
    println!("{}", greeter.hello("Ada".into()).wait()?);
    println!("{}", greeter.add_2_words("remote".into(), "procedure".into()).wait()?);
    println!("{}", greeter.goodbye("Ada".into()).wait()?);

    // Blocking a thread that runs async tasks could stop the very tasks that the answer needs.
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let refused = runtime.block_on(async { greeter.hello("Ada".into()).wait() });
    println!("in async code: {}", refused.expect_err("blocking in async code is refused"));
    Ok(())
}
