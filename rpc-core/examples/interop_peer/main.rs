//! The Rust side of `rpc-core/interop`, where a peer in another language is held against this one.
//!
//! ```text
//! interop_peer [OPTIONS] serve           prints "listening ADDRESS", ends with its standard input
//! interop_peer [OPTIONS] call ADDRESS    calls what `serve` serves, and checks the answers
//!
//! --key HEX      encrypt with this shared key
//! --node OWN PEER  with it: the own private node key, and the peer's public one
//! --rotate N     seal N packets with one key
//! --cookies      answer every INIT with RETRY first
//! --scarce       memory for one large message at a time
//! ```
//!
//! Without arguments it calls a peer of its own.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Debug;
use std::future::IntoFuture;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use rpc_core::driver::{system, udp::UdpSocket};
use rpc_core::endpoint::{Config, Lane};
use rpc_core::peer::{Builder, Peer};
use rpc_core::rpc::{CallError, Code, Ctx, Never, Outcome, Remote, Services};
use rpc_core::security::{NodeKey, PublicKey, Security, SharedKey};
use rpc_core::{blocking, rpc::RpcError};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use tokio::runtime::Handle;

/// Calls in flight together, and the bytes of a large one.
const MANY: u64 = 200;
const LARGE: usize = 200 << 10;

/// A method's own error.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct DivideByZero;

/// How often each number was tallied, and how many handlers were stopped before their end.
#[derive(Default)]
struct Counts {
    tallied: Mutex<BTreeMap<u64, u64>>,
    stopped: AtomicU64,
}

impl Counts {
    fn tally(&self, number: u64) -> u64 {
        *self.tallied.lock().unwrap_or_else(PoisonError::into_inner).entry(number).or_default() += 1;
        number
    }

    /// Different numbers, and how often the most frequent one came.
    fn report(&self) -> (u64, u64) {
        let tallied = self.tallied.lock().unwrap_or_else(PoisonError::into_inner);
        (tallied.len() as u64, tallied.values().copied().max().unwrap_or(0))
    }
}

/// Counts itself when it is dropped before it is done.
struct Working {
    counts: Arc<Counts>,
    done: bool,
}

impl Working {
    async fn sleep(mut self, ctx: Ctx, ms: u64) -> Result<u64, Never> {
        ctx.runtime.sleep(Duration::from_millis(ms)).await;
        self.done = true;
        Ok(ms)
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        if !self.done {
            self.counts.stopped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn services() -> Services {
    let counts = Arc::new(Counts::default());
    let (tally, report, stopped) = (Arc::clone(&counts), Arc::clone(&counts), Arc::clone(&counts));
    Services::new()
        .method_sync("calc.add", |_: Ctx, (a, b): (i64, i64)| Ok::<_, Never>(a.wrapping_add(b)))
        .method_sync("calc.divide", |_: Ctx, (a, b): (i64, i64)| a.checked_div(b).ok_or(DivideByZero))
        .method_sync("echo", |_: Ctx, body: ByteBuf| Ok::<_, Never>(body))
        .method_sync("tally.add", move |_: Ctx, number: u64| Ok::<_, Never>(tally.tally(number)))
        .method_sync("tally.report", move |_: Ctx, (): ()| Ok::<_, Never>(report.report()))
        .method("slow", move |ctx: Ctx, ms: u64| {
            Working { counts: Arc::clone(&counts), done: false }.sleep(ctx, ms)
        })
        .method_sync("stopped", move |_: Ctx, (): ()| Ok::<_, Never>(stopped.stopped.load(Ordering::Relaxed)))
        // Calls the caller back, over the connection that it opened.
        .method("back", |ctx: Ctx, (a, b): (i64, i64)| async move {
            ctx.caller.call::<_, i64, Never>("calc.add", &(a, b)).await.map_err(|error| error.to_string())
        })
}

#[derive(Clone, Default)]
struct Options {
    key: Option<SharedKey>,
    node: Option<(NodeKey, PublicKey)>,
    config: Config,
}

impl Options {
    fn build(self, builder: Builder) -> Builder {
        let security = match (self.key, self.node) {
            (None, _) => Security::insecure(),
            (Some(key), None) => Security::shared_key(key),
            (Some(key), Some((own, peer))) => Security::node_keys(key, own, move |shown| *shown == peer),
        };
        builder.security(security).config(self.config).services(services())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut options = Options::default();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--key" => options.key = Some(SharedKey::new(bytes(&value()?)?)),
            "--node" => options.node = Some((NodeKey::new(bytes(&value()?)?), PublicKey(bytes(&value()?)?))),
            "--rotate" => options.config.key_packets_max = value()?.parse()?,
            "--cookies" => options.config.cookies_above = 0,
            "--scarce" => {
                options.config.message_size_max = LARGE + 1_024;
                options.config.reassembly_bytes_max = 0; // at least the largest message
            }
            "serve" => return serve(options),
            "call" => return call(options, Some(value()?.parse()?)),
            other => return Err(format!("what is {other}?").into()),
        }
    }
    call(options, None)
}

fn bytes(hex: &str) -> Result<[u8; 32], Box<dyn Error>> {
    let digits = hex.as_bytes().chunks(2).map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?));
    let bytes = digits.collect::<Result<Vec<u8>, Box<dyn Error>>>()?;
    Ok(bytes.try_into().map_err(|_| "a key is 32 bytes")?)
}

