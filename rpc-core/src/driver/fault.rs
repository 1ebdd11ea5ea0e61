//! Faults of a directed link, drawn from a seed: one type for the simulated network and for real sockets.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::ops::AddAssign;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::DatagramSocket;
use crate::endpoint::{Datagram, Transmit};
use crate::random::SeededRandom;
use crate::runtime::Runtime;

/// What happens to the datagrams of one directed link. Chances are in millionths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkPolicy {
    /// Nothing passes.
    pub cut: bool,
    /// Chance that a datagram is lost.
    pub loss: u32,
    /// Chance that a datagram arrives twice.
    pub duplicate: u32,
    /// Chance that a datagram arrives once more, one to ten seconds later.
    #[serde(default)]
    pub replay: u32,
    /// Chance that one bit of a datagram is flipped.
    pub corrupt: u32,
    /// Chance that a datagram is cut short.
    pub truncate: u32,
    /// The least delay in microseconds.
    pub delay_min_us: u32,
    /// The greatest delay in microseconds: every datagram draws its own, so a wide range reorders.
    pub delay_max_us: u32,
}

/// How many datagrams each kind of fault hit. A run whose faults hit nothing proves nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultHits {
    /// Dropped by a cut link.
    pub cut: u64,
    /// Lost.
    pub lost: u64,
    /// Duplicated.
    pub duplicated: u64,
    /// Sent again much later.
    #[serde(default)]
    pub replayed: u64,
    /// With a flipped bit.
    pub corrupted: u64,
    /// Cut short.
    pub truncated: u64,
    /// Held back for more than a millisecond.
    pub delayed: u64,
}

impl AddAssign for FaultHits {
    fn add_assign(&mut self, other: Self) {
        self.cut += other.cut;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.replayed += other.replayed;
        self.corrupted += other.corrupted;
        self.truncated += other.truncated;
        self.delayed += other.delayed;
    }
}

impl LinkPolicy {
    /// What arrives of `datagram`, and how much later each piece of it.
    pub fn judge(
        &self,
        random: &mut SeededRandom,
        datagram: Bytes,
        hits: &mut FaultHits,
    ) -> Vec<(Duration, Bytes)> {
        if self.cut {
            hits.cut += 1;
            return Vec::new();
        }
        if random.chance(self.loss) {
            hits.lost += 1;
            return Vec::new();
        }
        let copies = if random.chance(self.duplicate) {
            hits.duplicated += 1;
            2
        } else {
            1
        };
        let mut pieces: Vec<_> = (0..copies)
            .map(|_| (self.delay(random, hits), self.damage(random, datagram.clone(), hits)))
            .collect();
        if random.chance(self.replay) {
            hits.replayed += 1;
            pieces.push((Duration::from_millis(random.between(REPLAY_MIN_MS, REPLAY_MAX_MS)), datagram));
        }
        pieces
    }

    fn delay(&self, random: &mut SeededRandom, hits: &mut FaultHits) -> Duration {
        if self.delay_max_us == 0 {
            return Duration::ZERO;
        }
        let delay = Duration::from_nanos(
            random.between(u64::from(self.delay_min_us) * 1_000, u64::from(self.delay_max_us) * 1_000),
        );
        hits.delayed += u64::from(delay > DELAY_NOTED);
        delay
    }

    fn damage(&self, random: &mut SeededRandom, mut datagram: Bytes, hits: &mut FaultHits) -> Bytes {
        if random.chance(self.truncate) && !datagram.is_empty() {
            hits.truncated += 1;
            datagram.truncate(random.below(datagram.len() as u64) as usize);
        }
        if random.chance(self.corrupt) && !datagram.is_empty() {
            hits.corrupted += 1;
            let mut edited = datagram.to_vec();
            let bit = random.below(edited.len() as u64 * 8);
            edited[(bit / 8) as usize] ^= 1 << (bit % 8);
            datagram = edited.into();
        }
        datagram
    }
}

/// A shorter delay is not counted: every network has one.
const DELAY_NOTED: Duration = Duration::from_millis(1);
/// How much later a replayed datagram comes, in milliseconds.
const REPLAY_MIN_MS: u64 = 1_000;
const REPLAY_MAX_MS: u64 = 10_000;

