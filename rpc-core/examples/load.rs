//! Measures echo calls: how many per second, how long each takes, what each costs the processor.
//!
//! ```sh
//! cargo build --release -p rpc-core --example load
//! load serve 127.0.0.1:7400 &                          # one thread, on one core
//! load call 127.0.0.1:7400 --flight 64 --size 64 --seconds 2
//! load call 127.0.0.1:7401 --flight 1 --spin 50 ...    # latency mode, in microseconds; `load serve` takes it as well
//! load both --flight 64 --size 64 --calls 20000        # both sides in one thread
//! valgrind --tool=callgrind load both --slow 50 ...    # counts instructions; time runs as much slower as the machine
//! ```
//! Packets are encrypted with a key that is no secret; `--insecure` on both sides leaves that out.
//! Without arguments it runs `both` briefly, as a test.

#![expect(clippy::disallowed_methods, reason = "a measurement reads the machine's clock")]

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rpc_core::driver::{system, udp::UdpSocket};
use rpc_core::peer::Peer;
use rpc_core::rpc::{Ctx, Never};
use rpc_core::runtime::{Abort, Backend, BoxFuture, Runtime};
use rpc_core::security::{Security, SharedKey};
use tokio::runtime::Handle;

/// Gives back what it is given.
#[rpc_core::service]
trait Echo {
    #[rpc(timeout = "30s")]
    async fn echo(&self, ctx: Ctx, body: Bytes) -> Result<Bytes, Never>;
}

struct Mirror;

impl Echo for Mirror {
    async fn echo(&self, _: Ctx, body: Bytes) -> Result<Bytes, Never> {
        Ok(body)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let load = Load::from(&words)?;
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", address, ..] => {
            let server = peer(address.parse()?, &load)?;
            server.closed().await;
        }
        ["call", address, ..] => {
            let client = peer("0.0.0.0:0".parse()?, &load)?;
            load.run(&client, address.parse()?).await?;
            client.close().await;
        }
        _ => {
            let local = "127.0.0.1:0".parse()?;
            let (server, client) = (peer(local, &load)?, peer(local, &load)?);
            load.run(&client, server.local_addr()).await?;
            client.close().await;
            server.close().await;
        }
    }
    Ok(())
}

fn peer(address: SocketAddr, load: &Load) -> Result<Peer, Box<dyn Error>> {
    let system = system::runtime(Handle::current());
    let slow = load.slow;
    let runtime = if slow > 1 { Runtime::new(Arc::new(Slow { system, slow })) } else { system };
    let services = echo_services(Arc::new(Mirror));
    let builder = Peer::builder(runtime).services(services).latency_mode(load.spin);
    let socket = UdpSocket::bind(address)?;
    if load.insecure {
        return Ok(builder.start_insecure(socket)?);
    }
    Ok(builder.security(Security::shared_key(SharedKey::new([7; 32]))).start(socket)?)
}

/// A machine whose time runs slower, so that timers keep their proportion to a processor that is emulated.
struct Slow {
    system: Runtime,
    slow: u32,
}

impl Backend for Slow {
    fn now(&self) -> rpc_core::runtime::Instant {
        rpc_core::runtime::Instant::from_nanos(self.system.now().as_nanos() / u64::from(self.slow))
    }

    fn wall_ms(&self) -> u64 {
        self.system.wall_ms()
    }

    fn sleep_until(&self, deadline: rpc_core::runtime::Instant) -> BoxFuture<()> {
        let real = deadline.as_nanos().saturating_mul(u64::from(self.slow));
        self.system.sleep_until(rpc_core::runtime::Instant::from_nanos(real))
    }

    fn spawn(&self, name: &'static str, task: BoxFuture<()>) -> Abort {
        let task = self.system.spawn(name, task);
        Box::new(move || task.abort())
    }

    fn spawn_thread(&self, name: &'static str, task: BoxFuture<()>) {
        self.system.spawn_thread(name, task);
    }

    fn fill_random(&self, bytes: &mut [u8]) {
        self.system.fill_random(bytes);
    }
}

