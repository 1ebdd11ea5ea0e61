//! Snapshots: built beside writes, sent, received, installed, found again.

use std::collections::BTreeMap;
use std::future::Future;

use futures_util::stream;
use openraft::RaftSnapshotBuilder;
use openraft::storage::RaftStateMachine;
use rpc_core::random::SeededRandom;

use super::*;
use crate::disk::sim::{SimDisk, SimDiskOptions};
use crate::snapshot::{
    SnapshotFile, SnapshotName, SnapshotOffer, SnapshotReader, SnapshotRow, SnapshotWriter,
};
use crate::state_head::StateHead;
use crate::types::SnapshotMeta;

fn run<F: Future<Output: Send> + Send + 'static>(future: F) -> F::Output {
    World::new(1).run(future)
}

async fn built(host: &Host<Script>) -> (SnapshotMeta, SnapshotFile) {
    let mut builder = host.clone().try_create_snapshot_builder(true).await.unwrap();
    let snapshot = builder.build_snapshot().await.unwrap();
    (snapshot.meta, snapshot.snapshot)
}

async fn install(host: &Host<Script>, meta: &SnapshotMeta, file: SnapshotFile) -> io::Result<()> {
    host.clone().install_snapshot(meta, file).await
}

async fn current(host: &Host<Script>) -> Option<(SnapshotMeta, SnapshotFile)> {
    let found = host.clone().get_current_snapshot().await.unwrap();
    found.map(|snapshot| (snapshot.meta, snapshot.snapshot))
}

/// A host on `disk` that lives in `world` as node 1, and saves after every round.
fn open_in(world: &World, disk: Disk) -> Host<Script> {
    let config = HostConfig { unsaved_size_max: 0, ..HostConfig::default() };
    Host::open(disk, Arc::new(Script), world.start(1), config).unwrap()
}

/// Opens in a world of its own, and works in it.
fn with_host<F, T>(disk: &TestDisk, work: impl FnOnce(Host<Script>) -> F) -> T
where
    F: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    let world = World::new(1);
    let host = open_in(&world, disk.handle());
    world.run(work(host))
}

fn scenario_snapshot() -> (TestDisk, Sight, SnapshotMeta, SnapshotFile) {
    let disk = TestDisk::default();
    let (sight, meta, file) = with_host(&disk, |host| async move {
        host.apply_all(scenario()).unwrap();
        let (meta, file) = built(&host).await;
        (host.sight(), meta, file)
    });
    (disk, sight, meta, file)
}

#[test]
fn an_installed_state_equals_the_replayed_one() {
    let (_, sight, meta, file) = scenario_snapshot();
    assert_eq!(meta.last_log_id, Some(log_id(21)));
    let disk = TestDisk::default();
    let installed = with_host(&disk, |host| async move {
        install(&host, &meta, file).await.unwrap();
        let (found, file) = current(&host).await.unwrap();
        assert_eq!(found, meta);
        assert!(file.lies_in(&host_files(&host)), "the snapshot is now this node's own");
        // Both go on alike.
        host
    });
    assert_eq!(installed.sight(), sight);
    let reopened = open(disk.handle()).unwrap();
    assert_eq!(reopened.sight(), sight);
    let replayed = open(TestDisk::default().handle()).unwrap();
    replayed.apply_all(scenario()).unwrap();
    for host in [&installed, &reopened, &replayed] {
        let replies =
            host.apply_all([write(22, 19, 1, "put x 1 1"), write(23, 19, 2, "copy last copy")]).unwrap();
        assert_eq!(replies, [applied_reply(21), applied_reply(23)], "the session came with the snapshot");
    }
    assert_eq!(installed.applied().state_hash, replayed.applied().state_hash);
}

