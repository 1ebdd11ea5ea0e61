//! Proposals: admitted, proposed or forwarded, proposed again as the same command when they are lost from sight, and
//! ended in an answer that is never more certain than what is known.
//!
//! An outcome belongs to (session, sequence): as soon as one attempt of a call may be in some log, no later refusal
//! makes it *not committed*. Proposing the same command again is safe, because the session table applies it once.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, ForwardReason, ForwardToLeader, RaftError};
use rpc_core::endpoint::Lane;
use rpc_core::rpc::{CallError, Outcome};
use rpc_core::runtime::Instant;

use crate::command::{Command, Record, Reply, Verdict};
use crate::life::{Life, Running};
use crate::machine::StateMachine;
use crate::network::messages::{Answer, Ask, Denied};
use crate::network::{Metrics, Target, method};
use crate::outcome::{Hint, Refusal, WriteOutcome};
use crate::plant;
use crate::spans::Step;
use crate::status::Phase;
use crate::types::{Proposal, TypeConfig};

/// Proposes commands on this node, or asks the leader to.
pub(crate) struct Proposals<S: StateMachine> {
    life: Arc<Life<S>>,
    count: AtomicUsize,
    bytes: AtomicUsize,
    closed: AtomicBool,
}

impl<S: StateMachine> Proposals<S> {
    pub(crate) fn new(life: Arc<Life<S>>) -> Self {
        let (count, bytes, closed) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
        Self { life, count, bytes, closed }
    }

    /// Refuses everything from now on.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Whether refusing has begun.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Completes when no proposal of this node is without an answer.
    pub(crate) async fn settled(&self) {
        while self.count.load(Ordering::SeqCst) > 0 {
            self.life.runtime.sleep(ROUTE_PAUSE).await;
        }
    }

    /// Gets `ask` answered through whoever leads, however often that changes, before `deadline`.
    pub(crate) async fn settle(&self, mut ask: Ask, deadline: Instant) -> Answer {
        let runtime = &self.life.runtime;
        let time_left = deadline - runtime.now();
        // The answer has to reach the caller, and a last resolve the log, before the deadline.
        let deadline = deadline - (time_left / 10).min(ANSWER_RESERVE);
        let resolve_at = deadline - (time_left / 4).min(self.life.config.timers.heartbeat * 2);
        let mut lost = false;
        loop {
            if let Ask::Write { session, sequence, floor, .. } = ask
                && lost
                && runtime.now() >= resolve_at
            {
                ask = Ask::Resolve { session, sequence, floor };
            }
            let until = if lost && matches!(ask, Ask::Write { .. }) { resolve_at } else { deadline };
            let answer = match self.route() {
                Ok(Route::Here) => self.propose(&ask, deadline).await,
                Ok(Route::There(running, leader)) => self.forward(&running, leader, &ask, until).await,
                Ok(Route::Nowhere) => Answer::Refused(self.nobody()),
                Err(_) if lost => return Answer::Lost,
                Err(refusal) => return Answer::Refused(refusal),
            };
            let late = runtime.now() + ROUTE_PAUSE >= deadline;
            match answer {
                Answer::Lost if late => return Answer::Lost,
                Answer::Lost => lost = true,
                Answer::Refused(Refusal::NotLeader { .. } | Refusal::NotMember) if !late => {}
                // Neither a refusal of this attempt nor a table that has forgotten says anything about an earlier one.
                Answer::Refused(_) | Answer::RecordsFull
                    if lost && !plant::REFUSED_AFTER_LOST.is_planted() =>
                {
                    return Answer::Lost;
                }
                Answer::SessionExpired if lost && matches!(ask, Ask::Write { .. }) => return Answer::Lost,
                settled => return settled,
            }
            self.await_leader((runtime.now() + ROUTE_PAUSE_MAX).min(until)).await;
        }
    }

    /// Proposes `ask` on this node, once.
    pub(crate) async fn propose(&self, ask: &Ask, deadline: Instant) -> Answer {
        let size = if let Ask::Write { body, .. } = ask { body.len() } else { 0 };
        let _admitted = match self.admit(size) {
            Ok(admitted) => admitted,
            Err(refusal) => return Answer::Refused(refusal),
        };
        let Some(running) = self.life.running() else { return Answer::Refused(Refusal::NotMember) };
        if self.life.host.cluster().is_none() {
            // The founding is the first command of the log.
            return Answer::Refused(Refusal::NotLeader { leader: None });
        }
        if self.life.runtime.now() >= deadline {
            return Answer::Refused(Refusal::Deadline);
        }
        // What settles or ends something may pass: it is small, and gives space back.
        if let (Ask::Write { .. } | Ask::Open { .. }, Some(space)) = (ask, self.life.shortage()) {
            return Answer::Refused(Refusal::DiskFull { free: space.free, reserve: space.reserve() });
        }
        let Ok(bytes) = command(ask, self.life.runtime.wall_ms()).encode() else {
            return Answer::Refused(Refusal::TooLarge { size, max: self.life.config.limits.body_size_max });
        };
        let span = self.life.spans.begin(|| Step::Proposed);
        let answer = self.propose_bytes(running, bytes, deadline).await;
        span.end(answer.word());
        answer
    }

