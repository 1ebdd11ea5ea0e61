//! Every kind of bad link with every size of message: what must hold for each call, whatever the network does.
//!
//! {0, 1, 5, 10, 30 % loss} x {reordering} x {duplication} x {corruption} x {sizes around every limit of the transport} x
//! {plain, encrypted}, in virtual time. For each call: it ends once and not after its deadline; its method ran at most once; it ran
//! exactly once if there is a result, and never if the error says *not executed*. After the links heal, everything is
//! served again. On the wire no packet number of a connection is ever used twice.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use rpc_core::driver::DatagramSocket;
use rpc_core::driver::fault::LinkPolicy;
use rpc_core::endpoint::{Datagram, Transmit};
use rpc_core::peer::Peer;
use rpc_core::rpc::registry::Method;
use rpc_core::rpc::schema::MethodSchema;
use rpc_core::rpc::{Failure, MethodPolicy, Never, Outcome, Services};
use rpc_core::security::{Security, SharedKey};
use rpc_core::sim::{SimSocket, World};

/// The largest body that fits one packet of 1,200 bytes, by the overheads of docs/PROTOCOL.md.
const ONE_PACKET: usize = 1_200 - 29 - 35;

/// Sizes that travel both ways.
const ECHOED: [usize; 8] =
    [0, 1, ONE_PACKET - 1, ONE_PACKET, ONE_PACKET + 1, (64 << 10) - 1, 64 << 10, (64 << 10) + 1];
/// Sizes that travel one way: up in one call, down in the next.
const LARGE: [usize; 2] = [1 << 20, 16 << 20];

const LOSSES: [u32; 5] = [0, 10_000, 50_000, 100_000, 300_000];
/// Virtual time that a call may take on a bad link.
const PATIENCE: Duration = Duration::from_secs(20);

mod plain {
    use super::*;

    #[test]
    fn calls_keep_their_word_at_no_loss() {
        every_link_with(LOSSES[0], &Security::insecure());
    }

    #[test]
    fn calls_keep_their_word_at_1_percent_loss() {
        every_link_with(LOSSES[1], &Security::insecure());
    }

    #[test]
    fn calls_keep_their_word_at_5_percent_loss() {
        every_link_with(LOSSES[2], &Security::insecure());
    }

    #[test]
    fn calls_keep_their_word_at_10_percent_loss() {
        every_link_with(LOSSES[3], &Security::insecure());
    }

    #[test]
    fn calls_keep_their_word_at_30_percent_loss() {
        every_link_with(LOSSES[4], &Security::insecure());
    }
}

mod sealed {
    use super::*;

    #[test]
    fn calls_keep_their_word_at_no_loss() {
        every_link_with(LOSSES[0], &shared_key());
    }

    #[test]
    fn calls_keep_their_word_at_1_percent_loss() {
        every_link_with(LOSSES[1], &shared_key());
    }

    #[test]
    fn calls_keep_their_word_at_5_percent_loss() {
        every_link_with(LOSSES[2], &shared_key());
    }

    #[test]
    fn calls_keep_their_word_at_10_percent_loss() {
        every_link_with(LOSSES[3], &shared_key());
    }

    #[test]
    fn calls_keep_their_word_at_30_percent_loss() {
        every_link_with(LOSSES[4], &shared_key());
    }
}

fn every_link_with(loss: u32, security: &Security) {
    for (index, delay_max_us) in [(0, 600), (1, 8_000)] {
        for (duplication, duplicate) in [(0, 0), (2, 50_000)] {
            for (corruption, corrupt) in [(0, 0), (4, 10_000)] {
                let number = index + duplication + corruption;
                let policy = LinkPolicy {
                    loss,
                    duplicate,
                    corrupt,
                    delay_min_us: 400,
                    delay_max_us,
                    ..LinkPolicy::default()
                };
                // In a debug build the largest message is most of the time: without CI it goes over two links of each
                // loss, the best and the worst.
                let whole = std::env::var_os("CI").is_some() || number == 0 || number == 7;
                run(u64::from(loss) + number, security, policy, &LARGE[..if whole { 2 } else { 1 }]);
            }
        }
    }
}

/// What a call is about.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Echo(usize),
    Up(usize),
    Down(usize),
}

/// One world with one kind of link: every size at once, then again after the link has healed.
fn run(seed: u64, security: &Security, policy: LinkPolicy, large: &[usize]) {
    let large = large.iter().flat_map(|size| [Kind::Up(*size), Kind::Down(*size)]);
    let kinds: Vec<Kind> = ECHOED.into_iter().map(Kind::Echo).chain(large).collect();
    let world = World::new(seed);
    world.set_default_link(policy);
    let executions: Vec<_> = kinds.iter().map(|_| Arc::new(AtomicU64::new(0))).collect();
    let _server = start(&world, 1, security, services(&kinds, &executions));
    let client = start(&world, 2, security, Services::new());
    let (observer, handle) = (world.observer(), world.clone());
    world.run(async move {
        let mut calls = Vec::new();
        for (index, kind) in kinds.iter().copied().enumerate() {
            let (remote, clock) = (client.remote(address(1)), observer.clone());
            // Every fourth call has little time, so that deadlines fall into every phase of a transfer.
            let timeout = if index % 4 == 3 { Duration::from_millis(15) } else { PATIENCE };
            calls.push(observer.spawn("caller", async move {
                let started = clock.now();
                let answer = remote.call_raw(&format!("m{index}"), request(kind)).timeout(timeout).await;
                let late = (clock.now() - started).saturating_sub(timeout);
                assert!(late <= Duration::from_millis(2), "{kind:?} ended {late:?} after its deadline");
                answer
            }));
        }
        let mut answers = Vec::new();
        for call in calls {
            answers.push(call.await.expect("a caller does not panic"));
        }
        // What is still on its way arrives, and must not run then.
        observer.sleep(Duration::from_secs(5)).await;
        for ((kind, answer), executions) in kinds.iter().zip(&answers).zip(&executions) {
            judge(*kind, answer, executions.load(Ordering::Relaxed), policy);
        }
        if policy.loss > 0 {
            assert!(handle.fault_hits().lost > 0, "nothing was lost: {:?}", handle.fault_hits());
        }
        handle.set_default_link(LinkPolicy { delay_min_us: 500, delay_max_us: 500, ..LinkPolicy::default() });
        for (index, kind) in kinds.iter().copied().enumerate() {
            let call = client.remote(address(1)).call_raw(&format!("m{index}"), request(kind));
            let answer = call
                .timeout(Duration::from_secs(2))
                .await
                .unwrap_or_else(|error| panic!("{kind:?} is not served 2 s after {policy:?}: {error:?}"));
            assert_eq!(answer, expected(kind));
        }
    });
}

