//! The code of a CLOSE frame. Codes from 16 on belong to the layer above.

/// Nothing went wrong.
pub const NORMAL: u64 = 0;
/// Nothing was said for the idle timeout.
pub const IDLE: u64 = 1;
/// The receiver of this frame broke the protocol; the reason names how.
pub const VIOLATION: u64 = 2;
