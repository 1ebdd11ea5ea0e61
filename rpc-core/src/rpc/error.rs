//! Errors are part of the protocol: a code, what became of the call, where it arose, and what to do.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::codec::{self, CodecError};
use super::schema::{MethodSchema, Schema};

/// What became of a call that has no result. The worst over its transmissions: *unknown* beats *not executed*.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Outcome {
    /// The method certainly did not start and never will.
    NotExecuted,
    /// The method ran and answered this error.
    Executed,
    /// It may have run, may be running, or may not.
    Unknown,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotExecuted => "not executed",
            Self::Executed => "executed",
            Self::Unknown => "unknown",
        })
    }
}

/// What went wrong. The numbers travel on the wire (docs/PROTOCOL.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "u16", from = "u16")]
pub enum Code {
    /// The body is not what the method takes.
    BadRequest,
    /// No such method at the peer.
    MethodNotFound,
    /// The deadline passed.
    Timeout,
    /// The handler failed in a way it does not name (it panicked).
    Internal,
    /// The peer does not know who we are.
    Unauthorized,
    /// A limit of the peer is reached; try later.
    ServerBusy,
    /// The caller gave up.
    Cancelled,
    /// The connection ended.
    ConnectionLost,
    /// A body is larger than a limit.
    TooLarge,
    /// The two sides share no protocol version.
    Version,
    /// The peer knows who we are, and refuses.
    Forbidden,
    /// The handler stopped before its work was done.
    Aborted,
    /// The peer is shutting down and takes no new calls.
    Draining,
    /// The answer is not kept any more, only the fact that the call ran.
    UnknownOutcome,
    /// Exclusive access is held by somebody else.
    Locked,
    /// An answer could not be read.
    Codec,
    /// A body could not be read, and the two sides were built from different versions of the method.
    SchemaMismatch,
    /// A code that this version does not know.
    Other(u16),
}

const CODES: [(Code, u16); 17] = [
    (Code::BadRequest, 1),
    (Code::MethodNotFound, 2),
    (Code::Timeout, 3),
    (Code::Internal, 4),
    (Code::Unauthorized, 5),
    (Code::ServerBusy, 6),
    (Code::Cancelled, 7),
    (Code::ConnectionLost, 8),
    (Code::TooLarge, 9),
    (Code::Version, 10),
    (Code::Forbidden, 11),
    (Code::Aborted, 12),
    (Code::Draining, 13),
    (Code::UnknownOutcome, 14),
    (Code::Locked, 15),
    (Code::Codec, 16),
    (Code::SchemaMismatch, 17),
];

impl Code {
    /// Whether the same call may succeed if it is tried again later.
    pub fn is_transient(self) -> bool {
        matches!(
            self,
            Self::ServerBusy | Self::ConnectionLost | Self::Draining | Self::Aborted | Self::Locked
        )
    }
}

impl From<Code> for u16 {
    fn from(code: Code) -> Self {
        match code {
            Code::Other(number) => number,
            known => CODES.iter().find(|(code, _)| *code == known).map_or(0, |(_, number)| *number),
        }
    }
}

impl From<u16> for Code {
    fn from(number: u16) -> Self {
        CODES.iter().find(|(_, known)| *known == number).map_or(Self::Other(number), |(code, _)| *code)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::BadRequest => "BAD_REQUEST",
            Self::MethodNotFound => "METHOD_NOT_FOUND",
            Self::Timeout => "TIMEOUT",
            Self::Internal => "INTERNAL",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::ServerBusy => "SERVER_BUSY",
            Self::Cancelled => "CANCELLED",
            Self::ConnectionLost => "CONNECTION_LOST",
            Self::TooLarge => "TOO_LARGE",
            Self::Version => "VERSION",
            Self::Forbidden => "FORBIDDEN",
            Self::Aborted => "ABORTED",
            Self::Draining => "DRAINING",
            Self::UnknownOutcome => "UNKNOWN_OUTCOME",
            Self::Locked => "LOCKED",
            Self::Codec => "CODEC",
            Self::SchemaMismatch => "SCHEMA_MISMATCH",
            Self::Other(number) => return write!(f, "CODE_{number}"),
        };
        f.write_str(name)
    }
}

