//! The code of a CLOSE frame. Codes from 16 on belong to the layer above.

/// Nothing went wrong.
pub const NORMAL: u64 = 0;
/// Nothing was said for the idle timeout.
pub const IDLE: u64 = 1;
/// The receiver of this frame broke the protocol; the reason names how.
pub const VIOLATION: u64 = 2;
/// The receiver of this frame has proved to be somebody who is not allowed.
pub const UNAUTHORIZED: u64 = 3;
/// The receiver of this frame was sent away; the reason says why.
pub const DISCONNECTED: u64 = 16;
/// The receiver of this frame is not welcome; the reason says why.
pub const REFUSED: u64 = 17;
