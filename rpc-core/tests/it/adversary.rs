//! Somebody on the path who sees every datagram and drops, repeats, edits, truncates, holds back, and sends in others'
//! names. What must hold for calls holds nevertheless.
//!
//! Without encryption the attacker is stopped by a checksum, that is, not at all if it makes the checksum right again:
//! `without_encryption_an_attacker_on_the_path_can_change_answers` is what the insecure mode means. With encryption the
//! same attack changes nothing.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use rpc_core::driver::DatagramSocket;
use rpc_core::endpoint::{Datagram, Ecn, Transmit};
use rpc_core::gather::{self, Reply};
use rpc_core::peer::Peer;
use rpc_core::random::SeededRandom;
use rpc_core::rpc::{CallError, Ctx, Never, Outcome, Services};
use rpc_core::security::{NodeKey, Security, SharedKey};
use rpc_core::sim::{SimSocket, World};

const TAG_SIZE: usize = 16;
const CALLS: usize = 300;

/// What the attacker does to each datagram that arrives, in millionths.
#[derive(Clone, Copy, Debug, Default)]
struct Plan {
    lose: u32,
    replay: u32,
    flip: u32,
    truncate: u32,
    spoof: u32,
    /// Bytes are edited and the checksum made right again.
    forge: u32,
}

const EVERYTHING: Plan =
    Plan { lose: 50_000, replay: 300_000, flip: 50_000, truncate: 50_000, spoof: 50_000, forge: 0 };

/// Sits before the sockets of both sides and keeps what passes.
struct Attacker {
    plan: Plan,
    random: SeededRandom,
    seen: Vec<(SocketAddr, SocketAddr, Bytes)>,
    acts: u64,
    /// Every datagram comes from an address of its own.
    scatter: bool,
    /// Bytes that came in the name of an address, and that were sent to it.
    ledger: BTreeMap<SocketAddr, (usize, usize)>,
}

/// Datagrams that the attacker remembers.
const SEEN_MAX: usize = 4_096;

impl Attacker {
    fn new(seed: u64, plan: Plan) -> Arc<Mutex<Self>> {
        let random = SeededRandom::new(seed);
        Arc::new(Mutex::new(Self {
            plan,
            random,
            seen: Vec::new(),
            acts: 0,
            scatter: false,
            ledger: BTreeMap::new(),
        }))
    }

    /// What arrives at `to` instead of one datagram.
    fn pass(&mut self, to: SocketAddr, from: SocketAddr, ecn: Ecn, datagram: Bytes, out: &mut Vec<Datagram>) {
        let mut push = |from, contents| out.push(Datagram { from, ecn, contents });
        if self.seen.len() < SEEN_MAX {
            self.seen.push((from, to, datagram.clone()));
        }
        let Plan { lose, replay, flip, truncate, spoof, forge } = self.plan;
        if self.chance(replay) {
            // Anything that was ever sent to this side, however old.
            let old: Vec<_> = self.seen.iter().filter(|(_, receiver, _)| *receiver == to).collect();
            let (from, _, datagram) = old[self.random.below(old.len() as u64) as usize].clone();
            push(from, datagram);
        }
        if self.chance(flip) {
            let mut edited = datagram.to_vec();
            let bit = self.random.below(edited.len() as u64 * 8) as usize;
            edited[bit / 8] ^= 1 << (bit % 8);
            push(from, edited.into());
        }
        if self.chance(truncate) {
            let end = self.random.below(datagram.len() as u64) as usize;
            push(from, datagram.slice(..end));
        }
        if self.scatter || self.chance(spoof) {
            let host = Ipv4Addr::from(0x0a00_0000 + self.random.below(1 << 20) as u32);
            let forged = SocketAddr::from((host, 9_999));
            self.ledger.entry(forged).or_default().0 += datagram.len();
            push(forged, datagram.clone());
        }
        if self.chance(forge) {
            push(from, repaired(&mut self.random, &datagram));
        }
        // The honest datagram still gets through most of the time: an attacker who drops all is only a broken link.
        if !self.scatter && !self.chance(lose) {
            push(from, datagram);
        }
    }

    fn chance(&mut self, per_million: u32) -> bool {
        let acts = self.random.chance(per_million);
        self.acts += u64::from(acts);
        acts
    }
}

/// An edit in what is probably a body, with a checksum that fits.
fn repaired(random: &mut SeededRandom, datagram: &Bytes) -> Bytes {
    let mut edited = datagram.to_vec();
    let end = edited.len() - TAG_SIZE;
    let at = end - 1 - random.below(8.min(end as u64 - 13)) as usize;
    edited[at] ^= 0x5a;
    let checksum = crc32c(&edited[..end]);
    edited[end..end + 4].copy_from_slice(&checksum.to_be_bytes());
    edited[end + 4..].fill(0);
    edited.into()
}

