//! `cas KEY EXPECT NEW`, `cas KEY --rev N NEW`, `cas KEY --absent NEW`

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _};
use kv_client::api::{Expect, WriteOp};

use super::context::Context;
use super::trace_id::TraceFlag;
use super::{Arguments, Exit, input, write};

/// Set a key if it holds what is expected
#[derive(Debug, Args)]
#[command(override_usage = "kv-client cas [OPTIONS] KEY EXPECT NEW
       kv-client cas [OPTIONS] KEY --rev N NEW
       kv-client cas [OPTIONS] KEY --absent NEW")]
pub(crate) struct Cas {
    /// 1 to 4096 bytes
    #[arg(allow_hyphen_values = true)]
    key: OsString,
    /// The expected value, as in `put`; left out with --rev and --absent
    #[arg(allow_hyphen_values = true, value_name = "EXPECT")]
    first: OsString,
    /// The new value, as in `put`
    #[arg(allow_hyphen_values = true, value_name = "NEW")]
    second: Option<OsString>,
    /// Expect that the key was last written at this revision (`mod_rev` of `get --output json`)
    #[arg(long, value_name = "N", conflicts_with = "absent")]
    rev: Option<u64>,
    /// Expect that the key is not there
    #[arg(long)]
    absent: bool,
    #[command(flatten)]
    trace: TraceFlag,
}

impl Cas {
    pub(crate) async fn run(self, context: &Context) -> Exit {
        let trace = self.trace;
        match self.op() {
            Ok(op) => write::run(op, trace, context).await,
            Err(exit) => exit,
        }
    }

    fn op(self) -> Result<WriteOp, Exit> {
        let (expect, new) = match (self.rev, self.absent, self.second) {
            (Some(revision), _, None) => (Expect::Revision(revision), self.first),
            (None, true, None) => (Expect::Absent, self.first),
            (None, false, Some(new)) => (Expect::Value(input::value(self.first)?), new),
            (None, false, None) => usage("the new value is missing: cas KEY EXPECT NEW"),
            (_, _, Some(_)) => usage("an expected value, and --rev or --absent: one of them is too many"),
        };
        Ok(WriteOp::Cas { key: input::bytes(self.key), expect, value: input::value(new)? })
    }
}

/// Ends the process as clap does for any wrong usage.
fn usage(what: &str) -> ! {
    let mut command = Arguments::command();
    command.build();
    let cas = command.find_subcommand_mut("cas").map(std::mem::take).unwrap_or_default();
    cas.clone().error(ErrorKind::WrongNumberOfValues, what).exit()
}