/// An error of the RPC system itself, as opposed to a method's own error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RpcError {
    /// What went wrong.
    pub code: Code,
    /// What became of the call.
    pub outcome: Outcome,
    /// For people; programs branch on `code` and `outcome`.
    pub message: String,
    /// The call that it is about: who was called, which method. `None` until the call has ended.
    pub origin: Option<Box<Origin>>,
    /// How long to wait before the next try, if the peer said so.
    pub retry_after: Option<Duration>,
    /// The callee's method, where a body could not be read.
    pub schema: Option<Box<Schema>>,
    /// The error of a call further on that led to this one, where a handler passed it on; at most [`CAUSES_MAX`] deep.
    pub cause: Option<Box<Self>>,
}

/// How many causes of an error are kept; those nearest to the caller.
pub const CAUSES_MAX: usize = 8;

impl RpcError {
    /// Turned into SCHEMA_MISMATCH if the two sides were built from different methods.
    pub(crate) fn explained(mut self, method: &str, ours: &MethodSchema, theirs: Option<&Schema>) -> Self {
        let ours = ours.summary();
        if let Some(theirs) = theirs.filter(|theirs| ours.differs(theirs)) {
            let sides = format!("this side was built with {ours}, the peer with {theirs}");
            self.message = format!("{method}: {sides}: {}", self.message);
            self.code = Code::SchemaMismatch;
        }
        self
    }

    /// An error without origin.
    pub fn new(code: Code, outcome: Outcome, message: impl Into<String>) -> Self {
        Self {
            code,
            outcome,
            message: message.into(),
            origin: None,
            retry_after: None,
            schema: None,
            cause: None,
        }
    }

    /// An error of a call that certainly did not start.
    pub fn not_executed(code: Code, message: impl Into<String>) -> Self {
        Self::new(code, Outcome::NotExecuted, message)
    }

    /// Says after which time a try is worth it.
    #[must_use]
    pub fn retry_after(mut self, pause: Duration) -> Self {
        self.retry_after = Some(pause);
        self
    }

    /// This error and its causes, each with its hop: 0 is the call that was made here, 1 the call that its handler
    /// made, and so on to where it arose.
    pub fn chain(&self) -> impl Iterator<Item = (usize, &Self)> {
        std::iter::successors(Some(self), |error| error.cause.as_deref()).enumerate()
    }

    /// What a handler answers whose own call ended with this error. The handler ran, so the outcome is not *not
    /// executed*, whatever became of its call.
    #[must_use]
    pub fn passed_on(self) -> Self {
        let mut error = Self::new(self.code, self.outcome.max(Outcome::Executed), self.message.clone());
        error.cause = Some(Box::new(self));
        error.limit_causes();
        error
    }

    /// Forgets the causes furthest from the caller.
    pub(crate) fn limit_causes(&mut self) {
        let mut last = self;
        for _ in 0..CAUSES_MAX {
            match &mut last.cause {
                Some(cause) => last = cause,
                None => return,
            }
        }
        last.cause = None;
    }
}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.code, self.outcome, self.message)?;
        if let Some(origin) = &self.origin {
            write!(f, " [{} at {}]", origin.method, origin.address)?;
        }
        for (_, cause) in self.chain().skip(1) {
            write!(f, ", because of {}", cause.code)?;
            if let Some(origin) = &cause.origin {
                write!(f, " [{} at {}]", origin.method, origin.address)?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for RpcError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as _)
    }
}

/// The peer and method that an error comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The address under which the caller reached it.
    pub address: SocketAddr,
    /// The full name of the method, or its id where the peer does not know the name.
    pub method: String,
}

