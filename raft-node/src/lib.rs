//! A host for any replicated state machine: openraft over [`rpc_core`], log and state in sled.
//!
//! Layers, each knowing only the ones before it: [`disk`] (the seam to real and simulated disks) -> `types`
//! (openraft's type configuration, behind which all of openraft stays) -> [`command`] (the log format) ->
//! [`machine`] (what a user implements) -> `log`, [`host`], [`snapshot`] (storage) -> `identity`, `storage` (who this
//! node is, and all that it keeps) -> `formation` (how a cluster comes to be) -> `network` (calls to others) -> [`spans`]
//! (what became of traced requests) -> [`offline`] (a disk without a running node) -> `life` (from an empty folder to a running
//! Raft) -> `proposals`, `reads`, [`backup`], `membership`, `service`, `duties` -> [`Node`], which users hold. Nothing in this crate
//! knows keys, command lines or HTTP.

pub mod backup;
mod change;
pub mod command;
pub mod config;
pub mod disk;
mod duties;
mod formation;
mod freshness;
pub mod host;
mod identity;
mod life;
mod log;
pub mod machine;
mod membership;
mod network;
mod node;
pub mod offline;
pub mod outcome;
pub mod plant;
pub mod probe;
mod proposals;
mod reads;
pub mod resolver;
mod runtime;
mod service;
mod session;
pub mod snapshot;
pub mod spans;
mod state_head;
pub mod status;
mod storage;
#[cfg(test)]
mod suite;
mod types;

pub use change::{Change, ChangeError};
pub use config::NodeConfig;
pub use node::{Boot, Node};
pub use storage::StartError;
