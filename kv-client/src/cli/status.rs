//! `status`

use std::time::Duration;

use clap::Args;
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use kv_client::api::{self, Role};
use serde::Serialize;

use super::context::Context;
use super::output::{ErrorObject, print_json, print_line};
use super::{Exit, Format};

/// Show what every node knows about itself and the cluster
///
/// Asks the endpoints and the members that they name, each node for itself.
#[derive(Debug, Args)]
pub(crate) struct Status {}

/// What came of asking one node.
struct Asked {
    /// As it was written, or as the membership names it.
    name: String,
    status: Result<api::Status, String>,
}

impl Status {
    pub(crate) async fn run(self, context: &Context) -> Exit {
        let timeout = context.client_with_default(TIMEOUT_DEFAULT).timeout();
        let mut asked = Vec::new();
        let names = context.client.endpoints().iter().map(|endpoint| endpoint.to_string()).collect();
        ask_all(context, timeout, names, &mut asked).await;
        let others = unseen_members(&asked);
        ask_all(context, timeout, others, &mut asked).await;
        // A node that was reached under two names is shown once.
        let mut seen = Vec::new();
        asked.retain(|node| match &node.status {
            Ok(status) if seen.contains(&(status.id, status.incarnation)) => false,
            Ok(status) => {
                seen.push((status.id, status.incarnation));
                true
            }
            Err(_) => true,
        });
        let exit = if seen.is_empty() { Exit::NotApplied } else { Exit::Done };
        let printed = match context.format {
            Format::Json if seen.is_empty() => {
                print_json(&ErrorObject::new("unreachable", "no node answered".to_owned()))
            }
            Format::Json => print_json(&StatusObject::new(&asked)),
            Format::Simple if seen.is_empty() => {
                let names: Vec<_> = asked.iter().map(|node| node.name.as_str()).collect();
                exit.because(format_args!("nobody of {} answered within {timeout:?}", names.join(", ")));
                Ok(())
            }
            Format::Simple => print_line(&table(&asked)),
        };
        context.leave().await;
        printed.err().unwrap_or(exit)
    }
}

/// Asks all nodes at once.
async fn ask_all(context: &Context, timeout: Duration, names: Vec<String>, asked: &mut Vec<Asked>) {
    let tasks: Vec<_> = names
        .into_iter()
        .map(|name| {
            let (client, runtime) = (context.client.clone(), context.runtime.clone());
            context.runtime.spawn("status", async move {
                let deadline = runtime.now() + timeout;
                let addresses = runtime.timeout_at(deadline, client.addresses(&name)).await;
                let status = match addresses {
                    Err(_) => Err("name not resolved in time".to_owned()),
                    Ok(Err(error)) => Err(format!("name not resolved: {error}")),
                    Ok(Ok(addresses)) => match addresses.first() {
                        None => Err("no address".to_owned()),
                        Some(address) => {
                            let call = client.node(*address).status().deadline(deadline);
                            call.await.map_err(|_| "no answer".to_owned())
                        }
                    },
                };
                Asked { name, status }
            })
        })
        .collect();
    for task in tasks {
        if let Ok(node) = task.await {
            asked.push(node);
        }
    }
}

/// The addresses of members that did not answer under any name, and were not asked under this one.
fn unseen_members(asked: &[Asked]) -> Vec<String> {
    let statuses = || asked.iter().filter_map(|node| node.status.as_ref().ok());
    let mut others: Vec<String> = Vec::new();
    for member in statuses().flat_map(|status| &status.members) {
        let is_seen = statuses().any(|status| status.id == member.id)
            || asked.iter().any(|node| node.name == member.address)
            || others.contains(&member.address);
        if !is_seen && others.len() < MEMBERS_MAX {
            others.push(member.address.clone());
        }
    }
    others
}

fn table(asked: &[Asked]) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header([
        "node",
        "address",
        "role",
        "term",
        "applied",
        "committed",
        "log end",
        "version",
        "state",
    ]);
    for index in [3, 4, 5, 6] {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for Asked { name, status } in asked {
        match status {
            Ok(status) => table.add_row([
                status.id.to_string(),
                name.clone(),
                role(status),
                status.term.to_string(),
                index_or_dash(status.applied),
                index_or_dash(status.committed),
                index_or_dash(status.last_log),
                status.version.clone(),
                state(status),
            ]),
            Err(why) => table.add_row(["?", name, "", "", "", "", "", "", why]),
        };
    }
    let clusters = clusters(asked);
    let verdict = match clusters.as_slice() {
        [] => "no cluster yet".to_owned(),
        [cluster] => format!("cluster {cluster:032x}"),
        several => format!("WARNING: {} different clusters answered", several.len()),
    };
    format!("{}\n\n {verdict}{}", table.trim_fmt(), disagreement(asked))
}

fn role(status: &api::Status) -> String {
    let ready = if status.ready { "" } else { " (not ready)" };
    format!("{}{ready}", status.role)
}

fn state(status: &api::Status) -> String {
    let mut state = status.phase.clone();
    if status.faults_enabled {
        state.push_str(", faults enabled");
    }
    if status.insecure {
        state.push_str(", insecure");
    } else {
        state.push_str(", encrypted");
    }
    state
}

