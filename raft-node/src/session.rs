//! The session table: what makes every write happen at most once, and every outcome answerable.
//!
//! Pure and deterministic: all nodes that apply the same commands hold the same table. The rules are those of
//! docs/GUARANTEES.md. It knows nothing of disks: it lists which rows changed ([`Sessions::drain_changes`]), and can be
//! loaded from rows ([`Sessions::load_row`]).
//!
//! A session is one row plus one row per record, so that a command changes few rows. Keys and values, numbers in big-endian:
//! ```text
//! session  key: id u64                   value: nonce u128 | floor u64 | last use u64 (log time, ms)
//! record   key: id u64 | sequence u64    value: verdict u8 (0 applied, 1 rolled back) | revision u64 | detail
//! ```

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};

use crate::command::{
    EXPIRE_ROWS_MAX, RESOLVES_AHEAD_MAX, Record, Reply, SEQUENCE_WINDOW, SESSIONS_MAX, Verdict,
};
use crate::plant;

/// All open sessions.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    table: BTreeMap<u64, Session>,
    by_nonce: BTreeMap<u128, u64>,
    /// (last use, id) of every session: the next to expire comes first.
    by_use: BTreeSet<(u64, u64)>,
    record_count: usize,
    changes: Vec<RowName>,
}

#[derive(Debug, PartialEq, Eq)]
struct Session {
    nonce: u128,
    /// Every answer with a sequence below this was received. Never moves back.
    floor: u64,
    /// Log time of the session's last command in milliseconds.
    last_use_ms: u64,
    /// By sequence, all at or above the floor.
    records: BTreeMap<u64, Record>,
}

/// The name of a row: a session, or one record of it.
#[derive(Clone, Copy, Debug)]
struct RowName {
    session: u64,
    sequence: Option<u64>,
}

/// A row that a command changed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RowChange {
    pub(crate) key: Bytes,
    /// `None`: the row is gone.
    pub(crate) value: Option<Bytes>,
}

/// Whether a write may be applied.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Apply it, then tell [`Sessions::settle`].
    Apply,
    /// It is a no-op with this answer.
    Answer(Reply),
}

impl Sessions {
    /// Opens a session whose id is the index of this entry, or finds the one that `nonce` opened before.
    pub(crate) fn open(&mut self, index: u64, nonce: u128, time_ms: u64) -> Reply {
        if let Some(&session) = self.by_nonce.get(&nonce) {
            self.touch(session, 0, time_ms);
            return Reply::Opened { session };
        }
        if self.table.len() >= SESSIONS_MAX {
            return Reply::SessionsFull;
        }
        self.insert(index, Session { nonce, floor: 0, last_use_ms: time_ms, records: BTreeMap::new() });
        self.changes.push(RowName { session: index, sequence: None });
        Reply::Opened { session: index }
    }

    /// Decides on a write before the state machine sees it.
    pub(crate) fn admit(&mut self, session: u64, sequence: u64, floor: u64, time_ms: u64) -> Admission {
        let Some(found) = self.touch(session, floor, time_ms) else {
            return Admission::Answer(Reply::SessionExpired);
        };
        if let Some(reply) = found.known(sequence)
            && !plant::APPLIED_TWICE.is_planted()
        {
            return Admission::Answer(reply);
        }
        if sequence.saturating_sub(found.floor) >= SEQUENCE_WINDOW {
            return Admission::Answer(Reply::RecordsFull);
        }
        Admission::Apply
    }

    /// Records the outcome of a write that was admitted just before.
    pub(crate) fn settle(&mut self, session: u64, sequence: u64, record: Record) {
        let Some(found) = self.table.get_mut(&session) else { return };
        if found.records.insert(sequence, record).is_none() {
            self.record_count += 1;
        }
        self.changes.push(RowName { session, sequence: Some(sequence) });
    }

