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
        let identity = match Identity::load(disk).map_err(damaged)? {
            Some(identity) => identity,
            None => {
                // The identity is written before anything else: without one, there must be nothing.
                if !disk.store.trees().map_err(opening)?.is_empty() {
                    return Err(StartError::Damaged("there is data, but no identity".to_owned()));
                }
                let identity = Identity::draw(runtime, configured);
                identity.store(disk).await.map_err(StartError::Disk)?;
                identity
            }
        };
        if identity.configured != configured {
            return Err(StartError::Foreign { found: identity.configured, configured });
        }
        let log = LogStore::open(disk.clone(), runtime).map_err(opening)?;
        let host = Host::open(disk.clone(), machine, runtime.clone(), host).map_err(opening)?;
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

fn opening(error: std::io::Error) -> StartError {
    if error.kind() == std::io::ErrorKind::InvalidData {
        return StartError::Damaged(error.to_string());
    }
    StartError::Disk(error)
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
