//! What a service looks like from outside: signatures, fingerprints, CDDL.
//!
//! The macro writes a [`ServiceSchema`] for every trait; it is plain constant data and costs a call nothing. The shape
//! that travels is found only when somebody asks, by tracing the types' own `Deserialize` (module `probe` says what
//! that sees and what not).
//!
//! A **fingerprint** is 64 bits over the shapes of request, result and error and the method's declared version. It
//! changes when a field, a variant, a number's width, an order or `#[rpc(version = N)]` changes; names of types and of
//! arguments do not travel and do not count. It is compared only after a body could not be read, to say why.

mod cddl;
mod probe;
mod shape;

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) use self::cddl::rules;
pub use self::shape::{Body, Content, Definition, Field, Shape, Shapes, Variant};

/// A service as a trait declares it.
#[derive(Clone, Copy, Debug)]
pub struct ServiceSchema {
    /// The trait's name.
    pub name: &'static str,
    /// The trait's documentation.
    pub docs: &'static str,
    /// The methods in the order of the trait.
    pub methods: &'static [MethodSchema],
}

/// A method as it was declared.
#[derive(Clone, Copy, Debug)]
pub struct MethodSchema {
    /// The name below the path at which the service is mounted.
    pub name: &'static str,
    /// Arguments and answer as they were written.
    pub signature: Signature,
    /// The documentation.
    pub docs: &'static str,
    /// The options as they were written in `#[rpc(..)]`.
    pub options: &'static [&'static str],
    /// Whether a repeated execution changes nothing.
    pub idempotent: bool,
    /// The version that was declared, for changes of meaning that no shape shows; 0 if none was.
    pub version: u32,
    /// Whether the shapes of result and error are known: not for closures, whose answers are only written.
    pub answer_traced: bool,
    /// Adds the shapes of request, result and error.
    pub trace: fn(Shapes) -> Shapes,
}

/// Arguments and answer as text.
#[derive(Clone, Copy, Debug)]
pub enum Signature {
    /// As it was written: `(a: i64, b: i64) -> Result<i64, Never>`.
    Written(&'static str),
    /// From the types of a closure, made when it is asked for.
    Typed(fn() -> String),
}

impl ServiceSchema {
    /// The service in CDDL (RFC 8610).
    ///
    /// Each method has the rules `NAME.request`, `NAME.result` and `NAME.error`; a rule is missing where nothing can
    /// travel. Structs and enums become rules of their own; what cannot be known is `any`.
    pub fn cddl(&self) -> String {
        cddl::service(self)
    }
}

/// The server's and the client's view of a service: one line per method.
impl fmt::Display for ServiceSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for method in self.methods {
            writeln!(f, "{:016x}  {}{}", method.fingerprint(), method.name, method.signature)?;
        }
        Ok(())
    }
}

impl MethodSchema {
    /// The schema of a closure on `Q` that answers `Result<R, E>`.
    pub const fn of_closure<Q: DeserializeOwned, R, E>(idempotent: bool) -> Self {
        Self {
            name: "",
            signature: Signature::Typed(closure_signature::<Q, R, E>),
            docs: "",
            options: if idempotent { &["idempotent"] } else { &[] },
            idempotent,
            version: 0,
            answer_traced: false,
            trace: trace_request::<Q>,
        }
    }

    /// 64 bits that change with the shape of what travels.
    pub fn fingerprint(&self) -> u64 {
        let canonical = (self.trace)(Shapes::default()).canonical();
        fnv1a_64(fnv1a_64(FNV_OFFSET, canonical.as_bytes()), &self.version.to_be_bytes())
    }

    /// What the method's side tells the other after a mismatch.
    pub fn summary(&self) -> Schema {
        Schema {
            fingerprint: self.answer_traced.then(|| self.fingerprint()),
            signature: self.signature.to_string(),
        }
    }
}

/// Adds the shapes of a method's request, result and error.
pub fn trace<Q: DeserializeOwned, R: DeserializeOwned, E: DeserializeOwned>(shapes: Shapes) -> Shapes {
    shapes.with::<Q>().with::<R>().with::<E>()
}

/// What an argument, a result and an error must be able to do; the macro names it at each of them.
#[doc(hidden)]
pub const fn travels<T: Serialize + DeserializeOwned>() {}

fn trace_request<Q: DeserializeOwned>(shapes: Shapes) -> Shapes {
    shapes.with::<Q>().with_any().with_any()
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Written(text) => f.write_str(text),
            Self::Typed(text) => f.write_str(&text()),
        }
    }
}

fn closure_signature<Q, R, E>() -> String {
    let request = short_type_name::<Q>();
    let arguments = if request.starts_with('(') { request } else { format!("({request})") };
    format!("{arguments} -> Result<{}, {}>", short_type_name::<R>(), short_type_name::<E>())
}

/// `alloc::vec::Vec<alloc::string::String>` as `Vec<String>`.
fn short_type_name<T>() -> String {
    let mut short = String::new();
    for part in
        std::any::type_name::<T>().split_inclusive(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'))
    {
        short.push_str(part.rsplit("::").next().unwrap_or(part));
    }
    short
}

/// What one side knows of a method, as it travels in errors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema {
    /// None for a method from a closure: the shape of its answer is not known.
    pub fingerprint: Option<u64>,
    /// Arguments and answer as they were written.
    pub signature: String,
}

impl Schema {
    /// Whether both fingerprints are known, and not the same.
    pub(crate) fn differs(&self, other: &Self) -> bool {
        self.fingerprint.zip(other.fingerprint).is_some_and(|(ours, theirs)| ours != theirs)
    }
}

impl fmt::Display for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.signature)?;
        self.fingerprint.map_or(Ok(()), |fingerprint| write!(f, " #{fingerprint:016x}"))
    }
}

/// FNV-1a of 64 bits.
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

fn fnv1a_64(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME))
}

#[cfg(test)]
mod tests;
