//! What the clients do: get, put, cas and delete on registers, each answer written down as it was given. A write that
//! was not answered yet stands in the history too, with an unknown outcome: a run may be ended at any time.
//!
//! Keys rotate so that each has few operations and few clients: that keeps the black-box search decided.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use kv_client::api::{Expect, Resolved, WriteReply};
use kv_client::{Client, Outcome as Answer, Reason, Token};
use rpc_core::random::SeededRandom;
use rpc_core::runtime::{Instant, Runtime};

use crate::history::{Action, History, Nemesis, Operation, Outcome};
use crate::plan::Fault;

/// Operations on one key before the clients move on to the next.
const OPERATIONS_PER_KEY: u64 = 150;
/// Keys in use at once.
const KEYS_AT_ONCE: u64 = 3;

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

    /// Notes a fault that begins, or that those which `fault` puts right are over.
    pub(crate) fn fault(&self, fault: &Fault, leader: Option<u64>) {
        let now = self.now();
        let nemeses = &mut lock(&self.shared.history).nemeses;
        if !fault.is_end() {
            let value = Some(match leader {
                Some(leader) => format!("{fault} (leader {leader})"),
                None => fault.to_string(),
            });
            nemeses.push(Nemesis { f: fault.word().to_owned(), value, call: now, ret: None });
        } else {
            let ended = |nemesis: &&mut Nemesis| nemesis.ret.is_none() && fault.ends(&nemesis.f);
            for nemesis in nemeses.iter_mut().filter(ended) {
                nemesis.ret = Some(now);
            }
        }
    }

    /// Looks at the history so far.
    pub(crate) fn with_history<T>(&self, look: impl FnOnce(&History) -> T) -> T {
        look(&lock(&self.shared.history))
    }

    fn record(&self, operation: Operation, unknown: Option<Token>) {
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

    /// The key that operation number `number` is about.
    fn key(&self, random: &mut SeededRandom) -> String {
        let generation = self.operations() / (OPERATIONS_PER_KEY * KEYS_AT_ONCE);
        format!("{}k{}", self.prefix, generation * KEYS_AT_ONCE + random.below(KEYS_AT_ONCE))
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

    fn begin(&self, process: u64, key: &str, change: Change, call: u64) {
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
enum Settled {
    Done { existed: bool },
    Mismatch,
    Fail,
    Info,
}

impl Change {
    fn answered(self, settled: Settled) -> Action {
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

fn settle(answer: &Answer) -> (Settled, Option<u64>) {
    match answer {
        Answer::Committed { revision, existed } => (Settled::Done { existed: *existed }, Some(*revision)),
        Answer::NotCommitted(Reason::ConditionFailed { revision, .. }) => {
            (Settled::Mismatch, Some(*revision))
        }
        Answer::NotCommitted(_) => (Settled::Fail, None),
        Answer::Unknown(_) => (Settled::Info, None),
    }
}

fn settle_reply(reply: &WriteReply) -> (Settled, Option<u64>) {
    match reply {
        WriteReply::Committed { revision, existed } => (Settled::Done { existed: *existed }, Some(*revision)),
        WriteReply::ConditionFailed { revision, .. } => (Settled::Mismatch, Some(*revision)),
        WriteReply::RolledBack { .. } | WriteReply::Rejected { .. } => (Settled::Fail, None),
    }
}

/// One client: random operations with pauses until `end`.
pub async fn register(
    recorder: Recorder,
    client: Client,
    mut random: SeededRandom,
    pause: Duration,
    end: Instant,
) {
    let mut process = recorder.process();
    let mut written = 0u64;
    // What this client saw last of each key in use: a cas that expects it has a chance.
    let mut seen: Vec<(String, Option<Bytes>)> = Vec::new();
    while recorder.clock.now() < end {
        let key = recorder.key(&mut random);
        let known = seen.iter().find(|(other, _)| *other == key).map(|(_, value)| value.clone());
        written += 1;
        let value = Bytes::from(format!("{process}.{written}"));
        let draw = random.below(100);
        let is_known = if draw < 40 {
            if let Some(value) = recorder.get(&client, process, None, &key).await {
                seen.retain(|(other, _)| *other != key);
                seen.push((key, value));
                seen.drain(..seen.len().saturating_sub(KEYS_AT_ONCE as usize));
            }
            true
        } else {
            let change = match draw {
                40..70 => Change::Put(value),
                70..92 => Change::Cas(known.flatten(), value),
                _ => Change::Delete,
            };
            recorder.write(&client, process, &key, change).await
        };
        if !is_known {
            process = recorder.process();
        }
        let jitter = random.below(u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX) * 2);
        recorder.clock.sleep(Duration::from_nanos(jitter)).await;
    }
}
