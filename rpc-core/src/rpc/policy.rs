//! What a peer does with all its calls, and what a method asks for.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::codec;
use super::envelope::Space;
use super::interceptor::Interceptors;
use super::limits::{Gate, Limits};
use super::metrics::CallCounters;
use super::retry::RetryPolicy;

/// What a peer does with all its calls; set through [`Builder`](crate::peer::Builder).
pub struct Policy {
    /// When calls are tried again.
    pub retries: RetryPolicy,
    /// What stands around calls, the first one outermost.
    pub interceptors: Interceptors,
    /// Whether requests and answers are compressed where method and call do not say otherwise. Default false: on a
    /// fast network that costs more than it saves.
    pub compress: bool,
    /// Whether a caller is told what a handler panicked with. Default false: it gets the error id, the log all of it.
    pub panic_messages: bool,
    pub(crate) space: Space,
    pub(crate) counters: CallCounters,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            retries: RetryPolicy::default(),
            interceptors: Arc::new([]),
            compress: false,
            panic_messages: false,
            space: Space::new(0),
            counters: CallCounters::default(),
        }
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("retries", &self.retries)
            .field("interceptors", &self.interceptors.len())
            .field("compress", &self.compress)
            .field("panic_messages", &self.panic_messages)
            .finish_non_exhaustive()
    }
}

/// What a method asks for; see [`Services::with`](super::Services::with).
#[derive(Clone, Debug, Default)]
pub struct MethodPolicy {
    /// Whether the method keeps a durable table of answers, so that calls with an idempotency key are welcome.
    pub keyed: bool,
    /// Whether its answers are compressed; unless set, as the peer does.
    pub compress: Option<bool>,
    /// What a request passes before the method runs, the first one first.
    gates: Vec<Arc<Gate>>,
}

impl MethodPolicy {
    /// Nothing asked for.
    pub fn new() -> Self {
        Self::default()
    }

    /// The method keeps a durable table of answers: it is given the caller's idempotency key, and executes once what
    /// comes twice with one key.
    #[must_use]
    pub fn keyed(mut self) -> Self {
        self.keyed = true;
        self
    }

    /// Whether answers are compressed: not where they are opaque already (media, ciphertext).
    #[must_use]
    pub fn compress(mut self, compress: bool) -> Self {
        self.compress = Some(compress);
        self
    }

    /// So many calls at once, so many waiting.
    #[must_use]
    pub fn limits(self, max_concurrent: u32, max_queue: u32) -> Self {
        self.gate(Gate::limited(Limits::new(max_concurrent, max_queue)))
    }

    /// One call at a time; `max_queue` wait.
    #[must_use]
    pub fn exclusive(self, max_queue: u32) -> Self {
        self.gate(Gate::exclusive(max_queue))
    }

    /// One call at a time for each key, which `key` takes out of the request; `max_queue` wait for one key.
    #[must_use]
    pub fn exclusive_by<Q: DeserializeOwned>(
        self,
        max_queue: u32,
        key: impl Fn(&Q) -> Bytes + Send + Sync + 'static,
    ) -> Self {
        let key_of = move |body: &[u8]| codec::decode(body).ok().map(|request| key(&request));
        self.gate(Gate::exclusive_by(max_queue, Arc::new(key_of)))
    }

    /// Behind `gate`, before the ones that were set earlier. Methods that share a gate share its places.
    #[must_use]
    pub fn gate(mut self, gate: Arc<Gate>) -> Self {
        self.gates.insert(0, gate);
        self
    }

    /// What a request passes before the method runs, the first one first.
    pub fn gates(&self) -> &[Arc<Gate>] {
        &self.gates
    }
}
