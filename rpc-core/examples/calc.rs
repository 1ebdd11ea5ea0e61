//! Calculates over UDP: a typed error, options of a method, a name to live below, a closure as a method. Prints
//!
//! ```text
//! ping: pong
//! 2 + 3 = 5
//! 7 / 2 = 3
//! 1 / 0: nothing can be divided by zero
//! ```
//!
//! `cargo run -p rpc-core --example calc`

use std::{error::Error, fmt, net::Ipv4Addr, sync::Arc};

use rpc_core::driver::{system, udp::UdpSocket};
use rpc_core::peer::Peer;
use rpc_core::rpc::{CallError, Ctx, Never};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

#[rpc_core::service(name = "calc")]
trait Calc {
    /// Adding twice is as good as once: marked so, the call is repeated after an unknown outcome too.
    #[rpc(idempotent, timeout = "1s")]
    async fn add(&self, ctx: Ctx, a: i64, b: i64) -> Result<i64, Never>;
    async fn divide(&self, ctx: Ctx, a: i64, b: i64) -> Result<i64, DivideByZero>;
}

/// The method's own error: it travels as it is, and the client can match on it.
#[derive(Debug, Serialize, Deserialize)]
struct DivideByZero;

impl fmt::Display for DivideByZero {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nothing can be divided by zero")
    }
}

struct Calculator;

impl Calc for Calculator {
    async fn add(&self, _: Ctx, a: i64, b: i64) -> Result<i64, Never> {
        Ok(a.wrapping_add(b))
    }

    async fn divide(&self, _: Ctx, a: i64, b: i64) -> Result<i64, DivideByZero> {
        if b == 0 { Err(DivideByZero) } else { Ok(a.wrapping_div(b)) }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let runtime = system::runtime(Handle::current());
    let socket = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0).into());
    let services = calc_services(Arc::new(Calculator))
        .method_sync("ping", |_: Ctx, (): ()| Ok::<_, Never>("pong".to_owned()));
    let server = Peer::builder(runtime.clone()).services(services).start_insecure(socket()?)?;
    let client = Peer::builder(runtime).start_insecure(socket()?)?;

    let remote = client.remote(server.local_addr());
    println!("ping: {}", remote.call::<_, String, Never>("ping", &()).await?);
    let calc = CalcClient::new(remote);
    println!("2 + 3 = {}", calc.add(2, 3).await?);
    println!("7 / 2 = {}", calc.divide(7, 2).await?);
    match calc.divide(1, 0).await {
        Ok(quotient) => println!("1 / 0 = {quotient}"),
        Err(CallError::Method(DivideByZero)) => println!("1 / 0: {DivideByZero}"),
        Err(CallError::Rpc(error)) => println!("1 / 0: the call failed, {}: {error}", error.outcome),
    }
    client.close().await;
    Ok(())
}
