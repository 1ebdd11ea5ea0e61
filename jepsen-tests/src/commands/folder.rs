//! The folder of a run: what was planned, what was seen, what was found.

use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use jepsen_tests::history::{History, HistoryWriter};
use jepsen_tests::plan::Plan;
use jepsen_tests::report::{self, Facts};
use serde::Serialize;
use tempfile::TempDir;

pub(crate) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Makes the folder, or takes one that is there.
    pub(crate) fn new(path: &Path) -> Result<Self, String> {
        let made = fs::create_dir_all(path).and_then(|()| path.canonicalize());
        let path =
            made.map_err(|error| format!("cannot write into the folder {}: {error}", path.display()))?;
        Ok(Self { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the history lies.
    pub(crate) fn history(&self) -> PathBuf {
        self.path.join(HISTORY)
    }

    /// A folder in the folder, for the nodes' data; it goes with the value.
    pub(crate) fn data(&self) -> Result<TempDir, String> {
        let made = tempfile::Builder::new().prefix("data-").tempdir_in(&self.path);
        made.map_err(|error| self.unwritable("data", &error))
    }

    pub(crate) fn write_plan(&self, plan: &Plan) -> Result<(), String> {
        self.write("plan.json", plan)
    }

    pub(crate) fn write_summary(&self, summary: &impl Serialize) -> Result<(), String> {
        self.write(SUMMARY, summary)
    }

    /// Writes the report, from the summary that was written before.
    pub(crate) fn write_report(&self, history: &History) -> Result<(), String> {
        let path = self.path.join(SUMMARY);
        let text = fs::read(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let summary = serde_json::from_slice(&text)
            .map_err(|error| format!("{} is no summary of a run: {error}", path.display()))?;
        let html = report::html(&Facts::of_summary(&summary), history);
        fs::write(self.path.join(REPORT), html).map_err(|error| self.unwritable(REPORT, &error))
    }

    pub(crate) fn write_history(&self, history: &History) -> Result<(), String> {
        let write = || -> io::Result<()> {
            let file = File::create(self.history())?;
            let mut writer = HistoryWriter::new(BufWriter::new(file));
            for nemesis in &history.nemeses {
                writer.nemesis(nemesis)?;
            }
            for operation in &history.operations {
                writer.operation(operation)?;
            }
            writer.finish().map(|_| ())
        };
        write().map_err(|error| self.unwritable(HISTORY, &error))
    }

    fn write(&self, name: &str, value: &impl Serialize) -> Result<(), String> {
        let json = serde_json::to_string_pretty(value).map_err(io::Error::from);
        let written = json.and_then(|json| fs::write(self.path.join(name), json + "\n"));
        written.map_err(|error| self.unwritable(name, &error))
    }

    fn unwritable(&self, name: &str, error: &io::Error) -> String {
        format!("cannot write {}: {error}", self.path.join(name).display())
    }
}

/// The page for people.
pub(crate) const REPORT: &str = "report.html";
const SUMMARY: &str = "summary.json";
/// The file that the checkers read.
const HISTORY: &str = "history.jsonl";
