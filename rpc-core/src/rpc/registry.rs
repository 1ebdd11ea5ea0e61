//! The services of a peer: full method names and their handlers, from traits, from closures, nested.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::context::{Caller, Ctx};
use super::error::{Code, Failure, HandlerError, Outcome, RpcError};
use super::handle::{self, Carried, Carrier, HandleId, Kind};
use super::limits::{Gate, GateSnapshot};
use super::metrics::MethodMetrics;
use super::path::MethodId;
use super::policy::MethodPolicy;
use super::schema::{MethodSchema, Schema};
use super::{codec, envelope};
use crate::endpoint::CallId;
use crate::runtime::BoxFuture;

/// A set of methods by name, to be served by a peer. Cheap to clone.
#[derive(Clone, Default)]
pub struct Services {
    methods: BTreeMap<String, Method>,
}

/// One method: what to run for it.
#[derive(Clone)]
pub struct Method {
    /// What it takes and answers.
    pub schema: MethodSchema,
    /// Runs the method on an encoded body.
    pub handler: Handler,
    /// What a request passes before that.
    pub policy: MethodPolicy,
}

/// Runs a method on an encoded body.
pub type Handler = Arc<dyn Fn(Ctx, Bytes) -> BoxFuture<Result<Bytes, Failure>> + Send + Sync>;

impl Services {
    /// No methods.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a method from an async closure on typed bodies. A later method of the same name replaces an earlier one.
    #[must_use]
    pub fn method<Q, R, E, F, Fut>(self, name: &str, handler: F) -> Self
    where
        Q: DeserializeOwned + 'static,
        R: Serialize,
        E: HandlerError,
        F: Fn(Ctx, Q) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, E>> + Send + 'static,
    {
        self.typed(name, MethodSchema::of_closure::<Q, R, E>(false), handler)
    }

    /// Adds a method from a plain closure. It runs on the peer's own task: it must neither block nor take long.
    #[must_use]
    pub fn method_sync<Q, R, E, F>(self, name: &str, handler: F) -> Self
    where
        Q: DeserializeOwned + 'static,
        R: Serialize,
        E: HandlerError,
        F: Fn(Ctx, Q) -> Result<R, E> + Send + Sync + 'static,
    {
        self.typed_sync(name, MethodSchema::of_closure::<Q, R, E>(false), handler)
    }

    /// Adds a method as [`Services::method`] does, with what is known about it.
    #[must_use]
    pub fn typed<Q, R, E, F, Fut>(self, name: &str, schema: MethodSchema, handler: F) -> Self
    where
        Q: DeserializeOwned + 'static,
        R: Serialize,
        E: HandlerError,
        F: Fn(Ctx, Q) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, E>> + Send + 'static,
    {
        let refusal = Refusal::new(schema);
        let handler: Handler = Arc::new(move |ctx, body: Bytes| match decode_request(&ctx, &body) {
            Ok(request) => {
                let (from, call) = (Arc::clone(ctx.from()), ctx.call);
                let answer = handler(ctx, request);
                Box::pin(async move { encode_answer(answer.await, &from, call) })
            }
            Err(error) => {
                let refusal = refusal.of(&error);
                Box::pin(async move { Err(refusal) })
            }
        });
        self.with_method(name, Method { schema, handler, policy: MethodPolicy::default() })
    }

    /// Adds a method as [`Services::method_sync`] does, with what is known about it.
    #[must_use]
    pub fn typed_sync<Q, R, E, F>(self, name: &str, schema: MethodSchema, handler: F) -> Self
    where
        Q: DeserializeOwned + 'static,
        R: Serialize,
        E: HandlerError,
        F: Fn(Ctx, Q) -> Result<R, E> + Send + Sync + 'static,
    {
        let shared = Arc::new((handler, Refusal::new(schema)));
        let handler: Handler = Arc::new(move |ctx, body: Bytes| {
            let shared = Arc::clone(&shared);
            // Inside the future, so that a panic is caught as that of an async handler is.
            Box::pin(async move {
                let (handler, refusal) = &*shared;
                match decode_request(&ctx, &body) {
                    Ok(request) => {
                        let (from, call) = (Arc::clone(ctx.from()), ctx.call);
                        encode_answer(handler(ctx, request), &from, call)
                    }
                    Err(error) => Err(refusal.of(&error)),
                }
            })
        });
        self.with_method(name, Method { schema, handler, policy: MethodPolicy::default() })
    }

    /// Adds a method on encoded bodies, which it may keep.
    #[must_use]
    pub fn raw(self, name: &str, method: Method) -> Self {
        let Method { schema, handler, policy } = method;
        let handler: Handler = Arc::new(move |ctx, body| handler(ctx, envelope::to_be_kept(body)));
        self.with_method(name, Method { schema, handler, policy })
    }

    fn with_method(mut self, name: &str, method: Method) -> Self {
        self.methods.insert(name.to_owned(), method);
        self
    }

    /// Sets what requests of the method `name` pass before it runs.
    ///
    /// # Panics
    /// When there is no such method: without the limits that it was to have it would not be safe to serve.
    #[must_use]
    pub fn with(mut self, name: &str, policy: MethodPolicy) -> Self {
        let Some(method) = self.methods.get_mut(name) else {
            panic!("no method `{name}` to set a policy for")
        };
        method.policy = policy;
        self
    }

    /// Puts all methods that are here now behind one gate: a limit of the service, or exclusive access to it.
    #[must_use]
    pub fn behind(mut self, gate: &Arc<Gate>) -> Self {
        for method in self.methods.values_mut() {
            method.policy = std::mem::take(&mut method.policy).gate(Arc::clone(gate));
        }
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
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.methods.keys()).finish()
    }
}

