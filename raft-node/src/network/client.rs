//! openraft's view of the network: what it asks other members, as calls.
//!
//! Every failure is *unreachable* to openraft, which then backs off: rpc-core has already repeated what was lost. Three
//! clients go to each member, so that nothing waits behind what is less urgent: heartbeats in the control lane, entries
//! in the normal one, snapshots in the bulk lane.

use std::future::{Future, ready};
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use openraft::alias::VoteOf;
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::SnapshotOf;
use openraft::{OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use rpc_core::endpoint::Lane;
use rpc_core::rpc::CallError;
use rpc_core::runtime::Instant;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::messages::{self, Append, Appended, Denied, Stamped, StreamAppend, Transferred, Voted};
use super::{Network, Target, method};
use crate::freshness::Stamp;
use crate::identity::NodeName;
use crate::snapshot::SnapshotFile;
use crate::types::{LogId, Member, TypeConfig};

/// Appends of one stream on the way to a follower at once.
const WINDOW: usize = 4;
/// Heartbeats in a row that a member may miss before that is told.
const MISSES_TOLD: u32 = 10;
/// Parts of a snapshot on the way at once.
pub(crate) const SNAPSHOT_WINDOW: usize = 8;
/// Bytes in one part of a snapshot.
pub(crate) const SNAPSHOT_PART_SIZE: usize = 32 * 1024;
/// How long a follower may take for one message about a snapshot.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a follower may take to verify and install a snapshot.
const SNAPSHOT_INSTALL_TIMEOUT: Duration = Duration::from_secs(120);

/// Makes the clients of a [`Network`].
pub(crate) struct Clients(pub(crate) Arc<Network>);

impl RaftNetworkFactory<TypeConfig> for Clients {
    type Network = Client;

    async fn new_client(&mut self, id: u64, member: &Member) -> Client {
        self.client(id, member, Lane::Normal)
    }

    async fn new_heartbeat_client(&mut self, id: u64, member: &Member) -> Client {
        self.client(id, member, Lane::Control)
    }

    async fn new_snapshot_client(&mut self, id: u64, member: &Member) -> Client {
        self.client(id, member, Lane::Bulk)
    }
}

impl Clients {
    fn client(&self, id: u64, member: &Member, lane: Lane) -> Client {
        let name = NodeName { id, incarnation: member.incarnation };
        let target = Target { name, address: member.address.clone() };
        Client {
            network: Arc::clone(&self.0),
            target,
            lane,
            misses: AtomicU32::new(0),
            stamp: Mutex::new(None),
        }
    }
}

/// Calls one member in one lane.
pub(crate) struct Client {
    network: Arc<Network>,
    target: Target,
    lane: Lane,
    /// Heartbeats in a row that were not answered.
    misses: AtomicU32,
    /// When the member answered last, by its own clock.
    stamp: Mutex<Option<Stamp>>,
}

type Failed = RPCError<TypeConfig>;

impl Client {
    fn after(&self, timeout: Duration) -> Instant {
        self.network.runtime.now() + timeout
    }

    async fn call<Q: Serialize, R: DeserializeOwned + Send + 'static>(
        &self,
        method: &str,
        lane: Lane,
        timeout: Duration,
        body: Q,
    ) -> Result<R, CallError<Denied>> {
        self.network.call(&self.target, method, lane, self.after(timeout), body).await
    }

    fn unreachable(&self, error: &CallError<Denied>) -> Unreachable<TypeConfig> {
        Unreachable::from_string(format_args!(
            "node {} at {}: {error}",
            self.target.name.id, self.target.address
        ))
    }

    /// Tells when the member has not answered [`MISSES_TOLD`] heartbeats in a row, and why, and when it answers again.
    fn notice(&self, answer: Result<&Stamped, &CallError<Denied>>) {
        let (id, address) = (self.target.name.id, &self.target.address);
        match answer {
            Ok(_) if self.misses.swap(0, Ordering::Relaxed) >= MISSES_TOLD => {
                tracing::info!(member = id, address, "member answers again");
            }
            Ok(_) => {}
            Err(error) if self.misses.fetch_add(1, Ordering::Relaxed) + 1 == MISSES_TOLD => {
                tracing::warn!(member = id, address, %error, "member does not answer");
            }
            Err(_) => {}
        }
    }

    /// The follower's answer to an append, as openraft expects it in a stream.
    async fn append(
        &self,
        place: Option<(u64, u64)>,
        request: AppendEntriesRequest<TypeConfig>,
    ) -> Result<StreamAppendResult<TypeConfig>, Failed> {
        let append = Append {
            vote: request.vote.into(),
            previous: request.prev_log_id.map(Into::into),
            commit: request.leader_commit.map(Into::into),
            entries: request.entries.into_iter().map(Into::into).collect(),
            known: self.network.known(),
            stamp: *self.stamp.lock().unwrap_or_else(PoisonError::into_inner),
        };
        let answer = match place {
            Some((stream, sequence)) => {
                let append = StreamAppend { stream, sequence, append };
                self.call(method::APPEND, Lane::Normal, self.network.timers.append_timeout(), append).await
            }
            None => {
                // A little less than openraft waits, to see the answer to it.
                let timeout = self.network.timers.heartbeat * 9 / 10;
                let answer = self.call(method::HEARTBEAT, Lane::Control, timeout, append).await;
                self.notice(answer.as_ref());
                answer
            }
        };
        let answer = answer.map(|Stamped(appended, stamp)| {
            *self.stamp.lock().unwrap_or_else(PoisonError::into_inner) = Some(stamp);
            appended
        });
        match answer {
            Ok(Appended::Matching(place)) => Ok(Ok(place.map(LogId::from))),
            Ok(Appended::Conflict(place)) => Ok(Err(StreamAppendError::Conflict(place.into()))),
            Ok(Appended::HigherVote(vote)) => Ok(Err(StreamAppendError::HigherVote(vote.into()))),
            Err(error) => Err(self.unreachable(&error).into()),
        }
    }

    async fn ask_vote(
        &self,
        method: &str,
        request: VoteRequest<TypeConfig>,
        timeout: Duration,
    ) -> Result<VoteResponse<TypeConfig>, Failed> {
        let request = messages::VoteRequest {
            vote: request.vote.into(),
            last: request.last_log_id.map(Into::into),
            transfer: request.leadership_transfer,
        };
        let voted: Result<Voted, _> = self.call(method, Lane::Control, timeout, request).await;
        let Voted { vote, granted, last } = voted.map_err(|error| self.unreachable(&error))?;
        Ok(VoteResponse::new(VoteOf::<TypeConfig>::from(vote), last.map(LogId::from), granted))
    }

    /// Sends all of `file` that the follower does not hold, and has it installed; the follower's vote.
    async fn send_snapshot(
        &self,
        vote: VoteOf<TypeConfig>,
        file: &SnapshotFile,
    ) -> Result<VoteOf<TypeConfig>, StreamingError<TypeConfig>> {
        let offer = file.offer();
        let begin = messages::SnapshotBegin::from(offer);
        let mut received: u64 = self.snapshot(method::SNAPSHOT_BEGIN, SNAPSHOT_TIMEOUT, begin).await?;
        while received < offer.size {
            let before = received;
            let offsets = (received..offer.size).step_by(SNAPSHOT_PART_SIZE);
            let parts = futures_util::stream::iter(offsets).map(|offset| self.send_part(file, offset));
            let mut parts = pin!(parts.buffered(SNAPSHOT_WINDOW));
            while let Some(answer) = parts.next().await {
                received = answer?;
            }
            if received <= before {
                return Err(Unreachable::from_string("the follower takes no parts of the snapshot").into());
            }
        }
        let finish = messages::SnapshotFinish { name: offer.name.clone(), vote: vote.into() };
        let vote: messages::Ballot =
            self.snapshot(method::SNAPSHOT_FINISH, SNAPSHOT_INSTALL_TIMEOUT, finish).await?;
        Ok(vote.into())
    }

    async fn send_part(&self, file: &SnapshotFile, offset: u64) -> Result<u64, StreamingError<TypeConfig>> {
        let bytes = file.read(offset, SNAPSHOT_PART_SIZE).map_err(|error| NetworkError::new(&error))?;
        let part = messages::SnapshotPart { name: file.offer().name.clone(), offset, bytes };
        self.snapshot(method::SNAPSHOT_PART, SNAPSHOT_TIMEOUT, part).await
    }

    async fn snapshot<Q: Serialize, R: DeserializeOwned + Send + 'static>(
        &self,
        method: &str,
        timeout: Duration,
        body: Q,
    ) -> Result<R, StreamingError<TypeConfig>> {
        let answer = self.call(method, Lane::Bulk, timeout, body).await;
        answer.map_err(|error| self.unreachable(&error).into())
    }
}

