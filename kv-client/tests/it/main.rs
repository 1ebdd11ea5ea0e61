//! The client and its command against nodes that are played: in a simulated world, and over real UDP on loopback.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod chaos;
mod command;
mod played;
mod routing;
mod writes;
