//! The task that drives one socket.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use std::vec::Drain;

use bytes::Bytes;

use super::drops::Drops;
use super::serving::{Arrival, Callers, serve};
use super::state::State;
use super::waiting::Ended;
use super::{HANDLERS_MAX, Inner, peers, sessions};
use crate::driver::DatagramSocket;
use crate::endpoint::{CallId, ConnId, Datagram, Event, Form};
use crate::rpc::dispatch::Response;
use crate::rpc::registry::Table;
use crate::rpc::{Code, MethodId, RpcError};
use crate::runtime::{BoxFuture, Instant, Task};

/// Moves datagrams between the socket and the endpoint until the peer is closed or the socket fails.
pub(super) async fn drive(inner: Arc<Inner>, socket: impl DatagramSocket) {
    let mut datagrams = Vec::new();
    let mut buffer = Vec::new();
    let mut timer = Timer { deadline: None, sleep: None };
    let mut drops = Drops::default();
    let mut patience = Patience::new(inner.spin);
    let mut pace = Pace::default();
    loop {
        let span = {
            let state = inner.lock();
            timer.set(&inner, state.timeout());
            if socket.can_spin() { patience.span(!state.waiting.is_empty()) } else { Duration::ZERO }
        };
        match wait(&inner, &socket, (&mut patience, span), &mut timer, &mut datagrams).await {
            Ok(idled) => pace.on_wait(idled),
            Err(error) => {
                tracing::error!(local_addr = %inner.local_addr, %error, "socket failed");
                inner.lock().closing = true;
            }
        }
        let mut arrived = datagrams.drain(..);
        loop {
            turn(&inner, &mut arrived, pace.events);
            tell_drops(&inner, &mut drops);
            // Callers and handlers that were woken speak first, then all of it is sent together.
            yield_once().await;
            inner.doorbell.answer();
            flush(&inner, &socket, &mut buffer).await;
            if arrived.len() == 0 {
                break;
            }
        }
        drop(arrived);
        let mut state = inner.lock();
        if state.closing {
            let (serving, waiting) = state.end();
            let lost = state.lose_sessions();
            state.roster.end();
            drop(state);
            sessions::end(lost);
            serving.iter().for_each(Task::abort);
            waiting.into_iter().for_each(Waker::wake);
            inner.quiet.notify_waiters();
            return;
        }
        if state.draining && state.is_quiet() {
            drop(state);
            // All who wait: a single notification could go to one who waits for the end, and the drain would sleep on.
            inner.quiet.notify_waiters();
        }
    }
}

/// Waits for datagrams, for the endpoint's next timeout, or for somebody who has something to send; true if there was
/// nothing to do at first.
async fn wait(
    inner: &Inner,
    socket: &impl DatagramSocket,
    (patience, span): (&mut Patience, Duration),
    timer: &mut Timer,
    datagrams: &mut Vec<Datagram>,
) -> std::io::Result<bool> {
    let mut idled = false;
    if !span.is_zero() {
        let spun = spin(inner, socket, span, timer.deadline, datagrams).await?;
        patience.on_spun(spun != Spun::InVain);
        idled = spun != Spun::AtOnce;
        if spun != Spun::InVain {
            return Ok(idled);
        }
    }
    let waited = poll_fn(|cx| {
        if let Poll::Ready(received) = socket.poll_recv(cx, datagrams) {
            return Poll::Ready(received);
        }
        if inner.doorbell.poll_rung(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let polled = timer.poll(cx).map(Ok);
        idled |= polled.is_pending();
        polled
    });
    waited.await.map(|()| idled)
}

/// When a spin had something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spun {
    AtOnce,
    Later,
    InVain,
}

/// Asks the socket again and again for up to `span`, because going to sleep and being woken takes longer than most
/// answers. Other tasks and processes run in between.
async fn spin(
    inner: &Inner,
    socket: &impl DatagramSocket,
    span: Duration,
    timeout: Option<Instant>,
    datagrams: &mut Vec<Datagram>,
) -> std::io::Result<Spun> {
    let end = inner.runtime.now() + span;
    let mut found = Spun::AtOnce;
    loop {
        if socket.try_recv(datagrams)?.is_some() || inner.doorbell.is_rung() {
            return Ok(found);
        }
        found = Spun::Later;
        let now = inner.runtime.now();
        if now >= end || timeout.is_some_and(|timeout| timeout <= now) {
            return Ok(Spun::InVain);
        }
        yield_once().await;
        // Latency mode was asked for and told its price.
        if inner.spin.is_zero() {
            std::thread::yield_now();
        }
    }
}

