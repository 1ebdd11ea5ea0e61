//! What all handles on a host share: the state on the disk, and the locks around it.
//!
//! Locks are taken in this order, none is held across an await: `writer` (one round, or the switch to an installed
//! state), `cuts`, `waiters`, `view`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use openraft::Membership;
use openraft::type_config::alias::EntryOf;
use rpc_core::runtime::Runtime;
use tokio::sync::oneshot;

use super::cut::{Chunk, Cuts};
use super::hash;
use super::overlay::{Change, Changes, Overlay};
use super::round::user_range;
use super::row::{
    CLASS_SESSION, Items, Origin, Row, TREE_PREFIX, Tree, damaged, head_item, successor, user_key,
};
use super::waiters::Waiters;
use super::writer::Writer;
use super::{Applied, HostConfig, SessionsSummary, WAITERS_MAX, WaitError};
use crate::command::Reply;
use crate::disk::{Disk, Files};
use crate::machine::{RowsRead, StateMachine};
use crate::plant;
use crate::session::Sessions;
use crate::snapshot::{
    self, ROWS_PER_TURN, SUFFIX_DONE, SnapshotFile, SnapshotName, SnapshotOffer, SnapshotReader,
    SnapshotReceiver, SnapshotWriter, breathe,
};
use crate::state_head::StateHead;
use crate::types::{LogId, Member, StoredMembership, TypeConfig};

pub(super) struct Core {
    disk: Disk,
    pub(super) runtime: Runtime,
    config: HostConfig,
    writer: Mutex<Writer>,
    cuts: Mutex<Cuts>,
    waiters: Mutex<Waiters>,
    view: RwLock<View>,
    /// The newest snapshot; `None` until somebody looked for it.
    current: Mutex<Option<Current>>,
}

/// The newest snapshot in the directory, if there is one.
type Current = Option<(StateHead, SnapshotFile)>;

/// What readers see.
pub(super) struct View {
    tree: Tree,
    /// What was applied and is not in the tree yet, or is just being written to it.
    overlay: Overlay,
    pub(super) applied: Applied,
    pub(super) membership: StoredMembership,
    pub(super) cluster: Option<u128>,
    pub(super) sessions: SessionsSummary,
}

impl View {
    fn of(writer: &Writer) -> io::Result<Self> {
        let Writer { tree, head, sessions, .. } = writer;
        let state_hash = hash::hash(&head.to_bytes().map_err(io::Error::other)?);
        let applied = Applied {
            log_id: head.last_applied,
            revision: head.revision(head.last_applied.map_or(0, |id| id.index)),
            time_ms: head.time_ms,
            state_hash,
        };
        let sessions = SessionsSummary {
            sessions: sessions.session_count(),
            records: sessions.record_count(),
            expiry_ms: sessions
                .oldest_use_ms()
                .map(|used_ms| used_ms.saturating_add(head.session_lifetime_ms)),
            lifetime_ms: head.session_lifetime_ms,
        };
        let (membership, cluster) = (head.membership.clone(), head.cluster);
        Ok(Self { tree: tree.clone(), overlay: Overlay::default(), applied, membership, cluster, sessions })
    }
}

impl RowsRead for View {
    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        let key = user_key(key);
        match self.overlay.get(&key) {
            Some(change) => Ok(change.value()),
            None => self.tree.get(&key)?.map(|item| self.tree.item_value(&key, &item)).transpose(),
        }
    }

    fn range(&self, from: &[u8], to: Option<&[u8]>, limit: usize) -> io::Result<Vec<(Bytes, Bytes)>> {
        user_range(&self.tree, self.overlay.changes(), Change::value, from, to, limit)
    }
}

impl Core {
    pub(super) fn open(disk: Disk, runtime: Runtime, config: HostConfig) -> io::Result<Self> {
        let generation = read_generation(&disk)?;
        let tree = Tree::new(Arc::clone(&disk.store), generation);
        for other in disk.store.trees()? {
            if other.starts_with(TREE_PREFIX) && !tree.owns(&other) {
                disk.store.remove_range(&other, &[], None)?;
            }
        }
        snapshot::remove_unfinished(disk.files.as_ref())?;
        let writer = Writer::open(tree)?;
        let view = RwLock::new(View::of(&writer)?);
        let (cuts, waiters) = (Mutex::default(), Mutex::default());
        Ok(Self {
            disk,
            runtime,
            config,
            writer: Mutex::new(writer),
            cuts,
            waiters,
            view,
            current: Mutex::new(None),
        })
    }

    pub(super) fn read<R>(&self, reader: impl FnOnce(&dyn RowsRead, &Applied) -> R) -> R {
        let view = self.view();
        reader(&*view, &view.applied)
    }

