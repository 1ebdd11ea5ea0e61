//! One node of a `kv-server dev`: how it is started, its process, and whether it is started again.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rpc_core::runtime::{Instant, Runtime};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;

use crate::config::RunConfig;
use crate::exit::Exit;

/// A node, running or dead.
pub(super) struct Node {
    pub(super) plan: NodePlan,
    /// `None` once it has died.
    pub(super) process: Option<Process>,
    started: Option<Instant>,
    /// How long it waits before the next start.
    pause: Duration,
    again: Option<Instant>,
}

impl Node {
    pub(super) fn new(plan: NodePlan) -> Self {
        Self { plan, process: None, started: None, pause: PAUSE_MIN, again: None }
    }

    pub(super) fn start(
        &mut self,
        runtime: &Runtime,
        deaths: &mpsc::Sender<(u64, ExitStatus)>,
    ) -> Result<(), Exit> {
        self.again = None;
        self.started = Some(runtime.now());
        let process = self.plan.start(runtime, deaths.clone())?;
        let NodePlan { id, address, data, log, .. } = &self.plan;
        say(&format!(
            "node {id}  pid {:<7} {address}  {}  (log: {})",
            process.pid,
            data.display(),
            log.display(),
        ));
        self.process = Some(process);
        Ok(())
    }

    /// When it is to be started again, if it is.
    pub(super) fn due(&self) -> Option<Instant> {
        self.again
    }

    /// Its process ended: says so and why, and when it is started again.
    ///
    /// As systemd's `Restart=on-failure`: a node that was asked to stop stays down.
    pub(super) fn ended(&mut self, now: Instant, status: ExitStatus) {
        self.process = None;
        let id = self.plan.id;
        if STAYS_DOWN.contains(&status.code()) {
            say(&format!(
                "node {id} ended ({status}); the line that starts it again:\n  {}",
                self.plan.command_line()
            ));
        } else {
            if self.started.is_some_and(|started| now - started >= LONG_LIFE) {
                self.pause = PAUSE_MIN;
            }
            say(&format!("node {id} died ({status}) and is started again in {:?}", self.pause));
            self.again = Some(now + self.pause);
            self.pause = (self.pause * 2).min(PAUSE_MAX);
        }
        if let Some(words) = self.plan.last_words() {
            say(&format!("  it said: {words}"));
        }
    }

    /// Starts it again, unless somebody else did.
    pub(super) fn start_again(&mut self, runtime: &Runtime, deaths: &mpsc::Sender<(u64, ExitStatus)>) {
        let (id, address) = (self.plan.id, self.plan.address);
        if UdpSocket::bind(address).is_err() {
            self.again = None;
            say(&format!(
                "node {id} is not started again: {address} is taken, perhaps it was started by hand"
            ));
        } else if let Err(error) = self.start(runtime, deaths) {
            self.again = Some(runtime.now() + self.pause);
            say(&error.to_string());
        }
    }
}

/// The ends after which another start would be against somebody's will, or end the same way: done, a configuration or
/// folder that is refused, interrupted.
const STAYS_DOWN: [Option<i32>; 5] = [Some(0), Some(2), Some(7), Some(130), Some(143)];
/// Between a death and the next start: this, doubled for each life that was not long, at most [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// A node that lived for this long starts after the shortest pause again.
const LONG_LIFE: Duration = Duration::from_secs(10);

/// A running node process.
pub(super) struct Process {
    pid: u32,
    /// Closing it asks the node to stop.
    pub(super) pipe: Option<ChildStdin>,
    /// Dropping it kills the process.
    pub(super) kill: Option<mpsc::Sender<()>>,
}

/// How one node is started.
pub(super) struct NodePlan {
    pub(super) id: u64,
    pub(super) address: SocketAddr,
    program: PathBuf,
    arguments: Vec<String>,
    data: PathBuf,
    log: PathBuf,
    /// Where the log of the latest life begins.
    log_begin: u64,
}

