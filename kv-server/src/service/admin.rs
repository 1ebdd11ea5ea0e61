//! What operators ask: status, traces, health, changes of the members, snapshots, connections, link faults.

use std::io;

use kv_client::api::{
    ChangeError, Changed, Connection, Connections, ConnectionsRequest, FaultsReply, FaultsRequest, Health,
    KvError, LinkFault, Member, MemberChange, Role, SnapshotBytes, SnapshotOffer, SnapshotPart, Status,
    TraceSpan, TraceStep, Traced,
};
use raft_node::Change;
use raft_node::backup::Backup;
use raft_node::outcome::{Consistency, ReadError};
use raft_node::spans::{Span, Step};
use raft_node::status::{self, LogPosition, MemberStatus, Phase, StopReason};
use rpc_core::driver::fault::LinkFaults;
use rpc_core::endpoint::Counters;
use rpc_core::peer::PeerInfo;
use rpc_core::runtime::Instant;

use super::{Running, Service, version};
use crate::refusal;

pub(super) async fn status(service: &Service, running: &Running, deadline: Instant) -> Status {
    let node = running.node.status();
    let read = running.node.read(Consistency::Stale, deadline, |_| Ok(())).await;
    let index = |position: Option<LogPosition>| position.map(|position| position.index);
    let mut counters = service.counts.list();
    counters.extend(transport_counters(&running.peer.counters()));
    Status {
        id: node.id,
        incarnation: node.incarnation,
        cluster: node.cluster,
        phase: node.phase.to_string(),
        ready: node.is_ready(),
        role: role(node.role),
        leader: node.leader.map(refusal::hint),
        term: node.vote.term,
        last_log: node.last_log_index,
        committed: index(node.committed),
        applied: index(node.applied),
        snapshot: index(node.snapshot),
        revision: read.map_or(0, |read| read.revision),
        state_hash: node.state_hash,
        members: node.members.into_iter().map(member).collect(),
        sessions: node.sessions as u64,
        version: version(),
        uptime_ms: milliseconds(service.runtime.now() - service.started),
        faults_enabled: service.faults.is_some(),
        insecure: !running.peer.security().is_encrypted(),
        counters,
    }
}

pub(super) fn trace(service: &Service, running: &Running, trace: u128) -> Traced {
    let now = service.runtime.now();
    let span = |span: Span| TraceSpan {
        call: span.call,
        hops: span.hops as u64,
        step: match span.step {
            Step::Served { method, caller } => TraceStep::Served { method, caller },
            Step::Forwarded { to } => TraceStep::Forwarded { to },
            Step::Proposed => TraceStep::Proposed,
            Step::Confirmed => TraceStep::Confirmed,
        },
        age_us: microseconds(now - span.begun),
        time_us: microseconds(span.time),
        outcome: span.outcome.to_owned(),
    };
    let spans = running.node.spans().of(trace).into_iter().map(span).collect();
    Traced { node: running.node.status().id, spans }
}

/// Whether this process and its disk work: that it answers at all, that it did not stop on a failure, that a row can
/// be read. Whether it has a quorum plays no part.
pub(super) async fn health_local(running: &Running, deadline: Instant) -> Health {
    let reason = match running.node.status().phase {
        Phase::Stopped(StopReason::Fatal(reason) | StopReason::Foreign(reason)) => Some(reason),
        _ => match running.node.read(Consistency::Stale, deadline, |rows| rows.get(b"")).await {
            Err(ReadError::Disk(error)) => Some(format!("disk: {error}")),
            Ok(_) | Err(ReadError::Refused(_) | ReadError::Deadline) => None,
        },
    };
    Health { healthy: reason.is_none(), reason }
}

pub(super) async fn member_change(
    running: &Running,
    change: MemberChange,
    deadline: Instant,
) -> Result<Changed, ChangeError> {
    let change = match change {
        MemberChange::Replace { old, address } => Change::Replace { old, address },
        MemberChange::Add { address } => Change::Add { address },
        MemberChange::Remove { id } => Change::Remove { id },
        MemberChange::Lead { id } => Change::Lead { id },
    };
    match running.node.change(change, deadline).await {
        Ok(id) => Ok(Changed { id }),
        Err(error) => Err(match error {
            raft_node::ChangeError::Refused(refused) => {
                ChangeError::Refused(refusal::of(refused, &running.node))
            }
            raft_node::ChangeError::UnknownMember { id } => ChangeError::UnknownMember { id },
            raft_node::ChangeError::AlreadyMember { id } => ChangeError::AlreadyMember { id },
            raft_node::ChangeError::QuorumAtRisk { alive, needed } => {
                ChangeError::QuorumAtRisk { alive, needed: needed as u64 }
            }
            raft_node::ChangeError::StillAlive { id } => ChangeError::StillAlive { id },
            raft_node::ChangeError::Unreachable { address } => ChangeError::Unreachable { address },
            raft_node::ChangeError::NotEmpty { address } => ChangeError::NotEmpty { address },
            raft_node::ChangeError::Unfinished { step } => ChangeError::Unfinished { step },
        }),
    }
}

