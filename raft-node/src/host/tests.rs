mod crashes;
mod disk;
mod rounds;
mod snapshots;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use openraft::entry::RaftEntry;
use openraft::type_config::alias::EntryOf;
use openraft::vote::leader_id_adv::LeaderId;
use openraft::{EntryPayload, Membership};
use rpc_core::runtime::Runtime;
use rpc_core::sim::World;

use self::disk::TestDisk;
use super::row::VALUE_PIECE_SIZE;
use super::{Applied, Host, HostConfig, SessionsSummary};
use crate::command::{Command, Record, Reply, Verdict};
use crate::disk::Disk;
use crate::machine::{ApplyContext, Rows, StateMachine};
use crate::types::{LogId, Member, Proposal, StoredMembership, TypeConfig};

type Entry = EntryOf<TypeConfig>;

/// Understands, separated by semicolons: `put KEY LENGTH SEED`, `delete KEY`, `copy FROM TO`, `list FROM TO KEY` (the
/// keys of a range into a row), `fail`, `chatter`.
struct Script;

impl StateMachine for Script {
    fn apply(&self, context: &ApplyContext, rows: &mut dyn Rows, command: &Bytes) -> io::Result<Bytes> {
        let text = std::str::from_utf8(command).unwrap();
        for step in text.split(';') {
            let words: Vec<&str> = step.split_whitespace().collect();
            match words[..] {
                ["put", key, length, seed] => {
                    rows.put(key.as_bytes(), pattern(length.parse().unwrap(), seed.parse().unwrap()))?;
                }
                ["delete", key] => rows.delete(key.as_bytes())?,
                ["copy", from, to] => {
                    let value = rows.get(from.as_bytes())?.unwrap_or_default();
                    rows.put(to.as_bytes(), value)?;
                }
                ["list", from, to, key] => {
                    let found = rows.range(from.as_bytes(), Some(to.as_bytes()), 1_000)?;
                    let keys: Vec<_> = found.iter().map(|(key, _)| key.as_ref()).collect();
                    rows.put(key.as_bytes(), keys.join(b",".as_slice()).into())?;
                }
                ["chatter"] => return Ok(Bytes::from(vec![0; 257])),
                _ => return Err(io::Error::other("the machine's disk fails")),
            }
        }
        Ok(Bytes::from(format!("done at {}", context.revision)))
    }
}

/// A value that can be told from every other.
fn pattern(length: usize, seed: u8) -> Bytes {
    (0..length)
        .map(|position| (position as u8).wrapping_mul(31).wrapping_add((position >> 8) as u8) ^ seed)
        .collect()
}

fn log_id(index: u64) -> LogId {
    LogId { leader_id: LeaderId { term: 1 + index / 10, node_id: 1 }, index }
}

fn entry(index: u64, command: &Command) -> Entry {
    let proposal = Proposal(command.encode().unwrap());
    Entry::new(log_id(index), EntryPayload::Normal(proposal))
}

fn membership_entry(index: u64, members: u64) -> Entry {
    let members = (1..=members)
        .map(|id| (id, Member { incarnation: u128::from(id) << 90, address: format!("127.0.0.1:{id}") }));
    let nodes: std::collections::BTreeMap<_, _> = members.collect();
    let voters = nodes.keys().copied().collect();
    Entry::new(log_id(index), EntryPayload::Membership(Membership::new(vec![voters], nodes).unwrap()))
}

fn write(index: u64, session: u64, sequence: u64, body: &str) -> Entry {
    write_at(index, session, sequence, sequence.saturating_sub(3), index * 10, body)
}

fn write_at(index: u64, session: u64, sequence: u64, floor: u64, time_ms: u64, body: &str) -> Entry {
    let body = Bytes::copy_from_slice(body.as_bytes());
    entry(index, &Command::Write { session, sequence, floor, time_ms, body })
}

fn open_session(index: u64, nonce: u128) -> Entry {
    entry(index, &Command::Open { nonce, time_ms: index * 10 })
}