/// The methods of a peer by their id on the wire. Never changed, only replaced: who holds one can go on with it.
#[derive(Default)]
pub(crate) struct Table {
    methods: BTreeMap<MethodId, Arc<Served>>,
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.methods.values().map(|served| &served.name)).finish()
    }
}

impl Carried for Table {
    fn kind(&self) -> Kind {
        Kind::Service
    }

    fn attach(&self, _: &Carrier, _: HandleId) -> bool {
        true
    }

    fn detach(&self, _: &RpcError) {}

    fn strand(&self) {}
}

/// A method that is served.
pub(crate) struct Served {
    pub(crate) id: MethodId,
    /// The full name.
    pub(crate) name: Arc<str>,
    pub(crate) method: Method,
    pub(crate) metrics: MethodMetrics,
}

impl Served {
    /// Whether the method is a part of the protocol.
    pub(crate) fn is_reserved(&self) -> bool {
        self.name.starts_with('@')
    }

    /// Who stands before its gates, the first one first.
    pub(crate) fn gates(&self) -> Vec<GateSnapshot> {
        self.method.policy.gates().iter().map(|gate| gate.snapshot()).collect()
    }
}

impl Table {
    pub(crate) fn get(&self, id: MethodId) -> Option<&Arc<Served>> {
        self.methods.get(&id)
    }

    /// All methods, by id.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Served> {
        self.methods.values().map(|served| &**served)
    }

    /// The method with this id, to be held on to.
    pub(crate) fn shared(&self, id: MethodId) -> Option<Arc<Served>> {
        self.methods.get(&id).map(Arc::clone)
    }

    /// This table and `services`.
    ///
    /// # Errors
    /// When a name is taken, or has the id of another.
    pub(crate) fn with(&self, services: &Services) -> Result<Self, NameCollision> {
        let mut methods = self.methods.clone();
        for (name, method) in &services.methods {
            let id = MethodId::of(name);
            if let Some(other) = methods.get(&id) {
                return Err(NameCollision { first: other.name.to_string(), second: name.clone() });
            }
            let metrics = MethodMetrics::default();
            let served = Served { id, name: name.as_str().into(), method: method.clone(), metrics };
            methods.insert(id, Arc::new(served));
        }
        Ok(Self { methods })
    }

    /// This table without what is mounted at `path`, and how many methods that were.
    pub(crate) fn without(&self, path: &str) -> (Self, usize) {
        let below =
            |name: &str| name.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        let mut methods = self.methods.clone();
        methods.retain(|_, served| !below(&served.name));
        let removed = self.methods.len() - methods.len();
        (Self { methods }, removed)
    }

    /// The full names and their methods, ascending by name; not the reserved methods, which are part of the
    /// protocol.
    pub(crate) fn catalogue(&self) -> Vec<(String, Method)> {
        let mut methods: Vec<_> = self
            .methods
            .values()
            .filter(|served| !served.is_reserved())
            .map(|served| (served.name.to_string(), served.method.clone()))
            .collect();
        methods.sort_by(|(one, _), (other, _)| one.cmp(other));
        methods
    }
}

/// Two methods of one peer that a request could not tell apart: one name, or two names with one wire id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameCollision {
    first: String,
    second: String,
}

impl fmt::Display for NameCollision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, second } = self;
        if first == second {
            return write!(f, "a method `{first}` is served already");
        }
        write!(f, "methods `{first}` and `{second}` share one wire id: rename one")
    }
}

impl std::error::Error for NameCollision {}

/// What a method tells a caller whose body it cannot read; computed once, because garbage is cheap to send.
struct Refusal {
    schema: MethodSchema,
    summary: OnceLock<Schema>,
}

impl Refusal {
    fn new(schema: MethodSchema) -> Self {
        Self { schema, summary: OnceLock::new() }
    }

    fn of(&self, error: &codec::CodecError) -> Failure {
        let mut refusal = RpcError::not_executed(Code::BadRequest, format!("request body: {error}"));
        refusal.schema = Some(Box::new(self.summary.get_or_init(|| self.schema.summary()).clone()));
        refusal.into()
    }
}

/// Decodes a request, with the services and streams in it.
fn decode_request<Q: DeserializeOwned + 'static>(ctx: &Ctx, body: &Bytes) -> Result<Q, codec::CodecError> {
    handle::bind(|| ctx.caller.arrival(ctx.call), || codec::decode_shared(body))
}

/// Encodes what a handler answered. A result that cannot be encoded has been computed: the call was executed.
fn encode_answer<R: Serialize, E: HandlerError>(
    answer: Result<R, E>,
    from: &Caller,
    call: CallId,
) -> Result<Bytes, Failure> {
    let failed = |error: codec::CodecError| {
        Failure::Rpc(RpcError::new(Code::Internal, Outcome::Unknown, format!("answer not encoded: {error}")))
    };
    match answer {
        Ok(result) => {
            let (body, cargo) = handle::collect(|| codec::encode(&result));
            let body = body.map_err(failed)?;
            if !cargo.is_empty()
                && let Some(carrier) = from.caller.carrier()
            {
                carrier
                    .0
                    .attach(call, true, &cargo)
                    .map_err(|error| RpcError { outcome: Outcome::Unknown, ..error })?;
            }
            Ok(body)
        }
        Err(error) => Err(error.into_failure().map_err(failed)?),
    }
}
