//! `put KEY VALUE`

use std::ffi::OsString;

use clap::Args;
use kv_client::api::WriteOp;

use super::context::Context;
use super::trace_id::TraceFlag;
use super::{Exit, input, write};

/// Set a key
#[derive(Debug, Args)]
pub(crate) struct Put {
    /// 1 to 4096 bytes
    #[arg(allow_hyphen_values = true)]
    key: OsString,
    /// Up to 1 MiB; `-` reads stdin, `@FILE` reads a file, byte for byte
    #[arg(allow_hyphen_values = true)]
    value: OsString,
    #[command(flatten)]
    trace: TraceFlag,
}

impl Put {
    pub(crate) async fn run(self, context: &Context) -> Exit {
        let value = match input::value(self.value) {
            Ok(value) => value,
            Err(exit) => return exit,
        };
        write::run(WriteOp::Put { key: input::bytes(self.key), value }, self.trace, context).await
    }
}
