//! What a node serves to the others: checks who speaks, and hands it to openraft or to what this crate adds.

mod snapshots;
mod streams;

use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::StreamExt;
use openraft::Snapshot;
use openraft::errors::RaftError;
use openraft::raft::{AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderRequest};
use openraft::type_config::alias::VoteOf;
use rpc_core::rpc::Ctx;
use rpc_core::rpc::Services;
use serde::Serialize;
use serde::de::DeserializeOwned;

use self::snapshots::Incoming;
use self::streams::{StreamName, Streams};
use crate::change::Change;
use crate::formation::Introduction;
use crate::freshness::Clocks;
use crate::life::{Life, Running};
use crate::machine::StateMachine;
use crate::membership::change_here;
use crate::network::messages::{
    Append, Appended, Ask, Ballot, Denied, Envelope, Header, Known, LogEntry, SnapshotBegin, SnapshotFinish,
    SnapshotPart, Stamped, StreamAppend, Transfer, Transferred, VoteRequest, Voted,
};
use crate::network::{SERVICE, method};
use crate::plant;
use crate::proposals::Proposals;
use crate::reads;
use crate::spans::Step;
use crate::types::{LogId, TypeConfig};

/// The methods of this crate, below [`SERVICE`]. They do not keep the node alive: it is not running when it is gone.
pub(crate) fn services<S: StateMachine>(life: &Arc<Life<S>>, proposals: &Arc<Proposals<S>>) -> Services {
    let (life, proposals) = (Arc::downgrade(life), Arc::downgrade(proposals));
    let (streams, incoming) = (Arc::new(Streams::default()), Arc::new(Incoming::default()));
    let served = Served { life: life.clone() };
    let methods = Services::new()
        .method(method::HELLO, {
            let life = life.clone();
            move |_, other: Introduction| {
                let life = life.upgrade();
                async move {
                    let life = life.ok_or(Denied::NotRunning)?;
                    let own = life.introduction(Some(&other));
                    life.hear(other);
                    Ok::<_, Denied>(own)
                }
            }
        })
        .method(method::ASSIGN, move |_, envelope: Envelope<()>| {
            let life = life.upgrade();
            async move { life.ok_or(Denied::NotRunning)?.assign(envelope.header).await.map(|_| ()) }
        });
    let methods = served.appends(methods, streams);
    let methods = served.elections(methods);
    let methods = served.snapshots(methods, &incoming);
    let methods = served.serve(methods, method::ASK, move |ctx, called, ask: Ask| {
        let proposals = proposals.upgrade();
        async move {
            let span = called.life.spans.begin(|| served_for(method::ASK, &ctx));
            let answer = proposals.ok_or(Denied::NotRunning)?.propose(&ask, ctx.deadline).await;
            span.end(answer.word());
            Ok(answer)
        }
    });
    let methods = served.serve(methods, method::READ_INDEX, |ctx, called, ()| async move {
        let span = called.life.spans.begin(|| served_for(method::READ_INDEX, &ctx));
        let answer = reads::read_index(&called.running, &ctx.runtime, ctx.deadline).await;
        span.end(answer.word());
        Ok(answer)
    });
    let methods = served.serve(methods, method::CHANGE, |ctx, called, change: Change| async move {
        Ok(change_here(&called.life, change, ctx.deadline).await)
    });
    Services::new().nest(SERVICE, methods)
}

fn served_for(method: &str, ctx: &Ctx) -> Step {
    Step::Served { method: format!("{SERVICE}.{method}"), caller: ctx.address }
}

/// Whose methods these are.
struct Served<S: StateMachine> {
    life: Weak<Life<S>>,
}

/// A call that was checked: whom it reached, and its header.
struct Called<S: StateMachine> {
    life: Arc<Life<S>>,
    running: Running<S>,
    header: Header,
}

impl<S: StateMachine> Served<S> {
    /// Adds a method whose messages travel in an envelope: `handler` is called once that was checked.
    fn serve<Q, R, F, Fut>(&self, services: Services, name: &str, handler: F) -> Services
    where
        Q: DeserializeOwned + Send + 'static,
        R: Serialize + Send + 'static,
        F: Fn(Ctx, Called<S>, Q) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<R, Denied>> + Send + 'static,
    {
        let life = self.life.clone();
        services.method(name, move |ctx: Ctx, Envelope { header, body }: Envelope<Q>| {
            let (life, handler) = (life.upgrade(), handler.clone());
            async move {
                let life = life.ok_or(Denied::NotRunning)?;
                let runtime = life.runtime.clone();
                let handled = async {
                    let running = life.enter(header).await?;
                    handler(ctx, Called { life, running, header }, body).await
                };
                runtime.enter(handled).await
            }
        })
    }

