//! Starts what the peer notifies.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures_util::FutureExt;

use crate::rpc::context::Ctx;
use crate::rpc::error::{Code, Failure, RpcError};
use crate::rpc::path::MethodId;
use crate::rpc::registry::Served;
use crate::rpc::session::Session;
use crate::rpc::{codec, notify};
use crate::runtime::BoxFuture;

/// Serves [`NOTIFY`](notify::NOTIFY) for the methods of this side.
pub(super) fn serve(ctx: Ctx, body: Bytes) -> BoxFuture<Result<Bytes, Failure>> {
    let find = |ctx: &Ctx, id| Session::of_caller(ctx)?.method(id);
    serve_from(ctx, &body, find)
}

/// Serves [`NOTIFY`](notify::NOTIFY) for the methods that `find` finds.
pub(super) fn serve_from(
    ctx: Ctx,
    body: &Bytes,
    find: impl FnOnce(&Ctx, MethodId) -> Option<Arc<Served>>,
) -> BoxFuture<Result<Bytes, Failure>> {
    let started =
        start(ctx, body, find).map(|()| Bytes::from_static(codec::NULL_ITEM)).map_err(Failure::from);
    Box::pin(async move { started })
}

fn start(
    ctx: Ctx,
    body: &Bytes,
    find: impl FnOnce(&Ctx, MethodId) -> Option<Arc<Served>>,
) -> Result<(), RpcError> {
    let (method, body) = notify::parse(body)
        .map_err(|error| RpcError::not_executed(Code::BadRequest, format!("notification: {error}")))?;
    let Some(served) = find(&ctx, method) else {
        let what = format!("no method with id {:#010x}", method.0);
        return Err(RpcError::not_executed(Code::MethodNotFound, what));
    };
    let lost = || RpcError::not_executed(Code::ConnectionLost, "the connection is lost");
    let session = Session::of_caller(&ctx).ok_or_else(lost)?;
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
