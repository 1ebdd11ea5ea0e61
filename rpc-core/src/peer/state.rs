//! The endpoint with what waits on both sides of it: callers for answers, handlers for their end.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::roster::Roster;
use super::waiting::Waiting;
use crate::endpoint::{CallId, ConnId, Endpoint};
use crate::rpc::RpcError;
use crate::rpc::registry::Table;
use crate::rpc::session::Session;
use crate::runtime::Task;

/// Everything that changes while a peer runs.
pub(super) struct State {
    pub(super) endpoint: Endpoint,
    /// What is served; swapped as a whole.
    pub(super) methods: Arc<Table>,
    /// The connections that we made.
    pub(super) outgoing: BTreeMap<SocketAddr, ConnId>,
    /// Callers that wait for an answer.
    pub(super) waiting: Waiting,
    /// Handlers that run.
    pub(super) serving: BTreeMap<(ConnId, CallId), Task<()>>,
    /// What travels beside the bodies of connections, where anything does.
    pub(super) sessions: BTreeMap<ConnId, Arc<Session>>,
    /// Sessions of lost connections, to be ended without the lock.
    pub(super) lost_sessions: Vec<(Arc<Session>, RpcError)>,
    pub(super) roster: Roster,
    pub(super) draining: bool,
    pub(super) closing: bool,
    pub(super) ended: bool,
}

impl State {
    pub(super) fn new(endpoint: Endpoint, methods: Table) -> Self {
        Self {
            endpoint,
            methods: Arc::new(methods),
            outgoing: BTreeMap::new(),
            waiting: Waiting::default(),
            serving: BTreeMap::new(),
            sessions: BTreeMap::new(),
            lost_sessions: Vec::new(),
            roster: Roster::new(),
            draining: false,
            closing: false,
            ended: false,
        }
    }

    /// Nothing is open in either direction and nothing is unacknowledged.
    pub(super) fn is_quiet(&self) -> bool {
        let notified = || self.sessions.values().all(|session| session.is_quiet());
        self.ended
            || (self.waiting.is_empty() && self.serving.is_empty() && self.endpoint.is_idle() && notified())
    }
}