/// How long to ask the socket before sleeping: as long as latency mode says; without it, for about as long as sleeping
/// and being woken takes, while an answer is awaited and answers have lately come within that time. So a caller of a
/// near peer has its answer sooner for no more of the processor, and one of a far peer hardly ever asks in vain.
#[derive(Debug)]
struct Patience {
    latency_mode: Duration,
    /// Answers in a row that took longer.
    failures: u32,
    /// Times to sleep at once before it is tried again.
    rest: u32,
}

impl Patience {
    const fn new(latency_mode: Duration) -> Self {
        Self { latency_mode, failures: 0, rest: 0 }
    }

    fn span(&mut self, answer_awaited: bool) -> Duration {
        if !self.latency_mode.is_zero() {
            return self.latency_mode;
        }
        if !answer_awaited {
            return Duration::ZERO;
        }
        if self.rest > 0 {
            self.rest -= 1;
            return Duration::ZERO;
        }
        SPIN_SPAN
    }

    fn on_spun(&mut self, found: bool) {
        self.failures = if found { 0 } else { (self.failures + 1).min(REST_DOUBLINGS) };
        self.rest = if found { 0 } else { 1 << self.failures };
    }
}

/// What sleeping and being woken takes on both sides of a call, measured.
const SPIN_SPAN: Duration = Duration::from_micros(50);
/// One wait in two, then in four, .. and at last in 1,024 is tried.
const REST_DOUBLINGS: u32 = 10;

/// Fires at the next timeout or before; made anew only when that comes earlier than it would.
struct Timer {
    deadline: Option<Instant>,
    sleep: Option<BoxFuture<()>>,
}

impl Timer {
    fn set(&mut self, inner: &Inner, deadline: Option<Instant>) {
        let in_time = deadline.is_none_or(|next| self.deadline.is_some_and(|armed| armed <= next));
        if !in_time {
            self.deadline = deadline;
            self.sleep = deadline.map(|deadline| inner.runtime.sleep_until(deadline));
        }
    }

    /// Ready once for each time that it was made.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(sleep) = &mut self.sleep else { return Poll::Pending };
        sleep.as_mut().poll(cx).map(|()| *self = Self { deadline: None, sleep: None })
    }
}

/// One turn of the endpoint: what arrived, up to `events_max`, what timed out once all has, and what follows.
fn turn(inner: &Arc<Inner>, arrived: &mut Drain<'_, Datagram>, events_max: usize) {
    let now = inner.runtime.now();
    let methods;
    let mut turn;
    let lost = {
        let mut state = inner.lock();
        methods = Arc::clone(&state.methods);
        turn = Turn::new(inner, &methods, now);
        while state.endpoint.events_len() < events_max
            && let Some(datagram) = arrived.next()
        {
            state.endpoint.handle_datagram(now, datagram);
        }
        // What has arrived counts before what has not.
        if arrived.len() == 0 && state.endpoint.poll_timeout().is_some_and(|deadline| deadline <= now) {
            state.endpoint.handle_timeout(now);
        }
        turn.expected = state.endpoint.events_len();
        while let Some(event) = state.endpoint.poll_event() {
            if let Event::Connected { conn, inbound: true, .. } = event
                && inner.on_connect.is_some()
            {
                drop(state);
                peers::judge(inner, conn);
                state = inner.lock();
            }
            turn.handle(&mut state, event);
        }
        if state.waiting.deadline().is_some_and(|deadline| deadline <= now) {
            turn.end_expired(&mut state);
        }
        std::mem::take(&mut state.lost_sessions)
    };
    turn.woken.into_iter().for_each(Waker::wake);
    sessions::end(lost);
    // An aborted handler's destructors may call into this peer again: not under its lock.
    for task in turn.dropped {
        task.abort();
    }
    serve(inner, turn.arrivals);
}

/// After how many requests and answers a turn sends what follows from them before it reads on. In one turn the two sides
/// would work alternately, each waiting for the other's whole batch; so they work at the same time. But smaller turns
/// send smaller datagrams. So turns grow while there is always more to read, and shrink when this side had to wait.
#[derive(Debug)]
struct Pace {
    events: usize,
}

