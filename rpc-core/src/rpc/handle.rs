//! Handles: what a body can hold besides data, a service or one end of a stream.
//!
//! A handle in a body is a small CBOR array; what it stands for travels beside the body, as a file descriptor travels
//! beside the bytes on a Unix socket. While a body is encoded, handles put what they stand for into a [`Cargo`]; the
//! transmission enters it into the table of its connection ([`Session`]), under the number of the call that carries
//! it. While a body is decoded, handles find the connection that it came by, and are live from then on.
//!
//! ```text
//! handle  = service / sink / source
//! service = [0, index]                  ; the receiver may call the sender's service
//! sink    = [1, index, items, bytes]    ; the receiver produces a stream, which has this much credit at first
//! source  = [2, index, items, bytes]    ; the receiver consumes a stream, with credit of up to this much
//! index   = 0..31                       ; the handles of one body are numbered
//! items   = uint
//! bytes   = uint
//!
//! handle-id = uint                      ; call * 64 + (0 in a request, 32 in an answer) + index
//! ```
//! The id names the handle on its connection, for both sides, until it is released.
//!
//! A call that fails around its method takes its handles with it: they are dead on the sender's side. What a
//! successful answer (or a method's own error) leaves behind belongs to the receiver, until it releases it or the
//! connection ends. Handles in an answer must be claimed (`@handle.claim`), or they die after [`CLAIM_TIMEOUT`].
//!
//! [`CLAIM_TIMEOUT`]: super::session::CLAIM_TIMEOUT

use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::de::{Error, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::call::Channel;
use super::registry::Table;
use super::session::Session;
use super::stream::{Inlet, Outlet, Window};
use crate::endpoint::{CallId, ConnId};

/// Handles in one body; an encoder refuses more.
pub const HANDLES_PER_BODY_MAX: usize = 32;

/// Names a handle on its connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HandleId(u64);

impl HandleId {
    /// The handle `index` of a request, or of an answer.
    pub(crate) fn new(call: CallId, answer: bool, index: u64) -> Self {
        let answer = if answer { HANDLES_PER_BODY_MAX as u64 } else { 0 };
        Self(call.0.wrapping_mul(2 * HANDLES_PER_BODY_MAX as u64).wrapping_add(answer + index))
    }
}

impl fmt::Display for HandleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{}", self.0)
    }
}

/// What a handle in an encoded body stands for.
#[derive(Clone, Debug)]
pub(crate) enum Carried {
    /// A service of this side.
    Service(Arc<Table>),
    /// The producing end went; the consuming one is here.
    Sink(Arc<Inlet>),
    /// The consuming end went; the producing one is here.
    Source(Arc<Outlet>),
}

/// What travels beside an encoded body. Cheap to clone; empty for most.
#[derive(Clone, Debug, Default)]
pub struct Cargo(Option<Arc<Load>>);

#[derive(Debug)]
struct Load(Vec<Carried>);

impl Cargo {
    fn new(carried: Vec<Carried>) -> Self {
        Self((!carried.is_empty()).then(|| Arc::new(Load(carried))))
    }

    /// Whether the body holds no handles.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// What the handles stand for, by their index.
    pub(crate) fn carried(&self) -> &[Carried] {
        self.0.as_ref().map_or(&[], |load| &load.0)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // What found no connection never will: its other end hears of it.
        for carried in &self.0 {
            match carried {
                Carried::Service(_) => {}
                Carried::Sink(inlet) => inlet.strand(),
                Carried::Source(outlet) => outlet.strand(),
            }
        }
    }
}

/// The connection and the message that a body came by.
#[derive(Clone)]
pub(crate) struct Arrival {
    pub(crate) channel: Arc<dyn Channel>,
    /// `None` when the channel has only one.
    pub(crate) connection: Option<ConnId>,
    pub(crate) call: CallId,
    pub(crate) answer: bool,
}

/// Runs `encode` so that handles in the body can travel, and gives what they stand for.
pub(crate) fn collect<T>(encode: impl FnOnce() -> T) -> (T, Cargo) {
    let entered = Entered::new(Context::Encode(Vec::new()));
    let encoded = encode();
    let Context::Encode(carried) = entered.leave() else { return (encoded, Cargo::default()) };
    (encoded, Cargo::new(carried))
}

/// Runs `decode` so that handles in the body find the connection that it came by.
pub(crate) fn bind<T>(arrival: Arrival, decode: impl FnOnce() -> T) -> T {
    let answer = arrival.answer;
    let entered = Entered::new(Context::Decode { arrival, session: None, claims: Vec::new() });
    let decoded = decode();
    if let Context::Decode { session: Some(session), claims, .. } = entered.leave()
        && answer
    {
        session.claim(claims);
    }
    decoded
}

