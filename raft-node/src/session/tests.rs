use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use rpc_core::random::SeededRandom;

use super::{Admission, Sessions};
use crate::command::{
    EXPIRE_ROWS_MAX, RECORDS_PER_SESSION_MAX, RESOLVES_AHEAD_MAX, Record, Reply, SEQUENCE_WINDOW,
    SESSIONS_MAX, Verdict,
};

const SESSION: u64 = 10;

fn table() -> Sessions {
    let mut sessions = Sessions::default();
    assert_eq!(sessions.open(SESSION, 77, 1_000), Reply::Opened { session: SESSION });
    sessions
}

/// Applies a write as the host does; the revision stands for the effect.
fn write(sessions: &mut Sessions, sequence: u64, floor: u64, revision: u64) -> Reply {
    write_at(sessions, SESSION, sequence, floor, revision, 1_000)
}

fn write_at(
    sessions: &mut Sessions,
    session: u64,
    sequence: u64,
    floor: u64,
    revision: u64,
    time_ms: u64,
) -> Reply {
    match sessions.admit(session, sequence, floor, time_ms) {
        Admission::Answer(reply) => reply,
        Admission::Apply => {
            sessions.settle(session, sequence, applied(revision));
            Reply::Settled(applied(revision))
        }
    }
}

fn resolve(sessions: &mut Sessions, sequence: u64, revision: u64) -> Reply {
    sessions.resolve(SESSION, sequence, 0, 1_000, revision)
}

fn applied(revision: u64) -> Record {
    Record { verdict: Verdict::Applied, revision, detail: Bytes::from_static(b"detail") }
}

fn rolled_back(revision: u64) -> Record {
    Record { verdict: Verdict::RolledBack, revision, detail: Bytes::new() }
}

/// The table as rows would bring it back after a restart.
fn reloaded(rows: &BTreeMap<Bytes, Bytes>) -> Sessions {
    let mut sessions = Sessions::default();
    for (key, value) in rows {
        sessions.load_row(key, value).unwrap();
    }
    sessions
}

fn keep(rows: &mut BTreeMap<Bytes, Bytes>, sessions: &mut Sessions) {
    for change in sessions.drain_changes() {
        match change.value {
            Some(value) => rows.insert(change.key, value),
            None => rows.remove(&change.key),
        };
    }
}

#[test]
fn opening_again_with_the_same_nonce_answers_the_same_session() {
    let mut sessions = table();
    assert_eq!(sessions.open(11, 77, 2_000), Reply::Opened { session: SESSION });
    assert_eq!(sessions.open(12, 78, 2_000), Reply::Opened { session: 12 });
    assert_eq!(sessions.session_count(), 2);
}

#[test]
fn a_repeated_write_gets_the_first_answer_and_has_no_second_effect() {
    let mut sessions = table();
    assert_eq!(write(&mut sessions, 1, 1, 20), Reply::Settled(applied(20)));
    assert_eq!(write(&mut sessions, 1, 1, 21), Reply::Settled(applied(20)));
    assert_eq!(sessions.record_count(), 1);
}

#[test]
fn writes_of_one_session_may_be_applied_in_any_order() {
    let mut sessions = table();
    assert_eq!(write(&mut sessions, 3, 1, 20), Reply::Settled(applied(20)));
    assert_eq!(write(&mut sessions, 1, 1, 21), Reply::Settled(applied(21)));
    assert_eq!(write(&mut sessions, 2, 1, 22), Reply::Settled(applied(22)));
}

#[test]
fn a_write_below_the_floor_is_stale() {
    let mut sessions = table();
    write(&mut sessions, 1, 1, 20);
    write(&mut sessions, 2, 2, 21);
    assert_eq!(write(&mut sessions, 1, 1, 22), Reply::Stale);
    assert_eq!(resolve(&mut sessions, 1, 23), Reply::Stale);
    assert_eq!(sessions.record_count(), 1, "the record below the floor is dropped");
}

