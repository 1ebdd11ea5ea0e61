//! Whole nodes in a simulated world: real consensus, real storage code, simulated disks, clocks and links.

mod cluster;
mod counter;
mod election;
mod formation;
mod sessions;
