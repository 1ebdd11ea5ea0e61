//! The mistakes that can be planted in this crate ([`rpc_core::plant`]): each is one line where it would be made.

use rpc_core::plant::Bug;

/// The bugs of this crate.
pub const BUGS: [Bug; 3] = [FAIL_ON_TIMEOUT, SEQUENCE_REUSED, FLOOR_TOO_HIGH];

pub(crate) const FAIL_ON_TIMEOUT: Bug =
    Bug::new("fail-on-timeout", "a write that was not answered in time is called not committed");
pub(crate) const SEQUENCE_REUSED: Bug =
    Bug::new("sequence-reused", "a new write takes the sequence of one whose outcome is unknown");
pub(crate) const FLOOR_TOO_HIGH: Bug =
    Bug::new("floor-too-high", "the floor passes writes whose outcome is unknown");
