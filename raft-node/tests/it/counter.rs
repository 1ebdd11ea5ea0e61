//! A small state machine: named counters.

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
