//! What the peer calls, and what it holds the answers against.

use std::error::Error;
use std::fmt::Debug;
use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use rpc_core::endpoint::Lane;
use rpc_core::rpc::stream::{self, Window};
use rpc_core::rpc::{CallError, Code, Never, Outcome, Remote, RpcError, ServiceRef, Source};
use rpc_core::runtime::Runtime;
use serde_bytes::ByteBuf;

use super::bodies::{
    DivideByZero, ENOUGH, EXTRA, LARGE, MetadataClient, NotesClient, RefsClient, StreamsClient,
    counter_services,
};
use super::services::PlusOne;

/// Calls in flight together.
const MANY: u64 = 200;

/// Items of a stream: more than its window has, several times.
const ITEMS: u64 = 500;
const SMALL: Window = Window { items: 64, bytes: 1 << 10 };

pub(crate) async fn all(remote: &Remote, runtime: &Runtime) -> Result<(), Box<dyn Error>> {
    small(remote).await?;
    large(remote).await?;
    compressed(remote).await?;
    given_up(remote, runtime).await?;
    metadata(remote).await?;
    references(remote, runtime).await?;
    streams(remote, runtime).await?;
    notes(remote, runtime).await?;
    many(remote).await
}

/// Results, the method's own error, errors of the system.
async fn small(remote: &Remote) -> Result<(), Box<dyn Error>> {
    let sum: i64 = remote.call::<_, _, Never>("calc.add", &(2, -3)).await?;
    check("add", sum == -1, sum)?;
    let sum: i64 = remote.call::<_, _, Never>("calc.add", &(2, 3)).trace(7).await?;
    check("a traced call", sum == 5, sum)?;
    let quotient = remote.call::<_, i64, DivideByZero>("calc.divide", &(1, 0)).await;
    check("divide by zero", quotient == Err(CallError::Method(DivideByZero)), quotient)?;
    let unknown = remote.call::<_, (), Never>("no.such", &()).await;
    check(
        "unknown method",
        refused(&unknown) == Some((Code::MethodNotFound, Outcome::NotExecuted)),
        unknown,
    )?;
    let wrong = remote.call::<_, i64, Never>("calc.add", "seven").await;
    check("wrong body", refused(&wrong) == Some((Code::BadRequest, Outcome::NotExecuted)), wrong)
}

async fn large(remote: &Remote) -> Result<(), Box<dyn Error>> {
    let body = ByteBuf::from((0..LARGE).map(|at| ((at * at) >> 8) as u8).collect::<Vec<_>>());
    let echo = |lane| {
        let call = remote.call::<_, ByteBuf, Never>("echo", &body);
        // Compressed only where the other side reads that.
        call.lane(lane).timeout(Duration::from_secs(30)).compress(true).into_future()
    };
    for echoed in join_all([Lane::Normal, Lane::Bulk, Lane::Normal, Lane::Bulk].map(echo)).await {
        check("echo of 200 KiB", echoed.as_ref() == Ok(&body), echoed.map(|body| body.len()))?;
    }
    Ok(())
}

/// A call that its caller gives up is stopped at the callee.
async fn given_up(remote: &Remote, runtime: &Runtime) -> Result<(), Box<dyn Error>> {
    let late = remote.call::<_, u64, Never>("slow", &60_000).timeout(Duration::from_millis(300)).once().await;
    check("deadline", refused(&late) == Some((Code::Timeout, Outcome::Unknown)), late)?;
    until("the handler was stopped", runtime, || remote.call::<_, u64, Never>("stopped", &()), 1).await
}

/// A body that shrinks, asked for and answered so.
async fn compressed(remote: &Remote) -> Result<(), Box<dyn Error>> {
    let body = ByteBuf::from(b"all work and no play ".repeat(200));
    let echoed = remote.call::<_, ByteBuf, Never>("echo.small", &body).compress(true).await;
    check("a compressed echo", echoed.as_ref() == Ok(&body), echoed)
}

async fn metadata(remote: &Remote) -> Result<(), Box<dyn Error>> {
    let meta = MetadataClient::new(remote.clone());
    let plain = meta.show().timeout(Duration::from_secs(30)).await?;
    let nothing = plain.trace.is_none() && plain.key.is_none() && plain.extra.is_none();
    check("no metadata", nothing && (25_000..=30_000).contains(&plain.left_ms), plain)?;
    let shown = meta.show().trace(7).idempotency_key(8, 9).extra(EXTRA, b"own"[..].into()).await?;
    let id = |id: u128| ByteBuf::from(id.to_be_bytes());
    check("a trace", shown.trace == Some((id(7), vec![])), &shown)?;
    check("an idempotency key", shown.key == Some((id(8), 9)), &shown)?;
    check("the application's own", shown.extra == Some(ByteBuf::from("own")), &shown)?;
    let back = meta.back().trace(7).timeout(Duration::from_secs(2)).await?;
    let hop = rpc_core::rpc::MethodId::of("meta.back").0;
    check("a hop", back.trace == Some((id(7), vec![hop])), &back)?;
    check("a deadline that is handed on", back.left_ms <= 2_000, &back)?;
    let unkeyed = remote.call::<_, i64, Never>("calc.add", &(2, 3)).idempotency_key(8, 9).await;
    check(
        "a key that is not kept",
        refused(&unkeyed) == Some((Code::BadRequest, Outcome::NotExecuted)),
        unkeyed,
    )
}

