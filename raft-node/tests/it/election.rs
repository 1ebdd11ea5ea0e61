//! Leaders come, commit, and go.

use crate::cluster::Cluster;

#[test]
fn three_nodes_elect_and_commit() {
    let (cluster, leader) = Cluster::three(1);
    let mut session = cluster.open(leader, 7);
    assert_eq!(cluster.add(leader, &mut session, 5), 5);
    assert_eq!(cluster.add(leader, &mut session, 6), 11);
    cluster.agree();
}