/// Why a call has no result: the method's own typed error, or an error of the RPC system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallError<E> {
    /// The method ran and answered this.
    Method(E),
    /// The call failed around the method; `outcome` says whether it may have run.
    Rpc(RpcError),
}

impl<E> CallError<E> {
    /// What became of the call.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Method(_) => Outcome::Executed,
            Self::Rpc(error) => error.outcome,
        }
    }
}

impl<E> From<RpcError> for CallError<E> {
    fn from(error: RpcError) -> Self {
        Self::Rpc(error)
    }
}

impl<E: fmt::Display> fmt::Display for CallError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Method(error) => error.fmt(f),
            Self::Rpc(error) => error.fmt(f),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> std::error::Error for CallError<E> {}

/// Why a handler has no result.
#[derive(Clone, Debug)]
pub enum Failure {
    /// The method's own typed error, encoded.
    Method(Bytes),
    /// An error of the RPC system.
    Rpc(RpcError),
}

impl From<RpcError> for Failure {
    fn from(error: RpcError) -> Self {
        Self::Rpc(error)
    }
}

/// A method's own error where the caller does not have its type: shown in CBOR diagnostic notation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MethodError(pub codec::Value);

impl fmt::Display for MethodError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        codec::encode(&self.0).map_or(Err(fmt::Error), |bytes| codec::diagnostic(&bytes).fmt(f))
    }
}

/// What a typed handler may answer instead of a result: its own error, which travels typed, or a [`CallError`], whose
/// error of the system travels as one.
///
/// A handler that answers `Result<T, CallError<E>>` refuses with an [`RpcError`] of its own, and passes the errors of
/// its own calls on with `?`: such an error becomes the cause of the handler's ([`RpcError::passed_on`]).
#[diagnostic::on_unimplemented(
    message = "the error `{Self}` cannot travel",
    label = "not `serde::Serialize`, and not a `CallError`"
)]
pub trait HandlerError {
    /// Encodes it.
    ///
    /// # Errors
    /// When the type refuses to be serialized.
    fn into_failure(self) -> Result<Failure, CodecError>;
}

impl<E: Serialize> HandlerError for E {
    fn into_failure(self) -> Result<Failure, CodecError> {
        Ok(Failure::Method(codec::encode(&self)?))
    }
}

impl<E: Serialize> HandlerError for CallError<E> {
    fn into_failure(self) -> Result<Failure, CodecError> {
        match self {
            Self::Method(error) => error.into_failure(),
            // It has an origin if it came out of a call.
            Self::Rpc(error) if error.origin.is_some() => Ok(error.passed_on().into()),
            Self::Rpc(error) => Ok(error.into()),
        }
    }
}

/// The error type of methods that have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Never {}

impl fmt::Display for Never {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_the_wire() {
        for number in 0..20 {
            assert_eq!(u16::from(Code::from(number)), number);
        }
        assert_eq!(Code::from(13), Code::Draining);
    }

    #[test]
    fn a_chain_of_causes_keeps_those_nearest_to_the_caller() {
        let mut error = RpcError::not_executed(Code::Locked, "");
        for hop in 0..20 {
            error.origin = Some(Box::new(Origin {
                address: SocketAddr::from(([127, 0, 0, 1], hop)),
                method: "m".to_owned(),
            }));
            error = error.passed_on();
        }
        assert_eq!((error.code, error.outcome), (Code::Locked, Outcome::Executed));
        let ports: Vec<_> =
            error.chain().skip(1).map(|(_, cause)| cause.origin.as_ref().unwrap().address.port()).collect();
        assert_eq!(ports, [19, 18, 17, 16, 15, 14, 13, 12]);
    }

    #[test]
    fn unknown_is_the_worst_outcome() {
        assert!(Outcome::Unknown > Outcome::Executed && Outcome::Executed > Outcome::NotExecuted);
    }
}
