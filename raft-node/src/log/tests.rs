use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures_util::StreamExt;
use openraft::EntryPayload;
use openraft::LogId;
use openraft::impls::leader_id_adv::LeaderId;
use rpc_core::random::SeededRandom;
use rpc_core::sim::World;

use super::*;
use crate::disk::sim::{SimDisk, SimDiskOptions};
use crate::disk::{PIECE_SIZE_MAX, Store};
use crate::types::Proposal;

fn log_id(term: u64, index: u64) -> LogIdOf<TypeConfig> {
    LogId::new(LeaderId { term, node_id: 1 }, index)
}

fn entry(term: u64, index: u64, size: usize) -> EntryOf<TypeConfig> {
    let command = Bytes::from(vec![index as u8; size]);
    EntryOf::<TypeConfig>::new(log_id(term, index), EntryPayload::Normal(Proposal(command)))
}

fn describe(entries: &[EntryOf<TypeConfig>]) -> Vec<(u64, u64, Vec<u8>)> {
    let describe = |entry: &EntryOf<TypeConfig>| match &entry.payload {
        EntryPayload::Normal(Proposal(bytes)) => {
            (entry.log_id.leader_id.term, entry.log_id.index, bytes.to_vec())
        }
        other => panic!("{other:?}"),
    };
    entries.iter().map(describe).collect()
}

/// Appends and waits until it is durable.
async fn append(log: &mut LogStore, entries: Vec<EntryOf<TypeConfig>>) -> io::Result<()> {
    log.append(entries, IOFlushed::noop()).await?;
    log.sync().await
}

fn disk(seed: u64) -> SimDisk {
    SimDisk::new(SeededRandom::new(seed), SimDiskOptions::default())
}

#[test]
fn entries_of_all_sizes_survive_a_restart() {
    let world = World::new(1);
    let disk = disk(1);
    let sizes = [0, 1, PIECE_SIZE_MAX, PIECE_SIZE_MAX + 1, 3 * PIECE_SIZE_MAX, 1_100_000];
    let entries: Vec<_> = (0..).zip(sizes).map(|(index, size)| entry(1, index, size)).collect();
    let (runtime, opened) = (world.observer(), disk.open(&world.observer()));
    let written = entries.clone();
    world.run(async move { append(&mut LogStore::open(opened, &runtime).unwrap(), written).await.unwrap() });
    disk.crash();
    let (runtime, opened) = (world.observer(), disk.open(&world.observer()));
    world.run(async move {
        let mut log = LogStore::open(opened, &runtime).unwrap();
        assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(log_id(1, 5)));
        assert_eq!(describe(&log.try_get_log_entries(..).await.unwrap()), describe(&entries));
        assert_eq!(
            log.limited_get_log_entries(0, 6).await.unwrap().len(),
            5,
            "1.1 MB is left for the next read"
        );
        assert_eq!(log.limited_get_log_entries(5, 6).await.unwrap().len(), 1, "but never nothing");
    });
}

#[test]
fn many_appends_share_a_sync_and_answers_keep_their_order() {
    let world = World::new(2);
    let disk = disk(2);
    let (runtime, opened) = (world.observer(), disk.open(&world.observer()));
    let syncs = disk.clone();
    world.run(async move {
        let mut log = LogStore::open(opened, &runtime).unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waiting = Vec::new();
        for index in 0..1_000 {
            log.append([entry(1, index, 100)], IOFlushed::noop()).await.unwrap();
            let (log, order) = (log.clone(), Arc::clone(&order));
            waiting.push(runtime.spawn("caller", async move {
                log.sync().await.unwrap();
                order.lock().unwrap().push(index);
            }));
        }
        for task in waiting {
            task.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), (0..1_000).collect::<Vec<u64>>());
    });
    assert!((1..=4).contains(&syncs.sync_count()), "{} syncs for 1,000 appends", syncs.sync_count());
}

#[test]
fn a_failed_sync_is_an_error_for_all_who_wait_and_for_ever() {
    let world = World::new(3);
    let disk = disk(3);
    let (runtime, opened) = (world.observer(), disk.open(&world.observer()));
    world.run(async move {
        let mut log = LogStore::open(opened, &runtime).unwrap();
        append(&mut log, vec![entry(1, 0, 10)]).await.unwrap();
        disk.fail_syncs(1);
        assert!(append(&mut log, vec![entry(1, 1, 10)]).await.is_err());
        assert!(append(&mut log, vec![entry(1, 2, 10)]).await.is_err());
    });
}