impl Default for Pace {
    fn default() -> Self {
        Self { events: PACE_MIN }
    }
}

impl Pace {
    fn on_wait(&mut self, idled: bool) {
        self.events = if idled { self.events / 2 } else { self.events + 1 }.clamp(PACE_MIN, PACE_MAX);
    }
}

/// Measured from 8 to 64: best with 64 calls in flight.
const PACE_MIN: usize = 16;
/// Measured from 8 to 128 with 256 calls in flight: from 64 on nothing more is won.
const PACE_MAX: usize = 128;

/// What follows from the events of one turn, to be done without the lock.
struct Turn<'a> {
    inner: &'a Arc<Inner>,
    /// What is served in this turn.
    methods: &'a Table,
    now: Instant,
    callers: Callers,
    /// Events at the start of the turn. Most are of one kind, whichever that is: the first one makes room for all.
    expected: usize,
    /// Requests to be served.
    arrivals: Vec<Arrival<'a>>,
    /// Callers to be woken.
    woken: Vec<Waker>,
    /// Handlers to be stopped.
    dropped: Vec<Task<()>>,
}

impl<'a> Turn<'a> {
    fn new(inner: &'a Arc<Inner>, methods: &'a Table, now: Instant) -> Self {
        Self {
            inner,
            methods,
            now,
            callers: Callers::default(),
            expected: 0,
            arrivals: Vec::new(),
            woken: Vec::new(),
            dropped: Vec::new(),
        }
    }

    fn handle(&mut self, state: &mut State, event: Event) {
        match event {
            Event::Request { conn, call, method, deadline, form, body, .. } => {
                self.on_request(state, (conn, call), MethodId(method), deadline, (form, body));
            }
            Event::Response { conn, call, status, form, body } => {
                if self.woken.is_empty() {
                    self.woken.reserve(self.expected);
                }
                self.woken.extend(state.waiting.end(conn, call, Ended::Answered { status, form, body }));
            }
            Event::Cancelled { conn, call } => match state.serving.remove(&(conn, call)) {
                Some(task) => self.dropped.push(task),
                // It may have come with its request.
                None => {
                    if let Some(index) =
                        self.arrivals.iter().rposition(|arrival| arrival.call == call && arrival.conn == conn)
                    {
                        self.arrivals.remove(index);
                    }
                }
            },
            Event::Lost { conn, reason, calls } => {
                state.lose_session(conn, &reason);
                state.roster.on_lost(conn, &reason);
                state.outgoing.retain(|_, other| *other != conn);
                for (call, sent) in calls {
                    let ended = Ended::Lost { reason: reason.clone(), sent };
                    self.woken.extend(state.waiting.end(conn, call, ended));
                }
                state.waiting.on_lost(conn);
                let served = (conn, CallId(0))..=(conn, CallId(u64::MAX));
                let keys: Vec<_> = state.serving.range(served).map(|(key, _)| *key).collect();
                self.dropped.extend(keys.iter().filter_map(|key| state.serving.remove(key)));
                self.arrivals.retain(|arrival| arrival.conn != conn);
            }
            Event::Draining { conn } => {
                state.outgoing.retain(|_, other| *other != conn);
                state.roster.on_draining(conn);
            }
            // Gone already if it was refused.
            Event::Connected { conn, .. } => {
                if let Some(info) = state.endpoint.connection(conn) {
                    let info = state.peer_info(conn, &info);
                    state.roster.on_connected(info);
                }
            }
        }
    }

    /// Ends the calls whose deadline has passed. Before its setup exchange is complete nothing of a call was sent.
    fn end_expired(&mut self, state: &mut State) {
        for (conn, call) in state.waiting.expired(self.now) {
            let sent = state.endpoint.connection(conn).is_none_or(|info| info.established);
            state.endpoint.cancel(self.now, conn, call);
            self.woken.extend(state.waiting.end(conn, call, Ended::TimedOut { sent }));
        }
    }

