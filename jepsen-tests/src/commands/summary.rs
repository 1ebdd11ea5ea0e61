//! What is said about a run: one sentence, then the facts. As JSON, a documented schema (docs/TESTING.md).

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;

use jepsen_tests::history::{History, Outcome};
use jepsen_tests::runner::{Conclusion, Run};
use serde::Serialize;

use super::Exit;
use super::folder::REPORT;

/// How a run is judged.
#[derive(Clone, Debug)]
pub(crate) enum Verdict {
    /// Every promise was kept.
    Passed(Conclusion),
    /// A promise was broken.
    Failed(String),
    /// The run proves nothing.
    Void(String),
    /// A signal ended it; this is what a shell reports for that.
    Interrupted(u8),
}

impl Verdict {
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Passed(_) => Exit::Linearizable,
            Self::Failed(_) => Exit::Violation,
            Self::Void(_) => Exit::Inconclusive,
            Self::Interrupted(code) => Exit::Interrupted(*code),
        }
    }

    /// The word of the JSON schema.
    fn word(&self) -> &'static str {
        match self {
            Self::Passed(_) => "passed",
            Self::Failed(_) => "failed",
            Self::Void(_) => "void",
            Self::Interrupted(_) => "interrupted",
        }
    }

    fn reason(&self) -> Option<String> {
        match self {
            Self::Failed(why) | Self::Void(why) => Some(why.clone()),
            Self::Passed(_) | Self::Interrupted(_) => None,
        }
    }

    fn sentence(&self) -> String {
        match self {
            Self::Passed(conclusion) => conclusion.to_string(),
            Self::Failed(why) => Conclusion::Failed(why.clone()).to_string(),
            Self::Void(why) => Conclusion::Void(why.clone()).to_string(),
            Self::Interrupted(_) => "interrupted by a signal: no verdict".to_owned(),
        }
    }
}

impl From<Conclusion> for Verdict {
    fn from(conclusion: Conclusion) -> Self {
        match conclusion {
            Conclusion::Passed { .. } => Self::Passed(conclusion),
            Conclusion::Failed(why) => Self::Failed(why),
            Conclusion::Void(why) => Self::Void(why),
        }
    }
}

/// What a run was made of.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Setup {
    pub(crate) cluster: String,
    pub(crate) nodes: u64,
    pub(crate) clients: u64,
    pub(crate) seed: u64,
    /// The kinds of faults that were asked for.
    pub(crate) asked: Vec<String>,
    pub(crate) time_ms: u64,
    /// The history; plan, summary, report and logs lie beside it.
    pub(crate) history: PathBuf,
    /// The nodes' data, where it was kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) data: Option<PathBuf>,
    /// The command that runs the same plan again.
    pub(crate) repeat: String,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Summary {
    /// passed, failed, void or interrupted.
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip)]
    sentence: String,
    #[serde(flatten)]
    setup: Setup,
    operations: usize,
    ok: usize,
    fail: usize,
    /// Those of which nobody knows the outcome.
    info: usize,
    #[serde(flatten)]
    run: Option<Facts>,
}

/// What only a run that was not cut short can tell.
#[derive(Clone, Debug, Serialize)]
struct Facts {
    /// Writes whose outcome was unknown at first and then settled.
    resolved: usize,
    /// Faults that took effect, by kind.
    faults: BTreeMap<String, u64>,
    /// From healing to the first write and read through every node.
    recovery_ms: Option<u64>,
    /// Whether all nodes reached the same state at the same index.
    converged: bool,
    duration_ms: u64,
}

impl Summary {
    pub(crate) fn new(setup: Setup, verdict: &Verdict, history: &History, run: Option<&Run>) -> Self {
        let count = |outcome| {
            history.operations.iter().filter(|operation| operation.action.result() == outcome).count()
        };
        let run = run.map(|run| Facts {
            resolved: run.unknown.0 - run.unknown.1,
            faults: run.faults.iter().map(|(kind, count)| (kind.to_string(), *count)).collect(),
            recovery_ms: run.recovery.map(|recovery| recovery.as_millis() as u64),
            converged: run.converged.is_ok(),
            duration_ms: run.duration.as_millis() as u64,
        });
        Self {
            verdict: verdict.word(),
            reason: verdict.reason(),
            sentence: verdict.sentence(),
            setup,
            operations: history.operations.len(),
            ok: count(Outcome::Ok(())),
            fail: count(Outcome::Fail),
            info: count(Outcome::Info),
            run,
        }
    }

    pub(crate) fn print(&self, output: &mut impl Write) -> io::Result<()> {
        let Self { setup, run, .. } = self;
        writeln!(output, "{}", self.sentence)?;
        if self.operations == 0 {
            // It never began: there is nothing to tell.
            return output.flush();
        }
        write!(output, "  answers   {} ok, {} fail, {} unknown", self.ok, self.fail, self.info)?;
        if let Some(facts) = run {
            writeln!(output, "; {} were unknown at first and resolved", facts.resolved)?;
            let faults: Vec<String> =
                facts.faults.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
            let faults = if faults.is_empty() { "none".to_owned() } else { faults.join(", ") };
            writeln!(output, "  faults    {faults} (that took effect)")?;
            let recovery = match facts.recovery_ms {
                Some(ms) => format!("every node served again {ms} ms after healing"),
                None => "not every node served again".to_owned(),
            };
            let state =
                if facts.converged { "all reached one state" } else { "they did not reach one state" };
            writeln!(output, "  recovery  {recovery}, {state}")?;
        } else {
            writeln!(output)?;
        }
        writeln!(output, "  history   {}", setup.history.display())?;
        writeln!(output, "  report    {}", setup.history.with_file_name(REPORT).display())?;
        if let Some(data) = &setup.data {
            writeln!(output, "  data      {}", data.display())?;
        }
        writeln!(output, "  repeat    {}", setup.repeat)?;
        output.flush()
    }

    pub(crate) fn print_json(&self, output: &mut impl Write) -> io::Result<()> {
        serde_json::to_writer(&mut *output, self)?;
        writeln!(output)?;
        output.flush()
    }
}
