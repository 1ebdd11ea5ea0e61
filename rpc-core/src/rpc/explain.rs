//! Why an answer could not be read: the peer is asked what its method looks like.
//!
//! The question is a call of `rpc.method`, which [`describe`](super::describe) declares, without the types that stand
//! above calls.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::channel::Channel;
use super::codec;
use super::exchange::{Exchange, Options, Question};
use super::handle::Cargo;
use super::path::MethodId;
use super::schema::Schema;

/// How long a caller waits to learn why it could not read an answer.
const EXPLANATION_TIMEOUT: Duration = Duration::from_secs(1);

/// Describes the method with a given id on the wire.
const METHOD: &str = "rpc.method";

/// What is read of the description.
#[derive(Deserialize)]
struct Description {
    signature: String,
    fingerprint: Option<u64>,
}

/// What the peer behind `channel` has under the id `method`; none if it does not tell.
pub(super) async fn schema_at(channel: &Arc<dyn Channel>, method: MethodId) -> Option<Schema> {
    let body = codec::encode(&method.0).ok()?;
    let question =
        Question { method: MethodId::of(METHOD), name: METHOD.into(), body, cargo: Cargo::default() };
    let options = Options { timeout: EXPLANATION_TIMEOUT, idempotent: true, ..Options::default() };
    let scope = options.scope();
    let reply = Exchange::new(Arc::clone(channel), question, options, scope).await.ok()?;
    let Description { signature, fingerprint } = codec::decode::<Option<_>>(&reply.body).ok()??;
    Some(Schema { fingerprint, signature })
}