    /// Answers the outcome of a write; one that has none is rolled back from now on.
    pub(crate) fn resolve(
        &mut self,
        session: u64,
        sequence: u64,
        floor: u64,
        time_ms: u64,
        revision: u64,
    ) -> Reply {
        let Some(found) = self.touch(session, floor, time_ms) else { return Reply::SessionExpired };
        if let Some(reply) = found.known(sequence) {
            return reply;
        }
        if sequence - found.floor >= SEQUENCE_WINDOW {
            let ahead = found.records.range(found.floor.saturating_add(SEQUENCE_WINDOW)..).count();
            if ahead >= RESOLVES_AHEAD_MAX {
                return Reply::RecordsFull;
            }
        }
        let tombstone = Record { verdict: Verdict::RolledBack, revision, detail: Bytes::new() };
        if !plant::RESOLVE_WITHOUT_TOMBSTONE.is_planted() {
            self.settle(session, sequence, tombstone.clone());
        }
        Reply::Settled(tombstone)
    }

    /// Drops a session with its records.
    pub(crate) fn close(&mut self, session: u64) -> Reply {
        if self.remove(session) == 0 { Reply::SessionExpired } else { Reply::Closed }
    }

    /// Drops the sessions whose last use was `lifetime_ms` or more before `time_ms`, longest unused first, at most
    /// about [`EXPIRE_ROWS_MAX`] rows.
    pub(crate) fn expire(&mut self, lifetime_ms: u64, time_ms: u64) -> Reply {
        let (mut count, mut rows) = (0, 0);
        while let Some(&(last_use_ms, session)) = self.by_use.first() {
            if last_use_ms.saturating_add(lifetime_ms) > time_ms || rows >= EXPIRE_ROWS_MAX {
                break;
            }
            rows += self.remove(session);
            count += 1;
        }
        Reply::Expired { count }
    }

    /// Sessions in the table.
    pub(crate) fn session_count(&self) -> usize {
        self.table.len()
    }

    /// Records of all sessions.
    pub(crate) fn record_count(&self) -> usize {
        self.record_count
    }

    /// The last use of the session that was unused longest, in milliseconds of log time.
    pub(crate) fn oldest_use_ms(&self) -> Option<u64> {
        self.by_use.first().map(|&(last_use_ms, _)| last_use_ms)
    }

    /// The rows that changed since the last call, each once at its latest.
    pub(crate) fn drain_changes(&mut self) -> Vec<RowChange> {
        let mut changes = std::mem::take(&mut self.changes);
        changes.sort_unstable_by_key(|name| (name.session, name.sequence));
        changes.dedup_by_key(|name| (name.session, name.sequence));
        changes.iter().map(|name| RowChange { key: name.key(), value: self.row(*name) }).collect()
    }

    /// Takes a row that [`Sessions::drain_changes`] listed, in the order of keys; what is wrong with it, if anything.
    pub(crate) fn load_row(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        let name = RowName::from_key(key).ok_or("a session key is 8 or 16 bytes long")?;
        let Some(sequence) = name.sequence else {
            let session = Session::from_row(value).ok_or("a session row is 32 bytes long")?;
            self.insert(name.session, session);
            return Ok(());
        };
        let record = record_from_row(value).ok_or("a record begins with 0 or 1 and a revision")?;
        let session = self.table.get_mut(&name.session).ok_or("a record stands behind its session")?;
        if record.verdict == Verdict::RolledBack && plant::SNAPSHOT_WITHOUT_TOMBSTONES.is_planted() {
            return Ok(());
        }
        session.records.insert(sequence, record);
        self.record_count += 1;
        Ok(())
    }