    fn on_request(
        &mut self,
        state: &mut State,
        (conn, call): (ConnId, CallId),
        method: MethodId,
        deadline: Instant,
        (form, body): (Form, Bytes),
    ) {
        let refusal = match self.methods.get(method) {
            _ if state.serving.len() + self.arrivals.len() >= HANDLERS_MAX => {
                RpcError::not_executed(Code::ServerBusy, format!("{HANDLERS_MAX} calls are being served"))
                    .retry_after(RETRY_AFTER)
            }
            Some(served) => {
                if let Some(caller) = self.callers.caller(self.inner, state, conn) {
                    if self.arrivals.is_empty() {
                        self.arrivals.reserve(self.expected);
                    }
                    self.arrivals.push(Arrival { conn, call, caller, deadline, served, form, body });
                }
                return;
            }
            None => {
                RpcError::not_executed(Code::MethodNotFound, format!("no method with id {:#010x}", method.0))
            }
        };
        let Response { status, form, body } = Response::refusal(&refusal);
        state.endpoint.respond(conn, call, status, form, body);
    }
}

/// When a caller is told to come again that was refused because of [`HANDLERS_MAX`].
const RETRY_AFTER: Duration = Duration::from_millis(100);

impl State {
    /// When a turn has something to do though nothing arrives.
    fn timeout(&self) -> Option<Instant> {
        let (protocol, callers) = (self.endpoint.poll_timeout(), self.waiting.deadline());
        protocol.min(callers).or(protocol).or(callers)
    }

    /// Ends everything: handlers are given to be aborted, callers to be woken, both without the lock.
    fn end(&mut self) -> (Vec<Task<()>>, Vec<Waker>) {
        self.ended = true;
        let serving = std::mem::take(&mut self.serving);
        (serving.into_values().collect(), self.waiting.close())
    }
}

/// Sends what the endpoint has to say.
async fn flush(inner: &Inner, socket: &impl DatagramSocket, buffer: &mut Vec<u8>) {
    loop {
        let transmit =
            inner.lock().endpoint.poll_transmit(inner.runtime.now(), socket.segments_max(), buffer);
        let Some(transmit) = transmit else { return };
        let contents = &buffer[..transmit.size];
        poll_fn(|cx| socket.poll_send(cx, &transmit, contents)).await;
    }
}

/// Says what was dropped, where anybody listens.
fn tell_drops(inner: &Inner, drops: &mut Drops) {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    let line = drops.line(inner.runtime.now(), inner.lock().endpoint.counters());
    if let Some(dropped) = line {
        tracing::debug!(local_addr = %inner.local_addr, dropped, "datagrams dropped");
    }
}