/// What to do.
struct Load {
    /// Calls in flight.
    flight: usize,
    /// Bytes of each body.
    size: usize,
    /// Ends after so many calls, or
    calls: u64,
    /// after so long.
    seconds: f64,
    /// How much slower than the machine's the peers' time runs.
    slow: u32,
    /// Without encryption.
    insecure: bool,
    /// Latency mode of both sides.
    spin: Duration,
}

impl Load {
    fn from(words: &[String]) -> Result<Self, Box<dyn Error>> {
        let option = |name: &str| {
            words.iter().position(|word| word == name).and_then(|index| words.get(index + 1)).cloned()
        };
        let seconds = option("--seconds").map(|seconds| seconds.parse()).transpose()?;
        let unlimited = if seconds.is_some() { Some(u64::MAX) } else { None };
        let calls = option("--calls").map(|calls| calls.parse()).transpose()?.or(unlimited);
        Ok(Self {
            flight: option("--flight").unwrap_or_else(|| "64".into()).parse()?,
            size: option("--size").unwrap_or_else(|| "64".into()).parse()?,
            calls: calls.unwrap_or(CALLS_DEFAULT),
            seconds: seconds.unwrap_or(f64::INFINITY),
            insecure: words.iter().any(|word| word == "--insecure"),
            spin: Duration::from_micros(option("--spin").unwrap_or_else(|| "0".into()).parse()?),
            slow: option("--slow").unwrap_or_else(|| "1".into()).parse()?,
        })
    }

    async fn run(&self, client: &Peer, server: SocketAddr) -> Result<(), Box<dyn Error>> {
        let echo = EchoClient::new(client.remote(server));
        let body = Bytes::from(vec![7; self.size]);
        for _ in 0..100.min(self.calls) {
            assert_eq!(echo.echo(body.clone()).await?, body, "the echo differs");
        }
        let (start, cpu, done) = (Instant::now(), cpu_ns(), Arc::new(AtomicU64::new(0)));
        let (calls, seconds) = (self.calls, self.seconds);
        let callers: Vec<_> = (0..self.flight)
            .map(|_| {
                let (echo, body, done) = (echo.clone(), body.clone(), Arc::clone(&done));
                tokio::spawn(async move {
                    let mut latencies = Vec::new();
                    let mut before = Instant::now();
                    while done.fetch_add(1, Ordering::Relaxed) < calls
                        && before.duration_since(start).as_secs_f64() < seconds
                    {
                        let answer = echo.echo(body.clone()).await.expect("the call succeeds");
                        assert_eq!(answer.len(), body.len(), "the echo differs");
                        let now = Instant::now();
                        latencies.push(now - before);
                        before = now;
                    }
                    latencies
                })
            })
            .collect();
        let mut latencies = Vec::new();
        for caller in callers {
            latencies.extend(caller.await?);
        }
        let (wall, cpu) = (start.elapsed(), cpu_ns() - cpu);
        self.report(&mut latencies, wall, cpu);
        Ok(())
    }

    fn report(&self, latencies: &mut [Duration], wall: Duration, cpu: u64) {
        latencies.sort_unstable();
        let count = latencies.len().max(1);
        let quantile = |part: f64| {
            let index = (count as f64 * part) as usize;
            latencies.get(index.min(count - 1)).copied().unwrap_or_default().as_nanos() as f64 / 1e3
        };
        let rate = count as f64 / wall.as_secs_f64();
        println!(
            "flight {} size {}: {:.0} calls/s, {:.1} MiB/s, p50 {:.1} us, p99 {:.1} us, p99.9 {:.1} us, {:.0} ns CPU per call",
            self.flight,
            self.size,
            rate,
            rate * self.size as f64 / (1 << 20) as f64,
            quantile(0.5),
            quantile(0.99),
            quantile(0.999),
            cpu as f64 / count as f64,
        );
    }
}

/// Nanoseconds that this thread, the only one, has run (Linux; elsewhere 0).
fn cpu_ns() -> u64 {
    let schedstat = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    schedstat.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// Enough to see that all works.
const CALLS_DEFAULT: u64 = 2_000;
