//! A link between two network namespaces that loses, delays and limits packets, for kernels without `netem`: two TUN
//! devices and a pump between them. It is seeded: the same packets in the same order meet the same fate.
//!
//! The namespaces belong to two threads of this process and to whoever entered them: nothing is left when all end.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::libc;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::time::TimeSpec;
use nix::unistd::{geteuid, gettid};
use serde::{Deserialize, Serialize};

/// What the link does to packets, in each direction alike.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Properties {
    /// Packets lost, in percent.
    #[arg(long, default_value_t = 0.0)]
    pub loss: f64,
    /// How long a packet is under way, in milliseconds.
    #[arg(long, default_value_t = 0.0)]
    pub delay_ms: f64,
    /// Megabits per second; 0: no limit.
    #[arg(long, default_value_t = 0.0)]
    pub rate_mbit: f64,
    /// What waits longer than so many milliseconds for the rate is dropped.
    #[arg(long, default_value_t = 50.0)]
    pub queue_ms: f64,
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

impl Default for Properties {
    fn default() -> Self {
        Self { loss: 0.0, delay_ms: 0.0, rate_mbit: 0.0, queue_ms: 50.0, seed: 1 }
    }
}

impl Properties {
    pub fn arguments(&self) -> Vec<String> {
        let Self { loss, delay_ms, rate_mbit, queue_ms, seed } = self;
        let numbers = format!(
            "--loss={loss} --delay-ms={delay_ms} --rate-mbit={rate_mbit} --queue-ms={queue_ms} --seed={seed}"
        );
        numbers.split(' ').map(str::to_owned).collect()
    }
}

/// What the link says when it is up.
#[derive(Debug, Serialize, Deserialize)]
pub struct Up {
    pub client: End,
    pub server: End,
}

/// One end of the link.
#[derive(Debug, Serialize, Deserialize)]
pub struct End {
    pub namespace: PathBuf,
    pub address: Ipv4Addr,
    /// The congestion controller that TCP uses in this namespace.
    pub tcp_congestion: String,
}

/// Why there can be no link on this machine, if so.
pub fn obstacle() -> Option<&'static str> {
    if !geteuid().is_root() {
        return Some("network namespaces need root");
    }
    if OpenOptions::new().read(true).write(true).open("/dev/net/tun").is_err() {
        return Some("/dev/net/tun cannot be opened");
    }
    if Command::new("ip").arg("-V").output().is_err() {
        return Some("`ip` (iproute2) is not installed");
    }
    None
}

/// Carries packets until the process ends.
pub fn run(properties: &Properties) -> Result<()> {
    let (client, client_tun) = open_end(Ipv4Addr::new(10, 99, 0, 1))?;
    let (server, server_tun) = open_end(Ipv4Addr::new(10, 99, 0, 2))?;
    println!("{}", serde_json::to_string(&Up { client, server })?);
    let forth = Direction::new(*properties, properties.seed);
    let back = Direction::new(*properties, !properties.seed);
    let (from, to) = (client_tun.try_clone()?, server_tun.try_clone()?);
    let pump = thread::spawn(move || forth.pump(from, to));
    back.pump(server_tun, client_tun)?;
    pump.join().expect("the pump does not panic")
}

/// A namespace with a TUN device in it. A thread that sleeps for ever keeps the namespace.
fn open_end(address: Ipv4Addr) -> Result<(End, File)> {
    let (sender, opened) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let _ = sender.send(open_end_here(address));
        loop {
            thread::park();
        }
    });
    opened.recv()?
}

fn open_end_here(address: Ipv4Addr) -> Result<(End, File)> {
    unshare(CloneFlags::CLONE_NEWNET).context("no network namespace")?;
    let device = open_tun()?;
    for arguments in [
        &format!("addr add {address}/24 dev tun0"),
        "link set lo up",
        "link set tun0 mtu 1500 txqueuelen 10000 up",
    ] {
        let status = Command::new("ip").args(arguments.split(' ')).status()?;
        ensure!(status.success(), "ip {arguments}: {status}");
    }
    let congestion = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control")?;
    let namespace = format!("/proc/{}/task/{}/ns/net", std::process::id(), gettid()).into();
    Ok((End { namespace, address, tcp_congestion: congestion.trim().to_owned() }, device))
}

nix::ioctl_write_int!(tun_set_iff, b'T', 202);

/// Opens the device `tun0` of this thread's namespace.
#[expect(unsafe_code, reason = "TUNSETIFF has no safe wrapper")]
fn open_tun() -> Result<File> {
    let device = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    nix::fcntl::fcntl(&device, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
    // SAFETY: an `ifreq` is plain data, for which zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"tun0") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the kernel reads and writes one `ifreq` at this address, which lives until the call returns.
    unsafe { tun_set_iff(device.as_raw_fd(), (&raw mut request) as libc::c_ulong) }
        .context("no TUN device")?;
    Ok(device)
}

/// One direction of the link.
struct Direction {
    properties: Properties,
    random: u64,
    /// Packets under way, the next to arrive first: all take equally long.
    under_way: VecDeque<(Instant, Vec<u8>)>,
    /// When the last byte that was accepted will have left.
    busy_until: Instant,
}

/// Packets read before those that have arrived are looked at again.
const BATCH_COUNT: usize = 64;
const PACKET_SIZE_MAX: usize = 1 << 16;

impl Direction {
    fn new(properties: Properties, seed: u64) -> Self {
        Self { properties, random: seed, under_way: VecDeque::new(), busy_until: Instant::now() }
    }

    fn pump(mut self, mut from: File, mut to: File) -> Result<()> {
        let mut packet = vec![0; PACKET_SIZE_MAX];
        loop {
            for _ in 0..BATCH_COUNT {
                match from.read(&mut packet) {
                    Ok(size) => self.accept(&packet[..size], &mut to),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error.into()),
                }
            }
            self.deliver(&mut to);
            let wait =
                self.under_way.front().map(|(arrival, _)| arrival.saturating_duration_since(Instant::now()));
            let mut readable = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
            ppoll(&mut readable, wait.map(TimeSpec::from_duration), None)?;
        }
    }

    fn accept(&mut self, packet: &[u8], to: &mut File) {
        if self.next_random() * 100.0 < self.properties.loss {
            return;
        }
        let now = Instant::now();
        let mut arrival = now;
        if self.properties.rate_mbit > 0.0 {
            let start = self.busy_until.max(now);
            if start - now > Duration::from_secs_f64(self.properties.queue_ms / 1e3) {
                return;
            }
            self.busy_until =
                start + Duration::from_secs_f64(packet.len() as f64 * 8e-6 / self.properties.rate_mbit);
            arrival = self.busy_until;
        }
        arrival += Duration::from_secs_f64(self.properties.delay_ms / 1e3);
        if arrival <= now {
            send(to, packet);
        } else {
            self.under_way.push_back((arrival, packet.to_vec()));
        }
    }

    fn deliver(&mut self, to: &mut File) {
        let now = Instant::now();
        while self.under_way.front().is_some_and(|(arrival, _)| *arrival <= now) {
            if let Some((_, packet)) = self.under_way.pop_front() {
                send(to, &packet);
            }
        }
    }

    /// A number in 0..1 (splitmix64).
    fn next_random(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        (mixed >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// What the other end cannot take is lost, as on any link.
fn send(to: &mut File, packet: &[u8]) {
    let _ = to.write(packet);
}
