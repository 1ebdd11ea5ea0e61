//! `admin sessions`

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, Subcommand};
use kv_client::api::{Connection, Connections as Listed, ConnectionsRequest};
use serde::Serialize;

use super::context::Context;
use super::output::{ErrorObject, print_json, print_line};
use super::{Exit, Format};

/// Look at one node, and intervene
#[derive(Debug, Args)]
pub(crate) struct Admin {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Sessions(Sessions),
}

/// List the connections of the first endpoint, with clients and with other nodes, this command's own among them
#[derive(Debug, Args)]
struct Sessions {
    /// Close the connections with this address first; open requests end, and the peer may come back
    #[arg(long, value_name = "IP:PORT")]
    close: Option<SocketAddr>,
}

#[derive(Debug, Serialize)]
struct ListedObject {
    node: u64,
    closed: u64,
    connections: Vec<ConnectionObject>,
}

#[derive(Debug, Serialize)]
struct ConnectionObject {
    address: SocketAddr,
    inbound: bool,
    encrypted: bool,
    idle_ms: u64,
    rtt_us: u64,
    serving: u64,
    calling: u64,
    bytes_received: u64,
    bytes_sent: u64,
}

impl Admin {
    pub(crate) async fn run(self, context: &Context) -> Exit {
        let Verb::Sessions(Sessions { close }) = self.verb;
        let timeout = context.client_with_default(TIMEOUT_DEFAULT).timeout();
        let asked = context.runtime.timeout(timeout, ask(context, close, timeout)).await;
        let asked = asked.unwrap_or_else(|_| Err(format!("no address within {timeout:?}")));
        let exit = match asked {
            Ok(listed) => tell(context, close, listed),
            Err(why) => match context.format {
                Format::Json => {
                    print_json(&ErrorObject::new("unreachable", why)).err().unwrap_or(Exit::NotApplied)
                }
                Format::Simple => Exit::NotApplied.because(why),
            },
        };
        context.leave().await;
        exit
    }
}

async fn ask(context: &Context, close: Option<SocketAddr>, timeout: Duration) -> Result<Listed, String> {
    let client = &context.client;
    let endpoint = client.endpoints().first().ok_or("no endpoint")?;
    let addresses = client.addresses(endpoint.as_str()).await;
    let addresses = addresses.map_err(|error| format!("{endpoint} cannot be resolved: {error}"))?;
    let address = *addresses.first().ok_or_else(|| format!("{endpoint} has no address"))?;
    let listed = client.node(address).connections(ConnectionsRequest { close }).timeout(timeout).await;
    listed.map_err(|error| format!("{endpoint}: {error}"))
}

fn tell(context: &Context, close: Option<SocketAddr>, listed: Listed) -> Exit {
    let Listed { node, closed, connections } = listed;
    let found = close.is_none() || closed > 0;
    let printed = match context.format {
        Format::Json => {
            let connections = connections.into_iter().map(object).collect();
            print_json(&ListedObject { node, closed, connections })
        }
        Format::Simple if context.quiet => Ok(()),
        Format::Simple => {
            let lines = connections.iter().map(line);
            let head = format!(
                "{:<22} {:<7} {:>8} {:>8} {:>7} {:>7} {:>10} {:>10}",
                "address", "opened", "idle ms", "rtt ms", "serving", "calling", "received", "sent"
            );
            print_line(&std::iter::once(head).chain(lines).collect::<Vec<_>>().join("\n"))
        }
    };
    match (printed, close) {
        (Err(exit), _) => exit,
        (Ok(()), Some(close)) if !found => {
            Exit::NotFound.because(format_args!("node {node} has no connection with {close}"))
        }
        _ => Exit::Done,
    }
}

fn line(connection: &Connection) -> String {
    let opened = if connection.inbound { "by it" } else { "by node" };
    let rtt_ms = Duration::from_micros(connection.rtt_us).as_secs_f64() * 1e3;
    let address = connection.address.to_string();
    format!(
        "{address:<22} {opened:<7} {:>8} {rtt_ms:>8.3} {:>7} {:>7} {:>10} {:>10}",
        connection.idle_ms,
        connection.serving,
        connection.calling,
        connection.bytes_received,
        connection.bytes_sent
    )
}

fn object(connection: Connection) -> ConnectionObject {
    let Connection {
        address,
        inbound,
        encrypted,
        idle_ms,
        rtt_us,
        serving,
        calling,
        bytes_received,
        bytes_sent,
    } = connection;
    ConnectionObject {
        address,
        inbound,
        encrypted,
        idle_ms,
        rtt_us,
        serving,
        calling,
        bytes_received,
        bytes_sent,
    }
}

/// How long the node is given unless told otherwise.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(2);
