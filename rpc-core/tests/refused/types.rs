//! Types that cannot be written or read.

use rpc_core::rpc::{Ctx, Never};

struct Handle;

#[rpc_core::service]
trait Types {
    async fn open(&self, ctx: Ctx, path: String) -> Result<Handle, Never>;
}

fn main() {}
