//! Serves the calls of services that this side passed.

use bytes::Bytes;

use super::notify;
use crate::rpc::codec;
use crate::rpc::context::Ctx;
use crate::rpc::error::{Code, Failure, RpcError};
use crate::rpc::handle::HandleId;
use crate::rpc::notify::NOTIFY;
use crate::rpc::path::MethodId;
use crate::rpc::registry::Table;
use crate::rpc::session::Session;
use crate::runtime::BoxFuture;

/// Serves [`CALL`](crate::rpc::reference::CALL).
pub(super) fn serve(ctx: Ctx, body: Bytes) -> BoxFuture<Result<Bytes, Failure>> {
    let refused = |code, what: String| -> BoxFuture<Result<Bytes, Failure>> {
        Box::pin(async move { Err(RpcError::not_executed(code, what).into()) })
    };
    let (id, method, body) = match codec::decode::<(HandleId, u32, Bytes)>(&body) {
        Ok(request) => request,
        Err(error) => return refused(Code::BadRequest, format!("call of a reference: {error}")),
    };
    let session = Session::of_caller(&ctx);
    let table = session.as_ref().and_then(|session| session.find::<Table>(id));
    let (Some(session), Some(table)) = (session, table) else {
        return refused(Code::MethodNotFound, format!("no service {id} on this connection"));
    };
    if MethodId(method) == MethodId::of(NOTIFY) {
        return notify::serve_from(ctx, &body, |_, method| table.shared(method));
    }
    match table.shared(MethodId(method)) {
        Some(served) => session.execute(&served, ctx, body),
        None => refused(Code::MethodNotFound, format!("no method with id {method:#010x} at service {id}")),
    }
}
