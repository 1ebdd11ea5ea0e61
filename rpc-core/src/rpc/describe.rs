//! What a running peer tells about itself: the service `rpc`, served by every peer unless its builder is told otherwise.
//!
//! | method | answer |
//! | --- | --- |
//! | `rpc.ping` | null, at once |
//! | `rpc.describe` | all methods: a [`Description`] |
//! | `rpc.method` | one method by its id on the wire, if the peer has it |
//! | `rpc.cddl` | the bodies of all methods in CDDL (RFC 8610) |

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::context::Ctx;
use super::error::Never;
use super::limits::{Gate, GateSnapshot, Limits};
use super::path::MethodId;
use super::registry::{Method, Services};
use super::schema::{self, MethodSchema, Schema, ServiceSchema};

/// The service `rpc`.
#[crate::service(name = "rpc")]
pub trait Reflection {
    /// Answers at once: the peer lives and serves.
    #[rpc(idempotent)]
    async fn ping(&self, ctx: Ctx) -> Result<(), Never>;

    /// All methods that the peer serves now, by name.
    #[rpc(idempotent)]
    async fn describe(&self, ctx: Ctx) -> Result<Description, Never>;

    /// The method with this id on the wire.
    #[rpc(idempotent)]
    async fn method(&self, ctx: Ctx, id: u32) -> Result<Option<MethodDescription>, Never>;

    /// What the methods take and answer, in CDDL (RFC 8610).
    #[rpc(idempotent)]
    async fn cddl(&self, ctx: Ctx) -> Result<String, Never>;
}

/// The methods of a peer. Its `Display` is a table for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// By full name, ascending.
    pub methods: Vec<MethodDescription>,
}

/// One method of a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MethodDescription {
    /// The full name.
    pub name: String,
    /// The id on the wire.
    pub id: u32,
    /// Arguments and answer: `(a: i64, b: i64) -> Result<i64, Never>`.
    pub signature: String,
    /// The options that were declared, as they were written.
    pub options: Vec<String>,
    /// The documentation.
    pub docs: String,
    /// Whether a repeated execution changes nothing.
    pub idempotent: bool,
    /// The version that was declared; 0 if none was.
    pub version: u32,
    /// 64 bits over the shapes that travel; none for a method from a closure.
    pub fingerprint: Option<u64>,
    /// What a request passes before the method runs, the first one first.
    #[serde(default)]
    pub limits: Vec<Limit>,
}

/// A limit of a method, or of the service it is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// Calls that run at once.
    pub max_concurrent: u32,
    /// Calls that wait; one more is answered SERVER_BUSY, or LOCKED.
    pub max_queue: u32,
    /// Whether one call has exclusive access (for each key, where there are keys).
    pub exclusive: bool,
    /// Calls that run now.
    pub running: u32,
    /// Calls that wait now.
    pub queued: u32,
    /// Who has exclusive access now, for people.
    #[serde(default)]
    pub holders: Vec<String>,
}

impl Limit {
    fn of(gate: &Gate) -> Self {
        let Limits { max_concurrent, max_queue } = gate.limits();
        let GateSnapshot { running, queued, holders } = gate.snapshot();
        let holders = holders.iter().map(|(key, holder)| holder.shown(key)).collect();
        Self { max_concurrent, max_queue, exclusive: gate.is_exclusive(), running, queued, holders }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { max_concurrent, max_queue, exclusive, running, queued, holders } = self;
        let kind = if *exclusive { "exclusive" } else { "at once" };
        write!(f, "{running} of {max_concurrent} {kind}, {queued} of {max_queue} waiting")?;
        holders.iter().try_for_each(|holder| write!(f, ", held by {holder}"))
    }
}

impl MethodDescription {
    /// Describes the method with the full name `name`. Traces its types: not for a path that is walked often.
    pub fn new(name: &str, schema: &MethodSchema) -> Self {
        let Schema { fingerprint, signature } = schema.summary();
        Self {
            name: name.to_owned(),
            id: MethodId::of(name).0,
            signature,
            options: schema.options.iter().map(|option| (*option).to_owned()).collect(),
            docs: schema.docs.to_owned(),
            idempotent: schema.idempotent,
            version: schema.version,
            fingerprint,
            limits: Vec::new(),
        }
    }

    fn of(name: &str, method: &Method) -> Self {
        let limits = method.policy.gates().iter().map(|gate| Limit::of(gate)).collect();
        Self { limits, ..Self::new(name, &method.schema) }
    }
}

