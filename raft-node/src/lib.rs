//! A host for any replicated state machine: openraft over [`rpc_core`], log and state in sled.
//!
//! Layers, each knowing only the ones before it: [`disk`] (the seam to real and simulated disks) -> [`types`]
//! (openraft's type configuration, behind which all of openraft stays) -> [`command`] (the log format) ->
//! [`machine`] (what a user implements). Nothing in this crate knows keys, command lines or HTTP.

pub mod command;
pub mod config;
pub mod disk;
pub mod host;
mod log;
pub mod machine;
mod node;
pub mod outcome;
pub mod resolver;
mod runtime;
mod session;
pub mod snapshot;
mod state_head;
pub mod status;
#[cfg(test)]
mod suite;
mod types;

pub use config::NodeConfig;
pub use node::{Boot, Node, ReplaceError, StartError};
