//! The life of a node: from an empty folder, through meeting the others, to a member whose Raft runs, to its end.
//!
//! Every turn in it happens once, one at a time, in a task of its own, and is durable before it shows. Raft does not
//! exist before the node knows its cluster: so a node that must not vote cannot.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use openraft::async_runtime::watch::{Watch, WatchReceiver, WatchSender};
use openraft::{Config, Raft, SnapshotPolicy};
use rpc_core::runtime::Runtime;
use tokio::sync::mpsc;

use crate::change::Change;
use crate::config::NodeConfig;
use crate::disk::{Disk, Space};
use crate::formation::{Formation, Introduction, Step};
use crate::freshness::Freshness;
use crate::host::Host;
use crate::identity::{Identity, NodeName};
use crate::log::LogStore;
use crate::machine::StateMachine;
use crate::network::client::Clients;
use crate::network::messages::{Denied, Header, VERSION};
use crate::network::{Metrics, Network, Target};
use crate::probe::ProbedEntry;
use crate::runtime::watch;
use crate::spans::Spans;
use crate::status::{Phase, StopReason, Vote};
use crate::types::{Member, TypeConfig};

/// openraft's handle.
pub(crate) type RaftHandle<S> = Raft<TypeConfig, Host<S>>;

/// One node's life. Shared by everything that serves or uses it.
pub(crate) struct Life<S: StateMachine> {
    pub(crate) runtime: Runtime,
    pub(crate) config: NodeConfig,
    pub(crate) host: Host<S>,
    pub(crate) freshness: Arc<Freshness>,
    pub(crate) spans: Spans,
    /// The last change of the members that this node led to its end, and what it answered. Locked while one goes on.
    pub(crate) changed: tokio::sync::Mutex<Option<(Change, u64)>>,
    disk: Disk,
    log: LogStore,
    /// The space on the disk while it is below the reserve.
    shortage: Mutex<Option<Space>>,
    state: Mutex<State>,
    network: OnceLock<Arc<Network>>,
    running: OnceLock<Running<S>>,
    phase: watch::Sender<Phase>,
    /// Locked for the length of a turn.
    turn: tokio::sync::Mutex<()>,
}

struct State {
    identity: Identity,
    formation: Formation,
}

/// A node that is a member.
pub(crate) struct Running<S: StateMachine> {
    pub(crate) raft: RaftHandle<S>,
    pub(crate) metrics: Metrics,
    pub(crate) cluster: u128,
    pub(crate) name: NodeName,
    pub(crate) network: Arc<Network>,
}

impl<S: StateMachine> Clone for Running<S> {
    fn clone(&self) -> Self {
        Self {
            raft: self.raft.clone(),
            metrics: self.metrics.clone(),
            cluster: self.cluster,
            name: self.name,
            network: Arc::clone(&self.network),
        }
    }
}

impl<S: StateMachine> Running<S> {
    /// Who leads as far as this node knows, and how to call it.
    pub(crate) fn leader(&self) -> Option<Target> {
        let metrics = self.metrics.borrow_watched();
        let id = metrics.current_leader?;
        let member = metrics.membership_config.get_node(&id)?;
        Some(Target {
            name: NodeName { id, incarnation: member.incarnation },
            address: member.address.clone(),
        })
    }
}

impl<S: StateMachine> Life<S> {
    pub(crate) fn new(
        runtime: Runtime,
        config: NodeConfig,
        disk: Disk,
        identity: Identity,
        log: LogStore,
        host: Host<S>,
    ) -> Self {
        let members: BTreeMap<u64, String> = config.members.iter().cloned().collect();
        let formation = Formation::new(identity.name(), members, config.joining);
        let (phase, _) = watch::Channel::channel(phase_of(&formation.step()));
        Self {
            spans: Spans::new(runtime.clone()),
            freshness: Arc::new(Freshness::new(runtime.random_u64())),
            runtime,
            config,
            host,
            changed: tokio::sync::Mutex::new(None),
            disk,
            log,
            shortage: Mutex::new(None),
            state: Mutex::new(State { identity, formation }),
            network: OnceLock::new(),
            running: OnceLock::new(),
            phase,
            turn: tokio::sync::Mutex::new(()),
        }
    }

