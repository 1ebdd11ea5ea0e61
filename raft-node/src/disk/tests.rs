//! One conformance test for the adapters, and what only the real one must withstand.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use rpc_core::random::SeededRandom;
use rpc_core::sim::World;

use super::real::{self, OpenError};
use super::sim::{SimDisk, SimDiskOptions};
use super::{Change, Disk, KEY_SIZE_MAX, PIECE_SIZE_MAX, Store};

type Model = BTreeMap<(String, Vec<u8>), Vec<u8>>;

/// Random operations on both; every read must agree.
fn agree(store: &dyn Store, model: &mut Model, random: &mut SeededRandom, operations: usize) {
    for _ in 0..operations {
        let tree = ["a", "b", "log"][random.below(3) as usize].to_owned();
        let key = vec![random.below(8) as u8; random.between(1, 3) as usize];
        match random.below(10) {
            0..4 => {
                let value = vec![random.below(256) as u8; random.below(300) as usize];
                store.insert(&tree, &key, &value).unwrap();
                model.insert((tree, key), value);
            }
            4..6 => {
                store.remove(&tree, &key).unwrap();
                model.remove(&(tree, key));
            }
            6 => {
                let expected = model.get(&(tree.clone(), key.clone())).map(Vec::as_slice);
                assert_eq!(store.get(&tree, &key).unwrap().as_deref(), expected);
            }
            7 if random.chance(300_000) => {
                let to = vec![random.below(9) as u8];
                let to = random.chance(700_000).then_some(to.as_slice());
                store.remove_range(&tree, &key, to).unwrap();
                let inside = |found: &Vec<u8>| *found >= key && to.is_none_or(|to| found.as_slice() < to);
                model.retain(|(name, found), _| *name != tree || !inside(found));
            }
            8 if random.chance(300_000) => {
                let keys =
                    [vec![random.below(8) as u8], vec![random.below(8) as u8], vec![random.below(8) as u8]];
                let value = vec![random.below(256) as u8; random.below(300) as usize];
                store
                    .write(&[
                        (&tree, Change::Insert(&keys[0], &value)),
                        ("b", Change::RemoveRange(&keys[1], Some(&keys[2]))),
                        (&tree, Change::Remove(&key)),
                        ("a", Change::Insert(&keys[2], &value)),
                    ])
                    .unwrap();
                model.insert((tree.clone(), keys[0].clone()), value.clone());
                model.retain(|(name, found), _| name != "b" || *found < keys[1] || *found >= keys[2]);
                model.remove(&(tree, key));
                model.insert(("a".to_owned(), keys[2].clone()), value);
            }
            8 => {
                let (to, limit) = (vec![random.below(9) as u8], random.below(10) as usize);
                let to = random.chance(700_000).then_some(to.as_slice());
                let inside = |found: &Vec<u8>| *found >= key && to.is_none_or(|to| found.as_slice() < to);
                let expected: Vec<(Vec<u8>, Vec<u8>)> = model
                    .iter()
                    .filter(|((name, found), _)| *name == tree && inside(found))
                    .map(|((_, key), value)| (key.clone(), value.clone()))
                    .take(limit)
                    .collect();
                let found = store.range(&tree, &key, to, limit).unwrap();
                let found: Vec<_> = found.iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect();
                assert_eq!(found, expected);
            }
            _ if random.chance(100_000) => {
                store.remove_range(&tree, &[], None).unwrap();
                model.retain(|(name, _), _| *name != tree);
            }
            _ => {
                let mut names: Vec<&str> = model.keys().map(|(name, _)| name.as_str()).collect();
                names.dedup();
                assert_eq!(store.trees().unwrap(), names);
            }
        }
    }
}

#[test]
fn the_simulated_store_does_what_the_model_does() {
    let world = World::new(1);
    let disk = SimDisk::new(SeededRandom::new(1), SimDiskOptions::default()).open(&world.observer());
    agree(&*disk.store, &mut Model::new(), &mut SeededRandom::new(2), 20_000);
}

