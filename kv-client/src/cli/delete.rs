//! `delete KEY`

use std::ffi::OsString;

use clap::Args;
use kv_client::api::WriteOp;

use super::context::Context;
use super::trace_id::TraceFlag;
use super::{Exit, input, write};

/// Remove a key; one that is not there is no error
#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// 1 to 4096 bytes
    #[arg(allow_hyphen_values = true)]
    key: OsString,
    #[command(flatten)]
    trace: TraceFlag,
}

impl Delete {
    pub(crate) async fn run(self, context: &Context) -> Exit {
        write::run(WriteOp::Delete { key: input::bytes(self.key) }, self.trace, context).await
    }
}
