//! What every command is handed: the client, the format, and what to say when a signal ends it.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kv_client::api::WriteOp;
use kv_client::{Client, Outcome, TIMEOUT_DEFAULT, Token, Write};
use rpc_core::driver::system;
use rpc_core::driver::udp::UdpSocket;
use rpc_core::endpoint;
use rpc_core::peer::Peer;
use rpc_core::runtime::Runtime;
use rpc_core::security::Security;

use super::names::SystemNames;
use super::trace_id::{TraceFlag, id_text};
use super::{ENDPOINTS_DEFAULT, Exit, Format, Global};

/// What every command is handed.
pub(crate) struct Context {
    pub(crate) runtime: Runtime,
    pub(crate) client: Client,
    pub(crate) format: Format,
    pub(crate) quiet: bool,
    pub(crate) token_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    peer: Peer,
    /// What `--timeout` said.
    timeout: Option<Duration>,
    /// The writes that may have been sent and have no outcome yet.
    in_doubt: Mutex<Vec<Token>>,
}

/// The client of one command, and the trace of its requests if they have one.
pub(crate) struct Followed {
    pub(crate) client: Client,
    pub(crate) trace: Option<u128>,
}

impl Context {
    pub(crate) fn new(global: Global, security: Security) -> io::Result<Self> {
        let runtime = system::runtime(tokio::runtime::Handle::current());
        let is_ipv6 = global
            .endpoints
            .iter()
            .all(|endpoint| endpoint.literal().is_some_and(|address| address.is_ipv6()));
        let any = if is_ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
        let transport = endpoint::Config { setup_timeout: SETUP_TIMEOUT, ..endpoint::Config::default() };
        let peer = Peer::builder(runtime.clone())
            .security(security)
            .config(transport)
            .start(socket)
            .map_err(io::Error::other)?;
        let client = Client::builder(runtime.clone(), peer.clone())
            .endpoints(global.endpoints)
            .resolver(Arc::new(SystemNames))
            .timeout(global.timeout.unwrap_or(TIMEOUT_DEFAULT))
            .build();
        Ok(Self {
            runtime,
            client,
            format: global.output,
            quiet: global.quiet,
            token_file: global.token_file,
            key_file: global.key_file,
            peer,
            timeout: global.timeout,
            in_doubt: Mutex::default(),
        })
    }

    /// The client, with `default` as the time of a command unless `--timeout` says otherwise.
    pub(crate) fn client_with_default(&self, default: Duration) -> Client {
        self.client.with_timeout(self.timeout.unwrap_or(default))
    }

    /// The client, with a trace of its own if `flag` asks for one. Its id is told before anything is sent.
    pub(crate) fn followed(&self, flag: TraceFlag) -> Followed {
        if !flag.trace {
            return Followed { client: self.client.clone(), trace: None };
        }
        let trace = self.runtime.random_u128();
        if self.format == Format::Simple {
            eprintln!("kv-client: trace {}", id_text(trace));
        }
        Followed { client: self.client.with_trace(trace), trace: Some(trace) }
    }

    /// Sends a write. A signal that ends the command before its outcome is known names it.
    pub(crate) async fn send(&self, write: Write, op: WriteOp) -> Outcome {
        let token = write.token();
        self.in_doubt().push(token);
        let outcome = write.send(op).await;
        self.in_doubt().retain(|other| *other != token);
        outcome
    }

    fn in_doubt(&self) -> MutexGuard<'_, Vec<Token>> {
        self.in_doubt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A signal ended the command.
    pub(crate) fn tell_interrupted(&self, exit: Exit) -> Exit {
        let lines: Vec<_> = self.in_doubt().iter().map(|token| self.resolve_line(token)).collect();
        match lines.len() {
            0 => exit.because("interrupted"),
            _ => exit.because(format_args!(
                "interrupted; the write may have been sent, its outcome is unknown until you run\n  {}",
                lines.join("\n  ")
            )),
        }
    }

    /// The command that settles a write, as typed.
    pub(crate) fn resolve_line(&self, token: &Token) -> String {
        let endpoints: Vec<_> = self.client.endpoints().iter().map(|endpoint| endpoint.as_str()).collect();
        let key_file = self.key_file.as_ref().map(|path| format!(" --key-file {}", path.display()));
        let key_file = key_file.unwrap_or_default();
        match endpoints.join(",") {
            endpoints if endpoints == ENDPOINTS_DEFAULT => format!("kv-client{key_file} resolve {token}"),
            endpoints => format!("kv-client --endpoints {endpoints}{key_file} resolve {token}"),
        }
    }

    /// Says goodbye: lets the session go at the servers, and the connections. Nothing is waited for that takes longer
    /// than a round trip nearby: what the servers do not hear, they let expire.
    pub(crate) async fn leave(&self) {
        self.client.close(GOODBYE).await;
        // Whether the farewell was sent or not, there is nothing more to do.
        let _ = self.runtime.timeout(GOODBYE, self.peer.close()).await;
    }
}

/// How long a node may take to answer the first packet: less than a command takes, so that its error can say it.
const SETUP_TIMEOUT: Duration = Duration::from_secs(2);
/// How long each part of a goodbye may take.
const GOODBYE: Duration = Duration::from_millis(5);
