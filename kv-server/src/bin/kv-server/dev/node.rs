//! One node of a `kv-server dev`: how it is started, and its process.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use rpc_core::runtime::Runtime;
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;

use crate::config::RunConfig;
use crate::exit::Exit;

/// A running node process.
pub(super) struct Process {
    pub(super) pid: u32,
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
    pub(super) data: PathBuf,
    pub(super) log: PathBuf,
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
        Self { id, address, program: program.to_owned(), arguments, data, log }
    }

    /// Starts the process in a process group of its own, so that Ctrl-C in the terminal reaches this process only.
    pub(super) fn start(
        &self,
        runtime: &Runtime,
        deaths: mpsc::Sender<(u64, ExitStatus)>,
    ) -> Result<Process, Exit> {
        let failed = |what: &str, error: io::Error| Exit::Fatal(format!("node {}: {what}: {error}", self.id));
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.map_err(|error| failed(&self.log.display().to_string(), error))?;
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
    pub(super) fn command_line(&self) -> String {
        let words = std::iter::once(self.program.display().to_string()).chain(self.arguments.iter().cloned());
        words.map(|word| quote(&word)).collect::<Vec<_>>().join(" ")
    }

    /// The last line that the node wrote to its log.
    pub(super) fn last_words(&self) -> Option<String> {
        let lines = BufReader::new(File::open(&self.log).ok()?).lines().map_while(Result::ok);
        lines.filter(|line| !line.trim().is_empty()).last()
    }
}

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
