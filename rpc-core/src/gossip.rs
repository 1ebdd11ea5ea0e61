//! The set of known endpoints, shared among the peers themselves: one address is enough to learn all.
//!
//! Every node advertises itself (addresses, epoch, services, state) under a [`NodeId`] in a replicated map
//! ([`crate::crdt::LwwMap`]). Copies of the map are brought together by an ordinary service, `peers` ([`Peers`]): in a
//! round, at random intervals and soon after a change, a node asks one random known node (or an address it was started
//! with) for its digest, and the two exchange the entries in which they differ. Who knows one node of a connected set
//! therefore soon knows all: the number of rounds grows with the logarithm of the number of nodes.
//!
//! ```
//! # use std::net::Ipv4Addr;
//! # use rpc_core::{driver::{system, udp::UdpSocket}, peer::Peer};
//! use rpc_core::gossip::{Config, Gossip, NodeId};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let runtime = system::runtime(tokio::runtime::Handle::current());
//! # let socket = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0).into());
//! # let first = {
//! #     let peer = Peer::builder(runtime.clone()).start_insecure(socket()?)?;
//! #     let gossip = Gossip::new(runtime.clone(), NodeId(1), Config::default());
//! #     gossip.start(&peer, peer.local_addr().into(), [])?;
//! #     peer
//! # };
//! # let any_address = first.local_addr();
//! let peer = Peer::builder(runtime.clone()).start_insecure(socket()?)?;
//! let gossip = Gossip::new(runtime, NodeId(2), Config::default());
//! gossip.start(&peer, peer.local_addr().into(), [any_address])?;
//!
//! let mut watch = gossip.watch();
//! while gossip.known().len() < 2 {
//!     watch.changed().await;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! **Leaving and silence.** [`Gossip::leave`] writes a tombstone, which outlives every older copy of the entry. A node
//! writes its own entry anew from time to time; one that was not rewritten for [`Config::silent`] is forgotten by
//! everybody. For that an entry travels with its age, measured by the monotonic clocks of those who held it, so that
//! wall clocks need not agree. Only the node itself writes its entry: what others say of it, it outbids.
//!
//! **What it must not be used for.** The set says where nodes can perhaps be reached, no more: it is as honest as the
//! least honest peer that may call, differs from node to node for a while, and forgets who is silent. Nothing that needs
//! agreement, Raft membership above all, may be decided by it.
//!
//! **Limits.** [`NODES_MAX`], [`TOMBSTONES_MAX`], [`ENTRIES_MAX`] per exchange, [`ADDRESSES_MAX`], [`SERVICES_MAX`],
//! [`SERVICE_NAME_SIZE_MAX`], [`AHEAD_MAX`]. A body above its limits is refused as BAD_REQUEST before it is read in
//! full, an entry that is too much is named with its reason in the answer ([`Refusal`]).

mod contract;
mod set;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

pub use self::contract::{
    ADDRESSES_MAX, Advertisement, Difference, Digest, ENTRIES_MAX, Entry, Exchanged, NODES_MAX, News, NodeId,
    Peers, PeersClient, Reason, Refusal, SERVICE_NAME_SIZE_MAX, SERVICES_MAX, State, TOMBSTONES_MAX,
};
pub use self::set::AHEAD_MAX;

use self::contract::{PATH, peers_services};
use self::set::{EndpointSet, Moment};
use crate::gather;
use crate::peer::Peer;
use crate::rpc::registry::NameCollision;
use crate::rpc::{CallError, Ctx, Never};
use crate::runtime::Runtime;

/// How often nodes speak, and what they forget when.
#[derive(Clone, Debug)]
pub struct Config {
    /// The mean time between two rounds of one node; each pause is random between a half and three halves of it.
    pub interval: Duration,
    /// How often a node writes its entry anew. At most a quarter of `silent` is used.
    pub refresh: Duration,
    /// A node whose entry was not written anew for so long is forgotten.
    pub silent: Duration,
    /// How long a tombstone is kept. Copies of an entry that were out of touch for longer can bring it back, for at
    /// most `silent`.
    pub tombstones_kept: Duration,
    /// How long one call of a round may take.
    pub timeout: Duration,
}

