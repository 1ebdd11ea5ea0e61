//! What a running node does by itself: founds its cluster's state, expires sessions, builds snapshots, tells what
//! happens, and notices its own end.

use std::sync::Arc;
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use rpc_core::runtime::Instant;

use crate::command::Command;
use crate::life::{Life, Running};
use crate::machine::StateMachine;
use crate::membership::transfer_leadership;
use crate::network::Metrics;
use crate::proposals::Proposals;
use crate::status::Phase;

/// Starts them all; they end with the node.
pub(crate) fn start<S: StateMachine>(life: &Arc<Life<S>>, proposals: &Arc<Proposals<S>>) {
    let (life, proposals) = (Arc::clone(life), Arc::clone(proposals));
    let runtime = life.runtime.clone();
    runtime.clone().spawn("duties", async move {
        let Some(running) = until_running(&life).await else { return };
        runtime.spawn("report", report(Arc::clone(&life), running.metrics.clone()));
        runtime.spawn("found", found(Arc::clone(&life), running.clone(), Arc::clone(&proposals)));
        runtime.spawn("expire", expire(Arc::clone(&life), running.clone(), proposals));
        runtime.spawn("space", watch_space(Arc::clone(&life), running.clone()));
        runtime.spawn("snapshot", build_snapshots(life, running));
    });
}

async fn until_running<S: StateMachine>(life: &Life<S>) -> Option<Running<S>> {
    let mut phase = life.phase();
    loop {
        if let Some(running) = life.running() {
            return Some(running.clone());
        }
        if matches!(*phase.borrow_watched(), Phase::Stopped(_)) {
            return None;
        }
        phase.changed().await.ok()?;
    }
}

/// Tells every change of role, term, leader and snapshot; ends the node when openraft has ended.
async fn report<S: StateMachine>(life: Arc<Life<S>>, mut metrics: Metrics) {
    let mut told = None;
    let mut committed = None;
    loop {
        let now = {
            let metrics = metrics.borrow_and_update();
            if let Err(error) = &metrics.running_state {
                if !matches!(&*life.phase().borrow_watched(), Phase::Draining) {
                    life.fail(error);
                }
                return;
            }
            if committed != metrics.local_committed {
                committed = metrics.local_committed;
                life.runtime.trace(|| format!("committed {:?}", committed.map(|id| id.index)));
            }
            (metrics.state, metrics.vote, metrics.current_leader, metrics.snapshot, metrics.purged)
        };
        if told != Some(now) {
            told = Some(now);
            let (state, vote, leader, snapshot, purged) = now;
            let (snapshot, purged) = (snapshot.map(|id| id.index), purged.map(|id| id.index));
            life.runtime.trace(|| {
                format!("{state:?} vote {vote} leader {leader:?} snapshot {snapshot:?} purged {purged:?}")
            });
            tracing::info!(?state, %vote, ?leader, ?snapshot, "raft");
        }
        if metrics.changed().await.is_err() {
            life.fail("raft ended");
            return;
        }
    }
}

/// Whoever leads first founds the cluster in the log; nothing else is proposed before.
async fn found<S: StateMachine>(life: Arc<Life<S>>, running: Running<S>, proposals: Arc<Proposals<S>>) {
    let mut metrics = running.metrics.clone();
    while life.host.cluster().is_none() {
        if leads(&running) {
            let command = Command::Found {
                cluster: running.cluster,
                session_lifetime_ms: life.config.session_lifetime.as_millis() as u64,
                time_ms: life.runtime.wall_ms(),
            };
            propose(&life, &running, &proposals, command).await;
        }
        // A new leader refuses proposals until a quorum has acknowledged it; nothing says when.
        let changed = metrics.changed().await;
        if changed.is_err() {
            return;
        }
        if !life.pause(FOUND_PAUSE).await {
            return;
        }
    }
    if life.host.cluster() != Some(running.cluster) {
        life.fail("the state belongs to another cluster than the identity");
    }
}

