//! What a user implements: a deterministic state machine over an ordered set of rows.

use std::io;

use bytes::Bytes;

/// A replicated state machine. All nodes apply the same commands in the same order and must reach the same rows.
pub trait StateMachine: Send + Sync + 'static {
    /// Applies one command: reads and changes `rows`, answers at most [`crate::command::DETAIL_SIZE_MAX`] bytes of
    /// detail. Pure: no clock, no randomness, no I/O but `rows`. A command that the machine refuses (a failed
    /// condition, bytes it cannot read) is an answer, not an error; it must then leave `rows` untouched.
    /// An error is a disk error and stops the node.
    fn apply(&self, context: &ApplyContext, rows: &mut dyn Rows, command: &Bytes) -> io::Result<Bytes>;
}

/// What an apply may know beside rows and command.
#[derive(Clone, Copy, Debug)]
pub struct ApplyContext {
    /// The revision of this write: revision base + log index.
    pub revision: u64,
    /// Log time in milliseconds since the Unix epoch: the greatest time that any applied command carried.
    pub time_ms: u64,
}

/// The machine's rows as one command sees them, its own changes included.
pub trait Rows: RowsRead {
    /// Sets a row. Keys are at most [`ROW_KEY_SIZE_MAX`] bytes, values at most [`ROW_VALUE_SIZE_MAX`].
    fn put(&mut self, key: &[u8], value: Bytes) -> io::Result<()>;

    /// Removes a row, if it is there.
    fn delete(&mut self, key: &[u8]) -> io::Result<()>;
}

/// Reads of rows.
pub trait RowsRead {
    /// The value of a row.
    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>>;

    /// Up to `limit` rows with `from <= key` and, if given, `key < to`, ascending.
    fn range(&self, from: &[u8], to: Option<&[u8]>, limit: usize) -> io::Result<Vec<(Bytes, Bytes)>>;
}

/// The longest row key in bytes: a user key of 4 KiB and 64 bytes of the machine's own.
pub const ROW_KEY_SIZE_MAX: usize = 4 * 1024 + 64;
/// The largest row value in bytes: 1 MiB of user value and 64 KiB of the machine's own.
pub const ROW_VALUE_SIZE_MAX: usize = (1024 + 64) * 1024;
