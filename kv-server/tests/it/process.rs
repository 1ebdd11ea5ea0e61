//! Server processes on loopback, and a client of them.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{ExitStatus, Output, Stdio};
use std::time::Duration;

use bytes::Bytes;
use kv_client::api::{
    Consistency, GetRequest, KvClient, OpenRequest, Status, WriteOp, WriteReply, WriteRequest,
};
use rpc_core::driver::{system, udp};
use rpc_core::peer::Peer;
use rpc_core::runtime::Runtime;
use rpc_core::security::Security;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader, Lines};
use tokio::process::{Child, Command};

/// How long anything may take: much longer than it does, so that only a hang fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
/// How long one call may take.
const CALL: Duration = Duration::from_secs(5);

/// Runs `test` with a client, in real time.
pub(crate) fn with_client<F: Future<Output = ()>>(test: impl FnOnce(Client) -> F) {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let runtime = system::runtime(tokio.handle().clone());
    tokio.block_on(async {
        let socket = udp::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let peer = Peer::builder(runtime.clone()).start_insecure(socket).unwrap();
        test(Client { runtime, peer }).await;
    });
}

/// The first of `count` neighbouring UDP ports that are free now.
pub(crate) fn free_ports(count: u16) -> u16 {
    let bind = |port| UdpSocket::bind((Ipv4Addr::LOCALHOST, port));
    loop {
        let first = bind(0).unwrap();
        let port = first.local_addr().unwrap().port();
        let rest: Result<Vec<UdpSocket>, _> =
            (1..count).map(|offset| bind(port.saturating_add(offset))).collect();
        if rest.is_ok() {
            return port;
        }
    }
}

pub(crate) fn address(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// The command `kv-server`, without what the environment of the tests may hold for it, and quiet but for what it must
/// say.
pub(crate) fn kv_server() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kv-server"));
    for name in ["ID", "MEMBERS", "LISTEN", "DATA", "JOIN", "ENABLE_FAULTS", "INSECURE", "CONFIG"] {
        command.env_remove(format!("KV_{name}"));
    }
    command.env("KV_LOG", "off").stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// `kv-server run` for a node of a cluster of one.
pub(crate) fn single(port: u16, data: &Path) -> Command {
    let mut command = kv_server();
    command.args(["run", "--id", "1", "--members", &format!("1={}", address(port)), "--data"]).arg(data);
    command
}

/// Sends a signal, as a person would.
pub(crate) fn signal(name: &str, pid: u32) {
    let sent = std::process::Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status();
    assert!(sent.unwrap().success(), "no process {pid}");
}

/// Whether a process is there (a zombie is not).
pub(crate) fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or("").trim_start().starts_with('Z'))
}

/// A caller of the nodes.
pub(crate) struct Client {
    pub(crate) runtime: Runtime,
    peer: Peer,
}

impl Client {
    /// The same client, with the key in a file.
    pub(crate) fn with_key(&self, file: &Path) -> Self {
        let key = rpc_core::driver::key_file::read(file).unwrap();
        let socket = udp::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let builder = Peer::builder(self.runtime.clone()).security(Security::shared_key(key));
        Self { runtime: self.runtime.clone(), peer: builder.start(socket).unwrap() }
    }

    /// A client with a socket of its own.
    pub(crate) fn another(&self) -> Self {
        let socket = udp::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let builder = Peer::builder(self.runtime.clone());
        Self { runtime: self.runtime.clone(), peer: builder.start_insecure(socket).unwrap() }
    }

    pub(crate) fn local_port(&self) -> u16 {
        self.peer.local_addr().port()
    }

    pub(crate) fn at(&self, port: u16) -> KvClient {
        KvClient::new(self.peer.remote(address(port)))
    }

    /// Waits until `check` gives something.
    pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(
        &self,
        what: &str,
        check: impl Fn() -> F,
    ) -> T {
        let checking = async {
            loop {
                if let Some(found) = check().await {
                    return found;
                }
                self.runtime.sleep(Duration::from_millis(20)).await;
            }
        };
        let found = self.runtime.timeout(DEADLINE, checking).await;
        found.unwrap_or_else(|_| panic!("not within {DEADLINE:?}: {what}"))
    }

    /// The client library, asking the nodes at `ports`.
    pub(crate) fn library(&self, ports: &[u16]) -> kv_client::Client {
        let endpoints = ports.iter().map(|port| address(*port).to_string().parse().unwrap());
        kv_client::Client::builder(self.runtime.clone(), self.peer.clone()).endpoints(endpoints).build()
    }

    pub(crate) async fn status(&self, port: u16) -> Option<Status> {
        self.at(port).status().timeout(CALL).await.ok()
    }

    /// Puts a key through a node, as soon as it serves.
    pub(crate) async fn put(&self, port: u16, key: &str, value: &str) {
        let nonce = self.runtime.random_u128();
        let opened = self
            .eventually("a session", async || {
                self.at(port).open_session(OpenRequest { nonce }).timeout(CALL).await.ok()
            })
            .await;
        let op = WriteOp::Put { key: bytes(key), value: bytes(value) };
        let (cluster, session) = (opened.cluster, opened.session);
        let request = WriteRequest { cluster, session, sequence: 1, floor: 1, op };
        let answer = self
            .eventually("a write", async || self.at(port).write(request.clone()).timeout(CALL).await.ok())
            .await;
        assert!(matches!(answer.reply, WriteReply::Committed { .. }), "{answer:?}");
    }

    /// The value of a key as a node reads it, as soon as it serves.
    pub(crate) async fn get(&self, port: u16, key: &str) -> Option<Bytes> {
        let request = GetRequest { key: bytes(key), consistency: Consistency::Linearizable };
        let reply = self
            .eventually("a read", async || self.at(port).get(request.clone()).timeout(CALL).await.ok())
            .await;
        reply.value.map(|versioned| versioned.value)
    }

    /// Waits for a process to end.
    pub(crate) async fn ended(&self, child: &mut Child) -> ExitStatus {
        let status = self.runtime.timeout(DEADLINE, child.wait()).await;
        status.expect("the process ends").unwrap()
    }

    /// Runs a command that must fail at once: its exit code and what it said.
    pub(crate) async fn failure(&self, mut command: Command) -> (i32, String) {
        let output = self.runtime.timeout(DEADLINE, command.output()).await;
        let Output { status, stderr, .. } = output.expect("the process ends").unwrap();
        let said = String::from_utf8(stderr).unwrap();
        (status.code().expect("it was not killed"), said)
    }

    /// Reads lines until one contains `text`.
    pub(crate) async fn line_with<R: AsyncRead + Unpin>(
        &self,
        lines: &mut Lines<BufReader<R>>,
        text: &str,
    ) -> String {
        let mut seen = Vec::new();
        let reading = async {
            loop {
                match lines.next_line().await.unwrap() {
                    Some(line) if line.contains(text) => return Some(line),
                    Some(line) => seen.push(line),
                    None => return None,
                }
            }
        };
        let found = self.runtime.timeout(DEADLINE, reading).await;
        match found {
            Ok(Some(line)) => line,
            Ok(None) => panic!("ended without {text:?}: {seen:#?}"),
            Err(_) => panic!("no {text:?} within {DEADLINE:?}"),
        }
    }
}

pub(crate) fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// The lines of a child's output.
pub(crate) fn lines<R: AsyncRead + Unpin>(output: Option<R>) -> Lines<BufReader<R>> {
    BufReader::new(output.unwrap()).lines()
}
