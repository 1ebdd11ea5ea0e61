//! `snapshot save FILE`

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use kv_client::api::{KvClient, SnapshotOffer, SnapshotPart};
use rpc_core::endpoint::Lane;
use rpc_core::runtime::Instant;
use serde::Serialize;

use super::context::Context;
use super::output::{ErrorObject, print_json, print_line};
use super::{Exit, Format};

/// Snapshots of the whole state
#[derive(Debug, Args)]
pub(crate) struct Snapshot {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Save(Save),
}

/// Save a snapshot that holds every write that was answered before, while the cluster goes on
///
/// `kv-server verify` reads it from its first byte to its last, `kv-server restore` makes a new cluster of it.
#[derive(Debug, Args)]
struct Save {
    /// The file to write; one that is there is not overwritten
    file: PathBuf,
}

#[derive(Debug, Serialize)]
struct SavedObject {
    file: String,
    size: u64,
    index: u64,
    rev: u64,
}

impl Snapshot {
    pub(crate) async fn run(self, context: &Context) -> Exit {
        let Verb::Save(Save { file }) = self.verb;
        let ended = save(context, &file).await;
        context.leave().await;
        let (exit, code, sentence) = match ended {
            Ok(offer) => {
                let SnapshotOffer { size, index, revision, .. } = offer;
                let file = file.display();
                let printed = match context.format {
                    Format::Json => {
                        print_json(&SavedObject { file: file.to_string(), size, index, rev: revision })
                    }
                    Format::Simple if context.quiet => Ok(()),
                    Format::Simple => {
                        print_line(&format!("{file}: {size} bytes, every write up to revision {revision}"))
                    }
                };
                return printed.err().unwrap_or(Exit::Done);
            }
            Err(Failed::Here(sentence)) => (Exit::Failure, "file", sentence),
            Err(Failed::There(sentence)) => (Exit::NotApplied, "unavailable", sentence),
        };
        match context.format {
            Format::Json => print_json(&ErrorObject::new(code, sentence)).err().unwrap_or(exit),
            Format::Simple => exit.because(format_args!("not saved: {sentence}")),
        }
    }
}

/// Why there is no snapshot.
enum Failed {
    /// The file cannot be written.
    Here(String),
    /// No node handed one out.
    There(String),
}

async fn save(context: &Context, file: &Path) -> Result<SnapshotOffer, Failed> {
    let here = |what: &dyn std::fmt::Display| Failed::Here(format!("{}: {what}", file.display()));
    if file.exists() {
        return Err(here(&"it is there already"));
    }
    let deadline = context.runtime.now() + context.client_with_default(TIMEOUT_DEFAULT).timeout();
    let (node, offer) = offered(context, deadline).await.map_err(Failed::There)?;
    // Named as what it is until it is whole.
    let mut part = file.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let mut out = OpenOptions::new().write(true).create_new(true).open(&part).map_err(|error| {
        let part = part.display();
        Failed::Here(format!("{part}: {error}"))
    })?;
    let received = receive(&node, &offer, &mut out, deadline).await;
    let finished = match received {
        Ok(()) => out.sync_all().and_then(|()| publish(&part, file)).map_err(|error| here(&error)),
        Err(failed) => Err(failed),
    };
    if finished.is_err() {
        // It is of no use; that it cannot be removed is not what is to be told.
        let _ = fs::remove_file(&part);
    }
    finished.map(|()| offer)
}

/// The first node, in the order of the endpoints, that makes a snapshot.
async fn offered(context: &Context, deadline: Instant) -> Result<(KvClient, SnapshotOffer), String> {
    let mut said = Vec::new();
    for endpoint in context.client.endpoints() {
        let addresses =
            context.runtime.timeout_at(deadline, context.client.addresses(endpoint.as_str())).await;
        let address = match addresses {
            Ok(Ok(addresses)) => addresses.first().copied(),
            Ok(Err(_)) | Err(_) => None,
        };
        let Some(address) = address else {
            said.push(format!("{endpoint} cannot be resolved"));
            continue;
        };
        let node = context.client.node(address);
        match node.snapshot().deadline(deadline).await {
            Ok(offer) => return Ok((node, offer)),
            Err(error) => said.push(format!("{endpoint}: {error}")),
        }
    }
    Err(said.join("; "))
}

async fn receive(
    node: &KvClient,
    offer: &SnapshotOffer,
    out: &mut File,
    deadline: Instant,
) -> Result<(), Failed> {
    let (mut offset, mut crc) = (0, 0);
    while offset < offer.size {
        let part = SnapshotPart { name: offer.name.clone(), offset };
        let part = node.snapshot_part(part).lane(Lane::Bulk).deadline(deadline).await;
        let bytes = part.map_err(|error| Failed::There(error.to_string()))?.bytes;
        if bytes.is_empty() || bytes.len() as u64 > offer.size - offset {
            return Err(Failed::There("the node sent another number of bytes than it offered".to_owned()));
        }
        out.write_all(&bytes).map_err(|error| Failed::Here(error.to_string()))?;
        crc = crc32c::crc32c_append(crc, &bytes);
        offset += bytes.len() as u64;
    }
    if crc == offer.crc {
        Ok(())
    } else {
        Err(Failed::There("what arrived has another checksum than the node offered".to_owned()))
    }
}

/// Gives a file its name, if nothing has that name, durably.
fn publish(part: &Path, file: &Path) -> io::Result<()> {
    fs::hard_link(part, file)?;
    fs::remove_file(part)?;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or_else(|| Path::new(".")))?.sync_all()
}

/// How long a snapshot may take unless told otherwise.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(600);
