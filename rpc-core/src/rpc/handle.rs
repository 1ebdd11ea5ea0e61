//! Handles: what a body can hold besides data, a service or one end of a stream.
//!
//! A handle in a body is a small CBOR array; what it stands for travels beside the body, as a file descriptor travels
//! beside the bytes on a Unix socket. While a body is encoded, handles put what they stand for into a [`Cargo`]; the
//! transmission enters it into the table of its connection (its [`Carrier`]), under the number of the call that carries
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

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::de::{Error, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::error::RpcError;
use super::window::Window;
use crate::endpoint::CallId;

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

/// What a handle in an encoded body stands for: a service of this side, or the end of a stream that stays.
pub(crate) trait Carried: Any + fmt::Debug + Send + Sync {
    /// What is written for it.
    fn kind(&self) -> Kind;

    /// It goes over this connection, as `id`. False when it has gone elsewhere before.
    fn attach(&self, carrier: &Carrier, id: HandleId) -> bool;

    /// The connection is lost to it, because of `error`.
    fn detach(&self, error: &RpcError);

    /// Nothing carries it any more: what found no connection never will.
    fn strand(&self);
}

/// What a handle is written as.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// A service of this side.
    Service,
    /// The producing end went; the consuming one is here.
    Sink(Window),
    /// The consuming end went; the producing one is here.
    Source(Window),
}

/// A connection as the handles in bodies see it: it keeps what they stand for. Cheap to clone.
#[derive(Clone)]
pub struct Carrier(pub(crate) Arc<dyn Carry>);

/// What keeps the handles of a connection.
pub(crate) trait Carry: Any + Send + Sync {
    /// Enters what a message of this side carries. Nothing stays entered when it fails.
    ///
    /// # Errors
    /// SERVER_BUSY above the number of handles that a connection may have; ABORTED for a stream that is already
    /// somewhere else; both not executed.
    fn attach(self: Arc<Self>, call: CallId, answer: bool, cargo: &Cargo) -> Result<(), RpcError>;

    /// Takes back what a call carried that failed.
    fn detach(&self, call: CallId, answer: bool, cargo: &Cargo, error: &RpcError);

    /// Enters what stands here for a handle that the peer passed.
    ///
    /// # Errors
    /// When the connection is lost, has too many handles, or has this one already.
    fn import(&self, id: HandleId, end: Arc<dyn Carried>) -> Result<(), &'static str>;

    /// The handles of an answer have been read.
    fn claim(self: Arc<Self>, ids: Vec<HandleId>);

    /// The stream `id` may have something to say.
    fn stir(self: Arc<Self>, id: HandleId);
}

impl fmt::Debug for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Carrier")
    }
}

/// What travels beside an encoded body. Cheap to clone; empty for most.
#[derive(Clone, Debug, Default)]
pub struct Cargo(Option<Arc<Load>>);

#[derive(Debug)]
struct Load(Vec<Arc<dyn Carried>>);

impl Cargo {
    fn new(carried: Vec<Arc<dyn Carried>>) -> Self {
        Self((!carried.is_empty()).then(|| Arc::new(Load(carried))))
    }

    /// Whether the body holds no handles.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// What the handles stand for, by their index.
    pub(crate) fn carried(&self) -> &[Arc<dyn Carried>] {
        self.0.as_ref().map_or(&[], |load| &load.0)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // What found no connection never will: its other end hears of it.
        for carried in &self.0 {
            carried.strand();
        }
    }
}

/// The connection and the message that a body came by.
#[derive(Clone)]
pub(crate) struct Arrival {
    /// `None` where handles lead nowhere.
    pub(crate) carrier: Option<Carrier>,
    pub(crate) call: CallId,
    pub(crate) answer: bool,
}

/// Runs `encode` so that handles in the body can travel, and gives what they stand for.
pub(crate) fn collect<T>(encode: impl FnOnce() -> T) -> (T, Cargo) {
    let entered = Entered::new(Mode::ENCODE);
    let encoded = encode();
    (encoded, Cargo::new(entered.carried()))
}

/// Runs `decode` so that handles in the body find the connection that it came by.
///
/// Most bodies hold none, and pay for nothing but to say so: the first handle that is met makes `decode` fail and run
/// once more, within the `arrival` of the body.
pub(crate) fn bind<T, E>(
    arrival: impl FnOnce() -> Arrival,
    decode: impl Fn() -> Result<T, E>,
) -> Result<T, E> {
    {
        let looking = Entered::new(Mode::Look { found: false });
        let decoded = decode();
        if !looking.has_found() {
            return decoded;
        }
    }
    let bound = Bound::new(arrival());
    let decoded = decode();
    bound.claim();
    decoded
}

