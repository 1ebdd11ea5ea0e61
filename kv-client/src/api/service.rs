//! The service trait. `#[rpc_core::service]` makes the typed client and the table of methods of it.

use rpc_core::rpc::{Ctx, Never};

use super::{
    CloseRequest, FaultsReply, FaultsRequest, GetReply, GetRequest, Health, KvError, OpenRequest, Opened,
    ReplaceError, ReplaceRequest, Replaced, ResolveRequest, Resolved, Status, TraceRequest, Traced, Version,
    WriteAnswer, WriteRequest,
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

    /// Replaces a member whose data was lost (admin).
    async fn member_replace(&self, ctx: Ctx, request: ReplaceRequest) -> Result<Replaced, ReplaceError>;

    /// Sets the link faults of the asked node (admin, only where enabled).
    async fn faults(&self, ctx: Ctx, request: FaultsRequest) -> Result<FaultsReply, KvError>;

    /// Who answers; also the cheapest sign of life.
    #[rpc(idempotent)]
    async fn version(&self, ctx: Ctx) -> Result<Version, Never>;
}
