//! What is done to the disk of a node that does not run: looked at, or made the first member of a new cluster, from a
//! snapshot or from what a lost cluster left on it.
//!
//! A new cluster has one member, its founder; the others join it, empty. It has a new id, so that nodes and tokens of
//! the old one are refused; none of the old sessions; and revisions that go on [`REVISION_STEP`] above the
//! last one that the founder knows of, because the old cluster may have handed out more than it does.

use std::fmt;
use std::io;
use std::sync::Arc;

use futures_util::StreamExt;
use openraft::RaftSnapshotBuilder;
use openraft::storage::{RaftLogReader, RaftStateMachine};
use rpc_core::runtime::Runtime;

use crate::disk::{Disk, Files};
use crate::host::{Host, HostConfig};
use crate::identity::Identity;
use crate::log::{self, LogStore};
use crate::machine::StateMachine;
use crate::snapshot::{self, SUFFIX_DONE, SnapshotFile};
use crate::state_head::StateHead;
use crate::status::{LogPosition, Vote};
use crate::storage::{StartError, Storage};
use crate::types::Member;

/// What lies on the disk of a node.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// The id in the membership.
    pub id: u64,
    /// The id in the configuration that the folder was made with.
    pub configured: u64,
    /// Drawn for this folder.
    pub incarnation: u128,
    /// The cluster it belongs to.
    pub cluster: Option<u128>,
    /// The vote it gave last.
    pub vote: Vote,
    /// The last entry removed from the log.
    pub purged: Option<LogPosition>,
    /// The last entry of the log.
    pub last_log: Option<LogPosition>,
    /// The last entry that is known here to be committed. Later ones may be, too.
    pub committed: Option<LogPosition>,
    /// What the state holds.
    pub state: StateSummary,
    /// The snapshot files, newest first.
    pub snapshots: Vec<(String, Result<SnapshotSummary, String>)>,
}

/// What a state holds that was read as a whole.
#[derive(Clone, Debug)]
pub struct StateSummary {
    /// The last applied entry.
    pub applied: Option<LogPosition>,
    /// The revision of that entry.
    pub revision: u64,
    /// A hash over all of it.
    pub state_hash: u128,
    /// Rows of the state machine, of sessions, and of records.
    pub rows: u64,
    /// Open sessions.
    pub sessions: usize,
    /// The members: id, address, whether it votes.
    pub members: Vec<(u64, String, bool)>,
}

/// What a snapshot file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotSummary {
    /// Bytes of the file.
    pub size: u64,
    /// The cluster that it comes from.
    pub cluster: Option<u128>,
    /// The last entry in it.
    pub applied: Option<LogPosition>,
    /// The revision of that entry.
    pub revision: u64,
    /// Log time, in milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// Its rows, of sessions too.
    pub rows: u64,
}

/// The first member of a new cluster.
#[derive(Clone, Debug)]
pub struct Founder {
    /// Its id, as its configuration will say.
    pub id: u64,
    /// Its address as the others will reach it.
    pub address: String,
}

/// A cluster that was founded anew; its founder may be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Founded {
    /// Its id.
    pub cluster: u128,
    /// The log goes on behind this index.
    pub index: u64,
    /// Revisions go on above this.
    pub revision: u64,
    /// Rows of the state machine that it begins with.
    pub rows: u64,
}

/// How far above the last known revision those of a new cluster begin: more than a cluster hands out in eleven days
/// at a million writes a second, and small enough to stay a whole number in every JSON reader.
pub const REVISION_STEP: u64 = 1_000_000_000_000;

/// Reads all that a node keeps, and verifies it. As at a start, entries that are known to be committed are applied; the
/// rest of the log is left as it is.
///
/// # Errors
/// When the disk fails, is empty, or holds damaged data.
pub async fn inspect<S: StateMachine>(
    runtime: &Runtime,
    disk: &Disk,
    machine: Arc<S>,
) -> Result<Inspection, StartError> {
    let Storage { identity, log, mut host } = existing(runtime, disk, machine)?;
    let bounds = log.bounds();
    let end = bounds.committed.min(bounds.last).map_or(0, |committed| committed.index + 1);
    apply(&mut host, &log, end).await.map_err(StartError::from_io)?;
    let state = summary(&host).map_err(StartError::from_io)?;
    let mut snapshots = Vec::new();
    for name in snapshot::finished(disk.files.as_ref()).map_err(StartError::Disk)? {
        let name = name.with(SUFFIX_DONE);
        let verified = verify(Arc::clone(&disk.files), &name).await;
        snapshots.push((name, verified.map_err(|error| error.to_string())));
    }
    Ok(Inspection {
        id: identity.id,
        configured: identity.configured,
        incarnation: identity.incarnation,
        cluster: identity.cluster,
        vote: bounds.vote.map(Vote::of).unwrap_or_default(),
        purged: bounds.purged.map(LogPosition::of),
        last_log: bounds.last.map(LogPosition::of),
        committed: bounds.committed.map(LogPosition::of),
        state,
        snapshots,
    })
}

