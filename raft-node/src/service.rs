//! What a node serves to the others: checks who speaks, and hands it to openraft or to what this crate adds.

mod snapshots;
mod streams;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use openraft::Snapshot;
use openraft::errors::RaftError;
use openraft::raft::{AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderRequest};
use openraft::type_config::alias::VoteOf;
use rpc_core::rpc::Services;
use rpc_core::rpc::registry::Ctx;
use serde::Serialize;
use serde::de::DeserializeOwned;

use self::snapshots::Incoming;
use self::streams::{StreamName, Streams};
use crate::formation::Introduction;
use crate::life::{Life, Running};
use crate::machine::StateMachine;
use crate::membership::replace_here;
use crate::network::messages::{
    Answer, Append, Appended, Ask, Ballot, Denied, Envelope, Header, ReadIndex, Replace, SnapshotBegin,
    SnapshotFinish, SnapshotPart, StreamAppend, Transfer, Transferred, VoteRequest, Voted,
};
use crate::network::{SERVICE, method};
use crate::proposals::Proposals;
use crate::reads;
use crate::replace::ReplaceError;
use crate::types::{LogId, TypeConfig};

/// The methods of this crate, below [`SERVICE`].
pub(crate) fn services<S: StateMachine>(life: &Arc<Life<S>>, proposals: &Arc<Proposals<S>>) -> Services {
    let served = Arc::new(Served {
        life: Arc::clone(life),
        streams: Streams::default(),
        incoming: Incoming::default(),
    });
    let proposals = Arc::clone(proposals);
    let methods = Services::new()
        .method(method::HELLO, {
            let life = Arc::clone(life);
            move |_, other: Introduction| {
                let life = Arc::clone(&life);
                async move {
                    let own = life.introduction(Some(&other));
                    life.hear(other);
                    Ok::<_, Denied>(own)
                }
            }
        })
        .method(method::ASSIGN, {
            let life = Arc::clone(life);
            move |_, envelope: Envelope<()>| {
                let life = Arc::clone(&life);
                async move { life.assign(envelope.header).await.map(|_| ()) }
            }
        });
    let methods = served.raft_methods(methods);
    let methods = served.serve(methods, method::ASK, move |_, ctx, _, ask: Ask| {
        let proposals = Arc::clone(&proposals);
        async move { Ok::<Answer, Denied>(proposals.propose(&ask, ctx.deadline).await) }
    });
    let methods = served.serve(methods, method::READ_INDEX, |_, ctx, (running, _), ()| async move {
        Ok::<ReadIndex, Denied>(reads::read_index(&running, &ctx.runtime, ctx.deadline).await)
    });
    let methods =
        served.serve(methods, method::REPLACE, |served, ctx, _, Replace { old, address }| async move {
            Ok::<Result<u64, ReplaceError>, Denied>(
                replace_here(&served.life, old, address, ctx.deadline).await,
            )
        });
    Services::new().nest(SERVICE, methods)
}

/// What the methods share.
struct Served<S: StateMachine> {
    life: Arc<Life<S>>,
    streams: Streams,
    incoming: Incoming,
}

/// The member that was called, and the header of the call.
type Called<S> = (Running<S>, Header);

impl<S: StateMachine> Served<S> {
    /// Adds a method whose messages travel in an envelope: `handler` is called once that was checked.
    fn serve<Q, R, F, Fut>(self: &Arc<Self>, services: Services, name: &str, handler: F) -> Services
    where
        Q: DeserializeOwned + Send + 'static,
        R: Serialize + Send + 'static,
        F: Fn(Arc<Self>, Ctx, Called<S>, Q) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<R, Denied>> + Send + 'static,
    {
        let served = Arc::clone(self);
        services.method(name, move |ctx: Ctx, envelope: Envelope<Q>| {
            let (served, handler) = (Arc::clone(&served), handler.clone());
            async move {
                let runtime = served.life.runtime.clone();
                let entered = async {
                    let running = served.life.enter(envelope.header).await?;
                    handler(Arc::clone(&served), ctx, (running, envelope.header), envelope.body).await
                };
                runtime.enter(entered).await
            }
        })
    }

