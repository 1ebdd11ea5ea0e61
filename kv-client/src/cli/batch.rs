//! `batch [FILE]`

use std::path::PathBuf;

use bytes::Bytes;
use clap::Args;
use futures_util::{StreamExt as _, stream};
use kv_client::api::WriteOp;
use kv_client::{Outcome, Reason};
use serde::Deserialize;

use super::context::Context;
use super::get::GetObject;
use super::output::{ErrorObject, WriteObject, json, print_line};
use super::{Exit, input, write};

/// Do many puts, gets and deletes together
///
/// Reads one JSON object per line, prints one per line in the same order. Each request has an outcome of its own; they
/// are on their way together, so no order among them is promised.
#[derive(Debug, Args)]
pub(crate) struct Batch {
    /// Lines like {"op":"put","key":"k","value":"v"}, {"op":"get","key":"k"}, {"op":"delete","key":"k"}; `-` reads stdin
    #[arg(default_value = "-")]
    file: PathBuf,
}

/// One line.
#[derive(Debug, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
enum Request {
    Put { key: String, value: String },
    Get { key: String },
    Delete { key: String },
}

impl Batch {
    pub(crate) async fn run(self, context: &Context) -> Exit {
        if context.token_file.is_some() {
            return Exit::Usage
                .because("a token file holds one token, a batch has many: each is in its line");
        }
        let requests = match input::text(&self.file, BATCH_SIZE_MAX).and_then(|text| parse(&text)) {
            Ok(requests) => requests,
            Err(exit) => return exit,
        };
        let mut ended = stream::iter(requests).map(|request| request.run(context)).buffered(IN_FLIGHT);
        let mut worst = Exit::Done;
        while let Some((exit, line)) = ended.next().await {
            if let Err(exit) = line.and_then(|line| print_line(&line)) {
                return exit;
            }
            if worst == Exit::Done || exit == Exit::Unknown {
                worst = exit;
            }
        }
        drop(ended);
        context.leave().await;
        worst
    }
}

fn parse(text: &str) -> Result<Vec<Request>, Exit> {
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    let request = |(number, line): (u64, &str)| {
        serde_json::from_str(line)
            .map_err(|error| Exit::Usage.because(format_args!("nothing was sent: line {number}: {error}")))
    };
    lines.map(request).collect()
}

impl Request {
    /// Runs it: what it means for the exit, and its line.
    async fn run(self, context: &Context) -> (Exit, Result<String, Exit>) {
        let op = match self {
            Self::Put { key, value } => WriteOp::Put { key: key.into(), value: value.into() },
            Self::Delete { key } => WriteOp::Delete { key: key.into() },
            Self::Get { key } => {
                return match context.client.get(Bytes::from(key.clone())).await {
                    Ok(reply) => (Exit::Done, json(&GetObject::new(key.as_bytes(), &reply, None))),
                    Err(refusal) => (Exit::of_refusal(&refusal), json(&ErrorObject::of_refusal(&refusal))),
                };
            }
        };
        let outcome = commit(op, context).await;
        (write::exit_of(&outcome), json(&WriteObject::new(&outcome)))
    }
}

async fn commit(op: WriteOp, context: &Context) -> Outcome {
    if let Err(error) = op.check() {
        return Outcome::NotCommitted(Reason::Refused(error.into()));
    }
    match context.client.begin().await {
        Ok(write) => context.send(write, op).await,
        Err(refusal) => Outcome::NotCommitted(Reason::Refused(refusal)),
    }
}

/// The most that is read, in bytes.
const BATCH_SIZE_MAX: u64 = 64 << 20;
/// Requests that are on their way together.
const IN_FLIGHT: usize = 128;
