//! The client: puts, gets, deletes and compare-and-sets with honest outcomes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rpc_core::peer::Peer;
use rpc_core::rpc::{Call, CallError, Outcome as CallOutcome};
use rpc_core::runtime::{Instant, Runtime};

use crate::api::{
    self, ChangeError, Changed, CloseRequest, Consistency, Expect, GetReply, GetRequest, KvClient, KvError,
    MemberChange, OpenRequest, ResolveRequest, Resolved, WriteOp, WriteRequest,
};
use crate::endpoint::{Endpoint, NoNames, Resolver};
use crate::inner::{Inner, Parts};
use crate::ledger::{Ledger, Verdict, verdict_of, verdict_of_transport};
use crate::outcome::{Outcome, Reason, Refusal};
use crate::pursuit::{Step, pursue};
use crate::session::{Full, SessionId};
use crate::token::Token;

/// How long a request may take unless told otherwise.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);

/// A client of one cluster. Cheap to clone; many tasks may share it, their writes are pipelined in one session.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
    timeout: Duration,
    trace: Option<u128>,
}

/// A client in the making.
pub struct Builder {
    runtime: Runtime,
    peer: Peer,
    endpoints: Vec<Endpoint>,
    resolver: Arc<dyn Resolver>,
    timeout: Duration,
    follow_leader: bool,
}

impl Client {
    /// Starts building a client that speaks through `peer`.
    pub fn builder(runtime: Runtime, peer: Peer) -> Builder {
        Builder {
            runtime,
            peer,
            endpoints: Vec::new(),
            resolver: Arc::new(NoNames),
            timeout: TIMEOUT_DEFAULT,
            follow_leader: true,
        }
    }