/// Writes a handle on `carried`, with the credits of a stream.
pub(crate) fn encode<S: Serializer>(serializer: S, carried: Arc<dyn Carried>) -> Result<S::Ok, S::Error> {
    use serde::ser::Error;
    let (kind, window) = match carried.kind() {
        Kind::Service => (SERVICE, None),
        Kind::Sink(window) => (SINK, Some(window)),
        Kind::Source(window) => (SOURCE, Some(window)),
    };
    let index = match MODE.get() {
        Mode::Encode { count } if usize::from(count) < HANDLES_PER_BODY_MAX => {
            CARRIED.with_borrow_mut(|all| all.push(carried));
            MODE.set(Mode::Encode { count: count + 1 });
            Ok(count)
        }
        Mode::Encode { .. } => Err("a body holds at most 32 services and streams"),
        _ => Err("a service or a stream travels only in the body of a call"),
    };
    let index = index.map_err(S::Error::custom)?;
    match window {
        None => (kind, index).serialize(serializer),
        Some(window) => (kind, index, window.items, window.bytes).serialize(serializer),
    }
}

/// A handle that was read.
pub(crate) struct Read {
    /// Where it is live; `None` outside of a call.
    pub(crate) bound: Option<(Carrier, HandleId)>,
    /// The credits of a stream.
    pub(crate) window: Window,
}

/// Reads a handle of the given kind.
fn decode<'de, D: Deserializer<'de>>(deserializer: D, kind: u8) -> Result<Read, D::Error> {
    if let Mode::Look { .. } = MODE.get() {
        MODE.set(Mode::Look { found: true });
        return Err(D::Error::custom("a handle that is not bound yet"));
    }
    let raw = deserializer.deserialize_seq(HandleVisitor(PhantomData::<fn()>))?;
    if raw.kind != kind {
        return Err(D::Error::custom(format!("{} where {} was expected", name_of(raw.kind), name_of(kind))));
    }
    let bind = |binding: &mut Option<Binding>| {
        let Binding { arrival, claims } = binding.as_mut()?;
        let id = HandleId::new(arrival.call, arrival.answer, raw.index);
        claims.push(id);
        arrival.carrier.clone().map(|carrier| (carrier, id))
    };
    Ok(Read { bound: BINDING.with_borrow_mut(bind), window: raw.window })
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Nothing,
    /// So many handles stand in the body; they are the last ones in [`CARRIED`].
    Encode {
        count: u8,
    },
    /// It is not known yet whether the body holds handles.
    Look {
        found: bool,
    },
    /// Handles are entered in [`BINDING`].
    Bind,
}

impl Mode {
    const ENCODE: Self = Self::Encode { count: 0 };
}

/// What the handles of a body are bound to.
struct Binding {
    arrival: Arrival,
    claims: Vec<HandleId>,
}

// The first is looked at for each body, the others only where one holds handles.
thread_local! {
    static MODE: Cell<Mode> = const { Cell::new(Mode::Nothing) };
    static CARRIED: RefCell<Vec<Arc<dyn Carried>>> = const { RefCell::new(Vec::new()) };
    static BINDING: RefCell<Option<Binding>> = const { RefCell::new(None) };
}

/// Puts the previous mode back, also when a serializer panics.
struct Entered(Mode);

impl Entered {
    #[inline]
    fn new(mode: Mode) -> Self {
        Self(MODE.replace(mode))
    }

    /// Whether a handle was met.
    fn has_found(&self) -> bool {
        MODE.get() == Mode::Look { found: true }
    }

    /// Takes what the handles of the body stand for.
    #[inline]
    fn carried(&self) -> Vec<Arc<dyn Carried>> {
        match MODE.get() {
            Mode::ENCODE => Vec::new(),
            Mode::Encode { count } => {
                MODE.set(Mode::ENCODE);
                CARRIED.with_borrow_mut(|all| all.split_off(all.len().saturating_sub(count.into())))
            }
            _ => Vec::new(),
        }
    }
}

impl Drop for Entered {
    #[inline]
    fn drop(&mut self) {
        if let Mode::Encode { count: 1.. } = MODE.get() {
            // Left over by a panic.
            drop(Cargo::new(self.carried()));
        }
        MODE.set(self.0);
    }
}

/// Puts the previous binding back, also when a deserializer panics.
struct Bound {
    previous: Option<Binding>,
    _entered: Entered,
}

impl Bound {
    fn new(arrival: Arrival) -> Self {
        let binding = Binding { arrival, claims: Vec::new() };
        Self { previous: BINDING.replace(Some(binding)), _entered: Entered::new(Mode::Bind) }
    }

    /// Claims the handles that an answer held.
    fn claim(self) {
        let Some(Binding { arrival, claims }) = BINDING.take() else { return };
        if let Arrival { answer: true, carrier: Some(carrier), .. } = arrival
            && !claims.is_empty()
        {
            carrier.0.claim(claims);
        }
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        drop(BINDING.replace(self.previous.take()));
    }
}
