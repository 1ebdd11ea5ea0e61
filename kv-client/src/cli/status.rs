//! `status`

use std::time::Duration;

use clap::Args;
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use kv_client::api::{self, Role};
use serde::Serialize;

use super::context::Context;
use super::nodes::Asked;
use super::output::{ErrorObject, print_json, print_line};
use super::{Exit, Format, nodes};

/// Show what every node knows about itself and the cluster
///
/// Asks the endpoints and the members that they name, each node for itself.
#[derive(Debug, Args)]
pub(crate) struct Status {}

impl Status {
    pub(crate) async fn run(self, context: &Context) -> Exit {
        let timeout = context.client_with_default(TIMEOUT_DEFAULT).timeout();
        let asked = nodes::find(context, timeout).await;
        let is_silent = asked.iter().all(|node| node.answer.is_err());
        let exit = if is_silent { Exit::NotApplied } else { Exit::Done };
        let printed = match context.format {
            Format::Json if is_silent => {
                print_json(&ErrorObject::new("unreachable", "no node answered".to_owned()))
            }
            Format::Json => print_json(&StatusObject::new(&asked)),
            Format::Simple if is_silent => {
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

fn table(asked: &[Asked<api::Status>]) -> String {
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
    for Asked { name, answer, .. } in asked {
        match answer {
            Ok(status) => table.add_row([
                status.id.to_string(),
                name.clone(),
                role(status, asked),
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

fn role(status: &api::Status, asked: &[Asked<api::Status>]) -> String {
    if is_removed(status, asked) {
        return "removed".to_owned();
    }
    let ready = if status.ready { "" } else { " (not ready)" };
    format!("{}{ready}", status.role)
}

/// Those that answered.
fn answered(asked: &[Asked<api::Status>]) -> impl Iterator<Item = &api::Status> {
    asked.iter().filter_map(|node| node.answer.as_ref().ok())
}

/// The one that leads in the highest term; an isolated leader of an older term may not know better yet.
fn leader(asked: &[Asked<api::Status>]) -> Option<&api::Status> {
    answered(asked).filter(|status| status.role == Role::Leader).max_by_key(|status| status.term)
}

/// Whether the leader of its cluster has the node no longer among the members. Nobody tells a node that it was removed: it
/// goes on as what it was.
fn is_removed(status: &api::Status, asked: &[Asked<api::Status>]) -> bool {
    let is_member = |leader: &api::Status| {
        leader.members.iter().any(|member| (member.id, member.incarnation) == (status.id, status.incarnation))
    };
    let was_member = status.members.iter().any(|member| member.id == status.id);
    was_member && leader(asked).is_some_and(|leader| leader.cluster == status.cluster && !is_member(leader))
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

fn clusters(asked: &[Asked<api::Status>]) -> Vec<u128> {
    let mut clusters: Vec<_> = answered(asked).filter_map(|status| status.cluster).collect();
    clusters.sort_unstable();
    clusters.dedup();
    clusters
}

/// Two nodes that have applied the same entries must hold the same state.
fn disagreement(asked: &[Asked<api::Status>]) -> String {
    let mut states: Vec<_> = answered(asked)
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
    /// The leader has it no longer among the members.
    removed: bool,
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
    fn new(asked: &'a [Asked<api::Status>]) -> Self {
        let leader = leader(asked).map(|status| status.id);
        let clusters = clusters(asked);
        let cluster = match clusters.as_slice() {
            [cluster] => Some(hex(*cluster)),
            _ => None,
        };
        let nodes = asked.iter().map(|node| match &node.answer {
            Ok(status) => {
                let removed = is_removed(status, asked);
                NodeObject::Answered(Box::new(AnsweredObject::new(&node.name, status, removed)))
            }
            Err(error) => NodeObject::Silent { address: &node.name, error },
        });
        Self { cluster, leader, nodes: nodes.collect() }
    }
}

impl<'a> AnsweredObject<'a> {
    fn new(address: &'a str, status: &'a api::Status, removed: bool) -> Self {
        Self {
            address,
            id: status.id,
            removed,
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

#[cfg(test)]
mod tests {
    use rpc_core::sim::World;

    use super::*;

    fn asked(id: u64, role: Role, term: u64, members: &[u64]) -> Asked<api::Status> {
        let member = |id: &u64| api::Member {
            id: *id,
            address: format!("10.0.0.{id}:7301"),
            incarnation: 7,
            voter: true,
            matched: None,
            ack_age_ms: None,
        };
        let status = api::Status {
            id,
            incarnation: 7,
            cluster: Some(1),
            phase: "running".to_owned(),
            ready: true,
            role,
            leader: None,
            term,
            last_log: None,
            committed: None,
            applied: None,
            snapshot: None,
            revision: 0,
            state_hash: 0,
            members: members.iter().map(member).collect(),
            sessions: 0,
            version: String::new(),
            uptime_ms: 0,
            faults_enabled: false,
            insecure: true,
            counters: Vec::new(),
        };
        Asked { name: format!("10.0.0.{id}:7301"), answer: Ok(status), at: World::new(1).observer().now() }
    }

    #[test]
    fn a_node_that_the_leader_has_no_longer_is_removed_whatever_it_says() {
        let old_leader = asked(3, Role::Leader, 1, &[1, 2, 3]);
        let nodes = [asked(1, Role::Leader, 2, &[1, 2]), asked(2, Role::Follower, 2, &[1, 2]), old_leader];
        let removed: Vec<bool> = answered(&nodes).map(|status| is_removed(status, &nodes)).collect();
        assert_eq!(removed, [false, false, true]);
        assert!(table(&nodes).lines().any(|line| line.contains("10.0.0.3") && line.contains("removed")));
        // Who is not a member yet was never removed, and without a leader nobody knows.
        let nodes = [asked(1, Role::Leader, 2, &[1, 2]), asked(4, Role::Learner, 0, &[])];
        assert!(answered(&nodes).all(|status| !is_removed(status, &nodes)));
        let nodes = [asked(1, Role::Follower, 2, &[1, 2]), asked(3, Role::Follower, 2, &[1, 2, 3])];
        assert!(answered(&nodes).all(|status| !is_removed(status, &nodes)));
    }
}