    pub(super) fn wait_applied(&self, index: u64) -> Result<Option<oneshot::Receiver<()>>, WaitError> {
        // A round moves the watermark first and wakes then: whoever gets in between finds it moved.
        let mut waiters = locked(&self.waiters);
        if self.view().applied.index().is_some_and(|applied| applied >= index) {
            return Ok(None);
        }
        waiters.add(index, WAITERS_MAX).map(Some).ok_or(WaitError::Full)
    }

    pub(super) fn head(&self) -> StateHead {
        locked(&self.writer).head.clone()
    }

    /// Applies entries from the front of `entries`, one round of them; their replies in order.
    pub(super) fn apply_round<S: StateMachine>(
        &self,
        machine: &S,
        entries: &mut VecDeque<EntryOf<TypeConfig>>,
    ) -> io::Result<Vec<Reply>> {
        let mut writer = locked(&self.writer);
        if plant::CLOCK_IN_APPLY.is_planted() {
            writer.head.time_ms = writer.head.time_ms.max(self.runtime.wall_ms());
        }
        let count = entries.len();
        let (changes, replies) = writer.apply(machine, &self.view().overlay, entries)?;
        self.publish(&mut writer, changes, count - entries.len())?;
        Ok(replies)
    }

    /// Lets readers see a round of `entry_count` entries, and saves when it is time.
    fn publish(&self, writer: &mut Writer, changes: Changes, entry_count: usize) -> io::Result<()> {
        let after = View::of(writer)?;
        {
            let mut view = self.view_mut();
            let mut overlay = std::mem::take(&mut view.overlay);
            overlay.merge(changes, entry_count);
            *view = View { overlay, ..after };
        }
        self.wake(writer);
        let is_full = self.view().overlay.is_full(self.config.unsaved_size_max);
        if is_full { self.save(writer) } else { Ok(()) }
    }

    /// Writes what was applied to the tree. Readers see it in the overlay until all of it is there.
    fn save(&self, writer: &mut Writer) -> io::Result<()> {
        if self.view().overlay.is_empty() {
            return Ok(());
        }
        let mut items = self.view().overlay.items();
        items.push(head_item(&writer.head)?);
        {
            let mut cuts = locked(&self.cuts);
            if !cuts.is_empty() {
                cuts.save(self.view().overlay.changes(), self.config.snapshot_undo_bytes_max)?;
            }
        }
        if plant::APPLIED_AGAIN_AFTER_CRASH.is_planted() {
            items.drain(..).try_for_each(|item| writer.tree.write(&vec![item]))?;
        } else {
            writer.tree.write(&items)?;
        }
        self.view_mut().overlay = Overlay::default();
        Ok(())
    }

