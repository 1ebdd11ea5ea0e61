//! Sessions: what makes a retry the same write.

use serde::{Deserialize, Serialize};

use super::Hint;

/// Opens a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenRequest {
    /// Random; repeated opens with the same nonce answer the same session.
    #[serde(rename = "n")]
    pub nonce: u128,
}

/// An open session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// Its id; never used again in this cluster.
    #[serde(rename = "s")]
    pub session: u64,
    /// The cluster that it belongs to.
    #[serde(rename = "c")]
    pub cluster: u128,
    /// How long it lives after its last use.
    #[serde(rename = "x")]
    pub lifetime_ms: u64,
    /// The leader, if it is not the node that answered.
    #[serde(rename = "l")]
    pub leader: Option<Hint>,
}

/// Ends a session: its records are dropped, so that its writes cannot be asked for any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloseRequest {
    /// The cluster that the session belongs to.
    #[serde(rename = "c")]
    pub cluster: u128,
    /// The session.
    #[serde(rename = "s")]
    pub session: u64,
}
