//! A small state machine: named counters. All tests of `raft-node/tests/it` run it, with crashes, power cuts, cut links
//! and pauses in simulation (`chaos.rs`); the example beside this file runs it for real.
//!
//! `apply` is all that a state machine must have. It runs on every node with the same commands in the same order, so it
//! must not look at a clock, draw a number, or depend on anything but its arguments. What it returns is the answer of
//! this write, kept until the caller has it: asked again, the same answer comes and nothing is added twice.

use std::io;

use bytes::Bytes;
use raft_node::machine::{ApplyContext, Rows, RowsRead, StateMachine};

/// Commands add to a counter and answer its new value.
pub(crate) struct Counter;

/// The command that adds `amount` to the counter `name`.
pub(crate) fn add(name: &str, amount: u64) -> Bytes {
    [&amount.to_be_bytes(), name.as_bytes()].concat().into()
}

/// The value of the counter `name`.
pub(crate) fn value(rows: &dyn RowsRead, name: &str) -> io::Result<u64> {
    Ok(rows.get(name.as_bytes())?.map_or(0, |bytes| number(&bytes)))
}

/// The number in an answer.
pub(crate) fn number(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_be_bytes)
}

impl StateMachine for Counter {
    fn apply(&self, _: &ApplyContext, rows: &mut dyn Rows, command: &Bytes) -> io::Result<Bytes> {
        let Some((amount, name)) = command.split_first_chunk::<8>() else { return Ok(Bytes::new()) };
        let before = rows.get(name)?.map_or(0, |bytes| number(&bytes));
        let after = Bytes::copy_from_slice(&(before + u64::from_be_bytes(*amount)).to_be_bytes());
        rows.put(name, after.clone())?;
        Ok(after)
    }
}