    /// Makes the state that of a new cluster: another id, revisions that go on `revisions` above, one member, no sessions.
    /// Where its log ended. Outside any log: only for a disk that no node runs on.
    pub(super) fn found_anew(
        &self,
        cluster: u128,
        revisions: u64,
        (id, member): (u64, Member),
    ) -> io::Result<LogId> {
        let mut writer = locked(&self.writer);
        let Some(last) = writer.head.last_applied else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "nothing was ever applied to this state",
            ));
        };
        loop {
            let changes = writer.drop_sessions(&self.view().overlay)?;
            let Some(changes) = changes else { break };
            self.publish(&mut writer, changes, 1)?;
        }
        let voters = vec![BTreeSet::from([id])];
        let membership = Membership::new(voters, BTreeMap::from([(id, member)])).map_err(io::Error::other)?;
        writer.head.membership = StoredMembership::new(Some(last), membership);
        writer.head.cluster = Some(cluster);
        writer.head.revision_base = writer.head.revision_base.saturating_add(revisions);
        self.publish(&mut writer, Changes::new(), 1)?;
        self.save(&mut writer)?;
        Ok(last)
    }

    /// Reads all rows, and compares them with what the head hashed; how many there are.
    pub(super) fn verify_rows(&self) -> io::Result<u64> {
        let (writer, view) = (locked(&self.writer), self.view());
        let (mut count, mut sum): (u64, u128) = (0, 0);
        for (key, change) in view.overlay.changes() {
            if let Some((row, _)) = &change.after {
                sum = sum.wrapping_add(row.hash(key));
                count += 1;
            }
        }
        let mut from = Bytes::new();
        loop {
            let rows = writer.tree.range(&from, Some(&[CLASS_SESSION + 1]), ROWS_PER_TURN as usize)?;
            let Some((last, _)) = rows.last() else { break };
            from = successor(last);
            for (key, item) in rows {
                if view.overlay.get(&key).is_some() {
                    continue;
                }
                let row = Row::decode(&key, &item)?;
                if row != Row::of(row.origin, &writer.tree.value(&key, &row)?) {
                    return Err(damaged(&key, "its value is not the one that it names"));
                }
                sum = sum.wrapping_add(row.hash(&key));
                count += 1;
            }
        }
        if sum != writer.head.rows_hash {
            let what = "the rows of the state are not those that its head hashed";
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        Ok(count)
    }

    fn wake(&self, writer: &Writer) {
        if let Some(LogId { index, .. }) = writer.head.last_applied {
            locked(&self.waiters).wake(index);
        }
    }

    /// Begins a cut at the round boundary that is now; its id and the state head there. What was applied is saved
    /// before: a snapshot lets the log go that the state on the disk would need otherwise.
    pub(super) fn begin_cut(&self) -> io::Result<(u64, StateHead)> {
        let mut writer = locked(&self.writer);
        self.save(&mut writer)?;
        let id = locked(&self.cuts).begin(writer.tree.clone());
        Ok((id, writer.head.clone()))
    }

    pub(super) fn end_cut(&self, id: u64) {
        locked(&self.cuts).end(id);
    }

    pub(super) fn is_cutting(&self) -> bool {
        !locked(&self.cuts).is_empty()
    }

    /// Writes a cut to a file, which is the newest snapshot then; `None` if it was lost on the way.
    pub(super) async fn write_snapshot(
        &self,
        cut: u64,
        head: &StateHead,
    ) -> io::Result<Option<SnapshotFile>> {
        let written = self.write_cut(cut, head, &self.disk.files).await?;
        if let Some(file) = &written {
            self.set_current(head.clone(), file.clone())?;
        }
        Ok(written)
    }

    /// Writes a cut to a file in any directory; `None` if it was lost on the way.
    pub(super) async fn write_cut(
        &self,
        cut: u64,
        head: &StateHead,
        files: &Arc<dyn Files>,
    ) -> io::Result<Option<SnapshotFile>> {
        let name = SnapshotName::new(head.last_applied, self.runtime.random_u64());
        let mut writer = SnapshotWriter::create(Arc::clone(files), name, head)?;
        loop {
            let chunk = locked(&self.cuts).chunk(cut)?;
            let (rows, is_last) = match chunk {
                Chunk::Rows(rows) => (rows, false),
                Chunk::Last(rows) => (rows, true),
                Chunk::Lost => {
                    writer.abandon()?;
                    return Ok(None);
                }
            };
            for row in &rows {
                writer.row(row)?;
            }
            if is_last {
                return writer.finish().await.map(Some);
            }
            breathe().await;
        }
    }

    /// Replaces the state by that of a snapshot, at once: the new one is loaded beside the old one, and counts from one
    /// insert on.
    pub(super) async fn install(&self, file: SnapshotFile) -> io::Result<()> {
        let file = if file.lies_in(&self.disk.files) { file } else { file.copy_to(&self.disk.files).await? };
        let head = self.load(&file).await?;
        self.set_current(head, file)
    }

    /// As [`Core::install`], from a file anywhere that stays where it is; the head of the new state.
    pub(super) async fn load(&self, file: &SnapshotFile) -> io::Result<StateHead> {
        let (old, current) = {
            let writer = locked(&self.writer);
            (writer.tree.clone(), writer.head.clone())
        };
        let tree = Tree::new(Arc::clone(&self.disk.store), old.generation + 1);
        // An installation that failed without a restart may have left a part.
        tree.remove_all()?;
        let mut reader = SnapshotReader::open(file.clone())?;
        let mut head = reader.head().clone();
        check_successor(&current, &head)?;
        let sessions = load_rows(&tree, &mut reader, &head).await?;
        if plant::SNAPSHOT_WITHOUT_MEMBERSHIP.is_planted() {
            head.membership = current.membership;
        }
        let writer = Writer::loaded(tree, head.clone(), sessions)?;
        self.disk.store.sync().await?;
        write_generation(&self.disk, writer.tree.generation)?;
        if !plant::INSTALL_NOT_SYNCED.is_planted() {
            self.disk.store.sync().await?;
        }
        {
            let mut shared = locked(&self.writer);
            let view = View::of(&writer)?;
            *shared = writer;
            locked(&self.cuts).lose_all();
            *self.view_mut() = view;
            self.wake(&shared);
        }
        old.remove_all()?;
        Ok(head)
    }

    pub(super) fn receive_snapshot(&self, offer: SnapshotOffer) -> io::Result<SnapshotReceiver> {
        SnapshotReceiver::open(Arc::clone(&self.disk.files), self.runtime.clone(), offer)
    }

    pub(super) fn read_snapshot(&self, name: &str, offset: u64, length: usize) -> io::Result<Bytes> {
        // Any other name could lead to any other file.
        match SnapshotName::parse(name) {
            Some(_) => self.disk.files.read(name, offset, length),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// The newest snapshot that verifies, with its head.
    pub(super) async fn current_snapshot(&self) -> io::Result<Current> {
        if let Some(current) = locked(&self.current).clone() {
            return Ok(current);
        }
        let mut found = None;
        for name in snapshot::finished(self.disk.files.as_ref())? {
            let file = SnapshotFile::find(Arc::clone(&self.disk.files), name.with(SUFFIX_DONE)).await?;
            match file.verify().await {
                Ok((head, _)) => {
                    found = Some((head, file));
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    tracing::error!(name = file.offer().name, %error, "snapshot skipped");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(locked(&self.current).get_or_insert(found).clone())
    }

    fn set_current(&self, head: StateHead, file: SnapshotFile) -> io::Result<()> {
        let mut current = locked(&self.current);
        let newest = current.as_ref().and_then(Option::as_ref).map(|(head, _)| head.last_applied);
        if newest.is_some_and(|newest| newest > head.last_applied) {
            // A state was installed while an older one was being written.
            return Ok(());
        }
        snapshot::remove_old(self.disk.files.as_ref(), &file.offer().name)?;
        *current = Some(Some((head, file)));
        Ok(())
    }

    pub(super) fn view(&self) -> RwLockReadGuard<'_, View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn view_mut(&self) -> RwLockWriteGuard<'_, View> {
        self.view.write().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn files(&self) -> Arc<dyn Files> {
        Arc::clone(&self.disk.files)
    }
}

/// Loads the rows of a snapshot into an empty tree; the session table that they hold.
async fn load_rows(tree: &Tree, reader: &mut SnapshotReader, head: &StateHead) -> io::Result<Sessions> {
    let mut sessions = Sessions::default();
    let (mut rows, mut rows_hash): (u64, u128) = (0, 0);
    while let Some(row) = reader.next_row()? {
        let stored = Row::of(Origin { index: row.index, n: row.n }, &row.value);
        let mut items: Items = stored.piece_items(&row.value).collect();
        items.push((row.key.clone(), Some(stored.encode(&row.key))));
        tree.write(&items)?;
        if row.key[0] == CLASS_SESSION && !plant::SNAPSHOT_WITHOUT_SESSIONS.is_planted() {
            sessions.load_row(&row.key[1..], &row.value).map_err(|what| damaged(&row.key, what))?;
        }
        rows_hash = rows_hash.wrapping_add(stored.hash(&row.key));
        rows += 1;
        if rows.is_multiple_of(ROWS_PER_TURN) {
            breathe().await;
        }
    }
    if rows_hash != head.rows_hash {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the snapshot's rows are not those that its head hashed",
        ));
    }
    Ok(sessions)
}

/// A state may only be replaced by a later one of the same cluster.
fn check_successor(current: &StateHead, next: &StateHead) -> io::Result<()> {
    if current.last_applied > next.last_applied {
        return Err(io::Error::other("the snapshot lies before what was applied"));
    }
    if current.cluster.is_some() && current.cluster != next.cluster {
        return Err(io::Error::other("the snapshot belongs to another cluster"));
    }
    Ok(())
}

/// `meta/sm_generation` = generation u64 | crc32c u32 of it: the tree `sm.<generation>` is the state. Generation 0
/// before the first snapshot was installed.
fn read_generation(disk: &Disk) -> io::Result<u64> {
    let Some(item) = disk.store.get(META_TREE, META_GENERATION)? else { return Ok(0) };
    let damaged = || damaged(META_GENERATION, "checksum");
    let (generation, crc) = item.split_first_chunk().ok_or_else(damaged)?;
    if crc != crc32c::crc32c(generation).to_be_bytes() {
        return Err(damaged());
    }
    Ok(u64::from_be_bytes(*generation))
}

fn write_generation(disk: &Disk, generation: u64) -> io::Result<()> {
    let generation = generation.to_be_bytes();
    let item = [generation.as_slice(), &crc32c::crc32c(&generation).to_be_bytes()].concat();
    disk.store.insert(META_TREE, META_GENERATION, &item)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic under a lock stops whoever applies; readers go on with what they see.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const META_TREE: &str = "meta";
const META_GENERATION: &[u8] = b"sm_generation";
