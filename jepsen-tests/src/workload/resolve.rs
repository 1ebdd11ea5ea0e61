//! Two clients and one write: one sends it, the other resolves it, before, while or long after it is sent. Both must be
//! told the same, and *rolled back* must stay true for ever.

use std::collections::VecDeque;
use std::time::Duration;

use kv_client::api::{Resolved, WriteOp};
use kv_client::{Token, Write};

use super::recorder::{Change, Settled, settle, settle_reply};
use super::{Recorder, Worker};
use crate::history::Operation;

/// A write that was resolved and is sent only then.
struct Late {
    write: Write,
    op: WriteOp,
    due: u64,
}

pub(super) async fn run(mut worker: Worker) {
    let patient = worker.client.with_timeout(LATE_TIMEOUT);
    let mut late: VecDeque<Late> = VecDeque::new();
    let mut number = 0u64;
    while !worker.is_over() {
        while late.front().is_some_and(|late| late.due <= worker.recorder.now()) {
            if let Some(late) = late.pop_front() {
                send_late(&worker.recorder, late).await;
            }
        }
        number += 1;
        let process = worker.recorder.process();
        let key = worker.key("resolve/", 1, 0);
        let value = format!("{process}.{number}");
        let op = WriteOp::Put { key: key.clone().into(), value: value.clone().into() };
        let change = Change::Put(value.into());
        let call = worker.recorder.now();
        let is_first = worker.random.below(2) == 0;
        let sender = if is_first { &patient } else { &worker.client };
        let Ok(write) = sender.begin().await else {
            worker.rest().await;
            continue;
        };
        let token = write.token();
        worker.recorder.begin(process, &key, change.clone(), call);
        let answer = if is_first {
            let resolved = resolve(&worker, token).await;
            if let Some((settled, _)) = resolved {
                if settled != Settled::Fail {
                    let what = format!("write {token} was never sent, and its resolve says {settled:?}");
                    worker.recorder.contradiction(what);
                }
                let wait = worker.random.between(0, LATE_MAX.as_nanos() as u64);
                late.push_back(Late { write, op, due: worker.recorder.now() + wait });
            }
            // What was never sent has no effect, whatever became of its resolve.
            Some((Settled::Fail, None))
        } else {
            race(&mut worker, write, op).await
        };
        let (settled, rev) = answer.unwrap_or((Settled::Info, None));
        let unknown = (settled == Settled::Info).then_some(token);
        let operation = Operation {
            process,
            key: key.clone(),
            action: change.answered(settled),
            rev,
            node: None,
            token: Some(crate::history::Token(token.session, token.sequence)),
            call,
            ret: worker.recorder.now(),
        };
        worker.recorder.record(operation, unknown);
        let reader = worker.recorder.process();
        worker.recorder.get(&worker.other, reader, None, &key).await;
        worker.rest().await;
    }
}

/// Sends a write while it is resolved: whoever comes first decides.
async fn race(worker: &mut Worker, write: Write, op: WriteOp) -> Option<(Settled, Option<u64>)> {
    let token = write.token();
    let clock = worker.recorder.clock().clone();
    let head_start = Duration::from_micros(worker.random.below(HEAD_START_MAX_US));
    let sent = clock.spawn("racing write", write.send(op));
    clock.sleep(head_start).await;
    let resolved = resolve(worker, token).await;
    let sent = sent.await.ok().map(|answer| settle(&answer));
    match (sent, resolved) {
        (Some((Settled::Info, _)) | None, resolved) => resolved,
        (sent, None) => sent,
        (Some(sent), Some(resolved)) => {
            if sent != resolved {
                worker.recorder.contradiction(format!(
                    "write {token} was answered {sent:?}, and its resolve {resolved:?}"
                ));
            }
            Some(resolved)
        }
    }
}

/// What the other client is told of the write.
async fn resolve(worker: &Worker, token: Token) -> Option<(Settled, Option<u64>)> {
    match worker.other.resolve(&token).await {
        Ok(Resolved::Settled(reply)) => Some(settle_reply(&reply)),
        Ok(Resolved::Unknowable(_)) | Err(_) => None,
    }
}

/// Sends a write that was rolled back before: it must be told so.
async fn send_late(recorder: &Recorder, late: Late) {
    let token = late.write.token();
    let (answer, _) = settle(&late.write.send(late.op).await);
    if !matches!(answer, Settled::Fail | Settled::Info) {
        let what =
            format!("write {token} was rolled back before it was sent, and answered {answer:?} afterwards");
        recorder.contradiction(what);
    }
}

/// How long after its resolve a write may be sent.
const LATE_MAX: Duration = Duration::from_secs(12);
/// How long such a write may take, from its beginning on.
const LATE_TIMEOUT: Duration = Duration::from_secs(15);
/// How much earlier than its resolve a write is sent, at most.
const HEAD_START_MAX_US: u64 = 8_000;
