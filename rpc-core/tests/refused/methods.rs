//! Methods that cannot be called from another process.

#![allow(unused_imports, reason = "what is refused uses nothing")]

use std::sync::Arc;

use rpc_core::rpc::{Ctx, Never};

#[rpc_core::service]
trait Methods {
    async fn without_self(ctx: Ctx) -> Result<(), Never>;
    async fn exclusive(&mut self, ctx: Ctx) -> Result<(), Never>;
    async fn owned(self, ctx: Ctx) -> Result<(), Never>;
    async fn shared(self: Arc<Self>, ctx: Ctx) -> Result<(), Never>;
    async fn without_ctx(&self) -> Result<(), Never>;
    async fn late_ctx(&self, key: u64, ctx: Ctx) -> Result<(), Never>;
    async fn generic<T>(&self, ctx: Ctx, value: T) -> Result<(), Never>;
    async fn lifetime<'a>(&'a self, ctx: Ctx) -> Result<(), Never>;
    async fn borrowed_answer(&self, ctx: Ctx) -> Result<&'static str, Never>;
    async fn without_answer(&self, ctx: Ctx);
    async fn infallible(&self, ctx: Ctx) -> u64;
    async fn one_type(&self, ctx: Ctx) -> std::io::Result<u64>;
    async fn with_body(&self, ctx: Ctx) -> Result<(), Never> {
        Ok(())
    }
    async fn new(&self, ctx: Ctx) -> Result<(), Never>;
    unsafe fn careless(&self, ctx: Ctx) -> Result<(), Never>;
}

fn main() {}
