//! The key-value store from outside: [`api`] is the contract that a server implements.
//!
//! Knows neither consensus nor storage.

pub mod api;