fn judge(kind: Kind, answer: &Result<Bytes, Failure>, executions: u64, policy: LinkPolicy) {
    assert!(executions <= 1, "{kind:?} ran {executions} times on {policy:?}");
    match answer {
        Ok(body) => {
            assert_eq!(executions, 1, "{kind:?} has a result and never ran");
            assert!(*body == expected(kind), "{kind:?} came back changed on {policy:?}");
        }
        Err(Failure::Method(_)) => panic!("{kind:?}: no method here has an error of its own"),
        Err(Failure::Rpc(error)) if error.outcome == Outcome::NotExecuted => {
            assert_eq!(executions, 0, "{kind:?} ran, and the caller was told: {error}");
        }
        Err(Failure::Rpc(error)) => assert_eq!(error.outcome, Outcome::Unknown, "{error}"),
    }
}

fn request(kind: Kind) -> Bytes {
    match kind {
        Kind::Echo(size) | Kind::Up(size) => pattern(size),
        Kind::Down(_) => Bytes::new(),
    }
}

fn expected(kind: Kind) -> Bytes {
    match kind {
        Kind::Echo(size) | Kind::Down(size) => pattern(size),
        Kind::Up(size) => digest(&pattern(size)),
    }
}

fn digest(body: &[u8]) -> Bytes {
    let sum = body.iter().fold(body.len() as u64, |sum, byte| sum.rotate_left(5) ^ u64::from(*byte));
    Bytes::copy_from_slice(&sum.to_be_bytes())
}

/// Bytes that differ at every offset within a packet, so that a part in the wrong place is noticed.
fn pattern(size: usize) -> Bytes {
    (0..size as u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn services(kinds: &[Kind], executions: &[Arc<AtomicU64>]) -> Services {
    let mut services = Services::new();
    for (index, (kind, executions)) in kinds.iter().copied().zip(executions).enumerate() {
        let executions = Arc::clone(executions);
        let handler = move |_, body: Bytes| -> rpc_core::runtime::BoxFuture<Result<Bytes, Failure>> {
            executions.fetch_add(1, Ordering::Relaxed);
            let answer = match kind {
                Kind::Echo(_) => body,
                Kind::Up(_) => digest(&body),
                Kind::Down(size) => pattern(size),
            };
            Box::pin(async move { Ok(answer) })
        };
        let schema = MethodSchema::of_closure::<(), (), Never>(false);
        let method = Method { schema, handler: Arc::new(handler), policy: MethodPolicy::default() };
        services = services.raw(&format!("m{index}"), method);
    }
    services
}

fn shared_key() -> Security {
    Security::shared_key(SharedKey::new([7; 32]))
}

fn address(node: u64) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 7_300 + node as u16))
}

fn start(world: &World, node: u64, security: &Security, services: Services) -> Peer {
    let runtime = world.start(node);
    let socket = Watched { socket: world.bind(node, address(node)), numbers: Mutex::default() };
    let builder = Peer::builder(runtime).services(services).security(security.clone());
    builder.start(socket).expect("names without collision")
}

/// A socket that sees to it that no data packet of a connection has the number of an earlier one.
struct Watched {
    socket: SimSocket,
    /// Destination connection id and low half of the packet number.
    numbers: Mutex<BTreeSet<(u64, u32)>>,
}

impl DatagramSocket for Watched {
    fn local_addr(&self) -> SocketAddr {
        self.socket.local_addr()
    }

    fn poll_recv(&self, cx: &mut Context<'_>, datagrams: &mut Vec<Datagram>) -> Poll<io::Result<()>> {
        self.socket.poll_recv(cx, datagrams)
    }

    fn poll_send(&self, cx: &mut Context<'_>, transmit: &Transmit, contents: &[u8]) -> Poll<()> {
        const RESET_SIZE: usize = 39;
        for packet in contents.chunks(transmit.segment_size.unwrap_or(contents.len()).max(1)) {
            if packet[0] >> 6 == 0b01 && packet.len() != RESET_SIZE {
                let dcid = u64::from_be_bytes(packet[1..9].try_into().expect("8 bytes"));
                let number = u32::from_be_bytes(packet[9..13].try_into().expect("4 bytes"));
                let fresh = self.numbers.lock().expect("no panic before").insert((dcid, number));
                assert!(fresh, "packet number {number} was used twice");
            }
        }
        self.socket.poll_send(cx, transmit, contents)
    }

    fn segments_max(&self) -> usize {
        self.socket.segments_max()
    }
}