#[test]
fn a_floor_never_moves_back() {
    let mut sessions = table();
    write(&mut sessions, 5, 5, 20);
    assert_eq!(write(&mut sessions, 6, 2, 21), Reply::Settled(applied(21)));
    assert_eq!(write(&mut sessions, 4, 2, 22), Reply::Stale);
}

#[test]
fn a_command_whose_floor_lies_above_its_own_sequence_is_stale() {
    let mut sessions = table();
    assert_eq!(write(&mut sessions, 4, 9, 20), Reply::Stale);
    assert_eq!(write(&mut sessions, 8, 0, 20), Reply::Stale, "the floor has moved all the same");
}

#[test]
fn resolving_an_applied_write_answers_its_record() {
    let mut sessions = table();
    write(&mut sessions, 1, 1, 20);
    assert_eq!(resolve(&mut sessions, 1, 21), Reply::Settled(applied(20)));
}

#[test]
fn after_a_tombstone_the_write_is_a_no_op_for_ever() {
    let mut sessions = table();
    assert_eq!(resolve(&mut sessions, 1, 20), Reply::Settled(rolled_back(20)));
    assert_eq!(write(&mut sessions, 1, 1, 21), Reply::Settled(rolled_back(20)));
    assert_eq!(resolve(&mut sessions, 1, 22), Reply::Settled(rolled_back(20)));
    write(&mut sessions, 2, 2, 23);
    assert_eq!(write(&mut sessions, 1, 1, 24), Reply::Stale, "also when the floor has passed the tombstone");
}

#[test]
fn commands_of_an_unknown_or_closed_session_are_no_ops() {
    let mut sessions = table();
    assert_eq!(write_at(&mut sessions, 99, 1, 1, 20, 1_000), Reply::SessionExpired);
    assert_eq!(sessions.resolve(99, 1, 0, 1_000, 20), Reply::SessionExpired);
    write(&mut sessions, 1, 1, 20);
    assert_eq!(sessions.close(SESSION), Reply::Closed);
    assert_eq!(sessions.close(SESSION), Reply::SessionExpired);
    assert_eq!(write(&mut sessions, 1, 1, 21), Reply::SessionExpired);
    assert_eq!(resolve(&mut sessions, 1, 22), Reply::SessionExpired);
    assert_eq!((sessions.session_count(), sessions.record_count(), sessions.oldest_use_ms()), (0, 0, None));
}

#[test]
fn sessions_expire_a_lifetime_after_their_last_command_of_any_kind() {
    let mut sessions = table();
    assert_eq!(sessions.expire(100, 1_099), Reply::Expired { count: 0 });
    write_at(&mut sessions, SESSION, 1, 1, 20, 1_050);
    assert_eq!(sessions.expire(100, 1_149), Reply::Expired { count: 0 });
    sessions.resolve(SESSION, 2, 0, 1_060, 21);
    write_at(&mut sessions, SESSION, 2, 1, 22, 1_070);
    sessions.open(23, 77, 1_080);
    assert_eq!(sessions.oldest_use_ms(), Some(1_080));
    assert_eq!(sessions.expire(100, 1_179), Reply::Expired { count: 0 });
    assert_eq!(sessions.expire(100, 1_180), Reply::Expired { count: 1 });
    assert_eq!(write(&mut sessions, 2, 1, 24), Reply::SessionExpired);
    assert_eq!(sessions.open(25, 77, 1_180), Reply::Opened { session: 25 }, "ids are never reused");
}

