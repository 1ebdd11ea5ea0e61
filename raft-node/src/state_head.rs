//! The replicated state apart from its rows: what a save writes last and a snapshot begins with.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::command::SESSION_LIFETIME_MS_DEFAULT;
use crate::types::{LogId, StoredMembership};

/// Everything that applying can read beside rows and sessions. A durable format: CBOR with these names. Leases will
/// be rows of a class of their own and need nothing here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StateHead {
    /// The last applied entry.
    #[serde(rename = "a")]
    pub(crate) last_applied: Option<LogId>,
    /// The last applied membership.
    #[serde(rename = "m")]
    pub(crate) membership: StoredMembership,
    /// Log time in milliseconds since the Unix epoch: the greatest time that any applied command carried.
    #[serde(rename = "t")]
    pub(crate) time_ms: u64,
    /// Added to a log index to give a revision.
    #[serde(rename = "b")]
    pub(crate) revision_base: u64,
    /// The cluster's id, once it is founded.
    #[serde(rename = "c")]
    pub(crate) cluster: Option<u128>,
    /// How long an unused session lives, in milliseconds of log time.
    #[serde(rename = "l")]
    pub(crate) session_lifetime_ms: u64,
    /// The sum (modulo 2^128) of the hashes of all rows, sessions included.
    #[serde(rename = "h")]
    pub(crate) rows_hash: u128,
}

impl Default for StateHead {
    fn default() -> Self {
        Self {
            last_applied: None,
            membership: StoredMembership::default(),
            time_ms: 0,
            revision_base: 0,
            cluster: None,
            session_lifetime_ms: SESSION_LIFETIME_MS_DEFAULT,
            rows_hash: 0,
        }
    }
}

impl StateHead {
    /// The revision of the entry at `index`.
    pub(crate) fn revision(&self, index: u64) -> u64 {
        self.revision_base.saturating_add(index)
    }

    /// The bytes that the state hash covers, equal for equal heads.
    pub(crate) fn to_bytes(&self) -> Result<Bytes, String> {
        let mut bytes = Vec::with_capacity(256);
        ciborium::into_writer(self, &mut bytes).map_err(|error| error.to_string())?;
        Ok(bytes.into())
    }

    /// Reads what [`StateHead::to_bytes`] wrote.
    pub(crate) fn from_bytes(mut bytes: &[u8]) -> Result<Self, String> {
        let head = ciborium::from_reader(&mut bytes).map_err(|error| error.to_string())?;
        if !bytes.is_empty() {
            return Err(format!("{} bytes after the end", bytes.len()));
        }
        Ok(head)
    }
}