/// CRC-32C, bit by bit: the attacker has no need of ours.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

/// A socket behind the attacker.
struct Tapped {
    socket: SimSocket,
    attacker: Arc<Mutex<Attacker>>,
}

impl DatagramSocket for Tapped {
    fn local_addr(&self) -> SocketAddr {
        self.socket.local_addr()
    }

    fn poll_recv(&self, cx: &mut Context<'_>, datagrams: &mut Vec<Datagram>) -> Poll<io::Result<()>> {
        let mut arrived = Vec::new();
        let received = self.socket.poll_recv(cx, &mut arrived);
        let mut attacker = self.attacker.lock().expect("no panic before");
        for Datagram { from, ecn, contents } in arrived {
            attacker.pass(self.local_addr(), from, ecn, contents, datagrams);
        }
        received
    }

    fn poll_send(&self, cx: &mut Context<'_>, transmit: &Transmit, contents: &[u8]) -> Poll<()> {
        let mut attacker = self.attacker.lock().expect("no panic before");
        attacker.ledger.entry(transmit.destination).or_default().1 += contents.len();
        self.socket.poll_send(cx, transmit, contents)
    }

    fn segments_max(&self) -> usize {
        self.socket.segments_max()
    }
}

fn address(node: u64) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 7_300 + node as u16))
}

fn sealed() -> Security {
    Security::shared_key(SharedKey::new([9; 32]))
}

/// Both sides are one node: who it is does not matter here.
fn node_keys() -> Security {
    let own = NodeKey::new([4; 32]);
    let allowed = own.public();
    Security::node_keys(SharedKey::new([9; 32]), own, move |key| *key == allowed)
}

/// A server that answers a number and filler with the same, and counts how often each number came; a client.
struct Scene {
    world: World,
    attacker: Arc<Mutex<Attacker>>,
    server: Peer,
    client: Peer,
    executed: Arc<Vec<AtomicU32>>,
}

impl Scene {
    fn new(seed: u64, plan: Plan, security: &Security) -> Self {
        let world = World::new(seed);
        let attacker = Attacker::new(seed, plan);
        let executed: Arc<Vec<AtomicU32>> = Arc::new((0..CALLS).map(|_| AtomicU32::new(0)).collect());
        let counted = Arc::clone(&executed);
        let services = Services::new().method("echo", move |_: Ctx, body: Bytes| {
            if let Some(count) = number(&body).and_then(|number| counted.get(number as usize)) {
                count.fetch_add(1, Ordering::Relaxed);
            }
            async move { Ok::<_, Never>(body) }
        });
        let start = |node, services| {
            let builder = Peer::builder(world.start(node)).services(services).security(security.clone());
            let socket = Tapped { socket: world.bind(node, address(node)), attacker: Arc::clone(&attacker) };
            builder.start(socket).expect("names without collision")
        };
        let (server, client) = (start(1, services), start(2, Services::new()));
        Self { world, attacker, server, client, executed }
    }

    /// All calls, a few at once; how each ended.
    fn calls(&self) -> Vec<Result<Bytes, CallError<Never>>> {
        let (remote, observer) = (self.client.remote(address(1)), self.world.observer());
        self.world.run(async move {
            let mut results = Vec::new();
            for first in (0..CALLS).step_by(6) {
                let calls = (first..first + 6).map(|number| {
                    let call = remote.call::<Bytes, Bytes, Never>("echo", &body(number as u64));
                    call.once().timeout(Duration::from_secs(3))
                });
                results.extend(gather::all(calls).await.into_iter().map(|reply| match reply {
                    Reply::Ok(body) => Ok(body),
                    Reply::Failed(error) => Err(error),
                    _ => unreachable!("all waits for all"),
                }));
            }
            // What the attacker held back arrives now, and must not run.
            observer.sleep(Duration::from_secs(5)).await;
            results
        })
    }

    /// Each call ran at most once, never if the caller was told so, and has its own answer if it has one.
    fn judge(&self, results: &[Result<Bytes, CallError<Never>>]) {
        for (number, result) in results.iter().enumerate() {
            let executed = self.executed[number].load(Ordering::Relaxed);
            assert!(executed <= 1, "call {number} ran {executed} times");
            match result {
                Ok(answer) => assert_eq!((answer, executed), (&body(number as u64), 1), "call {number}"),
                Err(error) if error.outcome() == Outcome::NotExecuted => assert_eq!(executed, 0, "{error}"),
                Err(error) => assert_eq!(error.outcome(), Outcome::Unknown, "{error}"),
            }
        }
    }