    /// The node may speak from now on: a member goes on with its life, an empty node meets the others.
    pub(crate) fn begin(self: &Arc<Self>, network: Arc<Network>) {
        // The first call counts; there is one, because a boot is consumed by its start.
        let _ = self.network.set(network);
        if let Some(cluster) = self.lock().identity.cluster {
            self.runtime.spawn("recognize", Arc::clone(self).recognize(cluster));
            return;
        }
        let own = self.config.id;
        for (_, address) in self.config.members.iter().filter(|(id, _)| *id != own) {
            self.runtime.spawn("meet", Arc::clone(self).meet(address.clone()));
        }
        self.consider();
    }

    /// A member starts once another one answers as a member of the same cluster, or when none has within a moment: then
    /// there is no quorum that could be kept waiting. If a majority of the listed members belongs to another
    /// cluster, this data was put in a foreign place, and must not be served there.
    async fn recognize(self: Arc<Self>, own: u128) {
        let others = self.config.members.iter().filter(|(id, _)| *id != self.config.id);
        let (sender, mut answers) = mpsc::channel(self.config.members.len().max(1));
        let deadline = self.runtime.now() + RECOGNITION;
        for (id, address) in others.cloned() {
            let (life, sender) = (Arc::clone(&self), sender.clone());
            self.runtime.spawn("ask for the cluster", async move {
                let Some(network) = life.network.get() else { return };
                let answer = network.hello(&address, &life.introduction(None), deadline).await;
                // Nobody listens any more once one of the same cluster has answered.
                let _ = sender.send((id, answer.ok().and_then(|other| other.cluster))).await;
            });
        }
        drop(sender);
        let mut foreign = Vec::new();
        while let Some((id, cluster)) = answers.recv().await {
            match cluster {
                Some(cluster) if cluster == own => {
                    foreign.clear();
                    break;
                }
                Some(cluster) => foreign.push((id, cluster)),
                None => {}
            }
        }
        if let Some((_, cluster)) = foreign.first()
            && foreign.len() > self.config.members.len() / 2
            && foreign.iter().all(|(_, other)| other == cluster)
            && self.running().is_none()
        {
            let mut members: Vec<u64> = foreign.iter().map(|(id, _)| *id).collect();
            members.sort_unstable();
            self.set_phase(Phase::Stopped(StopReason::Foreign(format!(
                "this data belongs to cluster {own:032x}, but the listed members {members:?} to cluster \
                 {cluster:032x}: start with the data that belongs here, or with an empty folder"
            ))));
            return;
        }
        self.take_turn(|_| true);
    }

    /// Who this node is.
    pub(crate) fn identity(&self) -> Identity {
        self.lock().identity.clone()
    }

    /// The node as a member, if it is one by now.
    pub(crate) fn running(&self) -> Option<&Running<S>> {
        self.running.get()
    }

    /// Where the node stands in its life, as it changes.
    pub(crate) fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    fn has_stopped(&self) -> bool {
        matches!(&*self.phase.borrow_watched(), Phase::Stopped(_))
    }

    /// Waits; whether the node still lives then. Returns early when it stops, so that nothing holds its disk.
    pub(crate) async fn pause(&self, time: Duration) -> bool {
        let mut phase = self.phase();
        let stopped = phase.wait_until(|phase| matches!(phase, Phase::Stopped(_)));
        self.runtime.timeout(time, stopped).await.is_err()
    }

    /// Makes everything durable.
    pub(crate) async fn sync(&self) -> io::Result<()> {
        self.log.sync().await
    }

