//! Nodes that fell so far behind that only a snapshot helps.

use std::time::Duration;

use raft_node::status::Status;
use rpc_core::driver::fault::LinkPolicy;

use crate::cluster::{Cluster, PATIENCE};
use crate::counter::add;

fn purged(status: &Status) -> u64 {
    status.purged.map_or(0, |place| place.index)
}

#[test]
fn a_node_behind_the_purged_log_gets_a_snapshot_in_parts_over_lossy_links() {
    let mut cluster = Cluster::with(90, 3, |config| {
        config.snapshots.entries = 200;
        config.snapshots.entries_kept = 10;
    });
    cluster.start_all();
    let leader = cluster.leader();
    let mut session = cluster.open(leader, 7);
    let behind = cluster.other_than(leader);
    cluster.crash(behind);
    // Half a megabyte of rows: more than a window of parts.
    for number in 0..600u64 {
        session.sequence += 1;
        let (node, id, sequence) = (cluster.nodes[&leader].clone(), session.id, session.sequence);
        let deadline = cluster.deadline(leader, PATIENCE);
        let name = format!("{number:04}{}", "x".repeat(900));
        cluster.run(async move { node.write(id, sequence, sequence, add(&name, 1), deadline).await });
    }
    cluster.until("the log is purged", |cluster| purged(&cluster.status(leader)) > 300);
    let bad = LinkPolicy {
        loss: 20_000,
        duplicate: 20_000,
        delay_min_us: 500,
        delay_max_us: 5_000,
        ..LinkPolicy::default()
    };
    cluster.world.set_default_link(bad);
    cluster.start(behind);
    cluster.until("the snapshot is installed", |cluster| cluster.status(behind).snapshot.is_some());
    cluster.agree();
    assert_eq!(cluster.add(behind, &mut session, 1), 1);
    // What came by snapshot survives a power cut.
    cluster.crash(behind);
    cluster.start(behind);
    cluster.agree();
    cluster.pass(Duration::from_secs(1));
}
