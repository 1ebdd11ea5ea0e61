//! Methods that a request could not tell apart.

#![allow(unused_imports, reason = "what is refused uses nothing")]

use rpc_core::rpc::{Ctx, Never};

#[rpc_core::service]
trait Names {
    async fn get(&self, ctx: Ctx) -> Result<(), Never>;
    async fn get(&self, ctx: Ctx, key: u64) -> Result<u64, Never>;
    async fn m329698(&self, ctx: Ctx) -> Result<(), Never>;
    async fn m901416(&self, ctx: Ctx) -> Result<(), Never>;
}

fn main() {}
