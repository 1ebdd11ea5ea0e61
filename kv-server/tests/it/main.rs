//! The server from outside: in a simulated world, and as processes on loopback.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod cluster;
mod dev;
mod operations;
mod process;
mod run;
mod simulation;
mod strace;
