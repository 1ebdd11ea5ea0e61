//! The command `kv-server`: one node (`run`), three on this machine (`dev`), or a new key (`keygen`).
//!
//! Exit codes: 0 done, 1 failure (taken port, unwritable or damaged data folder, failed disk, key file), 2 usage or
//! configuration, 7 the data folder belongs to another node, 130 and 143 stopped at once by a second signal.

mod config;
mod dev;
mod exit;
mod keygen;
mod run;
mod signals;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// sled allocates and frees a node of its tree with every insert: with this allocator, a put takes about an eighth less
/// processor time than with that of glibc (docs/BENCHMARKS.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A replicated key-value store whose every answer is honest.
#[derive(Parser)]
#[command(name = "kv-server", version)]
struct Cli {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run one node
    Run(Box<config::RunArgs>),
    /// Run a cluster on this machine: node processes on loopback, no configuration
    Dev(dev::DevArgs),
    /// Make the key that a cluster and its clients share
    Keygen(keygen::KeygenArgs),
    /// Print the version
    Version,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Verb::Run(args) => run::run(*args),
        Verb::Dev(args) => dev::dev(args),
        Verb::Keygen(args) => keygen::keygen(args),
        Verb::Version => {
            println!("kv-server {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => {
            eprintln!("kv-server: {exit}");
            ExitCode::from(exit.code())
        }
    }
}
