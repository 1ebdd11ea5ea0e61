//! Calls without an answer.
//!
//! ```text
//! @notify  [method: uint, body: bstr]  -> null
//! ```
//! The body is that of an ordinary call of `method`. The answer, an empty one, goes out when the method has *started*:
//! it exists, its arguments could be read, limits let it in. What it answers afterwards goes nowhere. At most once,
//! as every call. A method that was notified runs to its end, at most as long as the connection; a deadline that its
//! caller set limits the start only.

use bytes::Bytes;

use super::codec;
use super::path::MethodId;

/// Starts a method whose answer nobody waits for.
pub(crate) const NOTIFY: &str = "@notify";

/// The request of a notification.
pub(super) fn wrap(method: MethodId, body: &Bytes) -> Result<Bytes, codec::CodecError> {
    codec::encode(&(method.0, body))
}

/// The method that a notification asks for, and the body for it.
pub(super) fn parse(body: &[u8]) -> Result<(MethodId, Bytes), codec::CodecError> {
    codec::decode::<(u32, Bytes)>(body).map(|(method, body)| (MethodId(method), body))
}