impl Default for Config {
    /// Rounds each second, entries each 30 s, silent after 5 minutes, tombstones for a day, 2 s for a call.
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(1),
            refresh: Duration::from_secs(30),
            silent: Duration::from_secs(5 * 60),
            tombstones_kept: Duration::from_secs(24 * 60 * 60),
            timeout: Duration::from_secs(2),
        }
    }
}

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Rounds that were begun.
    pub rounds: u64,
    /// Rounds whose peer did not answer.
    pub rounds_failed: u64,
    /// Entries that were sent to others.
    pub entries_sent: u64,
    /// Entries that others sent.
    pub entries_received: u64,
    /// Entries of others that were refused.
    pub entries_refused: u64,
    /// Entries of ours that others refused.
    pub entries_refused_by_others: u64,
}

/// One node's copy of the set, and the task that keeps it up to date. Cheap to clone.
#[derive(Clone)]
pub struct Gossip {
    inner: Arc<Inner>,
}

struct Inner {
    runtime: Runtime,
    config: Config,
    state: Mutex<Shared>,
    /// There is news to be passed on, or the end.
    nudge: Notify,
    /// `version` rose.
    changed: Notify,
}

struct Shared {
    set: EndpointSet,
    /// What this node says of itself; `None` before the start and after it left.
    own: Option<Advertisement>,
    /// Through which rounds go; dropped when they end, because the peer's services lead back here.
    peer: Option<Peer>,
    seeds: Vec<SocketAddr>,
    /// Rises with every change of [`Gossip::known`].
    version: u64,
    counters: Counters,
}

impl Gossip {
    /// A set without members. `node` is this node's id, which nobody else uses at the same time.
    pub fn new(runtime: Runtime, node: NodeId, config: Config) -> Self {
        let refresh = config.refresh.min(config.silent / 4);
        let config = Config { refresh, ..config };
        let state = Shared {
            set: EndpointSet::new(node, config.silent, config.tombstones_kept),
            own: None,
            peer: None,
            seeds: Vec::new(),
            version: 0,
            counters: Counters::default(),
        };
        let (state, nudge, changed) = (Mutex::new(state), Notify::new(), Notify::new());
        Self { inner: Arc::new(Inner { runtime, config, state, nudge, changed }) }
    }

    /// Serves [`Peers`] at `peer` and begins the rounds through it, until it is closed or [`Gossip::leave`]. Once.
    /// `own` is what others shall know of this node, `seeds` are addresses of any other nodes; they are asked again
    /// from time to time, so that parts of a network that forgot each other meet again.
    ///
    /// # Errors
    /// When `own` is above the limits or says an address that no other node can use, or `peer` serves methods of these
    /// names already.
    pub fn start(
        &self,
        peer: &Peer,
        own: Advertisement,
        seeds: impl IntoIterator<Item = SocketAddr>,
    ) -> Result<(), StartError> {
        own.check().map_err(StartError::Own)?;
        peer.services().merge(peers_services(Arc::new(self.clone()))).map_err(StartError::Names)?;
        self.advertise(own).map_err(StartError::Own)?;
        {
            let mut shared = self.inner.lock();
            shared.seeds = seeds.into_iter().collect();
            shared.peer = Some(peer.clone());
        }
        let (rounds, peer) = (Arc::clone(&self.inner), peer.clone());
        self.inner.runtime.spawn("gossip", async move {
            tokio::select! {
                biased;
                () = peer.closed() => {}
                () = rounds.run() => {}
            }
            rounds.lock().peer = None;
            peer.services().unmount(PATH);
        });
        Ok(())
    }

    /// Changes what others shall know of this node, and tells them soon.
    ///
    /// # Errors
    /// When `own` is above the limits or says an address that no other node can use; nothing is changed then.
    pub fn advertise(&self, own: Advertisement) -> Result<(), Reason> {
        own.check()?;
        let mut shared = self.inner.lock();
        shared.own = Some(own);
        self.inner.write_own(&mut shared);
        Ok(())
    }

    /// Takes this node out of the set for good, tells at most three others and waits for their answers. Gives how many
    /// know it now: with none, the others forget this node when it was silent for long enough.
    pub async fn leave(&self) -> usize {
        const TOLD_MAX: usize = 3;
        let (peer, targets, news) = {
            let mut shared = self.inner.lock();
            let targets = self.inner.others(&shared, TOLD_MAX);
            shared.own = None;
            self.inner.write_own(&mut shared);
            let entries = shared.set.entries(self.inner.moment(), &[shared.set.own()]);
            (shared.peer.take(), targets, News { entries, wanted: Vec::new() })
        };
        let Some(peer) = peer else { return 0 };
        let tell = |address| {
            PeersClient::new(peer.remote(address)).exchange(news.clone()).timeout(self.inner.config.timeout)
        };
        gather::all(targets.into_iter().map(tell)).await.values().count()
    }