/// Once a minute the leader drops the sessions that nobody used for their lifetime, if there are any.
async fn expire<S: StateMachine>(life: Arc<Life<S>>, running: Running<S>, proposals: Arc<Proposals<S>>) {
    while life.pause(EXPIRE_INTERVAL).await {
        for _ in 0..EXPIRE_ROUNDS_MAX {
            let time_ms = life.runtime.wall_ms().max(life.host.applied().time_ms);
            if !leads(&running) || life.host.sessions().expiry_ms.is_none_or(|due_ms| due_ms > time_ms) {
                break;
            }
            propose(&life, &running, &proposals, Command::Expire { time_ms }).await;
        }
    }
}

/// Looks at the space on the disk. A leader whose disk is full takes no writes; so it lets somebody else lead, who may
/// have more space, and tries that again only after a while: they may all be full.
async fn watch_space<S: StateMachine>(life: Arc<Life<S>>, running: Running<S>) {
    let mut handed_at: Option<Instant> = None;
    loop {
        let full = life.look_at_space();
        let now = life.runtime.now();
        if full && leads(&running) && handed_at.is_none_or(|at| now >= at + HAND_OVER_PAUSE) {
            handed_at = Some(now);
            match transfer_leadership(&life, &running, None, now + DUTY_TIMEOUT).await {
                Ok(leader) => tracing::warn!(leader, "the disk is full: somebody else leads"),
                Err(refusal) => tracing::warn!(%refusal, "the disk is full, and nobody else took the lead"),
            }
        }
        if !life.pause(SPACE_INTERVAL).await {
            return;
        }
    }
}

/// Builds a snapshot when the log has grown enough since the last one.
async fn build_snapshots<S: StateMachine>(life: Arc<Life<S>>, running: Running<S>) {
    let trigger = &life.config.snapshots;
    let mut size_before = 0;
    while life.pause(SNAPSHOT_INTERVAL).await {
        let (applied, snapshot) = {
            let metrics = running.metrics.borrow_watched();
            (metrics.last_applied.map_or(0, |id| id.index), metrics.snapshot.map_or(0, |id| id.index))
        };
        let size = life.log_size_appended();
        let due = applied - snapshot.min(applied) >= trigger.entries || size - size_before >= trigger.bytes;
        if !due || applied <= snapshot {
            continue;
        }
        size_before = size;
        life.runtime.trace(|| format!("build a snapshot at {applied}"));
        if running.raft.trigger().snapshot().await.is_err() {
            return;
        }
        let mut metrics = running.metrics.clone();
        let built = metrics.wait_until(|metrics| metrics.snapshot.map(|id| id.index) >= Some(applied));
        // Whether it is there or not, the next look decides; a large one takes its time.
        let _ = life.runtime.timeout(SNAPSHOT_TIMEOUT, built).await;
    }
}

async fn propose<S: StateMachine>(
    life: &Life<S>,
    running: &Running<S>,
    proposals: &Proposals<S>,
    command: Command,
) {
    let deadline: Instant = life.runtime.now() + DUTY_TIMEOUT;
    match command.encode() {
        // Whatever the answer: who still has the duty looks at the state again.
        Ok(bytes) => drop(proposals.propose_bytes(running, bytes, deadline).await),
        Err(error) => tracing::error!(%error, "command of a duty not encoded"),
    }
}

fn leads<S: StateMachine>(running: &Running<S>) -> bool {
    running.metrics.borrow_watched().state == ServerState::Leader
}

/// Between two attempts to found the cluster.
const FOUND_PAUSE: Duration = Duration::from_millis(2);
/// Between two looks at the sessions.
const EXPIRE_INTERVAL: Duration = Duration::from_secs(60);
/// Expire commands in one look; what is left is due at the next.
const EXPIRE_ROUNDS_MAX: usize = 100;
/// Between two looks at the space on the disk.
const SPACE_INTERVAL: Duration = Duration::from_millis(500);
/// Between two attempts of a full leader to let somebody else lead.
const HAND_OVER_PAUSE: Duration = Duration::from_secs(30);
/// Between two looks at the log.
const SNAPSHOT_INTERVAL: Duration = Duration::from_secs(1);
/// How long a snapshot may take before the log is looked at again.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(600);
/// How long one proposal of a duty may take.
const DUTY_TIMEOUT: Duration = Duration::from_secs(5);
