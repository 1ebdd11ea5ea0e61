//! Whole nodes in a simulated world: real consensus, real storage code, simulated disks, clocks and links.

mod chaos;
mod cluster;
mod counter;
mod damage;
mod determinism;
mod election;
mod failure;
mod formation;
mod reads;
mod real;
mod replacement;
mod sessions;
mod snapshots;
