//! Fault tests with a verdict.
//!
//! [`history`] is what clients saw, one operation a line; [`checker`] judges it. Neither knows the store: any history
//! in one of the formats that [`history`] reads can be judged.

pub mod checker;
pub mod history;
