//! Events and spans of calls, for `tracing`: target `rpc_core::call`, level DEBUG.
//!
//! Each call ends in one event on each side, with method, peer, trace, latency, code and outcome; a handler runs in a
//! span that says the same. Nothing is computed for them, not even the time, where nobody listens.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tracing::span::Entered;
use tracing::{Level, Span};

use super::channel::{Answer, Attempt};
use super::error::Failure;
use super::meta::Trace;
use super::metrics::MethodMetrics;
use crate::endpoint::CallId;
use crate::runtime::{Instant, Runtime};

/// The target of all events of calls.
const TARGET: &str = "rpc_core::call";

fn is_watched() -> bool {
    tracing::enabled!(target: TARGET, Level::DEBUG)
}

/// Who watches one request that is served: nobody, mostly.
pub(crate) struct Watch {
    span: Option<Box<Span>>,
}

/// Begins to watch a request of `method` from `peer`, if anybody listens.
pub(crate) fn serving(method: &str, call: CallId, peer: SocketAddr, trace: Option<&Trace>) -> Watch {
    if !is_watched() {
        return Watch { span: None };
    }
    let span = tracing::debug_span!(
        target: TARGET,
        "serve",
        method,
        request = call.0,
        %peer,
        trace = trace_id(trace),
    );
    Watch { span: Some(Box::new(span)) }
}

impl Watch {
    /// Puts what is logged now into the span of the request.
    pub(crate) fn enter(&self) -> Option<Entered<'_>> {
        self.span.as_deref().map(Span::enter)
    }

    /// The request was answered.
    pub(crate) fn ended(&self, metrics: &MethodMetrics, answer: &Result<Bytes, Failure>, latency: Duration) {
        let Some(span) = &self.span else { return };
        let _in_span = span.enter();
        let (code, outcome) = verdict(answer);
        tracing::debug!(
            target: TARGET,
            latency_us = latency.as_micros() as u64,
            code,
            outcome,
            in_flight = metrics.in_flight(),
            "served"
        );
    }

    /// The request was given up.
    pub(crate) fn given_up(&self) {
        let Some(span) = &self.span else { return };
        let _in_span = span.enter();
        tracing::debug!(target: TARGET, "given up");
    }
}

/// A call of ours that somebody watches.
pub(super) struct Called {
    begun: Instant,
    method: Arc<str>,
    trace: Option<Trace>,
}

/// Begins to watch a call of ours, if anybody listens.
pub(super) fn calling(runtime: &Runtime, request: &Attempt) -> Option<Called> {
    is_watched().then(|| Called {
        begun: runtime.now(),
        method: Arc::clone(&request.name),
        trace: request.meta.as_ref().and_then(|meta| meta.trace.clone()),
    })
}

impl Called {
    /// The call ended.
    pub(super) fn ended(self, runtime: &Runtime, peer: SocketAddr, answer: &Answer) {
        let (code, outcome) = verdict(answer);
        tracing::debug!(
            target: TARGET,
            method = &*self.method,
            %peer,
            trace = trace_id(self.trace.as_ref()),
            span = self.trace.as_ref().map_or(0, |trace| trace.span),
            latency_us = (runtime.now() - self.begun).as_micros() as u64,
            code,
            outcome,
            "called"
        );
    }
}

fn trace_id(trace: Option<&Trace>) -> String {
    trace.map_or_else(String::new, |trace| format!("{:032x}", trace.id))
}

/// Code and outcome in words.
fn verdict<T>(answer: &Result<T, Failure>) -> (String, String) {
    match answer {
        Ok(_) => ("OK".to_owned(), "executed".to_owned()),
        Err(Failure::Method(_)) => ("METHOD_ERROR".to_owned(), "executed".to_owned()),
        Err(Failure::Rpc(error)) => (error.code.to_string(), error.outcome.to_string()),
    }
}