    /// Proposes an encoded command, once.
    pub(crate) async fn propose_bytes(
        &self,
        running: &Running<S>,
        bytes: Bytes,
        deadline: Instant,
    ) -> Answer {
        let written = running.raft.client_write(Proposal(bytes));
        match self.life.runtime.timeout_at(deadline, written).await {
            Ok(Ok(response)) => answer(response.data),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => {
                let elected_just_now = running.metrics.borrow_watched().last_quorum_acked.is_none();
                Answer::Refused(match refusal(forward) {
                    // A lease that never began has not ended.
                    Refusal::LeaseExpired if elected_just_now => Refusal::NotLeader { leader: None },
                    refusal => refusal,
                })
            }
            Err(_) if plant::LATE_MEANS_REFUSED.is_planted() => Answer::Refused(Refusal::Deadline),
            // Discarded entries may live on elsewhere; a fatal error says nothing about the entry; a proposal that is
            // late may still be committed.
            Ok(Err(_)) | Err(_) => Answer::Lost,
        }
    }

    /// Asks `leader`, for at most as long as it leads as far as this node knows.
    async fn forward(&self, running: &Running<S>, leader: Target, ask: &Ask, deadline: Instant) -> Answer {
        let span = self.life.spans.begin(|| Step::Forwarded { to: leader.name.id });
        let answer = self.ask_leader(running, leader, ask, deadline).await;
        span.end(answer.word());
        answer
    }

    async fn ask_leader(&self, running: &Running<S>, leader: Target, ask: &Ask, deadline: Instant) -> Answer {
        let call = running.network.call(&leader, method::ASK, Lane::Normal, deadline, ask);
        let metrics = running.metrics.clone();
        let answer: Result<Answer, CallError<Denied>> = tokio::select! {
            biased;
            answer = call => answer,
            () = deposed(metrics, leader.name.id) => return Answer::Lost,
        };
        match answer {
            // It is not the one to ask (any more); another will be.
            Ok(Answer::Refused(Refusal::Draining | Refusal::NotMember)) => {
                Answer::Refused(Refusal::NotLeader { leader: None })
            }
            Ok(answer) => answer,
            Err(CallError::Method(_)) => Answer::Refused(Refusal::NotLeader { leader: None }),
            Err(CallError::Rpc(error)) if error.outcome == Outcome::NotExecuted => {
                Answer::Refused(Refusal::NotLeader { leader: None })
            }
            Err(CallError::Rpc(_)) => Answer::Lost,
        }
    }

    /// Where commands go now.
    ///
    /// # Errors
    /// When waiting would not help.
    pub(crate) fn route(&self) -> Result<Route<S>, Refusal> {
        if self.is_closed() {
            return Err(Refusal::Draining);
        }
        if matches!(*self.life.phase().borrow_watched(), Phase::Replaced { .. } | Phase::Stopped(_)) {
            return Err(Refusal::NotMember);
        }
        let Some(running) = self.life.running() else { return Ok(Route::Nowhere) };
        if running.metrics.borrow_watched().state == ServerState::Leader {
            return Ok(Route::Here);
        }
        Ok(match running.leader() {
            Some(leader) if leader.name.id != running.name.id => Route::There(running.clone(), leader),
            _ => Route::Nowhere,
        })
    }

    /// Why there is nobody to ask.
    pub(crate) fn nobody(&self) -> Refusal {
        match self.life.running() {
            Some(_) => Refusal::NotLeader { leader: None },
            None => Refusal::NotMember,
        }
    }

    /// Waits until somebody leads, at least a moment, at most until `deadline`.
    pub(crate) async fn await_leader(&self, deadline: Instant) {
        let runtime = &self.life.runtime;
        runtime.sleep_until((runtime.now() + ROUTE_PAUSE).min(deadline)).await;
        let led = async {
            let mut phase = self.life.phase();
            while self.life.running().is_none() {
                phase.changed().await?;
            }
            match self.life.running() {
                Some(running) => {
                    running.metrics.clone().wait_until(|it| it.current_leader.is_some()).await.map(drop)
                }
                None => Ok(()),
            }
        };
        // Whether somebody leads or the time is up, the next step is to look.
        let _ = runtime.timeout_at(deadline, led).await;
    }