pub(super) async fn snapshot(running: &Running, deadline: Instant) -> Result<SnapshotOffer, KvError> {
    let taken = running.node.backup(deadline).await;
    let Backup { offer, index, revision } = taken.map_err(|error| refusal::of_read(error, &running.node))?;
    Ok(SnapshotOffer { name: offer.name, size: offer.size, crc: offer.crc, index, revision })
}

pub(super) fn snapshot_part(running: &Running, request: &SnapshotPart) -> Result<SnapshotBytes, KvError> {
    let read = running.node.read_backup(&request.name, request.offset, SNAPSHOT_PART_SIZE);
    let bytes = read.map_err(|error| KvError::Disk {
        reason: match error.kind() {
            io::ErrorKind::NotFound => "newer snapshots took the place of this one".to_owned(),
            _ => error.to_string(),
        },
    })?;
    Ok(SnapshotBytes { bytes })
}

pub(super) fn connections(running: &Running, request: ConnectionsRequest, now: Instant) -> Connections {
    let close = |address| running.peer.disconnect(address, "closed by an operator");
    let closed = request.close.map_or(0, close) as u64;
    let peers = running.peer.peers().into_iter().filter(|peer| peer.established);
    let connection = |peer: PeerInfo| Connection {
        address: peer.address,
        inbound: peer.inbound,
        encrypted: running.peer.security().is_encrypted(),
        idle_ms: milliseconds(now - peer.last_seen),
        rtt_us: microseconds(peer.rtt),
        serving: peer.serving as u64,
        calling: peer.calling as u64,
        bytes_received: peer.bytes_received,
        bytes_sent: peer.bytes_sent,
    };
    Connections { node: running.node.status().id, closed, connections: peers.map(connection).collect() }
}

/// Bytes of a snapshot that one answer holds at most.
const SNAPSHOT_PART_SIZE: usize = 256 * 1024;

/// `faults` is there: authorization refused the request where it is not.
pub(super) async fn faults(
    faults: Option<&LinkFaults>,
    request: FaultsRequest,
) -> Result<FaultsReply, KvError> {
    let Some(faults) = faults else {
        return Err(KvError::Denied { reason: "link faults are not enabled on this node".to_owned() });
    };
    let FaultsRequest { seed, heal, set } = request;
    if let Some(seed) = seed {
        faults.reseed(seed);
    }
    if heal {
        faults.heal();
    }
    for LinkFault { direction, remote, policy } in set {
        faults.set(direction, remote, policy);
    }
    let links = faults.links().into_iter();
    let links = links.map(|(direction, remote, policy)| LinkFault { direction, remote, policy }).collect();
    Ok(FaultsReply { links, hits: faults.hits() })
}

fn role(role: status::Role) -> Role {
    match role {
        status::Role::Learner => Role::Learner,
        status::Role::Follower => Role::Follower,
        status::Role::Candidate => Role::Candidate,
        status::Role::Leader => Role::Leader,
    }
}

fn member(member: MemberStatus) -> Member {
    Member {
        id: member.id,
        address: member.address,
        incarnation: member.incarnation,
        voter: member.voter,
        matched: member.matched,
        ack_age_ms: member.ack_age.map(milliseconds),
    }
}

fn microseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn milliseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What operators look at first; garbage that was thrown at the port shows in `dropped_*`.
fn transport_counters(counters: &Counters) -> Vec<(String, u64)> {
    let dropped_damaged = counters.dropped_truncated
        + counters.dropped_bad_header
        + counters.dropped_bad_checksum
        + counters.dropped_bad_frame
        + counters.dropped_unknown_version;
    let dropped_strange = counters.dropped_unknown_connection
        + counters.dropped_wrong_epoch
        + counters.dropped_unexpected_address
        + counters.dropped_unexpected
        + counters.dropped_wrong_mode
        + counters.dropped_downgrade;
    let counts = [
        ("datagrams_sent", counters.datagrams_sent),
        ("datagrams_received", counters.datagrams_received),
        ("bytes_sent", counters.bytes_sent),
        ("bytes_received", counters.bytes_received),
        ("packets_lost", counters.packets_lost),
        ("frames_retransmitted", counters.frames_retransmitted),
        ("requests_duplicate", counters.requests_duplicate),
        ("connections_established", counters.connections_established),
        ("connections_lost", counters.connections_lost),
        ("dropped_damaged", dropped_damaged),
        ("dropped_strange", dropped_strange),
        ("dropped_forged", counters.dropped_bad_seal),
        ("dropped_duplicate", counters.dropped_duplicate),
    ];
    counts.map(|(name, count)| (name.to_owned(), count)).to_vec()
}
