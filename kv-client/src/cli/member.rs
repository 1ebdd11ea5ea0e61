//! `member replace ID`

use std::time::Duration;

use clap::{Args, Subcommand};
use kv_client::Endpoint;
use kv_client::api::{KvError, ReplaceError};
use rpc_core::rpc::{CallError, Outcome as CallOutcome};
use serde::Serialize;

use super::context::Context;
use super::output::{ErrorObject, print_json, print_line};
use super::{Exit, Format};

/// Change who is a member of the cluster
#[derive(Debug, Args)]
pub(crate) struct Member {
    #[command(subcommand)]
    change: Change,
}

#[derive(Debug, Subcommand)]
enum Change {
    Replace(Replace),
}

/// Replace a member whose data was lost: removed, joined again as an empty node under a new id, and promoted
#[derive(Debug, Args)]
struct Replace {
    /// The id of the lost member
    id: u64,
    /// Where the empty node listens, if not where the lost one did
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<Endpoint>,
}

#[derive(Debug, Serialize)]
struct ReplacedObject {
    old: u64,
    new: u64,
}

impl Member {
    pub(crate) async fn run(self, context: &Context) -> Exit {
        let Change::Replace(Replace { id, address }) = self.change;
        let client = context.client_with_default(TIMEOUT_DEFAULT);
        let error = match client.member_replace(id, address.map(|address| address.to_string())).await {
            Ok(replaced) => {
                let printed = match context.format {
                    Format::Json => print_json(&ReplacedObject { old: id, new: replaced.new }),
                    Format::Simple if context.quiet => Ok(()),
                    Format::Simple => print_line(&format!(
                        "node {id} is replaced: its successor votes as node {}",
                        replaced.new
                    )),
                };
                context.leave().await;
                return printed.err().unwrap_or(Exit::Done);
            }
            Err(error) => error,
        };
        let (exit, code) = judge(&error);
        match context.format {
            Format::Json => print_json(&ErrorObject::new(code, error.to_string())).err().unwrap_or(exit),
            Format::Simple if exit == Exit::Unknown => exit.because(format_args!(
                "{error}; the replacement may have begun or be done: see `kv-client status`, then repeat"
            )),
            Format::Simple => exit.because(format_args!("not replaced: {error}")),
        }
    }
}

fn judge(error: &CallError<ReplaceError>) -> (Exit, &'static str) {
    match error {
        CallError::Rpc(error) if error.outcome == CallOutcome::NotExecuted => {
            (Exit::NotApplied, "unreachable")
        }
        CallError::Rpc(_) | CallError::Method(ReplaceError::Refused(KvError::Unknown)) => {
            (Exit::Unknown, "unknown")
        }
        CallError::Method(error) => match error {
            ReplaceError::Refused(KvError::Denied { .. }) => (Exit::Denied, "denied"),
            ReplaceError::Refused(_) => (Exit::NotApplied, "refused"),
            ReplaceError::UnknownMember { .. } => (Exit::NotFound, "unknown_member"),
            ReplaceError::QuorumAtRisk { .. } => (Exit::NotApplied, "quorum_at_risk"),
            ReplaceError::StillAlive { .. } => (Exit::ConditionFailed, "still_alive"),
            ReplaceError::Unreachable { .. } => (Exit::NotApplied, "successor_unreachable"),
            ReplaceError::NotEmpty { .. } => (Exit::ConditionFailed, "not_empty"),
            ReplaceError::Unfinished { .. } => (Exit::Unknown, "unfinished"),
        },
    }
}

/// How long a replacement may take unless told otherwise: the new node learns the whole log.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);
