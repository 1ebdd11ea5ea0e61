//! Flipped bits on a real disk: whatever they hit, they are noticed or change nothing, and never become an answer.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use raft_node::command::Command;
use raft_node::disk::real;
use raft_node::machine::{ApplyContext, Rows, StateMachine};
use raft_node::probe::{StorageProbe, StorageSight};
use raft_node::status::LogPosition;
use rpc_core::driver::system;
use rpc_core::random::SeededRandom;

/// Flips in each file, unless the variable `DAMAGE_FLIPS` says otherwise.
const FLIPS: usize = 16;

/// Puts rows: the first byte is the key.
struct Table;

impl StateMachine for Table {
    fn apply(&self, _: &ApplyContext, rows: &mut dyn Rows, command: &Bytes) -> std::io::Result<Bytes> {
        if let Some((key, _)) = command.split_first() {
            rows.put(&[*key], command.slice(1..))?;
        }
        Ok(Bytes::new())
    }
}

/// Everything that can be read.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    sight: StorageSight,
    entries: Vec<(LogPosition, Bytes)>,
    rows: Vec<(Bytes, Bytes)>,
}

/// Runs `work` on the storage in `folder`; when this returns, nothing writes there any more.
fn with_storage<T>(
    folder: &Path,
    work: impl AsyncFnOnce(&mut StorageProbe<Table>) -> std::io::Result<T>,
) -> Result<T, String> {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let runtime = system::runtime(tokio.handle().clone());
    tokio.block_on(runtime.enter(async {
        let worked = async {
            let disk = real::open(folder).map_err(|error| error.to_string())?;
            let storage = StorageProbe::open(runtime.clone(), disk, Arc::new(Table)).await;
            let mut storage = storage.map_err(|error| error.to_string())?;
            work(&mut storage).await.map_err(|error| error.to_string())
        };
        let worked = worked.await;
        // The writer's thread and sled's own ones end a little later than the storage.
        let deadline = runtime.now() + Duration::from_secs(20);
        for lock in [folder.join("LOCK"), folder.join("sled/db")] {
            while File::open(&lock).is_ok_and(|file| file.try_lock().is_err()) {
                assert!(runtime.now() < deadline, "{} stays locked", lock.display());
                runtime.sleep(Duration::from_millis(1)).await;
            }
        }
        worked
    }))
}

fn see(folder: &Path) -> Result<Seen, String> {
    with_storage(folder, async |storage| {
        let sight = storage.sight().await?;
        let entries = storage.entries().await?;
        let rows = storage.read(|rows| rows.range(&[], None, usize::MAX))?;
        Ok(Seen { sight, entries, rows })
    })
}

fn command(index: u64) -> Bytes {
    if index == 0 {
        return Command::Open { nonce: 1, time_ms: 0 }.encode().expect("it is encoded");
    }
    let size = if index.is_multiple_of(13) { 20_000 } else { 50 + index as usize * 7 };
    let body = [vec![index as u8 % 20], vec![index as u8; size]].concat().into();
    let floor = index.saturating_sub(5);
    Command::Write { session: 0, sequence: index, floor, time_ms: index, body }
        .encode()
        .expect("it is encoded")
}

/// A folder with a vote, a snapshot, a purged log, entries in pieces, rows in pieces.
fn fill(folder: &Path) {
    let filled = with_storage(folder, async |storage| {
        storage.vote(1).await?;
        storage.append(1, 0, (0..60).map(command).collect()).await?;
        storage.apply(50).await?;
        storage.snapshot().await?;
        storage.purge(1, 40).await?;
        storage.vote(2).await?;
        storage.append(2, 60, (60..90).map(command).collect()).await?;
        storage.apply(80).await?;
        // One sync each, so that there is an end to cut off.
        for index in 90..100 {
            storage.append(2, index, vec![command(index)]).await?;
        }
        storage.vote(3).await
    });
    filled.expect("a new folder is filled");
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder is ours") {
        let path = entry.expect("the folder is ours").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.metadata().expect("the folder is ours").len() > 0
            && path.file_name().is_some_and(|name| name != "BALLAST")
        {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the folder is ours");
    for entry in fs::read_dir(from).expect("the folder is ours") {
        let entry = entry.expect("the folder is ours");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else if entry.file_name() != "BALLAST" {
            copy_file(&entry.path(), &target).expect("the folder is ours");
        }
    }
}

/// Leaves holes where there are only zeros: most of a journal.
fn copy_file(from: &Path, to: &Path) -> std::io::Result<()> {
    static ZEROS: [u8; 65_536] = [0; 65_536];
    let (bytes, target) = (fs::read(from)?, File::create(to)?);
    target.set_len(bytes.len() as u64)?;
    for (block, at) in bytes.chunks(ZEROS.len()).zip((0..).step_by(ZEROS.len())) {
        if *block != ZEROS[..block.len()] {
            target.write_all_at(block, at)?;
        }
    }
    Ok(())
}

/// Bytes to flip: as many from the parts that hold something as from the whole file.
fn positions(path: &Path, random: &mut SeededRandom) -> Vec<u64> {
    let count = std::env::var("DAMAGE_FLIPS").ok().and_then(|count| count.parse().ok()).unwrap_or(FLIPS);
    let bytes = fs::read(path).expect("the folder is ours");
    let used: Vec<u64> = (0..bytes.len() as u64).filter(|at| bytes[*at as usize] != 0).collect();
    // Spread evenly over what is used, so that no region is left out.
    let spread =
        (0..count).map(|step| used[(step * used.len() / count + random.below(7) as usize) % used.len()]);
    let mut positions: Vec<u64> = spread.collect();
    positions.extend((0..count / 8).map(|_| random.below(bytes.len() as u64)));
    positions.sort_unstable();
    positions.dedup();
    positions
}

#[test]
fn a_flipped_bit_is_noticed_or_changes_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let whole = scratch.path().join("whole");
    fill(&whole);
    let truth = see(&whole).unwrap();
    assert_eq!((truth.entries.len(), truth.rows.len()), (59, 20));
    let mut random = SeededRandom::new(7);
    let (mut noticed, mut harmless) = (0, 0);
    for file in files(&whole) {
        let name = file.strip_prefix(&whole).unwrap();
        for position in positions(&file, &mut random) {
            let damaged = scratch.path().join("damaged");
            copy(&whole, &damaged);
            let bit = 1 << random.below(8);
            let target = File::options().read(true).write(true).open(damaged.join(name)).unwrap();
            let mut byte = [0];
            target.read_exact_at(&mut byte, position).unwrap();
            target.write_all_at(&[byte[0] ^ bit], position).unwrap();
            match see(&damaged) {
                Err(_) => noticed += 1,
                // A damaged snapshot is skipped with an error; the state does not need it.
                Ok(seen) if seen.sight.snapshot < truth.sight.snapshot => {
                    let sight = StorageSight { snapshot: truth.sight.snapshot, ..seen.sight };
                    assert_eq!(
                        Seen { sight, ..seen },
                        truth,
                        "bit {bit} at {position} of {}",
                        name.display()
                    );
                    noticed += 1;
                }
                Ok(seen) => {
                    assert!(
                        seen == truth,
                        "bit {bit} at {position} of {} changed what is read",
                        name.display()
                    );
                    harmless += 1;
                }
            }
            fs::remove_dir_all(&damaged).unwrap();
        }
    }
    println!("{noticed} flips noticed, {harmless} changed nothing");
    assert!(noticed > harmless, "{noticed} noticed, {harmless} harmless");
}