fn index_or_dash(index: Option<u64>) -> String {
    index.map_or_else(|| "-".to_owned(), |index| index.to_string())
}

fn clusters(asked: &[Asked]) -> Vec<u128> {
    let mut clusters: Vec<_> =
        asked.iter().filter_map(|node| node.status.as_ref().ok().and_then(|status| status.cluster)).collect();
    clusters.sort_unstable();
    clusters.dedup();
    clusters
}

/// Two nodes that have applied the same entries must hold the same state.
fn disagreement(asked: &[Asked]) -> String {
    let mut states: Vec<_> = asked
        .iter()
        .filter_map(|node| node.status.as_ref().ok())
        .filter_map(|status| Some((status.cluster?, status.applied?, status.state_hash, status.id)))
        .collect();
    states.sort_unstable();
    for pair in states.windows(2) {
        if let [(cluster, applied, hash, id), (other_cluster, other_applied, other_hash, other_id)] = pair
            && (cluster, applied) == (other_cluster, other_applied)
            && hash != other_hash
        {
            return format!(
                "\n WARNING: nodes {id} and {other_id} differ at log index {applied}: one is damaged"
            );
        }
    }
    String::new()
}

/// The JSON of `status`. Ids of 128 bits and hashes are hexadecimal text.
#[derive(Debug, Serialize)]
struct StatusObject<'a> {
    /// Of the nodes that answered; null if they belong to none, or not to the same.
    cluster: Option<String>,
    leader: Option<u64>,
    nodes: Vec<NodeObject<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum NodeObject<'a> {
    Answered(Box<AnsweredObject<'a>>),
    Silent { address: &'a str, error: &'a str },
}

#[derive(Debug, Serialize)]
struct AnsweredObject<'a> {
    address: &'a str,
    id: u64,
    incarnation: String,
    cluster: Option<String>,
    phase: &'a str,
    ready: bool,
    role: &'static str,
    leader: Option<u64>,
    term: u64,
    last_log: Option<u64>,
    committed: Option<u64>,
    applied: Option<u64>,
    snapshot: Option<u64>,
    rev: u64,
    state_hash: String,
    sessions: u64,
    version: &'a str,
    uptime_ms: u64,
    faults_enabled: bool,
    insecure: bool,
    members: Vec<MemberObject<'a>>,
    counters: serde_json::Map<String, serde_json::Value>,
}

#[derive(Debug, Serialize)]
struct MemberObject<'a> {
    id: u64,
    address: &'a str,
    incarnation: String,
    voter: bool,
    matched: Option<u64>,
    ack_age_ms: Option<u64>,
}

impl<'a> StatusObject<'a> {
    fn new(asked: &'a [Asked]) -> Self {
        let leaders = asked.iter().filter_map(|node| node.status.as_ref().ok());
        // The one that leads in the highest term; an isolated leader of an older term may not know better yet.
        let leader = leaders
            .filter(|status| status.role == Role::Leader)
            .max_by_key(|status| status.term)
            .map(|status| status.id);
        let clusters = clusters(asked);
        let cluster = match clusters.as_slice() {
            [cluster] => Some(hex(*cluster)),
            _ => None,
        };
        let nodes = asked.iter().map(|node| match &node.status {
            Ok(status) => NodeObject::Answered(Box::new(AnsweredObject::new(&node.name, status))),
            Err(error) => NodeObject::Silent { address: &node.name, error },
        });
        Self { cluster, leader, nodes: nodes.collect() }
    }
}

impl<'a> AnsweredObject<'a> {
    fn new(address: &'a str, status: &'a api::Status) -> Self {
        Self {
            address,
            id: status.id,
            incarnation: hex(status.incarnation),
            cluster: status.cluster.map(hex),
            phase: &status.phase,
            ready: status.ready,
            role: match status.role {
                Role::Learner => "learner",
                Role::Follower => "follower",
                Role::Candidate => "candidate",
                Role::Leader => "leader",
            },
            leader: status.leader.as_ref().map(|leader| leader.id),
            term: status.term,
            last_log: status.last_log,
            committed: status.committed,
            applied: status.applied,
            snapshot: status.snapshot,
            rev: status.revision,
            state_hash: format!("{:032x}", status.state_hash),
            sessions: status.sessions,
            version: &status.version,
            uptime_ms: status.uptime_ms,
            faults_enabled: status.faults_enabled,
            insecure: status.insecure,
            members: status.members.iter().map(MemberObject::new).collect(),
            counters: status.counters.iter().map(|(name, count)| (name.clone(), (*count).into())).collect(),
        }
    }
}

impl<'a> MemberObject<'a> {
    fn new(member: &'a api::Member) -> Self {
        Self {
            id: member.id,
            address: &member.address,
            incarnation: hex(member.incarnation),
            voter: member.voter,
            matched: member.matched,
            ack_age_ms: member.ack_age_ms,
        }
    }
}

fn hex(id: u128) -> String {
    format!("{id:032x}")
}

/// How long the nodes are given unless told otherwise.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(1);
/// Members that are asked beside the endpoints at most.
const MEMBERS_MAX: usize = 64;
