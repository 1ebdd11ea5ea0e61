//! The command line: global flags, and one module per command, each with the same two parts: its arguments, and `run`.

mod admin;
mod batch;
mod bench;
mod cas;
mod context;
mod delete;
mod exit;
mod get;
mod health;
mod input;
mod leader;
mod member;
mod names;
mod nodes;
mod output;
mod put;
mod resolve;
mod snapshot;
mod status;
mod trace;
mod trace_id;
mod version;
mod wait;
mod write;

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use kv_client::Endpoint;
use rpc_core::driver::key_file;
use rpc_core::plant;
use rpc_core::security::Security;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use self::context::Context;
pub(crate) use self::exit::Exit;

/// A client of the replicated key-value store.
///
/// Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 condition failed, 5 certainly not applied (or a read that
/// cannot be served), 6 outcome unknown (the token is printed), 7 denied, 8 beyond a limit, 130/143 interrupted.
#[derive(Debug, Parser)]
#[command(name = "kv-client", version = plant::version(env!("CARGO_PKG_VERSION")))]
pub(crate) struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Global {
    /// Nodes to ask, in this order; one that can be reached suffices.
    #[arg(
        long,
        global = true,
        env = "KV_ENDPOINTS",
        value_delimiter = ',',
        value_name = "HOST:PORT,...",
        default_value = ENDPOINTS_DEFAULT
    )]
    endpoints: Vec<Endpoint>,
    /// The key that the cluster shares: everything is encrypted. Without it nothing is.
    #[arg(long, global = true, env = "KV_KEY_FILE", value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// The time for the whole command: 500ms, 5s, 2m [default: 5s; member, leader: 60s, snapshot: 10m, wait: 30s].
    #[arg(long, global = true, env = "KV_TIMEOUT", value_parser = input::duration, value_name = "TIME")]
    timeout: Option<Duration>,
    /// How results are printed; json is the schema of docs/CLI.md.
    #[arg(long, global = true, env = "KV_OUTPUT", value_enum, default_value_t = Format::Simple)]
    output: Format,
    /// Save the token of a write here before it is sent; `resolve` reads it from here.
    #[arg(long, global = true, env = "KV_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print only what was asked for: values, JSON, and what went wrong.
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Tell what happens, on stderr; twice tells more. KV_LOG filters in detail.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Lines for people.
    Simple,
    /// One JSON object.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    Put(put::Put),
    Get(get::Get),
    Delete(delete::Delete),
    Cas(cas::Cas),
    Batch(batch::Batch),
    Resolve(resolve::Resolve),
    Status(status::Status),
    Trace(trace::Trace),
    Member(member::Member),
    Leader(leader::Leader),
    Snapshot(snapshot::Snapshot),
    Admin(admin::Admin),
    Health(health::Health),
    Wait(wait::Wait),
    Bench(bench::Bench),
    Version(version::Version),
}

/// Runs the command to its exit.
pub(crate) fn main(arguments: Arguments) -> Exit {
    let Arguments { global, command } = arguments;
    start_log(&global);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Exit::Failure.because(format_args!("no runtime: {error}")),
    };
    let security = match global.key_file.as_deref().map(key_file::read) {
        None => Security::insecure(),
        Some(Ok(key)) => Security::shared_key(key),
        Some(Err(error)) => return Exit::Usage.because(error),
    };
    let exit = runtime.block_on(async {
        match Context::new(global, security) {
            Ok(context) => run(command, &context).await,
            Err(error) => Exit::Failure.because(format_args!("no UDP socket: {error}")),
        }
    });
    std::mem::forget(runtime);
    exit
}

/// Runs a command until it is done or a signal ends it. The command is polled first: one that reads its value from
/// stdin does so before the signals are caught, and can be interrupted as usual.
async fn run(command: Command, context: &Context) -> Exit {
    // It ends by itself, with its report.
    let ends_itself = matches!(command, Command::Bench(_));
    let interrupted = async {
        if ends_itself || tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => {
                terminate.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        exit = dispatch(command, context) => exit,
        () = interrupted => context.tell_interrupted(Exit::Interrupted),
        () = terminated => context.tell_interrupted(Exit::Terminated),
    }
}

async fn dispatch(command: Command, context: &Context) -> Exit {
    match command {
        Command::Put(put) => put.run(context).await,
        Command::Get(get) => get.run(context).await,
        Command::Delete(delete) => delete.run(context).await,
        Command::Cas(cas) => cas.run(context).await,
        Command::Batch(batch) => batch.run(context).await,
        Command::Resolve(resolve) => resolve.run(context).await,
        Command::Status(status) => status.run(context).await,
        Command::Trace(trace) => trace.run(context).await,
        Command::Member(member) => member.run(context).await,
        Command::Leader(leader) => leader.run(context).await,
        Command::Snapshot(snapshot) => snapshot.run(context).await,
        Command::Admin(admin) => admin.run(context).await,
        Command::Health(health) => health.run(context).await,
        Command::Wait(wait) => wait.run(context).await,
        Command::Bench(bench) => bench.run(context).await,
        Command::Version(version) => version.run(context).await,
    }
}

/// Logs go to stderr; `KV_LOG` (as `RUST_LOG` elsewhere) wins over `-v` and `-q`.
fn start_log(global: &Global) {
    let level = match (global.quiet, global.verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "info",
        (false, _) => "debug",
    };
    let filter = EnvFilter::try_from_env("KV_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let is_colored = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(is_colored)
        .with_target(false)
        .init();
}

/// Where `kv-server dev` listens.
const ENDPOINTS_DEFAULT: &str = "127.0.0.1:7301,127.0.0.1:7302,127.0.0.1:7303";
