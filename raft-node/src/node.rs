//! What a user holds: a node, from its first look at the disk to its shutdown.
//!
//! The order of a start is part of the API, because a node must know who it is before its first datagram:
//! [`Boot::open`] reads (or draws, durably) its identity; [`Boot::services`] are merged into the services of the peer;
//! the peer opens the socket; [`Boot::start`] begins.

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use rpc_core::peer::Peer;
use rpc_core::rpc::Services;
use rpc_core::runtime::{Instant, Runtime};

use crate::backup::{self, Backup};
use crate::change::{Change, ChangeError};
use crate::config::{CONFIGURED_ID_MAX, NodeConfig};
use crate::disk::Disk;
use crate::duties;
use crate::freshness::Clocks;
use crate::life::{Life, Running};
use crate::machine::{RowsRead, StateMachine};
use crate::membership::{self, transfer_leadership};
use crate::network::Network;
use crate::network::messages::{Answer, Ask};
use crate::outcome::{Age, CloseOutcome, Consistency, Hint, OpenOutcome, Read, ReadError, WriteOutcome};
use crate::plant;
use crate::probe::{Probe, ProbedEntry};
use crate::proposals::Proposals;
use crate::reads;
use crate::resolver::Resolver;
use crate::service;
use crate::spans::Spans;
use crate::status::{LogPosition, MemberStatus, Phase, Role, Status, StopReason, Vote};
use crate::storage::{StartError, Storage};

/// A node that knows who it is, and has not spoken yet.
pub struct Boot<S: StateMachine> {
    life: Arc<Life<S>>,
    proposals: Arc<Proposals<S>>,
}

impl<S: StateMachine> Boot<S> {
    /// Opens log and state in `disk`, and reads this node's identity from it; an empty disk gets a new one, which is
    /// durable when this returns.
    ///
    /// # Errors
    /// When the configuration contradicts itself, or the disk fails, holds damaged data, or belongs to another node.
    pub async fn open(
        runtime: Runtime,
        disk: Disk,
        machine: Arc<S>,
        config: NodeConfig,
    ) -> Result<Self, StartError> {
        check(&config)?;
        let opening = Storage::open(&runtime, &disk, machine, config.id, config.host.clone());
        let Storage { identity, log, host } = opening.await?;
        let life = Arc::new(Life::new(runtime, config, disk, identity, log, host));
        let proposals = Arc::new(Proposals::new(Arc::clone(&life)));
        Ok(Self { life, proposals })
    }

    /// What this node serves to other nodes, below `raft`. To be merged into the services of its peer. Calls that come
    /// before [`Boot::start`] are refused as not executed.
    pub fn services(&self) -> Services {
        service::services(&self.life, &self.proposals)
    }

    /// Starts the node. It takes part in its cluster as soon as it knows it; [`Node::status`] tells.
    pub fn start(self, peer: Peer, resolver: Arc<dyn Resolver>) -> Node<S> {
        let Self { life, proposals } = self;
        for (_, address) in &life.config.members {
            // So that names are known when they are needed; the answer is of no interest yet.
            let _ = resolver.resolve(address);
        }
        let (timers, freshness) = (life.config.timers.clone(), Arc::clone(&life.freshness));
        let network = Network::new(life.runtime.clone(), timers, peer, resolver, freshness);
        duties::start(&life, &proposals);
        life.begin(Arc::new(network));
        Node { life, proposals }
    }
}

/// A running node. Cheap to clone.
pub struct Node<S: StateMachine> {
    life: Arc<Life<S>>,
    proposals: Arc<Proposals<S>>,
}

impl<S: StateMachine> Node<S> {
    /// What this node knows about itself and its cluster.
    pub fn status(&self) -> Status {
        let identity = self.life.identity();
        let phase = self.life.phase().borrow_watched().clone();
        let applied = self.life.host.applied();
        let mut status = Status {
            id: identity.id,
            incarnation: identity.incarnation,
            cluster: identity.cluster,
            phase,
            role: Role::Learner,
            leader: None,
            vote: Vote::default(),
            last_log_index: None,
            committed: None,
            applied: applied.log_id.map(LogPosition::of),
            state_hash: applied.state_hash,
            sessions: self.life.host.sessions().sessions,
            snapshot: None,
            purged: None,
            members: Vec::new(),
            quorum_ack_age: None,
        };
        if let Some(running) = self.life.running() {
            self.describe(running, &mut status);
        }
        status
    }

