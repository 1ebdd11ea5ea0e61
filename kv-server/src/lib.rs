//! One node of the replicated key-value store.
//!
//! Layers, each knowing only the ones before it: [`machine`] (the replicated state machine) -> `proposal` (one write
//! from admission to its outcome) -> `service` (what clients may ask) -> [`server`] (a node on a handed-in runtime,
//! disk and socket). The binary `kv-server` adds configuration, signals and the development cluster.

pub mod machine;
mod proposal;
mod refusal;
pub mod server;
mod service;
