//! Gets a key and changes what it holds by cas: every change adds to the one before, so an effect that is lost or comes
//! twice stays visible to the end.

use bytes::Bytes;

use super::{Change, Worker};
use crate::checker::effects::{COUNTER, LIST, add, append};

/// What is added to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A number that grows by one.
    Counter,
    /// A list that grows by a name of its own.
    List,
}

pub(super) async fn run(mut worker: Worker, kind: Kind) {
    let mut process = worker.recorder.process();
    let mut written = 0u64;
    while !worker.is_over() {
        let key = worker.key(if kind == Kind::Counter { COUNTER } else { LIST }, 1, 0);
        if let Some(before) = worker.recorder.get(&worker.client, process, None, &key).await {
            written += 1;
            let after: Bytes = match kind {
                Kind::Counter => add(before.as_ref()),
                Kind::List => append(before.as_ref(), &format!("{process}.{written}")),
            };
            let change = Change::Cas(before, after);
            if !worker.recorder.write(&worker.client, process, &key, change).await {
                process = worker.recorder.process();
            }
        }
        worker.rest().await;
    }
}
