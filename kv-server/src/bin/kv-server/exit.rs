//! How the process ends when not well: one sentence and a code that scripts may rely on.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use kv_server::server::StartError;
use raft_node::disk::real::OpenError;
use rpc_core::driver::key_file::KeyFileError;

use crate::config::ConfigError;
use crate::signals::Signal;

/// Why the process ends.
#[derive(Debug)]
pub(crate) enum Exit {
    /// The configuration cannot be used.
    Config(ConfigError),
    /// The address to listen on cannot be had.
    Listen { address: SocketAddr, error: std::io::Error },
    /// The folder for the nodes cannot be made.
    Folder { folder: PathBuf, error: std::io::Error },
    /// The file cannot be read, or is damaged.
    File { file: PathBuf, error: std::io::Error },
    /// The result cannot be printed.
    Output(std::io::Error),
    /// The key file was not written.
    KeyFile(KeyFileError),
    /// The data folder was not opened.
    Disk(OpenError),
    /// The node did not start.
    Start { folder: PathBuf, error: StartError },
    /// The data belongs to another cluster.
    Foreign(String),
    /// The node stopped and says why.
    Fatal(String),
    /// A second signal came before the graceful stop was done.
    Interrupted(Signal),
}

impl Exit {
    /// What is damaged in the data folder, if that is why.
    pub(crate) fn damage(&self) -> Option<String> {
        match self {
            Self::Disk(error @ OpenError::Damaged { .. }) => Some(error.to_string()),
            Self::Start { error: error @ StartError::Damaged(_), .. } => Some(error.to_string()),
            _ => None,
        }
    }

    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Config(_) => 2,
            Self::Start { error, .. } => match error {
                StartError::Config(_) => 2,
                StartError::Foreign { .. } => 7,
                _ => 1,
            },
            Self::Foreign(_) => 7,
            Self::Listen { .. }
            | Self::Folder { .. }
            | Self::File { .. }
            | Self::Output(_)
            | Self::KeyFile(_)
            | Self::Disk(_)
            | Self::Fatal(_) => 1,
            Self::Interrupted(signal) => signal.exit_code(),
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::Listen { address, error } if error.kind() == std::io::ErrorKind::AddrInUse => {
                write!(f, "UDP port {} of {} is taken by another process", address.port(), address.ip())
            }
            Self::Listen { address, error } => write!(f, "cannot listen on {address}: {error}"),
            Self::Folder { folder, error } => {
                write!(f, "cannot use the data folder {}: {error}", folder.display())
            }
            Self::File { file, error } => write!(f, "{}: {error}", file.display()),
            Self::Output(error) => write!(f, "cannot write to stdout: {error}"),
            Self::KeyFile(error) => error.fmt(f),
            Self::Disk(error @ OpenError::Damaged { .. }) => write!(f, "{error}\n{REBUILD}"),
            Self::Disk(error) => error.fmt(f),
            Self::Start { folder, error: error @ StartError::Damaged(_) } => {
                write!(f, "{error} ({})\n{REBUILD}", folder.display())
            }
            Self::Start { folder, error } => write!(f, "{error} ({})", folder.display()),
            Self::Foreign(reason) => write!(f, "refused: {reason}"),
            Self::Fatal(reason) => write!(f, "stopped: {reason}"),
            Self::Interrupted(signal) => write!(f, "{signal} again: ended before everything was handed over"),
        }
    }
}

/// What to do about a damaged data folder.
const REBUILD: &str =
    "  Nothing of it is served. To rebuild this node from the others, start it once more with --rebuild";

impl From<ConfigError> for Exit {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}