async fn references(remote: &Remote, runtime: &Runtime) -> Result<(), Box<dyn Error>> {
    let refs = RefsClient::new(remote.clone());
    let mine = Arc::new(());
    let counter = || ServiceRef::new(counter_services(Arc::new(PlusOne::new(&mine))));
    let sum = refs.sum(4, counter()?).await;
    check("a service that is called back", sum == Ok(1 + 2 + 3 + 4), sum)?;
    until("it was released", runtime, || std::future::ready(Ok::<_, RpcError>(Arc::strong_count(&mine))), 1)
        .await?;
    let made = refs.make().await?.client()?;
    let next = made.next(41).await;
    check("a service as an answer", next == Ok(42), next)?;
    let asked = made.ask(10, counter()?).await;
    check("a service for a service", asked == Ok(11), asked)?;
    let untyped = remote.call::<_, ServiceRef, Never>("ref.make", &()).await?.client()?;
    let unknown = untyped.call::<_, (), Never>("no.such", &()).await;
    check("no such method of it", refused(&unknown).map(|it| it.0) == Some(Code::MethodNotFound), unknown)?;
    drop((made, untyped));
    until("it is released", runtime, || refs.alive(), 0).await
}

async fn streams(remote: &Remote, runtime: &Runtime) -> Result<(), Box<dyn Error>> {
    let streams = StreamsClient::new(remote.clone());
    let all: Vec<u64> = (0..ITEMS).collect();

    let counted = read(streams.count(ITEMS).await?).await;
    check("a stream as an answer", counted == (all.clone(), None), counted)?;

    let (sink, failing) = stream::channel(SMALL);
    let (answer, read_) = tokio::join!(streams.fail(ITEMS, sink).into_future(), read(failing));
    check("a sink as an argument", answer == Ok(()) && read_.0 == all, &read_)?;
    check("a stream that fails", read_.1.map(|error| (error.code, error.outcome)) == Some(ENOUGH), "")?;

    let (sink, source) = stream::channel(SMALL);
    let (sum, sent) = tokio::join!(streams.sum(source).into_future(), send(sink, &all));
    check("a stream as an argument", sum == Ok(all.iter().sum()) && sent.is_ok(), (sum, sent))?;

    let ((sink, source), (doubled, twice)) = (stream::channel(SMALL), stream::channel(SMALL));
    let (done, sent, twice) =
        tokio::join!(streams.double(source, doubled).into_future(), send(sink, &all), read(twice));
    let expected = all.iter().map(|number| 2 * number).collect();
    check("streams both ways", twice == (expected, None) && sent.is_ok(), (done, sent))?;

    let (sink, source) = stream::channel(SMALL);
    let (taken, sent) = tokio::join!(streams.take(10, source).into_future(), send(sink, &all));
    check("a stream that is stopped", taken == Ok(45) && sent.is_err(), (taken, sent))?;

    send(streams.collect().await?, &all).await?;
    until("a sink as an answer", runtime, || streams.collected(), Some(all.iter().sum())).await
}

async fn send(sink: rpc_core::rpc::Sink<u64>, numbers: &[u64]) -> Result<(), RpcError> {
    for number in numbers {
        sink.send(number).await?;
    }
    sink.finish().await
}

/// The items of a stream, and the error that ended it if one did.
async fn read(mut source: Source<u64>) -> (Vec<u64>, Option<RpcError>) {
    let mut items = Vec::new();
    while let Some(item) = source.next().await {
        match item {
            Ok(item) => items.push(item),
            Err(error) => return (items, Some(error)),
        }
    }
    (items, None)
}

async fn notes(remote: &Remote, runtime: &Runtime) -> Result<(), Box<dyn Error>> {
    let notes = NotesClient::new(remote.clone());
    let told = notes.add(5).notify().await;
    check("a notification", told.is_ok(), told)?;
    let unknown = remote.call::<_, (), Never>("no.such", &()).notify().await;
    check("one of nothing", unknown.as_ref().is_err_and(|it| it.code == Code::MethodNotFound), unknown)?;
    until("its method ran", runtime, || notes.sum(), 5).await
}

/// Whatever is lost on the way: all calls end well, and none is executed twice.
async fn many(remote: &Remote) -> Result<(), Box<dyn Error>> {
    let add = |number: u64| {
        let call = remote.call::<_, u64, Never>("tally.add", &number);
        call.timeout(Duration::from_secs(30)).once().into_future()
    };
    for (number, answer) in (0..).zip(join_all((0..MANY).map(add)).await) {
        if answer != Ok(number) {
            check("one of many", false, answer)?;
        }
    }
    let report: (u64, u64) = remote.call::<_, _, Never>("tally.report", &()).await?;
    check("200 calls at once, each executed once", report == (MANY, 1), report)
}

/// Asks until the answer is `wanted`.
async fn until<T, E, F>(
    what: &str,
    runtime: &Runtime,
    ask: impl Fn() -> F,
    wanted: T,
) -> Result<(), Box<dyn Error>>
where
    T: PartialEq + Debug,
    E: Error + 'static,
    F: IntoFuture<Output = Result<T, E>>,
{
    let deadline = runtime.now() + Duration::from_secs(10);
    loop {
        let got = ask().await?;
        if got == wanted || runtime.now() >= deadline {
            return check(what, got == wanted, got);
        }
        runtime.sleep(Duration::from_millis(10)).await;
    }
}

fn refused<R, E>(answer: &Result<R, CallError<E>>) -> Option<(Code, Outcome)> {
    match answer {
        Err(CallError::Rpc(RpcError { code, outcome, .. })) => Some((*code, *outcome)),
        _ => None,
    }
}

fn check(what: &str, good: bool, got: impl Debug) -> Result<(), Box<dyn Error>> {
    println!("{what}: {}", if good { "ok" } else { "WRONG" });
    if good { Ok(()) } else { Err(format!("{what}: {got:?}").into()) }
}
