//! Names by the system's resolver. A lookup may take many seconds: it runs beside everything else.

use std::io;
use std::net::SocketAddr;

use kv_client::Resolver;
use rpc_core::runtime::BoxFuture;

/// Resolves as every program of this machine does.
pub(crate) struct SystemNames;

impl Resolver for SystemNames {
    fn resolve(&self, name: String) -> BoxFuture<io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host(name).await?.collect()) })
    }
}
