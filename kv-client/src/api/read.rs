//! Reads.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Hint;

/// Reads a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetRequest {
    /// 1 to [`super::KEY_SIZE_MAX`] bytes.
    #[serde(rename = "k")]
    pub key: Bytes,
    /// How fresh the answer must be.
    #[serde(rename = "c")]
    pub consistency: Consistency,
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Consistency {
    /// It sees every write that was answered before it began.
    #[default]
    #[serde(rename = "l")]
    Linearizable,
    /// It sees what the asked node has applied, and is told how old that may be.
    #[serde(rename = "s")]
    Stale,
}

/// What a read saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetReply {
    /// The key's value; `None` if it is not there.
    #[serde(rename = "v")]
    pub value: Option<Versioned>,
    /// The revision of the last applied write that the read saw.
    #[serde(rename = "r")]
    pub revision: u64,
    /// How old it may be.
    #[serde(rename = "a")]
    pub age: Age,
    /// The leader, if it is not the node that answered.
    #[serde(rename = "l")]
    pub leader: Option<Hint>,
}

/// A value and the revision that wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versioned {
    /// The bytes.
    #[serde(rename = "v")]
    pub value: Bytes,
    /// The revision at which the key was last written.
    #[serde(rename = "m")]
    pub mod_revision: u64,
}

/// How old a read may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Age {
    /// Everything that was answered before the read began is in it.
    #[serde(rename = "l")]
    Linearizable,
    /// Everything that was answered so many milliseconds before is in it.
    #[serde(rename = "m")]
    AtMostMs(u64),
    /// The node cannot tell.
    #[serde(rename = "u")]
    Unbounded,
}
