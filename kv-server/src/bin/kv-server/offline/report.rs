//! What is told about folders and snapshots: sentences for people, JSON for scripts (docs/CONFIG.md).

use std::io::{self, Write as _};
use std::path::Path;

use raft_node::offline::{Founded, Founder, Inspection, SnapshotSummary};
use raft_node::status::LogPosition;
use serde::Serialize;

use crate::exit::Exit;

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// Lines for people.
    Simple,
    /// One JSON object.
    Json,
}

#[derive(Serialize)]
struct InspectionObject<'a> {
    data: String,
    id: u64,
    configured: u64,
    incarnation: String,
    cluster: Option<String>,
    vote: VoteObject,
    purged: Option<PositionObject>,
    last_log: Option<PositionObject>,
    committed: Option<PositionObject>,
    applied: Option<PositionObject>,
    rev: u64,
    state_hash: String,
    rows: u64,
    sessions: usize,
    members: Vec<MemberObject<'a>>,
    snapshots: Vec<FileObject<'a>>,
}

#[derive(Serialize)]
struct VoteObject {
    term: u64,
    node: u64,
    committed: bool,
}

#[derive(Serialize)]
struct PositionObject {
    term: u64,
    leader: u64,
    index: u64,
}

#[derive(Serialize)]
struct MemberObject<'a> {
    id: u64,
    address: &'a str,
    voter: bool,
}

#[derive(Serialize)]
struct FileObject<'a> {
    file: &'a str,
    size: Option<u64>,
    rev: Option<u64>,
    error: Option<&'a str>,
}

#[derive(Serialize)]
struct SnapshotObject {
    file: String,
    size: u64,
    cluster: Option<String>,
    applied: Option<PositionObject>,
    rev: u64,
    time_ms: u64,
    rows: u64,
}

#[derive(Serialize)]
struct FoundedObject {
    data: String,
    cluster: String,
    index: u64,
    rev: u64,
    rows: u64,
}

pub(super) fn inspection(data: &Path, inspection: &Inspection, format: Format) -> Result<(), Exit> {
    match format {
        Format::Json => print_json(&object(data, inspection)),
        Format::Simple => print(&described(data, inspection)),
    }
}

/// What `recover` would make of a folder, and what may be lost.
pub(super) fn recovery(data: &Path, inspection: &Inspection, format: Format) -> Result<(), Exit> {
    if format == Format::Json {
        return print_json(&object(data, inspection));
    }
    let Inspection { id, state, last_log, committed, .. } = inspection;
    let mut text = described(data, inspection);
    let end = last_log.map_or(0, |last| last.index);
    let others: Vec<u64> =
        state.members.iter().map(|(member, ..)| *member).filter(|member| member != id).collect();
    let known = (*committed).max(state.applied).map_or(0, |known| known.index);
    text.push_str(&format!("a new cluster would begin with all of it, up to log index {end}:\n"));
    if end > known {
        text.push_str(&format!(
            "  what is behind index {known} is not known here to be committed; it would count as committed\n"
        ));
    }
    text.push_str(&format!(
        "  lost: answered writes that are behind index {end} on the members {others:?}, if any are\n\
         \x20 lost: sessions; the outcomes of their tokens cannot be known any more\n\
         choose the folder whose log ends last: the higher term, then the higher index\n\
         nothing was changed\n"
    ));
    print(&text)
}

pub(super) fn snapshot(file: &Path, summary: &SnapshotSummary, format: Format) -> Result<(), Exit> {
    let SnapshotSummary { size, cluster, applied, revision, time_ms, rows } = summary;
    match format {
        Format::Json => print_json(&SnapshotObject {
            file: file.display().to_string(),
            size: *size,
            cluster: cluster.map(hex),
            applied: applied.map(position),
            rev: *revision,
            time_ms: *time_ms,
            rows: *rows,
        }),
        Format::Simple => print(&format!(
            "{}: whole; {size} bytes, {rows} rows, every write of cluster {} up to revision {revision}\n",
            file.display(),
            cluster.map_or_else(|| "none".to_owned(), hex),
        )),
    }
}

