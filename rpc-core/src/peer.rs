//! What a user holds: one [`Peer`] per socket, server and client at once.
//!
//! One task drives the socket: it receives a batch, hands it to the endpoint, polls the handlers of the requests in it
//! once (only those that have to wait become tasks), lets everything that was woken run once, and then flushes, so that
//! requests, answers and acknowledgements share datagrams.

mod channel;
mod doorbell;
mod driver;
mod drops;
mod mounts;
mod peers;
mod roster;
mod serving;
mod sessions;
mod state;
mod waiting;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use self::channel::{Link, Target};
use self::doorbell::Doorbell;
pub use self::mounts::Mounts;
use self::peers::OnConnect;
pub use self::roster::{EVENTS_MAX, PeerEvent, PeerEvents, PeerInfo};
use self::state::State;
use crate::driver::DatagramSocket;
use crate::endpoint::{self, Endpoint};
use crate::rpc::envelope::Space;
use crate::rpc::interceptor::Interceptor;
use crate::rpc::limits::GateSnapshot;
use crate::rpc::metrics::{CallSnapshot, MethodSnapshot};
use crate::rpc::policy::Policy;
use crate::rpc::registry::{NameCollision, Served, Table};
use crate::rpc::retry::{Budgets, RetryPolicy};
use crate::rpc::{Remote, Services, describe, reserved};
use crate::runtime::Runtime;
use crate::security::Security;
use crate::wire::close;

/// Handlers that run at once on one peer; a call above that is answered SERVER_BUSY before it starts.
pub const HANDLERS_MAX: usize = 65_536;

/// The longest that latency mode asks before it sleeps.
const SPIN_MAX: Duration = Duration::from_secs(1);

/// One socket with its services and its connections. Cheap to clone; lives until it is closed.
#[derive(Clone)]
pub struct Peer {
    inner: Arc<Inner>,
}

/// What the handles, the channels and the driver task share.
struct Inner {
    runtime: Runtime,
    local_addr: SocketAddr,
    on_connect: Option<OnConnect>,
    policy: Arc<Policy>,
    budgets: Budgets,
    /// How long the driver always asks the socket before it sleeps.
    spin: Duration,
    state: Mutex<State>,
    /// Work for the driver: something to send, or the end.
    doorbell: Doorbell,
    /// The driver ended, or a drain is complete.
    quiet: Notify,
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Peer {
    /// Starts building a peer.
    pub fn builder(runtime: Runtime) -> Builder {
        Builder {
            runtime,
            services: Services::new(),
            config: endpoint::Config::default(),
            security: None,
            reflection: true,
            on_connect: None,
            policy: Policy::default(),
            interceptors: Vec::new(),
            spin: Duration::ZERO,
        }
    }

    /// The address of the socket.
    pub fn local_addr(&self) -> SocketAddr {
        self.inner.local_addr
    }

    /// The peer at `address`. Nothing is sent before the first call; a lost connection is made again by the next one.
    pub fn remote(&self, address: SocketAddr) -> Remote {
        let target = Target::Address(address);
        Remote::new(Arc::new(Link::new(Arc::clone(&self.inner), target)))
    }

    /// What the peer serves, to be changed while it runs.
    pub fn services(&self) -> Mounts {
        Mounts::new(Arc::clone(&self.inner))
    }

    /// Refuses new calls, lets the open ones end for at most `grace`, then closes.
    pub async fn drain(&self, grace: Duration) {
        {
            let mut state = self.inner.lock();
            state.draining = true;
            state.endpoint.drain(self.inner.runtime.now());
        }
        self.inner.doorbell.ring();
        let idle = async {
            loop {
                let quiet = self.inner.quiet.notified();
                if self.inner.lock().is_quiet() {
                    return;
                }
                quiet.await;
            }
        };
        // Whether it was idle or the grace is over, the next step is the same.
        let _ = self.inner.runtime.timeout(grace, idle).await;
        self.close().await;
    }

    /// Tells all peers and ends. Open calls end with an error, handlers are dropped.
    pub async fn close(&self) {
        {
            let mut state = self.inner.lock();
            state.closing = true;
            state.endpoint.close_all(self.inner.runtime.now(), close::NORMAL, "closed");
        }
        self.inner.doorbell.ring();
        self.closed().await;
    }

    /// Completes when the peer has ended: closed, or its socket failed.
    pub async fn closed(&self) {
        loop {
            let quiet = self.inner.quiet.notified();
            if self.inner.lock().ended {
                return;
            }
            quiet.await;
        }
    }

    /// How packets are protected.
    pub fn security(&self) -> Security {
        self.inner.lock().endpoint.security().clone()
    }

    /// What was sent, received, lost, dropped since the start.
    pub fn counters(&self) -> endpoint::Counters {
        self.inner.lock().endpoint.counters().clone()
    }

    /// What the calls of this peer did beside their first transmission.
    pub fn call_counters(&self) -> CallSnapshot {
        self.inner.policy.counters.snapshot()
    }

    /// What is counted of each method that is served, by its full name, and who stands before its gates.
    pub fn method_metrics(&self) -> BTreeMap<String, (MethodSnapshot, Vec<GateSnapshot>)> {
        let methods = Arc::clone(&self.inner.lock().methods);
        let snapshot =
            |served: &Served| (served.name.to_string(), (served.metrics.snapshot(), served.gates()));
        methods.iter().map(snapshot).collect()
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Peer({})", self.inner.local_addr)
    }
}

/// A peer in the making.
pub struct Builder {
    runtime: Runtime,
    services: Services,
    config: endpoint::Config,
    reflection: bool,
    on_connect: Option<OnConnect>,
    policy: Policy,
    interceptors: Vec<Arc<dyn Interceptor>>,
    security: Option<Security>,
    spin: Duration,
}

impl Builder {
    /// Serves these methods.
    #[must_use]
    pub fn services(mut self, services: Services) -> Self {
        self.services = services;
        self
    }