#[test]
fn one_expire_drops_a_bounded_number_of_rows_the_longest_unused_first() {
    let mut sessions = Sessions::default();
    let rows_each = 1 + SEQUENCE_WINDOW;
    let count = EXPIRE_ROWS_MAX as u64 / rows_each + 3;
    for id in 1..=count {
        sessions.open(id, u128::from(id), count - id);
        for sequence in 0..SEQUENCE_WINDOW {
            write_at(&mut sessions, id, sequence, 0, 1, count - id);
        }
    }
    let first = (EXPIRE_ROWS_MAX as u64).div_ceil(rows_each);
    assert_eq!(sessions.expire(1, u64::MAX), Reply::Expired { count: first });
    assert_eq!(sessions.oldest_use_ms(), Some(first));
    assert_eq!(sessions.expire(1, u64::MAX), Reply::Expired { count: count - first });
}

#[test]
fn a_full_table_refuses_to_open_and_evicts_nobody() {
    let mut sessions = Sessions::default();
    for id in 1..=SESSIONS_MAX as u64 {
        sessions.open(id, u128::from(id), 0);
    }
    assert_eq!(sessions.open(SESSIONS_MAX as u64 + 1, 0, u64::MAX), Reply::SessionsFull);
    assert_eq!(sessions.open(SESSIONS_MAX as u64 + 1, 5, 0), Reply::Opened { session: 5 });
    sessions.close(9);
    let next = SESSIONS_MAX as u64 + 2;
    assert_eq!(sessions.open(next, 0, 0), Reply::Opened { session: next });
}

#[test]
fn writes_too_far_above_the_floor_are_refused_until_it_moves() {
    let mut sessions = table();
    let last = SEQUENCE_WINDOW;
    assert_eq!(write(&mut sessions, last, 1, 20), Reply::Settled(applied(20)), "the last that fits above 1");
    assert_eq!(write(&mut sessions, last + 1, 1, 20), Reply::RecordsFull);
    let ahead = 2 * SEQUENCE_WINDOW;
    assert_eq!(write(&mut sessions, ahead, 1, 21), Reply::RecordsFull);
    assert_eq!(write(&mut sessions, ahead, SEQUENCE_WINDOW + 1, 22), Reply::Settled(applied(22)));
}

#[test]
fn a_resolve_always_finds_room_for_what_a_write_could_do() {
    let mut sessions = table();
    for sequence in 0..SEQUENCE_WINDOW - 1 {
        write(&mut sessions, sequence, 0, 20);
    }
    for ahead in 0..RESOLVES_AHEAD_MAX as u64 {
        let reply = resolve(&mut sessions, SEQUENCE_WINDOW + ahead, 30);
        assert_eq!(reply, Reply::Settled(rolled_back(30)));
    }
    assert_eq!(resolve(&mut sessions, u64::MAX, 31), Reply::RecordsFull);
    assert_eq!(resolve(&mut sessions, SEQUENCE_WINDOW - 1, 32), Reply::Settled(rolled_back(32)));
    assert_eq!(sessions.record_count(), RECORDS_PER_SESSION_MAX);
    let owner = sessions.resolve(SESSION, 5_000, 4_990, 1_000, 33);
    assert_eq!(owner, Reply::Settled(rolled_back(33)), "the owner's floor makes room");
}

#[test]
fn rows_that_are_none_are_refused() {
    let mut sessions = Sessions::default();
    assert!(sessions.load_row(b"short", &[0; 32]).is_err());
    assert!(sessions.load_row(&[0; 8], &[0; 31]).is_err());
    assert!(sessions.load_row(&[0; 16], &[0; 9]).is_err(), "a record without its session");
    assert!(sessions.load_row(&[0; 8], &[0; 32]).is_ok());
    assert!(sessions.load_row(&[0; 16], &[2; 9]).is_err());
    assert!(sessions.load_row(&[0; 16], &[0; 8]).is_err());
}

/// One session as the guarantees put it, with nothing ever dropped.
#[derive(Default)]
struct Model {
    alive: bool,
    floor: u64,
    settled: BTreeMap<u64, Record>,
    effects: BTreeSet<u64>,
}

