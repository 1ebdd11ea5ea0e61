//! The reserved methods: what one peer is told by another about services, streams and notifications.

mod notify;
mod reference;

use std::sync::Arc;

use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::codec;
use super::context::Ctx;
use super::error::{Code, Failure, Never, RpcError};
use super::handle::HandleId;
use super::notify::NOTIFY;
use super::policy::MethodPolicy;
use super::reference::CALL;
use super::registry::{Method, Services, Table};
use super::schema::MethodSchema;
use super::session::{CLAIM, GRANT, IDS_MAX, PUSH, RELEASE, STOP, Session};
use super::stream::{Inlet, Outlet, Push, Window, stopped};
use crate::runtime::BoxFuture;

/// The methods by which two sessions speak to each other, for every peer.
pub(crate) fn services() -> Services {
    Services::new()
        .raw(CALL, on_bodies::<(HandleId, u32, Bytes)>(reference::serve))
        .raw(NOTIFY, on_bodies::<(u32, Bytes)>(notify::serve))
        .raw(
            CLAIM,
            method(|session, ids: Vec<HandleId>| {
                check(&ids)?;
                session.on_claimed(&ids);
                Ok(())
            }),
        )
        .raw(
            RELEASE,
            method(|session, ids: Vec<HandleId>| {
                check(&ids)?;
                session.on_claimed(&ids);
                for id in ids {
                    if session.find::<Table>(id).is_some() {
                        session.forget(id);
                    }
                }
                Ok(())
            }),
        )
        .raw(
            PUSH,
            method(|session, (id, first, count, items, last, error): PushBody| {
                let Some(inlet) = session.find::<Inlet>(id) else { return Err(no_stream(id)) };
                let push = Push { first, count, items, end: last.then_some(error) };
                let pushed = inlet.push(push);
                if !matches!(pushed, Ok(false)) {
                    session.forget(id);
                }
                pushed.map(drop)
            }),
        )
        .raw(
            GRANT,
            method(|session, (id, items, bytes)| {
                let Some(outlet) = session.find::<Outlet>(id) else { return Err(no_stream(id)) };
                outlet.grant(Window { items, bytes });
                Ok(())
            }),
        )
        .raw(
            STOP,
            method(|session, (id,)| {
                let Some(outlet) = session.find::<Outlet>(id) else { return Err(no_stream(id)) };
                outlet.fail(stopped());
                session.forget(id);
                Ok(())
            }),
        )
}

/// Handle, first item, count, items, whether they are the last, why if not because the stream is complete.
type PushBody = (HandleId, u64, u64, Bytes, bool, Option<RpcError>);

/// A method that hands a body in its body on, to be read by who knows its type.
fn on_bodies<Q: DeserializeOwned>(serve: fn(Ctx, Bytes) -> BoxFuture<Result<Bytes, Failure>>) -> Method {
    let schema = MethodSchema::of_closure::<Q, codec::Value, codec::Value>(false);
    Method { schema, policy: MethodPolicy::default(), handler: Arc::new(serve) }
}

/// A method that does its work on the session at once.
fn method<Q: DeserializeOwned + 'static>(work: fn(&Arc<Session>, Q) -> Result<(), RpcError>) -> Method {
    let handler = move |ctx: Ctx, body: Bytes| -> BoxFuture<Result<Bytes, Failure>> {
        let answer = match (codec::decode(&body), Session::of_caller(&ctx)) {
            (Ok(request), Some(session)) => work(&session, request),
            (Ok(_), None) => {
                Err(RpcError::not_executed(Code::ConnectionLost, "no session on this connection"))
            }
            (Err(error), _) => Err(RpcError::not_executed(Code::BadRequest, error.to_string())),
        };
        let answer = answer.map(|()| Bytes::from_static(codec::NULL_ITEM)).map_err(Failure::from);
        Box::pin(async move { answer })
    };
    Method {
        schema: MethodSchema::of_closure::<Q, (), Never>(false),
        policy: MethodPolicy::default(),
        handler: Arc::new(handler),
    }
}

/// Refuses a list that would be long to look through.
fn check(ids: &[HandleId]) -> Result<(), RpcError> {
    if ids.len() <= IDS_MAX {
        return Ok(());
    }
    Err(RpcError::not_executed(Code::BadRequest, format!("more than {IDS_MAX} handles in one message")))
}

fn no_stream(id: HandleId) -> RpcError {
    RpcError::not_executed(Code::MethodNotFound, format!("no stream {id} on this connection"))
}
