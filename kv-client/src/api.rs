//! The contract between client and server: the service trait, and the types that travel. They are ours, versioned by
//! [`PROTOCOL`], and apart from the types of the log.
//!
//! Knows nothing of routing, retries or how a node does what it answers.
//!
//! **What an error means.** A method either answers, or fails with a [`KvError`]. All of them but
//! [`KvError::Unknown`] are *definite for this attempt*: the call that got it has no effect and never will. They say
//! nothing about other attempts of the same write: an outcome belongs to (session, sequence), and once one attempt
//! may have reached a proposer, only a [`WriteReply`] settles it.

mod admin;
mod error;
mod read;
mod service;
mod session;
#[cfg(test)]
mod tests;
mod write;

pub use admin::{
    ChangeError, Changed, Connection, Connections, ConnectionsRequest, FaultsReply, FaultsRequest, Health,
    LinkFault, Member, MemberChange, Role, SnapshotBytes, SnapshotOffer, SnapshotPart, Status, TraceRequest,
    TraceSpan, TraceStep, Traced, Version,
};
pub use error::{Hint, KvError, Limited};
pub use read::{Age, Consistency, GetReply, GetRequest, Versioned};
pub use service::{Kv, KvClient, kv_services};
pub use session::{CloseRequest, OpenRequest, Opened};
pub use write::{
    Expect, ResolveRequest, Resolved, Unknowable, WriteAnswer, WriteOp, WriteReply, WriteRequest, check_key,
    check_value,
};

/// The version of this contract. A server answers it in [`Version`]; types only grow within one version.
pub const PROTOCOL: u32 = 1;
/// The longest key in bytes; the shortest has one.
pub const KEY_SIZE_MAX: usize = 4 * 1024;
/// The largest value in bytes.
pub const VALUE_SIZE_MAX: usize = 1024 * 1024;
/// The sequences that one session may have at or above its floor: a write must satisfy
/// `sequence - floor < SEQUENCE_WINDOW`, or it is refused with [`KvError::RecordsFull`].
pub const SEQUENCE_WINDOW: u64 = 960;
