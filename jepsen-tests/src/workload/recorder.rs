//! What the clients saw: each answer is written down as it was given. A write that was not answered yet stands in the
//! history too, with an unknown outcome: a run may be ended at any time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use kv_client::api::{Expect, Resolved, WriteReply};
use kv_client::{Client, Outcome as Answer, Reason, Token};
use rpc_core::runtime::{Instant, Runtime};

use crate::checker::staleness::StaleRead;
use crate::history::{Action, History, Nemesis, Operation, Outcome};
use crate::plan::{Fault, FaultKind};

/// Everything that the clients of one run share.
#[derive(Clone)]
pub struct Recorder {
    clock: Runtime,
    started: Instant,
    prefix: Arc<str>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    history: Mutex<History>,
    /// Writes without an answer yet, by process.
    open: Mutex<BTreeMap<u64, Operation>>,
    unknown: Mutex<Vec<(usize, Token)>>,
    contradictions: Mutex<Vec<String>>,
    stale: Mutex<Vec<StaleRead>>,
    processes: AtomicU64,
    operations: AtomicU64,
    acknowledged: AtomicU64,
}

impl Recorder {
    /// An empty history that begins now. All its keys begin with `prefix`: a history explains only what was written in
    /// it, so no key may have been written before.
    pub fn new(clock: Runtime, prefix: &str) -> Self {
        Self { started: clock.now(), clock, prefix: prefix.into(), shared: Arc::default() }
    }

    /// A process number that nobody had before.
    pub fn process(&self) -> u64 {
        self.shared.processes.fetch_add(1, Ordering::Relaxed)
    }

    /// Nanoseconds since the run began.
    pub fn now(&self) -> u64 {
        u64::try_from((self.clock.now() - self.started).as_nanos()).unwrap_or(u64::MAX)
    }

    /// Operations that were answered so far.
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Operations so far.
    pub fn operations(&self) -> u64 {
        self.shared.operations.load(Ordering::Relaxed)
    }

    /// Gives the history so far. Writes without an answer are unknown in it.
    pub fn finish(&self) -> History {
        let mut history = std::mem::take(&mut *lock(&self.shared.history));
        history.operations.extend(std::mem::take(&mut *lock(&self.shared.open)).into_values());
        history
    }

    /// Notes a fault that begins.
    pub(crate) fn fault(&self, kind: FaultKind, fault: &Fault, leader: Option<u64>) {
        let value = Some(match leader {
            Some(leader) => format!("{fault} (leader {leader})"),
            None => fault.to_string(),
        });
        let begun = Nemesis { f: kind.to_string(), value, call: self.now(), ret: None };
        lock(&self.shared.history).nemeses.push(begun);
    }

    /// Notes that the faults which `end` puts right are over.
    pub(crate) fn faults_end(&self, end: &Fault) {
        let now = self.now();
        let is_ended = |nemesis: &&mut Nemesis| {
            nemesis.ret.is_none() && nemesis.f.parse().is_ok_and(|kind: FaultKind| kind.is_ended_by(end))
        };
        for nemesis in lock(&self.shared.history).nemeses.iter_mut().filter(is_ended) {
            nemesis.ret = Some(now);
        }
    }

    /// Looks at the history so far.
    pub(crate) fn with_history<T>(&self, look: impl FnOnce(&History) -> T) -> T {
        look(&lock(&self.shared.history))
    }

