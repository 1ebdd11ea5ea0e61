//! Calls without an answer.
//!
//! ```text
//! @notify  [method: uint, body: bstr]  -> null
//! ```
//! The body is that of an ordinary call of `method`. The answer, an empty one, goes out when the method has *started*:
//! it exists, its arguments could be read, limits let it in. What it answers afterwards goes nowhere. At most once,
//! as every call. A method that was notified runs to its end, at most as long as the connection; a deadline that its
//! caller set limits the start only.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures_util::FutureExt;

use super::codec;
use super::context::Ctx;
use super::error::{Code, Failure, RpcError};
use super::path::MethodId;
use super::registry::Served;
use super::session::NULL;
use crate::runtime::BoxFuture;

/// Starts a method whose answer nobody waits for.
pub(crate) const NOTIFY: &str = "@notify";

/// The request of a notification.
pub(super) fn wrap(method: MethodId, body: &Bytes) -> Result<Bytes, codec::CodecError> {
    codec::encode(&(method.0, body))
}

/// Serves [`NOTIFY`] for the methods of this side.
pub(super) fn serve(ctx: Ctx, body: Bytes) -> BoxFuture<Result<Bytes, Failure>> {
    let find = |ctx: &Ctx, id| ctx.caller.session()?.method(id);
    serve_from(ctx, &body, find)
}

/// Serves [`NOTIFY`] for the methods that `find` finds.
pub(super) fn serve_from(
    ctx: Ctx,
    body: &Bytes,
    find: impl FnOnce(&Ctx, MethodId) -> Option<std::sync::Arc<Served>>,
) -> BoxFuture<Result<Bytes, Failure>> {
    let started = start(ctx, body, find).map(|()| Bytes::from_static(NULL)).map_err(Failure::from);
    Box::pin(async move { started })
}

fn start(
    ctx: Ctx,
    body: &Bytes,
    find: impl FnOnce(&Ctx, MethodId) -> Option<std::sync::Arc<Served>>,
) -> Result<(), RpcError> {
    let (method, body) = codec::decode::<(u32, Bytes)>(body)
        .map_err(|error| RpcError::not_executed(Code::BadRequest, format!("notification: {error}")))?;
    let Some(served) = find(&ctx, MethodId(method)) else {
        let what = format!("no method with id {method:#010x}");
        return Err(RpcError::not_executed(Code::MethodNotFound, what));
    };
    let lost = || RpcError::not_executed(Code::ConnectionLost, "the connection is lost");
    let session = ctx.caller.session().ok_or_else(lost)?;
    let (call, slot) = (ctx.call, session.slot()?);
    let mut run = session.execute(&served, ctx, body);
    // What fails at once, because its arguments cannot be read, has not started.
    match Pin::new(&mut run).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Err(Failure::Rpc(error))) => return Err(error),
        Poll::Ready(_) => {}
        Poll::Pending => slot.run_on(call, AssertUnwindSafe(run).catch_unwind().map(drop)),
    }
    Ok(())
}
