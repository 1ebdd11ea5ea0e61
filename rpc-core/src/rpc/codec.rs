//! Typed bodies as CBOR (RFC 8949).
//!
//! The bytes are those that ciborium writes, which stays the reference: tests compare the two in both directions. This
//! codec exists because a small body is decoded by ciborium in as much time as the rest of a call takes. It reads what
//! ciborium reads, with three differences: an array with more elements than the type has is refused instead of read
//! on behind, a text or byte string may be of any length whatever it is read into, and tagged items other than big
//! integers are not known to types that ask for "anything" (`ciborium::Value`).
//!
//! Byte strings must be `bytes::Bytes` or marked with `serde_bytes`: a bare `Vec<u8>` becomes an array of numbers,
//! which is nearly twice as long and hundreds of times slower to read.

mod diagnostic;
mod float;
mod notation;
mod read;
#[cfg(test)]
mod tests;
mod write;

use std::any::Any;
use std::fmt;

use bytes::Bytes;
pub use ciborium::Value;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::diagnostic::{Diagnostic, SHOWN_MAX, diagnostic};
pub use self::notation::{NotationError, from_diagnostic};
use self::read::Reader;
use self::write::Writer;

/// The deepest nesting that is read.
pub const DEPTH_MAX: usize = 64;

/// The item null.
pub(crate) const NULL_ITEM: &[u8] = &[0xf6];

/// Encodes a body.
///
/// # Errors
/// When the type refuses to be serialized, which plain data never does.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Bytes, CodecError> {
    let mut bytes = Vec::new();
    encode_onto(value, &mut bytes)?;
    Ok(bytes.into())
}

/// Encodes an item behind what is in `bytes`.
pub(crate) fn encode_onto<T: Serialize + ?Sized>(value: &T, bytes: &mut Vec<u8>) -> Result<(), CodecError> {
    value.serialize(&mut Writer(bytes))
}

/// Decodes a body; it must be one CBOR item and nothing after it.
///
/// # Errors
/// When the bytes are not one item of type `T`, or nested deeper than [`DEPTH_MAX`].
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let (value, size) = decode_first(bytes)?;
    if size < bytes.len() {
        return Err(CodecError(format!("{} bytes after the body", bytes.len() - size)));
    }
    Ok(value)
}

/// Decodes a body as [`decode`] does, but one that is a single byte string, and is asked for as [`Bytes`], is not copied:
/// it keeps the memory of the body.
pub(crate) fn decode_shared<T: DeserializeOwned + 'static>(body: &Bytes) -> Result<T, CodecError> {
    let mut shared = None::<T>;
    if let Some(shared) = (&mut shared as &mut dyn Any).downcast_mut::<Option<Bytes>>()
        && let Some(head) = read::byte_string_head(body)
        && body.len() >= SHARED_FROM
    {
        *shared = Some(body.slice(head..));
    }
    shared.map_or_else(|| decode(body), Ok)
}

/// Below it copying is cheaper than sharing, and a packet that is kept for a body is much more than the body.
const SHARED_FROM: usize = 1_000;

/// Decodes the first item of a CBOR sequence (RFC 8742), and gives its size.
///
/// # Errors
/// As [`decode`], but for what follows the item.
pub fn decode_first<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, usize), CodecError> {
    let mut reader = Reader { rest: bytes, depth: DEPTH_MAX };
    let value = T::deserialize(&mut reader)?;
    Ok((value, bytes.len() - reader.rest.len()))
}

/// Why a body could not be encoded or decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodecError(String);

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CodecError {}

impl serde::ser::Error for CodecError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

impl serde::de::Error for CodecError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

// The three highest bits of an item's first byte.
const UNSIGNED: u8 = 0;
const NEGATIVE: u8 = 1;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
const TAG: u8 = 6;
const SIMPLE: u8 = 7;

/// In the five lower bits: the item ends with a break.
const INDEFINITE: u8 = 31;
const BREAK: u8 = 0xff;

// Simple values.
const FALSE: u8 = 20;
const TRUE: u8 = 21;
const NULL: u8 = 22;
const UNDEFINED: u8 = 23;

// Tags of integers that need more than 64 bits (RFC 8949 section 3.4.3).
const TAG_BIG_POSITIVE: u64 = 2;
const TAG_BIG_NEGATIVE: u64 = 3;