    /// The space on the disk as it was looked at last, if it is below the reserve.
    pub(crate) fn shortage(&self) -> Option<Space> {
        *self.shortage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the space on the disk; whether it is below the reserve.
    pub(crate) fn look_at_space(&self) -> bool {
        let shortage = match self.disk.files.space() {
            Ok(space) => (space.free < space.reserve()).then_some(space),
            Err(error) => {
                tracing::warn!(%error, "the space on the disk is not known");
                None
            }
        };
        let mut before = self.shortage.lock().unwrap_or_else(PoisonError::into_inner);
        match (*before, shortage) {
            (None, Some(Space { free, .. })) => {
                tracing::error!(free, "the disk is full: no writes are taken")
            }
            (Some(_), None) => tracing::info!("there is space on the disk again: writes are taken"),
            _ => {}
        }
        *before = shortage;
        shortage.is_some()
    }

    /// The vote that is durable.
    pub(crate) fn vote_saved(&self) -> Vote {
        self.log.vote_saved()
    }

    /// What a probe sees of the log from index `from` on, at most `count` entries.
    pub(crate) fn probe_log(&self, from: u64, count: u64) -> io::Result<Vec<ProbedEntry>> {
        self.log.probe(from, count)
    }

    /// Bytes of log entries that were there at the start and that were appended since.
    pub(crate) fn log_size_appended(&self) -> u64 {
        self.log.size_appended()
    }

    /// Moves on in life; the end is final.
    pub(crate) fn set_phase(&self, next: Phase) {
        let changed = self.phase.send_if_modified(|phase| {
            let changes = *phase != next && !matches!(phase, Phase::Stopped(_));
            if changes {
                phase.clone_from(&next);
            }
            changes
        });
        if !changed {
            return;
        }
        self.runtime.trace(|| format!("phase: {next}"));
        match &next {
            Phase::Replaced { id } => tracing::error!(
                node_id = id,
                "the cluster knows this node with other data: it neither votes nor appends until it is replaced"
            ),
            Phase::Stopped(StopReason::Fatal(reason) | StopReason::Foreign(reason)) => {
                tracing::error!(%reason, "node stopped");
            }
            _ => tracing::info!(phase = %next, "phase"),
        }
    }

    /// Stops the node because its disk or its state failed.
    pub(crate) fn fail(&self, reason: impl fmt::Display) {
        self.set_phase(Phase::Stopped(StopReason::Fatal(reason.to_string())));
    }

    /// Checks the header of a message and gives the member it is meant for. An empty node that the message names
    /// exactly joins the sender's cluster first, if it has reason to believe the sender.
    pub(crate) async fn enter(self: &Arc<Self>, header: Header) -> Result<Running<S>, Denied> {
        self.enter_as(header, |identity, to| identity.name() == to).await
    }

    /// As [`Life::enter`], but an empty node takes the id that the header names.
    pub(crate) async fn assign(self: &Arc<Self>, header: Header) -> Result<Running<S>, Denied> {
        self.enter_as(header, |identity, to| identity.incarnation == to.incarnation).await
    }

    async fn enter_as(
        self: &Arc<Self>,
        header: Header,
        is_meant: impl Fn(&Identity, NodeName) -> bool + Send + Sync + 'static,
    ) -> Result<Running<S>, Denied> {
        if header.version != VERSION {
            return Err(Denied::Version(VERSION));
        }
        if self.running().is_none() {
            if let Some(own) = self.identity().cluster.filter(|own| *own != header.cluster) {
                return Err(Denied::Cluster(Some(own)));
            }
            let (identity, believed) = {
                let state = self.lock();
                let listed = self.config.members.iter().any(|(id, _)| *id == header.from.id);
                (state.identity.clone(), listed || state.formation.vouches(header.from, header.cluster))
            };
            if identity.cluster.is_none() && !(is_meant(&identity, header.to) && believed) {
                return Err(if is_meant(&identity, header.to) {
                    Denied::Cluster(None)
                } else {
                    Denied::NotMe(identity.name())
                });
            }
            let turn = self.take_turn(move |identity| {
                if identity.cluster.is_none() && is_meant(identity, header.to) {
                    identity.cluster = Some(header.cluster);
                    identity.id = header.to.id;
                }
                identity.cluster.is_some()
            });
            turn.await.map_err(|_| Denied::NotRunning)?;
        }
        let running = self.running().ok_or(Denied::NotRunning)?;
        self.check(running, &header)?;
        Ok(running.clone())
    }

    fn check(&self, running: &Running<S>, header: &Header) -> Result<(), Denied> {
        if self.has_stopped() {
            return Err(Denied::NotRunning);
        }
        if header.cluster != running.cluster {
            return Err(Denied::Cluster(Some(running.cluster)));
        }
        if header.to != running.name {
            return Err(Denied::NotMe(running.name));
        }
        let metrics = running.metrics.borrow_watched();
        match metrics.membership_config.get_node(&header.from.id) {
            Some(member) if member.incarnation != header.from.incarnation => {
                Err(Denied::NotYou(NodeName { id: header.from.id, incarnation: member.incarnation }))
            }
            // A sender that this node does not know may be a member of a membership that it has not heard of.
            _ => Ok(()),
        }
    }

    /// What this node says of itself to the one that introduced itself as `other`.
    pub(crate) fn introduction(&self, other: Option<&Introduction>) -> Introduction {
        let identity = self.identity();
        let mut listed: Vec<u64> = self.config.members.iter().map(|(id, _)| *id).collect();
        listed.sort_unstable();
        Introduction {
            configured: identity.configured,
            name: identity.name(),
            cluster: identity.cluster,
            knows_you: other.and_then(|other| self.known_as(&identity, other)),
            listed,
        }
    }

    /// As whom the cluster knows the node that introduced itself: by its id, or (after a replacement) by its address.
    fn known_as(&self, identity: &Identity, other: &Introduction) -> Option<NodeName> {
        let applied = self.host.membership();
        let mut members: BTreeMap<u64, Member> =
            applied.nodes().map(|(id, member)| (*id, member.clone())).collect();
        if members.is_empty() {
            members.clone_from(&identity.founding);
        }
        let listed = self.config.members.iter().find(|(id, _)| *id == other.configured);
        let by_address = || {
            let (_, address) = listed?;
            members.iter().find(|(_, member)| member.address == *address)
        };
        let (id, member) = members.get_key_value(&other.name.id).or_else(by_address)?;
        Some(NodeName { id: *id, incarnation: member.incarnation })
    }

    /// Takes in what another node says of itself, and acts on it.
    pub(crate) fn hear(self: &Arc<Self>, other: Introduction) {
        self.lock().formation.hear(other);
        self.consider();
    }

    fn consider(self: &Arc<Self>) {
        let step = {
            let state = self.lock();
            if state.identity.cluster.is_some() {
                return;
            }
            state.formation.step()
        };
        self.set_phase(phase_of(&step));
        if let Step::Found(members) = step {
            let cluster = self.runtime.random_u128();
            self.take_turn(move |identity| {
                if identity.cluster.is_none() {
                    identity.cluster = Some(cluster);
                    identity.founding = members;
                }
                true
            });
        }
    }

    /// Asks the node at `address` who it is, until this node belongs to a cluster.
    async fn meet(self: Arc<Self>, address: String) {
        while let Some(network) = self.network.get() {
            if self.lock().identity.cluster.is_some() {
                return;
            }
            let introduction = self.introduction(None);
            let deadline = self.runtime.now() + MEET_TIMEOUT;
            match network.hello(&address, &introduction, deadline).await {
                Ok(other) => self.hear(other),
                Err(error) => tracing::debug!(address, %error, "not met yet"),
            }
            let forming = matches!(*self.phase.borrow_watched(), Phase::Forming { .. });
            if !self.pause(if forming { MEET_PAUSE } else { MEET_PAUSE_WAITING }).await {
                return;
            }
        }
    }

    /// Lets `change` change who this node is, makes that durable, and starts Raft if `change` says that it can; in a
    /// task of its own, which goes on when the caller is gone. Does nothing once Raft runs.
    fn take_turn(
        self: &Arc<Self>,
        change: impl FnOnce(&mut Identity) -> bool + Send + 'static,
    ) -> rpc_core::runtime::Task<()> {
        let life = Arc::clone(self);
        self.runtime.spawn("turn", async move {
            let _turn = life.turn.lock().await;
            if life.running().is_some() || life.has_stopped() {
                return;
            }
            let before = life.identity();
            let mut identity = before.clone();
            if !change(&mut identity) {
                return;
            }
            let turned = async {
                if identity != before {
                    identity.store(&life.disk).await?;
                    life.lock().identity = identity.clone();
                }
                life.launch(&identity).await
            };
            if let Err(error) = turned.await {
                life.fail(error);
            }
        })
    }

    /// Starts Raft.
    async fn launch(&self, identity: &Identity) -> io::Result<()> {
        let (Some(network), Some(cluster)) = (self.network.get(), identity.cluster) else { return Ok(()) };
        network.speak_as(cluster, identity.name());
        let config = raft_config(&self.config).map_err(io::Error::other)?;
        let clients = Clients(Arc::clone(network));
        let raft =
            Raft::new(identity.id, Arc::new(config), clients, self.log.clone(), self.host.clone()).await;
        let raft: RaftHandle<S> = raft.map_err(io::Error::other)?;
        let metrics = raft.metrics();
        network.watch(metrics.clone());
        let running = Running {
            raft: raft.clone(),
            metrics,
            cluster,
            name: identity.name(),
            network: Arc::clone(network),
        };
        // The turn is locked: nobody else sets it.
        let _ = self.running.set(running);
        if !identity.founding.is_empty() && !raft.is_initialized().await.map_err(io::Error::other)? {
            let members: BTreeMap<u64, Member> = identity.founding.clone();
            raft.initialize(members).await.map_err(io::Error::other)?;
        }
        self.set_phase(Phase::Running);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: StateMachine> fmt::Debug for Life<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Life")
    }
}

fn phase_of(step: &Step) -> Phase {
    match step {
        Step::Ask(missing) => Phase::Forming { missing: missing.clone() },
        Step::Found(_) => Phase::Forming { missing: Vec::new() },
        Step::Wait => Phase::Joining,
        Step::Replaced(id) => Phase::Replaced { id: *id },
    }
}

/// openraft's configuration; what is not named here is a default that fits.
pub(crate) fn raft_config(config: &NodeConfig) -> Result<Config, openraft::ConfigError> {
    let ms = |duration: Duration| duration.as_millis() as u64;
    let timers = &config.timers;
    Config {
        cluster_name: "raft".to_owned(),
        heartbeat_interval: ms(timers.heartbeat),
        election_timeout_min: ms(timers.election_min),
        election_timeout_max: ms(timers.election_max),
        // A node that was cut off must not depose the leader when it comes back.
        enable_pre_vote: Some(true),
        // A restarted leader asks for votes like everybody else.
        enable_leader_restore: Some(false),
        // A leader that can send but hears nothing gets out of the way.
        quorum_loss_probe_interval: Some(ms(timers.quorum_loss_probe)),
        max_payload_entries: 1_024,
        max_append_entries: Some(4_096),
        api_channel_size: Some(8_192),
        // By bytes and entries, from our own duties.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: config.snapshots.entries_kept,
        replication_lag_threshold: config.snapshots.entries.saturating_add(config.snapshots.entries_kept),
        // The least that is purged at once; the log removes it in small steps.
        purge_batch_size: 1,
        install_snapshot_timeout: 10_000,
        backoff: "20ms 40ms 80ms ..500ms".to_owned(),
        ..Config::default()
    }
    .validate()
}

/// How long a member waits for another one of its cluster before it starts.
const RECOGNITION: Duration = Duration::from_millis(500);
/// How long one introduction may take.
const MEET_TIMEOUT: Duration = Duration::from_millis(500);
/// Between two introductions to a member that a new cluster waits for.
const MEET_PAUSE: Duration = Duration::from_millis(100);
/// Between two introductions when there is nothing to do but to be called.
const MEET_PAUSE_WAITING: Duration = Duration::from_secs(1);
