//! The services of a peer: full method names and their handlers, from traits, from closures, nested.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::call::Remote;
use super::codec;
use super::error::{Code, Failure, Outcome, RpcError};
use super::path::MethodId;
use crate::runtime::{BoxFuture, Instant, Runtime};

/// What a handler knows about the call it serves. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Ctx {
    /// The address that the call came from.
    pub address: SocketAddr,
    /// The random id that the calling process drew at its start.
    pub client_id: u128,
    /// When the caller stops waiting, on this node's clock.
    pub deadline: Instant,
    /// The peer that calls: its services can be called back over the same connection.
    pub caller: Remote,
    /// Time, tasks and randomness for the handler.
    pub runtime: Runtime,
}

/// A set of methods by name, to be served by a peer. Cheap to clone.
#[derive(Clone, Default)]
pub struct Services {
    methods: BTreeMap<String, Method>,
}

/// One method: what to run for it.
#[derive(Clone)]
pub struct Method {
    /// Whether a repeated execution changes nothing.
    pub idempotent: bool,
    /// Runs the method on an encoded body.
    pub handler: Handler,
}

/// Runs a method on an encoded body.
pub type Handler = Arc<dyn Fn(Ctx, Bytes) -> BoxFuture<Result<Bytes, Failure>> + Send + Sync>;

impl Services {
    /// No methods.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a method from a closure on typed bodies. A later method of the same name replaces an earlier one.
    #[must_use]
    pub fn method<Q, R, E, F, Fut>(self, name: &str, handler: F) -> Self
    where
        Q: DeserializeOwned,
        R: Serialize,
        E: Serialize,
        F: Fn(Ctx, Q) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<R, E>> + Send + 'static,
    {
        self.typed(name, false, handler)
    }

    /// Adds a method as [`Services::method`] does, saying whether it is idempotent.
    #[must_use]
    pub fn typed<Q, R, E, F, Fut>(self, name: &str, idempotent: bool, handler: F) -> Self
    where
        Q: DeserializeOwned,
        R: Serialize,
        E: Serialize,
        F: Fn(Ctx, Q) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<R, E>> + Send + 'static,
    {
        let handler: Handler = Arc::new(move |ctx, body: Bytes| match codec::decode(&body) {
            Ok(request) => {
                let answer = handler(ctx, request);
                Box::pin(async move { encode_answer(answer.await) })
            }
            Err(error) => {
                let error = RpcError::not_executed(Code::BadRequest, format!("request body: {error}"));
                Box::pin(async move { Err(error.into()) })
            }
        });
        self.raw(name, Method { idempotent, handler })
    }

    /// Adds a method on encoded bodies.
    #[must_use]
    pub fn raw(mut self, name: &str, method: Method) -> Self {
        self.methods.insert(name.to_owned(), method);
        self
    }

    /// Adds all methods of `services` below `name`: `add` becomes `name.add`.
    #[must_use]
    pub fn nest(mut self, name: &str, services: Self) -> Self {
        for (method, handler) in services.methods {
            self.methods.insert(format!("{name}.{method}"), handler);
        }
        self
    }

    /// Adds all methods of `services`.
    #[must_use]
    pub fn merge(mut self, services: Self) -> Self {
        self.methods.extend(services.methods);
        self
    }

    /// The full names of all methods, ascending.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.methods.keys().map(String::as_str)
    }

    /// Runs the method `name` on an encoded body, as a peer does for a request from the network.
    pub fn dispatch(&self, name: &str, ctx: Ctx, body: Bytes) -> BoxFuture<Result<Bytes, Failure>> {
        match self.methods.get(name) {
            Some(method) => (method.handler)(ctx, body),
            None => {
                let error = RpcError::not_executed(Code::MethodNotFound, format!("no method `{name}`"));
                Box::pin(async move { Err(error.into()) })
            }
        }
    }

    /// The table by wire id.
    ///
    /// # Errors
    /// When two names share one id; one of them must be renamed.
    pub(crate) fn table(self) -> Result<BTreeMap<MethodId, (Arc<str>, Method)>, NameCollision> {
        let mut table: BTreeMap<MethodId, (Arc<str>, Method)> = BTreeMap::new();
        for (name, method) in self.methods {
            let id = MethodId::of(&name);
            if let Some((other, _)) = table.get(&id) {
                return Err(NameCollision { first: other.to_string(), second: name });
            }
            table.insert(id, (name.into(), method));
        }
        Ok(table)
    }
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.methods.keys()).finish()
    }
}

/// Two methods of one peer whose names have the same wire id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameCollision {
    first: String,
    second: String,
}

impl fmt::Display for NameCollision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "methods `{}` and `{}` share one wire id: rename one", self.first, self.second)
    }
}

impl std::error::Error for NameCollision {}

/// Encodes what a handler answered. A result that cannot be encoded has been computed: the call was executed.
fn encode_answer<R: Serialize, E: Serialize>(answer: Result<R, E>) -> Result<Bytes, Failure> {
    let failed = |error: codec::CodecError| {
        Failure::Rpc(RpcError::new(Code::Internal, Outcome::Unknown, format!("answer not encoded: {error}")))
    };
    match answer {
        Ok(result) => codec::encode(&result).map_err(failed),
        Err(error) => Err(Failure::Method(codec::encode(&error).map_err(failed)?)),
    }
}
