//! One connection without I/O: acknowledgements, loss recovery, congestion, messages, calls.
//!
//! Bytes and `now` come in; bytes, timers and events go out. Knows nothing of sockets, of other connections, of what a
//! method does, and reads no clock.

mod config;
mod counters;
mod event;

pub use config::Config;
pub use counters::Counters;
pub use event::{CallId, ConnId, ConnectionInfo, Event, Lane, LostReason, Request, SendError};