    /// The same client with another time for each request, retries included.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { timeout, ..self.clone() }
    }

    /// The same client, whose requests carry this trace id: the nodes remember for a while what they did for them
    /// ([`api::Kv::trace`]).
    #[must_use]
    pub fn with_trace(&self, trace: u128) -> Self {
        Self { trace: Some(trace), ..self.clone() }
    }

    /// How long each request may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Sets a key, whatever it holds.
    pub async fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Outcome {
        self.write(WriteOp::Put { key: key.into(), value: value.into() }).await
    }

    /// Removes a key; for one that is not there the answer says so.
    pub async fn delete(&self, key: impl Into<Bytes>) -> Outcome {
        self.write(WriteOp::Delete { key: key.into() }).await
    }

    /// Sets a key if the condition holds.
    pub async fn cas(&self, key: impl Into<Bytes>, expect: Expect, value: impl Into<Bytes>) -> Outcome {
        self.write(WriteOp::Cas { key: key.into(), expect, value: value.into() }).await
    }

    /// Writes, exactly once however often it has to be sent.
    pub async fn write(&self, op: WriteOp) -> Outcome {
        if let Err(error) = op.check() {
            return Outcome::NotCommitted(Reason::Refused(error.into()));
        }
        let deadline = self.deadline();
        loop {
            let write = match self.begin_by(deadline).await {
                Ok(write) => write,
                Err(refusal) => return Outcome::NotCommitted(Reason::Refused(refusal)),
            };
            let id = write.id;
            let outcome = write.send_checked(op.clone()).await;
            let is_session_gone = matches!(
                outcome,
                Outcome::NotCommitted(Reason::Refused(Refusal::Node(
                    KvError::SessionExpired | KvError::ForeignCluster { .. }
                )))
            );
            if !is_session_gone || self.inner.runtime().now() >= deadline {
                return outcome;
            }
            // Certainly not committed, and only for want of a session: a new one is free to try.
            self.inner.sessions().forget(id);
        }
    }

    /// Takes a (session, sequence) for one write, whose token is then known before anything is sent. The client's
    /// timeout counts from here.
    ///
    /// # Errors
    /// When no session could be opened in time.
    pub async fn begin(&self) -> Result<Write, Refusal> {
        self.begin_by(self.deadline()).await
    }

    /// Settles what became of a write: it was committed, or it is rolled back for ever, or that cannot be known any
    /// more.
    ///
    /// # Errors
    /// When no quorum answered in time. It may be asked again.
    pub async fn resolve(&self, token: &Token) -> Result<Resolved, Refusal> {
        let id = SessionId { cluster: token.cluster, session: token.session };
        let inner = &self.inner;
        let call = |node: &KvClient| {
            let floor = inner.sessions().floor(id);
            node.resolve(ResolveRequest {
                cluster: token.cluster,
                session: token.session,
                sequence: token.sequence,
                floor,
            })
        };
        let resolved = self.ask(self.deadline(), call, |_| ()).await?;
        if matches!(resolved, Resolved::Settled(_)) {
            inner.sessions().settle(id, token.sequence);
            inner.room().notify_waiters();
        }
        Ok(resolved)
    }

    /// Reads a key: the answer contains every write that was answered before.
    ///
    /// # Errors
    /// When the read was not served in time; it is never answered stale.
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<GetReply, Refusal> {
        self.read(key.into(), Consistency::Linearizable).await
    }

    /// Reads what one node has applied; the answer says how old that may be.
    ///
    /// # Errors
    /// When no node answered in time.
    pub async fn get_stale(&self, key: impl Into<Bytes>) -> Result<GetReply, Refusal> {
        self.read(key.into(), Consistency::Stale).await
    }

    /// Changes who is a member, or who leads.
    ///
    /// # Errors
    /// Why not; it may be repeated.
    pub async fn member_change(&self, change: MemberChange) -> Result<Changed, CallError<ChangeError>> {
        let mut last = None;
        let judge = |_, answer: Result<Changed, CallError<ChangeError>>| {
            let verdict = match &answer {
                Err(CallError::Method(ChangeError::Refused(error))) => {
                    self.inner.follow(error.leader());
                    if error.is_definite() { verdict_of(error) } else { Verdict::Stop }
                }
                Err(CallError::Rpc(error)) if error.outcome == CallOutcome::NotExecuted => {
                    verdict_of_transport(error)
                }
                _ => return Step::Done(answer),
            };
            last = answer.err();
            Step::Go(verdict)
        };
        let changed = pursue(
            &self.inner,
            self.deadline(),
            |node| self.traced(node.member_change(change.clone())),
            judge,
        )
        .await;
        changed.unwrap_or_else(|| {
            Err(last.unwrap_or(CallError::Method(ChangeError::Refused(KvError::Deadline))))
        })
    }

    /// The endpoints that the client was given.
    pub fn endpoints(&self) -> &[Endpoint] {
        self.inner.endpoints()
    }

    /// The addresses of `name` (`host:port`) now, those that this client's socket can reach.
    ///
    /// # Errors
    /// When the name cannot be resolved.
    pub async fn addresses(&self, name: &str) -> std::io::Result<Vec<SocketAddr>> {
        self.inner.resolve(name).await
    }

    /// One node itself, past all routing and retrying: for what is asked of exactly one node.
    pub fn node(&self, address: SocketAddr) -> KvClient {
        self.inner.node(address)
    }

    /// Ends the client's sessions at the servers, those that hold no write of unknown outcome: the others live on, so
    /// that tokens stay good. Waits for the answers, at most `patience`. Writes may go on, in new sessions.
    pub async fn close(&self, patience: Duration) {
        let sessions = self.inner.sessions().take_settled();
        let deadline = self.inner.runtime().now() + patience;
        for SessionId { cluster, session } in sessions {
            let request = CloseRequest { cluster, session };
            let Some(address) = self.inner.router().choose(self.inner.runtime().now(), &[]) else { return };
            // Lazy: a session that is not closed expires.
            let _ = self.inner.node(address).close_session(request).deadline(deadline).once().await;
        }
    }

    fn traced<R, E>(&self, call: Call<R, E>) -> Call<R, E> {
        match self.trace {
            Some(trace) => call.trace(trace),
            None => call,
        }
    }

    fn deadline(&self) -> Instant {
        self.inner.runtime().now() + self.timeout
    }

    async fn read(&self, key: Bytes, consistency: Consistency) -> Result<GetReply, Refusal> {
        api::check_key(&key)?;
        let request = GetRequest { key, consistency };
        let call = |node: &KvClient| node.get(request.clone());
        self.ask(self.deadline(), call, |reply| self.inner.follow(reply.leader.as_ref())).await
    }

    async fn begin_by(&self, deadline: Instant) -> Result<Write, Refusal> {
        let inner = &self.inner;
        loop {
            match self.try_begin(deadline) {
                Ok(write) => return Ok(write),
                Err(Full::Wait) => {
                    let mut room = std::pin::pin!(inner.room().notified());
                    // From here on no notification is missed; the last look has to come after it.
                    room.as_mut().enable();
                    if let Ok(write) = self.try_begin(deadline) {
                        return Ok(write);
                    }
                    let waited = inner.runtime().timeout_at(deadline, room).await;
                    waited.map_err(|_| Refusal::Node(KvError::RecordsFull))?;
                }
                Err(Full::Open) => {
                    let turn = inner.runtime().timeout_at(deadline, inner.opening().lock()).await;
                    let _turn = turn.map_err(|_| Refusal::Node(KvError::Deadline))?;
                    // Whoever had the turn before may have opened one.
                    match self.try_begin(deadline) {
                        Ok(write) => return Ok(write),
                        Err(Full::Open) => self.open(deadline).await?,
                        Err(Full::Wait) => {}
                    }
                }
            }
        }
    }

    fn try_begin(&self, deadline: Instant) -> Result<Write, Full> {
        let (id, token) = {
            let mut sessions = self.inner.sessions();
            let (id, sequence) = sessions.reserve()?;
            (id, sessions.token(id, sequence))
        };
        Ok(Write { client: self.clone(), deadline, id, token, end: End::NeverSent })
    }

    async fn open(&self, deadline: Instant) -> Result<(), Refusal> {
        let inner = &self.inner;
        let nonce = inner.sessions().nonce(|| inner.runtime().random_u128());
        let request = OpenRequest { nonce };
        let call = |node: &KvClient| node.open_session(request.clone());
        let opened = self.ask(deadline, call, |opened| inner.follow(opened.leader.as_ref())).await?;
        inner.sessions().add(&opened, inner.runtime().wall_ms());
        Ok(())
    }

    /// Asks what may be asked any number of times, until it is answered.
    async fn ask<R>(
        &self,
        deadline: Instant,
        call: impl Fn(&KvClient) -> Call<R, KvError>,
        on_answer: impl Fn(&R),
    ) -> Result<R, Refusal>
    where
        R: serde::de::DeserializeOwned + Send + 'static,
    {
        let (mut refusal, mut silence) = (None, None);
        let judge = |_, answer: Result<R, CallError<KvError>>| match answer {
            Ok(answer) => {
                on_answer(&answer);
                Step::Done(answer)
            }
            Err(CallError::Method(error)) => {
                self.inner.follow(error.leader());
                let verdict = verdict_of(&error);
                refusal = Some(Refusal::Node(error));
                Step::Go(verdict)
            }
            Err(CallError::Rpc(error)) => {
                let verdict = verdict_of_transport(&error);
                silence = Some(error.message);
                Step::Go(verdict)
            }
        };
        let answer = pursue(&self.inner, deadline, |node| self.traced(call(node)), judge).await;
        // What a node said tells more than that another one said nothing.
        answer.ok_or_else(|| refusal.unwrap_or_else(|| unreachable(&self.inner, silence)))
    }
}

