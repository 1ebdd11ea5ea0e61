//! What a user holds: one [`Peer`] per socket, server and client at once.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use crate::driver::DatagramSocket;
use crate::endpoint;
use crate::rpc::{Remote, Services};
use crate::runtime::Runtime;

/// One socket with its services and its connections. Cheap to clone; lives until it is closed.
#[derive(Clone, Debug)]
pub struct Peer {}

impl Peer {
    /// Starts building a peer.
    pub fn builder(runtime: Runtime) -> Builder {
        Builder { runtime, services: Services::new(), config: endpoint::Config::default() }
    }

    /// The address of the socket.
    pub fn local_addr(&self) -> SocketAddr {
        unimplemented!()
    }

    /// The peer at `address`. Nothing is sent before the first call; a lost connection is made again by the next one.
    pub fn remote(&self, address: SocketAddr) -> Remote {
        let _ = address;
        unimplemented!()
    }

    /// Refuses new calls, lets the open ones end for at most `grace`, then closes.
    pub async fn drain(&self, grace: Duration) {
        let _ = grace;
        unimplemented!()
    }

    /// Tells all peers and ends at once. Open calls end with an error.
    pub async fn close(&self) {
        unimplemented!()
    }

    /// What was sent, received, lost, dropped.
    pub fn counters(&self) -> endpoint::Counters {
        unimplemented!()
    }
}

/// A peer in the making.
pub struct Builder {
    runtime: Runtime,
    services: Services,
    config: endpoint::Config,
}

impl Builder {
    /// Serves these methods.
    #[must_use]
    pub fn services(mut self, services: Services) -> Self {
        self.services = services;
        self
    }

    /// Sets the limits and timers of the transport.
    #[must_use]
    pub fn config(mut self, config: endpoint::Config) -> Self {
        self.config = config;
        self
    }

    /// Starts the peer on `socket`. Packets are checked, not encrypted: this mode must be asked for by its name.
    ///
    /// # Errors
    /// When two methods share one wire id.
    pub fn start_insecure(
        self,
        socket: impl DatagramSocket,
    ) -> Result<Peer, crate::rpc::registry::NameCollision> {
        let _ = (self.runtime, self.services, self.config, socket);
        unimplemented!()
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("services", &self.services).finish_non_exhaustive()
    }
}