#[test]
fn damage_is_refused_with_the_index_of_the_entry() {
    let world = World::new(4);
    let disk = disk(4);
    let (runtime, opened) = (world.observer(), disk.open(&world.observer()));
    let store = Arc::clone(&opened.store);
    world.run(async move {
        let mut log = LogStore::open(opened, &runtime).unwrap();
        append(
            &mut log,
            (0..20).map(|index| entry(1, index, if index == 9 { 3 * PIECE_SIZE_MAX } else { 50 })).collect(),
        )
        .await
        .unwrap();
    });
    let reopen = |disk: &SimDisk| LogStore::open(disk.open(&world.observer()), &world.observer()).map(|_| ());
    let flip = |store: &dyn Store, tree: &str, key: &[u8]| {
        let record = store.get(tree, key).unwrap().unwrap();
        for position in [0, record.len() / 2, record.len() - 1] {
            let mut edited = record.to_vec();
            edited[position] ^= 1;
            store.insert(tree, key, &edited).unwrap();
        }
    };
    flip(&*store, "log", &7u64.to_be_bytes());
    let error = reopen(&disk).unwrap_err();
    assert!(error.to_string().contains("log entry 7"), "{error}");

    let store = disk.open(&world.observer()).store;
    store.remove("log", &7u64.to_be_bytes()).unwrap();
    assert!(reopen(&disk).unwrap_err().to_string().contains("log entry 7 is damaged: it is missing"));

    let store = disk.open(&world.observer()).store;
    record::write(&*store, &entry(1, 7, 50)).unwrap();
    let (key, _) = store.range("log.pieces", &[], None, 10).unwrap().swap_remove(1);
    flip(&*store, "log.pieces", &key);
    assert!(reopen(&disk).unwrap_err().to_string().contains("log entry 9"));
}

#[test]
fn pieces_without_their_entry_are_removed_at_the_next_start() {
    let world = World::new(5);
    let disk = disk(5);
    let (runtime, opened) = (world.observer(), disk.open(&world.observer()));
    let (store, large) = (Arc::clone(&opened.store), entry(1, 1, 3 * PIECE_SIZE_MAX));
    world.run(async move {
        let mut log = LogStore::open(opened, &runtime).unwrap();
        append(&mut log, vec![entry(1, 0, 10), large]).await.unwrap();
    });
    // As if the crash had come between the last piece and the entry.
    store.remove("log", &1u64.to_be_bytes()).unwrap();
    let (runtime, opened) = (world.observer(), disk.open(&world.observer()));
    let store = Arc::clone(&opened.store);
    assert_eq!(store.range("log.pieces", &[], None, 10).unwrap().len(), 3);
    world.run(async move {
        let mut log = LogStore::open(opened, &runtime).unwrap();
        assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(log_id(1, 0)));
        assert!(store.range("log.pieces", &[], None, 10).unwrap().is_empty());
        append(&mut log, vec![entry(2, 1, PIECE_SIZE_MAX)]).await.unwrap();
        assert_eq!(describe(&log.try_get_log_entries(1..).await.unwrap()), [(2, 1, vec![1; PIECE_SIZE_MAX])]);
    });
}

#[test]
fn an_entry_that_would_leave_a_hole_is_refused() {
    let world = World::new(6);
    let (runtime, opened) = (world.observer(), disk(6).open(&world.observer()));
    world.run(async move {
        let mut log = LogStore::open(opened, &runtime).unwrap();
        append(&mut log, vec![entry(1, 0, 10)]).await.unwrap();
        assert!(append(&mut log, vec![entry(1, 2, 10)]).await.is_err());
        assert!(append(&mut log, vec![entry(1, 0, 10)]).await.is_err());
        append(&mut log, vec![entry(1, 1, 10)]).await.unwrap();
    });
}

