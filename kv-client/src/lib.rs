//! The key-value store from outside: the contract that a server implements ([`api`]), and a client whose every answer
//! is honest: *committed*, *not committed (why)*, or *unknown (with a token that settles it)*.
//!
//! `client` is what a user holds; `pursuit` carries one request from node to node, as `router` says; `ledger` says what
//! the attempts of one write mean together; `session` and `sequences` number the writes.
//!
//! Knows neither consensus nor storage, and names no clock, no spawner, no generator: it runs in a simulation unchanged.

pub mod api;
mod client;
mod endpoint;
mod inner;
mod ledger;
mod outcome;
pub mod plant;
mod pursuit;
mod router;
mod sequences;
mod session;
mod token;

pub use client::{Builder, Client, TIMEOUT_DEFAULT, Write};
pub use endpoint::{BadEndpoint, Endpoint, NoNames, Resolver};
pub use outcome::{Outcome, Reason, Refusal};
pub use token::{Token, TokenError};