/// Writes a handle on `carried`, with the credits of a stream.
pub(crate) fn encode<S: Serializer>(serializer: S, carried: Carried) -> Result<S::Ok, S::Error> {
    use serde::ser::Error;
    let (kind, window) = match &carried {
        Carried::Service(_) => (SERVICE, None),
        Carried::Sink(inlet) => (SINK, Some(inlet.window())),
        Carried::Source(outlet) => (SOURCE, Some(outlet.window())),
    };
    let index = CONTEXT.with_borrow_mut(|context| match context {
        Context::Encode(all) if all.len() < HANDLES_PER_BODY_MAX => {
            all.push(carried);
            Ok(all.len() - 1)
        }
        Context::Encode(_) => Err("a body holds at most 32 services and streams"),
        _ => Err("a service or a stream travels only in the body of a call"),
    });
    let index = index.map_err(S::Error::custom)?;
    match window {
        None => (kind, index).serialize(serializer),
        Some(window) => (kind, index, window.items, window.bytes).serialize(serializer),
    }
}

/// A handle that was read.
pub(crate) struct Read {
    /// Where it is live; `None` outside of a call.
    pub(crate) bound: Option<(Arc<Session>, HandleId)>,
    /// The credits of a stream.
    pub(crate) window: Window,
}

/// Reads a handle of the given kind.
fn decode<'de, D: Deserializer<'de>>(deserializer: D, kind: u8) -> Result<Read, D::Error> {
    let raw = deserializer.deserialize_seq(HandleVisitor(PhantomData::<fn()>))?;
    if raw.kind != kind {
        return Err(D::Error::custom(format!("{} where {} was expected", name_of(raw.kind), name_of(kind))));
    }
    let bound = CONTEXT.with_borrow_mut(|context| {
        let Context::Decode { arrival, session, claims } = context else { return None };
        if session.is_none() {
            *session = arrival.channel.session(arrival.connection);
        }
        let id = HandleId::new(arrival.call, arrival.answer, raw.index);
        claims.push(id);
        session.as_ref().map(|session| (Arc::clone(session), id))
    });
    Ok(Read { bound, window: raw.window })
}

/// Reads a service.
pub(crate) fn decode_service<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Read, D::Error> {
    decode(deserializer, SERVICE)
}

/// Reads the producing end of a stream.
pub(crate) fn decode_sink<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Read, D::Error> {
    decode(deserializer, SINK)
}

/// Reads the consuming end of a stream.
pub(crate) fn decode_source<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Read, D::Error> {
    decode(deserializer, SOURCE)
}

const SERVICE: u8 = 0;
const SINK: u8 = 1;
const SOURCE: u8 = 2;

const fn name_of(kind: u8) -> &'static str {
    match kind {
        SERVICE => "a service",
        SINK => "the producing end of a stream",
        SOURCE => "the consuming end of a stream",
        _ => "an unknown kind of handle",
    }
}

/// A handle as it stands in a body.
struct Raw {
    kind: u8,
    index: u64,
    window: Window,
}

struct HandleVisitor(PhantomData<fn()>);

impl<'de> Visitor<'de> for HandleVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a service or an end of a stream")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Raw, A::Error> {
        let missing = || A::Error::custom("a handle that is too short");
        let kind = seq.next_element()?.ok_or_else(missing)?;
        let index: u64 = seq.next_element()?.ok_or_else(missing)?;
        if index >= HANDLES_PER_BODY_MAX as u64 {
            return Err(A::Error::custom("a handle with an index above 31"));
        }
        let mut window = Window { items: 0, bytes: 0 };
        if kind != SERVICE {
            window.items = seq.next_element()?.ok_or_else(missing)?;
            window.bytes = seq.next_element()?.ok_or_else(missing)?;
        }
        // Later versions may say more.
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Raw { kind, index, window })
    }
}

/// What is being done with a body on this thread.
enum Context {
    Nothing,
    Encode(Vec<Carried>),
    Decode { arrival: Arrival, session: Option<Arc<Session>>, claims: Vec<HandleId> },
}

thread_local! {
    static CONTEXT: RefCell<Context> = const { RefCell::new(Context::Nothing) };
}

/// Puts the previous context back, also when a serializer panics.
struct Entered(Option<Context>);

impl Entered {
    fn new(context: Context) -> Self {
        Self(Some(CONTEXT.replace(context)))
    }

    fn leave(mut self) -> Context {
        self.0.take().map_or(Context::Nothing, |previous| CONTEXT.replace(previous))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        if let Some(previous) = self.0.take() {
            drop(CONTEXT.replace(previous));
        }
    }
}
