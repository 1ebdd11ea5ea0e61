//! `jepsen-tests report`: the page of a run, made again from its files.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use jepsen_tests::history;

use super::Exit;
use super::folder::{Folder, REPORT};

/// Write the report of a run again, from its history.jsonl and summary.json: one HTML file, nothing else is needed to
/// read it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The folder that `run --out` or `sim --out` wrote
    folder: PathBuf,
}

pub(crate) fn run(args: &Args) -> Exit {
    match write(args) {
        Ok(path) => {
            println!("{}", path.display());
            Exit::Linearizable
        }
        Err(error) => {
            eprintln!("jepsen-tests: {error}");
            Exit::Inconclusive
        }
    }
}

fn write(args: &Args) -> Result<PathBuf, String> {
    if !args.folder.is_dir() {
        return Err(format!("{} is no folder", args.folder.display()));
    }
    let folder = Folder::new(&args.folder)?;
    let path = folder.history();
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let file = File::open(&path).map_err(|error| named(&error))?;
    let history = history::read(BufReader::new(file)).map_err(|error| named(&error))?;
    folder.write_report(&history)?;
    Ok(folder.path().join(REPORT))
}