/// A value of one byte repeated, and one that nothing makes smaller.
#[test]
fn a_snapshot_of_text_is_compressed() {
    let mut random = SeededRandom::new(1);
    let noise: Bytes = (0..200_000).map(|_| random.below(256) as u8).collect();
    let text = Bytes::from(vec![b'x'; 200_000]);
    for (value, size) in [(text, 0..10_000), (noise, 200_000..202_000)] {
        let (world, disk) = (World::new(1), TestDisk::default());
        let name = SnapshotName::new(None, 1);
        let mut writer = SnapshotWriter::create(disk.handle().files, name, &StateHead::default()).unwrap();
        let row = SnapshotRow { key: Bytes::from_static(&[0, 1]), index: 1, n: 0, value };
        writer.row(&row).unwrap();
        let file = world.run(async move { writer.finish().await.unwrap() });
        assert!(size.contains(&file.offer().size), "{} bytes", file.offer().size);
        let mut reader = SnapshotReader::open(file).unwrap();
        assert_eq!(reader.next_row().unwrap(), Some(row));
        assert_eq!(reader.next_row().unwrap(), None);
    }
}

fn host_files(host: &Host<Script>) -> Arc<dyn crate::disk::Files> {
    host.core.files()
}

#[test]
fn every_prefix_of_an_installation_is_the_old_state_or_the_new() {
    let (_, new, meta, file) = scenario_snapshot();
    let disk = TestDisk::default();
    let (old, start) = with_host(&disk, {
        let disk = disk.clone();
        |host| async move {
            host.apply_all(scenario().into_iter().take(12)).unwrap();
            let (old, start) = (host.sight(), disk.content().clone());
            install(&host, &meta, file).await.unwrap();
            assert_eq!(host.sight().applied.index(), Some(21));
            (old, start)
        }
    });
    let prefixes = disk.prefixes_since(&start);
    let mut switched = 0;
    for (count, content) in prefixes.into_iter().enumerate() {
        let disk = TestDisk::of(content);
        let host = open(disk.handle()).unwrap_or_else(|error| panic!("{count} operations: {error}"));
        let sight = host.sight();
        assert!(sight == old || sight == new, "{count} operations: {:?}", sight.applied);
        assert!(switched == 0 || sight == new, "it never switches back");
        switched += usize::from(sight == new);
        let content = disk.content();
        assert_eq!(content.generations().len(), 1);
        assert!(content.files.keys().all(|name| name.ends_with(".snap")));
    }
    // The switch itself, and the removal of the two old trees.
    assert!(switched > 2);
}

#[test]
fn an_installation_that_failed_can_be_repeated() {
    let (source, _, meta, file) = scenario_snapshot();
    let name = file.offer().name.clone();
    let disk = TestDisk::default();
    with_host(&disk, |host| async move {
        host.apply_all(scenario().into_iter().take(12)).unwrap();
        let before = host.sight();
        let whole = source.content().files[&name].clone();
        let position = whole.len() - 30;
        source.content().files.get_mut(&name).unwrap()[position] ^= 1;
        assert!(install(&host, &meta, file.clone()).await.is_err());
        assert_eq!(host.sight(), before, "a damaged snapshot changes nothing");
        source.content().files.insert(name, whole);
        install(&host, &meta, file).await.unwrap();
        assert_eq!(host.applied().index(), Some(21));
    });
}

#[test]
fn a_snapshot_of_another_cluster_or_an_older_state_is_refused() {
    let (_, _, meta, file) = scenario_snapshot();
    let foreign = (meta.clone(), file.clone());
    with_host(&TestDisk::default(), |host| async move {
        let found = Command::Found { cluster: 1, session_lifetime_ms: 1, time_ms: 1 };
        host.apply_all([entry(1, &found)]).unwrap();
        assert!(install(&host, &foreign.0, foreign.1).await.is_err());
    });
    with_host(&TestDisk::default(), |host| async move {
        host.apply_all(scenario()).unwrap();
        host.apply_all([open_session(22, 9)]).unwrap();
        assert!(install(&host, &meta, file).await.is_err());
        assert_eq!(host.applied().index(), Some(22));
    });
}

