//! What the peer serves.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rpc_core::rpc::stream::{self, Window};
use rpc_core::rpc::{Ctx, Never, ServiceRef, Services, Sink, Source};
use serde_bytes::ByteBuf;

use super::bodies::{
    Counter, CounterClient, DivideByZero, EXTRA, Metadata, MetadataClient, Notes, Refs, Shown, Streams,
    counter_services, enough, metadata_services, notes_services, refs_services, streams_services,
};

pub(crate) fn all() -> Services {
    let everything = Arc::new(Everything::default());
    calls()
        .merge(refs_services(Arc::clone(&everything)))
        .merge(streams_services(Arc::clone(&everything)))
        .merge(metadata_services(Arc::clone(&everything)))
        .merge(notes_services(everything))
}

/// How often each number was tallied, and how many handlers were stopped before their end.
#[derive(Default)]
struct Counts {
    tallied: Mutex<BTreeMap<u64, u64>>,
    stopped: AtomicU64,
}

impl Counts {
    fn tally(&self, number: u64) -> u64 {
        *self.tallied.lock().unwrap_or_else(PoisonError::into_inner).entry(number).or_default() += 1;
        number
    }

    /// Different numbers, and how often the most frequent one came.
    fn report(&self) -> (u64, u64) {
        let tallied = self.tallied.lock().unwrap_or_else(PoisonError::into_inner);
        (tallied.len() as u64, tallied.values().copied().max().unwrap_or(0))
    }
}

/// Counts itself when it is dropped before it is done.
struct Working {
    counts: Arc<Counts>,
    done: bool,
}

