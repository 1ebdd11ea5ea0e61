//! Our store side by side with etcd, NATS JetStream, ZooKeeper and Redis: starts clusters of three nodes, puts the
//! same loads on them in rounds, takes their leaders away, and tells what came of it in tables and as JSON.
//!
//! `cargo run --release -- --help` tells what it can do; README.md says how it measures.

mod bars;
mod cluster;
mod compare;
mod contestant;
mod life;
mod load;
mod processes;
mod programs;
mod report;
mod samples;
mod store;
mod usage;

use anyhow::Result;
use clap::Parser;

fn main() -> Result<()> {
    compare::run(compare::Options::parse())
}