/// With files of the journal that are full after every group, after some, and never.
#[test]
fn the_real_store_does_what_the_model_does_also_after_it_was_opened_again() {
    let mut random = SeededRandom::new(3);
    for journal_size in [4_096, 100_000, 1 << 24] {
        let folder = tempfile::tempdir().unwrap();
        let mut model = Model::new();
        for _ in 0..4 {
            let disk = real::open_with(folder.path(), journal_size).unwrap();
            for _ in 0..30 {
                agree(&*disk.store, &mut model, &mut random, 100);
                sync(&disk.store);
            }
        }
    }
}

fn sync(store: &Arc<dyn Store>) {
    let store = Arc::clone(store);
    World::new(1).run(async move { store.sync().await.unwrap() });
}

/// Both file adapters, the same steps.
async fn use_files(disk: Disk) -> io::Result<()> {
    let files = disk.files;
    files.create("one")?;
    files.write("one", 0, b"hello")?;
    files.write("one", 8, b"world")?;
    files.sync("one").await?;
    assert_eq!(files.size("one")?, 13);
    assert_eq!(files.read("one", 0, 100)?, Bytes::from_static(b"hello\0\0\0world"));
    assert_eq!(files.read("one", 10, 2)?, Bytes::from_static(b"rl"));
    assert_eq!(files.read("one", 50, 2)?, Bytes::new());
    files.rename("one", "two")?;
    files.sync_directory().await?;
    assert_eq!(files.list()?, ["two"]);
    assert_eq!(files.size("one").unwrap_err().kind(), io::ErrorKind::NotFound);
    files.create("two")?;
    assert_eq!(files.size("two")?, 0);
    files.remove("two")?;
    files.remove("two")?;
    assert!(files.list()?.is_empty());
    Ok(())
}

#[test]
fn both_directories_do_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let real = real::open(folder.path()).unwrap();
    let world = World::new(1);
    let simulated = SimDisk::new(SeededRandom::new(1), SimDiskOptions::default()).open(&world.observer());
    world.run(async move {
        use_files(simulated).await.unwrap();
        use_files(real).await.unwrap();
    });
}

#[test]
fn a_folder_in_use_is_refused_and_free_again_later() {
    let folder = tempfile::tempdir().unwrap();
    let disk = real::open(folder.path()).unwrap();
    assert!(matches!(real::open(folder.path()), Err(OpenError::InUse { .. })));
    drop(disk);
    assert!(real::open(folder.path()).is_ok());
}

#[test]
fn a_half_written_snapshot_of_sled_does_not_brick_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let disk = real::open(folder.path()).unwrap();
    disk.store.insert("log", b"key", b"value").unwrap();
    sync(&disk.store);
    drop(disk);
    fs::write(folder.path().join("sled/snap.00000000DEADBEEF.generating"), b"torn").unwrap();
    let disk = real::open(folder.path()).unwrap();
    assert_eq!(disk.store.get("log", b"key").unwrap(), Some(Bytes::from_static(b"value")));
}

#[test]
fn a_database_that_sled_cannot_read_is_reported_as_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let disk = real::open(folder.path()).unwrap();
    disk.store.insert("log", b"key", b"value").unwrap();
    drop(disk);
    fs::write(folder.path().join("sled/snap.00000000FFFFFFFF"), [0xa5; 100]).unwrap();
    assert!(matches!(real::open(folder.path()), Err(OpenError::Damaged { .. })));
}

/// A folder with fifty rows, each of a sync of its own.
fn fifty_syncs(journal_size: u64) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let disk = real::open_with(folder.path(), journal_size).unwrap();
    for number in 0..50u8 {
        disk.store.insert("log", &[number], &[number; 100]).unwrap();
        sync(&disk.store);
    }
    folder
}

/// Flips a bit in the last place of `file` where row `number` of [`fifty_syncs`] stands.
fn damage(file: &Path, number: u8) {
    let mut bytes = fs::read(file).unwrap();
    let at = bytes.windows(100).rposition(|window| window == [number; 100]).unwrap();
    bytes[at] ^= 1;
    fs::write(file, &bytes).unwrap();
}