    /// The nodes that are known now, this one too.
    pub fn known(&self) -> BTreeMap<NodeId, Advertisement> {
        self.inner.lock().set.known().map(|(node, advertisement)| (node, advertisement.clone())).collect()
    }

    /// What `node` says of itself, if it is known now.
    pub fn find(&self, node: NodeId) -> Option<Advertisement> {
        self.inner.lock().set.find(node).cloned()
    }

    /// Tells of changes from now on.
    pub fn watch(&self) -> Watch {
        Watch { inner: Arc::clone(&self.inner), seen: self.inner.lock().version }
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        self.inner.lock().counters
    }
}

impl fmt::Debug for Gossip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gossip({})", self.inner.lock().set.own())
    }
}

/// Why the rounds cannot begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartError {
    /// What this node says of itself cannot be passed on.
    Own(Reason),
    /// The peer serves something else under the names of [`Peers`].
    Names(NameCollision),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own(reason) => reason.fmt(f),
            Self::Names(collision) => collision.fmt(f),
        }
    }
}

impl std::error::Error for StartError {}

/// Tells of changes of [`Gossip::known`].
pub struct Watch {
    inner: Arc<Inner>,
    seen: u64,
}

impl Watch {
    /// Completes when the set has changed since the last call, or since the watch was made; at once if it did so in
    /// between. Several changes may be told as one.
    pub async fn changed(&mut self) {
        loop {
            let changed = self.inner.changed.notified();
            let version = self.inner.lock().version;
            if version != self.seen {
                self.seen = version;
                return;
            }
            changed.await;
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("seen", &self.seen).finish_non_exhaustive()
    }
}

impl Peers for Gossip {
    async fn digest(&self, _: Ctx, digest: Digest) -> Result<Difference, Never> {
        Ok(self.inner.lock().set.difference(&digest))
    }

    async fn exchange(&self, _: Ctx, news: News) -> Result<Exchanged, Never> {
        let refused = self.inner.take(news.entries);
        let mut shared = self.inner.lock();
        let entries = shared.set.entries(self.inner.moment(), &news.wanted);
        shared.counters.entries_sent += entries.len() as u64;
        Ok(Exchanged { entries, refused })
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn moment(&self) -> Moment {
        Moment { now: self.runtime.now(), wall_ms: self.runtime.wall_ms() }
    }

    /// Rounds until this node has left.
    async fn run(&self) {
        while self.lock().own.is_some() {
            let interval = self.config.interval;
            if self
                .runtime
                .timeout(self.random(interval / 2, interval * 3 / 2), self.nudge.notified())
                .await
                .is_ok()
            {
                // News travels soon, and what comes in between travels with it.
                self.runtime.sleep(self.random(Duration::ZERO, interval / 8)).await;
            }
            if let Some((peer, address)) = self.prepare() {
                self.round(PeersClient::new(peer.remote(address))).await;
            }
        }
    }

    /// Forgets who is silent, writes the own entry anew when it is time, and gives with whom to speak.
    fn prepare(&self) -> Option<(Peer, SocketAddr)> {
        let mut shared = self.lock();
        let moment = self.moment();
        if shared.set.expire(moment) {
            self.announce(&mut shared);
        }
        if shared.own.is_some() && shared.set.own_age(moment) >= self.config.refresh {
            self.write_own(&mut shared);
        }
        let address = self.target(&shared)?;
        shared.counters.rounds += 1;
        Some((shared.peer.clone()?, address))
    }

    /// With whom to speak next: a random known node, or, now and then and when nobody is known, an address from the
    /// start.
    fn target(&self, shared: &Shared) -> Option<SocketAddr> {
        const SEED_CHANCE: u64 = 8;
        let mine = shared.own.as_ref().map_or(&[][..], |own| &own.addresses);
        let seeds: Vec<_> = shared.seeds.iter().filter(|seed| !mine.contains(seed)).collect();
        let seed = self.pick(&seeds).map(|seed| **seed);
        let other = self.others(shared, 1).pop();
        if self.below(SEED_CHANCE) == 0 { seed.or(other) } else { other.or(seed) }
    }

    /// Random known nodes, an address of each.
    fn others(&self, shared: &Shared, count_max: usize) -> Vec<SocketAddr> {
        let reachable = |(node, says): (NodeId, &Advertisement)| {
            let other = node != shared.set.own();
            self.pick(&says.addresses).copied().filter(|_| other)
        };
        let mut addresses: Vec<_> = shared.set.known().filter_map(reachable).collect();
        while addresses.len() > count_max {
            addresses.swap_remove(self.below(addresses.len() as u64) as usize);
        }
        addresses
    }

    async fn round(&self, peers: PeersClient) {
        // Sets that differ by more than fits one exchange need several; no peer holds a node in one for ever.
        const EXCHANGES_MAX: usize = 2 * (NODES_MAX + TOMBSTONES_MAX) / ENTRIES_MAX;
        for _ in 0..EXCHANGES_MAX {
            match self.exchange(&peers).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    tracing::debug!(%error, "no exchange of endpoints");
                    self.lock().counters.rounds_failed += 1;
                    return;
                }
            }
        }
    }

