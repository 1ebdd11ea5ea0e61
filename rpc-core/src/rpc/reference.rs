//! Services that travel: as arguments and results of calls, to be called back over the same connection.
//!
//! Calls of such a service, and the end of it, are ordinary calls of reserved methods in the other direction:
//!
//! ```text
//! @ref.call     [handle-id, method: uint, body: bstr]    -> the method's answer
//! @ref.release  [* handle-id]                            -> null
//! ```
//! `method` is the id of the method's name within the service, as [`MethodId`] computes it. A call of a service that
//! was released, or that this connection never carried, is answered METHOD_NOT_FOUND, not executed.

use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::call::Remote;
use super::channel::{Answer, Attempt, Channel, Interception};
use super::codec;
use super::error::{Code, RpcError};
use super::handle::{self, Carrier, HandleId};
use super::metrics::CallCounters;
use super::path::MethodId;
use super::registry::{NameCollision, Services, Table};
use super::retry::{Budget, RetryPolicy};
use super::session::Session;
use crate::endpoint::ConnId;
use crate::runtime::{BoxFuture, Runtime};

/// A service that travels. `C` is what calls it: a generated client, or [`Remote`] for calls by name.
///
/// On the side that made it, it is the service itself; on the side that received it, in the arguments of a method or
/// in a result, [`ServiceRef::client`] calls it over the connection that it came by. The service lives as long as the
/// receiver holds it (the reference, a client made from it, or a clone of either), at most as long as the connection.
///
/// ```
/// # use rpc_core::rpc::{Ctx, Never, ServiceRef};
/// #[rpc_core::service]
/// trait Guest {
///     async fn ready(&self, ctx: Ctx, cake: u32) -> Result<(), Never>;
/// }
///
/// #[rpc_core::service]
/// trait Baker {
///     async fn bake(&self, ctx: Ctx, cakes: u32, guest: ServiceRef<GuestClient>) -> Result<(), Never>;
/// }
/// ```
pub struct ServiceRef<C = Remote> {
    place: Place,
    client: PhantomData<fn() -> C>,
}

#[derive(Clone)]
enum Place {
    /// A service of this side.
    Here(Arc<Table>),
    /// A service of the peer.
    There(Remote),
    /// Read outside of a call.
    Nowhere,
}

impl<C> ServiceRef<C> {
    /// Makes a reference to `services`, to be passed to peers.
    ///
    /// # Errors
    /// When two methods share one wire id.
    pub fn new(services: Services) -> Result<Self, NameCollision> {
        Ok(Self { place: Place::Here(Arc::new(Table::default().with(&services)?)), client: PhantomData })
    }
}

impl<C: From<Remote>> ServiceRef<C> {
    /// What calls the service.
    ///
    /// # Errors
    /// BAD_REQUEST when the reference did not come in the body of a call.
    pub fn client(&self) -> Result<C, RpcError> {
        let refused = |what| Err(RpcError::not_executed(Code::BadRequest, what));
        match &self.place {
            Place::There(remote) => Ok(remote.clone().into()),
            Place::Here(_) => refused("a reference to a service of this side is called by who receives it"),
            Place::Nowhere => refused("a reference that was not read from the body of a call leads nowhere"),
        }
    }
}

impl<C> Clone for ServiceRef<C> {
    fn clone(&self) -> Self {
        Self { place: self.place.clone(), client: PhantomData }
    }
}

impl<C> fmt::Debug for ServiceRef<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Here(table) => write!(f, "ServiceRef({table:?})"),
            Place::There(remote) => write!(f, "ServiceRef({remote:?})"),
            Place::Nowhere => f.write_str("ServiceRef(nowhere)"),
        }
    }
}

impl<C> Serialize for ServiceRef<C> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::Error;
        match &self.place {
            Place::Here(table) => handle::encode(serializer, Arc::<Table>::clone(table)),
            _ => Err(S::Error::custom(
                "a peer's service cannot travel on: pass a service of your own that calls it",
            )),
        }
    }
}

impl<'de, C> Deserialize<'de> for ServiceRef<C> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let read = handle::decode_service(deserializer)?;
        let bound = read.bound.and_then(|(carrier, id)| Some((Session::of(carrier)?, id)));
        let place = bound.map_or(Place::Nowhere, |(session, id)| {
            session.hold();
            Place::There(Remote::new(Arc::new(Import { session, id })))
        });
        Ok(Self { place, client: PhantomData })
    }
}

/// The channel to a service that a peer passed. Dropped, it releases the service.
struct Import {
    session: Arc<Session>,
    id: HandleId,
}

impl Channel for Import {
    fn attempt(&self, mut attempt: Attempt) -> BoxFuture<Answer> {
        match codec::encode(&(self.id, attempt.method.0, &attempt.body)) {
            Ok(body) => attempt.body = body,
            Err(error) => {
                let error = RpcError::not_executed(Code::BadRequest, error.to_string());
                return Box::pin(async move { Err(error.into()) });
            }
        }
        attempt.method = MethodId::of(CALL);
        self.session.channel().attempt(attempt)
    }

    fn address(&self) -> SocketAddr {
        self.session.channel().address()
    }

    fn runtime(&self) -> &Runtime {
        self.session.channel().runtime()
    }

    fn carrier(&self, _: Option<ConnId>) -> Option<Carrier> {
        Some(self.session.carrier())
    }

    fn interception(&self) -> Option<&dyn Interception> {
        self.session.channel().interception()
    }

    fn retries(&self) -> RetryPolicy {
        self.session.channel().retries()
    }

    fn counters(&self) -> Option<&CallCounters> {
        self.session.channel().counters()
    }

    fn budget(&self) -> Option<&Budget> {
        self.session.channel().budget()
    }
}

impl Drop for Import {
    fn drop(&mut self) {
        self.session.release(self.id);
    }
}

/// Calls a method of a service that travelled.
pub(crate) const CALL: &str = "@ref.call";
