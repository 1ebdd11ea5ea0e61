//! RPC over UDP whose every call ends in an honest outcome.
//!
//! # Quick start
//! A trait becomes a client and a service through [`service`]; a [`peer::Peer`] is a socket that serves and calls:
//!
//! ```
//! use std::sync::Arc;
//!
//! use rpc_core::driver::{system, udp::UdpSocket};
//! use rpc_core::peer::Peer;
//! use rpc_core::rpc::{CallError, Ctx, Outcome};
//!
//! /// Arithmetic, to be called from afar.
//! #[rpc_core::service]
//! pub trait Calc {
//!     /// Divides, rounding towards zero.
//!     async fn divide(&self, ctx: Ctx, a: u64, b: u64) -> Result<u64, CalcError>;
//! }
//!
//! /// A method's own error travels typed.
//! #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
//! pub enum CalcError {
//!     DivideByZero,
//! }
//! # impl std::fmt::Display for CalcError {
//! #     fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
//! #         f.write_str("division by zero")
//! #     }
//! # }
//!
//! struct Calculator;
//!
//! impl Calc for Calculator {
//!     async fn divide(&self, _: Ctx, a: u64, b: u64) -> Result<u64, CalcError> {
//!         a.checked_div(b).ok_or(CalcError::DivideByZero)
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let runtime = system::runtime(tokio::runtime::Handle::current());
//! let server = Peer::builder(runtime.clone())
//!     .services(calc_services(Arc::new(Calculator)))
//!     .start_insecure(UdpSocket::bind("127.0.0.1:0".parse()?)?)?;
//! let client = Peer::builder(runtime).start_insecure(UdpSocket::bind("127.0.0.1:0".parse()?)?)?;
//!
//! let calc = CalcClient::new(client.remote(server.local_addr()));
//! assert_eq!(calc.divide(7, 2).await?, 3);
//!
//! let error = calc.divide(7, 0).await.unwrap_err();
//! assert_eq!(error, CallError::Method(CalcError::DivideByZero));
//! assert_eq!(error.outcome(), Outcome::Executed); // the other two: not executed, unknown
//! # Ok(())
//! # }
//! ```
//!
//! # Layers
//! Each knows only the ones before it:
//! [`wire`] (varints, packets, frames) -> [`conn`] (one connection: acknowledgements, loss recovery, congestion,
//! messages) -> [`endpoint`] (demultiplexing, setup exchange, limits) -> [`driver`] (UDP sockets, the link faults) ->
//! [`rpc`] (calls, deadlines, errors, registry) -> [`peer`] (what a user holds) -> [`gather`] (one call to many peers),
//! [`gossip`] (the set of known endpoints, a [`crdt`]).
//! What stands above [`peer`] (`gather`, `gossip`, `blocking`) is behind features of these names, all on unless
//! `default-features = false` says otherwise.
//! [`runtime`] is what all of them are handed instead of a clock, a spawner and a random generator; [`sim`] is a world
//! in which one seed gives one trace.
//!
//! Nothing in this crate knows Raft or keys.

// The code that the macro writes names this crate `rpc_core`, here as well.
extern crate self as rpc_core;

#[cfg(feature = "blocking")]
pub mod blocking;
pub mod conn;
#[cfg(feature = "gossip")]
pub mod crdt;
pub mod driver;
pub mod endpoint;
#[cfg(all(feature = "gossip", any(test, feature = "fuzzing")))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(feature = "gather")]
pub mod gather;
#[cfg(feature = "gossip")]
pub mod gossip;
pub mod peer;
pub mod plant;
pub mod random;
pub mod rpc;
pub mod runtime;
pub mod security;
pub mod sim;
pub mod wire;

pub use rpc_core_macros::service;

/// The example of the README is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
