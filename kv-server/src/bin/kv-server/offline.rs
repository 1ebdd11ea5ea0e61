//! What is done to the data folder of a node that does not run: `inspect`, `restore`, `recover`; and `verify` of a
//! snapshot file.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use kv_server::machine::KvMachine;
use raft_node::disk::{Disk, real};
use raft_node::offline::{self, Inspection};
use rpc_core::driver::system;
use rpc_core::runtime::Runtime;

use self::report::Format;
use crate::config::founder;
use crate::exit::Exit;

mod report;

/// Flags of `kv-server inspect`.
#[derive(Clone, Debug, Args)]
pub(crate) struct InspectArgs {
    /// The data folder of a node that does not run
    #[arg(value_name = "DIR")]
    data: PathBuf,
    /// How the result is printed; json is the schema of docs/CONFIG.md
    #[arg(long, value_enum, default_value_t = Format::Simple)]
    output: Format,
}

/// Flags of `kv-server verify`.
#[derive(Clone, Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The snapshot
    file: PathBuf,
    /// How the result is printed; json is the schema of docs/CONFIG.md
    #[arg(long, value_enum, default_value_t = Format::Simple)]
    output: Format,
}

/// Who is the first member of a new cluster.
#[derive(Clone, Debug, Args)]
struct NewCluster {
    /// The id of the node that will be its first member
    #[arg(long, value_name = "N")]
    id: String,
    /// All members as the others will reach them, as for `run`
    #[arg(long, value_name = "LIST")]
    members: String,
    /// The folder to make; it must not be there, or be empty
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// How the result is printed; json is the schema of docs/CONFIG.md
    #[arg(long, value_enum, default_value_t = Format::Simple)]
    output: Format,
}

/// Flags of `kv-server restore`.
#[derive(Clone, Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The snapshot, as `kv-client snapshot save` wrote it
    file: PathBuf,
    #[command(flatten)]
    new: NewCluster,
}

/// Flags of `kv-server recover`.
#[derive(Clone, Debug, Args)]
pub(crate) struct RecoverArgs {
    /// The data folder of a member of the lost cluster; it is not changed
    #[arg(value_name = "DIR")]
    from: PathBuf,
    /// Only say what would be recovered, and what may be lost
    #[arg(long)]
    dry_run: bool,
    /// The id of the node that will be the first member
    #[arg(long, value_name = "N", required_unless_present = "dry_run")]
    id: Option<String>,
    /// All members as the others will reach them, as for `run`
    #[arg(long, value_name = "LIST", required_unless_present = "dry_run")]
    members: Option<String>,
    /// The folder to make; it must not be there, or be empty
    #[arg(long, value_name = "DIR", required_unless_present = "dry_run")]
    data: Option<PathBuf>,
    /// How the result is printed; json is the schema of docs/CONFIG.md
    #[arg(long, value_enum, default_value_t = Format::Simple)]
    output: Format,
}

/// Says what a data folder holds, having read and verified all of it.
pub(crate) fn inspect(args: InspectArgs) -> Result<(), Exit> {
    let InspectArgs { data, output } = args;
    let inspection = run(async |runtime| look(&runtime, &data).await)?;
    report::inspection(&data, &inspection, output)
}

/// Reads a snapshot from its first byte to its last.
pub(crate) fn verify(args: VerifyArgs) -> Result<(), Exit> {
    let VerifyArgs { file, output } = args;
    let (folder, name) = place(&file)?;
    let summary = run(async |_| {
        let verified = offline::verify(real::files(folder), &name).await;
        verified.map_err(|error| Exit::File { file: file.clone(), error })
    })?;
    report::snapshot(&file, &summary, output)
}

/// Makes the first member of a new cluster of a snapshot.
pub(crate) fn restore(args: RestoreArgs) -> Result<(), Exit> {
    let RestoreArgs { file, new } = args;
    let NewCluster { id, members, data, output } = new;
    let (founder, others) = founder(id, members)?;
    let (folder, name) = place(&file)?;
    let founded = run(async |runtime| {
        // Before anything is made: a damaged snapshot must leave nothing behind.
        let verified = offline::verify(real::files(folder), &name).await;
        verified.map_err(|error| Exit::File { file: file.clone(), error })?;
        let made = made(&data)?;
        let source = (real::files(folder), name.as_str());
        let restored = offline::restore(&runtime, source, &made, Arc::new(KvMachine), &founder).await;
        restored.map_err(|error| Exit::Start { folder: data.clone(), error })
    })?;
    report::founded(&data, &founded, (&founder, &others), output)
}

/// Makes the first member of a new cluster of what a lost one left in a folder.
pub(crate) fn recover(args: RecoverArgs) -> Result<(), Exit> {
    let RecoverArgs { from, dry_run, id, members, data, output } = args;
    let (Some(id), Some(members), Some(data), false) = (id, members, data, dry_run) else {
        let inspection = run(async |runtime| look(&runtime, &from).await)?;
        return report::recovery(&from, &inspection, output);
    };
    let (founder, others) = founder(id, members)?;
    let founded = run(async |runtime| {
        let old = real::open_existing(&from).map_err(Exit::Disk)?;
        let made = made(&data)?;
        let recovered = offline::recover(&runtime, &old, &made, Arc::new(KvMachine), &founder).await;
        recovered.map_err(|error| Exit::Start { folder: from.clone(), error })
    })?;
    report::founded(&data, &founded, (&founder, &others), output)
}

async fn look(runtime: &Runtime, folder: &Path) -> Result<Inspection, Exit> {
    let disk = real::open_existing(folder).map_err(Exit::Disk)?;
    let inspected = offline::inspect(runtime, &disk, Arc::new(KvMachine)).await;
    inspected.map_err(|error| Exit::Start { folder: folder.to_owned(), error })
}

/// Runs what needs a runtime, and ends its threads before the process goes on.
fn run<T>(work: impl AsyncFnOnce(Runtime) -> Result<T, Exit>) -> Result<T, Exit> {
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Exit::Fatal(format!("no tokio runtime: {error}")))?;
    let runtime = system::runtime(tokio.handle().clone());
    tokio.block_on(runtime.clone().enter(work(runtime)))
}

/// A new data folder.
fn made(folder: &Path) -> Result<Disk, Exit> {
    let unusable = |error| Exit::Folder { folder: folder.to_owned(), error };
    match fs::read_dir(folder).map(|mut entries| entries.next().is_some()) {
        Ok(true) => {
            return Err(unusable(std::io::Error::other("it is not empty, and nothing is overwritten")));
        }
        Ok(false) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(unusable(error)),
    }
    real::open(folder).map_err(Exit::Disk)
}

/// The folder of a file, and its name in it.
fn place(file: &Path) -> Result<(&Path, String), Exit> {
    let missing = || {
        let error = std::io::Error::new(std::io::ErrorKind::NotFound, "there is no such file");
        Exit::File { file: file.to_owned(), error }
    };
    let name = file.file_name().and_then(|name| name.to_str()).ok_or_else(missing)?;
    if !file.is_file() {
        return Err(missing());
    }
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    Ok((folder.unwrap_or_else(|| Path::new(".")), name.to_owned()))
}
