//! The attribute macro of rpc-core.
