//! The host as openraft sees it.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use openraft::RaftSnapshotBuilder;
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::type_config::alias::{EntryOf, SnapshotOf};

use super::Host;
use super::core::Core;
use crate::command::Reply;
use crate::machine::StateMachine;
use crate::snapshot::{SnapshotFile, breathe, meta_of, on_thread};
use crate::state_head::StateHead;
use crate::types::{LogId, SnapshotMeta, StoredMembership, TypeConfig};

impl<S: StateMachine> RaftStateMachine<TypeConfig> for Host<S> {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let head = self.core.head();
        Ok((head.last_applied, head.membership))
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + Send,
    {
        // The end of the entries is looked at twice: after the last round that is not full, and by the next one.
        let mut entries = entries.fuse();
        loop {
            let (mut batch, mut responders) = (VecDeque::new(), VecDeque::new());
            let mut size = 0;
            while batch.len() < ROUND_ENTRIES_MAX && size < BATCH_SIZE_FULL {
                let Some(next) = entries.next().await else { break };
                let (entry, responder) = next?;
                size += size_of_entry(&entry);
                batch.push_back(entry);
                responders.push_back(responder);
            }
            if batch.is_empty() {
                return Ok(());
            }
            self.apply_batch(batch, responders).await?;
        }
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<SnapshotBuilder> {
        if !force && self.core.is_cutting() {
            return None;
        }
        Some(self.get_snapshot_builder().await)
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder { cut: Some(HeldCut::begin(&self.core)), core: Arc::clone(&self.core) }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotFile,
    ) -> Result<(), io::Error> {
        let (core, runtime) = (Arc::clone(&self.core), self.core.runtime.clone());
        on_thread(&runtime, "snapshot-install", async move { core.install(snapshot).await }).await?;
        let (installed, membership) = self.applied_state().await?;
        if (installed, &membership) != (meta.last_log_id, &meta.last_membership) {
            return Err(io::Error::other("the snapshot holds another state than its sender said"));
        }
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<TypeConfig, SnapshotFile>>, io::Error> {
        let current = self.current_snapshot().await?;
        Ok(current.map(|(head, snapshot)| SnapshotOf::<TypeConfig, _> { meta: meta_of(&head), snapshot }))
    }
}

impl<S: StateMachine> Host<S> {
    /// Applies a batch in rounds. Each reply is sent once its round can be read.
    async fn apply_batch(
        &self,
        mut batch: VecDeque<EntryOf<TypeConfig>>,
        mut responders: VecDeque<Option<ApplyResponder<TypeConfig>>>,
    ) -> io::Result<()> {
        while !batch.is_empty() {
            let replies: Vec<Reply> = self.core.apply_round(self.machine.as_ref(), &mut batch)?;
            let answered = responders.drain(..replies.len());
            for (reply, responder) in replies.into_iter().zip(answered) {
                if let Some(responder) = responder {
                    responder.send(reply);
                }
            }
            breathe().await;
        }
        Ok(())
    }
}

fn size_of_entry(entry: &EntryOf<TypeConfig>) -> usize {
    match &entry.payload {
        openraft::EntryPayload::Normal(proposal) => proposal.0.len(),
        _ => 0,
    }
}

/// Builds one snapshot of the state as it was when the builder was made.
pub struct SnapshotBuilder {
    core: Arc<Core>,
    /// The cut that was begun with the builder, or why it could not be.
    cut: Option<io::Result<HeldCut>>,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<TypeConfig, SnapshotFile>, io::Error> {
        let runtime = self.core.runtime.clone();
        let mut pause = RETRY_PAUSE_MIN;
        loop {
            let cut = self.cut.take().unwrap_or_else(|| HeldCut::begin(&self.core))?;
            let meta = meta_of(&cut.head);
            let written = on_thread(&runtime, "snapshot-build", async move {
                cut.core.write_snapshot(cut.id, &cut.head).await
            });
            if let Some(snapshot) = written.await? {
                return Ok(SnapshotOf::<TypeConfig, _> { meta, snapshot });
            }
            tracing::warn!(?pause, "snapshot given up: overwritten too fast, or replaced; it starts again");
            runtime.sleep(pause).await;
            pause = (pause * 2).min(RETRY_PAUSE_MAX);
        }
    }
}

impl fmt::Debug for SnapshotBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SnapshotBuilder")
    }
}

/// A cut that ends when this is dropped.
struct HeldCut {
    core: Arc<Core>,
    id: u64,
    head: StateHead,
}

impl HeldCut {
    fn begin(core: &Arc<Core>) -> io::Result<Self> {
        let (id, head) = core.begin_cut()?;
        Ok(Self { core: Arc::clone(core), id, head })
    }
}

impl Drop for HeldCut {
    fn drop(&mut self) {
        self.core.end_cut(self.id);
    }
}

/// The most entries in one round.
const ROUND_ENTRIES_MAX: usize = 256;
/// No further entry is taken into a round once its commands have this size, in bytes.
const BATCH_SIZE_FULL: usize = 4 * 1024 * 1024;
/// How long a snapshot that was given up waits before it starts again, at first.
const RETRY_PAUSE_MIN: Duration = Duration::from_secs(1);
/// How long at most.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(60);
