//! How the process ends when not well: one sentence and a code that scripts may rely on.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

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
    /// The key file was not written.
    KeyFile(KeyFileError),
    /// The data folder was not opened.
    Disk(OpenError),
    /// The node did not start.
    Start { folder: PathBuf, error: StartError },
    /// The node stopped and says why.
    Fatal(String),
    /// A second signal came before the graceful stop was done.
    Interrupted(Signal),
}

impl Exit {
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Config(_) => 2,
            Self::Start { error, .. } => match error {
                StartError::Config(_) => 2,
                StartError::Foreign { .. } => 7,
                _ => 1,
            },
            Self::Listen { .. } | Self::Folder { .. } | Self::KeyFile(_) | Self::Disk(_) | Self::Fatal(_) => {
                1
            }
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
            Self::KeyFile(error) => error.fmt(f),
            Self::Disk(error @ OpenError::Damaged { folder, .. }) => {
                write!(f, "{error}\n{}", Rebuild(folder))
            }
            Self::Disk(error) => error.fmt(f),
            Self::Start { folder, error: error @ StartError::Damaged(_) } => {
                write!(f, "{error} ({})\n{}", folder.display(), Rebuild(folder))
            }
            Self::Start { folder, error } => write!(f, "{error} ({})", folder.display()),
            Self::Fatal(reason) => write!(f, "stopped: {reason}"),
            Self::Interrupted(signal) => write!(f, "{signal} again: ended before everything was handed over"),
        }
    }
}

/// What to do about a damaged data folder.
struct Rebuild<'a>(&'a Path);

impl fmt::Display for Rebuild<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let folder = self.0.display();
        write!(
            f,
            "  Nothing of it is served. To rebuild it from the other nodes: set it aside (mv {folder} \
             {folder}.damaged), start this node again as before, and type the line that it prints then"
        )
    }
}

impl From<ConfigError> for Exit {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}
