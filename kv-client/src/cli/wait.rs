//! `wait --ready`

use std::time::Duration;

use clap::Args;
use kv_client::Refusal;
use serde::Serialize;

use super::context::Context;
use super::output::{ErrorObject, print_json, print_line};
use super::{Exit, Format};

/// Wait until the cluster serves: a quorum answers a linearizable read
#[derive(Debug, Args)]
pub(crate) struct Wait {
    /// Wait for readiness (the only thing there is to wait for)
    #[arg(long, required = true)]
    ready: bool,
}

#[derive(Debug, Serialize)]
struct ReadyObject {
    ready: bool,
    rev: u64,
}

impl Wait {
    pub(crate) async fn run(self, context: &Context) -> Exit {
        let timeout = context.client_with_default(TIMEOUT_DEFAULT).timeout();
        let deadline = context.runtime.now() + timeout;
        let mut last: Option<Refusal> = None;
        loop {
            let left = deadline - context.runtime.now();
            match context.client.with_timeout(left.min(TRY)).get(KEY).await {
                Ok(reply) => {
                    let printed = match context.format {
                        Format::Json => print_json(&ReadyObject { ready: true, rev: reply.revision }),
                        Format::Simple if context.quiet => Ok(()),
                        Format::Simple => print_line(&format!("ready at revision {}", reply.revision)),
                    };
                    context.leave().await;
                    return printed.err().unwrap_or(Exit::Done);
                }
                // What a node said tells more than that the last, short try was not answered.
                Err(refusal @ Refusal::Node(_)) => last = Some(refusal),
                Err(refusal) => last = last.or(Some(refusal)),
            }
            if let Some(refusal) = last.as_ref().filter(|_| context.runtime.now() >= deadline) {
                return match context.format {
                    Format::Json => {
                        print_json(&ErrorObject::of_refusal(refusal)).err().unwrap_or(Exit::NotApplied)
                    }
                    Format::Simple => {
                        Exit::NotApplied.because(format_args!("not ready within {timeout:?}: {refusal}"))
                    }
                };
            }
        }
    }
}

/// How long the cluster is given unless told otherwise.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// How long one try may take.
const TRY: Duration = Duration::from_secs(1);
/// What is read: any key does, whether it is there or not.
const KEY: &[u8] = b"ready";
