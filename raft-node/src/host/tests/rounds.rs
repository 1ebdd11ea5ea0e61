//! Applying and reading: what each reply says, and what a reader sees when.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::{FutureExt, stream};
use openraft::storage::RaftStateMachine;

use super::*;

#[test]
fn replies_say_what_applying_did() {
    let disk = TestDisk::default();
    let host = open(disk.handle()).unwrap();
    let replies = host.apply_all(scenario()).unwrap();
    assert_eq!(replies[0], Reply::None);
    assert_eq!(replies[1], Reply::Founded { cluster: 99 });
    assert_eq!(replies[2], Reply::Opened { session: 3 });
    assert_eq!(replies[4], applied_reply(5));
    assert_eq!(replies[7], applied_reply(6), "a copy gets the first answer");
    let tombstone = Record { verdict: Verdict::RolledBack, revision: 11, detail: Bytes::new() };
    assert_eq!(replies[10], Reply::Settled(tombstone.clone()));
    assert_eq!(replies[11], Reply::Settled(tombstone));
    assert_eq!(replies[15], Reply::Expired { count: 1 });
    assert_eq!(replies[16], Reply::SessionExpired);
    assert_eq!(replies[19], Reply::Closed);
    let keys: Vec<Bytes> = host.sight().rows.into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["b", "c", "keys", "last", "wide0", "wide1", "wide2"]);
    assert_eq!(host.get("keys").unwrap(), "b,big,c");
    assert_eq!(host.get("last").unwrap(), pattern(BIG, 9));
    assert_eq!(host.applied().index(), Some(21));
    assert_eq!(host.applied().term(), Some(3));
    assert_eq!(host.membership().log_id(), &Some(log_id(13)));
}

