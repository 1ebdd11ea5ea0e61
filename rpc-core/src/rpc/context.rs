//! What a handler knows about the call it serves.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;

use super::call::Remote;
use super::meta::{IdempotencyKey, Meta, Trace};
use crate::endpoint::CallId;
use crate::runtime::{Instant, Runtime};
use crate::security::Identity;

/// What a handler knows about the call it serves. Cheap to clone. What is the same for all calls of a connection is that
/// of its [`Caller`], which it dereferences to.
#[derive(Clone, Debug)]
pub struct Ctx {
    from: Arc<Caller>,
    /// Names the call on its connection.
    pub call: CallId,
    /// When the caller stops waiting, on this node's clock.
    pub deadline: Instant,
    /// What came with the call beside its body, if anything did.
    pub meta: Option<Arc<Meta>>,
    /// The fencing token, while this call has exclusive access: larger than that of every access before. What is
    /// asked to act for this call (a disk, a device) should refuse who comes with a smaller one.
    pub fence: Option<u64>,
}

/// Who makes calls over one connection.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The address that the calls come from.
    pub address: SocketAddr,
    /// The random id that the calling process drew at its start.
    pub client_id: u128,
    /// What the caller has proved about itself.
    pub identity: Identity,
    /// The peer that calls: its services can be called back over the same connection.
    pub caller: Remote,
    /// Time, tasks and randomness for the handler.
    pub runtime: Runtime,
}

impl Ctx {
    /// A call that came from `from`, without anything beside its body.
    pub const fn new(from: Arc<Caller>, call: CallId, deadline: Instant) -> Self {
        Self { from, call, deadline, meta: None, fence: None }
    }

    /// Who makes the call.
    pub(crate) const fn from(&self) -> &Arc<Caller> {
        &self.from
    }

    /// The way of the call from its source, if it is traced. Calls of the handler carry it on by themselves.
    pub fn trace(&self) -> Option<&Trace> {
        self.meta.as_ref()?.trace.as_ref()
    }

    /// What makes repeated executions of this call one. Only methods that are declared to keep a table of such keys
    /// ([`MethodPolicy::keyed`](super::MethodPolicy::keyed)) are given one.
    pub fn idempotency_key(&self) -> Option<IdempotencyKey> {
        self.meta.as_ref()?.key
    }

    /// The application's own metadata under `key`.
    pub fn extra(&self, key: u64) -> Option<&Bytes> {
        self.meta.as_ref()?.extra.get(&key)
    }
}

impl Deref for Ctx {
    type Target = Caller;

    fn deref(&self) -> &Caller {
        &self.from
    }
}
