//! Reading a file by lines of bounded length, and the error that names the line.

use std::fmt;
use std::io::{self, BufRead, Read};

/// Longest line, in bytes: two values of 1 MiB with every byte escaped, and room. A longer one is an error.
pub const LINE_BYTES_MAX: u64 = 16 << 20;

/// Most operations in one history (some gigabytes of memory). More is an error.
pub const OPERATIONS_MAX: usize = 20_000_000;

/// Why a history cannot be judged.
#[derive(Debug)]
pub enum ReadError {
    /// The file cannot be read any further than this line (from 1).
    Io {
        /// The line that was being read.
        line: u64,
        /// What the system says.
        source: io::Error,
    },
    /// This line (from 1) is not what the format allows.
    Line {
        /// The line.
        line: u64,
        /// What is wrong with it.
        what: String,
    },
    /// There is no operation in it.
    Empty,
}

impl ReadError {
    pub(super) fn line(line: u64, what: impl Into<String>) -> Self {
        Self::Line { line, what: what.into() }
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { line, source } => write!(f, "line {line} cannot be read: {source}"),
            Self::Line { line, what } => write!(f, "line {line}: {what}"),
            Self::Empty => f.write_str("there is no operation in it"),
        }
    }
}

impl std::error::Error for ReadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Line { .. } | Self::Empty => None,
        }
    }
}

/// Reads line number `line` into `buffer`, without its end; false at the end of the file.
pub(super) fn read_line(
    input: &mut impl BufRead,
    line: u64,
    buffer: &mut Vec<u8>,
) -> Result<bool, ReadError> {
    buffer.clear();
    let count = input
        .take(LINE_BYTES_MAX + 1)
        .read_until(b'\n', buffer)
        .map_err(|source| ReadError::Io { line, source })?;
    if buffer.last() == Some(&b'\n') {
        buffer.pop();
    }
    if buffer.len() as u64 > LINE_BYTES_MAX {
        return Err(ReadError::line(line, format!("longer than {LINE_BYTES_MAX} bytes")));
    }
    Ok(count > 0)
}

/// Calls `each` with the number and text of every line that is not blank; the first line has the number `before + 1`.
pub(super) fn for_each_line(
    input: &mut impl BufRead,
    before: u64,
    mut each: impl FnMut(u64, &str) -> Result<(), String>,
) -> Result<(), ReadError> {
    let mut buffer = Vec::new();
    let mut line = before + 1;
    while read_line(input, line, &mut buffer)? {
        let text =
            str::from_utf8(&buffer).map_err(|error| ReadError::line(line, format!("not UTF-8: {error}")))?;
        if !text.trim().is_empty() {
            each(line, text.trim()).map_err(|what| ReadError::line(line, what))?;
        }
        line += 1;
    }
    Ok(())
}

/// Adds to a history, up to its limit.
pub(super) fn push<T>(list: &mut Vec<T>, item: T) -> Result<(), String> {
    if list.len() >= OPERATIONS_MAX {
        return Err(format!("more than {OPERATIONS_MAX} operations"));
    }
    list.push(item);
    Ok(())
}