/// One write that has its (session, sequence). Dropped before its outcome is known, it stays unknown: its token can be
/// resolved; dropped before it was sent, it never was.
#[derive(Debug)]
pub struct Write {
    client: Client,
    deadline: Instant,
    id: SessionId,
    token: Token,
    end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    NeverSent,
    Open,
    Settled,
}

impl Write {
    /// What names the write for ever.
    pub fn token(&self) -> Token {
        self.token
    }

    /// Sends it, as often as needed.
    pub async fn send(self, op: WriteOp) -> Outcome {
        if let Err(error) = op.check() {
            return Outcome::NotCommitted(Reason::Refused(error.into()));
        }
        self.send_checked(op).await
    }

    async fn send_checked(mut self, op: WriteOp) -> Outcome {
        let deadline = self.deadline;
        let (client, inner) = (self.client.clone(), Arc::clone(&self.client.inner));
        let SessionId { cluster, session } = self.id;
        let sequence = self.token.sequence;
        self.end = End::Open;
        let call = |node: &KvClient| {
            let floor = inner.sessions().floor(self.id).clamp(1, sequence);
            client.traced(node.write(WriteRequest { cluster, session, sequence, floor, op: op.clone() }))
        };
        let mut ledger = Ledger::default();
        let judge = |_, answer: Result<api::WriteAnswer, CallError<KvError>>| {
            match &answer {
                Ok(answer) => inner.follow(answer.leader.as_ref()),
                Err(CallError::Method(error)) => inner.follow(error.leader()),
                Err(CallError::Rpc(_)) => {}
            }
            match ledger.note(answer) {
                Verdict::Settled(reply) => Step::Done(Outcome::from(reply)),
                verdict => Step::Go(verdict),
            }
        };
        let settled = pursue(&inner, deadline, call, judge).await;
        let outcome = match settled {
            Some(outcome) => {
                inner.sessions().used(self.id, inner.runtime().wall_ms());
                outcome
            }
            None => ledger.conclude(self.token, |last| unreachable(&inner, last)),
        };
        if !matches!(outcome, Outcome::Unknown(_)) {
            self.end = End::Settled;
        }
        outcome
    }
}