fn serve(options: Options) -> Result<(), Box<dyn Error>> {
    let any = (Ipv4Addr::LOCALHOST, 0).into();
    let peer = blocking::Peer::start(any, |builder, socket| options.build(builder).start(socket))?;
    println!("listening {}", peer.local_addr());
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn call(options: Options, address: Option<SocketAddr>) -> Result<(), Box<dyn Error>> {
    let runtime = system::runtime(Handle::current());
    let socket = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0).into());
    let own = options.clone().build(Peer::builder(runtime.clone())).start(socket()?)?;
    let client = options.build(Peer::builder(runtime.clone())).start(socket()?)?;
    let remote = client.remote(address.unwrap_or_else(|| own.local_addr()));

    small(&remote).await?;
    large(&remote).await?;
    given_up(&remote, &runtime).await?;
    many(&remote).await?;
    client.close().await;
    own.close().await;
    Ok(())
}

/// Results, the method's own error, errors of the system.
async fn small(remote: &Remote) -> Result<(), Box<dyn Error>> {
    let sum: i64 = remote.call::<_, _, Never>("calc.add", &(2, -3)).await?;
    check("add", sum == -1, sum)?;
    let sum: i64 = remote.call::<_, _, Never>("calc.add", &(2, 3)).trace(7).await?;
    check("a traced call", sum == 5, sum)?;
    let quotient = remote.call::<_, i64, DivideByZero>("calc.divide", &(1, 0)).await;
    check("divide by zero", quotient == Err(CallError::Method(DivideByZero)), quotient)?;
    let unknown = remote.call::<_, (), Never>("no.such", &()).await;
    check(
        "unknown method",
        refused(&unknown) == Some((Code::MethodNotFound, Outcome::NotExecuted)),
        unknown,
    )?;
    let wrong = remote.call::<_, i64, Never>("calc.add", "seven").await;
    check("wrong body", refused(&wrong) == Some((Code::BadRequest, Outcome::NotExecuted)), wrong)
}

async fn large(remote: &Remote) -> Result<(), Box<dyn Error>> {
    let body = ByteBuf::from((0..LARGE).map(|at| ((at * at) >> 8) as u8).collect::<Vec<_>>());
    let echo = |lane| {
        let call = remote.call::<_, ByteBuf, Never>("echo", &body);
        // Compressed only where the other side reads that.
        call.lane(lane).timeout(Duration::from_secs(30)).compress(true).into_future()
    };
    for echoed in join_all([Lane::Normal, Lane::Bulk, Lane::Normal, Lane::Bulk].map(echo)).await {
        check("echo of 200 KiB", echoed.as_ref() == Ok(&body), echoed.map(|body| body.len()))?;
    }
    Ok(())
}

/// A call that its caller gives up is stopped at the callee.
async fn given_up(remote: &Remote, runtime: &rpc_core::runtime::Runtime) -> Result<(), Box<dyn Error>> {
    let late = remote.call::<_, u64, Never>("slow", &60_000).timeout(Duration::from_millis(300)).once().await;
    check("deadline", refused(&late) == Some((Code::Timeout, Outcome::Unknown)), late)?;
    let deadline = runtime.now() + Duration::from_secs(10);
    loop {
        let stopped: u64 = remote.call::<_, _, Never>("stopped", &()).await?;
        if stopped == 1 {
            return check("the handler was stopped", true, stopped);
        }
        check("stopped in time", runtime.now() < deadline, stopped)?;
        runtime.sleep(Duration::from_millis(10)).await;
    }
}

/// Whatever is lost on the way: all calls end well, and none is executed twice.
async fn many(remote: &Remote) -> Result<(), Box<dyn Error>> {
    let add = |number: u64| {
        let call = remote.call::<_, u64, Never>("tally.add", &number);
        call.timeout(Duration::from_secs(30)).once().into_future()
    };
    for (number, answer) in (0..).zip(join_all((0..MANY).map(add)).await) {
        if answer != Ok(number) {
            check("one of many", false, answer)?;
        }
    }
    let report: (u64, u64) = remote.call::<_, _, Never>("tally.report", &()).await?;
    check("200 calls at once, each executed once", report == (MANY, 1), report)
}

fn refused<R, E>(answer: &Result<R, CallError<E>>) -> Option<(Code, Outcome)> {
    match answer {
        Err(CallError::Rpc(RpcError { code, outcome, .. })) => Some((*code, *outcome)),
        _ => None,
    }
}

fn check(what: &str, good: bool, got: impl Debug) -> Result<(), Box<dyn Error>> {
    println!("{what}: {}", if good { "ok" } else { "WRONG" });
    if good { Ok(()) } else { Err(format!("{what}: {got:?}").into()) }
}
