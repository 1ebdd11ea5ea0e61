//! Names to addresses, outside the send path: a lookup of a dead name may block for ten seconds.

use std::net::SocketAddr;

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