/// Overwrites, deletes and inserts all over the keys, in single rounds.
fn churn(first: u64, count: u64, keys: u64, seed: u64) -> Vec<Entry> {
    let mut random = SeededRandom::new(seed);
    let mut entries = Vec::new();
    for index in first..first + count {
        let key = random.below(keys);
        let body = match random.below(4) {
            0 => format!("delete k{key:04}"),
            1 => format!("put k{key:04} {BIG} {}", index % 251),
            _ => format!("put k{key:04} 20 {}", index % 251),
        };
        entries.push(write_at(index, 1, index, index - 1, index, &body));
    }
    entries
}

#[test]
fn a_snapshot_built_beside_writes_is_the_state_at_its_index() {
    for seed in 0..6 {
        let world = World::new(seed);
        let host = open_in(&world, TestDisk::default().handle());
        let (expected, meta, file, moved) = world.run(async move {
            host.apply_all([open_session(1, 1)]).unwrap();
            host.apply_all(churn(2, 1_500, 900, seed)).unwrap();
            let expected = host.sight();
            let mut builder = host.clone().try_create_snapshot_builder(false).await.unwrap();
            assert!(
                host.clone().try_create_snapshot_builder(false).await.is_none(),
                "one at a time unless forced"
            );
            let writer = host.clone();
            let runtime = host.core.runtime.clone();
            let writes = runtime.spawn("writes", async move {
                for chunk in churn(1_502, 600, 1_000, seed + 100).chunks(7) {
                    let chunk: Vec<_> = chunk.iter().map(|entry| Ok((entry.clone(), None))).collect();
                    writer.clone().apply(stream::iter(chunk)).await.unwrap();
                }
            });
            // The first rounds of writes come before the first chunk.
            crate::snapshot::breathe().await;
            let snapshot = builder.build_snapshot().await.unwrap();
            let moved = host.applied().index();
            writes.await.unwrap();
            host.sight();
            (expected, snapshot.meta, snapshot.snapshot, moved)
        });
        assert!(moved > Some(1_502), "writes went on while the snapshot was built: {moved:?}");
        assert_eq!(meta.last_log_id, Some(log_id(1_501)));
        let installed = with_host(&TestDisk::default(), |host| async move {
            install(&host, &meta, file).await.unwrap();
            host.sight()
        });
        assert_eq!(installed, expected, "seed {seed}");
    }
}

#[test]
fn a_snapshot_that_is_overwritten_too_fast_starts_again() {
    let world = World::new(1);
    let config = HostConfig { snapshot_undo_bytes_max: 20_000, ..HostConfig::default() };
    let host = Host::open(TestDisk::default().handle(), Arc::new(Script), world.start(1), config).unwrap();
    let (sight, meta) = world.run(async move {
        host.apply_all([open_session(1, 1)]).unwrap();
        host.apply_all(churn(2, 500, 300, 1)).unwrap();
        let mut builder = host.clone().try_create_snapshot_builder(true).await.unwrap();
        host.apply_all(churn(502, 200, 300, 2)).unwrap();
        assert!(!host.core.is_cutting(), "the cut is given up");
        let snapshot = builder.build_snapshot().await.unwrap();
        (host.sight(), snapshot.meta)
    });
    assert_eq!(meta.last_log_id, sight.applied.log_id, "the second attempt is of the later state");
}

#[test]
fn dropping_a_builder_ends_its_cut() {
    with_host(&TestDisk::default(), |host| async move {
        let builder = host.clone().try_create_snapshot_builder(false).await;
        assert!(host.core.is_cutting());
        drop(builder);
        assert!(!host.core.is_cutting());
    });
}

#[test]
fn a_state_installed_meanwhile_ends_the_build_of_the_old_one() {
    let (_, _, meta, file) = scenario_snapshot();
    with_host(&TestDisk::default(), |host| async move {
        host.apply_all(scenario().into_iter().take(8)).unwrap();
        let mut builder = host.clone().try_create_snapshot_builder(true).await.unwrap();
        install(&host, &meta, file).await.unwrap();
        let snapshot = builder.build_snapshot().await.unwrap();
        assert_eq!(snapshot.meta, meta);
    });
}

