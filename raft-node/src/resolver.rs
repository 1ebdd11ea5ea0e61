//! Names to addresses, outside the send path: a lookup of a dead name may block for ten seconds.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rpc_core::runtime::Runtime;

/// Knows addresses. Asked on the send path, so it answers from what it knows and never waits.
pub trait Resolver: Send + Sync + 'static {
    /// The socket address of `host:port`, if it is known; asking for an unknown one makes it be looked up.
    fn resolve(&self, address: &str) -> Option<SocketAddr>;
}

/// Knows literal `ip:port` only.
#[derive(Clone, Copy, Debug, Default)]
pub struct Literal;

impl Resolver for Literal {
    fn resolve(&self, address: &str) -> Option<SocketAddr> {
        address.parse().ok()
    }
}

/// Asks the system, on a thread per name: until it answers every [`RETRY_INTERVAL`], and then every
/// [`REFRESH_INTERVAL`], so that a container that comes back with another address is found. A name that cannot be
/// looked up any more keeps the address that it had.
#[derive(Clone)]
pub struct SystemNames {
    runtime: Runtime,
    /// Whether the socket that will send to the answers speaks IPv4; those of the other family are of no use.
    ipv4: bool,
    names: Arc<Mutex<BTreeMap<String, Option<SocketAddr>>>>,
}

/// Between two lookups of a name that has no address yet.
pub const RETRY_INTERVAL: Duration = Duration::from_millis(250);
/// Between two lookups of a name that has one.
pub const REFRESH_INTERVAL: Duration = Duration::from_secs(5);
/// How many names are looked up; more are never known. A member needs one.
pub const NAMES_MAX: usize = 256;

impl SystemNames {
    /// Knows nothing yet. `local` is the address of the socket that will send to the answers.
    pub fn new(runtime: Runtime, local: SocketAddr) -> Self {
        Self { runtime, ipv4: local.is_ipv4(), names: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Option<SocketAddr>>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks `name` up for as long as anybody but this task holds the names.
    async fn keep_known(self, name: String) {
        while Arc::strong_count(&self.names) > 1 {
            let found = name.to_socket_addrs().ok();
            let found = found.and_then(|mut found| found.find(|address| address.is_ipv4() == self.ipv4));
            if let Some(address) = found {
                let before = self.lock().insert(name.clone(), Some(address)).flatten();
                if before != Some(address) {
                    tracing::info!(name, %address, "name resolved");
                }
            }
            let known = self.lock().get(&name).is_some_and(Option::is_some);
            self.runtime.sleep(if known { REFRESH_INTERVAL } else { RETRY_INTERVAL }).await;
        }
    }
}

impl Resolver for SystemNames {
    fn resolve(&self, address: &str) -> Option<SocketAddr> {
        if let Ok(literal) = address.parse() {
            return Some(literal);
        }
        let mut names = self.lock();
        if let Some(known) = names.get(address) {
            return *known;
        }
        if names.len() < NAMES_MAX {
            names.insert(address.to_owned(), None);
            let lookup = self.clone().keep_known(address.to_owned());
            self.runtime.spawn_thread("names", lookup);
        }
        None
    }
}

impl fmt::Debug for SystemNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SystemNames").field("names", &*self.lock()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use rpc_core::driver::system;

    use super::*;

    #[test]
    fn literals_are_known_at_once_and_names_after_a_lookup() {
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let runtime = system::runtime(tokio.handle().clone());
        tokio.block_on(async {
            let names = SystemNames::new(runtime.clone(), SocketAddr::from(([127, 0, 0, 1], 0)));
            assert_eq!(names.resolve("127.0.0.1:1"), Some(SocketAddr::from(([127, 0, 0, 1], 1))));
            let known = async {
                while names.resolve("localhost:7").is_none() {
                    runtime.sleep(Duration::from_millis(1)).await;
                }
                names.resolve("localhost:7")
            };
            let found = runtime.timeout(Duration::from_secs(10), known).await.unwrap().unwrap();
            assert!(found.ip().is_loopback() && found.port() == 7);
        });
    }

    #[test]
    fn nonsense_is_never_known() {
        assert_eq!(Literal.resolve("localhost:1"), None);
        assert_eq!(Literal.resolve(""), None);
    }
}