#[test]
fn any_order_of_any_copies_of_commands_keeps_the_guarantees() {
    for seed in 0..200 {
        let mut random = SeededRandom::new(seed);
        let mut below = |limit: u64| random.next_u64() % limit;
        let mut sessions = Sessions::default();
        let mut rows = BTreeMap::new();
        let mut models: BTreeMap<u64, Model> = BTreeMap::new();
        let mut time_ms = 0;
        let sequences = if seed % 2 == 0 { 12 } else { 1_500 };
        for index in 1..600 {
            time_ms += below(3);
            // Sequences are drawn at random: copies, gaps and every order occur.
            let session = 1 + below(8);
            let sequence = 1 + below(sequences);
            let floor = sequence.saturating_sub(below(sequences));
            let kind = below(100);
            let context = format!("seed {seed}, index {index}, session {session}, sequence {sequence}");
            if kind < 5 {
                let Reply::Opened { session } = sessions.open(index, u128::from(below(6)), time_ms) else {
                    panic!("{context}");
                };
                models.entry(session).or_default().alive = true;
            } else if kind < 6 {
                sessions.close(session);
                models.entry(session).or_default().alive = false;
            } else if kind < 8 {
                let before: Vec<u64> = sessions.table.keys().copied().collect();
                sessions.expire(40, time_ms);
                for gone in before.into_iter().filter(|id| !sessions.table.contains_key(id)) {
                    models.entry(gone).or_default().alive = false;
                }
            } else {
                let ids: Vec<u64> = sessions.table.keys().copied().collect();
                let session =
                    if ids.is_empty() || kind < 12 { session } else { ids[below(ids.len() as u64) as usize] };
                let model = models.entry(session).or_default();
                let is_write = kind < 75;
                let floor = if is_write || below(2) == 0 { floor } else { 0 };
                let mut effect = false;
                let reply = if is_write {
                    match sessions.admit(session, sequence, floor, time_ms) {
                        Admission::Answer(reply) => reply,
                        Admission::Apply => {
                            effect = true;
                            sessions.settle(session, sequence, applied(index));
                            Reply::Settled(applied(index))
                        }
                    }
                } else {
                    sessions.resolve(session, sequence, floor, time_ms, index)
                };
                if effect {
                    assert!(model.alive, "no effect without a session: {context}");
                    assert!(model.effects.insert(sequence), "an effect happens at most once: {context}");
                    assert!(!model.settled.contains_key(&sequence), "none after it was settled: {context}");
                }
                if model.alive {
                    model.floor = model.floor.max(floor);
                }
                match reply {
                    Reply::SessionExpired => assert!(!model.alive, "{context}"),
                    Reply::Stale => assert!(model.alive && sequence < model.floor, "{context}"),
                    Reply::RecordsFull => {
                        assert!(sequence >= model.floor + SEQUENCE_WINDOW, "{context}");
                        assert!(!model.settled.contains_key(&sequence), "{context}");
                    }
                    Reply::Settled(record) => {
                        assert!(model.alive && sequence >= model.floor, "{context}");
                        let first = model.settled.entry(sequence).or_insert_with(|| record.clone());
                        assert_eq!(*first, record, "the same answer for ever: {context}");
                        let has_effect = model.effects.contains(&sequence);
                        assert_eq!(record.verdict == Verdict::Applied, has_effect, "{context}");
                    }
                    other => panic!("{other:?}: {context}"),
                }
            }
            keep(&mut rows, &mut sessions);
            if index % 9 != 0 {
                continue;
            }
            let again = reloaded(&rows);
            assert_eq!(again.table, sessions.table, "{context}");
            assert_eq!(again.by_use, sessions.by_use);
            assert_eq!(again.by_nonce, sessions.by_nonce);
            assert_eq!(again.record_count, sessions.record_count);
            assert!(sessions.table.values().all(|session| session.records.len() <= RECORDS_PER_SESSION_MAX));
        }
    }
}