#[test]
fn every_flipped_byte_and_every_cut_of_a_snapshot_file_is_seen() {
    let disk = TestDisk::default();
    let file = with_host(&disk, |host| async move {
        let found = Command::Found { cluster: 1, session_lifetime_ms: 1_000, time_ms: 1 };
        let entries =
            [membership_entry(1, 1), entry(2, &found), open_session(3, 1), write(4, 3, 1, "put a 30 1")];
        host.apply_all(entries).unwrap();
        built(&host).await.1
    });
    let name = file.offer().name.clone();
    let whole = disk.content().files[&name].clone();
    assert!(whole.len() < 1_000, "{} bytes", whole.len());
    let check = move |bytes: Vec<u8>| {
        disk.content().files.insert(name.clone(), bytes);
        let (disk, name, file) = (disk.clone(), name.clone(), file.clone());
        run(async move {
            // As it lies there, only what is inside it can tell; against what was offered, its checksum can too.
            let found = SnapshotFile::find(Arc::new(disk), name).await?.verify().await;
            if found.is_err() && file.verify().await.is_ok() {
                return Err(io::Error::other("only what lies behind the offered size differs"));
            }
            found
        })
    };
    assert!(check(whole.clone()).is_ok());
    for position in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[position] ^= 1 << (position % 8);
        assert_eq!(check(damaged).unwrap_err().kind(), io::ErrorKind::InvalidData, "byte {position}");
        assert_eq!(
            check(whole[..position].to_vec()).unwrap_err().kind(),
            io::ErrorKind::InvalidData,
            "cut at {position}"
        );
    }
    assert_eq!(check([whole.as_slice(), b"\0"].concat()).unwrap_err().kind(), io::ErrorKind::Other);
}

#[test]
fn after_a_restart_the_newest_snapshot_that_verifies_is_found() {
    let disk = TestDisk::default();
    let names = with_host(&disk, |host| async move {
        assert!(current(&host).await.is_none());
        let mut names = Vec::new();
        for part in scenario().chunks(7) {
            host.apply_all(part.to_vec()).unwrap();
            names.push(built(&host).await.1.offer().name.clone());
        }
        names
    });
    let kept: Vec<String> = disk.content().files.keys().cloned().collect();
    assert_eq!(kept, [names[1].clone(), names[2].clone()], "two are kept");
    disk.content().files.insert("30-1-0000000000000000.tmp".to_owned(), b"half".to_vec());
    disk.content().files.insert("identity".to_owned(), b"not ours".to_vec());
    let (meta, file) = with_host(&disk, |host| async move { current(&host).await.unwrap() });
    assert_eq!((meta.last_log_id, &file.offer().name), (Some(log_id(21)), &names[2]));
    disk.content().files.get_mut(&names[2]).unwrap()[100] ^= 1;
    let (meta, file) = with_host(&disk, |host| async move { current(&host).await.unwrap() });
    assert_eq!(
        (meta.last_log_id, &file.offer().name),
        (Some(log_id(14)), &names[1]),
        "a damaged one is skipped"
    );
    assert!(disk.content().files.contains_key("identity"));
    assert!(!disk.content().files.keys().any(|name| name.ends_with(".tmp")));
}

#[test]
fn a_snapshot_is_received_in_parts_and_goes_on_where_it_ended() {
    let (_, sight, meta, file) = scenario_snapshot();
    let disk = TestDisk::default();
    let (received, installed) = with_host(&disk, |host| async move {
        let offer = file.offer().clone();
        let mut receiver = host.receive_snapshot(offer.clone()).unwrap();
        let part = |offset| file.read(offset, 1_000).unwrap();
        assert_eq!(receiver.write(1_000, &part(1_000)).unwrap(), 0, "a part that is too early is ignored");
        assert_eq!(receiver.write(0, &part(0)).unwrap(), 1_000);
        assert_eq!(receiver.write(500, &part(500)).unwrap(), 1_500, "an overlap counts once");
        assert_eq!(receiver.write(0, &part(0)).unwrap(), 1_500);
        drop(receiver);
        let mut receiver = host.receive_snapshot(offer.clone()).unwrap();
        assert_eq!(receiver.received(), 1_500);
        while !receiver.is_complete() {
            let offset = receiver.received();
            receiver.write(offset, &part(offset)).unwrap();
        }
        assert_eq!(receiver.write(offer.size, b"more").unwrap(), offer.size);
        let received = receiver.finish().await.unwrap();
        install(&host, &received.0, received.1.clone()).await.unwrap();
        let again = host.receive_snapshot(offer.clone()).unwrap();
        assert!(again.is_complete(), "what is here already is not sent again");
        assert_eq!(again.finish().await.unwrap().0, received.0);
        (received, host.sight())
    });
    assert_eq!(received.0, meta);
    assert_eq!(installed, sight);
}

