//! How a cluster comes to be, and who may not take part.

use std::time::Duration;

use raft_node::StartError;
use raft_node::status::{Phase, StopReason};

use crate::cluster::Cluster;

#[test]
fn all_orders_and_gaps_of_starts_give_one_cluster() {
    let orders = [[1, 2, 3], [1, 3, 2], [2, 1, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1]];
    for (seed, order) in orders.into_iter().cycle().take(24).enumerate() {
        let mut cluster = Cluster::new(seed as u64, 3);
        for number in order {
            cluster.start(number);
            cluster.pass(Duration::from_millis(seed as u64 * 97 % 1_500));
        }
        let last = cluster.world.now();
        cluster.leader();
        assert!(cluster.world.now() - last < Duration::from_millis(500), "seed {seed}");
        cluster.agree();
        let clusters: Vec<_> = cluster.nodes.values().map(|node| node.status().cluster).collect();
        assert!(clusters[0].is_some() && clusters.windows(2).all(|pair| pair[0] == pair[1]));
    }
}

#[test]
fn nothing_is_founded_while_a_member_is_missing() {
    let mut cluster = Cluster::new(1, 3);
    cluster.start(1);
    cluster.start(2);
    cluster.pass(Duration::from_secs(30));
    assert_eq!(cluster.status(1).phase, Phase::Forming { missing: vec![3] });
    assert_eq!(cluster.status(1).cluster, None);
    cluster.start(3);
    cluster.leader();
}

#[test]
fn power_cuts_while_it_forms_leave_one_cluster() {
    for seed in 0..60 {
        let mut cluster = Cluster::new(seed, 3);
        cluster.start_all();
        cluster.pass(Duration::from_micros(seed * 150));
        let number = 1 + seed % 3;
        cluster.crash(number);
        cluster.pass(Duration::from_millis(seed % 5 * 300));
        cluster.start(number);
        cluster.leader();
        let mut session = cluster.open(number, 1);
        cluster.add(number, &mut session, 1);
        cluster.agree();
    }
}

#[test]
fn a_folder_belongs_to_the_node_it_was_made_with() {
    let mut cluster = Cluster::new(2, 3);
    cluster.start_all();
    cluster.leader();
    cluster.crash(1);
    cluster.swap_disks(1, 2);
    let error = cluster.try_start(1).expect_err("the folder is another node's");
    assert!(matches!(error, StartError::Foreign { found: 2, configured: 1 }), "{error}");
}

/// Two clusters on the same addresses, in worlds of their own.
fn two_clusters() -> (Cluster, Cluster) {
    let (mut other, _) = Cluster::three(3);
    let (cluster, _) = Cluster::three(4);
    other.agree();
    other.crash(3);
    (cluster, other)
}

#[test]
fn data_of_another_cluster_is_refused_where_a_majority_belongs_to_this_one() {
    let (mut cluster, other) = two_clusters();
    cluster.crash(3);
    cluster.take_disk(3, &other);
    cluster.start(3);
    cluster.until("it is refused", |cluster| {
        matches!(&cluster.status(3).phase, Phase::Stopped(StopReason::Foreign(why)) if why.contains("members [1, 2]"))
    });
    let leader = cluster.leader();
    let mut session = cluster.open(leader, 7);
    cluster.add(leader, &mut session, 1);
}

#[test]
fn a_member_is_not_refused_because_of_one_foreigner() {
    let (mut cluster, other) = two_clusters();
    for number in 1..=3 {
        cluster.crash(number);
    }
    let own = cluster.take_disk(3, &other);
    cluster.start(3);
    // One foreigner is no majority of three: this node and the next start, and are a quorum.
    cluster.start(1);
    cluster.until("it runs", |cluster| cluster.status(1).phase == Phase::Running);
    cluster.start(2);
    let leader = cluster.leader();
    let mut session = cluster.open(leader, 7);
    cluster.add(leader, &mut session, 1);
    // The foreigner, started again, is refused by both; with its own disk the node is a member again.
    cluster.crash(3);
    cluster.start(3);
    cluster.until("it is refused", |cluster| {
        matches!(cluster.status(3).phase, Phase::Stopped(StopReason::Foreign(_)))
    });
    cluster.crash(3);
    cluster.give_disk(3, own);
    cluster.start(3);
    cluster.agree();
}

#[test]
fn a_member_of_another_cluster_is_not_taken_in() {
    // Node 3 comes with the disk of a cluster of its own making.
    let mut other = Cluster::new(3, 3);
    other.start_all();
    other.leader();
    other.agree();
    let mut cluster = Cluster::new(4, 3);
    other.crash(3);
    cluster.take_disk(3, &other);
    cluster.start_all();
    cluster.pass(Duration::from_secs(10));
    assert_eq!(cluster.status(1).cluster, None);
    assert_eq!(cluster.status(1).phase, Phase::Replaced { id: 1 });
    assert_eq!(cluster.status(2).phase, Phase::Replaced { id: 2 });
}
