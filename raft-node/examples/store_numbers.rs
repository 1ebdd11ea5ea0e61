//! The measurements behind the choices in docs/STORAGE.md, on sled itself, with the syncs of the real disk.
//!
//! ```text
//! cargo run --release -p raft-node --example store_numbers -- idle SEGMENT_KIB
//! cargo run --release -p raft-node --example store_numbers -- log SEGMENT_KIB ENTRY_BYTES ENTRIES_PER_SYNC PIECE_BYTES
//! cargo run --release -p raft-node --example store_numbers -- rounds PIECE_BYTES beside|apart
//! ```
//! Each writes for some seconds into a temporary folder of the current directory, and prints one line. Linux only.

#![expect(clippy::disallowed_methods, reason = "a measurement of the real disk in real time")]

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// How long each measurement goes on.
const DURATION: Duration = Duration::from_secs(3);
/// Entries behind this many bytes of newer ones are removed.
const KEPT_SIZE: usize = 8 * 1024 * 1024;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let folder = tempfile::tempdir_in(".")?;
    match arguments[..] {
        ["idle", segment] => idle(folder.path(), segment.parse()?),
        ["log", segment, entry, per_sync, piece] => {
            let store = Store::open(folder.path(), segment.parse()?)?;
            log(&store, entry.parse()?, per_sync.parse()?, piece.parse()?)
        }
        ["rounds", piece, place @ ("beside" | "apart")] => {
            rounds(&Store::open(folder.path(), 8 * 1024)?, piece.parse()?, place == "apart")
        }
        _ => Err("usage: see the head of raft-node/examples/store_numbers.rs".into()),
    }
}

/// What an open store costs that is not used.
fn idle(folder: &Path, segment_kib: usize) -> Result<()> {
    let before = status("VmRSS")?;
    let store = Store::open(folder, segment_kib)?;
    let log = store.db.open_tree("log")?;
    for index in 0..10u64 {
        log.insert(index.to_be_bytes(), vec![1; 200])?;
        store.sync()?;
    }
    let used = Used::now()?;
    std::thread::sleep(DURATION);
    let spent = used.since()?;
    println!(
        "segments of {segment_kib} KiB: {before} kB resident before, {} after opening; then per second {:.1} ms of processor \
         time, {:.0} bytes written",
        status("VmRSS")?,
        spent.seconds * 1e3 / DURATION.as_secs_f64(),
        spent.written as f64 / DURATION.as_secs_f64(),
    );
    Ok(())
}

/// The log's way of writing: entries in order, large ones in pieces before their head, a sync, purges behind.
fn log(store: &Store, entry_size: usize, per_sync: u64, piece_size: usize) -> Result<()> {
    let (heads, pieces) = (store.db.open_tree("log")?, store.db.open_tree("log.pieces")?);
    let kept = ((KEPT_SIZE / entry_size) as u64).max(2 * per_sync);
    let piece_count = if entry_size <= piece_size { 0 } else { entry_size.div_ceil(piece_size) as u32 };
    let mut payload: Vec<u8> = (0..entry_size).map(|byte| (byte * 31) as u8).collect();
    let (mut next, mut purged) = (0u64, 0u64);
    let (started, used) = (Instant::now(), Used::now()?);
    while started.elapsed() < DURATION {
        for _ in 0..per_sync {
            payload[..8].copy_from_slice(&next.to_be_bytes());
            if piece_count == 0 {
                heads.insert(next.to_be_bytes(), &payload[..])?;
            } else {
                for (number, piece) in (0u32..).zip(payload.chunks(piece_size)) {
                    pieces.insert([&next.to_be_bytes()[..], &number.to_be_bytes()].concat(), piece)?;
                }
                heads.insert(next.to_be_bytes(), vec![0; 40])?;
            }
            next += 1;
        }
        store.sync()?;
        while next - purged > kept {
            heads.remove(purged.to_be_bytes())?;
            for number in 0..piece_count {
                pieces.remove([&purged.to_be_bytes()[..], &number.to_be_bytes()].concat())?;
            }
            purged += 1;
        }
    }
    let spent = used.since()?;
    println!(
        "{:.0} entries/s, {:.1} us of processor time per entry, {:.1} bytes written per byte, {} kB resident",
        next as f64 / started.elapsed().as_secs_f64(),
        spent.seconds * 1e6 / next as f64,
        spent.written as f64 / (next * entry_size as u64) as f64,
        status("VmRSS")?,
    );
    Ok(())
}

/// Small rounds of the state (a redo record, a row) while pieces of earlier large ones lie in the same tree, or not.
fn rounds(store: &Store, piece_size: usize, apart: bool) -> Result<()> {
    let state = store.db.open_tree("sm.0")?;
    let pieces = if apart { store.db.open_tree("sm.0.pieces")? } else { state.clone() };
    let row = |number: u64| [&[0][..], &number.to_be_bytes()].concat();
    for number in 0..2_000 {
        state.insert(row(number), vec![1; 128])?;
    }
    for number in 0..(1024 * 1024 / piece_size) as u32 {
        pieces.insert([&[2, 0][..], &number.to_be_bytes()].concat(), vec![2; piece_size])?;
        pieces.insert([&[3][..], &number.to_be_bytes()].concat(), vec![3; piece_size])?;
    }
    store.sync()?;
    let mut round = 0u64;
    let (started, used) = (Instant::now(), Used::now()?);
    while started.elapsed() < DURATION {
        state.insert([2], [&round.to_be_bytes()[..], &[5; 292]].concat())?;
        state.insert(row(round * 7_919 % 2_000), [&round.to_be_bytes()[..], &[7; 120]].concat())?;
        round += 1;
        if round.is_multiple_of(4) {
            store.sync()?;
        }
    }
    let spent = used.since()?;
    println!(
        "{:.0} rounds/s, {:.1} us of processor time and {:.0} bytes written per round",
        round as f64 / started.elapsed().as_secs_f64(),
        spent.seconds * 1e6 / round as f64,
        spent.written as f64 / round as f64,
    );
    Ok(())
}

struct Store {
    db: sled::Db,
    file: File,
}

impl Store {
    fn open(folder: &Path, segment_kib: usize) -> Result<Self> {
        let db = sled::Config::new()
            .path(folder)
            .cache_capacity(64 * 1024 * 1024)
            .segment_size(segment_kib * 1024)
            .use_compression(false)
            .flush_every_ms(Some(500))
            .open()?;
        Ok(Self { db, file: File::open(folder.join("db"))? })
    }

    fn sync(&self) -> Result<()> {
        self.db.flush()?;
        Ok(self.file.sync_data()?)
    }
}

/// What the process has used so far, or since then.
struct Used {
    /// Of processor time.
    seconds: f64,
    /// Bytes.
    written: u64,
}

impl Used {
    fn now() -> Result<Self> {
        let stat = fs::read_to_string("/proc/self/stat")?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        let io = fs::read_to_string("/proc/self/io")?;
        let written =
            io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).unwrap_or("0").parse()?;
        // 100 ticks per second, whatever the kernel's own rate.
        Ok(Self { seconds: ticks as f64 / 100.0, written })
    }

    fn since(&self) -> Result<Self> {
        let now = Self::now()?;
        Ok(Self { seconds: now.seconds - self.seconds, written: now.written - self.written })
    }
}

/// A number of /proc/self/status.
fn status(name: &str) -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with(name)).ok_or("no such line")?;
    Ok(line.split_whitespace().nth(1).unwrap_or_default().parse()?)
}