    fn appends(&self, services: Services, streams: Arc<Streams>) -> Services {
        let services = self.serve(services, method::APPEND, move |ctx, called, append: StreamAppend| {
            let streams = Arc::clone(&streams);
            async move {
                let StreamAppend { stream, sequence, append } = append;
                let request = receive(&called.life, append)?;
                let name = StreamName { node: called.header.from.id, process: ctx.client_id, stream };
                let raft = called.running.raft;
                let verdict = streams.append(&called.life.runtime, name, sequence, request, |requests| {
                    raft.stream_append(requests).map(Result::ok)
                });
                let verdict = verdict.await.ok_or(Denied::StreamOver)?;
                Ok(stamped(&called.life, appended(verdict)))
            }
        });
        self.serve(services, method::HEARTBEAT, |_, called, append: Append| async move {
            let request = receive(&called.life, append)?;
            let (previous, last) = (request.prev_log_id, request.prev_log_id);
            let answer = called.running.raft.append_entries(request).await.map_err(stopped)?;
            Ok(stamped(&called.life, appended(answer.into_stream_result(previous, last))))
        })
    }

    fn elections(&self, services: Services) -> Services {
        let services = self.serve(services, method::VOTE, |_, called, request: VoteRequest| async move {
            Ok(voted(called.running.raft.vote(vote_request(request)).await.map_err(stopped)?))
        });
        let services = self.serve(services, method::PRE_VOTE, |_, called, request: VoteRequest| async move {
            Ok(voted(called.running.raft.pre_vote(vote_request(request)).await.map_err(stopped)?))
        });
        self.serve(services, method::TRANSFER, |_, called, transfer: Transfer| async move {
            let last = transfer.last.map(LogId::from);
            let request = TransferLeaderRequest::new(transfer.from_leader.into(), transfer.to, last);
            let answer = called.running.raft.handle_transfer_leader(request).await;
            let answer = answer.map_err(|_| Denied::NotRunning)?;
            Ok(answer
                .map_or_else(|error| Transferred::Refused(error.to_string()), |()| Transferred::Accepted))
        })
    }

    fn snapshots(&self, services: Services, incoming: &Arc<Incoming>) -> Services {
        let (begun, parts, finished) = (Arc::clone(incoming), Arc::clone(incoming), Arc::clone(incoming));
        let services =
            self.serve(services, method::SNAPSHOT_BEGIN, move |_, called, begin: SnapshotBegin| {
                let incoming = Arc::clone(&begun);
                async move { incoming.begin(&called.life.host, begin).await }
            });
        let services = self.serve(services, method::SNAPSHOT_PART, move |_, _, part: SnapshotPart| {
            let incoming = Arc::clone(&parts);
            async move { incoming.part(part).await }
        });
        self.serve(services, method::SNAPSHOT_FINISH, move |_, called, finish: SnapshotFinish| {
            let incoming = Arc::clone(&finished);
            async move {
                let (meta, snapshot) = incoming.finish(&finish.name).await?;
                let vote: VoteOf<TypeConfig> = finish.vote.into();
                called.life.runtime.trace(|| format!("install snapshot {}", finish.name));
                let installed =
                    called.running.raft.install_full_snapshot(vote, Snapshot { meta, snapshot }).await;
                Ok(Ballot::from(installed.map_err(|_| Denied::NotRunning)?.vote))
            }
        })
    }
}

/// An append as openraft knows it; what the leader says about its quorum is remembered.
fn receive<S: StateMachine>(
    life: &Life<S>,
    append: Append,
) -> Result<AppendEntriesRequest<TypeConfig>, Denied> {
    let entries: Result<Vec<_>, Denied> = append.entries.into_iter().map(LogEntry::into_entry).collect();
    let leader_commit = append.commit.map(LogId::from);
    if let (Some(Known { commit, age_us }), Some(stamp)) = (append.known, append.stamp) {
        let clocks = Clocks::of(&life.runtime);
        life.freshness.hear_since(clocks, stamp, Some(commit), Duration::from_micros(age_us));
    }
    Ok(AppendEntriesRequest {
        vote: append.vote.into(),
        prev_log_id: append.previous.map(LogId::from),
        entries: entries?,
        leader_commit,
    })
}

/// An answer, with the moment at which it is given.
fn stamped<S: StateMachine>(life: &Life<S>, appended: Appended) -> Stamped {
    Stamped(appended, life.freshness.stamp(Clocks::of(&life.runtime)))
}

fn appended(result: StreamAppendResult<TypeConfig>) -> Appended {
    match result {
        Ok(matching) => Appended::Matching(matching.map(Into::into)),
        Err(StreamAppendError::Conflict(place)) => Appended::Conflict(place.into()),
        Err(StreamAppendError::HigherVote(vote)) => Appended::HigherVote(vote.into()),
    }
}

fn vote_request(request: VoteRequest) -> openraft::raft::VoteRequest<TypeConfig> {
    let vote: VoteOf<TypeConfig> = request.vote.into();
    let mut last = request.last.map(LogId::from);
    if plant::VOTE_FOR_SHORTER_LOG.is_planted() {
        last = Some(LogId { leader_id: vote.leader_id, index: u64::MAX });
    }
    openraft::raft::VoteRequest { vote, last_log_id: last, leadership_transfer: request.transfer }
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
