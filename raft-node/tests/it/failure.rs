//! Disks that fail.

use std::time::Duration;

use raft_node::status::{Phase, StopReason};

use crate::cluster::Cluster;

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
