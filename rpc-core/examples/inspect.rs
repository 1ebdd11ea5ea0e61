//! Looks into a running peer: lists its methods, prints their CDDL, calls one of them with a body in CBOR diagnostic
//! notation.
//!
//! ```text
//! cargo run -p rpc-core --example inspect -- 127.0.0.1:7301
//! cargo run -p rpc-core --example inspect -- 127.0.0.1:7301 --cddl
//! cargo run -p rpc-core --example inspect -- 127.0.0.1:7301 calc.add '[2, 3]'
//! cargo run -p rpc-core --example inspect -- --key shared.key 127.0.0.1:7301
//! ```
//!
//! Without arguments it starts a peer of its own and looks into that.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};

use rpc_core::driver::{system, udp::UdpSocket};
use rpc_core::peer::Peer;
use rpc_core::rpc::codec::{diagnostic, from_diagnostic};
use rpc_core::rpc::describe::ReflectionClient;
use rpc_core::rpc::{Ctx, Failure, Never, Remote, Services};
use rpc_core::security::Security;
use tokio::runtime::Handle;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let runtime = system::runtime(Handle::current());
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (security, arguments) = match &arguments[..] {
        ["--key", file, rest @ ..] => (Security::shared_key(std::fs::read_to_string(file)?.parse()?), rest),
        rest => (Security::insecure(), rest),
    };
    let client = Peer::builder(runtime.clone()).security(security).start(UdpSocket::bind(any)?)?;

    let ended = match *arguments {
        [] => {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0).into())?;
            let served = Peer::builder(runtime).services(demo()).start_insecure(socket)?;
            let remote = client.remote(served.local_addr());
            list(&remote).await?;
            println!();
            call(&remote, "demo.add", "[2, 3]").await?;
            call(&remote, "demo.divide", "[1, 0]").await?;
            call(&remote, "demo.divide", "\"seven\"").await
        }
        [address] => list(&client.remote(address.parse()?)).await,
        [address, "--cddl"] => {
            println!("{}", ReflectionClient::new(client.remote(address.parse()?)).cddl().await?);
            Ok(())
        }
        [address, method] => call(&client.remote(address.parse()?), method, "null").await,
        [address, method, body] => call(&client.remote(address.parse()?), method, body).await,
        _ => Err("usage: inspect [--key FILE] [ADDRESS [--cddl | METHOD [BODY]]]".into()),
    };
    client.close().await;
    ended
}

/// What this example looks into if it is given no address.
fn demo() -> Services {
    let methods = Services::new()
        .method_sync("add", |_: Ctx, (a, b): (i64, i64)| Ok::<_, Never>(a.wrapping_add(b)))
        .method_sync("divide", |_: Ctx, (a, b): (i64, i64)| {
            a.checked_div(b).ok_or_else(|| format!("{a} divided by {b}"))
        });
    Services::new().nest("demo", methods)
}

async fn list(remote: &Remote) -> Result<(), Box<dyn Error>> {
    print!("{}", ReflectionClient::new(remote.clone()).describe().await?);
    Ok(())
}

/// Calls `method` and prints what comes of it.
async fn call(remote: &Remote, method: &str, body: &str) -> Result<(), Box<dyn Error>> {
    let body = from_diagnostic(body).map_err(|error| format!("the body, {error}"))?;
    print!("{method}({}) -> ", diagnostic(&body));
    match remote.call_raw(method, body).await {
        Ok(answer) => println!("{}", diagnostic(&answer)),
        Err(Failure::Method(error)) => println!("error {}", diagnostic(&error)),
        Err(Failure::Rpc(error)) => {
            println!("{error}");
            if let Some(schema) = error.schema {
                println!("  the method is {schema}");
            }
        }
    }
    Ok(())
}
