//! Applies entries: what each command does to the state head, the sessions and the rows.

use std::collections::VecDeque;
use std::io;

use bytes::Bytes;
use openraft::EntryPayload;
use openraft::type_config::alias::EntryOf;

use super::overlay::{Changes, Overlay};
use super::round::{MachineRows, Round};
use super::row::{CLASS_SESSION, Origin, Row, Tree, damaged, head_item, successor};
use crate::command::{Command, DETAIL_SIZE_MAX, Record, Reply, Verdict};
use crate::machine::{ApplyContext, StateMachine};
use crate::session::{Admission, Sessions};
use crate::state_head::StateHead;
use crate::types::{Proposal, StoredMembership, TypeConfig};

/// The state as the one who applies sees it.
pub(super) struct Writer {
    pub(super) tree: Tree,
    pub(super) head: StateHead,
    pub(super) sessions: Sessions,
}

impl Writer {
    /// Opens the state in `tree` as the last save left it.
    pub(super) fn open(tree: Tree) -> io::Result<Self> {
        let head = match tree.head()? {
            Some(head) => head,
            None => match tree.range(&[], None, 1)?.first() {
                Some((key, _)) => return Err(damaged(key, "there is no state head")),
                None => StateHead::default(),
            },
        };
        let sessions = load_sessions(&tree)?;
        Ok(Self { tree, head, sessions })
    }

    /// The state that was loaded into `tree`; makes it one that can be opened.
    pub(super) fn loaded(tree: Tree, head: StateHead, sessions: Sessions) -> io::Result<Self> {
        tree.write(&vec![head_item(&head)?])?;
        Ok(Self { tree, head, sessions })
    }

    /// Applies entries from the front of `entries` over `overlay` until a round is full, in memory; what they change, and
    /// their replies in order.
    pub(super) fn apply<S: StateMachine>(
        &mut self,
        machine: &S,
        overlay: &Overlay,
        entries: &mut VecDeque<EntryOf<TypeConfig>>,
    ) -> io::Result<(Changes, Vec<Reply>)> {
        let tree = self.tree.clone();
        let mut round = Round::new(&tree, overlay);
        let mut replies = Vec::with_capacity(entries.len());
        while let Some(entry) = entries.pop_front() {
            replies.push(self.apply_entry(machine, &mut round, entry)?);
            if round.is_full() {
                break;
            }
        }
        let (changes, hash_change) = round.into_changes()?;
        self.head.rows_hash = self.head.rows_hash.wrapping_add(hash_change);
        Ok((changes, replies))
    }

    fn apply_entry<S: StateMachine>(
        &mut self,
        machine: &S,
        round: &mut Round<'_>,
        entry: EntryOf<TypeConfig>,
    ) -> io::Result<Reply> {
        let log_id = entry.log_id;
        if self.head.last_applied.is_some_and(|last| last.index >= log_id.index) {
            return Err(io::Error::other(format!("entry {} was applied before", log_id.index)));
        }
        let reply = match entry.payload {
            EntryPayload::Blank => Reply::None,
            EntryPayload::Membership(membership) => {
                self.head.membership = StoredMembership::new(Some(log_id), membership);
                Reply::None
            }
            EntryPayload::Normal(Proposal(bytes)) => {
                let command = Command::decode(&bytes).map_err(|error| unreadable(log_id.index, &error))?;
                self.apply_command(machine, round, log_id.index, command)?
            }
        };
        self.put_sessions(round, log_id.index)?;
        self.head.last_applied = Some(log_id);
        Ok(reply)
    }

    /// Puts what the command at `index` changed in the session table.
    fn put_sessions(&mut self, round: &mut Round<'_>, index: u64) -> io::Result<()> {
        for change in self.sessions.drain_changes() {
            let key = [&[CLASS_SESSION], change.key.as_ref()].concat().into();
            round.set(key, change.value.map(|value| (Origin { index, n: 0 }, value)))?;
        }
        Ok(())
    }

    /// Drops sessions, as many as fit into one round over `overlay`; `None` when there are none.
    pub(super) fn drop_sessions(&mut self, overlay: &Overlay) -> io::Result<Option<Changes>> {
        if self.sessions.session_count() == 0 {
            return Ok(None);
        }
        let tree = self.tree.clone();
        let mut round = Round::new(&tree, overlay);
        self.sessions.expire(0, u64::MAX);
        self.put_sessions(&mut round, 0)?;
        let (changes, hash_change) = round.into_changes()?;
        self.head.rows_hash = self.head.rows_hash.wrapping_add(hash_change);
        Ok(Some(changes))
    }

    fn apply_command<S: StateMachine>(
        &mut self,
        machine: &S,
        round: &mut Round<'_>,
        index: u64,
        command: Command,
    ) -> io::Result<Reply> {
        self.head.time_ms = self.head.time_ms.max(command.time_ms());
        let (time_ms, revision) = (self.head.time_ms, self.head.revision(index));
        Ok(match command {
            Command::Found { cluster, session_lifetime_ms, .. } => {
                let cluster = *self.head.cluster.get_or_insert_with(|| {
                    self.head.session_lifetime_ms = session_lifetime_ms;
                    cluster
                });
                Reply::Founded { cluster }
            }
            Command::Open { nonce, .. } => self.sessions.open(index, nonce, time_ms),
            Command::Write { session, sequence, floor, body, .. } => {
                match self.sessions.admit(session, sequence, floor, time_ms) {
                    Admission::Answer(reply) => reply,
                    Admission::Apply => {
                        let mut rows = MachineRows::new(round, index);
                        let detail = machine.apply(&ApplyContext { revision, time_ms }, &mut rows, &body)?;
                        if detail.len() > DETAIL_SIZE_MAX {
                            let size = detail.len();
                            let what =
                                format!("entry {index}: detail of {size} bytes exceeds {DETAIL_SIZE_MAX}");
                            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
                        }
                        let record = Record { verdict: Verdict::Applied, revision, detail };
                        self.sessions.settle(session, sequence, record.clone());
                        Reply::Settled(record)
                    }
                }
            }
            Command::Resolve { session, sequence, floor, .. } => {
                self.sessions.resolve(session, sequence, floor, time_ms, revision)
            }
            Command::Close { session, .. } => self.sessions.close(session),
            Command::Expire { .. } => self.sessions.expire(self.head.session_lifetime_ms, time_ms),
        })
    }
}

/// The session table as its rows hold it.
fn load_sessions(tree: &Tree) -> io::Result<Sessions> {
    let mut sessions = Sessions::default();
    let mut from = Bytes::from_static(&[CLASS_SESSION]);
    loop {
        let found = tree.range(&from, Some(&[CLASS_SESSION + 1]), SESSION_ROWS_PER_READ)?;
        let Some((last, _)) = found.last() else { return Ok(sessions) };
        from = successor(last);
        for (key, item) in found {
            let value = tree.value(&key, &Row::decode(&key, &item)?)?;
            sessions.load_row(&key[1..], &value).map_err(|what| damaged(&key, what))?;
        }
    }
}

/// A committed entry that this program cannot read. Skipping it would make this node's state differ from the others',
/// so the node must stop.
fn unreadable(index: u64, error: &dyn std::error::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("log entry {index} cannot be applied: {error}"))
}

/// Rows that are read from the store at once when the session table is loaded.
const SESSION_ROWS_PER_READ: usize = 1_024;