/// Which way a datagram goes, seen from the socket that obeys the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Direction {
    /// To the remote address.
    Outgoing,
    /// From the remote address.
    Incoming,
}

/// The link policies of one real socket, changed while it runs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LinkFaults {
    state: Arc<Mutex<FaultState>>,
}

#[derive(Debug)]
struct FaultState {
    random: SeededRandom,
    links: BTreeMap<(Direction, SocketAddr), LinkPolicy>,
    hits: FaultHits,
}

impl LinkFaults {
    /// No faults yet; later ones are drawn from `seed`.
    pub fn new(seed: u64) -> Self {
        let state = FaultState {
            random: SeededRandom::new(seed),
            links: BTreeMap::new(),
            hits: FaultHits::default(),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Sets the policy of one directed link.
    pub fn set(&self, direction: Direction, remote: SocketAddr, policy: LinkPolicy) {
        self.lock().links.insert((direction, remote), policy);
    }

    /// Removes all policies.
    pub fn heal(&self) {
        self.lock().links.clear();
    }

    /// Draws later faults from `seed`.
    pub fn reseed(&self, seed: u64) {
        self.lock().random = SeededRandom::new(seed);
    }

    /// How many datagrams were hit since the start.
    pub fn hits(&self) -> FaultHits {
        self.lock().hits
    }

    /// The policies in force.
    pub fn links(&self) -> Vec<(Direction, SocketAddr, LinkPolicy)> {
        self.lock().links.iter().map(|((direction, remote), policy)| (*direction, *remote, *policy)).collect()
    }

    /// What passes of one datagram; `None` if the link has no policy.
    fn judge(
        &self,
        direction: Direction,
        remote: SocketAddr,
        datagram: &Bytes,
    ) -> Option<Vec<(Duration, Bytes)>> {
        let mut state = self.lock();
        let policy = *state.links.get(&(direction, remote))?;
        let FaultState { random, hits, .. } = &mut *state;
        Some(policy.judge(random, datagram.clone(), hits))
    }

    fn is_healthy(&self) -> bool {
        self.lock().links.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, FaultState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A socket whose links obey [`LinkFaults`].
#[derive(Debug)]
pub struct FaultySocket<S> {
    socket: Arc<S>,
    faults: LinkFaults,
    runtime: Runtime,
    /// Incoming datagrams that were held back and are due now.
    due: Arc<Mutex<Due>>,
}

#[derive(Debug, Default)]
struct Due {
    datagrams: Vec<Datagram>,
    waker: Option<std::task::Waker>,
}

impl<S: DatagramSocket> FaultySocket<S> {
    /// `socket` with the policies of `faults`.
    pub fn new(socket: S, faults: LinkFaults, runtime: Runtime) -> Self {
        Self { socket: Arc::new(socket), faults, runtime, due: Arc::default() }
    }

    /// Sends `datagram` after `delay`, as `transmit` says.
    fn send_later(&self, transmit: Transmit, delay: Duration, datagram: Bytes) {
        let (socket, runtime) = (Arc::clone(&self.socket), self.runtime.clone());
        self.runtime.spawn("delayed datagram", async move {
            runtime.sleep(delay).await;
            std::future::poll_fn(|cx| socket.poll_send(cx, &transmit, &datagram)).await;
        });
    }

    /// Receives `datagram` after `delay`.
    fn receive_later(&self, delay: Duration, datagram: Datagram) {
        let (due, runtime) = (Arc::clone(&self.due), self.runtime.clone());
        self.runtime.spawn("delayed datagram", async move {
            runtime.sleep(delay).await;
            let mut due = due.lock().unwrap_or_else(PoisonError::into_inner);
            due.datagrams.push(datagram);
            if let Some(waker) = due.waker.take() {
                waker.wake();
            }
        });
    }
}

impl<S: DatagramSocket> DatagramSocket for FaultySocket<S> {
    fn local_addr(&self) -> SocketAddr {
        self.socket.local_addr()
    }

    fn poll_recv(&self, cx: &mut Context<'_>, datagrams: &mut Vec<Datagram>) -> Poll<io::Result<()>> {
        {
            let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
            datagrams.append(&mut due.datagrams);
            due.waker = Some(cx.waker().clone());
        }
        loop {
            let mut received = Vec::new();
            let polled = self.socket.poll_recv(cx, &mut received);
            for datagram in received {
                match self.faults.judge(Direction::Incoming, datagram.from, &datagram.contents) {
                    None => datagrams.push(datagram),
                    Some(pieces) => {
                        for (delay, contents) in pieces {
                            let piece = Datagram { contents, ..datagram };
                            if delay.is_zero() {
                                datagrams.push(piece);
                            } else {
                                self.receive_later(delay, piece);
                            }
                        }
                    }
                }
            }
            match polled {
                // All of the batch was lost: look for the next one, or be woken for it.
                Poll::Ready(Ok(())) if datagrams.is_empty() => {}
                Poll::Pending if !datagrams.is_empty() => return Poll::Ready(Ok(())),
                polled => return polled,
            }
        }
    }

    fn poll_send(&self, cx: &mut Context<'_>, transmit: &Transmit, contents: &[u8]) -> Poll<()> {
        let destination = transmit.destination;
        if self.faults.is_healthy() {
            return self.socket.poll_send(cx, transmit, contents);
        }
        for segment in contents.chunks(transmit.segment_size.unwrap_or(contents.len()).max(1)) {
            let datagram = Bytes::copy_from_slice(segment);
            let pieces = self.faults.judge(Direction::Outgoing, destination, &datagram);
            for (delay, piece) in pieces.unwrap_or_else(|| vec![(Duration::ZERO, datagram)]) {
                let transmit = Transmit { size: piece.len(), segment_size: None, ..*transmit };
                if delay.is_zero() {
                    // A full socket buffer loses it: that, too, is a fault a network may have.
                    let _ = self.socket.poll_send(cx, &transmit, &piece);
                } else {
                    self.send_later(transmit, delay, piece);
                }
            }
        }
        Poll::Ready(())
    }

    fn segments_max(&self) -> usize {
        self.socket.segments_max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(policy: LinkPolicy, count: usize) -> (Vec<(Duration, Bytes)>, FaultHits) {
        let (mut random, mut hits) = (SeededRandom::new(3), FaultHits::default());
        let datagram = Bytes::from_static(&[0; 64]);
        let pieces =
            (0..count).flat_map(|_| policy.judge(&mut random, datagram.clone(), &mut hits)).collect();
        (pieces, hits)
    }

    #[test]
    fn a_cut_link_passes_nothing_and_counts() {
        let (pieces, hits) = judge(LinkPolicy { cut: true, ..LinkPolicy::default() }, 10);
        assert!(pieces.is_empty());
        assert_eq!(hits.cut, 10);
    }

    #[test]
    fn each_fault_hits_about_as_often_as_asked() {
        let policy = LinkPolicy {
            loss: 100_000,
            duplicate: 200_000,
            corrupt: 300_000,
            truncate: 50_000,
            replay: 40_000,
            delay_min_us: 100,
            delay_max_us: 900,
            cut: false,
        };
        let (pieces, hits) = judge(policy, 10_000);
        assert!((900..1_100).contains(&hits.lost), "{hits:?}");
        assert!((1_650..1_950).contains(&hits.duplicated), "{hits:?}");
        assert!(hits.corrupted > 2_000 && hits.truncated > 300, "{hits:?}");
        assert!((300..450).contains(&hits.replayed), "{hits:?}");
        assert_eq!(pieces.len() as u64, 10_000 - hits.lost + hits.duplicated + hits.replayed);
        let range = Duration::from_micros(100)..=Duration::from_micros(900);
        let late = pieces.iter().filter(|(delay, _)| !range.contains(delay)).count();
        assert_eq!((late as u64, hits.delayed), (hits.replayed, 0), "only a replay is late");
        let (_, hits) =
            judge(LinkPolicy { delay_min_us: 1_100, delay_max_us: 2_000, ..LinkPolicy::default() }, 9);
        assert_eq!(hits.delayed, 9);
    }
}
