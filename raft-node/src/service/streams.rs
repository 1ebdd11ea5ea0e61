//! Streams of appends: handed to openraft in the order in which they were sent, however they arrived, many at once.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use futures_util::{Stream, StreamExt};
use openraft::raft::{AppendEntriesRequest, StreamAppendResult};
use rpc_core::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};

use crate::types::TypeConfig;

/// The current stream of each leader that sends appends.
#[derive(Default)]
pub(super) struct Streams {
    current: Mutex<BTreeMap<u64, Current>>,
}

struct Current {
    /// The sending process: a restarted one counts its streams from the beginning.
    process: u128,
    stream: u64,
    arrivals: mpsc::Sender<Arrival>,
}

/// A stream of appends as it is named on the wire.
#[derive(Clone, Copy, Debug)]
pub(super) struct StreamName {
    pub(super) node: u64,
    pub(super) process: u128,
    pub(super) stream: u64,
}

/// What openraft says about an append; `None` when its stream ended before.
pub(super) type Verdict = Option<StreamAppendResult<TypeConfig>>;

struct Arrival {
    sequence: u64,
    request: AppendEntriesRequest<TypeConfig>,
    verdict: oneshot::Sender<StreamAppendResult<TypeConfig>>,
}

impl Streams {
    /// Hands an append at its place in its stream to `raft`, and waits for the verdict. The first append of a newer
    /// stream ends the older one of the same node.
    pub(super) async fn append<F, Answers>(
        &self,
        runtime: &Runtime,
        name: StreamName,
        sequence: u64,
        request: AppendEntriesRequest<TypeConfig>,
        raft: F,
    ) -> Verdict
    where
        F: FnOnce(Requests) -> Answers,
        Answers: Stream<Item = Option<StreamAppendResult<TypeConfig>>> + Send + 'static,
    {
        let arrivals = self.find(name, |arrivals| {
            let (requests, input) = mpsc::channel(IN_ORDER_MAX);
            let answers = raft(Box::pin(futures_util::stream::unfold(input, |mut input| async {
                let request = input.recv().await?;
                Some((request, input))
            })));
            runtime.spawn("append stream", run(arrivals, requests, answers));
        })?;
        let (verdict, answer) = oneshot::channel();
        arrivals.send(Arrival { sequence, request, verdict }).await.ok()?;
        // Who waits for a verdict must not keep a stream alive that a newer one has ended.
        drop(arrivals);
        answer.await.ok()
    }

    fn find(
        &self,
        name: StreamName,
        begin: impl FnOnce(mpsc::Receiver<Arrival>),
    ) -> Option<mpsc::Sender<Arrival>> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = current.get(&name.node)
            && known.process == name.process
            && known.stream >= name.stream
        {
            return (known.stream == name.stream).then(|| known.arrivals.clone());
        }
        if current.len() >= STREAMS_MAX && !current.contains_key(&name.node) {
            // Ended streams make room; a cluster has far fewer members.
            current.retain(|_, stream| !stream.arrivals.is_closed());
            if current.len() >= STREAMS_MAX {
                return None;
            }
        }
        let (arrivals, receiver) = mpsc::channel(ARRIVALS_MAX);
        begin(receiver);
        let next = Current { process: name.process, stream: name.stream, arrivals: arrivals.clone() };
        current.insert(name.node, next);
        Some(arrivals)
    }
}

/// What openraft reads its requests from.
pub(super) type Requests = std::pin::Pin<Box<dyn Stream<Item = AppendEntriesRequest<TypeConfig>> + Send>>;

/// Puts arrivals into order, passes them on, and gives the verdicts, which come in the same order, to those who wait.
/// Ends when a newer stream took over, too much is out of order, or openraft ends the stream: what waits then gets
/// no verdict.
async fn run<Answers>(
    mut arrivals: mpsc::Receiver<Arrival>,
    requests: mpsc::Sender<AppendEntriesRequest<TypeConfig>>,
    answers: Answers,
) where
    Answers: Stream<Item = Option<StreamAppendResult<TypeConfig>>> + Send,
{
    let mut answers = std::pin::pin!(answers);
    let mut early = BTreeMap::new();
    let mut next = 0;
    let mut waiting = VecDeque::new();
    loop {
        tokio::select! {
            biased;
            answer = answers.next() => {
                let Some(Some(answer)) = answer else { return };
                let verdict: Option<oneshot::Sender<_>> = waiting.pop_front();
                // The sender may have given up meanwhile.
                let _ = verdict.map(|verdict| verdict.send(answer));
            }
            arrival = arrivals.recv() => {
                let Some(arrival) = arrival else { return };
                if arrival.sequence < next {
                    continue;
                }
                early.insert(arrival.sequence, arrival);
                while let Some(arrival) = early.remove(&next) {
                    next += 1;
                    waiting.push_back(arrival.verdict);
                    if requests.send(arrival.request).await.is_err() {
                        return;
                    }
                }
                if early.len() > OUT_OF_ORDER_MAX {
                    return;
                }
            }
        }
    }
}

/// Nodes that may have a stream here at once; appends of more are refused.
const STREAMS_MAX: usize = 64;
/// Arrivals of one stream that wait for its task; more wait in their calls.
const ARRIVALS_MAX: usize = 16;
/// Requests in order that wait for openraft; more wait in the task of the stream.
const IN_ORDER_MAX: usize = 16;
/// Requests that wait for an earlier one; with more the stream ends, and its sender begins a new one.
const OUT_OF_ORDER_MAX: usize = 64;

#[cfg(test)]
mod tests;