    /// The leader that this node knows, if that is another node: cheap, for a hint beside every answer.
    pub fn other_leader(&self) -> Option<Hint> {
        let running = self.life.running()?;
        let leader = running.leader().filter(|leader| leader.name != running.name)?;
        Some(Hint { id: leader.name.id, address: leader.address })
    }

    /// The cluster that this node runs in; cheap.
    pub fn cluster(&self) -> Option<u128> {
        self.life.running().map(|running| running.cluster)
    }

    fn describe(&self, running: &Running<S>, status: &mut Status) {
        let leader = running.leader();
        let metrics = running.metrics.borrow_watched();
        let now = self.life.runtime.now();
        status.role = match metrics.state {
            ServerState::Learner => Role::Learner,
            ServerState::Follower => Role::Follower,
            ServerState::Candidate => Role::Candidate,
            ServerState::Leader => Role::Leader,
            ServerState::Shutdown => status.role,
        };
        status.leader = leader.map(|leader| Hint { id: leader.name.id, address: leader.address });
        status.vote = Vote::of(metrics.vote);
        status.last_log_index = metrics.last_log_index;
        status.committed = metrics.local_committed.map(LogPosition::of);
        status.snapshot = metrics.snapshot.map(LogPosition::of);
        status.purged = metrics.purged.map(LogPosition::of);
        status.quorum_ack_age = metrics.last_quorum_acked.map(|at| now - at.into_inner().0);
        let voters: BTreeSet<u64> = metrics.membership_config.voter_ids().collect();
        let matched = |id: &u64| metrics.replication.as_ref().and_then(|all| all.get(id).copied().flatten());
        let acked = |id: &u64| metrics.heartbeat.as_ref().and_then(|all| all.get(id).copied().flatten());
        let member = |(id, member): (&u64, &crate::types::Member)| MemberStatus {
            id: *id,
            incarnation: member.incarnation,
            address: member.address.clone(),
            voter: voters.contains(id),
            matched: matched(id).map(|id| id.index),
            ack_age: acked(id).map(|at| now - at.into_inner().0),
        };
        status.members = metrics.membership_config.nodes().map(member).collect();
    }

    /// What became of traced requests on this node.
    pub fn spans(&self) -> &Spans {
        &self.life.spans
    }

    /// What tests may see beyond the status.
    pub fn probe(&self) -> Probe {
        let status = self.status();
        let applied = self.life.host.applied();
        Probe {
            vote: status.vote,
            vote_saved: self.life.vote_saved(),
            last_log_index: status.last_log_index,
            committed: status.committed,
            applied: applied.log_id.map(LogPosition::of),
            state_hash: applied.state_hash,
            purged: status.purged,
        }
    }

    /// The entries of the log from index `from` on, at most `count`; fewer where they are purged or not there yet.
    ///
    /// # Errors
    /// When the disk fails or an entry is damaged.
    pub fn probe_log(&self, from: u64, count: u64) -> std::io::Result<Vec<ProbedEntry>> {
        self.life.probe_log(from, count)
    }

    /// Waits until `condition` holds, at most until `deadline`; the status that was looked at last.
    ///
    /// # Errors
    /// The status at the deadline.
    pub async fn wait_for(
        &self,
        condition: impl Fn(&Status) -> bool + Send,
        deadline: Instant,
    ) -> Result<Status, Box<Status>> {
        let runtime = &self.life.runtime;
        loop {
            let mut phase = self.life.phase();
            let mut metrics = self.life.running().map(|running| running.metrics.clone());
            if let Some(metrics) = &mut metrics {
                // A clone has seen what its original has: nothing. What is looked at below must not wake it.
                drop(metrics.borrow_and_update());
            }
            let status = self.status();
            if condition(&status) {
                return Ok(status);
            }
            if runtime.now() >= deadline {
                return Err(Box::new(status));
            }
            // An end of either channel is the end of the node; the condition may hold then, or the deadline passes.
            let change = async {
                match &mut metrics {
                    Some(metrics) => metrics.changed().await,
                    None => phase.changed().await,
                }
            };
            // Applying moves without a change of either; it is looked at from time to time.
            let look = (runtime.now() + LOOK_INTERVAL).min(deadline);
            if runtime.timeout_at(look, change).await.is_ok_and(|changed| changed.is_err()) {
                runtime.sleep_until(look).await;
            }
        }
    }