    fn admit(&self, size: usize) -> Result<Admitted<'_, S>, Refusal> {
        let limits = &self.life.config.limits;
        if self.is_closed() {
            return Err(Refusal::Draining);
        }
        if size > limits.body_size_max {
            return Err(Refusal::TooLarge { size, max: limits.body_size_max });
        }
        let count = self.count.fetch_add(1, Ordering::SeqCst);
        let bytes = self.bytes.fetch_add(size, Ordering::SeqCst);
        let admitted = Admitted { proposals: self, size };
        if count >= limits.proposals_max || bytes + size > limits.proposal_bytes_max {
            return Err(Refusal::Busy);
        }
        Ok(admitted)
    }
}

impl<S: StateMachine> fmt::Debug for Proposals<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proposals")
    }
}

/// Where a command goes.
pub(crate) enum Route<S: StateMachine> {
    /// This node leads.
    Here,
    /// That one does.
    There(Running<S>, Target),
    /// Nobody does, as far as this node knows.
    Nowhere,
}

/// A place among the proposals in flight.
struct Admitted<'a, S: StateMachine> {
    proposals: &'a Proposals<S>,
    size: usize,
}

impl<S: StateMachine> Drop for Admitted<'_, S> {
    fn drop(&mut self) {
        self.proposals.count.fetch_sub(1, Ordering::SeqCst);
        self.proposals.bytes.fetch_sub(self.size, Ordering::SeqCst);
    }
}

/// Completes when this node hears of another leader than `leader`.
pub(crate) async fn deposed(mut metrics: Metrics, leader: u64) {
    // An error means that openraft ended; what was asked elsewhere may still be answered.
    let other = metrics.wait_until(|metrics| metrics.current_leader.is_some_and(|id| id != leader)).await;
    if other.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Why openraft did not append a proposal.
pub(crate) fn refusal(forward: ForwardToLeader<TypeConfig>) -> Refusal {
    match forward.reason {
        ForwardReason::LeaseExpired => Refusal::LeaseExpired,
        ForwardReason::NotLeader | ForwardReason::LeadershipTransfer => {
            let hint = |(id, member): (u64, crate::types::Member)| Hint { id, address: member.address };
            Refusal::NotLeader { leader: forward.leader_id.zip(forward.leader_node).map(hint) }
        }
    }
}

fn command(ask: &Ask, time_ms: u64) -> Command {
    match *ask {
        Ask::Open { nonce } => Command::Open { nonce, time_ms },
        Ask::Write { session, sequence, floor, ref body } => {
            Command::Write { session, sequence, floor, time_ms, body: body.clone() }
        }
        Ask::Resolve { session, sequence, floor } => Command::Resolve { session, sequence, floor, time_ms },
        Ask::Close { session } => Command::Close { session, time_ms },
    }
}

fn answer(reply: Reply) -> Answer {
    match reply {
        Reply::Opened { session } => Answer::Opened(session),
        Reply::SessionsFull => Answer::SessionsFull,
        Reply::Settled(Record { verdict, revision, detail }) => {
            Answer::Settled { applied: verdict == Verdict::Applied, revision, detail }
        }
        Reply::SessionExpired => Answer::SessionExpired,
        Reply::Stale => Answer::Stale,
        Reply::RecordsFull => Answer::RecordsFull,
        Reply::Closed => Answer::Closed,
        // Answers to what nobody asks in this way; the entry was committed.
        Reply::None | Reply::Founded { .. } | Reply::Expired { .. } => Answer::Lost,
    }
}

impl Answer {
    /// How it ended, for a trace.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Lost => "unknown",
            Self::Refused(Refusal::Busy) => "busy",
            Self::Refused(_) => "refused",
            _ => "answered",
        }
    }
}

impl From<Answer> for WriteOutcome {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Settled { applied, revision, detail } => {
                let verdict = if applied { Verdict::Applied } else { Verdict::RolledBack };
                Self::Settled(Record { verdict, revision, detail })
            }
            Answer::SessionExpired => Self::SessionExpired,
            Answer::Stale => Self::Stale,
            Answer::RecordsFull => Self::RecordsFull,
            Answer::Refused(refusal) => Self::Refused(refusal),
            Answer::Lost | Answer::Opened(_) | Answer::SessionsFull | Answer::Closed => Self::Unknown,
        }
    }
}

/// The most time kept for the answer's own way to the caller.
const ANSWER_RESERVE: Duration = Duration::from_millis(50);
/// The least pause before a command goes its way again.
const ROUTE_PAUSE: Duration = Duration::from_millis(5);
/// The longest pause while nobody leads.
const ROUTE_PAUSE_MAX: Duration = Duration::from_millis(100);