#[test]
fn a_purge_may_jump_far_ahead_and_replication_never_reads_across_it() {
    let world = World::new(7);
    let (runtime, opened) = (world.observer(), disk(7).open(&world.observer()));
    world.run(async move {
        let mut log = LogStore::open(opened, &runtime).unwrap();
        append(&mut log, (0..10).map(|index| entry(1, index, 10)).collect()).await.unwrap();
        log.purge(log_id(1, 4)).await.unwrap();
        assert!(log.limited_get_log_entries(3, 8).await.unwrap().is_empty());
        assert_eq!(log.limited_get_log_entries(5, 8).await.unwrap().len(), 3);
        // An installed snapshot covers a billion entries that were never here.
        log.purge(log_id(2, 1_000_000_000)).await.unwrap();
        append(&mut log, vec![entry(2, 1_000_000_001, 10)]).await.unwrap();
        assert_eq!(log.try_get_log_entries(..).await.unwrap().len(), 1);
        let mut log = LogStore::open(log.shared.disk.clone(), &runtime).unwrap();
        assert_eq!(log.try_get_log_entries(..).await.unwrap().len(), 1);
    });
}

#[test]
fn entries_are_the_same_from_memory_and_from_the_store() {
    let world = World::new(8);
    let (runtime, opened) = (world.observer(), disk(8).open(&world.observer()));
    world.run(async move {
        let mut log = LogStore::open(opened, &runtime).unwrap();
        for index in 0..300 {
            append(&mut log, vec![entry(1, index, 40_000)]).await.unwrap();
        }
        assert!(log.log().tail_size <= TAIL_SIZE_MAX && log.log().tail.len() < 250);
        let read = describe(&log.try_get_log_entries(..).await.unwrap());
        let streamed: Vec<_> = log.entries_stream(..).await.map(Result::unwrap).collect().await;
        assert_eq!(describe(&streamed), read);
        let lengths: Vec<(u64, usize)> = read.iter().map(|(_, index, bytes)| (*index, bytes.len())).collect();
        assert_eq!(lengths, (0..300).map(|index| (index, 40_000)).collect::<Vec<_>>());
        assert!(read.iter().all(|(_, index, bytes)| bytes.iter().all(|byte| *byte == *index as u8)));
    });
}

#[test]
fn purged_entries_are_removed_also_when_a_crash_came_first() {
    for seed in 0..50 {
        let world = World::new(seed);
        let disk = disk(seed);
        let (runtime, opened) = (world.observer(), disk.open(&world.observer()));
        world.run(async move {
            let mut log = LogStore::open(opened, &runtime).unwrap();
            let entries = (0..2_000)
                .map(|index| entry(1, index, if index % 100 == 0 { PIECE_SIZE_MAX + 1 } else { 10 }));
            append(&mut log, entries.collect()).await.unwrap();
            log.purge(log_id(1, 1_500)).await.unwrap();
            if seed % 2 == 0 {
                log.sync().await.unwrap();
            }
        });
        disk.crash();
        let (runtime, opened) = (world.observer(), disk.open(&world.observer()));
        let store = Arc::clone(&opened.store);
        world.run(async move {
            let mut log = LogStore::open(opened, &runtime).unwrap();
            let state = log.get_log_state().await.unwrap();
            assert_eq!(state.last_log_id, Some(log_id(1, 1_999)));
            let first = state.last_purged_log_id.map_or(0, |purged| purged.index + 1);
            assert!(seed % 2 == 1 || first == 1_501);
            for tree in ["log", "log.pieces"] {
                let lowest = store.range(tree, &[], None, 1).unwrap();
                assert!(lowest.iter().all(|(key, _)| key[..8] >= first.to_be_bytes()[..]), "{tree}");
            }
        });
    }
}

/// What must survive any crash: all that was acknowledged. What was only asked for may be there or not, but whole.
#[derive(Clone, Default)]
struct Promised {
    vote: Option<VoteOf<TypeConfig>>,
    entries: BTreeMap<u64, (u64, usize)>,
    asked: BTreeSet<(u64, u64, usize)>,
}

/// Random appends, truncations, purges and votes, cut off by a crash at a random moment; again and again on one disk.
#[test]
fn nothing_acknowledged_is_lost_in_any_crash() {
    for seed in 0..60 {
        let disk = disk(seed);
        let mut random = SeededRandom::new(seed);
        let mut promised = Promised::default();
        for life in 0..6 {
            promised = one_life(&disk, &mut random, promised, seed * 100 + life);
            disk.crash();
        }
    }
}

