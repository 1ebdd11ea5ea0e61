//! What the clients of a register saw: the operations, the file format that keeps them, and readers for the formats
//! of other checkers' test data.
//!
//! A history is all that a checker gets. It must not know who made it: nothing here knows the store, its client or
//! the faults beyond their names.

mod jepsen_log;
mod jsonl;
mod kv_log;
mod lines;
mod operation;

use std::io::{BufRead, Cursor, Read};

pub use self::jsonl::HistoryWriter;
pub use self::lines::{LINE_BYTES_MAX, OPERATIONS_MAX, ReadError};
pub(crate) use self::operation::Shown;
pub use self::operation::{Action, History, Nemesis, Operation, Outcome, Semantics, Token};

/// Reads a history in any of the three formats, told apart by its first line that is not blank:
///
/// | begins with | format |
/// | --- | --- |
/// | `{"` | history.jsonl, one operation a line |
/// | `{:` | EDN events of a set of keys with get, put and append |
/// | `INFO`, `WARN`, `ERROR`, `DEBUG` | Jepsen's text log of one register |
///
/// A history without a single operation is an error: it proves nothing.
pub fn read(mut input: impl BufRead) -> Result<History, ReadError> {
    let mut first = Vec::new();
    let mut blank = 0;
    while lines::read_line(&mut input, blank + 1, &mut first)? && first.trim_ascii().is_empty() {
        blank += 1;
    }
    let start = first.trim_ascii();
    let reader = if start.starts_with(b"{\"") {
        jsonl::read
    } else if start.starts_with(b"{:") {
        kv_log::read
    } else if LOG_LEVELS.iter().any(|level| start.starts_with(level)) {
        jepsen_log::read
    } else if start.is_empty() {
        return Err(ReadError::Empty);
    } else {
        return Err(ReadError::line(blank + 1, "this is the start of no history format that is known here"));
    };
    first.push(b'\n');
    let history = reader(&mut Cursor::new(first).chain(input), blank)?;
    if history.operations.is_empty() { Err(ReadError::Empty) } else { Ok(history) }
}

const LOG_LEVELS: [&[u8]; 4] = [b"INFO", b"WARN", b"ERROR", b"DEBUG"];

#[cfg(test)]
mod tests;
