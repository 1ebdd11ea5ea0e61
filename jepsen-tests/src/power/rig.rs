//! Cuts, one after the other: each disk is what the cut before left.

#![expect(
    clippy::disallowed_methods,
    reason = "drives real processes and devices: their time is the real one, and threads read their pipes"
)]

use std::fmt;
use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rpc_core::random::SeededRandom;

use super::disk::{Image, Survival, VolatileDisk};
use super::fuse::{DiskFolder, SharedDisk, lock};
use super::witness::Witness;

/// Bytes of the disk: sled wants 64 MiB free beside its own files.
const DISK_SIZE: u64 = 384 << 20;
/// Cuts of one disk; then a new one is formatted, so that the first moments of a folder are cut too.
const CUTS_PER_DISK: u64 = 12;
/// How long a worker may take to open its storage.
const OPENING_MAX: Duration = Duration::from_secs(60);
/// The longest time that a worker writes before the cut, in microseconds.
const LOAD_US_MAX: u64 = 900_000;
/// The longest time from the start of a worker to a cut that is meant for its opening, in microseconds.
const OPENING_US_MAX: u64 = 250_000;

/// What to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many cuts.
    pub cuts: u64,
    /// Decides moments, survivors and load; the machine's own speed decides too.
    pub seed: u64,
    /// How the worker is started; folder, seed and life are added.
    pub worker: Vec<String>,
    /// The bug that the worker plants.
    pub plant: Option<String>,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Cuts made.
    pub cuts: u64,
    /// Of these, how many fell into the opening.
    pub cuts_opening: u64,
    /// Acknowledgements that had to survive.
    pub acknowledged: u64,
    /// Flushes that the disks got.
    pub flushes: u64,
    /// The first cut after which something was wrong, and what.
    pub violation: Option<(u64, String)>,
}

/// The rig did not work: this says nothing about the storage.
#[derive(Debug)]
pub struct RigError(String);

impl fmt::Display for RigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for RigError {}

fn broken(what: impl fmt::Display) -> impl FnOnce(io::Error) -> RigError {
    move |error| RigError(format!("{what}: {error}"))
}

/// What is missing on this machine to cut anything; `None`: nothing.
pub fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("it needs root".to_owned());
    }
    let devices = ["/dev/fuse", "/dev/loop-control"];
    if let Some(device) = devices.iter().find(|device| fs::File::open(device).is_err()) {
        return Some(format!("{device} cannot be opened"));
    }
    let works = |program: &str, argument: &str| {
        let mut command = Command::new(program);
        command.arg(argument).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
    };
    let tools =
        [("mkfs.ext4", "-V"), ("mount", "--version"), ("umount", "--version"), ("unshare", "--version")];
    let tool = tools.iter().find(|(program, argument)| !works(program, argument));
    if let Some((program, _)) = tool {
        return Some(format!("there is no {program}"));
    }
    let namespace = Command::new("unshare").args(["--mount", "true"]).stderr(Stdio::null()).status();
    (!namespace.is_ok_and(|status| status.success())).then(|| "mount namespaces are not allowed".to_owned())
}

/// Cuts until there were as many as asked for or something is wrong; `tell` hears of each.
///
/// # Errors
/// When the rig itself fails.
pub fn run(options: &Options, mut tell: impl FnMut(&str)) -> Result<Outcome, RigError> {
    let mut rig = Rig::new()?;
    let mut random = SeededRandom::new(options.seed);
    let formatted = rig.format()?;
    let mut outcome = Outcome::default();
    let (mut image, mut witness) = (formatted.clone(), Witness::default());
    let mut how = String::new();
    for life in 1.. {
        let is_last = outcome.cuts == options.cuts;
        let cut = if is_last { Moment::Load(0) } else { Moment::draw(&mut random) };
        let lived = rig.live(image, witness, options, (random.next_u64(), life), cut, &mut random)?;
        outcome.flushes += lived.flushes;
        if let Some(what) = lived.violation {
            outcome.violation = Some((outcome.cuts, format!("{what} (after {how})")));
            break;
        }
        if is_last {
            outcome.acknowledged += lived.witness.acknowledged();
            break;
        }
        outcome.cuts += 1;
        outcome.cuts_opening += u64::from(!lived.witness.has_opened());
        how = format!("a cut {}, {:?} of the cache survived", lived.when, lived.survival);
        tell(&format!("cut {}: {how}", outcome.cuts));
        (image, witness) = (lived.image, lived.witness);
        // A cut counts once somebody has looked at what it left: the last one of a disk is looked at, too.
        if outcome.cuts.is_multiple_of(CUTS_PER_DISK) && outcome.cuts < options.cuts {
            let looked = (random.next_u64(), life + 1);
            let lived = rig.live(image, witness, options, looked, Moment::Load(0), &mut random)?;
            if let Some(what) = lived.violation {
                outcome.violation = Some((outcome.cuts, format!("{what} (after {how})")));
                break;
            }
            outcome.acknowledged += lived.witness.acknowledged();
            (image, witness) = (formatted.clone(), Witness::default());
        }
    }
    Ok(outcome)
}

