//! What a node serves to clients: each method is decoded, admitted, done, and its outcome turned into an answer.
//!
//! Admission stands here, in one place for all methods: a draining or busy node says so before any work, limits are
//! checked and authorization is decided on the decoded [`Operation`]. What a method does stands in a module of its
//! kind. Knows neither packets nor sockets.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use kv_client::api::{
    ChangeError, Changed, CloseRequest, Connections, ConnectionsRequest, FaultsReply, FaultsRequest,
    GetReply, GetRequest, Health, Hint, Kv, KvError, MemberChange, OpenRequest, Opened, PROTOCOL,
    ResolveRequest, Resolved, SnapshotBytes, SnapshotOffer, SnapshotPart, Status, TraceRequest, Traced,
    Version, WriteAnswer, WriteRequest,
};
use raft_node::Node;
use raft_node::spans::Step;
use rpc_core::driver::fault::LinkFaults;
use rpc_core::peer::Peer;
use rpc_core::rpc::{Ctx, Never};
use rpc_core::runtime::{Instant, Runtime};
use tokio::sync::SetOnce;
use tracing::Instrument;

use crate::machine::KvMachine;
use crate::refusal;
use operation::Operation;

mod admin;
mod operation;
mod read;
mod write;

/// Limits and facts of a service.
#[derive(Clone, Debug)]
pub(crate) struct ServiceConfig {
    /// The configured node id, for logs.
    pub(crate) node_id: u64,
    /// Requests that are served at once; above it a request is answered busy before any work.
    pub(crate) requests_max: usize,
    /// How long an unused session lives.
    pub(crate) session_lifetime: Duration,
}

/// The service of one node.
pub(crate) struct Service {
    config: ServiceConfig,
    runtime: Runtime,
    started: Instant,
    /// Set where link faults were enabled at the start.
    faults: Option<LinkFaults>,
    /// Set as soon as the node runs; requests that come before wait for it.
    running: SetOnce<Running>,
    draining: AtomicBool,
    in_flight: AtomicUsize,
    /// Sessions that are being closed after their closer was answered.
    closing: Arc<AtomicUsize>,
    counts: Counts,
}

/// What a running node is made of.
pub(crate) struct Running {
    pub(crate) node: Node<KvMachine>,
    pub(crate) peer: Peer,
}

/// How requests ended since the start.
#[derive(Debug, Default)]
struct Counts {
    answered: AtomicU64,
    refused: AtomicU64,
    unknown: AtomicU64,
    busy: AtomicU64,
}

impl Service {
    pub(crate) fn new(config: ServiceConfig, runtime: Runtime, faults: Option<LinkFaults>) -> Self {
        Self {
            config,
            started: runtime.now(),
            runtime,
            faults,
            running: SetOnce::new(),
            draining: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            closing: Arc::default(),
            counts: Counts::default(),
        }
    }

    /// Begins to serve.
    pub(crate) fn start(&self, running: Running) {
        // A second start would be a bug of the one caller, and change nothing.
        let _ = self.running.set(running);
    }

    /// Refuses new requests from now on.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Lets a request in, or says why not. Nothing was done for a request that is not let in.
    async fn admit<'a>(&'a self, ctx: &Ctx, operation: Operation<'_>) -> Result<Admitted<'a>, KvError> {
        let method = operation.method();
        let permit = Permit::new(&self.in_flight);
        let decided = if permit.number > self.config.requests_max {
            Err(KvError::Busy { retry_after_ms: refusal::RETRY_AFTER_MS })
        } else if self.draining.load(Ordering::Relaxed) && operation.is_client_work() {
            Err(KvError::Draining)
        } else {
            operation.check().and_then(|()| self.authorize(ctx, &operation))
        };
        if let Err(error) = decided {
            self.counts.add(&error);
            tracing::debug!(node_id = self.config.node_id, method, client = %ctx.address, %error, "refused");
            return Err(error);
        }
        let running = self.running.wait().await;
        let deadline = answer_by(self.runtime.now(), ctx.deadline);
        let caller = ctx.address;
        Ok(Admitted { service: self, running, method, caller, deadline, _permit: permit })
    }

    /// Who may do what: the one place that decides. Callers are not told apart yet, so everybody may do everything
    /// but break links on a node that was not started for it.
    fn authorize(&self, _ctx: &Ctx, operation: &Operation<'_>) -> Result<(), KvError> {
        match operation {
            Operation::Faults if self.faults.is_none() => Err(KvError::Denied {
                reason: "link faults are not enabled on this node; start it with --enable-faults".to_owned(),
            }),
            _ => Ok(()),
        }
    }
}