#[track_caller]
fn assert_damaged(folder: &Path) {
    let error = real::open(folder).map(drop).unwrap_err();
    assert!(matches!(&error, OpenError::Damaged { .. }), "{error}");
}

#[test]
fn a_damaged_group_of_the_journal_is_reported_whether_another_one_follows_or_not() {
    for number in [1, 20, 49] {
        let folder = fifty_syncs(1 << 24);
        damage(&folder.path().join("JOURNAL.0"), number);
        assert_damaged(folder.path());
    }
}

#[test]
fn a_journal_that_is_gone_is_reported_as_damage() {
    // In the second case the file was full twice: the first two times it is saved.
    for journal_size in [1 << 24, 80_000] {
        let folder = fifty_syncs(journal_size);
        fs::remove_file(folder.path().join("JOURNAL.0")).unwrap();
        assert_damaged(folder.path());
    }
}

/// What a crash leaves of the newest group is no damage, whatever stood there before.
#[test]
fn a_torn_end_of_the_journal_is_no_damage() {
    for journal_size in [1 << 24, 30_000] {
        let folder = fifty_syncs(journal_size);
        let journal = [0, 1].map(|file| folder.path().join(format!("JOURNAL.{file}")));
        let contents = || journal.each_ref().map(|path| fs::read(path).unwrap());
        let before = contents();
        let mark = fs::read(folder.path().join("SYNCED")).unwrap();
        let disk = real::open_with(folder.path(), journal_size).unwrap();
        for number in 0..90u8 {
            disk.store.insert("log", &[50, number], &[77; 100]).unwrap();
        }
        sync(&disk.store);
        drop(disk);
        let written = contents();
        // The pages of the last group, each of them kept as it was before in turn.
        let mut changed = Vec::new();
        for file in 0..2 {
            let pages = before[file].chunks(4_096).zip(written[file].chunks(4_096)).enumerate();
            changed.extend(pages.filter(|(_, (old, new))| old != new).map(|(page, _)| (file, page * 4_096)));
        }
        assert!(changed.len() >= 2, "the group has several pages");
        for (file, at) in changed {
            let mut torn = written.clone();
            torn[file][at..at + 4_096].copy_from_slice(&before[file][at..at + 4_096]);
            for (path, content) in journal.iter().zip(&torn) {
                fs::write(path, content).unwrap();
            }
            fs::write(folder.path().join("SYNCED"), &mark).unwrap();
            let disk = real::open_with(folder.path(), journal_size).unwrap();
            assert_eq!(disk.store.range("log", &[], None, usize::MAX).unwrap().len(), 50);
        }
    }
}

/// sled alone opens this without a word, and some rows less; the journal has no use for them any more.
#[test]
fn a_lost_end_of_the_database_is_reported_as_damaged() {
    // Each group fills a file of the journal, so all but the last two are only in the database.
    let folder = fifty_syncs(4_096);
    let database = folder.path().join("sled/db");
    damage(&database, 40);
    // A snapshot of sled's own would cover what was damaged.
    for entry in fs::read_dir(folder.path().join("sled")).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with("snap.") {
            fs::remove_file(path).unwrap();
        }
    }
    assert_damaged(folder.path());
}

/// Loading much between two syncs takes no more memory than the groups that are written meanwhile.
#[test]
fn much_between_two_syncs_is_all_there() {
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let disk = real::open_with(folder.path(), 1 << 20).unwrap();
        for number in 0..1_500u32 {
            disk.store.insert("rows", &number.to_be_bytes(), &[number as u8; 16_000]).unwrap();
        }
        sync(&disk.store);
        let rows = disk.store.range("rows", &[], None, usize::MAX).unwrap();
        assert!(rows.iter().zip(0u32..).all(|((_, value), number)| value[..] == [number as u8; 16_000]));
        assert_eq!(rows.len(), 1_500);
        disk.store.remove_range("rows", &[], None).unwrap();
        sync(&disk.store);
    }
}

