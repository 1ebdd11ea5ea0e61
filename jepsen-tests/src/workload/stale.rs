//! Reads what single nodes have applied. Such a read may be old, but not older than the node says.

use kv_client::api::Age;

use super::{Change, Worker};
use crate::checker::staleness::StaleRead;

pub(super) async fn run(mut worker: Worker) {
    let mut process = worker.recorder.process();
    let mut written = 0u64;
    while !worker.is_over() {
        let key = worker.key("stale/", 1, 0);
        if worker.random.below(3) == 0 {
            written += 1;
            let change = Change::Put(format!("{process}.{written}").into());
            if !worker.recorder.write(&worker.client, process, &key, change).await {
                process = worker.recorder.process();
            }
        } else {
            let (node, client) = &worker.nodes[worker.random.below(worker.nodes.len() as u64) as usize];
            let call = worker.recorder.now();
            if let Ok(reply) = client.get_stale(key.clone().into_bytes()).await {
                let age_ns = match reply.age {
                    Age::Linearizable => Some(0),
                    Age::AtMostMs(ms) => Some(ms.saturating_mul(1_000_000)),
                    Age::Unbounded => None,
                };
                let value = reply.value.map(|found| found.value);
                worker.recorder.stale(StaleRead {
                    node: *node,
                    key,
                    value,
                    rev: reply.revision,
                    age_ns,
                    call,
                });
            }
        }
        worker.rest().await;
    }
}