    /// Completes when the node has stopped; after any but [`StopReason::Shutdown`] the process must end.
    pub async fn stopped(&self) -> StopReason {
        let mut phase = self.life.phase();
        loop {
            if let Phase::Stopped(reason) = &*phase.borrow_watched() {
                return reason.clone();
            }
            if phase.changed().await.is_err() {
                return StopReason::Shutdown;
            }
        }
    }

    /// Opens a session. `nonce` makes repeated calls answer the same session.
    pub async fn open_session(&self, nonce: u128, deadline: Instant) -> OpenOutcome {
        match self.settle(Ask::Open { nonce }, deadline).await {
            Answer::Opened(session) => OpenOutcome::Opened { session },
            Answer::SessionsFull => OpenOutcome::SessionsFull,
            Answer::Refused(refusal) => OpenOutcome::Refused(refusal),
            _ => OpenOutcome::Unknown,
        }
    }

    /// Ends a session; its records are dropped.
    pub async fn close_session(&self, session: u64, deadline: Instant) -> CloseOutcome {
        match self.settle(Ask::Close { session }, deadline).await {
            Answer::Closed | Answer::SessionExpired => CloseOutcome::Closed,
            Answer::Refused(refusal) => CloseOutcome::Refused(refusal),
            _ => CloseOutcome::Unknown,
        }
    }

    /// Writes `body`, exactly once however often it is asked for (session, sequence); `floor`: every answer with a
    /// lower sequence was received. A node that is not the leader forwards to it.
    pub async fn write(
        &self,
        session: u64,
        sequence: u64,
        floor: u64,
        body: Bytes,
        deadline: Instant,
    ) -> WriteOutcome {
        self.settle(Ask::Write { session, sequence, floor, body }, deadline).await.into()
    }

    /// Settles the outcome of (session, sequence): what it was, or from now on for ever rolled back.
    pub async fn resolve(&self, session: u64, sequence: u64, deadline: Instant) -> WriteOutcome {
        // The floor of somebody who holds only a token.
        self.settle(Ask::Resolve { session, sequence, floor: 0 }, deadline).await.into()
    }

    async fn settle(&self, ask: Ask, deadline: Instant) -> Answer {
        self.enter(self.proposals.settle(ask, deadline)).await
    }

    /// Reads rows of the state machine, all at one revision.
    ///
    /// # Errors
    /// When nobody vouched for the read in time, or the disk failed.
    pub async fn read<T: Send>(
        &self,
        consistency: Consistency,
        deadline: Instant,
        read: impl FnOnce(&dyn RowsRead) -> std::io::Result<T> + Send,
    ) -> Result<Read<T>, ReadError> {
        if consistency == Consistency::Linearizable {
            self.enter(reads::catch_up(&self.life, &self.proposals, deadline)).await?;
        }
        let torn = self.life.host.applied();
        if plant::READ_TORN.is_planted() {
            self.life.runtime.sleep(Duration::from_millis(2)).await;
        }
        let (value, applied) = self.life.host.read(|rows, applied| (read(rows), *applied));
        let applied = if plant::READ_TORN.is_planted() { torn } else { applied };
        let age = match consistency {
            Consistency::Linearizable => Age::Linearizable,
            Consistency::Stale => {
                if let Some(running) = self.life.running() {
                    // A leader remembers what it would tell the others.
                    running.network.known();
                }
                self.life.freshness.age(Clocks::of(&self.life.runtime), applied.index())
            }
        };
        Ok(Read { value: value.map_err(ReadError::Disk)?, revision: applied.revision, age })
    }

