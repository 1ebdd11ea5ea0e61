//! The command `kv-server`: one node (`run`), three on this machine (`dev`), a new key (`keygen`), and what is done to
//! the data of a node that does not run (`inspect`, `verify`, `restore`, `recover`).
//!
//! Exit codes: 0 done, 1 failure (taken port, unwritable or damaged data folder, failed disk, key file), 2 usage or
//! configuration, 7 the data folder belongs to another node or cluster, 130 and 143 stopped at once by a second signal.

mod config;
mod dev;
mod exit;
mod keygen;
mod offline;
mod rebuild;
mod run;
mod signals;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use rpc_core::plant;

/// sled allocates and frees a node of its tree with every insert: with this allocator, a put takes about an eighth less
/// processor time than with that of glibc (docs/BENCHMARKS.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A replicated key-value store whose every answer is honest.
#[derive(Parser)]
#[command(name = "kv-server", version = plant::version(env!("CARGO_PKG_VERSION")))]
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
    /// Say what the data folder of a node that does not run holds, having verified all of it
    Inspect(offline::InspectArgs),
    /// Verify a snapshot file from its first byte to its last
    Verify(offline::VerifyArgs),
    /// Make a data folder of a snapshot: the first member of a new cluster
    Restore(offline::RestoreArgs),
    /// After the loss of a quorum: make a data folder of what one member left, the first member of a new cluster
    Recover(offline::RecoverArgs),
    /// Make the key that a cluster and its clients share
    Keygen(keygen::KeygenArgs),
    /// Print the version
    Version,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Verb::Run(args) => run::run(*args),
        Verb::Dev(args) => dev::dev(args),
        Verb::Inspect(args) => offline::inspect(args),
        Verb::Verify(args) => offline::verify(args),
        Verb::Restore(args) => offline::restore(args),
        Verb::Recover(args) => offline::recover(args),
        Verb::Keygen(args) => keygen::keygen(args),
        Verb::Version => {
            println!("kv-server {}", plant::version(env!("CARGO_PKG_VERSION")));
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
