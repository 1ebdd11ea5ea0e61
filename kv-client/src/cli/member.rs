//! `member add|remove|replace`

use std::time::Duration;

use clap::{Args, Subcommand};
use kv_client::Endpoint;
use kv_client::api::{ChangeError, KvError, MemberChange};
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
    Add(Add),
    Remove(Remove),
    Replace(Replace),
}

/// Take an empty node in: it gets an id, learns the log, and votes once it has caught up
#[derive(Debug, Args)]
struct Add {
    /// Where the empty node listens
    #[arg(value_name = "HOST:PORT")]
    address: Endpoint,
}

/// Take the vote and the log from a member, dead or alive; its id is never used again
#[derive(Debug, Args)]
struct Remove {
    /// The id of the member
    id: u64,
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
struct AddedObject {
    added: u64,
}

#[derive(Debug, Serialize)]
struct RemovedObject {
    removed: u64,
}

#[derive(Debug, Serialize)]
struct ReplacedObject {
    old: u64,
    new: u64,
}

impl Member {
    pub(crate) async fn run(self, context: &Context) -> Exit {
        match self.change {
            Change::Add(Add { address }) => {
                let added = MemberChange::Add { address: address.to_string() };
                let told =
                    |id| (AddedObject { added: id }, format!("the node at {address} votes as node {id}"));
                change(context, added, told).await
            }
            Change::Remove(Remove { id }) => {
                let told = |id| (RemovedObject { removed: id }, format!("node {id} is no member any more"));
                change(context, MemberChange::Remove { id }, told).await
            }
            Change::Replace(Replace { id: old, address }) => {
                let address = address.map(|address| address.to_string());
                let told = |new| {
                    let sentence = format!("node {old} is replaced: its successor votes as node {new}");
                    (ReplacedObject { old, new }, sentence)
                };
                change(context, MemberChange::Replace { old, address }, told).await
            }
        }
    }
}

/// Has the cluster make a change. `told` gives what is printed, as JSON and as a sentence, for the id in the answer.
pub(super) async fn change<T: Serialize>(
    context: &Context,
    change: MemberChange,
    told: impl FnOnce(u64) -> (T, String),
) -> Exit {
    let client = context.client_with_default(TIMEOUT_DEFAULT);
    let error = match client.member_change(change).await {
        Ok(changed) => {
            let (object, sentence) = told(changed.id);
            let printed = match context.format {
                Format::Json => print_json(&object),
                Format::Simple if context.quiet => Ok(()),
                Format::Simple => print_line(&sentence),
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
            "{error}; the change may have begun or be done: see `kv-client status`, then repeat"
        )),
        Format::Simple => exit.because(format_args!("not changed: {error}")),
    }
}

fn judge(error: &CallError<ChangeError>) -> (Exit, &'static str) {
    match error {
        CallError::Rpc(error) if error.outcome == CallOutcome::NotExecuted => {
            (Exit::NotApplied, "unreachable")
        }
        CallError::Rpc(_) | CallError::Method(ChangeError::Refused(KvError::Unknown)) => {
            (Exit::Unknown, "unknown")
        }
        CallError::Method(error) => match error {
            ChangeError::Refused(KvError::Denied { .. }) => (Exit::Denied, "denied"),
            ChangeError::Refused(_) => (Exit::NotApplied, "refused"),
            ChangeError::UnknownMember { .. } => (Exit::NotFound, "unknown_member"),
            ChangeError::AlreadyMember { .. } => (Exit::ConditionFailed, "already_member"),
            ChangeError::QuorumAtRisk { .. } => (Exit::NotApplied, "quorum_at_risk"),
            ChangeError::StillAlive { .. } => (Exit::ConditionFailed, "still_alive"),
            ChangeError::Unreachable { .. } => (Exit::NotApplied, "unreachable_member"),
            ChangeError::NotEmpty { .. } => (Exit::ConditionFailed, "not_empty"),
            ChangeError::Unfinished { .. } => (Exit::Unknown, "unfinished"),
        },
    }
}

/// How long a change may take unless told otherwise: a new node learns the whole log.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);
