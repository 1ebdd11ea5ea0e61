//! `resolve TOKEN`

use std::path::Path;

use clap::Args;
use kv_client::Token;
use kv_client::api::{Resolved, Unknowable};

use super::context::Context;
use super::output::{WriteObject, print_json};
use super::{Exit, Format, write};

/// Settle a write whose outcome is unknown
///
/// Tells what became of it; if it was not applied yet, it is rolled back for ever. Exits as the write would have.
#[derive(Debug, Args)]
pub(crate) struct Resolve {
    /// The token that was printed; without it the one in --token-file
    token: Option<Token>,
}

impl Resolve {
    pub(crate) async fn run(self, context: &Context) -> Exit {
        let token = match (self.token, &context.token_file) {
            (Some(token), _) => token,
            (None, Some(path)) => match load(path) {
                Ok(token) => token,
                Err(exit) => return exit,
            },
            (None, None) => {
                return Exit::Usage.because("no token: give the one that was printed, or --token-file");
            }
        };
        let (reason, why) = match context.client.resolve(&token).await {
            Ok(Resolved::Settled(reply)) => {
                let exit = write::tell(&reply.into(), None, context);
                context.leave().await;
                return exit;
            }
            Ok(Resolved::Unknowable(why)) => {
                let reason = match why {
                    Unknowable::SessionExpired => "session_expired",
                    Unknowable::AnswerReceived => "answer_received",
                    Unknowable::ForeignCluster => "foreign_cluster",
                };
                (reason, format!("the outcome cannot be known any more: {why}"))
            }
            Err(refusal) => (refusal.code(), format!("still unknown: {refusal}")),
        };
        match context.format {
            Format::Json => {
                let printed = print_json(&WriteObject::unsettled(&token, reason, why));
                printed.err().unwrap_or(Exit::Unknown)
            }
            Format::Simple => Exit::Unknown.because(why),
        }
    }
}

fn load(path: &Path) -> Result<Token, Exit> {
    let name = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| {
        Exit::Usage.because(format_args!("the token file `{name}` cannot be read: {error}"))
    })?;
    text.trim()
        .parse()
        .map_err(|error| Exit::Usage.because(format_args!("the token file `{name}` holds no token: {error}")))
}
