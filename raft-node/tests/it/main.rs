//! Whole nodes in a simulated world: real consensus, real storage code, simulated disks, clocks and links.

mod chaos;
mod cluster;
#[path = "../../examples/counter/machine.rs"]
mod counter;
mod damage;
mod determinism;
mod election;
mod failure;
mod formation;
mod members;
mod offline;
mod overload;
mod reads;
mod real;
mod replacement;
mod sessions;
mod snapshots;