impl Working {
    async fn sleep(mut self, ctx: Ctx, ms: u64) -> Result<u64, Never> {
        ctx.runtime.sleep(Duration::from_millis(ms)).await;
        self.done = true;
        Ok(ms)
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        if !self.done {
            self.counts.stopped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn calls() -> Services {
    let counts = Arc::new(Counts::default());
    let (tally, report, stopped) = (Arc::clone(&counts), Arc::clone(&counts), Arc::clone(&counts));
    Services::new()
        .method_sync("calc.add", |_: Ctx, (a, b): (i64, i64)| Ok::<_, Never>(a.wrapping_add(b)))
        .method_sync("calc.divide", |_: Ctx, (a, b): (i64, i64)| a.checked_div(b).ok_or(DivideByZero))
        .method_sync("echo", |_: Ctx, body: ByteBuf| Ok::<_, Never>(body))
        .method_sync("tally.add", move |_: Ctx, number: u64| Ok::<_, Never>(tally.tally(number)))
        .method_sync("tally.report", move |_: Ctx, (): ()| Ok::<_, Never>(report.report()))
        .method("slow", move |ctx: Ctx, ms: u64| {
            Working { counts: Arc::clone(&counts), done: false }.sleep(ctx, ms)
        })
        .method_sync("stopped", move |_: Ctx, (): ()| Ok::<_, Never>(stopped.stopped.load(Ordering::Relaxed)))
        // Calls the caller back, over the connection that it opened. Once: a caller that drains would be asked again until
        // the deadline of its own call.
        .method("back", |ctx: Ctx, (a, b): (i64, i64)| async move {
            ctx.caller.call::<_, i64, Never>("calc.add", &(a, b)).once().await.map_err(text)
        })
        // As `echo`, compressed where the caller reads that.
        .method_sync("echo.small", |_: Ctx, body: ByteBuf| Ok::<_, Never>(body))
        .with("echo.small", rpc_core::rpc::MethodPolicy::new().compress(true))
}

fn text(error: impl Display) -> String {
    error.to_string()
}

/// The services around handles, metadata and notifications.
#[derive(Default)]
struct Everything {
    /// Holds one count for itself, and one for each counter that was made and not released.
    made: Arc<()>,
    collected: Arc<Mutex<Option<u64>>>,
    noted: AtomicU64,
}

/// Adds one.
pub(crate) struct PlusOne {
    _counted: Arc<()>,
}

impl PlusOne {
    /// As long as it lives, `counted` has one count more.
    pub(crate) fn new(counted: &Arc<()>) -> Self {
        Self { _counted: Arc::clone(counted) }
    }
}

impl Counter for PlusOne {
    async fn next(&self, _: Ctx, number: u64) -> Result<u64, Never> {
        Ok(number + 1)
    }

    async fn ask(&self, _: Ctx, number: u64, other: ServiceRef<CounterClient>) -> Result<u64, String> {
        other.client().map_err(text)?.next(number).await.map_err(text)
    }
}

impl Refs for Everything {
    async fn sum(&self, _: Ctx, count: u64, counter: ServiceRef<CounterClient>) -> Result<u64, String> {
        let counter = counter.client().map_err(text)?;
        let mut sum = 0;
        for number in 0..count {
            sum += counter.next(number).await.map_err(text)?;
        }
        Ok(sum)
    }

    async fn make(&self, _: Ctx) -> Result<ServiceRef<CounterClient>, Never> {
        let counter = counter_services(Arc::new(PlusOne::new(&self.made)));
        Ok(ServiceRef::new(counter).unwrap_or_else(|_| unreachable!("its names have different ids")))
    }

    async fn alive(&self, _: Ctx) -> Result<u64, Never> {
        Ok(Arc::strong_count(&self.made) as u64 - 1)
    }
}

impl Streams for Everything {
    async fn count(&self, ctx: Ctx, count: u64) -> Result<Source<u64>, Never> {
        let (sink, source) = stream::channel(Window::default());
        ctx.runtime.spawn("count", async move {
            for number in 0..count {
                sink.send(&number).await?;
            }
            sink.finish().await
        });
        Ok(source)
    }

    async fn fail(&self, _: Ctx, count: u64, numbers: Sink<u64>) -> Result<(), String> {
        for number in 0..count {
            numbers.send(&number).await.map_err(text)?;
        }
        numbers.fail(enough());
        Ok(())
    }

    async fn sum(&self, _: Ctx, mut numbers: Source<u64>) -> Result<u64, String> {
        let mut sum = 0;
        while let Some(number) = numbers.next().await {
            sum += number.map_err(text)?;
        }
        Ok(sum)
    }

    async fn double(&self, _: Ctx, mut numbers: Source<u64>, doubled: Sink<u64>) -> Result<(), String> {
        while let Some(number) = numbers.next().await {
            doubled.send(&(2 * number.map_err(text)?)).await.map_err(text)?;
        }
        doubled.finish().await.map_err(text)
    }

    async fn take(&self, _: Ctx, count: u64, mut numbers: Source<u64>) -> Result<u64, String> {
        let mut sum = 0;
        for _ in 0..count {
            sum += numbers.next().await.ok_or("too few")?.map_err(text)?;
        }
        Ok(sum)
    }

    async fn collect(&self, ctx: Ctx) -> Result<Sink<u64>, Never> {
        let (sink, mut source) = stream::channel::<u64>(Window { items: 10, bytes: 1 << 10 });
        let collected = Arc::clone(&self.collected);
        ctx.runtime.spawn("collect", async move {
            let mut sum = 0;
            while let Some(Ok(number)) = source.next().await {
                sum += number;
            }
            *collected.lock().unwrap_or_else(PoisonError::into_inner) = Some(sum);
        });
        Ok(sink)
    }

    async fn collected(&self, _: Ctx) -> Result<Option<u64>, Never> {
        Ok(*self.collected.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Metadata for Everything {
    async fn show(&self, ctx: Ctx) -> Result<Shown, Never> {
        let trace = ctx.trace().map(|trace| {
            (ByteBuf::from(trace.id.to_be_bytes()), trace.hops.iter().map(|hop| hop.0).collect())
        });
        let key = ctx.idempotency_key().map(|key| (ByteBuf::from(key.client.to_be_bytes()), key.sequence));
        let extra = ctx.extra(EXTRA).map(|extra| ByteBuf::from(extra.to_vec()));
        let left = ctx.deadline.saturating_since(ctx.runtime.now());
        Ok(Shown { trace, key, extra, left_ms: left.as_millis() as u64 })
    }

    async fn back(&self, ctx: Ctx) -> Result<Shown, String> {
        MetadataClient::new(ctx.caller.clone()).show().await.map_err(text)
    }
}

impl Notes for Everything {
    async fn add(&self, _: Ctx, number: u64) -> Result<(), Never> {
        self.noted.fetch_add(number, Ordering::Relaxed);
        Ok(())
    }

    async fn sum(&self, _: Ctx) -> Result<u64, Never> {
        Ok(self.noted.load(Ordering::Relaxed))
    }
}