pub(super) fn founded(
    data: &Path,
    founded: &Founded,
    (founder, others): (&Founder, &[String]),
    format: Format,
) -> Result<(), Exit> {
    let Founded { cluster, index, revision, rows } = *founded;
    match format {
        Format::Json => print_json(&FoundedObject {
            data: data.display().to_string(),
            cluster: hex(cluster),
            index,
            rev: revision,
            rows,
        }),
        Format::Simple => {
            let mut text = format!(
                "{}: the first member of the new cluster {}, {rows} rows; revisions go on above {revision}\n",
                data.display(),
                hex(cluster),
            );
            if !others.is_empty() {
                text.push_str(
                    "start it as usual, and the other members with empty folders; then take them in:\n",
                );
            }
            for other in others {
                text.push_str(&format!("  kv-client --endpoints {} member add {other}\n", founder.address));
            }
            print(&text)
        }
    }
}

fn described(data: &Path, inspection: &Inspection) -> String {
    let Inspection {
        id,
        configured,
        incarnation,
        cluster,
        vote,
        purged,
        last_log,
        committed,
        state,
        snapshots,
    } = inspection;
    let at = |position: &Option<LogPosition>| match position {
        Some(LogPosition { term, index, .. }) => format!("index {index} (term {term})"),
        None => "nothing".to_owned(),
    };
    let members: Vec<String> = state
        .members
        .iter()
        .map(|(id, address, voter)| format!("{id}={address}{}", if *voter { "" } else { " (learner)" }))
        .collect();
    let snapshots: Vec<String> = snapshots
        .iter()
        .map(|(name, read)| match read {
            Ok(summary) => format!("{name} (revision {}, {} bytes)", summary.revision, summary.size),
            Err(error) => format!("{name} ({error})"),
        })
        .collect();
    let or_none = |list: Vec<String>| if list.is_empty() { "none".to_owned() } else { list.join(", ") };
    let made_as = if id == configured { String::new() } else { format!(", configured as {configured}") };
    let vote = match (vote.term, vote.committed) {
        (0, _) => "none".to_owned(),
        (term, true) => format!("term {term}, node {} was elected", vote.node),
        (term, false) => format!("term {term}, for node {}", vote.node),
    };
    format!(
        "{}: verified\n\
         node         {id}{made_as}, incarnation {}\n\
         cluster      {}\n\
         vote         {vote}\n\
         log          up to {}, purged up to {}; known to be committed: {}\n\
         state        {}, revision {}, {} rows, {} sessions\n\
         state hash   {}\n\
         members      {}\n\
         snapshots    {}\n",
        data.display(),
        hex(*incarnation),
        cluster.map_or_else(|| "none yet".to_owned(), hex),
        at(last_log),
        at(purged),
        at(committed),
        at(&state.applied),
        state.revision,
        state.rows,
        state.sessions,
        hex(state.state_hash),
        or_none(members),
        or_none(snapshots),
    )
}

fn object<'a>(data: &Path, inspection: &'a Inspection) -> InspectionObject<'a> {
    let Inspection {
        id,
        configured,
        incarnation,
        cluster,
        vote,
        purged,
        last_log,
        committed,
        state,
        snapshots,
    } = inspection;
    let member =
        |(id, address, voter): &'a (u64, String, bool)| MemberObject { id: *id, address, voter: *voter };
    let file = |(name, read): &'a (String, Result<SnapshotSummary, String>)| FileObject {
        file: name,
        size: read.as_ref().ok().map(|summary| summary.size),
        rev: read.as_ref().ok().map(|summary| summary.revision),
        error: read.as_ref().err().map(String::as_str),
    };
    InspectionObject {
        data: data.display().to_string(),
        id: *id,
        configured: *configured,
        incarnation: hex(*incarnation),
        cluster: cluster.map(hex),
        vote: VoteObject { term: vote.term, node: vote.node, committed: vote.committed },
        purged: purged.map(position),
        last_log: last_log.map(position),
        committed: committed.map(position),
        applied: state.applied.map(position),
        rev: state.revision,
        state_hash: hex(state.state_hash),
        rows: state.rows,
        sessions: state.sessions,
        members: state.members.iter().map(member).collect(),
        snapshots: snapshots.iter().map(file).collect(),
    }
}

fn position(position: LogPosition) -> PositionObject {
    let LogPosition { term, leader, index } = position;
    PositionObject { term, leader, index }
}

fn hex(id: u128) -> String {
    format!("{id:032x}")
}

fn print_json(object: &impl Serialize) -> Result<(), Exit> {
    let json = serde_json::to_string(object).map_err(|error| Exit::Output(error.into()))?;
    print(&format!("{json}\n"))
}

/// A reader that went away is not our failure.
fn print(text: &str) -> Result<(), Exit> {
    let mut output = io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Exit::Output(error)),
        _ => Ok(()),
    }
}
