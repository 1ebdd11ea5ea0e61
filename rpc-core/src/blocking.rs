//! Calls from programs without async: a peer on a thread of its own, and [`Wait::wait`] in place of `.await`.
//!
//! The clients, the services and the errors are those of the rest of this crate.
//!
//! ```
//! use std::sync::Arc;
//!
//! use rpc_core::blocking::{Peer, Wait};
//! use rpc_core::rpc::{Ctx, Never};
//!
//! #[rpc_core::service]
//! trait Greeter {
//!     fn hello(&self, ctx: Ctx, name: String) -> Result<String, Never>;
//! }
//!
//! struct English;
//!
//! impl Greeter for English {
//!     fn hello(&self, _: Ctx, name: String) -> Result<String, Never> {
//!         Ok(format!("Hello, {name}!"))
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let any = "127.0.0.1:0".parse()?;
//! let server = Peer::start(any, |peer, socket| {
//!     peer.services(greeter_services(Arc::new(English))).start_insecure(socket)
//! })?;
//! let client = Peer::start(any, |peer, socket| peer.start_insecure(socket))?;
//!
//! let greeter = GreeterClient::new(client.remote(server.local_addr()));
//! assert_eq!(greeter.hello("Ada".into()).wait()?, "Hello, Ada!");
//! # Ok(())
//! # }
//! ```

use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::runtime::Handle;

use crate::driver::{system, udp::UdpSocket};
use crate::peer::{self, Builder, Mounts};
use crate::rpc::{Code, Remote, RpcError};
use crate::runtime::Runtime;

/// A peer on a thread of its own; handlers run on that thread too. Closed when it is dropped.
///
/// The thread ends when the peer is closed and nothing of it is held any more: no [`Remote`], no call.
pub struct Peer {
    peer: peer::Peer,
    runtime: Runtime,
}

impl Peer {
    /// Starts a peer on `address` (port 0: any free one). `build` sets it up and starts it, as an async program would.
    ///
    /// # Errors
    /// When the address is taken, the thread cannot be started, `build` fails, or this is called from async code.
    pub fn start<E: Into<Box<dyn Error + Send + Sync>>>(
        address: SocketAddr,
        build: impl FnOnce(Builder, UdpSocket) -> Result<peer::Peer, E>,
    ) -> io::Result<Self> {
        if is_async() {
            return Err(io::Error::other(REFUSAL));
        }
        let driver = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (runtime, unused) = system::kept_runtime(driver.handle().clone());
        let peer = {
            let _entered = driver.enter();
            build(peer::Peer::builder(runtime.clone()), UdpSocket::bind(address)?)
                .map_err(io::Error::other)?
        };
        std::thread::Builder::new().name(format!("rpc {}", peer.local_addr())).spawn(move || {
            // The sender says nothing, it is dropped.
            let _ = driver.block_on(unused);
        })?;
        Ok(Self { peer, runtime })
    }

    /// The address of the socket.
    pub fn local_addr(&self) -> SocketAddr {
        self.peer.local_addr()
    }

    /// The peer at `address`. Nothing is sent before the first call.
    pub fn remote(&self, address: SocketAddr) -> Remote {
        self.peer.remote(address)
    }

    /// What the peer serves, to be changed while it runs.
    pub fn services(&self) -> Mounts {
        self.peer.services()
    }

    /// Refuses new calls, lets the open ones end for at most `grace`, then closes.
    pub fn drain(self, grace: Duration) {
        let peer = self.peer.clone();
        self.end(async move { peer.drain(grace).await });
    }

    /// Tells all peers and ends; open calls end with an error. What dropping does, too.
    pub fn close(self) {}

    /// Waits for `end`. Async code must not be held up: there it goes on by itself.
    fn end(&self, end: impl Future<Output = ()> + Send + 'static) {
        if is_async() {
            self.runtime.spawn("end of a peer", end);
        } else {
            system::block_on(end);
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let peer = self.peer.clone();
        self.end(async move { peer.close().await });
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.peer.fmt(f)
    }
}

/// Waits for what async code would await: a call, or anything else that ends in a `Result` with errors of calls.
pub trait Wait<T, E>: IntoFuture<Output = Result<T, E>> + Sized {
    /// Blocks this thread until the result is there.
    ///
    /// # Errors
    /// Those of the call. In async code, and on any thread of an async runtime, nothing is sent and the error says so
    /// ([`Code::Cancelled`], not executed): blocking there would stop the tasks that the answer needs.
    fn wait(self) -> Result<T, E>;
}

impl<C: IntoFuture<Output = Result<T, E>>, T, E: From<RpcError>> Wait<T, E> for C {
    fn wait(self) -> Result<T, E> {
        if is_async() {
            return Err(RpcError::not_executed(Code::Cancelled, REFUSAL).into());
        }
        system::block_on(self.into_future())
    }
}

const REFUSAL: &str = "blocking is not possible in async code: use `rpc_core::peer` and `.await`";

/// Whether this thread runs async tasks, of tokio or of a simulated world.
fn is_async() -> bool {
    Handle::try_current().is_ok() || Runtime::current().is_some()
}