    /// Changes who is a member, or who leads. Returns the id of the new member, of the removed one, or of the leader.
    ///
    /// # Errors
    /// When it would cost the quorum, who is named is not fit for it, or the cluster did not agree in time. It can be
    /// repeated.
    pub async fn change(&self, change: Change, deadline: Instant) -> Result<u64, ChangeError> {
        self.enter(membership::change(&self.life, &self.proposals, change, deadline)).await
    }

    /// A snapshot that holds every write that was answered before it was asked for; built if there is none.
    ///
    /// # Errors
    /// When nobody vouched for its freshness in time, it was not built in time, or the disk failed.
    pub async fn backup(&self, deadline: Instant) -> Result<Backup, ReadError> {
        self.enter(backup::take(&self.life, &self.proposals, deadline)).await
    }

    /// Up to `length` bytes at `offset` of a snapshot that [`Node::backup`] named; none behind its end.
    ///
    /// # Errors
    /// `NotFound` when newer snapshots replaced it; the error of the disk when it fails.
    pub fn read_backup(&self, name: &str, offset: u64, length: usize) -> std::io::Result<Bytes> {
        self.life.host.read_snapshot(name, offset, length)
    }

    /// Stops the node: refuses new requests, lets open proposals end and hands leadership over for at most `grace`
    /// in all, makes everything durable.
    pub async fn shutdown(&self, grace: Duration) {
        let life = &self.life;
        let deadline = life.runtime.now() + grace;
        self.proposals.close();
        life.set_phase(Phase::Draining);
        if let Some(running) = life.running() {
            let settled = self.proposals.settled();
            // Those that are late have an unknown outcome; they were told so, or their callers will be.
            let _ = life.runtime.timeout(grace / 2, settled).await;
            if running.metrics.borrow_watched().state == ServerState::Leader {
                // Somebody who does not take over within an election is gone too.
                let deadline = deadline.min(life.runtime.now() + life.config.timers.election_max * 2);
                let handed = self.enter(transfer_leadership(life, running, None, deadline)).await;
                if let Err(refusal) = handed {
                    tracing::warn!(%refusal, "leadership not handed over");
                }
            }
            let ended = self.enter(running.raft.shutdown()).await;
            if ended.is_err() {
                tracing::warn!("raft ended before it was asked to");
            }
        }
        match life.sync().await {
            Ok(()) => life.set_phase(Phase::Stopped(StopReason::Shutdown)),
            Err(error) => life.fail(error),
        }
    }

    /// Lets `future` call into openraft: its runtime is this node's.
    async fn enter<F: Future>(&self, future: F) -> F::Output {
        self.life.runtime.enter(future).await
    }
}

impl<S: StateMachine> Clone for Node<S> {
    fn clone(&self) -> Self {
        Self { life: Arc::clone(&self.life), proposals: Arc::clone(&self.proposals) }
    }
}

impl<S: StateMachine> fmt::Debug for Node<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Node")
    }
}

impl<S: StateMachine> fmt::Debug for Boot<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Boot")
    }
}

/// How often a wait looks at what changes without notice.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

fn check(config: &NodeConfig) -> Result<(), StartError> {
    let refuse = |what: String| Err(StartError::Config(what));
    let mut ids: Vec<u64> = config.members.iter().map(|(id, _)| *id).collect();
    ids.sort_unstable();
    if ids.windows(2).any(|pair| pair[0] == pair[1]) {
        return refuse("a member is listed twice".to_owned());
    }
    if ids.iter().chain([&config.id]).any(|id| !(1..=CONFIGURED_ID_MAX).contains(id)) {
        return refuse(format!("ids are numbers from 1 to {CONFIGURED_ID_MAX}"));
    }
    if !config.joining && !ids.contains(&config.id) {
        return refuse(format!("node {} is not among the members {ids:?}", config.id));
    }
    crate::life::raft_config(config).map(|_| ()).or_else(|error| refuse(error.to_string()))
}