    /// Whether the peer serves `rpc.ping`, `rpc.describe` and the others of [`describe::Reflection`]; it does unless told
    /// otherwise.
    #[must_use]
    pub fn reflection(mut self, reflection: bool) -> Self {
        self.reflection = reflection;
        self
    }

    /// Sets the limits and timers of the transport.
    #[must_use]
    pub fn config(mut self, config: endpoint::Config) -> Self {
        self.config = config;
        self
    }

    /// Lets `judge` decide on each peer that connects, before any of its calls is served. An error sends the peer away
    /// and tells it why (its first 256 bytes); the peer's open calls then end not executed or unknown, as on any lost
    /// connection. It runs in the task that drives the socket, so it must not block.
    #[must_use]
    pub fn on_connect(
        mut self,
        judge: impl Fn(&PeerInfo) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        self.on_connect = Some(Arc::new(judge));
        self
    }

    /// Sets when calls are tried again.
    #[must_use]
    pub fn retries(mut self, retries: RetryPolicy) -> Self {
        self.policy.retries = retries;
        self
    }

    /// Puts `interceptor` around all calls, inside of those that were given before.
    #[must_use]
    pub fn interceptor(mut self, interceptor: impl Interceptor) -> Self {
        self.interceptors.push(Arc::new(interceptor));
        self
    }

    /// Compresses requests and answers (LZ4) above 1 KiB that shrink by a tenth, for peers that read them, where
    /// method and call do not say otherwise. Off unless set: on a fast network it costs more than it saves.
    #[must_use]
    pub fn compress(mut self, compress: bool) -> Self {
        self.policy.compress = compress;
        self
    }

    /// Tells callers what a handler panicked with, beside the error id. Off unless set: the words may be secrets.
    #[must_use]
    pub fn panic_messages(mut self, tell: bool) -> Self {
        self.policy.panic_messages = tell;
        self
    }