/// A request that was let in.
struct Admitted<'a> {
    service: &'a Service,
    running: &'a Running,
    method: &'static str,
    caller: SocketAddr,
    /// When the answer must be on its way.
    deadline: Instant,
    _permit: Permit<'a>,
}

impl Admitted<'_> {
    /// Does the work of the request in a span of its own, and counts how it ended.
    async fn serve<T, E: Failure>(self, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let Service { config, runtime, counts, .. } = self.service;
        let span = tracing::debug_span!("request", node_id = config.node_id, method = self.method);
        let started = runtime.now();
        let step = self
            .running
            .node
            .spans()
            .begin(|| Step::Served { method: format!("kv.{}", self.method), caller: self.caller });
        let result = work.instrument(span.clone()).await;
        let outcome = match &result {
            Ok(_) => {
                counts.answered.fetch_add(1, Ordering::Relaxed);
                "answered"
            }
            Err(error) => error.kv().map_or("refused", |error| counts.add(error)),
        };
        step.end(outcome);
        let latency_us = (runtime.now() - started).as_micros();
        match &result {
            Ok(_) => tracing::debug!(parent: &span, outcome, latency_us),
            Err(error) => tracing::debug!(parent: &span, outcome, latency_us, %error),
        }
        result
    }
}

/// An error of a method, as the accounts see it.
trait Failure: fmt::Display {
    fn kv(&self) -> Option<&KvError>;
}

impl Failure for KvError {
    fn kv(&self) -> Option<&KvError> {
        Some(self)
    }
}

impl Failure for ChangeError {
    fn kv(&self) -> Option<&KvError> {
        match self {
            Self::Refused(error) => Some(error),
            _ => None,
        }
    }
}

impl Counts {
    /// Counts an error, and gives its word for the log.
    fn add(&self, error: &KvError) -> &'static str {
        let (count, word) = match error {
            KvError::Unknown => (&self.unknown, "unknown"),
            KvError::Busy { .. } => (&self.busy, "busy"),
            _ => (&self.refused, "refused"),
        };
        count.fetch_add(1, Ordering::Relaxed);
        word
    }

    fn list(&self) -> Vec<(String, u64)> {
        let counts = [
            ("requests_answered", &self.answered),
            ("requests_refused", &self.refused),
            ("requests_unknown", &self.unknown),
            ("requests_busy", &self.busy),
        ];
        counts.map(|(name, count)| (name.to_owned(), count.load(Ordering::Relaxed))).to_vec()
    }
}

/// A place among the requests in flight, given back when dropped.
struct Permit<'a> {
    in_flight: &'a AtomicUsize,
    /// The requests in flight with this one.
    number: usize,
}

