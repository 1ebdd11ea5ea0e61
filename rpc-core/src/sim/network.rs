//! The simulated network: sockets, links with policies, arrivals as timers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::arrival::{Arrival, Life};
use super::capacity::{Bottleneck, Capacity, CapacityHits, Passage};
use super::trace::{Trace, TraceLine};
use super::{NodeNumber, Shared, State};
use crate::driver::DatagramSocket;
use crate::driver::fault::{FaultHits, LinkPolicy};
use crate::endpoint::{Datagram, Ecn, Transmit};
use crate::random::SeededRandom;

/// Datagrams that wait in one socket; more are dropped, as a kernel does.
const INBOX_COUNT_MAX: usize = 4_096;
/// Segments per send, as with GSO.
const SEGMENTS_MAX: usize = 16;
/// Datagrams handed over per receive call.
const BATCH_COUNT_MAX: usize = 64;

pub(super) struct Network {
    sockets: BTreeMap<SocketAddr, Socket>,
    pub(super) links: BTreeMap<(NodeNumber, NodeNumber), LinkPolicy>,
    pub(super) default: LinkPolicy,
    pub(super) hits: FaultHits,
    /// Nodes that are suspended: nothing arrives there.
    pub(super) deaf: BTreeSet<NodeNumber>,
    pub(super) missed_count: u64,
    /// The links that have a bottleneck of their own.
    pub(super) bottlenecks: BTreeMap<(NodeNumber, NodeNumber), Bottleneck>,
    /// The others: of any rate.
    unlimited: Bottleneck,
    pub(super) capacity_hits: CapacityHits,
    /// Sockets that the others see under another address.
    translated: BTreeMap<SocketAddr, SocketAddr>,
    random: SeededRandom,
}

struct Socket {
    node: NodeNumber,
    inbox: VecDeque<Datagram>,
    waker: Option<Waker>,
}

impl Network {
    pub(super) fn new(random: SeededRandom) -> Self {
        let default = LinkPolicy { delay_min_us: 50, delay_max_us: 500, ..LinkPolicy::default() };
        Self {
            sockets: BTreeMap::new(),
            links: BTreeMap::new(),
            default,
            hits: FaultHits::default(),
            deaf: BTreeSet::new(),
            missed_count: 0,
            bottlenecks: BTreeMap::new(),
            unlimited: Bottleneck::new(Capacity::default()),
            capacity_hits: CapacityHits::default(),
            translated: BTreeMap::new(),
            random,
        }
    }

    /// From now on the others see the socket at `address` as `outside`; what is sent to its earlier address is lost.
    pub(super) fn translate(&mut self, address: SocketAddr, outside: SocketAddr) {
        self.translated.insert(address, outside);
    }

    /// The address under which the others see a socket.
    fn outside(&self, address: SocketAddr) -> SocketAddr {
        self.translated.get(&address).copied().unwrap_or(address)
    }

    /// The socket that the others see as `outside`.
    fn inside(&self, outside: SocketAddr) -> Option<SocketAddr> {
        if self.translated.is_empty() {
            return Some(outside);
        }
        match self.translated.iter().find(|(_, seen)| **seen == outside) {
            Some((address, _)) => Some(*address),
            None => (!self.translated.contains_key(&outside)).then_some(outside),
        }
    }

    pub(super) fn open(&mut self, node: NodeNumber, address: SocketAddr) {
        assert!(!self.sockets.contains_key(&address), "address {address} is taken");
        self.sockets.insert(address, Socket { node, inbox: VecDeque::new(), waker: None });
    }

    pub(super) fn close_node(&mut self, node: NodeNumber) {
        self.sockets.retain(|_, socket| socket.node != node);
        self.deaf.remove(&node);
    }