/// When the power goes, in microseconds.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// After the start of the worker.
    Opening(u64),
    /// After it has opened its storage.
    Load(u64),
}

impl Moment {
    fn draw(random: &mut SeededRandom) -> Self {
        if random.below(10) < 3 {
            return Self::Opening(random.below(OPENING_US_MAX));
        }
        // Short times are more likely: much happens soon after the opening.
        let max = LOAD_US_MAX >> random.below(8);
        Self::Load(random.below(max))
    }
}

/// One worker's time.
struct Lived {
    image: Image,
    witness: Witness,
    violation: Option<String>,
    survival: Survival,
    when: &'static str,
    flushes: u64,
}

/// The folders and devices. What is mounted goes when this is dropped, or with the mount namespace of the process.
struct Rig {
    disks: DiskFolder,
    mount: PathBuf,
    _folder: tempfile::TempDir,
}

impl Rig {
    fn new() -> Result<Self, RigError> {
        let folder = tempfile::Builder::new().prefix("power-").tempdir().map_err(broken("no folder"))?;
        let (disks, mount) = (folder.path().join("disks"), folder.path().join("mount"));
        for folder in [&disks, &mount] {
            fs::create_dir(folder).map_err(broken(folder.display()))?;
        }
        let disks = DiskFolder::mount(&disks).map_err(broken("the file system of the disks"))?;
        Ok(Self { disks, mount, _folder: folder })
    }

    /// An ext4 file system on a new disk.
    fn format(&mut self) -> Result<Image, RigError> {
        let (path, disk) = self.disks.add(VolatileDisk::new(Image::new(DISK_SIZE)));
        command(
            "mkfs.ext4",
            &["-q", "-F", "-J", "size=8", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
            &path,
        )?;
        self.disks.remove(&path);
        let image = lock(&disk).cut(Survival::All, &mut SeededRandom::new(0));
        Ok(image)
    }

    /// Lets a worker work on `image`, until the power goes or it finds what must not be.
    fn live(
        &mut self,
        image: Image,
        mut witness: Witness,
        options: &Options,
        (seed, life): (u64, u64),
        moment: Moment,
        random: &mut SeededRandom,
    ) -> Result<Lived, RigError> {
        let (path, disk) = self.disks.add(VolatileDisk::new(image));
        let mounted = Mounted::new(&path, &self.mount)?;
        witness.begin();
        let worker = Worker::start(options, &self.mount.join("data"), seed, life, witness)?;
        let violation = worker.await_moment(moment)?;
        let survival = Survival::draw(random);
        let ended = worker.cut(&disk, survival, random)?;
        let flushes = lock(&disk).flush_count();
        mounted.unmount()?;
        self.disks.remove(&path);
        let when = if ended.witness.has_opened() { "under load" } else { "while opening" };
        let violation = violation.or(ended.violation);
        Ok(Lived { image: ended.image, witness: ended.witness, violation, survival, when, flushes })
    }
}

/// A disk that is mounted through a loop device, which goes with the mount.
struct Mounted<'a> {
    mount: &'a Path,
    is_mounted: bool,
}

impl<'a> Mounted<'a> {
    fn new(disk: &Path, mount: &'a Path) -> Result<Self, RigError> {
        command("mount", &["-t", "ext4", "-o", "loop,noatime", &disk.display().to_string()], mount)?;
        Ok(Self { mount, is_mounted: true })
    }

    fn unmount(mut self) -> Result<(), RigError> {
        self.is_mounted = false;
        command("umount", &[], self.mount)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        if self.is_mounted
            && let Err(error) = command("umount", &["-l"], self.mount)
        {
            tracing::error!(%error, "not unmounted");
        }
    }
}

fn command(program: &str, arguments: &[&str], path: &Path) -> Result<(), RigError> {
    let output = Command::new(program).args(arguments).arg(path).stdin(Stdio::null()).output();
    let output = output.map_err(broken(program))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(RigError(format!("{program} {} {}: {said}", arguments.join(" "), path.display())))
}