    /// The session, with its last use and floor moved forward: every command of a session does that first.
    fn touch(&mut self, session: u64, floor: u64, time_ms: u64) -> Option<&Session> {
        let found = self.table.get_mut(&session)?;
        self.changes.push(RowName { session, sequence: None });
        if time_ms > found.last_use_ms {
            self.by_use.remove(&(found.last_use_ms, session));
            self.by_use.insert((time_ms, session));
            found.last_use_ms = time_ms;
        }
        if floor > found.floor {
            found.floor = floor;
            let kept = found.records.split_off(&floor);
            let pruned = std::mem::replace(&mut found.records, kept);
            self.record_count -= pruned.len();
            self.changes
                .extend(pruned.into_keys().map(|sequence| RowName { session, sequence: Some(sequence) }));
        }
        Some(found)
    }

    fn insert(&mut self, id: u64, session: Session) {
        self.by_nonce.insert(session.nonce, id);
        self.by_use.insert((session.last_use_ms, id));
        self.table.insert(id, session);
    }

    /// Removes a session; how many rows that were.
    fn remove(&mut self, session: u64) -> usize {
        let Some(removed) = self.table.remove(&session) else { return 0 };
        self.by_nonce.remove(&removed.nonce);
        self.by_use.remove(&(removed.last_use_ms, session));
        self.record_count -= removed.records.len();
        self.changes.push(RowName { session, sequence: None });
        let rows = 1 + removed.records.len();
        self.changes.extend(
            removed.records.into_keys().map(|sequence| RowName { session, sequence: Some(sequence) }),
        );
        rows
    }

    fn row(&self, name: RowName) -> Option<Bytes> {
        let session = self.table.get(&name.session)?;
        match name.sequence {
            None => Some(session.to_row()),
            Some(sequence) => session.records.get(&sequence).map(record_to_row),
        }
    }
}

impl Session {
    /// What is known of a sequence without deciding anything. Afterwards the sequence is at or above the floor.
    fn known(&self, sequence: u64) -> Option<Reply> {
        if sequence < self.floor {
            return Some(Reply::Stale);
        }
        self.records.get(&sequence).cloned().map(Reply::Settled)
    }

    fn to_row(&self) -> Bytes {
        let mut row = BytesMut::with_capacity(32);
        row.put_u128(self.nonce);
        row.put_u64(self.floor);
        row.put_u64(self.last_use_ms);
        row.freeze()
    }

    fn from_row(row: &[u8]) -> Option<Self> {
        let row: &[u8; 32] = row.try_into().ok()?;
        let nonce = u128::from_be_bytes(*row.first_chunk()?);
        let floor = u64::from_be_bytes(*row[16..].first_chunk()?);
        let last_use_ms = u64::from_be_bytes(*row[24..].first_chunk()?);
        Some(Self { nonce, floor, last_use_ms, records: BTreeMap::new() })
    }
}

impl RowName {
    fn key(self) -> Bytes {
        let mut key = BytesMut::with_capacity(16);
        key.put_u64(self.session);
        if let Some(sequence) = self.sequence {
            key.put_u64(sequence);
        }
        key.freeze()
    }

    fn from_key(key: &[u8]) -> Option<Self> {
        let (session, rest) = key.split_first_chunk()?;
        let sequence = if rest.is_empty() { None } else { Some(u64::from_be_bytes(rest.try_into().ok()?)) };
        Some(Self { session: u64::from_be_bytes(*session), sequence })
    }
}

fn record_to_row(record: &Record) -> Bytes {
    let mut row = BytesMut::with_capacity(9 + record.detail.len());
    row.put_u8(match record.verdict {
        Verdict::Applied => 0,
        Verdict::RolledBack => 1,
    });
    row.put_u64(record.revision);
    row.put_slice(&record.detail);
    row.freeze()
}

fn record_from_row(row: &[u8]) -> Option<Record> {
    let (&verdict, rest) = row.split_first()?;
    let verdict = match verdict {
        0 => Verdict::Applied,
        1 => Verdict::RolledBack,
        _ => return None,
    };
    let (revision, detail) = rest.split_first_chunk()?;
    let detail = Bytes::copy_from_slice(detail);
    Some(Record { verdict, revision: u64::from_be_bytes(*revision), detail })
}

#[cfg(test)]
mod tests;
