//! Streams: items in order from one peer to another, with credits.
//!
//! [`channel`] makes the two ends, a [`Sink`] that takes items and a [`Source`] that gives them. Either end can be
//! passed to a peer, as an argument of a call or as a result; the other end stays, and from then on the items travel:
//!
//! ```
//! # use bytes::Bytes;
//! # use rpc_core::rpc::{Ctx, Never, Sink, Source};
//! #[rpc_core::service]
//! trait Store {
//!     /// The server pushes what happens below `prefix`.
//!     async fn watch(&self, ctx: Ctx, prefix: String, events: Sink<String>) -> Result<(), Never>;
//!     /// The client pushes lines, the answer says how many there were.
//!     async fn import(&self, ctx: Ctx, lines: Source<Bytes>) -> Result<u64, Never>;
//!     /// A stream as a result.
//!     async fn list(&self, ctx: Ctx) -> Result<Source<String>, Never>;
//! }
//! ```
//! # Credits
//! The producer may be ahead of the consumer by a [`Window`] of items and bytes; beyond it, [`Sink::send`] waits. This
//! bounds what either side holds. Items that wait to be sent travel together, so that many small ones share a
//! datagram, and a window's worth of them one message.
//!
//! # How a stream ends
//! Exactly once, at the consumer: with `None` after [`Sink::finish`], or with one error after all items that came
//! before it: the one of [`Sink::fail`], ABORTED if the sink was dropped, CONNECTION_LOST, or the error of the call
//! that carried the end. A source that is dropped tells the producer at once, whose next [`Sink::send`] fails.
//! The result of the method that was handed the sink can serve as the stream's final value.
//!
//! # On the wire
//! Ordinary calls on the connection that carried the end, of reserved methods:
//!
//! ```text
//! @stream.push   [handle-id, first, count, items: bstr, last: bool, error / null]  -> null    ; to the consumer
//! @stream.grant  [handle-id, items, bytes]                                         -> null    ; to the producer
//! @stream.stop   [handle-id]                                                       -> null    ; to the producer
//! ```
//! - `items` holds `count` CBOR items, one after another (RFC 8742); the first is the stream's item number `first`,
//!   counted from 0. `last`: no item follows; `error`: why, if not because the stream is complete.
//! - Pushes may arrive in any order and are put in order by `first`. They never overlap.
//! - `items` and `bytes` of a grant are totals since the stream began; a smaller one than before changes nothing.
//!   A push beyond what was granted breaks the stream.
//! - The consumer grants the window when it learns of the stream (if it is the side that passed the sink: in the
//!   handle itself), and again when half of it was used up. So an item may be half a window long, not longer.
//! - A push, grant or stop for a stream that is over is answered METHOD_NOT_FOUND.

use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

mod inlet;
mod outlet;

pub(crate) use self::inlet::{Inlet, Word, stopped};
pub(crate) use self::outlet::{Outlet, Push};

use super::codec;
use super::error::{Code, Outcome, RpcError};
use super::handle;
pub use super::window::Window;

/// The two ends of a stream of `T` with the given window (values outside of what a window can be are moved to the
/// nearer end).
pub fn channel<T>(window: Window) -> (Sink<T>, Source<T>) {
    let (outlet, inlet) = inlet::pair(window.clamped());
    (Sink { outlet, item: PhantomData }, Source::new(inlet))
}

/// The producing end of a stream.
pub struct Sink<T> {
    outlet: Arc<Outlet>,
    item: PhantomData<fn(T)>,
}

impl<T: Serialize> Sink<T> {
    /// Adds an item, when there is credit for it. What was added travels on its own; `Ok` does not say that it
    /// arrived.
    ///
    /// # Errors
    /// CANCELLED when the consumer is gone; the error that ended the stream when it is over; TOO_LARGE when the item
    /// is longer than half the window, which does not end the stream; BAD_REQUEST when it cannot be encoded.
    pub async fn send(&self, item: &T) -> Result<(), RpcError> {
        let item = codec::encode(item)
            .map_err(|error| RpcError::not_executed(Code::BadRequest, format!("item: {error}")))?;
        self.outlet.send(&item).await
    }
}

