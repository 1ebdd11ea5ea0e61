//! What became of traced requests on this node: the latest steps, in memory, for whoever follows a trace.
//!
//! A step is noted where the handler of a traced call takes it; what is done for other calls costs one look and is
//! noted nowhere. Traces are asked for by hand, so a short memory is enough.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rpc_core::rpc::meta::Trace;
use rpc_core::rpc::scope;
use rpc_core::runtime::{Instant, Runtime};

/// Steps that a node remembers; with one more it forgets the oldest.
pub const SPANS_MAX: usize = 1_024;

/// The latest steps of traced requests.
pub struct Spans {
    runtime: Runtime,
    ended: Mutex<VecDeque<Span>>,
}

/// One step of a traced request that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The trace, the same on all nodes.
    pub trace: u128,
    /// The call that was being served, as its caller numbered it.
    pub call: u64,
    /// How many methods called on before this one was called: 0 for what a client called.
    pub hops: usize,
    /// What was done.
    pub step: Step,
    /// When it began, on this node's clock.
    pub begun: Instant,
    /// How long it took.
    pub time: Duration,
    /// How it ended, in a word: `answered`, `refused`, `busy`, `unknown`, `given up`.
    pub outcome: &'static str,
}

/// What a node does for a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The whole request, from its first step here to its answer.
    Served {
        /// The full name of the method.
        method: String,
        /// Who called.
        caller: SocketAddr,
    },
    /// The leader was asked.
    Forwarded {
        /// Its id.
        to: u64,
    },
    /// A command went through the log: appended, durable on a majority, applied here.
    Proposed,
    /// A quorum confirmed that this node leads, for a read.
    Confirmed,
}

impl Spans {
    pub(crate) fn new(runtime: Runtime) -> Self {
        Self { runtime, ended: Mutex::default() }
    }

    /// Begins a step of the call whose handler is being polled; noted when it ends, if the call is traced.
    pub fn begin(&self, step: impl FnOnce() -> Step) -> OpenSpan<'_> {
        let noted = scope::trace().map(|trace| Begun { trace, step: step(), begun: self.runtime.now() });
        OpenSpan { spans: self, noted }
    }

    /// The steps of a trace in the order in which they ended.
    pub fn of(&self, trace: u128) -> Vec<Span> {
        self.lock().iter().filter(|span| span.trace == trace).cloned().collect()
    }

    fn note(&self, begun: Begun, outcome: &'static str) {
        let Begun { trace, step, begun } = begun;
        let hops = trace.hops.len().saturating_sub(1);
        let time = self.runtime.now() - begun;
        let mut ended = self.lock();
        if ended.len() >= SPANS_MAX {
            ended.pop_front();
        }
        ended.push_back(Span { trace: trace.id, call: trace.span, hops, step, begun, time, outcome });
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Span>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Spans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Spans({})", self.lock().len())
    }
}

/// A step that goes on. Dropped before its end, it was given up.
#[must_use = "dropped, it is a step that was given up"]
#[derive(Debug)]
pub struct OpenSpan<'a> {
    spans: &'a Spans,
    noted: Option<Begun>,
}

#[derive(Debug)]
struct Begun {
    /// With the method that is served as its last hop.
    trace: Trace,
    step: Step,
    begun: Instant,
}

impl OpenSpan<'_> {
    /// The step has ended, as `outcome` says.
    pub fn end(mut self, outcome: &'static str) {
        if let Some(begun) = self.noted.take() {
            self.spans.note(begun, outcome);
        }
    }
}

impl Drop for OpenSpan<'_> {
    fn drop(&mut self) {
        if let Some(begun) = self.noted.take() {
            self.spans.note(begun, "given up");
        }
    }
}
