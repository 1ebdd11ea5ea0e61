//! Fault tests with a verdict.
//!
//! A [`plan`] of faults is drawn from a seed; the [`runner`] lets it happen to a [`cluster`] while the [`workload`] runs.
//! [`history`] is what clients saw, one operation a line; [`checker`] judges it. Neither knows the store: any history
//! in one of the formats that [`history`] reads can be judged.

pub mod checker;
pub mod cluster;
pub mod history;
pub mod invariants;
pub mod plan;
#[cfg(feature = "power")]
pub mod power;
pub mod report;
pub mod runner;
pub mod simulation;
pub mod workload;
