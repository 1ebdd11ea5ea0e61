//! Processes: how a child settles, how the driver starts and ends it, what the kernel says about it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, setns};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

/// Moves this process to its core and into its network namespace, and lets it open many sockets. To be called before
/// there is a second thread.
pub fn settle(core: usize, namespace: Option<&Path>) -> Result<()> {
    if let Some(path) = namespace {
        let namespace = File::open(path).with_context(|| format!("{}", path.display()))?;
        setns(namespace, CloneFlags::CLONE_NEWNET).context("network namespace not entered")?;
    }
    let mut cores = CpuSet::new();
    cores.set(core)?;
    sched_setaffinity(Pid::this(), &cores).with_context(|| format!("not pinned to core {core}"))?;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

/// One thread for everything, as each process has one core.
pub fn runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// Ends this process when its stdin closes, however the parent ended. The lines that come before are handed out.
pub fn exit_with_parent() -> mpsc::UnboundedReceiver<String> {
    let (sender, lines) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
        std::process::exit(0);
    });
    lines
}

/// A child of this program, spoken to in lines of JSON. It ends when this is dropped, or when the driver dies.
pub struct Process {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Process {
    /// Starts this program with other arguments.
    pub fn start(arguments: &[String]) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (stdin, stdout) =
            (child.stdin.take().context("no stdin")?, child.stdout.take().context("no stdout")?);
        Ok(Self { child, stdin, stdout: BufReader::new(stdout) })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line that the child says.
    pub fn hear<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        if self.stdout.read_line(&mut line)? == 0 {
            bail!("a child ended: {}", self.child.wait()?);
        }
        serde_json::from_str(&line).with_context(|| format!("a child said {line:?}"))
    }

    /// Asks, and waits for the answer or the reason why there is none.
    pub fn ask<T: DeserializeOwned>(&mut self, question: &impl Serialize) -> Result<T> {
        writeln!(self.stdin, "{}", serde_json::to_string(question)?)?;
        self.hear::<Result<T, String>>()?.map_err(|reason| anyhow!(reason))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only when it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Nanoseconds that all threads of a process have run, in the kernel and outside. On loopback and on a TUN device the
/// kernel delivers a packet in its sender's time.
pub fn cpu_nanos(pid: u32) -> Result<u64> {
    let mut nanos = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = thread?.path().join("schedstat");
        let text = fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
        nanos += text.split(' ').next().unwrap_or_default().parse::<u64>()?;
    }
    Ok(nanos)
}

/// Resident memory of a process.
pub fn resident_kib(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
