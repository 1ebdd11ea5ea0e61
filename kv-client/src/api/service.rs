//! The service trait. `#[rpc_core::service]` makes the typed client and the table of methods of it.

use rpc_core::rpc::{Ctx, Never};

use super::{
    ChangeError, Changed, CloseRequest, Connections, ConnectionsRequest, FaultsReply, FaultsRequest,
    GetReply, GetRequest, Health, KvError, MemberChange, OpenRequest, Opened, ResolveRequest, Resolved,
    SnapshotBytes, SnapshotOffer, SnapshotPart, Status, TraceRequest, Traced, Version, WriteAnswer,
    WriteRequest,
};

/// What a node serves to clients, below `kv`. Any node may be asked anything.
#[rpc_core::service(name = "kv")]
pub trait Kv {
    /// Opens a session.
    async fn open_session(&self, ctx: Ctx, request: OpenRequest) -> Result<Opened, KvError>;

    /// Ends a session; one that is not open is no error. Lazy: the node answers at once and ends the session in its own
    /// time, also when the caller is gone by then; a node that cannot leaves it to expire.
    async fn close_session(&self, ctx: Ctx, request: CloseRequest) -> Result<(), KvError>;

    /// Writes, exactly once however often it is sent. A node that does not lead forwards once.
    async fn write(&self, ctx: Ctx, request: WriteRequest) -> Result<WriteAnswer, KvError>;

    /// Settles what became of a write.
    async fn resolve(&self, ctx: Ctx, request: ResolveRequest) -> Result<Resolved, KvError>;

    /// Reads a key.
    #[rpc(idempotent)]
    async fn get(&self, ctx: Ctx, request: GetRequest) -> Result<GetReply, KvError>;

    /// What the asked node knows about itself and its cluster.
    #[rpc(idempotent)]
    async fn status(&self, ctx: Ctx) -> Result<Status, Never>;

    /// What the asked node remembers of a trace.
    #[rpc(idempotent)]
    async fn trace(&self, ctx: Ctx, request: TraceRequest) -> Result<Traced, Never>;

    /// Whether the asked process and its disk work.
    #[rpc(idempotent)]
    async fn health_local(&self, ctx: Ctx) -> Result<Health, Never>;

    /// Changes who is a member, or who leads (admin).
    async fn member_change(&self, ctx: Ctx, change: MemberChange) -> Result<Changed, ChangeError>;

    /// Has the asked node make a snapshot that holds every write that was answered before (admin).
    #[rpc(idempotent)]
    async fn snapshot(&self, ctx: Ctx) -> Result<SnapshotOffer, KvError>;

    /// A part of a snapshot that the asked node offered (admin).
    #[rpc(idempotent)]
    async fn snapshot_part(&self, ctx: Ctx, request: SnapshotPart) -> Result<SnapshotBytes, KvError>;

    /// The connections of the asked node; closes those with one peer if told to (admin).
    async fn connections(&self, ctx: Ctx, request: ConnectionsRequest) -> Result<Connections, KvError>;

    /// Sets the link faults of the asked node (admin, only where enabled).
    async fn faults(&self, ctx: Ctx, request: FaultsRequest) -> Result<FaultsReply, KvError>;

    /// Who answers; also the cheapest sign of life.
    #[rpc(idempotent)]
    async fn version(&self, ctx: Ctx) -> Result<Version, Never>;
}
