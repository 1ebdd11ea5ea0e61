//! A decoded request, as admission and authorization see it.

use kv_client::api::{KvError, WriteOp, check_key};

use crate::machine;

// A command that passes the limits of the contract must never be refused by the machine.
const _: () = assert!(kv_client::api::KEY_SIZE_MAX <= machine::KEY_SIZE_MAX);
const _: () = assert!(kv_client::api::VALUE_SIZE_MAX <= machine::VALUE_SIZE_MAX);

/// What a caller wants to do.
#[derive(Clone, Copy, Debug)]
pub(super) enum Operation<'a> {
    OpenSession,
    CloseSession,
    Write(&'a WriteOp),
    Resolve,
    Get(&'a [u8]),
    MemberChange,
    Snapshot,
    Connections,
    Faults,
}

impl Operation<'_> {
    /// The name of the method.
    pub(super) fn method(&self) -> &'static str {
        match self {
            Self::OpenSession => "open_session",
            Self::CloseSession => "close_session",
            Self::Write(_) => "write",
            Self::Resolve => "resolve",
            Self::Get(_) => "get",
            Self::MemberChange => "member_change",
            Self::Snapshot => "snapshot",
            Self::Connections => "connections",
            Self::Faults => "faults",
        }
    }

    /// Whether a node that is stopping refuses it.
    pub(super) fn is_client_work(&self) -> bool {
        !matches!(self, Self::Faults | Self::Connections)
    }

    /// Checks it against the limits of the contract.
    pub(super) fn check(&self) -> Result<(), KvError> {
        match self {
            Self::Write(op) => op.check(),
            Self::Get(key) => check_key(key),
            Self::OpenSession
            | Self::CloseSession
            | Self::Resolve
            | Self::MemberChange
            | Self::Snapshot
            | Self::Connections
            | Self::Faults => Ok(()),
        }
    }
}