impl Drop for Write {
    fn drop(&mut self) {
        let inner = &self.client.inner;
        let mut sessions = inner.sessions();
        match self.end {
            End::NeverSent | End::Settled => sessions.settle(self.id, self.token.sequence),
            End::Open => sessions.give_up(self.id, self.token.sequence),
        }
        drop(sessions);
        inner.room().notify_waiters();
    }
}

/// Nobody was reached; `last` says why the last one was not.
fn unreachable(inner: &Inner, last: Option<String>) -> Refusal {
    let names: Vec<_> = inner.endpoints().iter().map(Endpoint::as_str).collect();
    let names = names.join(", ");
    let detail = match last {
        Some(last) => format!("nobody of {names} answered ({last})"),
        None => format!("nobody of {names} could be asked: no address is known"),
    };
    Refusal::Unreachable { detail }
}

impl Builder {
    /// The nodes to ask, in this order; one that can be reached suffices.
    #[must_use]
    pub fn endpoints(mut self, endpoints: impl IntoIterator<Item = Endpoint>) -> Self {
        self.endpoints = endpoints.into_iter().collect();
        self
    }

    /// How names become addresses; without it only IP addresses are understood.
    #[must_use]
    pub fn resolver(mut self, resolver: Arc<dyn Resolver>) -> Self {
        self.resolver = resolver;
        self
    }

    /// How long each request may take, retries included; [`TIMEOUT_DEFAULT`] unless set.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Whether to go on with the leader that answers name (the default), or to ask the given endpoints only.
    #[must_use]
    pub fn follow_leader(mut self, follow_leader: bool) -> Self {
        self.follow_leader = follow_leader;
        self
    }

    /// The client. It connects when it is first used.
    pub fn build(self) -> Client {
        let Self { runtime, peer, endpoints, resolver, timeout, follow_leader } = self;
        let inner = Inner::start(Parts { runtime, peer, endpoints, resolver, follow_leader });
        Client { inner, timeout, trace: None }
    }
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}
