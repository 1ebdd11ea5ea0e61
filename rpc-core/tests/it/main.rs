//! Tests of rpc-core through its public names.

mod handles;
mod loopback;
mod matrix;
mod reflect;
mod service;