    /// One exchange. True if more is to be exchanged.
    async fn exchange(&self, peers: &PeersClient) -> Result<bool, CallError<Never>> {
        let digest = self.lock().set.digest();
        let difference = peers.digest(digest).timeout(self.config.timeout).await?;
        let (news, more) = self.lock().set.news(self.moment(), &difference);
        if news.entries.is_empty() && news.wanted.is_empty() {
            return Ok(false);
        }
        self.lock().counters.entries_sent += news.entries.len() as u64;
        let exchanged = peers.exchange(news).timeout(self.config.timeout).await?;
        for Refusal { node, reason } in &exchanged.refused {
            tracing::debug!(%node, %reason, "an entry was refused");
        }
        self.lock().counters.entries_refused_by_others += exchanged.refused.len() as u64;
        let refused = self.take(exchanged.entries);
        // What is refused would be offered again and again.
        Ok(more && refused.is_empty() && exchanged.refused.is_empty())
    }

    /// Merges what another node sent; gives what is refused of it.
    fn take(&self, entries: Vec<Entry>) -> Vec<Refusal> {
        let mut shared = self.lock();
        shared.counters.entries_received += entries.len() as u64;
        let taken = shared.set.take(self.moment(), entries);
        shared.counters.entries_refused += taken.refused.len() as u64;
        if taken.contested {
            self.write_own(&mut shared);
            self.nudge.notify_one();
        }
        if taken.changed {
            self.announce(&mut shared);
        }
        taken.refused
    }

    fn write_own(&self, shared: &mut Shared) {
        let own = shared.own.clone();
        if shared.set.write_own(self.moment(), own) {
            self.announce(shared);
        }
    }

    /// The known nodes changed.
    fn announce(&self, shared: &mut Shared) {
        shared.version += 1;
        self.changed.notify_waiters();
        self.nudge.notify_one();
    }

    fn random(&self, low: Duration, high: Duration) -> Duration {
        let span = u64::try_from(high.saturating_sub(low).as_nanos()).unwrap_or(u64::MAX);
        low + Duration::from_nanos(self.below(span.max(1)))
    }

    fn pick<'a, T>(&self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len().max(1) as u64) as usize)
    }

    fn below(&self, bound: u64) -> u64 {
        self.runtime.random_u64() % bound
    }
}

/// Takes in what a peer sent, as a node does that knows nobody yet, for the fuzz targets: limits must hold, and taking it
/// twice is taking it once.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn take_anything(digest: Option<&Digest>, news: Option<News>) {
    const WALL_MS: u64 = 1_767_225_600_000;
    let config = Config::default();
    let moment = Moment { now: crate::runtime::Instant::from_nanos(1 << 40), wall_ms: WALL_MS };
    let mut set = EndpointSet::new(NodeId(1), config.silent, config.tombstones_kept);
    set.write_own(moment, Some(Advertisement::default()));
    if let Some(news) = news {
        let (count, entries) = (news.entries.len(), news.entries.clone());
        let taken = set.take(moment, news.entries);
        assert!(taken.refused.len() <= count && set.known().count() <= count + 1);
        let again = set.take(moment, entries);
        assert!(!again.changed && set.entries(moment, &news.wanted).len() <= ENTRIES_MAX);
        assert!(set.find(NodeId(1)).is_some(), "nobody else removes this node");
    }
    if let Some(digest) = digest {
        let difference = set.difference(digest);
        let (news, _) = set.news(moment, &difference);
        assert!(news.entries.len() <= ENTRIES_MAX && news.wanted.is_empty());
    }
}

#[cfg(test)]
mod tests;
