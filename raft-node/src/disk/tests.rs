//! One conformance test for the adapters, and what only the real one must withstand.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use rpc_core::random::SeededRandom;
use rpc_core::sim::World;

use super::real::{self, OpenError};
use super::sim::{SimDisk, SimDiskOptions};
use super::{Disk, KEY_SIZE_MAX, PIECE_SIZE_MAX, Store};

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
            7 => {
                let mut rows = model.iter().filter(|((name, _), _)| *name == tree);
                let last = rows
                    .next_back()
                    .map(|((_, key), value)| (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
                assert_eq!(store.last(&tree).unwrap(), last);
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
                store.drop_tree(&tree).unwrap();
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

#[test]
fn the_real_store_does_what_the_model_does_also_after_it_was_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let (mut model, mut random) = (Model::new(), SeededRandom::new(3));
    for _ in 0..4 {
        let disk = real::open(folder.path()).unwrap();
        agree(&*disk.store, &mut model, &mut random, 3_000);
        World::new(1).run(async move { disk.store.sync().await.unwrap() });
    }
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

/// sled alone opens this without a word, and some rows less.
#[test]
fn a_lost_end_of_the_database_is_reported_as_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let disk = real::open(folder.path()).unwrap();
    for number in 0..50u8 {
        disk.store.insert("log", &[number], &[number; 100]).unwrap();
        let store = Arc::clone(&disk.store);
        World::new(1).run(async move { store.sync().await.unwrap() });
    }
    drop(disk);
    let database = folder.path().join("sled/db");
    let mut bytes = fs::read(&database).unwrap();
    let needle = [40u8; 100];
    let at = bytes.windows(100).rposition(|window| window == needle).unwrap();
    bytes[at] ^= 1;
    fs::write(&database, &bytes).unwrap();
    // A snapshot of sled's own would cover what was damaged.
    for entry in fs::read_dir(folder.path().join("sled")).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with("snap.") {
            fs::remove_file(path).unwrap();
        }
    }
    let error = real::open(folder.path()).map(drop).unwrap_err();
    assert!(matches!(&error, OpenError::Damaged { .. }), "{error}");
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
    let store = disk.store;
    World::new(1).run(async move { store.sync().await.unwrap() });
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
            let store = Arc::clone(&store);
            World::new(1).run(async move { store.sync().await.unwrap() });
            println!("synced {}", number + 1);
        }
    }
}

const FOLDER_OF_CHILD: &str = "RAFT_NODE_TEST_FOLDER";
