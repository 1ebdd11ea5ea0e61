//! What no service is.

#![allow(unused_imports, reason = "what is refused uses nothing")]

use rpc_core::rpc::{Ctx, Never};

#[rpc_core::service]
struct Calc;

#[rpc_core::service]
trait Generic<T> {
    async fn get(&self, ctx: Ctx) -> Result<T, Never>;
}

#[rpc_core::service]
trait Empty {}

#[rpc_core::service]
trait WithType {
    type Key;
    async fn get(&self, ctx: Ctx) -> Result<(), Never>;
}

fn main() {}
