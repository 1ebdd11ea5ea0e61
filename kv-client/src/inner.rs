//! What all handles and requests of one client share: the way to the nodes, what is known of them, the sessions.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rpc_core::peer::Peer;
use rpc_core::rpc::{CallError, Code, Outcome as CallOutcome};
use rpc_core::runtime::{Instant, Runtime};
use tokio::sync::Notify;

use crate::api::{Hint, KvClient};
use crate::endpoint::{Endpoint, Resolver};
use crate::router::Router;
use crate::session::Sessions;

/// How long a probe may take.
pub(crate) const PROBE_TIMEOUT: Duration = Duration::from_millis(250);
/// Between looks at whether a name must be resolved again.
const NAMES_LOOK: Duration = Duration::from_secs(1);
/// The age at which a resolved name is resolved again in any case.
const NAMES_AGE_MAX: Duration = Duration::from_secs(30);
/// Probes that run at the same time at most.
const PROBES_MAX: usize = 8;

pub(crate) struct Inner {
    runtime: Runtime,
    peer: Peer,
    endpoints: Vec<Endpoint>,
    resolver: Arc<dyn Resolver>,
    /// Whether the leader that answers name is asked from then on.
    follow_leader: bool,
    router: Mutex<Router>,
    sessions: Mutex<Sessions>,
    /// Who is being probed.
    probes: Mutex<Vec<String>>,
    /// A sequence was settled: there may be room in a session.
    room: Notify,
    /// Held while a session is opened, so that many writers open one.
    opening: tokio::sync::Mutex<()>,
}

/// What a [`Inner`] is made of.
pub(crate) struct Parts {
    pub(crate) runtime: Runtime,
    pub(crate) peer: Peer,
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) resolver: Arc<dyn Resolver>,
    pub(crate) follow_leader: bool,
}

impl Inner {
    /// The inner of a client; starts a task for each endpoint that is a name, which ends with the inner.
    pub(crate) fn start(parts: Parts) -> Arc<Self> {
        let Parts { runtime, peer, endpoints, resolver, follow_leader } = parts;
        let mut router = Router::new(endpoints.len());
        let mut names = Vec::new();
        for (index, endpoint) in endpoints.iter().enumerate() {
            match endpoint.literal() {
                Some(address) => router.set_addresses(index, vec![address]),
                None => names.push((index, endpoint.to_string())),
            }
        }
        let inner = Arc::new(Self {
            runtime: runtime.clone(),
            peer,
            endpoints,
            resolver,
            follow_leader,
            router: Mutex::new(router),
            sessions: Mutex::default(),
            probes: Mutex::default(),
            room: Notify::new(),
            opening: tokio::sync::Mutex::new(()),
        });
        for (index, name) in names {
            runtime.spawn("client name", keep_resolved(Arc::downgrade(&inner), runtime.clone(), index, name));
        }
        inner
    }

    pub(crate) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    pub(crate) fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    pub(crate) fn router(&self) -> MutexGuard<'_, Router> {
        self.router.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn room(&self) -> &Notify {
        &self.room
    }

    pub(crate) fn opening(&self) -> &tokio::sync::Mutex<()> {
        &self.opening
    }

    /// The service of the node at `address`.
    pub(crate) fn node(&self, address: SocketAddr) -> KvClient {
        KvClient::new(self.peer.remote(address))
    }

    /// The addresses of `name` (`host:port`) that this client's socket can reach.
    pub(crate) async fn resolve(&self, name: &str) -> std::io::Result<Vec<SocketAddr>> {
        let mut addresses = match name.parse::<SocketAddr>() {
            Ok(address) => vec![address],
            Err(_) => self.resolver.resolve(name.to_owned()).await?,
        };
        addresses.retain(|address| address.is_ipv4() == self.peer.local_addr().is_ipv4());
        Ok(addresses)
    }

    /// Notes what the end of an attempt says about the node that was asked.
    pub(crate) fn observe<R, E>(&self, address: SocketAddr, answer: &Result<R, CallError<E>>) {
        let now = self.runtime.now();
        match answer {
            Ok(_) | Err(CallError::Method(_)) => self.router().heard(address, now),
            // The node, or its transport, refused: it is there.
            Err(CallError::Rpc(error))
                if error.origin.is_some() && error.outcome == CallOutcome::NotExecuted =>
            {
                self.router().heard(address, now);
            }
            Err(CallError::Rpc(error)) if matches!(error.code, Code::Timeout | Code::ConnectionLost) => {
                self.router().silent(address, now);
            }
            // A fault on this side says nothing about the node.
            Err(CallError::Rpc(_)) => {}
        }
    }

    /// An answer of `address` named the leader: asks it first from now on, as soon as it was heard.
    pub(crate) fn follow(self: &Arc<Self>, leader: Option<&Hint>) {
        let Some(leader) = leader.filter(|_| self.follow_leader) else { return };
        if let Ok(address) = leader.address.parse() {
            let now = self.runtime.now();
            let mut router = self.router();
            if router.is_preferred(address) {
                return;
            }
            if router.is_fresh(address, now) {
                router.prefer(address, now);
                return;
            }
        }
        self.spawn_probe(leader.address.clone(), true);
    }

    /// Asks the node at `address` for a sign of life, in the background.
    pub(crate) fn probe(self: &Arc<Self>, address: SocketAddr) {
        self.spawn_probe(address.to_string(), false);
    }

    fn spawn_probe(self: &Arc<Self>, name: String, is_leader: bool) {
        {
            let mut probes = self.probes.lock().unwrap_or_else(PoisonError::into_inner);
            if probes.len() >= PROBES_MAX || probes.contains(&name) {
                return;
            }
            probes.push(name.clone());
        }
        let inner = Arc::clone(self);
        self.runtime.spawn("client probe", async move {
            let probed = inner.run_probe(&name, is_leader);
            // A name may take seconds to resolve; the probe itself has its own timeout.
            probed.await;
            inner.probes.lock().unwrap_or_else(PoisonError::into_inner).retain(|other| *other != name);
        });
    }

    async fn run_probe(&self, name: &str, is_leader: bool) {
        let Ok(addresses) = self.resolve(name).await else { return };
        for address in addresses.into_iter().take(PROBES_MAX) {
            let sign = self.node(address).version().timeout(PROBE_TIMEOUT).once().await;
            let now = self.runtime.now();
            match (sign, is_leader) {
                (Ok(_), true) => {
                    self.router().prefer(address, now);
                    return;
                }
                (Ok(_), false) => self.router().heard(address, now),
                (Err(_), _) => self.router().silent(address, now),
            }
        }
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.endpoints)
    }
}

/// Keeps the addresses of one endpoint's name fresh, for as long as the client lives.
async fn keep_resolved(inner: Weak<Inner>, runtime: Runtime, index: usize, name: String) {
    let mut resolved_at: Option<Instant> = None;
    while let Some(inner) = inner.upgrade() {
        let is_old = resolved_at.is_none_or(|at| runtime.now() - at >= NAMES_AGE_MAX);
        if is_old || inner.router().has_silent_address(index) {
            match inner.resolve(&name).await {
                Ok(addresses) if !addresses.is_empty() => {
                    inner.router().set_addresses(index, addresses);
                    resolved_at = Some(runtime.now());
                }
                Ok(_) => tracing::warn!(%name, "the name has no address of this client's IP version"),
                Err(error) => tracing::warn!(%name, %error, "name not resolved, trying again"),
            }
        }
        drop(inner);
        runtime.sleep(NAMES_LOOK).await;
    }
}