fn one_life(disk: &SimDisk, random: &mut SeededRandom, promised: Promised, seed: u64) -> Promised {
    let world = World::new(seed);
    let runtime = world.start(1);
    let opened = disk.open(&runtime);
    let kept = Arc::new(Mutex::new(promised));
    let (shared, mut plan) = (Arc::clone(&kept), random.fork());
    let handle = runtime.clone();
    runtime.spawn("writer of the log", async move {
        let mut log = LogStore::open(opened, &handle).expect("the log opens after any crash");
        let found = describe(&log.try_get_log_entries(..).await.unwrap());
        let mut state = shared.lock().unwrap().clone();
        assert!(log.read_vote().await.unwrap() >= state.vote, "seed {seed}: a vote was forgotten");
        for (term, index, bytes) in &found {
            assert!(
                state.asked.contains(&(*term, *index, bytes.len())),
                "seed {seed}: entry {index} is made up"
            );
            assert!(bytes.iter().all(|byte| *byte == *index as u8), "seed {seed}: entry {index} differs");
        }
        let found: BTreeMap<u64, (u64, usize)> =
            found.into_iter().map(|(term, index, bytes)| (index, (term, bytes.len()))).collect();
        for (index, promised) in &state.entries {
            let purged = log.get_log_state().await.unwrap().last_purged_log_id;
            let gone = purged.is_some_and(|purged| purged.index >= *index);
            assert!(gone || found.get(index) == Some(promised), "seed {seed}: entry {index} was lost");
        }
        state.entries = found;
        state.vote = log.read_vote().await.unwrap();
        let last_term = log.get_log_state().await.unwrap().last_log_id.map_or(1, |last| last.leader_id.term);
        let mut term = state.vote.map_or(1, |vote| vote.leader_id.term).max(last_term);
        loop {
            let last = log.get_log_state().await.unwrap().last_log_id;
            let next = last.map_or(0, |last| last.index + 1);
            match plan.below(10) {
                0 => {
                    term += 1;
                    let vote = VoteOf::<TypeConfig>::new(term, 1);
                    log.save_vote(&vote).await.unwrap();
                    state.vote = Some(vote);
                }
                1 if !state.entries.is_empty() => {
                    // Truncation belongs to a new leader; what is cut is promised no more from the moment it is asked.
                    term += 1;
                    let keep = next.saturating_sub(1 + plan.below(4));
                    let keep = state
                        .entries
                        .range(..keep)
                        .next_back()
                        .map(|(index, (term, _))| log_id(*term, *index));
                    let purged = log.get_log_state().await.unwrap().last_purged_log_id;
                    state.entries.retain(|index, _| keep.is_some_and(|keep| *index <= keep.index));
                    *shared.lock().unwrap() = state.clone();
                    log.truncate_after(keep.max(purged)).await.unwrap();
                }
                2 if state.entries.len() > 10 => {
                    let (index, (term, _)) =
                        state.entries.iter().nth(4).map(|(index, entry)| (*index, *entry)).unwrap();
                    log.purge(log_id(term, index)).await.unwrap();
                    state.entries.retain(|other, _| *other > index);
                }
                _ => {
                    let sizes: Vec<usize> = (0..plan.between(1, 5))
                        .map(|_| [10, 200, PIECE_SIZE_MAX, 40_000][plan.below(4) as usize])
                        .collect();
                    let entries: Vec<_> =
                        (next..).zip(&sizes).map(|(index, size)| entry(term, index, *size)).collect();
                    state.asked.extend((next..).zip(&sizes).map(|(index, size)| (term, index, *size)));
                    *shared.lock().unwrap() = state.clone();
                    append(&mut log, entries).await.unwrap();
                    state.entries.extend((next..).zip(sizes.iter().map(|size| (term, *size))));
                }
            }
            *shared.lock().unwrap() = state.clone();
        }
    });
    let (observer, lifetime) =
        (world.observer(), std::time::Duration::from_micros(random.between(100, 30_000)));
    world.run(async move { observer.sleep(lifetime).await });
    world.crash(1);
    kept.lock().unwrap().clone()
}
