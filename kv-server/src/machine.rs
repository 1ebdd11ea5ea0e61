//! The replicated state machine: keys and values under put, delete and compare-and-set.
//!
//! Pure: what a command does follows from the rows, the command and its revision alone. Knows neither sessions (the
//! host settles which write is applied, once) nor the wire: the types here are durable formats, in the log and in
//! the rows, and change only by a new format number.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use raft_node::machine::{ApplyContext, Rows, RowsRead, StateMachine};
use rpc_core::rpc::codec::{self, CodecError};
use serde::{Deserialize, Serialize};

/// The longest key in bytes; the shortest is one byte. Part of the log format: a command beyond it is refused.
pub const KEY_SIZE_MAX: usize = 4 * 1024;
/// The largest value in bytes. Part of the log format: a command beyond it is refused.
pub const VALUE_SIZE_MAX: usize = 1024 * 1024;

/// The key-value state machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct KvMachine;

/// What one log entry asks of the state machine: the format number [`FORMAT`] in one byte, then this as CBOR.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Sets a key, whatever it holds.
    Put {
        /// The key.
        key: Bytes,
        /// Its new value.
        value: Bytes,
    },
    /// Removes a key, if it is there.
    Delete {
        /// The key.
        key: Bytes,
    },
    /// Sets a key if the condition holds.
    Cas {
        /// The key.
        key: Bytes,
        /// What must be true of the key before.
        expect: Expect,
        /// Its new value.
        value: Bytes,
    },
}

/// The condition of a [`Command::Cas`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expect {
    /// The key is not there.
    Absent,
    /// The key was last written at this revision.
    Revision(u64),
    /// The key holds exactly these bytes.
    Value(Bytes),
}

/// What applying a command answers, kept in the session table: the format number in one byte, then this as CBOR. A
/// few bytes, never values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The key was set.
    Written {
        /// Whether it held a value before.
        existed: bool,
    },
    /// The key is gone.
    Deleted {
        /// Whether it held a value before.
        existed: bool,
    },
    /// The condition did not hold: nothing was changed.
    ConditionFailed {
        /// The revision at which the key was last written; `None` if it is not there.
        mod_revision: Option<u64>,
    },
    /// The machine cannot read the command, or it is beyond a limit: nothing was changed.
    Refused,
}

/// A key's row.
///
/// Layout, big-endian: format number (1 byte), create revision (8), modification revision (8), the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The revision of the write that created the key; a delete ends it.
    pub create_revision: u64,
    /// The revision of the last write.
    pub mod_revision: u64,
    /// The value.
    pub value: Bytes,
}

/// The number that opens every command, answer and row.
pub const FORMAT: u8 = 1;

/// The first byte of each row key: which kind of row it is. Later kinds (leases, history) take later numbers.
const CLASS_KEY: u8 = 1;
/// Bytes of a row before the value.
const ROW_HEADER_SIZE: usize = 17;

impl Command {
    /// The bytes for the log.
    ///
    /// # Errors
    /// None in practice: plain data always has an encoding.
    pub fn encode(&self) -> Result<Bytes, CodecError> {
        encode(self)
    }

    /// The key it is about.
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Put { key, .. } | Self::Delete { key } | Self::Cas { key, .. } => key,
        }
    }

    /// Whether key and values keep to the limits.
    fn is_within_limits(&self) -> bool {
        let value_size = match self {
            Self::Put { value, .. } | Self::Cas { value, .. } => value.len(),
            Self::Delete { .. } => 0,
        };
        (1..=KEY_SIZE_MAX).contains(&self.key().len()) && value_size <= VALUE_SIZE_MAX
    }
}

impl Answer {
    /// Reads the detail of a settled write; `None` if it is not of this format.
    pub fn decode(detail: &[u8]) -> Option<Self> {
        decode(detail)
    }
}

impl Row {
    fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(ROW_HEADER_SIZE + self.value.len());
        bytes.put_u8(FORMAT);
        bytes.put_u64(self.create_revision);
        bytes.put_u64(self.mod_revision);
        bytes.put_slice(&self.value);
        bytes.freeze()
    }

    fn decode(bytes: &Bytes) -> io::Result<Self> {
        let number = |at: usize| {
            let field = bytes.get(at..at + 8).and_then(|field| field.try_into().ok());
            field.map(u64::from_be_bytes)
        };
        match (bytes.first(), number(1), number(9)) {
            (Some(&FORMAT), Some(create_revision), Some(mod_revision)) => {
                Ok(Self { create_revision, mod_revision, value: bytes.slice(ROW_HEADER_SIZE..) })
            }
            (format, ..) => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("row of {} bytes with format {format:?}, expected format {FORMAT}", bytes.len()),
            )),
        }
    }
}

/// The row of a user key; `None` if the key is not there.
///
/// # Errors
/// When the disk fails or the row is damaged.
pub fn row(rows: &(impl RowsRead + ?Sized), key: &[u8]) -> io::Result<Option<Row>> {
    rows.get(&row_key(key))?.map(|bytes| Row::decode(&bytes)).transpose()
}

/// Where the row of a user key is kept.
pub fn row_key(key: &[u8]) -> Bytes {
    let mut row_key = BytesMut::with_capacity(1 + key.len());
    row_key.put_u8(CLASS_KEY);
    row_key.put_slice(key);
    row_key.freeze()
}

impl StateMachine for KvMachine {
    fn apply(&self, context: &ApplyContext, rows: &mut dyn Rows, command: &Bytes) -> io::Result<Bytes> {
        let answer = match decode::<Command>(command) {
            Some(command) if command.is_within_limits() => change(context.revision, rows, command)?,
            _ => Answer::Refused,
        };
        encode(&answer).map_err(io::Error::other)
    }
}

fn change(revision: u64, rows: &mut dyn Rows, command: Command) -> io::Result<Answer> {
    let current = row(rows, command.key())?;
    let existed = current.is_some();
    match command {
        Command::Put { key, value } => {
            write(revision, rows, &key, current.as_ref(), value)?;
            Ok(Answer::Written { existed })
        }
        Command::Delete { key } => {
            if existed {
                rows.delete(&row_key(&key))?;
            }
            Ok(Answer::Deleted { existed })
        }
        Command::Cas { key, expect, value } => {
            if !expect.holds(current.as_ref()) {
                return Ok(Answer::ConditionFailed { mod_revision: current.map(|row| row.mod_revision) });
            }
            write(revision, rows, &key, current.as_ref(), value)?;
            Ok(Answer::Written { existed })
        }
    }
}

fn write(
    revision: u64,
    rows: &mut dyn Rows,
    key: &[u8],
    current: Option<&Row>,
    value: Bytes,
) -> io::Result<()> {
    let create_revision = current.map_or(revision, |row| row.create_revision);
    rows.put(&row_key(key), Row { create_revision, mod_revision: revision, value }.encode())
}

impl Expect {
    fn holds(&self, current: Option<&Row>) -> bool {
        match self {
            Self::Absent => current.is_none(),
            Self::Revision(revision) => current.is_some_and(|row| row.mod_revision == *revision),
            Self::Value(value) => current.is_some_and(|row| row.value == *value),
        }
    }
}

/// The format number, then `value` as CBOR.
fn encode<T: Serialize>(value: &T) -> Result<Bytes, CodecError> {
    let body = codec::encode(value)?;
    let mut bytes = BytesMut::with_capacity(1 + body.len());
    bytes.put_u8(FORMAT);
    bytes.put_slice(&body);
    Ok(bytes.freeze())
}

fn decode<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Option<T> {
    match bytes.split_first() {
        Some((&FORMAT, body)) => codec::decode(body).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