#[test]
fn items_at_their_limits_make_no_blobs() {
    let folder = tempfile::tempdir().unwrap();
    let disk = real::open(folder.path()).unwrap();
    // Neighbours that differ only at their end, in pairs that differ at their beginning: nothing that sled does makes the
    // separators short.
    for number in 0..2_000u32 {
        let mut key = number.to_be_bytes().to_vec();
        key.resize(KEY_SIZE_MAX, 7);
        disk.store.insert("rows", &key, &[1; PIECE_SIZE_MAX]).unwrap();
        *key.last_mut().unwrap() = 8;
        disk.store.insert("rows", &key, &[1; PIECE_SIZE_MAX]).unwrap();
    }
    sync(&disk.store);
    drop(disk);
    let blobs = folder.path().join("sled/blobs");
    assert_eq!(fs::read_dir(blobs).map_or(0, Iterator::count), 0);
}

#[test]
fn an_item_above_the_limits_is_refused_and_nothing_else_happens() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::new(1);
    let simulated = SimDisk::new(SeededRandom::new(1), SimDiskOptions::default()).open(&world.observer());
    for disk in [real::open(folder.path()).unwrap(), simulated] {
        let refused = |key: usize, value: usize| {
            let result = disk.store.insert("t", &vec![1; key], &vec![1; value]);
            result.is_err_and(|error| error.kind() == io::ErrorKind::InvalidInput)
        };
        assert!(refused(KEY_SIZE_MAX + 1, 0));
        assert!(refused(1, PIECE_SIZE_MAX + 1));
        assert!(!refused(KEY_SIZE_MAX, PIECE_SIZE_MAX));
        assert_eq!(disk.store.range("t", &[], None, 10).unwrap().len(), 1);
    }
}

/// What a process that is killed had been told: nothing else tells that the store holds at least that, and no half of
/// what it was doing then.
#[test]
fn a_killed_process_loses_nothing_that_was_synced() {
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "disk::tests::writes_until_it_is_killed", "--nocapture"])
            .env(FOLDER_OF_CHILD, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let synced = BufReader::new(child.stdout.take().unwrap())
            .lines()
            .filter_map(|line| line.unwrap().split_once("synced ").map(|(_, number)| number.parse().unwrap()))
            .nth(100);
        child.kill().unwrap();
        child.wait().unwrap();
        let synced: u64 = synced.expect("the child writes until it is killed");
        let disk = real::open(folder.path()).unwrap();
        let rows = |tree| disk.store.range(tree, &[], None, usize::MAX).unwrap();
        let numbers = |rows: &[(Bytes, Bytes)]| -> Vec<u64> {
            rows.iter().map(|(key, _)| u64::from_be_bytes(key[..].try_into().unwrap())).collect()
        };
        let (first, second) = (numbers(&rows("first")), numbers(&rows("second")));
        assert!(second.len() as u64 >= synced, "{} rows, {synced} synced", second.len());
        assert_eq!(first, (0..first.len() as u64).collect::<Vec<_>>(), "no holes");
        // The second tree is written after the first one, row by row.
        assert!(first.len() - second.len() <= 1 && first.starts_with(&second));
    }
}

/// The child of the test above; without its folder there is nothing to do.
#[test]
fn writes_until_it_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER_OF_CHILD) else { return };
    let store = real::open(folder.as_ref()).unwrap().store;
    let from = store.range("second", &[], None, usize::MAX).unwrap().len() as u64;
    for number in from.. {
        for tree in ["first", "second"] {
            store.insert(tree, &number.to_be_bytes(), &[number as u8; 3_000]).unwrap();
        }
        if number % 7 == 0 {
            sync(&store);
            println!("synced {}", number + 1);
        }
    }
}

const FOLDER_OF_CHILD: &str = "RAFT_NODE_TEST_FOLDER";