impl RaftNetworkV2<TypeConfig> for Client {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, Failed> {
        Ok(self.append(None, request).await?.into())
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, Failed>>, Failed>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let client: &Self = self;
        let stream = (client.lane != Lane::Control).then(|| client.network.stream());
        let answers = input
            .enumerate()
            .map(move |(sequence, request)| {
                client.append(stream.map(|stream| (stream, sequence as u64)), request)
            })
            .buffered(WINDOW)
            .scan(false, |ended, answer| {
                // openraft begins a new stream after anything but a success.
                let item = (!*ended).then_some(answer);
                *ended |= !matches!(item, Some(Ok(Ok(_))));
                ready(item)
            });
        let answers: BoxStream<'s, _> = Box::pin(answers);
        Box::pin(ready(Ok(answers)))
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, Failed> {
        self.ask_vote(method::VOTE, request, option.hard_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, Failed> {
        self.ask_vote(method::PRE_VOTE, request, option.hard_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<TypeConfig>,
        snapshot: SnapshotOf<TypeConfig, SnapshotFile>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let mut cancel = pin!(cancel);
        tokio::select! {
            biased;
            closed = &mut cancel => Err(closed.into()),
            sent = self.send_snapshot(vote, &snapshot.snapshot) => sent.map(SnapshotResponse::new),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, Failed> {
        let transfer = messages::Transfer {
            from_leader: (*request.from_leader()).into(),
            to: *request.to_node_id(),
            last: request.last_log_id().copied().map(Into::into),
        };
        let answer = self.call(method::TRANSFER, Lane::Control, option.hard_ttl(), transfer).await;
        match answer.map_err(|error| self.unreachable(&error))? {
            Transferred::Accepted => Ok(Ok(())),
            Transferred::Refused(reason) => Err(Unreachable::from_string(reason).into()),
        }
    }
}
