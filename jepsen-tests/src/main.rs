//! Fault tests with a verdict, on the command line.

mod commands;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// As the servers do, and because a simulation allocates much.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Fault tests with a verdict.
///
/// Exit codes: 0 linearizable, 9 a violation was found, 10 inconclusive (or a history that cannot be read), 2 usage,
/// 130 and 143 interrupted.
#[derive(Debug, Parser)]
#[command(name = "jepsen-tests", version = rpc_core::plant::version(env!("CARGO_PKG_VERSION")))]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Plant(commands::plant::Args),
    #[cfg(feature = "power")]
    Power(commands::power::Args),
    #[cfg(feature = "power")]
    #[command(hide = true)]
    PowerWorker(commands::power::WorkerArgs),
    Report(commands::report::Args),
    Run(commands::run::Args),
    Shrink(commands::shrink::Args),
    Sim(commands::sim::Args),
    Verdict(commands::verdict::Args),
}

fn main() -> ExitCode {
    let command = Cli::parse().command;
    // Simulated nodes fail by plan, thousands of times: what they say of it is no news.
    let usual = match command {
        Command::Plant(_) | Command::Shrink(_) | Command::Sim(_) => "jepsen_tests=info",
        _ => "jepsen_tests=info,error",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("KV_LOG").unwrap_or_else(|_| usual.into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match command {
        Command::Plant(args) => commands::plant::run(&args).into(),
        #[cfg(feature = "power")]
        Command::Power(args) => commands::power::run(&args).into(),
        #[cfg(feature = "power")]
        Command::PowerWorker(args) => commands::power::work(&args).into(),
        Command::Report(args) => commands::report::run(&args).into(),
        Command::Run(args) => commands::run::run(&args).into(),
        Command::Shrink(args) => commands::shrink::run(&args).into(),
        Command::Sim(args) => commands::sim::run(&args).into(),
        Command::Verdict(args) => commands::verdict::run(&args).into(),
    }
}