impl<T> Sink<T> {
    /// Ends the stream, and waits until the peer has taken in everything.
    ///
    /// # Errors
    /// When it did not: the consumer is gone, or the stream was over before.
    pub async fn finish(self) -> Result<(), RpcError> {
        self.outlet.end(None);
        self.outlet.over().await
    }

    /// Ends the stream with an error, which the consumer gets after all items. Does not wait.
    pub fn fail(self, error: RpcError) {
        self.outlet.end(Some(error));
    }

    /// Completes when nobody wants items any more: the consumer is gone, or the connection is.
    pub async fn stopped(&self) -> RpcError {
        match self.outlet.over().await {
            Err(error) => error,
            Ok(()) => RpcError::new(Code::Cancelled, Outcome::Executed, "the stream was finished"),
        }
    }
}

impl<T> Drop for Sink<T> {
    fn drop(&mut self) {
        self.outlet.end(Some(RpcError::new(
            Code::Aborted,
            Outcome::Unknown,
            "the producer was dropped before the end of the stream",
        )));
    }
}

impl<T> fmt::Debug for Sink<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sink")
    }
}

impl<T> Serialize for Sink<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::Error;
        let inlet = self.outlet.travel().map_err(S::Error::custom)?;
        handle::encode(serializer, inlet)
    }
}

impl<'de, T> Deserialize<'de> for Sink<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let read = handle::decode_sink(deserializer)?;
        let outlet = match read.bound {
            Some((carrier, id)) => {
                Outlet::import(&carrier, id, read.window.clamped()).map_err(D::Error::custom)?
            }
            None => Outlet::nowhere(),
        };
        Ok(Self { outlet, item: PhantomData })
    }
}

/// The consuming end of a stream. Dropped, it stops the producer.
pub struct Source<T> {
    inlet: Arc<Inlet>,
    /// Items that were taken from the inlet together.
    items: Bytes,
    ended: bool,
    item: PhantomData<fn() -> T>,
}

impl<T> Source<T> {
    fn new(inlet: Arc<Inlet>) -> Self {
        Self { inlet, items: Bytes::new(), ended: false, item: PhantomData }
    }
}

impl<T: DeserializeOwned> Source<T> {
    /// The next item; `None` after the last. An error ends the stream.
    pub async fn next(&mut self) -> Option<Result<T, RpcError>> {
        std::future::poll_fn(|cx| self.poll_item(cx)).await
    }

    fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<T, RpcError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if self.items.is_empty() {
            match std::task::ready!(self.inlet.poll_take(cx)) {
                Some(Ok(items)) => self.items = items,
                ended => {
                    self.ended = true;
                    return Poll::Ready(ended.and_then(Result::err).map(Err));
                }
            }
        }
        match codec::decode_first::<T>(&self.items) {
            Ok((item, size)) => {
                self.items.advance(size);
                self.inlet.consumed(size as u64);
                Poll::Ready(Some(Ok(item)))
            }
            Err(error) => {
                self.ended = true;
                self.inlet.stop();
                Poll::Ready(Some(Err(RpcError::new(
                    Code::Codec,
                    Outcome::Unknown,
                    format!("item of a stream not read: {error}"),
                ))))
            }
        }
    }
}

impl<T: DeserializeOwned> futures_util::Stream for Source<T> {
    type Item = Result<T, RpcError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_item(cx)
    }
}

impl<T> Drop for Source<T> {
    fn drop(&mut self) {
        self.inlet.stop();
    }
}

impl<T> fmt::Debug for Source<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Source")
    }
}

impl<T> Serialize for Source<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::Error;
        let outlet = self.inlet.travel().map_err(S::Error::custom)?;
        handle::encode(serializer, outlet)
    }
}

impl<'de, T> Deserialize<'de> for Source<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let read = handle::decode_source(deserializer)?;
        let inlet = match read.bound {
            Some((carrier, id)) => {
                Inlet::import(&carrier, id, read.window.clamped()).map_err(D::Error::custom)?
            }
            None => Inlet::nowhere(),
        };
        Ok(Self::new(inlet))
    }
}

/// Why an end that has no other end does nothing.
fn nowhere() -> RpcError {
    RpcError::not_executed(Code::BadRequest, "an end of a stream that was not read from the body of a call")
}

/// Why an end cannot travel.
const TRAVELLED: &str = "an end of a stream travels once, before it is used, and not on from a peer";
