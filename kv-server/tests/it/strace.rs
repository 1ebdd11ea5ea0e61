//! Durability as the kernel sees it: the sync comes before the answer.

use std::fs;
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kv_client::{Client, Endpoint, Outcome};
use rpc_core::driver::{system, udp};
use rpc_core::peer::Peer;

/// Puts that are traced.
const PUTS: usize = 20;
/// An answer is larger than this; a datagram that only acknowledges is not.
const ANSWER_SIZE_MIN: usize = 48;

#[test]
fn the_sync_comes_before_the_answer() {
    if Command::new("strace")
        .args(["-f", "true"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
    {
        let folder = tempfile::tempdir().unwrap();
        let trace = traced_puts(folder.path());
        check(&trace).unwrap();
        // The check can fail: without its syncs, the same trace is refused.
        let without: Vec<&str> = trace.lines().filter(|line| !line.contains("fdatasync")).collect();
        check(&without.join("\n")).unwrap_err();
        return;
    }
    assert!(std::env::var_os("CI").is_none(), "strace does not work here, and under CI it must");
    eprintln!("SKIPPED: strace does not work here, so no system call was looked at");
}

/// One node alone under strace, some puts one after the other; its system calls.
fn traced_puts(folder: &Path) -> String {
    let address = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let file = folder.join("trace");
    let node = Command::new("strace")
        .args(["-f", "-s", "4096", "-e", "trace=recvmsg,recvmmsg,sendmsg,sendmmsg,sendto,fdatasync", "-o"])
        .arg(&file)
        .arg(env!("CARGO_BIN_EXE_kv-server"))
        .args(["run", "--id", "1", "--members", &format!("1={address}"), "--data"])
        .arg(folder.join("data"))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let node = Traced(node);
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let runtime = system::runtime(tokio.handle().clone());
    tokio.block_on(runtime.enter(async {
        let socket = udp::UdpSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let peer = Peer::builder(runtime.clone()).start_insecure(socket).unwrap();
        let client = Client::builder(runtime.clone(), peer).endpoints([Endpoint::from(address)]);
        let client = client.timeout(Duration::from_secs(60)).build();
        for number in 0..PUTS {
            let put = client.put(&b"key"[..], marker(number).into_bytes()).await;
            assert!(matches!(put, Outcome::Committed { .. }), "{put:?}");
        }
    }));
    drop(node);
    fs::read_to_string(file).unwrap()
}

/// Ends the traced process with its tracer.
struct Traced(Child);

impl Drop for Traced {
    fn drop(&mut self) {
        // strace passes its end on to the process that it started: the first one in the trace.
        let _ = Command::new("pkill").args(["-TERM", "-P", &self.0.id().to_string()]).status();
        let _ = self.0.wait();
    }
}

fn marker(number: usize) -> String {
    format!("marker-{number:04}-of-the-trace")
}

/// After each marker was received, a sync must have completed before the first datagram that can be its answer left.
fn check(trace: &str) -> Result<(), String> {
    let lines: Vec<&str> = trace.lines().collect();
    for number in 0..PUTS {
        let received = lines
            .iter()
            .position(|line| line.contains("recv") && line.contains(&marker(number)))
            .ok_or_else(|| format!("put {number} was not received"))?;
        let answered = lines[received..]
            .iter()
            .position(|line| {
                line.contains("send") && sent_size(line).is_some_and(|size| size >= ANSWER_SIZE_MIN)
            })
            .ok_or_else(|| format!("put {number} was not answered"))?;
        let between = &lines[received..received + answered];
        if !between.iter().any(|line| line.contains("fdatasync") && line.trim_end().ends_with("= 0")) {
            return Err(format!("put {number} was answered before a sync:\n{}", between.join("\n")));
        }
    }
    Ok(())
}

/// Bytes that a send call was given: the length of its first buffer.
fn sent_size(line: &str) -> Option<usize> {
    let (_, rest) = line.split_once("iov_len=")?;
    rest.split(|byte: char| !byte.is_ascii_digit()).next()?.parse().ok()
}
