//! How this node calls others: addresses, headers, deadlines, lanes. Knows what is said ([`messages`]) and to whom,
//! not what is done with it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use openraft::async_runtime::watch::WatchReceiver;
use openraft::type_config::alias::WatchReceiverOf;
use openraft::{RaftMetrics, ServerState};
use rpc_core::endpoint::Lane;
use rpc_core::peer::Peer;
use rpc_core::rpc::{CallError, Code, RpcError};
use rpc_core::runtime::{Instant, Runtime};
use serde::Serialize;
use serde::de::DeserializeOwned;

use self::messages::{Denied, Envelope, Header, Known, VERSION};
use crate::config::Timers;
use crate::formation::Introduction;
use crate::freshness::{Clocks, Freshness};
use crate::identity::NodeName;
use crate::resolver::Resolver;
use crate::types::TypeConfig;

pub(crate) mod client;
pub(crate) mod messages;

/// Where the services of this crate are mounted.
pub(crate) const SERVICE: &str = "raft";

/// The names of the methods below [`SERVICE`].
pub(crate) mod method {
    pub(crate) const HELLO: &str = "hello";
    pub(crate) const ASSIGN: &str = "assign";
    pub(crate) const APPEND: &str = "append";
    pub(crate) const HEARTBEAT: &str = "heartbeat";
    pub(crate) const VOTE: &str = "vote";
    pub(crate) const PRE_VOTE: &str = "pre_vote";
    pub(crate) const TRANSFER: &str = "transfer_leader";
    pub(crate) const SNAPSHOT_BEGIN: &str = "snapshot.begin";
    pub(crate) const SNAPSHOT_PART: &str = "snapshot.part";
    pub(crate) const SNAPSHOT_FINISH: &str = "snapshot.finish";
    pub(crate) const ASK: &str = "ask";
    pub(crate) const READ_INDEX: &str = "read_index";
    pub(crate) const CHANGE: &str = "change";
}

/// What openraft tells about itself, as it changes.
pub(crate) type Metrics = WatchReceiverOf<TypeConfig, RaftMetrics<TypeConfig>>;

/// This node's way to the others.
pub(crate) struct Network {
    pub(crate) runtime: Runtime,
    pub(crate) timers: Timers,
    peer: Peer,
    resolver: Arc<dyn Resolver>,
    freshness: Arc<Freshness>,
    /// The cluster and who this node is in it, as soon as that is known.
    own: OnceLock<(u128, NodeName)>,
    metrics: OnceLock<Metrics>,
    streams: AtomicU64,
}

/// A member to be called.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) name: NodeName,
    pub(crate) address: String,
}

impl Network {
    pub(crate) fn new(
        runtime: Runtime,
        timers: Timers,
        peer: Peer,
        resolver: Arc<dyn Resolver>,
        freshness: Arc<Freshness>,
    ) -> Self {
        let (own, metrics, streams) = (OnceLock::new(), OnceLock::new(), AtomicU64::new(0));
        Self { runtime, timers, peer, resolver, freshness, own, metrics, streams }
    }

    /// From now on this node speaks as `name` of `cluster`. The first call counts.
    pub(crate) fn speak_as(&self, cluster: u128, name: NodeName) {
        // A second call would say the same: an identity with a cluster does not change.
        let _ = self.own.set((cluster, name));
    }

    /// Where to look up how long ago a quorum acknowledged this node. The first call counts.
    pub(crate) fn watch(&self, metrics: Metrics) {
        let _ = self.metrics.set(metrics);
    }

    /// Calls `method` of `target`, once.
    pub(crate) async fn call<Q: Serialize, R: DeserializeOwned + Send + 'static>(
        &self,
        target: &Target,
        method: &str,
        lane: Lane,
        deadline: Instant,
        body: Q,
    ) -> Result<R, CallError<Denied>> {
        let Some((cluster, from)) = self.own.get().copied() else {
            return Err(not_sent("this node belongs to no cluster yet"));
        };
        let header = Header { version: VERSION, cluster, from, to: target.name };
        self.send(&target.address, method, lane, deadline, &Envelope { header, body }).await
    }

    /// Introduces this node to whoever is at `address`.
    pub(crate) async fn hello(
        &self,
        address: &str,
        introduction: &Introduction,
        deadline: Instant,
    ) -> Result<Introduction, CallError<Denied>> {
        self.send(address, method::HELLO, Lane::Control, deadline, introduction).await
    }

    async fn send<Q: Serialize, R: DeserializeOwned + Send + 'static>(
        &self,
        address: &str,
        method: &str,
        lane: Lane,
        deadline: Instant,
        message: &Q,
    ) -> Result<R, CallError<Denied>> {
        let Some(socket) = self.resolver.resolve(address) else {
            return Err(not_sent(format_args!("address of {address} not known yet")));
        };
        let service = self.peer.remote(socket).at(SERVICE);
        service.call(method, message).deadline(deadline).lane(lane).once().await
    }

    /// The number of a new stream of appends, higher than all before.
    fn stream(&self) -> u64 {
        self.streams.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether this node may believe what its members answer: not for a while after it was suspended, when openraft takes
    /// late answers for answers to later messages.
    pub(crate) fn is_settled(&self) -> bool {
        let clocks = Clocks::of(&self.runtime);
        self.freshness.is_since(clocks.now, clocks)
    }

    /// What is committed, and how long ago a quorum acknowledged this node as the leader, if it leads and has committed an
    /// entry of its term: before that it does not know everything that is committed.
    pub(crate) fn known(&self) -> Option<Known> {
        let metrics = self.metrics.get()?.borrow_watched();
        let committed = metrics.cluster_committed?;
        if metrics.state != ServerState::Leader || committed.leader_id != metrics.vote.leader_id {
            return None;
        }
        let (acked_at, clocks) = (metrics.last_quorum_acked?.into_inner().0, Clocks::of(&self.runtime));
        if !self.freshness.is_since(acked_at, clocks) {
            return None;
        }
        let age = clocks.now - acked_at;
        self.freshness.hear(clocks.now, Some(committed.index), age);
        Some(Known { commit: committed.index, age_us: age.as_micros() as u64 })
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network").field("own", &self.own.get()).finish_non_exhaustive()
    }
}

fn not_sent(reason: impl fmt::Display) -> CallError<Denied> {
    RpcError::not_executed(Code::ConnectionLost, reason.to_string()).into()
}