#[test]
fn a_damaged_transfer_is_refused_and_begins_anew() {
    let (_, _, _, file) = scenario_snapshot();
    let disk = TestDisk::default();
    with_host(&disk, |host| async move {
        let offer = file.offer().clone();
        let mut bytes = file.read(0, offer.size as usize).unwrap().to_vec();
        let mut receiver = host.receive_snapshot(offer.clone()).unwrap();
        receiver.write(0, &bytes[..100]).unwrap();
        assert!(receiver.finish().await.is_err(), "not complete");
        bytes[777] ^= 4;
        let mut receiver = host.receive_snapshot(offer.clone()).unwrap();
        receiver.write(0, &bytes).unwrap();
        let error = receiver.finish().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(host.receive_snapshot(offer).unwrap().received(), 0);
    });
}

#[test]
fn hostile_offers_are_refused() {
    let host = open(TestDisk::default().handle()).unwrap();
    let offered =
        |name: &str, size| host.receive_snapshot(SnapshotOffer { name: name.to_owned(), size, crc: 0 });
    let names = [
        "",
        "../1-1-0000000000000001.snap",
        "1-1-1.snap",
        "1-1-0000000000000001.tmp",
        "identity",
        "1-1-000000000000000G.snap",
        "+1-1-0000000000000001.snap",
    ];
    for name in names {
        assert_eq!(offered(name, 1).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{name}");
    }
    assert!(offered("1-1-0000000000000001.snap", 1 << 50).is_err());
    assert!(offered("1-1-0000000000000001.snap", 1).is_ok());
}

#[test]
fn crashes_of_the_simulated_disk_never_lose_a_round_boundary() {
    let mut hit = BTreeMap::new();
    for seed in 0..40 {
        let world = World::new(seed);
        let disk = SimDisk::new(world.fork_random(), SimDiskOptions::default());
        let mut sights: BTreeMap<Option<u64>, u128> = BTreeMap::new();
        let all = open(TestDisk::default().handle()).unwrap();
        sights.insert(None, all.applied().state_hash);
        for entry in scenario() {
            all.apply_all([entry]).unwrap();
            sights.insert(all.applied().index(), all.applied().state_hash);
        }
        for life in 0..4_u64 {
            let host = open_in(&world, disk.open(&world.start(1)));
            let sight = host.sight();
            assert_eq!(Some(&sight.applied.state_hash), sights.get(&sight.applied.index()), "seed {seed}");
            *hit.entry(sight.applied.index()).or_insert(0) += 1;
            let worked = world.run(async move {
                if let Some((meta, file)) = current(&host).await
                    && meta.last_log_id > sight.applied.log_id
                {
                    install(&host, &meta, file).await?;
                }
                let applied = host.applied().index();
                let rest = scenario().into_iter().filter(|entry| applied < Some(entry.log_id.index));
                let rest: Vec<_> = rest.take(6).map(|entry| Ok((entry, None))).collect();
                host.clone().apply(stream::iter(rest)).await?;
                if (seed + life).is_multiple_of(2) {
                    built(&host).await;
                }
                Ok::<(), io::Error>(())
            });
            worked.unwrap();
            disk.crash();
        }
    }
    assert!(hit.len() > 3, "crashes fell at different places: {hit:?}");
}
