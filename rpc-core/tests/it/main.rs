//! Tests of rpc-core through its public names.

mod blocking;
mod handles;
mod loopback;
mod matrix;
mod reflect;
mod service;
