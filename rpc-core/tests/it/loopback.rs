//! A channel without a network: each call goes straight into a table of services.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rpc_core::endpoint::{CallId, Lane};
use rpc_core::rpc::channel::{Attempt, Channel, Reply};
use rpc_core::rpc::context::Caller;
use rpc_core::rpc::{Ctx, Failure, MethodId, Remote, Services};
use rpc_core::runtime::{BoxFuture, Runtime};
use rpc_core::security::Identity;

/// Serves the calls that are made through it, and keeps what they sent.
#[derive(Clone)]
pub(crate) struct Loopback {
    runtime: Runtime,
    services: Services,
    sent: Arc<Mutex<Vec<Attempt>>>,
}

impl Loopback {
    pub(crate) fn new(runtime: Runtime, services: Services) -> Self {
        Self { runtime, services, sent: Arc::default() }
    }

    /// The root path of the services.
    pub(crate) fn remote(&self) -> Remote {
        Remote::new(Arc::new(self.clone()))
    }

    /// What was sent since the last time.
    pub(crate) fn take_sent(&self) -> Vec<Attempt> {
        std::mem::take(&mut self.lock())
    }

    /// The bodies that were sent since the last time.
    pub(crate) fn take_bodies(&self) -> Vec<Bytes> {
        self.take_sent().into_iter().map(|attempt| attempt.body).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Attempt>> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Channel for Loopback {
    fn attempt(&self, request: Attempt) -> BoxFuture<Result<Reply, Failure>> {
        assert_eq!(request.method, MethodId::of(&request.name), "the id is that of the full name");
        self.lock().push(request.clone());
        let from = Caller {
            address: self.address(),
            client_id: 7,
            identity: Identity::None,
            caller: self.remote(),
            runtime: self.runtime.clone(),
        };
        let mut ctx = Ctx::new(Arc::new(from), CallId(0), request.deadline);
        ctx.meta = request.meta;
        let answer = self.services.dispatch(&request.name, ctx, request.body);
        Box::pin(async move { answer.await.map(Reply::from) })
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 1))
    }

    fn runtime(&self) -> &Runtime {
        &self.runtime
    }
}

/// The lanes of `attempts`, in order.
pub(crate) fn lanes(attempts: &[Attempt]) -> Vec<Lane> {
    attempts.iter().map(|attempt| attempt.lane).collect()
}
