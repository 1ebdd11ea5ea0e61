//! The sessions of a peer: one for each connection on which a service or a stream travels.

use std::sync::Arc;

use bytes::Bytes;

use super::Inner;
use super::channel::{Link, Target};
use super::state::State;
use crate::endpoint::{CallId, ConnId, LostReason};
use crate::rpc::context::Ctx;
use crate::rpc::dispatch;
use crate::rpc::handle::{Cargo, Carrier};
use crate::rpc::interceptor::Execution;
use crate::rpc::registry::Served;
use crate::rpc::session::{Host, Session};
use crate::rpc::{Code, MethodId, Outcome, RpcError};
use crate::runtime::BoxFuture;

/// Ends sessions of lost connections. Not under the peer's lock: services are dropped, whose destructors are not ours.
pub(super) fn end(lost: Vec<(Arc<Session>, RpcError)>) {
    for (session, error) in lost {
        session.end(&error);
    }
}

/// A connection as its session sees it.
struct Connection {
    inner: Arc<Inner>,
    conn: ConnId,
}

impl Host for Connection {
    fn keep(&self, keep: bool) {
        self.inner.lock().endpoint.keep(self.inner.runtime.now(), self.conn, keep);
        self.inner.doorbell.ring();
    }

    fn rest(&self) {
        self.inner.doorbell.ring();
    }

    fn method(&self, id: MethodId) -> Option<Arc<Served>> {
        self.inner.lock().methods.shared(id)
    }

    fn execute(&self, served: &Arc<Served>, ctx: Ctx, body: Bytes) -> BoxFuture<Execution> {
        dispatch::guarded(&self.inner.policy.interceptors, served, ctx, body)
    }
}

impl State {
    /// The session of a connection, begun now if there is none; `None` when the connection is gone.
    pub(super) fn session(&mut self, inner: &Arc<Inner>, conn: ConnId) -> Option<Arc<Session>> {
        if let Some(session) = self.sessions.get(&conn) {
            return Some(Arc::clone(session));
        }
        let address = self.endpoint.connection(conn)?.remote;
        let link = Link::new(Arc::clone(inner), Target::Connection { conn, address });
        let host = Connection { inner: Arc::clone(inner), conn };
        let session = Session::new(Arc::new(link), Arc::new(host));
        self.sessions.insert(conn, Arc::clone(&session));
        Some(session)
    }

    /// Enters what a call of ours carries.
    pub(super) fn pass(
        &mut self,
        inner: &Arc<Inner>,
        conn: ConnId,
        call: CallId,
        cargo: Cargo,
    ) -> Result<Option<(Carrier, Cargo)>, RpcError> {
        if cargo.is_empty() {
            return Ok(None);
        }
        let lost = || RpcError::not_executed(Code::ConnectionLost, "the connection is lost");
        let session = self.session(inner, conn).ok_or_else(lost)?;
        session.attach(call, false, &cargo)?;
        Ok(Some((session.carrier(), cargo)))
    }

    /// Puts the session of a connection that is lost aside, for [`end`].
    pub(super) fn lose_session(&mut self, conn: ConnId, reason: &LostReason) {
        if let Some(session) = self.sessions.remove(&conn) {
            let error = RpcError::new(Code::ConnectionLost, Outcome::Unknown, reason.to_string());
            self.lost_sessions.push((session, error));
        }
    }

    /// Puts all sessions aside, for [`end`]: the peer ends.
    pub(super) fn lose_sessions(&mut self) -> Vec<(Arc<Session>, RpcError)> {
        for conn in self.sessions.keys().copied().collect::<Vec<_>>() {
            self.lose_session(conn, &LostReason::LocalClose);
        }
        std::mem::take(&mut self.lost_sessions)
    }
}