impl NodePlan {
    pub(super) fn new(
        program: &Path,
        folder: &Path,
        (id, address): (u64, SocketAddr),
        addresses: &[SocketAddr],
        enable_faults: bool,
    ) -> Self {
        let data = folder.join(format!("node{id}"));
        let members = addresses.iter().enumerate().map(|(index, address)| format!("{}={address}", index + 1));
        let mut arguments = vec![
            "run".to_owned(),
            "--id".to_owned(),
            id.to_string(),
            "--members".to_owned(),
            members.collect::<Vec<_>>().join(","),
            "--data".to_owned(),
            data.display().to_string(),
        ];
        if enable_faults {
            arguments.push("--enable-faults".to_owned());
        }
        let log = folder.join(format!("node{id}.log"));
        Self { id, address, program: program.to_owned(), arguments, data, log, log_begin: 0 }
    }

    /// Starts the process in a process group of its own, so that Ctrl-C in the terminal reaches this process only.
    pub(super) fn start(
        &mut self,
        runtime: &Runtime,
        deaths: mpsc::Sender<(u64, ExitStatus)>,
    ) -> Result<Process, Exit> {
        let failed = |what: &str, error: io::Error| Exit::Fatal(format!("node {}: {what}: {error}", self.id));
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.map_err(|error| failed(&self.log.display().to_string(), error))?;
        self.log_begin = log.metadata().map_or(0, |metadata| metadata.len());
        let mut command = Command::new(&self.program);
        // The flags say all; a variable that is meant for another node must not add to them.
        for name in RunConfig::environment() {
            command.env_remove(name);
        }
        let mut child = command
            .args(&self.arguments)
            .arg("--supervised")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed("not started", error))?;
        let pid = child.id().unwrap_or_default();
        let pipe = child.stdin.take();
        let (kill, killed) = mpsc::channel(1);
        runtime.spawn("node process", watch(self.id, child, killed, deaths));
        Ok(Process { pid, pipe, kill: Some(kill) })
    }

    /// The line that starts this node again, as a shell takes it.
    fn command_line(&self) -> String {
        let words = std::iter::once(self.program.display().to_string()).chain(self.arguments.iter().cloned());
        words.map(|word| quote(&word)).collect::<Vec<_>>().join(" ")
    }

    /// The last lines of its log that say why it ended; what a life before this one said is not among them.
    fn last_words(&self) -> Option<String> {
        let mut log = File::open(&self.log).ok()?;
        let end = log.seek(SeekFrom::End(0)).ok()?;
        let begin = self.log_begin.max(end.saturating_sub(LAST_WORDS_SIZE_MAX));
        log.seek(SeekFrom::Start(begin)).ok()?;
        let mut words = Vec::new();
        log.take(LAST_WORDS_SIZE_MAX).read_to_end(&mut words).ok()?;
        let words = String::from_utf8_lossy(&words);
        let words = words.rfind("kv-server: ").map_or_else(
            || words.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default(),
            |begin| words[begin..].trim_end(),
        );
        (!words.is_empty()).then(|| words.to_owned())
    }
}

/// The most of a log that is looked at for last words, in bytes.
const LAST_WORDS_SIZE_MAX: u64 = 4 * 1024;

/// Waits for the process to die, or kills it when `killed` says so.
async fn watch(
    id: u64,
    mut child: Child,
    mut killed: mpsc::Receiver<()>,
    deaths: mpsc::Sender<(u64, ExitStatus)>,
) {
    let status = tokio::select! {
        biased;
        status = child.wait() => status,
        _ = killed.recv() => {
            // An error means that it is dead already.
            let _ = child.start_kill();
            child.wait().await
        }
    };
    if let Ok(status) = status {
        let _ = deaths.send((id, status)).await;
    }
}

/// A word for a POSIX shell.
pub(super) fn quote(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=,@%+".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Prints a line; if nobody reads any more, that is no reason to stop the cluster.
pub(super) fn say(line: &str) {
    let mut output = io::stdout().lock();
    let _ = writeln!(output, "{line}").and_then(|()| output.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_blanks_and_quotes_survives_a_shell() {
        for word in ["plain/path-1.x", "", "two words", "it's", "$HOME", "a\\b"] {
            let output = std::process::Command::new("sh")
                .args(["-c", &format!("printf %s {}", quote(word))])
                .output()
                .unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
        }
    }
}
