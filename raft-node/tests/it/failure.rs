//! Disks that fail.

use std::time::Duration;

use raft_node::outcome::{Consistency, Refusal, WriteOutcome};
use raft_node::status::{Phase, Role, StopReason};

use crate::cluster::{Cluster, PATIENCE};
use crate::counter;

#[test]
fn a_node_whose_disk_fails_stops_with_the_reason_and_the_others_go_on() {
    let (mut cluster, leader) = Cluster::three(95);
    let mut session = cluster.open(leader, 7);
    cluster.fail_disk(leader);
    let other = cluster.other_than(leader);
    assert_eq!(cluster.add(other, &mut session, 1), 1);
    cluster.until("the node stopped", |cluster| {
        matches!(cluster.status(leader).phase, Phase::Stopped(StopReason::Fatal(_)))
    });
    let node = cluster.nodes[&leader].clone();
    let StopReason::Fatal(reason) = cluster.run(async move { node.stopped().await }) else { unreachable!() };
    assert!(reason.contains("sync") || reason.contains("disk"), "{reason}");
    cluster.crash(leader);
    cluster.start(leader);
    cluster.agree();
    cluster.pass(Duration::from_millis(10));
}

/// Less than any reserve, and not nothing.
const LITTLE: u64 = 1 << 20;

#[test]
fn a_leader_whose_disk_is_full_lets_another_lead_and_writes_go_on() {
    let (mut cluster, leader) = Cluster::three(96);
    let mut session = cluster.open(leader, 7);
    cluster.set_free(leader, LITTLE);
    cluster.until("another one leads", |cluster| cluster.status(leader).role != Role::Leader);
    let next = cluster.leader();
    assert_ne!(next, leader);
    // The full one forwards writes, and still holds them.
    assert_eq!(cluster.add(leader, &mut session, 3), 3);
    cluster.agree();
    cluster.crash(leader);
    cluster.start(leader);
    cluster.agree();
}

#[test]
fn full_disks_refuse_writes_serve_reads_and_resume_alone() {
    let (cluster, leader) = Cluster::three(97);
    let mut session = cluster.open(leader, 7);
    assert_eq!(cluster.add(leader, &mut session, 3), 3);
    cluster.numbers().into_iter().for_each(|number| cluster.set_free(number, LITTLE));
    cluster.pass(Duration::from_secs(5));
    let (number, sequence) = (cluster.leader(), session.sequence + 1);
    match cluster.write(number, session.id, sequence, 1, PATIENCE) {
        WriteOutcome::Refused(Refusal::DiskFull { free, reserve }) => {
            assert_eq!(free, LITTLE);
            assert!(reserve > free);
        }
        other => panic!("{other:?}"),
    }
    let (node, deadline) = (cluster.nodes[&number].clone(), cluster.deadline(number, PATIENCE));
    let read = cluster.run(async move {
        node.read(Consistency::Linearizable, deadline, |rows| counter::value(rows, "x")).await
    });
    assert_eq!(read.unwrap().value, 3);
    cluster.numbers().into_iter().for_each(|number| cluster.set_free(number, u64::MAX));
    cluster.pass(Duration::from_secs(1));
    assert_eq!(cluster.add(number, &mut session, 2), 5);
}

#[test]
fn a_follower_without_any_space_stops_and_the_others_go_on() {
    let (mut cluster, leader) = Cluster::three(98);
    let mut session = cluster.open(leader, 7);
    let follower = cluster.other_than(leader);
    cluster.set_free(follower, 0);
    assert_eq!(cluster.add(leader, &mut session, 1), 1);
    cluster.until("the follower stopped", |cluster| {
        matches!(&cluster.status(follower).phase, Phase::Stopped(StopReason::Fatal(reason)) if reason.contains("space"))
    });
    assert_eq!(cluster.add(leader, &mut session, 1), 2);
    cluster.crash(follower);
    cluster.set_free(follower, u64::MAX);
    cluster.start(follower);
    cluster.agree();
}
