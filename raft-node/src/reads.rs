//! Reads: linearizable ones by an index that the leader vouches for, stale ones with their age.

use openraft::ReadPolicy;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{LinearizableReadError, RaftError};
use rpc_core::endpoint::Lane;
use rpc_core::rpc::CallError;
use rpc_core::runtime::{Instant, Runtime};

use crate::host::WaitError;
use crate::life::{Life, Running};
use crate::machine::StateMachine;
use crate::network::messages::{Denied, ReadIndex};
use crate::network::method;
use crate::outcome::{ReadError, Refusal};
use crate::plant;
use crate::proposals::{Proposals, Route, deposed, refusal};
use crate::spans::Step;

/// The index that a linearizable read on any node has to wait for, if this node leads and a quorum confirms it.
pub(crate) async fn read_index<S: StateMachine>(
    running: &Running<S>,
    runtime: &Runtime,
    deadline: Instant,
) -> ReadIndex {
    if plant::READ_WITHOUT_QUORUM.is_planted() {
        let applied = running.metrics.borrow_watched().last_applied;
        return ReadIndex::At(applied.map_or(0, |id| id.index));
    }
    let by_lease = plant::READ_BY_LEASE.is_planted();
    if !by_lease && !running.network.is_settled() {
        return ReadIndex::Refused(Refusal::LeaseExpired);
    }
    let policy = if by_lease { ReadPolicy::LeaseRead } else { ReadPolicy::ReadIndex };
    let confirmed = running.raft.get_read_linearizer(policy);
    match runtime.timeout_at(deadline, confirmed).await {
        Ok(Ok(linearizer)) => ReadIndex::At(linearizer.read_log_id().index()),
        Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)))) => {
            ReadIndex::Refused(refusal(forward))
        }
        Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)))) => {
            ReadIndex::Refused(Refusal::LeaseExpired)
        }
        Ok(Err(RaftError::Fatal(_))) => ReadIndex::Refused(Refusal::NotMember),
        Err(_) => ReadIndex::Refused(Refusal::Deadline),
    }
}

/// Waits until what this node has applied is fresh enough for a linearizable read that began now.
pub(crate) async fn catch_up<S: StateMachine>(
    life: &Life<S>,
    proposals: &Proposals<S>,
    deadline: Instant,
) -> Result<(), ReadError> {
    let runtime = &life.runtime;
    let index = loop {
        let answer = match proposals.route().map_err(ReadError::Refused)? {
            Route::Here => match life.running() {
                Some(running) => {
                    let span = life.spans.begin(|| Step::Confirmed);
                    let answer = read_index(running, runtime, deadline).await;
                    span.end(answer.word());
                    answer
                }
                None => ReadIndex::Refused(proposals.nobody()),
            },
            Route::There(running, leader) => {
                let span = life.spans.begin(|| Step::Forwarded { to: leader.name.id });
                let call = running.network.call(&leader, method::READ_INDEX, Lane::Normal, deadline, ());
                let answer: Result<ReadIndex, CallError<Denied>> = tokio::select! {
                    biased;
                    answer = call => answer,
                    () = deposed(running.metrics.clone(), leader.name.id) => continue,
                };
                // A read has no effect: whatever became of the call, it can be made again.
                let answer = answer.unwrap_or(ReadIndex::Refused(Refusal::NotLeader { leader: None }));
                span.end(answer.word());
                answer
            }
            Route::Nowhere => ReadIndex::Refused(proposals.nobody()),
        };
        match answer {
            ReadIndex::At(index) => break index,
            ReadIndex::Refused(Refusal::NotLeader { .. } | Refusal::NotMember)
                if runtime.now() < deadline =>
            {
                proposals.await_leader(deadline).await;
            }
            ReadIndex::Refused(refusal) => return Err(ReadError::Refused(refusal)),
        }
    };
    if plant::READ_BEFORE_APPLIED.is_planted() {
        return Ok(());
    }
    match runtime.timeout_at(deadline, life.host.wait_applied(index)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(WaitError::Full)) => Err(ReadError::Refused(Refusal::Busy)),
        Ok(Err(WaitError::Closed)) => Err(ReadError::Refused(Refusal::NotMember)),
        Err(_) => Err(ReadError::Deadline),
    }
}

impl ReadIndex {
    /// How it ended, for a trace.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::At(_) => "answered",
            Self::Refused(_) => "refused",
        }
    }
}