    pub(super) fn record(&self, operation: Operation, unknown: Option<Token>) {
        self.shared.operations.fetch_add(1, Ordering::Relaxed);
        if operation.is_ok() {
            self.shared.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        lock(&self.shared.open).remove(&operation.process);
        let mut history = lock(&self.shared.history);
        if let Some(token) = unknown {
            lock(&self.shared.unknown).push((history.operations.len(), token));
        }
        self.clock.trace(|| format!("operation {operation}"));
        history.operations.push(operation);
    }

    /// A key of this run.
    pub(super) fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    pub(super) fn clock(&self) -> &Runtime {
        &self.clock
    }

    /// Notes that two answers about one write contradict each other.
    pub(super) fn contradiction(&self, what: String) {
        lock(&self.shared.contradictions).push(what);
    }

    /// Notes what a stale read saw.
    pub(super) fn stale(&self, read: StaleRead) {
        self.clock.trace(|| format!("stale read {read}"));
        lock(&self.shared.stale).push(read);
    }

    /// Answers that contradict each other.
    pub fn contradictions(&self) -> Vec<String> {
        lock(&self.shared.contradictions).clone()
    }

    /// What stale reads saw.
    pub fn stale_reads(&self) -> Vec<StaleRead> {
        lock(&self.shared.stale).clone()
    }

    /// Reads `key` and writes the answer down.
    pub async fn get(
        &self,
        client: &Client,
        process: u64,
        node: Option<u64>,
        key: &str,
    ) -> Option<Option<Bytes>> {
        let call = self.now();
        let answer = client.get(key.as_bytes().to_vec()).await;
        let (rev, outcome) = match &answer {
            Ok(reply) => {
                (Some(reply.revision), Outcome::Ok(reply.value.as_ref().map(|found| found.value.clone())))
            }
            // A read that was refused has no effect, whatever became of it.
            Err(_) => (None, Outcome::Fail),
        };
        let action = Action::Get { outcome };
        let ret = self.now();
        self.record(
            Operation { process, key: key.to_owned(), action, rev, node, token: None, call, ret },
            None,
        );
        answer.ok().map(|reply| reply.value.map(|found| found.value))
    }

    /// Writes `key` and writes the answer down; false if the outcome is unknown.
    pub async fn write(&self, client: &Client, process: u64, key: &str, change: Change) -> bool {
        let call = self.now();
        self.begin(process, key, change.clone(), call);
        let answer = match &change {
            Change::Put(value) => client.put(key.as_bytes().to_vec(), value.clone()).await,
            Change::Delete => client.delete(key.as_bytes().to_vec()).await,
            Change::Cas(expect, value) => {
                let expect = expect.clone().map_or(Expect::Absent, Expect::Value);
                client.cas(key.as_bytes().to_vec(), expect, value.clone()).await
            }
        };
        let ret = self.now();
        let (settled, rev) = settle(&answer);
        let unknown = if let Answer::Unknown(token) = answer { Some(token) } else { None };
        let token = unknown.map(|token| crate::history::Token(token.session, token.sequence));
        let action = change.answered(settled);
        self.record(
            Operation { process, key: key.to_owned(), action, rev, node: None, token, call, ret },
            unknown,
        );
        unknown.is_none()
    }

    pub(super) fn begin(&self, process: u64, key: &str, change: Change, call: u64) {
        let action = change.answered(Settled::Info);
        let key = key.to_owned();
        let open = Operation { process, key, action, rev: None, node: None, token: None, call, ret: call };
        lock(&self.shared.open).insert(process, open);
    }

    /// Settles every unknown outcome and corrects the history: what is known now was decided between call and now.
    /// Returns how many were unknown, and how many of them still are at the `deadline`.
    pub async fn resolve(&self, client: &Client, deadline: Instant) -> (usize, usize) {
        let waiting = std::mem::take(&mut *lock(&self.shared.unknown));
        let count = waiting.len();
        let mut open = 0;
        for (index, token) in waiting {
            if self.clock.now() >= deadline {
                open += 1;
                continue;
            }
            let reply = match client.resolve(&token).await {
                Ok(Resolved::Settled(reply)) => reply,
                Ok(Resolved::Unknowable(_)) | Err(_) => {
                    open += 1;
                    continue;
                }
            };
            let ret = self.now();
            let mut history = lock(&self.shared.history);
            let operation = &mut history.operations[index];
            let (settled, rev) = settle_reply(&reply);
            operation.action = Change::of(&operation.action).answered(settled);
            operation.rev = rev;
            operation.ret = ret;
        }
        (count, open)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A write.
#[derive(Clone, Debug)]
pub enum Change {
    /// Whatever was there.
    Put(Bytes),
    /// If the key holds this (`None`: nothing).
    Cas(Option<Bytes>, Bytes),
    /// Remove it.
    Delete,
}

/// An answer as the history knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    Done { existed: bool },
    Mismatch,
    Fail,
    Info,
}

impl Change {
    pub(super) fn answered(self, settled: Settled) -> Action {
        let plain = |settled: &Settled| match settled {
            Settled::Done { existed } => Outcome::Ok(Some(*existed)),
            Settled::Mismatch | Settled::Fail => Outcome::Fail,
            Settled::Info => Outcome::Info,
        };
        match self {
            Self::Put(value) => Action::Put { value, outcome: plain(&settled) },
            Self::Delete => Action::Delete { outcome: plain(&settled) },
            Self::Cas(expect, value) => {
                let outcome = match settled {
                    Settled::Done { .. } => Outcome::Ok(true),
                    Settled::Mismatch => Outcome::Ok(false),
                    Settled::Fail => Outcome::Fail,
                    Settled::Info => Outcome::Info,
                };
                Action::Cas { expect, value, outcome }
            }
        }
    }

    /// The write that an action was.
    fn of(action: &Action) -> Self {
        match action {
            Action::Put { value, .. } => Self::Put(value.clone()),
            Action::Cas { expect, value, .. } => Self::Cas(expect.clone(), value.clone()),
            Action::Delete { .. } => Self::Delete,
            Action::Get { .. } | Action::Append { .. } => unreachable!("only writes have tokens"),
        }
    }
}

pub(super) fn settle(answer: &Answer) -> (Settled, Option<u64>) {
    match answer {
        Answer::Committed { revision, existed } => (Settled::Done { existed: *existed }, Some(*revision)),
        Answer::NotCommitted(Reason::ConditionFailed { revision, .. }) => {
            (Settled::Mismatch, Some(*revision))
        }
        Answer::NotCommitted(_) => (Settled::Fail, None),
        Answer::Unknown(_) => (Settled::Info, None),
    }
}

pub(super) fn settle_reply(reply: &WriteReply) -> (Settled, Option<u64>) {
    match reply {
        WriteReply::Committed { revision, existed } => (Settled::Done { existed: *existed }, Some(*revision)),
        WriteReply::ConditionFailed { revision, .. } => (Settled::Mismatch, Some(*revision)),
        WriteReply::RolledBack { .. } | WriteReply::Rejected { .. } => (Settled::Fail, None),
    }
}
