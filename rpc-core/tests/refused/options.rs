//! Options that no method has.

#![allow(unused_imports, reason = "what is refused uses nothing")]

use rpc_core::rpc::{Ctx, Never};

#[rpc_core::service]
trait Options {
    #[rpc(durable)]
    async fn unknown(&self, ctx: Ctx) -> Result<(), Never>;
    #[rpc(timeout = "soon")]
    async fn no_number(&self, ctx: Ctx) -> Result<(), Never>;
    #[rpc(timeout = "0ms")]
    async fn no_time(&self, ctx: Ctx) -> Result<(), Never>;
    #[rpc(lane = fast)]
    async fn no_lane(&self, ctx: Ctx) -> Result<(), Never>;
    #[rpc(idempotent)]
    #[rpc(idempotent)]
    async fn twice(&self, ctx: Ctx) -> Result<(), Never>;
}

#[rpc_core::service(path = "kv")]
trait Path {}

#[rpc_core::service(name = "kv..store")]
trait Name {}

fn main() {}