impl Description {
    /// The method with the full name `name`.
    pub fn method(&self, name: &str) -> Option<&MethodDescription> {
        let index = self.methods.binary_search_by(|method| method.name.as_str().cmp(name)).ok()?;
        self.methods.get(index)
    }

    /// Holds what the peer serves against what a client was built with, mounted below `path` (empty for the root).
    pub fn compare(&self, path: &str, client: &ServiceSchema) -> Comparison {
        let rows = client.methods.iter().map(|method| {
            let name =
                if path.is_empty() { method.name.to_owned() } else { format!("{path}.{}", method.name) };
            let ours = method.summary();
            let fit = match self.method(&name) {
                None => Fit::Missing,
                Some(theirs) if theirs.fingerprint.is_none() => {
                    Fit::Unknown { server: theirs.signature.clone() }
                }
                Some(theirs) if theirs.fingerprint == ours.fingerprint => Fit::Same,
                Some(theirs) => Fit::Differs { server: theirs.signature.clone() },
            };
            (format!("{name}{}", ours.signature), fit)
        });
        Comparison { methods: rows.collect() }
    }
}

/// The table of a server: per service its methods with id, fingerprint, signature, options and documentation.
impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut service = None;
        for method in &self.methods {
            let (path, name) = method.name.rsplit_once('.').unwrap_or(("", &method.name));
            if service != Some(path) {
                let shown = if path.is_empty() { "(root)" } else { path };
                writeln!(f, "{}{shown}", if service.is_some() { "\n" } else { "" })?;
                service = Some(path);
            }
            let fingerprint =
                method.fingerprint.map_or_else(|| "-".to_owned(), |bits| format!("{bits:016x}"));
            write!(f, "  {:#010x}  {fingerprint:16}  {name}{}", method.id, method.signature)?;
            if !method.options.is_empty() {
                write!(f, "  [{}]", method.options.join(", "))?;
            }
            writeln!(f)?;
            for line in method.docs.lines() {
                writeln!(f, "      {line}")?;
            }
            for limit in &method.limits {
                writeln!(f, "      ({limit})")?;
            }
        }
        Ok(())
    }
}

/// A client's methods against a server's. Its `Display` is a table for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// Each method of the client: full name with signature, and how it fits.
    pub methods: Vec<(String, Fit)>,
}

impl Comparison {
    /// Whether every method of the client is the server's too.
    pub fn is_same(&self) -> bool {
        self.methods.iter().all(|(_, fit)| *fit == Fit::Same)
    }
}

/// How a client's method fits the server's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fit {
    /// The fingerprints are the same.
    Same,
    /// The server has another method of that name.
    Differs {
        /// The server's signature.
        server: String,
    },
    /// The server's method comes from a closure, whose answer has no known shape.
    Unknown {
        /// The server's signature.
        server: String,
    },
    /// The server has no method of that name.
    Missing,
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (method, fit) in &self.methods {
            match fit {
                Fit::Same => writeln!(f, "same     {method}")?,
                Fit::Differs { server } => writeln!(f, "DIFFERS  {method}\n         server: {server}")?,
                Fit::Unknown { server } => writeln!(f, "unknown  {method}\n         server: {server}")?,
                Fit::Missing => writeln!(f, "MISSING  {method}")?,
            }
        }
        Ok(())
    }
}

/// The service `rpc` over the methods that `catalogue` names, asked anew at each call.
pub(crate) fn services(catalogue: impl Fn() -> Vec<(String, Method)> + Send + Sync + 'static) -> Services {
    reflection_services(Arc::new(Mirror { catalogue }))
}

struct Mirror<C> {
    catalogue: C,
}

impl<C: Fn() -> Vec<(String, Method)> + Send + Sync + 'static> Reflection for Mirror<C> {
    async fn ping(&self, _: Ctx) -> Result<(), Never> {
        Ok(())
    }

    async fn describe(&self, _: Ctx) -> Result<Description, Never> {
        let methods = (self.catalogue)();
        Ok(Description {
            methods: methods.iter().map(|(name, method)| MethodDescription::of(name, method)).collect(),
        })
    }

    async fn method(&self, _: Ctx, id: u32) -> Result<Option<MethodDescription>, Never> {
        let methods = (self.catalogue)();
        let found = methods.iter().find(|(name, _)| MethodId::of(name).0 == id);
        Ok(found.map(|(name, method)| MethodDescription::of(name, method)))
    }

    async fn cddl(&self, _: Ctx) -> Result<String, Never> {
        let methods = (self.catalogue)();
        let schemas: Vec<_> = methods.into_iter().map(|(name, method)| (name, method.schema)).collect();
        Ok(schema::rules(&schemas))
    }
}
