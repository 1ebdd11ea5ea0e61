//! A cluster that is played by one table behind any number of nodes: it keeps the contract's promises about sessions,
//! and misbehaves as a test tells it.

use std::collections::BTreeMap;
use std::future::pending;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use kv_client::api::{
    Age, ChangeError, Changed, CloseRequest, Connection, Connections, ConnectionsRequest, Expect,
    FaultsReply, FaultsRequest, GetReply, GetRequest, Health, Hint, Kv, KvError, Member, MemberChange,
    OpenRequest, Opened, PROTOCOL, ResolveRequest, Resolved, Role, SnapshotBytes, SnapshotOffer,
    SnapshotPart, Status, TraceRequest, TraceSpan, TraceStep, Traced, Unknowable, Version, Versioned,
    WriteAnswer, WriteOp, WriteReply, WriteRequest, kv_services,
};
use kv_client::{Client, Endpoint};
use rpc_core::peer::Peer;
use rpc_core::random::SeededRandom;
use rpc_core::rpc::{Ctx, Never};
use rpc_core::sim::World;

pub(crate) const LIFETIME_MS: u64 = 86_400_000;

/// The table of the cluster. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Table {
    state: Arc<Mutex<State>>,
}

pub(crate) struct State {
    pub(crate) cluster: u128,
    pub(crate) revision: u64,
    pub(crate) sessions: BTreeMap<u64, Session>,
    nonces: BTreeMap<u128, u64>,
    pub(crate) rows: BTreeMap<Bytes, (Bytes, u64)>,
    /// How often each value was written.
    pub(crate) applied: BTreeMap<Bytes, u64>,
    /// What each node does; those that are not named serve.
    pub(crate) manners: BTreeMap<usize, Manner>,
    /// Who answers as if it had forwarded to this leader.
    pub(crate) leader: Option<Hint>,
    /// Trace, node and method of the requests that were traced.
    pub(crate) traced: Vec<(u128, usize, &'static str)>,
    /// The requests that each node got, by method.
    pub(crate) calls: BTreeMap<(usize, &'static str), u64>,
    pub(crate) random: SeededRandom,
}

#[derive(Default)]
pub(crate) struct Session {
    floor: u64,
    records: BTreeMap<u64, WriteReply>,
}

/// What a node does with requests that propose or read.
#[derive(Clone, Debug)]
pub(crate) enum Manner {
    /// It refuses.
    Refuse(KvError),
    /// It never answers, and does nothing.
    Swallow,
    /// As [`Manner::Swallow`], but sessions are opened.
    SwallowWrites,
    /// It does what is asked, and never answers.
    DoAndSwallow,
    /// It draws one of many misfortunes for each request.
    Chaos,
}

/// What is done with one request.
enum Fate {
    Serve,
    Refuse(KvError),
    Swallow,
    DoAndSwallow,
    DoLate(Duration),
    DoAndForget,
}

impl Table {
    pub(crate) fn new(seed: u64) -> Self {
        let state = State {
            cluster: 0xc1,
            revision: 100,
            sessions: BTreeMap::new(),
            nonces: BTreeMap::new(),
            rows: BTreeMap::new(),
            applied: BTreeMap::new(),
            manners: BTreeMap::new(),
            leader: None,
            traced: Vec::new(),
            calls: BTreeMap::new(),
            random: SeededRandom::new(seed),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn set(&self, node: usize, manner: Manner) {
        self.lock().manners.insert(node, manner);
    }

    pub(crate) fn heal(&self) {
        self.lock().manners.clear();
    }

    pub(crate) fn calls(&self, node: usize, method: &'static str) -> u64 {
        self.lock().calls.get(&(node, method)).copied().unwrap_or(0)
    }

    /// A node of this cluster.
    pub(crate) fn node(&self, index: usize) -> Arc<Node> {
        Arc::new(Node { index, table: self.clone() })
    }
}

impl State {
    fn fate(&mut self, node: usize, method: &str) -> Fate {
        match self.manners.get(&node) {
            None => Fate::Serve,
            Some(Manner::Refuse(error)) => Fate::Refuse(error.clone()),
            Some(Manner::SwallowWrites) if method == "open_session" => Fate::Serve,
            Some(Manner::Swallow | Manner::SwallowWrites) => Fate::Swallow,
            Some(Manner::DoAndSwallow) => Fate::DoAndSwallow,
            Some(Manner::Chaos) => match self.random.below(100) {
                0..15 => Fate::Refuse(KvError::NotLeader { leader: None }),
                15..20 => Fate::Refuse(KvError::Busy { retry_after_ms: 5 }),
                20..30 => Fate::Swallow,
                30..40 => Fate::DoAndSwallow,
                40..50 => Fate::Refuse(KvError::Unknown),
                50..60 => Fate::DoAndForget,
                60..75 => Fate::DoLate(Duration::from_millis(self.random.below(600))),
                _ => Fate::Serve,
            },
        }
    }

    fn open(&mut self, nonce: u128) -> Opened {
        let session = match self.nonces.get(&nonce) {
            Some(session) => *session,
            None => {
                self.revision += 1;
                self.nonces.insert(nonce, self.revision);
                self.sessions.insert(self.revision, Session::default());
                self.revision
            }
        };
        Opened { session, cluster: self.cluster, lifetime_ms: LIFETIME_MS, leader: self.leader.clone() }
    }

    fn write(&mut self, request: &WriteRequest) -> Result<WriteReply, KvError> {
        assert!(1 <= request.floor && request.floor <= request.sequence, "{request:?}");
        if request.cluster != self.cluster {
            return Err(KvError::ForeignCluster { cluster: self.cluster });
        }
        self.revision += 1;
        let session = self.sessions.get_mut(&request.session).ok_or(KvError::SessionExpired)?;
        session.floor = session.floor.max(request.floor);
        let floor = session.floor;
        session.records.retain(|sequence, _| *sequence >= floor);
        if request.sequence < floor {
            return Err(KvError::Stale);
        }
        if let Some(record) = session.records.get(&request.sequence) {
            return Ok(record.clone());
        }
        let reply = self.apply(&request.op);
        if let Some(session) = self.sessions.get_mut(&request.session) {
            session.records.insert(request.sequence, reply.clone());
        }
        Ok(reply)
    }

    fn apply(&mut self, op: &WriteOp) -> WriteReply {
        let revision = self.revision;
        let row = self.rows.get(op.key());
        let existed = row.is_some();
        let mod_revision = row.map(|(_, revision)| *revision);
        let value = match op {
            WriteOp::Put { value, .. } => Some(value),
            WriteOp::Delete { .. } => None,
            WriteOp::Cas { expect, value, .. } => {
                let holds = match expect {
                    Expect::Absent => row.is_none(),
                    Expect::Revision(expected) => mod_revision == Some(*expected),
                    Expect::Value(expected) => row.is_some_and(|(value, _)| value == expected),
                };
                if !holds {
                    return WriteReply::ConditionFailed { revision, mod_revision };
                }
                Some(value)
            }
        };
        match value {
            Some(value) => {
                *self.applied.entry(value.clone()).or_default() += 1;
                self.rows.insert(op.key().clone(), (value.clone(), revision));
            }
            None => {
                self.rows.remove(op.key());
            }
        }
        WriteReply::Committed { revision, existed }
    }

    fn resolve(&mut self, request: &ResolveRequest) -> Resolved {
        if request.cluster != self.cluster {
            return Resolved::Unknowable(Unknowable::ForeignCluster);
        }
        self.revision += 1;
        let revision = self.revision;
        match self.sessions.get_mut(&request.session) {
            None => Resolved::Unknowable(Unknowable::SessionExpired),
            Some(session) if request.sequence < session.floor => {
                Resolved::Unknowable(Unknowable::AnswerReceived)
            }
            Some(session) => {
                let tombstone = WriteReply::RolledBack { revision };
                let record = session.records.entry(request.sequence).or_insert(tombstone);
                Resolved::Settled(record.clone())
            }
        }
    }

    fn get(&self, key: &Bytes) -> GetReply {
        let value = self
            .rows
            .get(key)
            .map(|(value, mod_revision)| Versioned { value: value.clone(), mod_revision: *mod_revision });
        GetReply { value, revision: self.revision, age: Age::Linearizable, leader: self.leader.clone() }
    }
}

/// One node.
pub(crate) struct Node {
    index: usize,
    table: Table,
}

impl Node {
    async fn meet<T>(
        &self,
        ctx: &Ctx,
        method: &'static str,
        work: impl Fn(&mut State) -> Result<T, KvError>,
    ) -> Result<T, KvError> {
        let fate = {
            let mut state = self.table.lock();
            *state.calls.entry((self.index, method)).or_default() += 1;
            state.traced.extend(ctx.trace().map(|trace| (trace.id, self.index, method)));
            state.fate(self.index, method)
        };
        match fate {
            Fate::Serve => work(&mut self.table.lock()),
            Fate::Refuse(error) => Err(error),
            Fate::Swallow => pending().await,
            Fate::DoAndSwallow => {
                let _ = work(&mut self.table.lock());
                pending().await
            }
            Fate::DoLate(delay) => {
                ctx.runtime.sleep(delay).await;
                work(&mut self.table.lock())
            }
            Fate::DoAndForget => {
                let _ = work(&mut self.table.lock());
                Err(KvError::Unknown)
            }
        }
    }
}

impl Kv for Node {
    async fn open_session(&self, ctx: Ctx, request: OpenRequest) -> Result<Opened, KvError> {
        self.meet(&ctx, "open_session", |state| Ok(state.open(request.nonce))).await
    }

    async fn close_session(&self, ctx: Ctx, request: CloseRequest) -> Result<(), KvError> {
        self.meet(&ctx, "close_session", |state| {
            state.sessions.remove(&request.session);
            Ok(())
        })
        .await
    }

    async fn write(&self, ctx: Ctx, request: WriteRequest) -> Result<WriteAnswer, KvError> {
        self.meet(&ctx, "write", |state| {
            let reply = state.write(&request)?;
            Ok(WriteAnswer { reply, leader: state.leader.clone() })
        })
        .await
    }

    async fn resolve(&self, ctx: Ctx, request: ResolveRequest) -> Result<Resolved, KvError> {
        self.meet(&ctx, "resolve", |state| Ok(state.resolve(&request))).await
    }

    async fn get(&self, ctx: Ctx, request: GetRequest) -> Result<GetReply, KvError> {
        self.meet(&ctx, "get", |state| Ok(state.get(&request.key))).await
    }

    async fn status(&self, _: Ctx) -> Result<Status, Never> {
        let id = self.index as u64;
        let state = self.table.lock();
        let members = vec![Member {
            id,
            address: address(self.index).to_string(),
            incarnation: 7,
            voter: true,
            matched: None,
            ack_age_ms: None,
        }];
        Ok(Status {
            id,
            incarnation: 7,
            cluster: Some(state.cluster),
            phase: "running".to_owned(),
            ready: true,
            role: Role::Leader,
            leader: None,
            term: 3,
            last_log: Some(9),
            committed: Some(9),
            applied: Some(9),
            snapshot: None,
            revision: state.revision,
            state_hash: 0xabc,
            members,
            sessions: state.sessions.len() as u64,
            version: "0.0.0".to_owned(),
            uptime_ms: 5,
            faults_enabled: false,
            insecure: true,
            counters: vec![("requests_answered".to_owned(), 4)],
        })
    }

    async fn trace(&self, ctx: Ctx, request: TraceRequest) -> Result<Traced, Never> {
        let state = self.table.lock();
        let mine = state.traced.iter().filter(|(id, node, _)| (*id, *node) == (request.trace, self.index));
        let span = |(call, (_, _, method)): (u64, &(u128, usize, &str))| TraceSpan {
            call,
            hops: 0,
            step: TraceStep::Served { method: format!("kv.{method}"), caller: ctx.address },
            age_us: 9_000 - call * 1_500,
            time_us: 1_250,
            outcome: "answered".to_owned(),
        };
        Ok(Traced { node: self.index as u64, spans: (0..).zip(mine).map(span).collect() })
    }

    async fn health_local(&self, _: Ctx) -> Result<Health, Never> {
        let refuses = matches!(self.table.lock().manners.get(&self.index), Some(Manner::Refuse(_)));
        let reason = refuses.then(|| "the disk failed".to_owned());
        Ok(Health { healthy: !refuses, reason })
    }

    async fn member_change(&self, _: Ctx, change: MemberChange) -> Result<Changed, ChangeError> {
        match change {
            MemberChange::Replace { old: 3, .. } => Ok(Changed { id: 4 }),
            MemberChange::Add { .. } => Ok(Changed { id: 5 }),
            MemberChange::Remove { id: 2 } => Err(ChangeError::QuorumAtRisk { alive: vec![1], needed: 2 }),
            MemberChange::Lead { id } => Ok(Changed { id: id.unwrap_or(2) }),
            MemberChange::Replace { old: id, .. } | MemberChange::Remove { id } => {
                Err(ChangeError::UnknownMember { id })
            }
        }
    }

    async fn snapshot(&self, _: Ctx) -> Result<SnapshotOffer, KvError> {
        let crc = crc32c::crc32c(&SNAPSHOT);
        Ok(SnapshotOffer { name: "s".to_owned(), size: SNAPSHOT.len() as u64, crc, index: 8, revision: 9 })
    }

    async fn snapshot_part(&self, _: Ctx, request: SnapshotPart) -> Result<SnapshotBytes, KvError> {
        let rest = &SNAPSHOT[request.offset as usize..];
        Ok(SnapshotBytes { bytes: Bytes::copy_from_slice(&rest[..rest.len().min(300)]) })
    }

    async fn connections(&self, ctx: Ctx, request: ConnectionsRequest) -> Result<Connections, KvError> {
        let connection = Connection {
            address: ctx.address,
            inbound: true,
            encrypted: false,
            idle_ms: 1,
            rtt_us: 250,
            serving: 1,
            calling: 0,
            bytes_received: 100,
            bytes_sent: 200,
        };
        let closed = u64::from(request.close.is_some_and(|close| close.port() == 7301));
        Ok(Connections { node: 1, closed, connections: vec![connection] })
    }

    async fn faults(&self, _: Ctx, _: FaultsRequest) -> Result<FaultsReply, KvError> {
        Err(KvError::Denied { reason: "not enabled".to_owned() })
    }

    async fn version(&self, _: Ctx) -> Result<Version, Never> {
        *self.table.lock().calls.entry((self.index, "version")).or_default() += 1;
        Ok(Version { version: "0.0.0".to_owned(), protocol: PROTOCOL })
    }
}

/// Where node `index` of a simulated world listens.
pub(crate) fn address(index: usize) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 7_300 + index as u16))
}

/// Starts (or starts again) a node of a simulated world.
pub(crate) fn start(world: &World, table: &Table, index: usize) {
    let runtime = world.start(index as u64);
    let socket = world.bind(index as u64, address(index));
    Peer::builder(runtime).services(kv_services(table.node(index))).start_insecure(socket).unwrap();
}

/// A world with nodes 1, 2, 3 that share one table, and a client of all of them with 2 s for each request.
pub(crate) fn cluster(seed: u64) -> (World, Table, Client) {
    let world = World::new(seed);
    let table = Table::new(seed);
    for index in 1..=3 {
        start(&world, &table, index);
    }
    let client = client(&world, &[1, 2, 3]);
    (world, table, client)
}

/// A client on a node of its own that is given these nodes.
pub(crate) fn client(world: &World, nodes: &[usize]) -> Client {
    let runtime = world.start(CLIENT);
    let socket = world.bind(CLIENT, SocketAddr::from((Ipv4Addr::LOCALHOST, 9_000)));
    let peer = Peer::builder(runtime.clone()).start_insecure(socket).unwrap();
    Client::builder(runtime, peer)
        .endpoints(nodes.iter().map(|index| Endpoint::from(address(*index))))
        .timeout(TIMEOUT)
        .build()
}

/// The client's node in a world.
pub(crate) const CLIENT: u64 = 10;
/// The time for each request.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(2);

/// What the played server hands out as a snapshot.
pub(crate) static SNAPSHOT: [u8; 1_000] = [0x5a; 1_000];