    fn acts(&self) -> u64 {
        self.attacker.lock().expect("no panic before").acts
    }
}

fn body(number: u64) -> Bytes {
    let filler = 8..40 + number as usize * 37 % 4_000;
    number.to_be_bytes().into_iter().chain(filler.map(|index| index as u8)).collect()
}

fn number(body: &Bytes) -> Option<u64> {
    body.first_chunk().map(|number| u64::from_be_bytes(*number))
}

#[test]
fn an_attacker_on_the_path_makes_no_call_run_twice_and_no_answer_wrong() {
    for (seed, security) in [(1, sealed()), (2, sealed()), (3, Security::insecure()), (7, node_keys())] {
        let scene = Scene::new(seed, EVERYTHING, &security);
        let results = scene.calls();
        scene.judge(&results);
        let answered = results.iter().filter(|result| result.is_ok()).count();
        assert!(answered > CALLS * 9 / 10, "{security}: {answered} of {CALLS}");
        assert!(scene.acts() > 100, "the attacker did {} things", scene.acts());
    }
}

#[test]
fn with_encryption_forged_packets_change_nothing_and_end_no_connection() {
    let plan = Plan { forge: 300_000, replay: 300_000, ..Plan::default() };
    for (seed, security) in [(4, sealed()), (8, node_keys())] {
        let scene = Scene::new(seed, plan, &security);
        let results = scene.calls();
        scene.judge(&results);
        let failed: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
        assert!(failed.is_empty(), "{failed:?}");
        for peer in [&scene.server, &scene.client] {
            let counters = peer.counters();
            assert_eq!((counters.connections_established, counters.dropped_bad_frame), (1, 0));
            assert!(counters.dropped_bad_seal > 50, "{} forgeries", counters.dropped_bad_seal);
        }
    }
}

#[test]
fn without_encryption_an_attacker_on_the_path_can_change_answers() {
    let plan = Plan { forge: 300_000, ..Plan::default() };
    let scene = Scene::new(5, plan, &Security::insecure());
    let results = scene.calls();
    let wrong = results
        .iter()
        .enumerate()
        .filter(|(number, result)| result.as_ref().is_ok_and(|answer| *answer != body(*number as u64)));
    assert!(wrong.count() > 10, "the attack that encryption stops is a real one");
}

#[test]
fn forged_source_addresses_get_less_than_three_times_what_was_sent_in_their_name() {
    for security in [sealed(), node_keys(), Security::insecure()] {
        let scene = Scene::new(6, Plan::default(), &security);
        let results = scene.calls();
        assert!(results.iter().all(Result::is_ok));
        // Everything that the client ever sent, again, each datagram from an address of its own.
        let recorded: Vec<_> = {
            let mut attacker = scene.attacker.lock().expect("no panic before");
            attacker.scatter = true;
            attacker.seen.iter().filter(|(_, to, _)| *to == address(1)).map(|seen| seen.2.clone()).collect()
        };
        let setup = recorded.iter().filter(|datagram| datagram[0] >> 6 == 0b11).cloned().collect::<Vec<_>>();
        let before = scene.server.counters();
        scene.world.start(3);
        let (socket, observer) = (scene.world.bind(3, address(3)), scene.world.observer());
        scene.world.run(async move {
            for datagram in setup.iter().cycle().take(500).chain(&recorded) {
                let transmit = Transmit {
                    destination: address(1),
                    size: datagram.len(),
                    segment_size: None,
                    ecn: Ecn::NotEct,
                };
                std::future::poll_fn(|cx| socket.poll_send(cx, &transmit, datagram)).await;
                observer.sleep(Duration::from_millis(1)).await;
            }
            observer.sleep(Duration::from_secs(60)).await;
        });
        let after = scene.server.counters();
        let attacker = scene.attacker.lock().expect("no panic before");
        let forged = attacker.ledger.iter().filter(|(address, _)| address.port() == 9_999);
        let (received, sent) = forged.clone().fold((0, 0), |sum, (_, one)| (sum.0 + one.0, sum.1 + one.1));
        let worst = forged.map(|(_, (received, sent))| *sent as f64 / *received as f64).fold(0.0, f64::max);
        println!(
            "{security}: {received} bytes in forged names, {sent} sent to them, at worst {worst:.2} times"
        );
        assert!(received > 500_000 && sent > 0, "{received} {sent}");
        assert!(worst <= 3.0, "{security}: {worst} times to one address");
        assert_eq!(after.connections_established, before.connections_established);
        let executed = scene.executed.iter().map(|count| count.load(Ordering::Relaxed)).sum::<u32>();
        assert_eq!(executed as usize, CALLS, "nothing ran for them");
    }
}