    /// Sets how packets are protected and who is let in. There is no default.
    #[must_use]
    pub fn security(mut self, security: Security) -> Self {
        self.security = Some(security);
        self
    }

    /// Latency mode: asks the socket again and again for `spin` before sleeping until something arrives. At most a
    /// second. With zero, which is the default, the peer does so only while an answer to a call of its own is awaited
    /// and answers have lately come within 50 microseconds, so that the calls of a near peer are answered sooner for no
    /// more of the processor.
    ///
    /// Sleeping and being woken takes some tens of microseconds on each side, more than all the rest of a small call on
    /// a fast network. `spin` should be a little longer than a round trip: 50 microseconds within a machine or a rack.
    /// The price is processor time: up to `spin` after everything that the peer sends or receives, and a whole core
    /// while its calls follow each other without longer pauses. An idle peer costs nothing. Other tasks of the runtime
    /// run in between; with the processors busy elsewhere, spinning only takes from them. Sockets that cannot be asked
    /// ([`DatagramSocket::can_spin`]), those of the simulation among them, ignore it.
    #[must_use]
    pub fn latency_mode(mut self, spin: Duration) -> Self {
        self.spin = spin.min(SPIN_MAX);
        self
    }

    /// Starts the peer on `socket`.
    ///
    /// # Errors
    /// When two methods share one wire id, or [`Builder::security`] was not called.
    pub fn start(mut self, socket: impl DatagramSocket) -> Result<Peer, StartError> {
        let security = self.security.take().ok_or(StartError::NoSecurity)?;
        Ok(self.start_with(security, socket)?)
    }

    /// Starts the peer on `socket`. Packets are checked, not encrypted: this mode must be asked for by its name.
    ///
    /// # Errors
    /// When two methods share one wire id, or one has the name of a built-in method.
    pub fn start_insecure(self, socket: impl DatagramSocket) -> Result<Peer, NameCollision> {
        self.start_with(Security::insecure(), socket)
    }

    fn start_with(self, security: Security, socket: impl DatagramSocket) -> Result<Peer, NameCollision> {
        let Self {
            runtime, services, config, reflection, on_connect, spin, mut policy, interceptors, ..
        } = self;
        policy.interceptors = interceptors.into();
        policy.space = Space::new(config.message_size_max);
        let random = runtime.clone();
        let (epoch, client_id) = (runtime.random_u64(), runtime.random_u128());
        let endpoint =
            Endpoint::new(config, security, epoch, client_id, Box::new(move || random.random_u64()));
        let inner = Arc::new(Inner {
            runtime: runtime.clone(),
            local_addr: socket.local_addr(),
            budgets: Budgets::new(policy.retries),
            policy: Arc::new(policy),
            on_connect,
            spin,
            state: Mutex::new(State::new(
                endpoint,
                Table::default().with(&services)?.with(&reserved::services())?,
            )),
            doorbell: Doorbell::default(),
            quiet: Notify::new(),
        });
        let peer = Peer { inner: Arc::clone(&inner) };
        if reflection {
            // The peer holds the service, the service must not hold the peer.
            let weak = Arc::downgrade(&inner);
            let methods =
                move || weak.upgrade().map_or_else(Vec::new, |inner| inner.lock().methods.catalogue());
            peer.services().merge(describe::services(methods))?;
        }
        runtime.spawn("peer driver", driver::drive(inner, socket));
        Ok(peer)
    }
}

/// Why a peer does not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartError {
    /// Two methods share one wire id.
    NameCollision(NameCollision),
    /// Nobody said how packets are protected.
    NoSecurity,
}

impl From<NameCollision> for StartError {
    fn from(collision: NameCollision) -> Self {
        Self::NameCollision(collision)
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NameCollision(collision) => collision.fmt(f),
            Self::NoSecurity => f.write_str("no security was chosen (Builder::security, or start_insecure)"),
        }
    }
}

impl std::error::Error for StartError {}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("services", &self.services).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
