//! The server processes: all that this program starts is known here, ended by its id, and gone when this program is,
//! however it ends.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use nix::unistd::Pid;
use tempfile::TempDir;

/// What must not outlive this program.
struct Started {
    children: BTreeMap<u32, Child>,
    folder: Option<PathBuf>,
}

static STARTED: Mutex<Started> = Mutex::new(Started { children: BTreeMap::new(), folder: None });

fn started() -> MutexGuard<'static, Started> {
    STARTED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A child process. As long as it is not waited for, its id is nobody else's.
#[derive(Debug)]
pub struct Process {
    pid: u32,
}

impl Process {
    /// Starts a server in `folder`; what it says goes to `log`.
    pub fn start(mut command: Command, folder: &Path, log: &Path) -> Result<Self> {
        let log = File::options().create(true).append(true).open(log)?;
        let program = command.get_program().to_owned();
        command
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C is for this program, which then ends its children.
            .process_group(0);
        let child = command.spawn().with_context(|| program.to_string_lossy().into_owned())?;
        let pid = child.id();
        started().children.insert(pid, child);
        Ok(Self { pid })
    }

    pub fn id(&self) -> u32 {
        self.pid
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        // The lock keeps it from being waited for in between.
        if started().children.contains_key(&self.pid) {
            kill(Pid::from_raw(i32::try_from(self.pid)?), signal)?;
        }
        Ok(())
    }

    /// How it ended, if it has.
    pub fn ended(&self) -> Result<Option<String>> {
        match started().children.get_mut(&self.pid) {
            Some(child) => Ok(child.try_wait()?.map(|status| status.to_string())),
            None => Ok(Some("ended before".to_owned())),
        }
    }

    /// Asks it to end, and waits until it has.
    pub fn stop(self, patience: Duration) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        let deadline = Instant::now() + patience;
        while self.ended()?.is_none() {
            if Instant::now() > deadline {
                bail!("process {} did not stop within {patience:?}", self.pid);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = started().children.remove(&self.pid) {
            // Fails only when it has ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A command that dies with this program, even if that is killed: `setpriv` asks the kernel for it.
pub fn command(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// A folder for all data, on a disk, removed at the end.
pub fn folder(parent: &Path) -> Result<TempDir> {
    fs::create_dir_all(parent)?;
    if statfs(parent)?.filesystem_type() == TMPFS_MAGIC {
        bail!(
            "{} is memory, where a sync costs nothing: name a folder on a disk (--folder)",
            parent.display()
        );
    }
    let folder = tempfile::Builder::new().prefix("kv-compare.").tempdir_in(parent)?;
    started().folder = Some(folder.path().to_owned());
    Ok(folder)
}

/// From here on Ctrl-C and SIGTERM end the servers, remove the folder, and end this program.
pub fn end_on_signals() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    std::thread::spawn(move || {
        let code = runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => 130,
                _ = terminate.recv() => 143,
            }
        });
        // Held until the end, so that nothing more is started.
        let mut started = started();
        for child in started.children.values_mut() {
            let _ = child.kill();
        }
        for child in started.children.values_mut() {
            let _ = child.wait();
        }
        if let Some(folder) = &started.folder {
            let _ = fs::remove_dir_all(folder);
        }
        eprintln!("interrupted; all servers are ended");
        std::process::exit(code);
    });
    Ok(())
}