/// Lets every other task that is ready run once.
async fn yield_once() {
    let mut yielded = false;
    poll_fn(|cx| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::endpoint::{Lane, Transmit};
    use crate::peer::Peer;
    use crate::rpc::{Ctx, Never, Services};
    use crate::sim::World;

    /// A socket that has something from a certain look on.
    struct Scripted(AtomicU32);

    impl DatagramSocket for Scripted {
        fn local_addr(&self) -> SocketAddr {
            (Ipv4Addr::LOCALHOST, 1).into()
        }

        fn poll_recv(
            &self,
            _cx: &mut Context<'_>,
            _datagrams: &mut Vec<Datagram>,
        ) -> Poll<std::io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn try_recv(&self, _datagrams: &mut Vec<Datagram>) -> std::io::Result<Option<()>> {
            Ok((self.0.fetch_sub(1, Ordering::Relaxed) == 1).then_some(()))
        }

        fn poll_send(&self, _cx: &mut Context<'_>, _transmit: &Transmit, _contents: &[u8]) -> Poll<()> {
            Poll::Ready(())
        }

        fn segments_max(&self) -> usize {
            1
        }
    }

    #[test]
    fn who_finds_something_at_the_first_look_did_not_idle_and_who_asks_again_did() {
        let world = World::new(1);
        let address = (Ipv4Addr::LOCALHOST, 1).into();
        let runtime = world.start(1);
        let peer = Peer::builder(runtime.clone()).start_insecure(world.bind(1, address)).unwrap();
        let idled = world.run(async move {
            let mut idled = Vec::new();
            // Without patience the socket is asked once, and waited for.
            for (looks, span) in [(1, Duration::ZERO), (1, SPIN_SPAN), (2, SPIN_SPAN), (50, SPIN_SPAN)] {
                let mut timer = Timer { deadline: None, sleep: None };
                let (socket, mut patience) = (Scripted(looks.into()), Patience::new(SPIN_SPAN));
                let (inner, mut found) = (&peer.inner, Vec::new());
                let waited = wait(inner, &socket, (&mut patience, span), &mut timer, &mut found).await;
                idled.push((waited.unwrap(), patience.failures));
            }
            // The timeout has come before anything did.
            let mut timer = Timer { deadline: Some(runtime.now()), sleep: None };
            let (socket, mut patience) = (Scripted(50.into()), Patience::new(SPIN_SPAN));
            let spun = (&mut patience, SPIN_SPAN);
            let waited = wait(&peer.inner, &socket, spun, &mut timer, &mut Vec::new()).await;
            idled.push((waited.unwrap(), patience.failures));
            idled
        });
        assert_eq!(idled, [(false, 0), (false, 0), (true, 0), (true, 0), (true, 1)]);
    }

    #[test]
    fn answers_are_spun_for_while_they_come_soon() {
        let mut patience = Patience::new(Duration::ZERO);
        assert_eq!(patience.span(false), Duration::ZERO, "nobody waits");
        for _ in 0..100 {
            assert_eq!(patience.span(true), SPIN_SPAN);
            patience.on_spun(true);
        }
        let mut spins = 0;
        for _ in 0..100_000 {
            if patience.span(true) == SPIN_SPAN {
                spins += 1;
                patience.on_spun(false);
            }
        }
        assert!((90..=120).contains(&spins), "{spins} of 100,000 waits for a far peer");
        while patience.span(true).is_zero() {}
        patience.on_spun(true);
        assert_eq!(patience.span(true), SPIN_SPAN, "it has come near");
    }

    #[test]
    fn turns_grow_one_by_one_while_there_is_more_to_read_and_halve_after_a_wait() {
        let mut pace = Pace::default();
        pace.on_wait(true);
        assert_eq!(pace.events, PACE_MIN);
        for grown in PACE_MIN + 1..=PACE_MAX {
            pace.on_wait(false);
            assert_eq!(pace.events, grown);
        }
        pace.on_wait(false);
        assert_eq!(pace.events, PACE_MAX);
        let shrunk = [(); 4].map(|()| {
            pace.on_wait(true);
            pace.events
        });
        assert_eq!(shrunk, [PACE_MAX / 2, PACE_MAX / 4, PACE_MAX / 8, PACE_MIN]);
    }

    #[test]
    fn latency_mode_spins_always() {
        let mut patience = Patience::new(Duration::from_micros(7));
        patience.on_spun(false);
        assert_eq!([true, false].map(|awaited| patience.span(awaited)), [Duration::from_micros(7); 2]);
    }

    #[test]
    fn a_cancellation_takes_its_own_request_out_of_a_turn_and_no_other_of_the_connection() {
        let world = World::new(2);
        let served = Services::new().method("wait", |_: Ctx, (): ()| async { Ok::<_, Never>(()) });
        let [server, client] = [1, 2].map(|node| {
            let socket = (world.start(node), world.bind(node, (Ipv4Addr::LOCALHOST, node as u16).into()));
            Peer::builder(socket.0).services(served.clone()).start_insecure(socket.1).unwrap()
        });
        world.run(async move {
            let remote = client.remote((Ipv4Addr::LOCALHOST, 1).into());
            remote.call::<_, (), Never>("wait", &()).await.unwrap();
            let mut state = server.inner.lock();
            let (conn, _) = state.endpoint.connections().next().unwrap();
            let (methods, now) = (Arc::clone(&state.methods), server.inner.runtime.now());
            let calls = [100, 102, 104].map(CallId);
            for cancelled in calls {
                let mut turn = Turn::new(&server.inner, &methods, now);
                for call in calls {
                    turn.handle(
                        &mut state,
                        Event::Request {
                            conn,
                            call,
                            method: MethodId::of("wait").0,
                            lane: Lane::Normal,
                            deadline: now + Duration::from_secs(1),
                            idempotent: false,
                            form: Form::default(),
                            body: Bytes::new(),
                        },
                    );
                }
                turn.handle(&mut state, Event::Cancelled { conn, call: cancelled });
                let left: Vec<_> = turn.arrivals.iter().map(|arrival| arrival.call).collect();
                assert_eq!(left.len(), 2);
                assert!(!left.contains(&cancelled), "{cancelled:?}: {left:?}");
            }
        });
    }
}