/// A worker process and the thread that hears it.
struct Worker {
    child: Child,
    heard: Arc<Heard>,
    listener: JoinHandle<()>,
}

/// What the worker said, as far as it was heard.
struct Heard {
    state: Mutex<Hearing>,
    changed: Condvar,
}

struct Hearing {
    witness: Witness,
    violation: Option<String>,
    /// The power is gone.
    is_cut: bool,
}

struct Ended {
    image: Image,
    witness: Witness,
    violation: Option<String>,
}

impl Worker {
    fn start(
        options: &Options,
        folder: &Path,
        seed: u64,
        life: u64,
        witness: Witness,
    ) -> Result<Self, RigError> {
        let Some((program, arguments)) = options.worker.split_first() else {
            return Err(RigError("no command for the worker".to_owned()));
        };
        let mut command = Command::new(program);
        command.args(arguments).args(["--seed", &seed.to_string(), "--life", &life.to_string(), "--folder"]);
        command.arg(folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(plant) = &options.plant {
            command.env("RAFT_NODE_PLANT", plant);
        }
        let mut child = command.spawn().map_err(broken("the worker"))?;
        let (Some(said), Some(cried)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(RigError("the worker has no pipes".to_owned()));
        };
        let state = Mutex::new(Hearing { witness, violation: None, is_cut: false });
        let heard = Arc::new(Heard { state, changed: Condvar::new() });
        let hearing = Arc::clone(&heard);
        let listener = std::thread::spawn(move || hearing.listen(said, cried));
        Ok(Self { child, heard, listener })
    }

    /// Waits for the moment of the cut; returns early with what is wrong.
    fn await_moment(&self, moment: Moment) -> Result<Option<String>, RigError> {
        let started = Instant::now();
        if let Moment::Load(_) = moment
            && !self.heard.wait(OPENING_MAX, |hearing| hearing.witness.has_opened())
        {
            return Ok(Some(format!("it was not opened within {OPENING_MAX:?}")));
        }
        let (Moment::Opening(us) | Moment::Load(us)) = moment;
        let rest = match moment {
            Moment::Opening(_) => Duration::from_micros(us).saturating_sub(started.elapsed()),
            Moment::Load(_) => Duration::from_micros(us),
        };
        self.heard.wait(rest, |_| false);
        Ok(None)
    }

    /// Takes the power from the disk and ends the worker.
    fn cut(
        mut self,
        disk: &SharedDisk,
        survival: Survival,
        random: &mut SeededRandom,
    ) -> Result<Ended, RigError> {
        let image = {
            let mut hearing = lock(&self.heard.state);
            hearing.is_cut = true;
            lock(disk).cut(survival, random)
        };
        self.child.kill().and_then(|()| self.child.wait()).map_err(broken("the end of the worker"))?;
        if self.listener.join().is_err() {
            return Err(RigError("the listener panicked".to_owned()));
        }
        let mut hearing = lock(&self.heard.state);
        Ok(Ended {
            image,
            witness: std::mem::take(&mut hearing.witness),
            violation: hearing.violation.take(),
        })
    }
}

impl Heard {
    /// Hears the worker until it ends; what it cries at its end is why it ended.
    ///
    /// What is heard after the cut may have been said before it: that something was asked for counts, for it may be on
    /// the disk; that something was done does not, for nobody was told in time.
    fn listen(&self, said: impl Read, mut cried: impl Read) {
        for line in BufReader::new(said).lines().map_while(Result::ok) {
            let mut hearing = lock(&self.state);
            let is_late = hearing.is_cut && line.contains("-done ");
            if hearing.violation.is_none()
                && !is_late
                && let Err(what) = hearing.witness.hear(&line)
            {
                hearing.violation = Some(what);
            }
            self.changed.notify_all();
        }
        let mut words = String::new();
        // Words that are not UTF-8 are no reason to say nothing.
        let _ = cried.read_to_string(&mut words);
        let mut hearing = lock(&self.state);
        if !hearing.is_cut {
            hearing.violation.get_or_insert_with(|| format!("the worker ended: {}", words.trim()));
        }
        self.changed.notify_all();
    }

    /// Waits until `done`, or something is wrong, or the time is up; whether one of the first two came.
    fn wait(&self, time: Duration, done: impl Fn(&Hearing) -> bool) -> bool {
        let hearing = lock(&self.state);
        let waiting = |hearing: &mut Hearing| !done(hearing) && hearing.violation.is_none();
        let waited = self.changed.wait_timeout_while(hearing, time, waiting);
        let (hearing, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        drop(hearing);
        !timeout.timed_out()
    }
}
