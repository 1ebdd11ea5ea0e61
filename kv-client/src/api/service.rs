//! The service trait, its typed client and its dispatcher.

use std::future::Future;
use std::sync::Arc;

use rpc_core::rpc::{Call, Ctx, Never, Remote, Services};

use super::{
    CloseRequest, FaultsReply, FaultsRequest, GetReply, GetRequest, Health, KvError, OpenRequest, Opened,
    ReplaceError, ReplaceRequest, Replaced, ResolveRequest, Resolved, SERVICE, Status, Version, WriteAnswer,
    WriteRequest,
};

/// What a node serves to clients. Any node may be asked anything.
pub trait Kv: Send + Sync + 'static {
    /// Opens a session.
    fn open_session(
        &self,
        ctx: Ctx,
        request: OpenRequest,
    ) -> impl Future<Output = Result<Opened, KvError>> + Send;

    /// Ends a session; one that is not open is no error. Lazy: the node answers at once and ends the session in its own
    /// time, also when the caller is gone by then; a node that cannot leaves it to expire.
    fn close_session(
        &self,
        ctx: Ctx,
        request: CloseRequest,
    ) -> impl Future<Output = Result<(), KvError>> + Send;

    /// Writes, exactly once however often it is sent. A node that does not lead forwards once.
    fn write(
        &self,
        ctx: Ctx,
        request: WriteRequest,
    ) -> impl Future<Output = Result<WriteAnswer, KvError>> + Send;

    /// Settles what became of a write.
    fn resolve(
        &self,
        ctx: Ctx,
        request: ResolveRequest,
    ) -> impl Future<Output = Result<Resolved, KvError>> + Send;

    /// Reads a key.
    fn get(&self, ctx: Ctx, request: GetRequest) -> impl Future<Output = Result<GetReply, KvError>> + Send;

    /// What the asked node knows about itself and its cluster.
    fn status(&self, ctx: Ctx) -> impl Future<Output = Result<Status, Never>> + Send;

    /// Whether the asked process and its disk work.
    fn health_local(&self, ctx: Ctx) -> impl Future<Output = Result<Health, Never>> + Send;

    /// Replaces a member whose data was lost (admin).
    fn member_replace(
        &self,
        ctx: Ctx,
        request: ReplaceRequest,
    ) -> impl Future<Output = Result<Replaced, ReplaceError>> + Send;

    /// Sets the link faults of the asked node (admin, only where enabled).
    fn faults(
        &self,
        ctx: Ctx,
        request: FaultsRequest,
    ) -> impl Future<Output = Result<FaultsReply, KvError>> + Send;

    /// Who answers; also the cheapest sign of life.
    fn version(&self, ctx: Ctx) -> impl Future<Output = Result<Version, Never>> + Send;
}

/// The methods of `service`, to be served by a peer.
pub fn services<S: Kv>(service: Arc<S>) -> Services {
    let methods = Services::new();
    let kv = Arc::clone(&service);
    let methods = methods.typed("open_session", false, move |ctx, request| {
        let kv = Arc::clone(&kv);
        async move { kv.open_session(ctx, request).await }
    });
    let kv = Arc::clone(&service);
    let methods = methods.typed("close_session", false, move |ctx, request| {
        let kv = Arc::clone(&kv);
        async move { kv.close_session(ctx, request).await }
    });
    let kv = Arc::clone(&service);
    let methods = methods.typed("write", false, move |ctx, request| {
        let kv = Arc::clone(&kv);
        async move { kv.write(ctx, request).await }
    });
    let kv = Arc::clone(&service);
    let methods = methods.typed("resolve", false, move |ctx, request| {
        let kv = Arc::clone(&kv);
        async move { kv.resolve(ctx, request).await }
    });
    let kv = Arc::clone(&service);
    let methods = methods.typed("get", true, move |ctx, request| {
        let kv = Arc::clone(&kv);
        async move { kv.get(ctx, request).await }
    });
    let kv = Arc::clone(&service);
    let methods = methods.typed("status", true, move |ctx, (): ()| {
        let kv = Arc::clone(&kv);
        async move { kv.status(ctx).await }
    });
    let kv = Arc::clone(&service);
    let methods = methods.typed("health_local", true, move |ctx, (): ()| {
        let kv = Arc::clone(&kv);
        async move { kv.health_local(ctx).await }
    });
    let kv = Arc::clone(&service);
    let methods = methods.typed("member_replace", false, move |ctx, request| {
        let kv = Arc::clone(&kv);
        async move { kv.member_replace(ctx, request).await }
    });
    let kv = Arc::clone(&service);
    let methods = methods.typed("faults", false, move |ctx, request| {
        let kv = Arc::clone(&kv);
        async move { kv.faults(ctx, request).await }
    });
    let kv = Arc::clone(&service);
    let methods = methods.typed("version", true, move |ctx, (): ()| {
        let kv = Arc::clone(&kv);
        async move { kv.version(ctx).await }
    });
    Services::new().nest(SERVICE, methods)
}

/// Calls the service of one peer.
#[derive(Clone, Debug)]
pub struct KvClient {
    remote: Remote,
}

impl KvClient {
    /// The service of the peer behind `remote`.
    pub fn new(remote: &Remote) -> Self {
        Self { remote: remote.at(SERVICE) }
    }

    /// Opens a session.
    pub fn open_session(&self, request: &OpenRequest) -> Call<Opened, KvError> {
        self.remote.call("open_session", request)
    }

    /// Ends a session; one that is not open is no error.
    pub fn close_session(&self, request: &CloseRequest) -> Call<(), KvError> {
        self.remote.call("close_session", request)
    }

    /// Writes, exactly once however often it is sent. A node that does not lead forwards once.
    pub fn write(&self, request: &WriteRequest) -> Call<WriteAnswer, KvError> {
        self.remote.call("write", request)
    }

    /// Settles what became of a write.
    pub fn resolve(&self, request: &ResolveRequest) -> Call<Resolved, KvError> {
        self.remote.call("resolve", request)
    }

    /// Reads a key.
    pub fn get(&self, request: &GetRequest) -> Call<GetReply, KvError> {
        self.remote.call("get", request)
    }

    /// What the asked node knows about itself and its cluster.
    pub fn status(&self) -> Call<Status, Never> {
        self.remote.call("status", &())
    }

    /// Whether the asked process and its disk work.
    pub fn health_local(&self) -> Call<Health, Never> {
        self.remote.call("health_local", &())
    }

    /// Replaces a member whose data was lost (admin).
    pub fn member_replace(&self, request: &ReplaceRequest) -> Call<Replaced, ReplaceError> {
        self.remote.call("member_replace", request)
    }

    /// Sets the link faults of the asked node (admin, only where enabled).
    pub fn faults(&self, request: &FaultsRequest) -> Call<FaultsReply, KvError> {
        self.remote.call("faults", request)
    }

    /// Who answers; also the cheapest sign of life.
    pub fn version(&self) -> Call<Version, Never> {
        self.remote.call("version", &())
    }
}
