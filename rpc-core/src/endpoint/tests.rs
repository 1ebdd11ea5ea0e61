//! Stories of two endpoints, told twice: with packets that are only checked, and with encrypted ones.

mod insecure;
mod sealed;
