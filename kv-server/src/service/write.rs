//! Sessions and writes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kv_client::api::{
    CloseRequest, KvError, OpenRequest, Opened, ResolveRequest, Resolved, Unknowable, WriteAnswer,
    WriteRequest,
};
use raft_node::outcome::OpenOutcome;
use rpc_core::runtime::Instant;

use super::{Running, Service};
use crate::{proposal, refusal};

/// Sessions that are being closed at once; above it a close is left to the session's expiry.
const CLOSES_MAX: usize = 1_024;
/// How long a close may take.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(5);

pub(super) async fn open_session(
    running: &Running,
    request: OpenRequest,
    lifetime: Duration,
    deadline: Instant,
) -> Result<Opened, KvError> {
    let cluster = running.cluster()?;
    match running.node.open_session(request.nonce, deadline).await {
        OpenOutcome::Opened { session } => {
            let lifetime_ms = u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX);
            Ok(Opened { session, cluster, lifetime_ms, leader: running.other_leader() })
        }
        OpenOutcome::SessionsFull => Err(KvError::SessionsFull),
        OpenOutcome::Refused(refused) => Err(refusal::of(refused, &running.node)),
        OpenOutcome::Unknown => Err(KvError::Unknown),
    }
}

/// Answers at once and closes in the node's own time, also when the caller is gone by then. A session that could not be
/// closed expires.
pub(super) async fn close_session(
    service: &Service,
    running: &Running,
    request: CloseRequest,
) -> Result<(), KvError> {
    same_cluster(running, request.cluster)?;
    let closing = Arc::clone(&service.closing);
    if closing.fetch_add(1, Ordering::Relaxed) >= CLOSES_MAX {
        closing.fetch_sub(1, Ordering::Relaxed);
        return Ok(());
    }
    let (node, deadline) = (running.node.clone(), service.runtime.now() + CLOSE_TIME_MAX);
    service.runtime.spawn("session close", async move {
        let outcome = node.close_session(request.session, deadline).await;
        tracing::debug!(session = request.session, ?outcome, "session closed");
        closing.fetch_sub(1, Ordering::Relaxed);
    });
    Ok(())
}

pub(super) async fn write(
    running: &Running,
    request: WriteRequest,
    deadline: Instant,
) -> Result<WriteAnswer, KvError> {
    same_cluster(running, request.cluster)?;
    let reply = proposal::write(&running.node, request, deadline).await?;
    Ok(WriteAnswer { reply, leader: running.other_leader() })
}

pub(super) async fn resolve(
    running: &Running,
    request: ResolveRequest,
    deadline: Instant,
) -> Result<Resolved, KvError> {
    match same_cluster(running, request.cluster) {
        Ok(()) => proposal::resolve(&running.node, request, deadline).await,
        Err(KvError::ForeignCluster { .. }) => Ok(Resolved::Unknowable(Unknowable::ForeignCluster)),
        Err(error) => Err(error),
    }
}

/// Session ids of two clusters may be equal: a request must name the cluster that it means.
fn same_cluster(running: &Running, named: u128) -> Result<(), KvError> {
    let cluster = running.cluster()?;
    if cluster == named { Ok(()) } else { Err(KvError::ForeignCluster { cluster }) }
}