    /// Puts a datagram into its socket and gives the waker of who waits there.
    pub(super) fn arrive(&mut self, now: u64, arrival: Arrival, trace: &mut Trace) -> Option<Waker> {
        let Arrival { to, datagram } = arrival;
        let to = self.inside(to)?;
        let socket = self.sockets.get_mut(&to)?;
        if self.deaf.contains(&socket.node) {
            self.missed_count += 1;
            return None;
        }
        if socket.inbox.len() >= INBOX_COUNT_MAX {
            return None;
        }
        let (from, size) = (datagram.from, datagram.contents.len());
        let crc = crc32c::crc32c(&datagram.contents);
        trace.record(now, TraceLine::Delivered { from, to, size, crc });
        socket.inbox.push_back(datagram);
        socket.waker.take()
    }
}

/// A socket in a simulated world. Closed when its node crashes or it is dropped.
pub struct SimSocket {
    shared: Arc<Shared>,
    node: NodeNumber,
    life: Life,
    address: SocketAddr,
}

impl SimSocket {
    pub(super) fn new(shared: Arc<Shared>, node: NodeNumber, life: Life, address: SocketAddr) -> Self {
        Self { shared, node, life, address }
    }

    fn is_open(&self, state: &State) -> bool {
        state.executor.life(self.node) == Some(self.life)
    }
}

impl DatagramSocket for SimSocket {
    fn local_addr(&self) -> SocketAddr {
        self.address
    }

    fn poll_recv(&self, cx: &mut Context<'_>, datagrams: &mut Vec<Datagram>) -> Poll<io::Result<()>> {
        let mut state = self.shared.lock();
        if !self.is_open(&state) {
            return Poll::Pending;
        }
        let Some(socket) = state.network.sockets.get_mut(&self.address) else { return Poll::Pending };
        if socket.inbox.is_empty() {
            socket.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let count = socket.inbox.len().min(BATCH_COUNT_MAX);
        datagrams.extend(socket.inbox.drain(..count));
        Poll::Ready(Ok(()))
    }

    fn poll_send(&self, _cx: &mut Context<'_>, transmit: &Transmit, contents: &[u8]) -> Poll<()> {
        let mut state = self.shared.lock();
        if !self.is_open(&state) {
            return Poll::Ready(());
        }
        let State { executor, network, trace, .. } = &mut *state;
        let (from, to) = (network.outside(self.address), transmit.destination);
        let receiver = network.inside(to).and_then(|to| network.sockets.get(&to)).map(|socket| socket.node);
        let link = receiver.map(|receiver| (self.node, receiver));
        let policy = *link.and_then(|link| network.links.get(&link)).unwrap_or(&network.default);
        for segment in contents.chunks(transmit.segment_size.unwrap_or(contents.len()).max(1)) {
            let datagram = Bytes::copy_from_slice(segment);
            let (size, crc) = (datagram.len(), crc32c::crc32c(&datagram));
            let bottleneck = link.and_then(|link| network.bottlenecks.get_mut(&link));
            let bottleneck = bottleneck.unwrap_or(&mut network.unlimited);
            let passage = bottleneck.pass(executor.now(), size, transmit.ecn, &mut network.capacity_hits);
            let (pieces, queued_ns, ecn) = match passage {
                Passage::Dropped => (Vec::new(), 0, Ecn::NotEct),
                Passage::After { delay_ns, ecn } => {
                    (policy.judge(&mut network.random, datagram, &mut network.hits), delay_ns, ecn)
                }
            };
            trace.record(executor.now(), TraceLine::Sent { from, to, size, crc, copies: pieces.len() });
            for (delay, contents) in pieces {
                let delay_ns = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX).saturating_add(queued_ns);
                executor.arrive_later(delay_ns, Arrival { to, datagram: Datagram { from, ecn, contents } });
            }
        }
        Poll::Ready(())
    }

    fn segments_max(&self) -> usize {
        SEGMENTS_MAX
    }
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if self.is_open(&state) {
            let socket = state.network.sockets.remove(&self.address);
            drop(state);
            drop(socket);
        }
    }
}

impl std::fmt::Debug for SimSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimSocket({} of node {})", self.address, self.node)
    }
}