impl<'a> Permit<'a> {
    fn new(in_flight: &'a AtomicUsize) -> Self {
        let number = in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        Self { in_flight, number }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The most that an answer's way back is given.
const WAY_BACK_MAX: Duration = Duration::from_millis(25);

/// When to answer so that the answer arrives before the caller stops waiting.
fn answer_by(now: Instant, deadline: Instant) -> Instant {
    deadline - ((deadline - now) / 4).min(WAY_BACK_MAX)
}

impl Running {
    /// The leader to ask instead of this node; `None` on the leader itself.
    fn other_leader(&self) -> Option<Hint> {
        self.node.other_leader().map(refusal::hint)
    }

    /// The cluster that this node belongs to.
    fn cluster(&self) -> Result<u128, KvError> {
        self.node.cluster().ok_or_else(|| KvError::NotMember { phase: self.node.status().phase.to_string() })
    }
}

impl Kv for Service {
    async fn open_session(&self, ctx: Ctx, request: OpenRequest) -> Result<Opened, KvError> {
        let admitted = self.admit(&ctx, Operation::OpenSession).await?;
        let (running, deadline) = (admitted.running, admitted.deadline);
        admitted.serve(write::open_session(running, request, self.config.session_lifetime, deadline)).await
    }

    async fn close_session(&self, ctx: Ctx, request: CloseRequest) -> Result<(), KvError> {
        let admitted = self.admit(&ctx, Operation::CloseSession).await?;
        let running = admitted.running;
        admitted.serve(write::close_session(self, running, request)).await
    }

    async fn write(&self, ctx: Ctx, request: WriteRequest) -> Result<WriteAnswer, KvError> {
        let admitted = self.admit(&ctx, Operation::Write(&request.op)).await?;
        let (running, deadline) = (admitted.running, admitted.deadline);
        admitted.serve(write::write(running, request, deadline)).await
    }

    async fn resolve(&self, ctx: Ctx, request: ResolveRequest) -> Result<Resolved, KvError> {
        let admitted = self.admit(&ctx, Operation::Resolve).await?;
        let (running, deadline) = (admitted.running, admitted.deadline);
        admitted.serve(write::resolve(running, request, deadline)).await
    }

    async fn get(&self, ctx: Ctx, request: GetRequest) -> Result<GetReply, KvError> {
        let admitted = self.admit(&ctx, Operation::Get(&request.key)).await?;
        let (running, deadline) = (admitted.running, admitted.deadline);
        admitted.serve(read::get(running, request, deadline)).await
    }

    async fn status(&self, ctx: Ctx) -> Result<Status, Never> {
        Ok(admin::status(self, self.running.wait().await, ctx.deadline).await)
    }

    async fn trace(&self, _ctx: Ctx, request: TraceRequest) -> Result<Traced, Never> {
        Ok(admin::trace(self, self.running.wait().await, request.trace))
    }

    async fn health_local(&self, ctx: Ctx) -> Result<Health, Never> {
        let deadline = answer_by(self.runtime.now(), ctx.deadline);
        Ok(admin::health_local(self.running.wait().await, deadline).await)
    }

    async fn member_change(&self, ctx: Ctx, change: MemberChange) -> Result<Changed, ChangeError> {
        let admitted = self.admit(&ctx, Operation::MemberChange).await.map_err(ChangeError::Refused)?;
        let (running, deadline) = (admitted.running, admitted.deadline);
        admitted.serve(admin::member_change(running, change, deadline)).await
    }

    async fn snapshot(&self, ctx: Ctx) -> Result<SnapshotOffer, KvError> {
        let admitted = self.admit(&ctx, Operation::Snapshot).await?;
        let (running, deadline) = (admitted.running, admitted.deadline);
        admitted.serve(admin::snapshot(running, deadline)).await
    }

    async fn snapshot_part(&self, ctx: Ctx, request: SnapshotPart) -> Result<SnapshotBytes, KvError> {
        let admitted = self.admit(&ctx, Operation::Snapshot).await?;
        let running = admitted.running;
        admitted.serve(async { admin::snapshot_part(running, &request) }).await
    }

    async fn connections(&self, ctx: Ctx, request: ConnectionsRequest) -> Result<Connections, KvError> {
        let admitted = self.admit(&ctx, Operation::Connections).await?;
        let (running, now) = (admitted.running, self.runtime.now());
        admitted.serve(async { Ok(admin::connections(running, request, now)) }).await
    }

    async fn faults(&self, ctx: Ctx, request: FaultsRequest) -> Result<FaultsReply, KvError> {
        let admitted = self.admit(&ctx, Operation::Faults).await?;
        admitted.serve(admin::faults(self.faults.as_ref(), request)).await
    }

    async fn version(&self, _ctx: Ctx) -> Result<Version, Never> {
        Ok(Version { version: version(), protocol: PROTOCOL })
    }
}

/// The version of this server.
fn version() -> String {
    rpc_core::plant::version(env!("CARGO_PKG_VERSION")).to_owned()
}

/// The methods of `service`, to be served by a peer.
pub(crate) fn services(service: &Arc<Service>) -> rpc_core::rpc::Services {
    kv_client::api::kv_services(Arc::clone(service))
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("config", &self.config).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_leaves_before_the_caller_stops_waiting() {
        let at = |ms: u64| Instant::from_nanos(ms * 1_000_000);
        assert_eq!(answer_by(at(1_000), at(6_000)), at(5_975));
        assert_eq!(answer_by(at(1_000), at(1_020)), at(1_015));
        assert_eq!(answer_by(at(1_000), at(900)), at(900));
    }

    #[test]
    fn a_permit_is_given_back_when_dropped() {
        let in_flight = AtomicUsize::new(0);
        let first = Permit::new(&in_flight);
        let second = Permit::new(&in_flight);
        assert_eq!((first.number, second.number), (1, 2));
        drop(first);
        drop(second);
        assert_eq!(in_flight.load(Ordering::Relaxed), 0);
    }
}
