//! What put, delete and cas have in common: one write, its token kept safe before it is sent, its outcome told.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use kv_client::api::WriteOp;
use kv_client::{Outcome, Reason, Token};

use super::context::{Context, Followed};
use super::output::{WriteObject, print_json, print_line};
use super::trace_id::TraceFlag;
use super::{Exit, Format};

/// Writes, and tells the outcome.
pub(crate) async fn run(op: WriteOp, trace: TraceFlag, context: &Context) -> Exit {
    let Followed { client, trace } = context.followed(trace);
    if let Err(error) = op.check() {
        return tell(&Outcome::NotCommitted(Reason::Refused(error.into())), trace, context);
    }
    let write = match client.begin().await {
        Ok(write) => write,
        Err(refusal) => return tell(&Outcome::NotCommitted(Reason::Refused(refusal)), trace, context),
    };
    let token = write.token();
    if let Some(path) = &context.token_file
        && let Err(error) = save(path, &token)
    {
        let sentence = format!("not sent: cannot save the token in `{}`: {error}", path.display());
        return Exit::Failure.because(sentence);
    }
    let outcome = context.send(write, op).await;
    let exit = tell(&outcome, trace, context);
    context.leave().await;
    exit
}

/// Prints an outcome, and gives the exit for it.
pub(crate) fn tell(outcome: &Outcome, trace: Option<u128>, context: &Context) -> Exit {
    let exit = exit_of(outcome);
    let printed = match (context.format, outcome) {
        (Format::Json, _) => print_json(&WriteObject::new(outcome).traced(trace)),
        (Format::Simple, Outcome::Committed { .. }) if context.quiet => Ok(()),
        (Format::Simple, Outcome::Committed { revision, existed }) => {
            let before = if *existed { "" } else { " (the key was not there before)" };
            print_line(&format!("committed at revision {revision}{before}"))
        }
        (Format::Simple, Outcome::NotCommitted(reason)) => {
            exit.because(format_args!("not committed: {reason}"));
            Ok(())
        }
        (Format::Simple, Outcome::Unknown(token)) => {
            exit.because(format_args!(
                "outcome unknown: the write may have taken effect; settle it with\n  {}",
                context.resolve_line(token)
            ));
            Ok(())
        }
    };
    printed.err().unwrap_or(exit)
}

/// The exit of a write that ended so.
pub(crate) fn exit_of(outcome: &Outcome) -> Exit {
    match outcome {
        Outcome::Committed { .. } => Exit::Done,
        Outcome::NotCommitted(reason) => Exit::of_reason(reason),
        Outcome::Unknown(_) => Exit::Unknown,
    }
}

/// Saves a token so that it outlives this process and this machine's power.
fn save(path: &Path, token: &Token) -> io::Result<()> {
    let mut file = File::create(path)?;
    writeln!(file, "{token}")?;
    file.sync_all()
}
