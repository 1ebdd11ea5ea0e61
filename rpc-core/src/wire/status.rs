//! The status of a response. 0 and 1 are the method's; the others are error codes of the protocol, shifted by 16.
//!
//! A transport that answers by itself sends one of these with an empty body: [`TIMEOUT`], [`SERVER_BUSY`] and
//! [`DRAINING`] (not executed), [`UNKNOWN_OUTCOME`] (it may have been executed), and to its own caller [`TOO_LARGE`]
//! (not executed: the body is above the peer's limit, which was not known yet when the call was made).

/// The method's result.
pub const OK: u64 = 0;
/// The method's own typed error.
pub const METHOD_ERROR: u64 = 1;
/// Distance between an error code and its status.
pub const CODE_BASE: u64 = 16;
/// The request could not be understood.
pub const BAD_REQUEST: u64 = CODE_BASE + 1;
/// No such method.
pub const METHOD_NOT_FOUND: u64 = CODE_BASE + 2;
/// The deadline had passed before the call was started.
pub const TIMEOUT: u64 = CODE_BASE + 3;
/// The server failed.
pub const INTERNAL: u64 = CODE_BASE + 4;
/// The caller is not known.
pub const UNAUTHORIZED: u64 = CODE_BASE + 5;
/// Too many calls are open.
pub const SERVER_BUSY: u64 = CODE_BASE + 6;
/// The call was given up.
pub const CANCELLED: u64 = CODE_BASE + 7;
/// The connection was lost.
pub const CONNECTION_LOST: u64 = CODE_BASE + 8;
/// A body is above a limit.
pub const TOO_LARGE: u64 = CODE_BASE + 9;
/// The versions do not fit.
pub const VERSION: u64 = CODE_BASE + 10;
/// The caller may not do this.
pub const FORBIDDEN: u64 = CODE_BASE + 11;
/// The call was stopped by the server.
pub const ABORTED: u64 = CODE_BASE + 12;
/// The server takes no new calls.
pub const DRAINING: u64 = CODE_BASE + 13;
/// The call may have been executed; its answer is not known any more.
pub const UNKNOWN_OUTCOME: u64 = CODE_BASE + 14;
/// Somebody else holds exclusive access.
pub const LOCKED: u64 = CODE_BASE + 15;
/// A body could not be decoded.
pub const CODEC: u64 = CODE_BASE + 16;