    fn raft_methods(self: &Arc<Self>, services: Services) -> Services {
        let services =
            self.serve(services, method::APPEND, |served, ctx, called, append: StreamAppend| async move {
                served.append(&ctx, &called, append).await
            });
        let services =
            self.serve(services, method::HEARTBEAT, |served, _, (running, _), append: Append| async move {
                let request = served.receive(append)?;
                let (previous, last) = (request.prev_log_id, request.prev_log_id);
                let answer = running.raft.append_entries(request).await.map_err(stopped)?;
                Ok(appended(answer.into_stream_result(previous, last)))
            });
        let services =
            self.serve(services, method::VOTE, |_, _, (running, _), request: VoteRequest| async move {
                let answer = running.raft.vote(vote_request(request)).await.map_err(stopped)?;
                Ok(voted(answer))
            });
        let services =
            self.serve(services, method::PRE_VOTE, |_, _, (running, _), request: VoteRequest| async move {
                let answer = running.raft.pre_vote(vote_request(request)).await.map_err(stopped)?;
                Ok(voted(answer))
            });
        let services =
            self.serve(services, method::TRANSFER, |_, _, (running, _), transfer: Transfer| async move {
                let last = transfer.last.map(LogId::from);
                let request = TransferLeaderRequest::new(transfer.from_leader.into(), transfer.to, last);
                let answer =
                    running.raft.handle_transfer_leader(request).await.map_err(|_| Denied::NotRunning)?;
                Ok(answer
                    .map_or_else(|error| Transferred::Refused(error.to_string()), |()| Transferred::Accepted))
            });
        let services =
            self.serve(services, method::SNAPSHOT_BEGIN, |served, _, _, begin: SnapshotBegin| async move {
                served.incoming.begin(&served.life.host, begin).await
            });
        let services =
            self.serve(services, method::SNAPSHOT_PART, |served, _, _, part: SnapshotPart| async move {
                served.incoming.part(part).await
            });
        self.serve(
            services,
            method::SNAPSHOT_FINISH,
            |served, _, (running, _), finish: SnapshotFinish| async move {
                served.install(&running, finish).await
            },
        )
    }

    async fn append(
        &self,
        ctx: &Ctx,
        (running, header): &Called<S>,
        append: StreamAppend,
    ) -> Result<Appended, Denied> {
        let StreamAppend { stream, sequence, append } = append;
        let request = self.receive(append)?;
        let name = StreamName { node: header.from.id, process: ctx.client_id, stream };
        let raft = running.raft.clone();
        let verdict = self.streams.append(&self.life.runtime, name, sequence, request, |requests| {
            raft.stream_append(requests).map(Result::ok)
        });
        verdict.await.map(appended).ok_or(Denied::StreamOver)
    }

    /// An append as openraft knows it; what the leader says about its quorum is remembered.
    fn receive(&self, append: Append) -> Result<AppendEntriesRequest<TypeConfig>, Denied> {
        let entries: Result<Vec<_>, Denied> =
            append.entries.into_iter().map(|entry| entry.into_entry()).collect();
        let leader_commit = append.commit.map(LogId::from);
        if let Some(age) = append.quorum_ack_age_us {
            let (now, commit) = (self.life.runtime.now(), leader_commit.map(|id| id.index));
            self.life.freshness.hear(now, commit, Duration::from_micros(age));
        }
        Ok(AppendEntriesRequest {
            vote: append.vote.into(),
            prev_log_id: append.previous.map(LogId::from),
            entries: entries?,
            leader_commit,
        })
    }

    async fn install(&self, running: &Running<S>, finish: SnapshotFinish) -> Result<Ballot, Denied> {
        let (meta, snapshot) = self.incoming.finish(&finish.name).await?;
        let vote: VoteOf<TypeConfig> = finish.vote.into();
        self.life.runtime.trace(|| format!("install snapshot {}", finish.name));
        let installed = running.raft.install_full_snapshot(vote, Snapshot { meta, snapshot }).await;
        Ok(installed.map_err(|_| Denied::NotRunning)?.vote.into())
    }
}

fn appended(result: StreamAppendResult<TypeConfig>) -> Appended {
    match result {
        Ok(matching) => Appended::Matching(matching.map(Into::into)),
        Err(StreamAppendError::Conflict(place)) => Appended::Conflict(place.into()),
        Err(StreamAppendError::HigherVote(vote)) => Appended::HigherVote(vote.into()),
    }
}

fn vote_request(request: VoteRequest) -> openraft::raft::VoteRequest<TypeConfig> {
    openraft::raft::VoteRequest {
        vote: request.vote.into(),
        last_log_id: request.last.map(LogId::from),
        leadership_transfer: request.transfer,
    }
}

fn voted(response: openraft::raft::VoteResponse<TypeConfig>) -> Voted {
    Voted {
        vote: response.vote.into(),
        granted: response.vote_granted,
        last: response.last_log_id.map(Into::into),
    }
}

fn stopped(_: RaftError<TypeConfig>) -> Denied {
    Denied::NotRunning
}
