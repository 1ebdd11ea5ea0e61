//! One seed is one trace.

use std::time::Duration;

use crate::cluster::Cluster;

/// A life with an election, writes, a power cut and a partition; its trace.
fn life(seed: u64) -> (u64, u64) {
    let (mut cluster, leader) = Cluster::three(seed);
    let mut session = cluster.open(leader, 1);
    for amount in 1..20 {
        cluster.add(cluster.other_than(leader), &mut session, amount);
    }
    cluster.crash(leader);
    let next = cluster.leader();
    cluster.add(next, &mut session, 100);
    cluster.start(leader);
    cluster.isolate(next);
    cluster.pass(Duration::from_secs(2));
    cluster.heal();
    cluster.leader();
    cluster.agree();
    cluster.world.trace_hash()
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
    let (hash, count) = life(11);
    assert!(count > 1_000, "{count}");
    assert_eq!(life(11), (hash, count));
    assert_ne!(life(12).0, hash);
}
