//! Typed bodies as CBOR (RFC 8949), through ciborium.
//!
//! Byte strings must be `bytes::Bytes` or marked with `serde_bytes`: a bare `Vec<u8>` becomes an array of numbers,
//! which is nearly twice as long and hundreds of times slower to read.

use std::fmt;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The deepest nesting that is read.
pub const DEPTH_MAX: usize = 64;

/// Encodes a body.
///
/// # Errors
/// When the type refuses to be serialized, which plain data never does.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Bytes, CodecError> {
    let mut bytes = Vec::with_capacity(64);
    ciborium::into_writer(value, &mut bytes).map_err(|error| CodecError(error.to_string()))?;
    Ok(bytes.into())
}

/// Decodes a body; it must be one CBOR item and nothing after it.
///
/// # Errors
/// When the bytes are not one item of type `T`, or nested deeper than [`DEPTH_MAX`].
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let mut rest = bytes;
    let value = ciborium::de::from_reader_with_recursion_limit(&mut rest, DEPTH_MAX)
        .map_err(|error| CodecError(error.to_string()))?;
    if !rest.is_empty() {
        return Err(CodecError(format!("{} bytes after the body", rest.len())));
    }
    Ok(value)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailing_bytes_are_rejected() {
        let mut bytes = encode(&7u64).unwrap().to_vec();
        assert_eq!(decode::<u64>(&bytes), Ok(7));
        bytes.push(0);
        assert!(decode::<u64>(&bytes).is_err());
    }

    #[test]
    fn a_nesting_bomb_is_an_error() {
        let bomb = vec![0x81; 100_000];
        assert!(decode::<ciborium::Value>(&bomb).is_err());
    }

    #[test]
    fn bytes_travel_as_a_byte_string() {
        let encoded = encode(&Bytes::from(vec![9; 100])).unwrap();
        assert_eq!(encoded[0] >> 5, 2, "major type 2 is a byte string");
        assert_eq!(encoded.len(), 102);
    }
}
