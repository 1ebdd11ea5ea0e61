//! An implementation that is not what its trait says.

use std::sync::Arc;

use rpc_core::rpc::{Ctx, Never};

#[rpc_core::service]
trait Calc {
    async fn add(&self, ctx: Ctx, a: i64, b: i64) -> Result<i64, Never>;
}

struct Calculator;

impl Calc for Calculator {
    async fn add(&self, _: Ctx, a: i64, b: u64) -> Result<i64, Never> {
        Ok(a.wrapping_add_unsigned(b))
    }
}

fn main() {
    let _ = calc_services(Arc::new(Calculator));
    let _ = calc_services(Arc::new("no calculator"));
}
