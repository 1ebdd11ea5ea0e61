//! Sessions and writes.

use std::time::Duration;

use kv_client::api::{
    CloseRequest, KvError, OpenRequest, Opened, ResolveRequest, Resolved, Unknowable, WriteAnswer,
    WriteRequest,
};
use raft_node::outcome::{CloseOutcome, OpenOutcome};
use rpc_core::runtime::Instant;

use super::Running;
use crate::{proposal, refusal};

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

pub(super) async fn close_session(
    running: &Running,
    request: CloseRequest,
    deadline: Instant,
) -> Result<(), KvError> {
    same_cluster(running, request.cluster)?;
    match running.node.close_session(request.session, deadline).await {
        CloseOutcome::Closed => Ok(()),
        CloseOutcome::Refused(refused) => Err(refusal::of(refused, &running.node)),
        CloseOutcome::Unknown => Err(KvError::Unknown),
    }
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
