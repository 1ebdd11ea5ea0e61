//! Arguments that cannot travel.

#![allow(unused_imports, reason = "what is refused uses nothing")]

use rpc_core::rpc::{Ctx, Never};

#[rpc_core::service]
trait Arguments {
    async fn pattern(&self, ctx: Ctx, (a, b): (u8, u8)) -> Result<(), Never>;
    async fn nameless(&self, ctx: Ctx, _: u8) -> Result<(), Never>;
    async fn borrowed(&self, ctx: Ctx, key: &str) -> Result<(), Never>;
    async fn borrowed_within(&self, ctx: Ctx, keys: Vec<Option<&str>>) -> Result<(), Never>;
    async fn opaque(&self, ctx: Ctx, key: impl Into<String>) -> Result<(), Never>;
    async fn seventeen(
        &self, ctx: Ctx,
        a: u8, b: u8, c: u8, d: u8, e: u8, f: u8, g: u8, h: u8,
        i: u8, j: u8, k: u8, l: u8, m: u8, n: u8, o: u8, p: u8,
        q: u8,
    ) -> Result<(), Never>;
}

fn main() {}