#[test]
fn ranges_see_changes_of_their_own_round_and_stop_at_limits() {
    let host = open(TestDisk::default().handle()).unwrap();
    host.apply_all([open_session(1, 1), write(2, 1, 1, "put b 1 1;put d 1 1;put f 1 1")]).unwrap();
    let step = "put a 1 1;put c 1 1;delete d;put g 1 1;list a z keys;delete c;list b g fewer";
    host.apply_all([write(3, 1, 2, step)]).unwrap();
    assert_eq!(host.get("keys").unwrap(), "a,b,c,f,g");
    assert_eq!(host.get("fewer").unwrap(), "b,f");
    let keys = |from: &str, to: Option<&str>, limit| {
        let found = host.read(|rows, _| rows.range(from.as_bytes(), to.map(str::as_bytes), limit)).unwrap();
        found.into_iter().map(|(key, _)| String::from_utf8(key.to_vec()).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(keys("b", None, 2), ["b", "f"]);
    assert_eq!(keys("b", Some("f"), 9), ["b"]);
    assert_eq!(keys("z", Some("a"), 9), Vec::<String>::new());
    assert_eq!(keys("", None, 0), Vec::<String>::new());
}

#[test]
fn a_value_of_one_mebibyte_comes_back_byte_for_byte() {
    let disk = TestDisk::default();
    let host = open(disk.handle()).unwrap();
    host.apply_all([open_session(1, 1), write(2, 1, 1, "put big 1048576 1")]).unwrap();
    assert_eq!(host.get("big").unwrap(), pattern(1 << 20, 1));
    let pieces = (1usize << 20).div_ceil(VALUE_PIECE_SIZE);
    assert_eq!(disk.content().piece_keys().len(), pieces);
    host.apply_all([write(3, 1, 2, "put big 1048575 2")]).unwrap();
    assert_eq!(host.get("big").unwrap(), pattern((1 << 20) - 1, 2));
    assert_eq!(disk.content().piece_keys().len(), pieces, "the old pieces are gone");
    let reopened = open(disk.handle()).unwrap();
    assert_eq!(reopened.sight(), host.sight());
    host.apply_all([write(4, 1, 3, "delete big")]).unwrap();
    assert_eq!(disk.content().piece_keys().len(), 0);
}

#[test]
fn pieces_lie_apart_from_what_every_round_writes() {
    let (disk, _) = scenario_disk();
    let content = disk.content();
    assert!(content.trees["sm.0"].keys().all(|key| key[0] < 2 || key[..] == [2]));
    let pieces = content.trees["sm.0.pieces"].keys();
    assert!(pieces.len() > 0 && pieces.into_iter().all(|key| key[0] == 3));
}

#[test]
fn readers_meet_only_whole_rounds_while_rows_are_saved_beneath_them() {
    let disk = TestDisk::default();
    let host = open(disk.handle()).unwrap();
    host.apply_all([
        open_session(1, 1),
        write(2, 1, 1, &format!("put a {BIG} 2;put b 5 2;put c 5 2;put d 1 2")),
    ])
    .unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (reader, list) = (host.clone(), Arc::clone(&seen));
    disk.on_write(move || {
        let sight = reader.read(|rows, applied| (applied.revision, rows.range(&[], None, 99).unwrap()));
        let single = reader.read(|rows, applied| (applied.revision, rows.get(b"a").unwrap()));
        list.lock().unwrap().push((sight, single));
    });
    host.apply_all([write(3, 1, 2, &format!("put a {} 3;put b 5 3;put c 5 3;delete d;put e 1 3", BIG + 1))])
        .unwrap();
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    assert!(!seen.is_empty(), "something was saved");
    for ((revision, rows), (_, single)) in seen {
        assert_eq!(revision, 3, "what was applied can be read before it is saved");
        let keys: Vec<_> = rows.iter().map(|(key, value)| (key.as_ref(), value.len())).collect();
        assert_eq!(keys, [(b"a".as_slice(), BIG + 1), (b"b", 5), (b"c", 5), (b"e", 1)]);
        assert_eq!(rows[1].1, pattern(5, 3));
        assert_eq!(single.unwrap(), pattern(BIG + 1, 3));
    }
    assert_eq!(host.applied().revision, 3);
    assert_eq!(host.get("a").unwrap(), pattern(BIG + 1, 3));
}

#[test]
fn what_comes_and_goes_between_two_saves_never_reaches_the_disk() {
    let disk = TestDisk::default();
    let host = open_lazy(disk.handle(), 5_000).unwrap();
    host.apply_all([open_session(1, 1), write(2, 1, 1, "put here 1 1")]).unwrap();
    for index in 3..100 {
        // The record of a write goes with the floor, three writes later.
        host.apply_all([write(index, 1, index - 1, &format!("put there {} 1;delete there", 100 + index))])
            .unwrap();
        host.sight();
    }
    assert!(!disk.content().trees.contains_key("sm.0"), "nothing to save came together");
    host.apply_all([write(100, 1, 99, "put there 5000 1")]).unwrap();
    let content = disk.content();
    // The session, three of its records and the last, two rows, the state head.
    assert_eq!(content.trees["sm.0"].len(), 8);
    drop(content);
    assert_eq!(open(disk.handle()).unwrap().sight(), host.sight());
}

#[test]
fn the_state_hash_depends_on_entries_and_not_on_rounds() {
    let one_round = open(TestDisk::default().handle()).unwrap();
    let one_each = open(TestDisk::default().handle()).unwrap();
    one_round.apply_all(scenario()).unwrap();
    for entry in scenario() {
        let before = one_each.applied().state_hash;
        one_each.apply_all([entry]).unwrap();
        assert_ne!(one_each.applied().state_hash, before, "every entry changes it");
    }
    assert_eq!(one_each.sight(), one_round.sight());
    let other = open(TestDisk::default().handle()).unwrap();
    let changed = scenario().into_iter().map(|entry| match entry.log_id.index {
        5 => write(5, 3, 1, "put a 10 1;put b 0 0;put extra 0 0"),
        7 => write(7, 4, 1, "copy big copy;delete a;delete extra"),
        _ => entry,
    });
    other.apply_all(changed).unwrap();
    assert_eq!(other.sight().rows, one_round.sight().rows);
    assert_eq!(
        other.applied().state_hash,
        one_round.applied().state_hash,
        "the same rows by the same writes"
    );
}

#[test]
fn large_batches_are_cut_into_rounds_and_answered_in_order() {
    let host = open(TestDisk::default().handle()).unwrap();
    host.apply_all([open_session(1, 1)]).unwrap();
    let entries: Vec<Entry> = (2..302)
        .map(|index| write(index, 1, index - 1, &format!("put k{} 4000 {}", index % 40, index % 251)))
        .collect();
    let mut batch: VecDeque<Entry> = entries.into_iter().collect();
    let first = host.core.apply_round(&Script, &mut batch).unwrap();
    assert!((50..100).contains(&first.len()), "{} entries fill a round", first.len());
    assert_eq!(batch.len(), 300 - first.len());
    let rest = host.apply_all(batch).unwrap();
    let expected: Vec<Reply> = (2..302).map(applied_reply).collect();
    assert_eq!([first, rest].concat(), expected);
    host.sight();
}

#[test]
fn openraft_sees_applied_state_and_membership() {
    let world = World::new(1);
    let mut host = open(TestDisk::default().handle()).unwrap();
    let (applied, membership) = world.run(async move {
        let entries = scenario().into_iter().map(|entry| Ok((entry, None)));
        host.apply(stream::iter(entries)).await.unwrap();
        host.applied_state().await.unwrap()
    });
    assert_eq!(applied, Some(log_id(21)));
    assert_eq!(membership.log_id(), &Some(log_id(13)));
    assert_eq!(membership.nodes().count(), 2);
}

#[test]
fn waiting_ends_when_the_entry_can_be_read() {
    let host = open(TestDisk::default().handle()).unwrap();
    host.apply_all([open_session(1, 1)]).unwrap();
    assert_eq!(host.wait_applied(1).now_or_never(), Some(Ok(())));
    let mut early = Box::pin(host.wait_applied(2));
    let mut late = Box::pin(host.wait_applied(3));
    assert_eq!(early.as_mut().now_or_never(), None);
    host.apply_all([write(2, 1, 1, "put a 1 1")]).unwrap();
    assert_eq!(early.as_mut().now_or_never(), Some(Ok(())));
    assert_eq!(late.as_mut().now_or_never(), None);
    drop(host);
    assert_eq!(late.as_mut().now_or_never(), Some(Err(super::super::WaitError::Closed)));
}

#[test]
fn what_would_make_nodes_differ_is_an_error() {
    let host = || {
        let host = open(TestDisk::default().handle()).unwrap();
        host.apply_all([open_session(1, 1)]).unwrap();
        host
    };
    assert!(host().apply_all([write(2, 1, 1, "fail")]).is_err(), "a disk error of the machine");
    assert!(host().apply_all([write(2, 1, 1, "chatter")]).is_err(), "too long a detail");
    assert!(host().apply_all([open_session(1, 2)]).is_err(), "an entry twice");
    let garbage = Entry::new(log_id(2), EntryPayload::Normal(Proposal(Bytes::from_static(b"\x07"))));
    let error = host().apply_all([garbage]).unwrap_err();
    assert!(error.to_string().contains("log entry 2"), "{error}");
    let long = "k".repeat(crate::machine::ROW_KEY_SIZE_MAX + 1);
    assert!(host().apply_all([write(2, 1, 1, &format!("put {long} 1 1"))]).is_err());
}

#[test]
fn the_first_founding_counts() {
    let host = open(TestDisk::default().handle()).unwrap();
    let found = |index, cluster, session_lifetime_ms| {
        entry(index, &Command::Found { cluster, session_lifetime_ms, time_ms: 1 })
    };
    let replies = host.apply_all([found(1, 5, 100), found(2, 6, 200)]).unwrap();
    assert_eq!(replies, [Reply::Founded { cluster: 5 }, Reply::Founded { cluster: 5 }]);
    assert_eq!((host.cluster(), host.sessions().lifetime_ms), (Some(5), 100));
}

#[test]
fn log_time_never_goes_back() {
    let host = open(TestDisk::default().handle()).unwrap();
    host.apply_all([entry(1, &Command::Open { nonce: 1, time_ms: 500 })]).unwrap();
    host.apply_all([entry(2, &Command::Open { nonce: 2, time_ms: 400 })]).unwrap();
    assert_eq!(host.applied().time_ms, 500);
    assert_eq!(host.sessions().expiry_ms, Some(500 + crate::command::SESSION_LIFETIME_MS_DEFAULT));
}