fn applied_reply(revision: u64) -> Reply {
    let detail = Bytes::from(format!("done at {revision}"));
    Reply::Settled(Record { verdict: Verdict::Applied, revision, detail })
}

fn runtime() -> Runtime {
    World::new(1).start(1)
}

/// Opens a host that saves after every round.
fn open(disk: Disk) -> io::Result<Host<Script>> {
    open_lazy(disk, 0)
}

/// Opens a host that saves once it has so many bytes to save.
fn open_lazy(disk: Disk, unsaved_size_max: usize) -> io::Result<Host<Script>> {
    let config = HostConfig { unsaved_size_max, ..HostConfig::default() };
    Host::open(disk, Arc::new(Script), runtime(), config)
}

impl Host<Script> {
    /// Applies entries as one batch.
    fn apply_all(&self, entries: impl IntoIterator<Item = Entry>) -> io::Result<Vec<Reply>> {
        let mut batch: VecDeque<Entry> = entries.into_iter().collect();
        let mut replies = Vec::new();
        while !batch.is_empty() {
            replies.extend(self.core.apply_round(self.machine.as_ref(), &mut batch)?);
        }
        Ok(replies)
    }

    fn get(&self, key: &str) -> Option<Bytes> {
        self.read(|rows, _| rows.get(key.as_bytes())).unwrap()
    }

    /// All that can be seen from outside.
    fn sight(&self) -> Sight {
        let (rows, applied) =
            self.read(|rows, applied| (rows.range(&[], None, usize::MAX).unwrap(), *applied));
        let sight = Sight {
            rows,
            applied,
            sessions: self.sessions(),
            membership: self.membership(),
            cluster: self.cluster(),
        };
        self.verify_rows().expect("the hash of all rows");
        sight
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Sight {
    applied: Applied,
    rows: Vec<(Bytes, Bytes)>,
    sessions: SessionsSummary,
    membership: StoredMembership,
    cluster: Option<u128>,
}

/// Entries that do everything: two sessions, values of all sizes, overwrites, deletes, tombstones, expiry.
fn scenario() -> Vec<Entry> {
    // One item, just not one item, several; and together more than one item.
    let (most, more, big) = (VALUE_PIECE_SIZE, VALUE_PIECE_SIZE + 1, BIG);
    let wide = VALUE_PIECE_SIZE - 100;
    let (session, other) = (3, 4);
    vec![
        membership_entry(1, 3),
        entry(2, &Command::Found { cluster: 99, session_lifetime_ms: 200, time_ms: 5 }),
        open_session(3, 1),
        open_session(4, 2),
        write(5, session, 1, "put a 10 1;put b 0 0"),
        write(6, session, 2, &format!("put big {big} 2")),
        write(7, other, 1, "copy big copy;delete a"),
        write(8, session, 2, "put a 1 1"),
        write(9, session, 3, &format!("put big {big} 3;put c {most} 4")),
        write(10, session, 4, &format!("delete copy;put c {more} 5;put d 1 1;delete d")),
        entry(11, &Command::Resolve { session, sequence: 6, floor: 0, time_ms: 100 }),
        write(12, session, 6, "put never 1 1"),
        membership_entry(13, 2),
        write(14, session, 7, &format!("list a z keys;put wide0 {wide} 3;put wide1 {wide} 3")),
        write(
            15,
            session,
            8,
            &format!("put wide0 {wide} 1;put wide1 {wide} 1;put wide2 {wide} 1;put big {} 7", 2 * big),
        ),
        entry(16, &Command::Expire { time_ms: 275 }),
        write(17, other, 2, "put never 1 1"),
        write(18, session, 9, "delete big;delete absent;put c 3 3"),
        open_session(19, 3),
        entry(20, &Command::Close { session, time_ms: 300 }),
        write(21, 19, 1, &format!("put last {big} 9")),
    ]
}

/// A value of four pieces.
const BIG: usize = 3 * VALUE_PIECE_SIZE + 5;

fn scenario_disk() -> (TestDisk, Host<Script>) {
    let disk = TestDisk::default();
    let host = open(disk.handle()).unwrap();
    host.apply_all(scenario()).unwrap();
    (disk, host)
}
