//! Tests of rpc-core through its public names.

mod adversary;
mod blocking;
mod docs;
mod handles;
mod incast;
mod loopback;
mod matrix;
mod notify;
mod peers;
mod reflect;
mod service;
mod turns;
