//! `jepsen-tests verdict FILE...`: judges histories that lie in files.

use std::fs::File;
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use jepsen_tests::checker::{self, Judgement, Verdict};
use jepsen_tests::history::{self, History};
use serde::Serialize;

use super::Exit;

/// Judge histories: are they linearizable?
///
/// Reads history.jsonl, Jepsen's text log of one register, and EDN logs of get, put and append, told apart by content.
/// One line a file, with the evidence below it where a violation was found.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Files to judge.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Steps that each checker may take on one key before the verdict is "undecided".
    #[arg(long, value_name = "N", default_value_t = checker::STEPS_MAX)]
    steps_max: u64,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// One JSON object a file.
    Json,
}

/// Judges every file, also after one that is bad; the worst decides how the command ends.
pub(crate) fn run(args: &Args) -> Exit {
    let mut stdout = io::stdout().lock();
    let mut exit = Exit::Linearizable;
    for path in &args.files {
        let report = Report::of(path, args.steps_max);
        exit = exit.max(report.exit);
        let printed = match args.output {
            Output::Text => report.print(&mut stdout),
            Output::Json => report.print_json(&mut stdout),
        };
        if printed.and_then(|()| stdout.flush()).is_err() {
            return exit.max(Exit::Inconclusive);
        }
    }
    exit
}

/// What is said about one file; as JSON, a documented schema (docs/TESTING.md).
#[derive(Debug, Serialize)]
struct Report {
    #[serde(skip)]
    exit: Exit,
    file: String,
    /// linearizable, violation, undecided or unreadable.
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    operations: Option<usize>,
    /// Operations of unknown outcome among them.
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown: Option<usize>,
    /// The verdict of the search for an order.
    #[serde(skip_serializing_if = "Option::is_none")]
    search: Option<&'static str>,
    /// The verdict of the revisions, where there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    revisions: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// Why it is not linearizable, or why there is no verdict.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl Report {
    fn of(path: &Path, steps_max: u64) -> Self {
        let file = path.display().to_string();
        let history = match File::open(path).map(BufReader::new) {
            Ok(input) => history::read(input).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match history {
            Ok(history) => Self::judged(file, &history, &checker::judge(&history, steps_max)),
            Err(reason) => Self {
                exit: Exit::Inconclusive,
                file,
                verdict: "unreadable",
                operations: None,
                unknown: None,
                search: None,
                revisions: None,
                key: None,
                reason: Some(reason),
            },
        }
    }

    fn judged(file: String, history: &History, judgement: &Judgement) -> Self {
        let verdict = judgement.verdict();
        let (exit, key, reason) = match verdict {
            Verdict::Linearizable { .. } => (Exit::Linearizable, None, None),
            Verdict::Violation(violation) => {
                (Exit::Violation, Some(violation.key.clone()), Some(violation.to_string()))
            }
            Verdict::Undecided { why } => (Exit::Inconclusive, None, Some(why.clone())),
        };
        Self {
            exit,
            file,
            verdict: verdict.word(),
            operations: Some(history.operations.len()),
            unknown: Some(history.operations.iter().filter(|operation| operation.ended().is_none()).count()),
            search: Some(judgement.linearizability.word()),
            revisions: judgement.witness.as_ref().map(Verdict::word),
            key,
            reason,
        }
    }

    fn print(&self, output: &mut impl Write) -> io::Result<()> {
        write!(output, "{:<12}  {}", self.verdict, self.file)?;
        let reason = self.reason.as_deref().unwrap_or_default();
        let (Some(operations), Some(unknown), Some(search)) = (self.operations, self.unknown, self.search)
        else {
            return writeln!(output, ": {reason}");
        };
        write!(output, "  {operations} operations, {unknown} unknown; search: {search}")?;
        if let Some(revisions) = self.revisions {
            write!(output, ", revisions: {revisions}")?;
        }
        for line in reason.lines() {
            write!(output, "\n    {line}")?;
        }
        writeln!(output)
    }

    fn print_json(&self, output: &mut impl Write) -> io::Result<()> {
        serde_json::to_writer(&mut *output, self)?;
        writeln!(output)
    }
}