/// Reads a snapshot file from its first byte to its last.
///
/// # Errors
/// `InvalidData` that says what is damaged; the error of the disk when it fails.
pub async fn verify(files: Arc<dyn Files>, name: &str) -> io::Result<SnapshotSummary> {
    let file = SnapshotFile::find(files, name.to_owned()).await?;
    let (head, rows) = file.verify().await?;
    let applied = head.last_applied.map(LogPosition::of);
    let revision = head.revision(head.last_applied.map_or(0, |id| id.index));
    let StateHead { cluster, time_ms, .. } = head;
    Ok(SnapshotSummary { size: file.offer().size, cluster, applied, revision, time_ms, rows })
}

/// Makes an empty disk that of the founder of a new cluster with the state in a snapshot file.
///
/// # Errors
/// When the disk is not empty or fails, or the snapshot is damaged. What was written then is no node: its identity
/// comes last.
pub async fn restore<S: StateMachine>(
    runtime: &Runtime,
    (files, name): (Arc<dyn Files>, &str),
    disk: &Disk,
    machine: Arc<S>,
    founder: &Founder,
) -> Result<Founded, StartError> {
    let host = empty(runtime, disk, machine)?;
    let loaded = async { host.load(&SnapshotFile::find(files, name.to_owned()).await?).await };
    loaded.await.map_err(StartError::from_io)?;
    found(runtime, disk, host, founder).await.map_err(StartError::from_io)
}

/// Makes an empty disk that of the founder of a new cluster with all that `old`, the disk of a member of a lost one,
/// holds: its state, and every entry of its log, also those that nobody knows to be committed. `old` is not
/// changed.
///
/// # Errors
/// As [`restore`]; and when `old` is damaged.
pub async fn recover<S: StateMachine>(
    runtime: &Runtime,
    old: &Disk,
    disk: &Disk,
    machine: Arc<S>,
    founder: &Founder,
) -> Result<Founded, StartError> {
    let old = existing(runtime, old, Arc::clone(&machine))?;
    let mut host = empty(runtime, disk, machine)?;
    let copied = async {
        let file = old.host.copy_state(&disk.files).await?;
        host.load(&file).await?;
        disk.files.remove(&file.offer().name)?;
        apply(&mut host, &old.log, u64::MAX).await
    };
    copied.await.map_err(StartError::from_io)?;
    found(runtime, disk, host, founder).await.map_err(StartError::from_io)
}

/// Makes the state in `host` that of a new cluster, and the disk that of its founder; durable when it returns.
async fn found<S: StateMachine>(
    runtime: &Runtime,
    disk: &Disk,
    mut host: Host<S>,
    founder: &Founder,
) -> io::Result<Founded> {
    let cluster = runtime.random_u128();
    let mut identity = Identity::draw(runtime, founder.id);
    identity.cluster = Some(cluster);
    let member = Member { incarnation: identity.incarnation, address: founder.address.clone() };
    let last = host.found_anew(cluster, REVISION_STEP, (founder.id, member))?;
    log::begin_behind(&*disk.store, last, founder.id)?;
    // Those who join later cannot get from the log what is in the state.
    host.get_snapshot_builder().await.build_snapshot().await?;
    disk.store.sync().await?;
    identity.store(disk).await?;
    let StateSummary { rows, revision, .. } = summary(&host)?;
    Ok(Founded { cluster, index: last.index, revision, rows })
}

/// Applies the entries of `log` that lie behind the state and before `end`.
async fn apply<S: StateMachine>(host: &mut Host<S>, log: &LogStore, end: u64) -> io::Result<()> {
    let next = host.applied().index().map_or(0, |index| index + 1);
    let mut log = log.clone();
    let tail = log.entries_stream(next..end.max(next)).await;
    host.apply(tail.map(|entry| entry.map(|entry| (entry, None)))).await
}

fn existing<S: StateMachine>(
    runtime: &Runtime,
    disk: &Disk,
    machine: Arc<S>,
) -> Result<Storage<S>, StartError> {
    match Storage::open_existing(runtime, disk, machine)? {
        Some(storage) => Ok(storage),
        None => Err(StartError::Disk(io::Error::new(io::ErrorKind::NotFound, "there is no node's data"))),
    }
}

fn empty<S: StateMachine>(runtime: &Runtime, disk: &Disk, machine: Arc<S>) -> Result<Host<S>, StartError> {
    let trees = disk.store.trees().map_err(StartError::from_io)?;
    if !trees.is_empty() || !disk.files.list().map_err(StartError::Disk)?.is_empty() {
        return Err(StartError::Disk(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "it is not empty, and nothing is overwritten",
        )));
    }
    Host::open(disk.clone(), machine, runtime.clone(), HostConfig::default()).map_err(StartError::from_io)
}

fn summary<S: StateMachine>(host: &Host<S>) -> io::Result<StateSummary> {
    let applied = host.applied();
    let membership = host.membership();
    let voters: Vec<u64> = membership.voter_ids().collect();
    let members =
        membership.nodes().map(|(id, member)| (*id, member.address.clone(), voters.contains(id))).collect();
    Ok(StateSummary {
        applied: applied.log_id.map(LogPosition::of),
        revision: applied.revision,
        state_hash: applied.state_hash,
        rows: host.verify_rows()?,
        sessions: host.sessions().sessions,
        members,
    })
}

impl fmt::Display for Founded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster, index, revision, rows } = self;
        write!(
            f,
            "cluster {cluster:032x} with {rows} rows; log index {index}, revisions go on above {revision}"
        )
    }
}
