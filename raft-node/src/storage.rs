//! All that one node keeps on its disk, opened as a whole: who it is, its log, its state.
//!
//! Knows the parts and what must hold between them; nothing of clusters, networks or Raft's life.

use std::fmt;
use std::sync::Arc;

use rpc_core::runtime::Runtime;

use crate::disk::Disk;
use crate::host::{Host, HostConfig};
use crate::identity::{Identity, IdentityError};
use crate::log::LogStore;
use crate::machine::StateMachine;

/// Identity, log and state of one node, verified against each other.
pub(crate) struct Storage<S> {
    pub(crate) identity: Identity,
    pub(crate) log: LogStore,
    pub(crate) host: Host<S>,
}

impl<S: StateMachine> Storage<S> {
    /// Opens what is in `disk`; an empty disk gets a new identity for node `configured`, durable when this returns.
    ///
    /// # Errors
    /// When the disk fails, holds damaged data, or belongs to another node.
    pub(crate) async fn open(
        runtime: &Runtime,
        disk: &Disk,
        machine: Arc<S>,
        configured: u64,
        host: HostConfig,
    ) -> Result<Self, StartError> {
        let identity = match Self::identity(disk)? {
            Some(identity) => identity,
            None => {
                let identity = Identity::draw(runtime, configured);
                identity.store(disk).await.map_err(StartError::Disk)?;
                identity
            }
        };
        if identity.configured != configured {
            return Err(StartError::Foreign { found: identity.configured, configured });
        }
        Self::open_as(runtime, disk, machine, identity, host)
    }

    /// Opens what is in `disk`, whosever it is; `None` when it is empty.
    ///
    /// # Errors
    /// When the disk fails or holds damaged data.
    pub(crate) fn open_existing(
        runtime: &Runtime,
        disk: &Disk,
        machine: Arc<S>,
    ) -> Result<Option<Self>, StartError> {
        let identity = Self::identity(disk)?;
        let host = HostConfig::default();
        identity.map(|identity| Self::open_as(runtime, disk, machine, identity, host)).transpose()
    }

    /// An identity is written before anything else: without one, there must be nothing.
    fn identity(disk: &Disk) -> Result<Option<Identity>, StartError> {
        let identity = Identity::load(disk).map_err(damaged)?;
        if identity.is_none() && !disk.store.trees().map_err(StartError::from_io)?.is_empty() {
            return Err(StartError::Damaged("there is data, but no identity".to_owned()));
        }
        Ok(identity)
    }

    fn open_as(
        runtime: &Runtime,
        disk: &Disk,
        machine: Arc<S>,
        identity: Identity,
        host: HostConfig,
    ) -> Result<Self, StartError> {
        let log = LogStore::open(disk.clone(), runtime).map_err(StartError::from_io)?;
        let host = Host::open(disk.clone(), machine, runtime.clone(), host).map_err(StartError::from_io)?;
        if host.cluster().is_some_and(|cluster| Some(cluster) != identity.cluster) {
            return Err(StartError::Damaged("state and identity belong to different clusters".to_owned()));
        }
        Ok(Self { identity, log, host })
    }
}

fn damaged(error: IdentityError) -> StartError {
    match error {
        IdentityError::Disk(error) => StartError::Disk(error),
        damaged => StartError::Damaged(damaged.to_string()),
    }
}

/// Why a node did not start.
#[derive(Debug)]
pub enum StartError {
    /// The configuration contradicts itself.
    Config(String),
    /// The data belongs to another node.
    Foreign {
        /// The id the data was made with.
        found: u64,
        /// The id in the configuration.
        configured: u64,
    },
    /// The data is damaged or of a format that this version does not read.
    Damaged(String),
    /// The disk failed.
    Disk(std::io::Error),
}

impl StartError {
    /// Damage, or a disk that failed.
    pub(crate) fn from_io(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::InvalidData => Self::Damaged(error.to_string()),
            _ => Self::Disk(error),
        }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(what) => write!(f, "configuration: {what}"),
            Self::Foreign { found, configured } => {
                write!(f, "the data folder belongs to node {found}, not to node {configured}")
            }
            Self::Damaged(what) => write!(f, "the data folder is damaged: {what}"),
            Self::Disk(error) => write!(f, "disk: {error}"),
        }
    }
}

impl std::error::Error for StartError {}
