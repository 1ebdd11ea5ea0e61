//! RPC over UDP whose every call ends in an honest outcome.
//!
//! Layers, each knowing only the ones before it:
//! [`wire`] (varints, packets, frames) -> [`conn`] (one connection: acknowledgements, loss recovery, congestion,
//! messages) -> [`endpoint`] (demultiplexing, setup exchange, limits) -> [`driver`] (UDP sockets, the link faults) ->
//! [`rpc`] (calls, deadlines, errors, registry) -> [`peer`] (what a user holds). [`runtime`] is what all of them are
//! handed instead of a clock, a spawner and a random generator; [`sim`] is a world in which one seed gives one trace.
//!
//! Nothing in this crate knows Raft or keys.

// The code that the macro writes names this crate `rpc_core`, here as well.
extern crate self as rpc_core;

pub mod conn;
pub mod driver;
pub mod endpoint;
pub mod peer;
pub mod random;
pub mod rpc;
pub mod runtime;
pub mod sim;
pub mod wire;

pub use rpc_core_macros::service;
