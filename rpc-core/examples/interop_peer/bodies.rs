//! What both sides of the stories know.

use rpc_core::rpc::{Code, Ctx, Never, Outcome, RpcError, ServiceRef, Sink, Source};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// The bytes of a large body.
pub(crate) const LARGE: usize = 200 << 10;

/// The key of the application's own metadata.
pub(crate) const EXTRA: u64 = 64;

/// A method's own error.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct DivideByZero;

/// Code and outcome of a stream that is failed on purpose.
pub(crate) const ENOUGH: (Code, Outcome) = (Code::Forbidden, Outcome::Executed);

/// The error of a stream that is failed on purpose.
pub(crate) fn enough() -> RpcError {
    RpcError::new(ENOUGH.0, ENOUGH.1, "enough")
}

/// What came with a call beside its body.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Shown {
    /// Trace id and hops, if it is traced.
    pub(crate) trace: Option<(ByteBuf, Vec<u32>)>,
    pub(crate) key: Option<(ByteBuf, u64)>,
    pub(crate) extra: Option<ByteBuf>,
    pub(crate) left_ms: u64,
}

/// A service that is passed.
#[rpc_core::service]
pub(crate) trait Counter {
    async fn next(&self, ctx: Ctx, number: u64) -> Result<u64, Never>;
    /// Passed on within a call of a service that was passed.
    async fn ask(&self, ctx: Ctx, number: u64, other: ServiceRef<CounterClient>) -> Result<u64, String>;
}

/// Services as arguments and answers.
#[rpc_core::service(name = "ref")]
pub(crate) trait Refs {
    /// The sum of what `counter` answers to 0, 1, .. below `count`.
    async fn sum(&self, ctx: Ctx, count: u64, counter: ServiceRef<CounterClient>) -> Result<u64, String>;
    /// A service as an answer.
    async fn make(&self, ctx: Ctx) -> Result<ServiceRef<CounterClient>, Never>;
    /// Made services that nobody has released yet.
    async fn alive(&self, ctx: Ctx) -> Result<u64, Never>;
}

/// Streams as arguments and answers, both ways.
#[rpc_core::service(name = "stream")]
pub(crate) trait Streams {
    /// 0, 1, .. below `count`.
    async fn count(&self, ctx: Ctx, count: u64) -> Result<Source<u64>, Never>;
    /// Pushes the same into a sink of the caller, then fails it.
    async fn fail(&self, ctx: Ctx, count: u64, numbers: Sink<u64>) -> Result<(), String>;
    async fn sum(&self, ctx: Ctx, numbers: Source<u64>) -> Result<u64, String>;
    /// Twice each of `numbers`.
    async fn double(&self, ctx: Ctx, numbers: Source<u64>, doubled: Sink<u64>) -> Result<(), String>;
    /// Takes so many items and stops.
    async fn take(&self, ctx: Ctx, count: u64, numbers: Source<u64>) -> Result<u64, String>;
    /// A sink as an answer; what it got is told by `collected`, once it is complete.
    async fn collect(&self, ctx: Ctx) -> Result<Sink<u64>, Never>;
    async fn collected(&self, ctx: Ctx) -> Result<Option<u64>, Never>;
}

/// What travels beside bodies.
#[rpc_core::service(name = "meta")]
pub(crate) trait Metadata {
    #[rpc(keyed)]
    async fn show(&self, ctx: Ctx) -> Result<Shown, Never>;
    /// What the caller's own `meta.show` shows when it is called from here.
    async fn back(&self, ctx: Ctx) -> Result<Shown, String>;
}

/// What is started without an answer.
#[rpc_core::service(name = "note")]
pub(crate) trait Notes {
    async fn add(&self, ctx: Ctx, number: u64) -> Result<(), Never>;
    async fn sum(&self, ctx: Ctx) -> Result<u64, Never>;
}
