//! Snapshots for those who want to keep one: as fresh as a linearizable read, handed out in parts.

use std::io;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use rpc_core::runtime::Instant;

use crate::life::Life;
use crate::machine::StateMachine;
use crate::outcome::{ReadError, Refusal};
use crate::proposals::Proposals;
use crate::reads;
use crate::snapshot::SnapshotOffer;

/// A snapshot that may be read in parts from the node that has it, as long as no two newer ones were built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    /// Its name, size and checksum.
    pub offer: SnapshotOffer,
    /// The log index of the last entry in it.
    pub index: u64,
    /// The revision of that entry.
    pub revision: u64,
}

/// A snapshot that holds every write that was answered before it was asked for; built if there is none.
pub(crate) async fn take<S: StateMachine>(
    life: &Life<S>,
    proposals: &Proposals<S>,
    deadline: Instant,
) -> Result<Backup, ReadError> {
    reads::catch_up(life, proposals, deadline).await?;
    let wanted = life.host.applied().index();
    loop {
        if let Some((head, file)) = life.host.current_snapshot().await.map_err(ReadError::Disk)?
            && let Some(last) = head.last_applied
            && Some(last.index) >= wanted
        {
            let revision = head.revision(last.index);
            return Ok(Backup { offer: file.offer().clone(), index: last.index, revision });
        }
        let Some(running) = life.running() else { return Err(ReadError::Refused(Refusal::NotMember)) };
        let fatal = |_| ReadError::Disk(io::Error::other("the node has stopped"));
        running.raft.trigger().snapshot().await.map_err(fatal)?;
        let mut metrics = running.metrics.clone();
        let built = metrics.wait_until(|metrics| metrics.snapshot.map(|id| id.index) >= wanted);
        // One that was being built already may be too old: then it is asked for again.
        let _ = life.runtime.timeout_at(deadline.min(life.runtime.now() + LOOK_INTERVAL), built).await;
        if life.runtime.now() >= deadline {
            return Err(ReadError::Deadline);
        }
    }
}

/// Between two looks at a snapshot that is being built.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
