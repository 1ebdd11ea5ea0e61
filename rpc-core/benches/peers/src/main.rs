//! rpc-core side by side with tarpc, quinn, tonic and a bare TCP mux: one driver, one server process and one client
//! process per contestant, on different cores, interleaved over rounds.
//!
//! `cargo run --release -- compare --help` tells what it can do. The other commands are the driver's own children.

mod bars;
mod compare;
mod contestant;
mod contract;
mod link;
mod load;
mod process;
mod report;
mod samples;
mod scene;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::contestant::Contestant;

#[derive(Parser)]
#[command(about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measures all contestants in one run and prints their ratios.
    Compare(compare::Options),
    /// Echoes for one contestant until stdin closes.
    #[command(hide = true)]
    Serve {
        contestant: Contestant,
        #[arg(long)]
        address: SocketAddr,
        #[command(flatten)]
        place: Place,
    },
    /// Makes one measurement for each line on stdin.
    #[command(hide = true)]
    Call {
        contestant: Contestant,
        #[arg(long)]
        server: SocketAddr,
        #[arg(long)]
        secret: String,
        #[arg(long)]
        server_pid: u32,
        #[command(flatten)]
        place: Place,
    },
    /// Joins two network namespaces by a link that loses, delays and limits, until stdin closes.
    #[command(hide = true)]
    Link(link::Properties),
}

/// Where a child runs.
#[derive(clap::Args)]
struct Place {
    /// The only core that it uses.
    #[arg(long)]
    core: usize,
    /// The network namespace that it lives in, instead of the driver's.
    #[arg(long)]
    namespace: Option<PathBuf>,
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Compare(options) => compare::run(&options),
        Command::Serve { contestant, address, place } => {
            process::settle(place.core, place.namespace.as_deref())?;
            process::exit_with_parent();
            process::runtime()?.block_on(contestant.serve(address))
        }
        Command::Call { contestant, server, secret, server_pid, place } => {
            process::settle(place.core, place.namespace.as_deref())?;
            let orders = process::exit_with_parent();
            process::runtime()?.block_on(contestant.call(server, &secret, server_pid, orders))
        }
        Command::Link(properties) => {
            process::exit_with_parent();
            link::run(&properties)
        }
    }
}
