//! Changes of who is a member and who leads.

use std::time::Duration;

use raft_node::status::Phase;
use raft_node::{Change, ChangeError};

use crate::cluster::{Cluster, PATIENCE, address};

fn change(cluster: &Cluster, number: u64, change: Change) -> Result<u64, ChangeError> {
    let (node, deadline) = (cluster.nodes[&number].clone(), cluster.deadline(number, PATIENCE));
    cluster.run(async move { node.change(change, deadline).await })
}

fn add(cluster: &Cluster, number: u64, new: u64) -> Result<u64, ChangeError> {
    change(cluster, number, Change::Add { address: address(new).to_string() })
}

/// The ids of the voters, as node `number` knows them.
fn voters(cluster: &Cluster, number: u64) -> Vec<u64> {
    cluster.status(number).members.iter().filter(|member| member.voter).map(|member| member.id).collect()
}

/// Three nodes that are a cluster, and a fourth that lists them.
fn three_and_one(seed: u64) -> (Cluster, u64) {
    let mut cluster = Cluster::with(seed, 4, |config| {
        config.joining = config.id == 4;
        config.members.retain(|(id, _)| *id != 4);
    });
    cluster.start_all();
    let leader = cluster.leader();
    (cluster, leader)
}

#[test]
fn a_node_is_added_and_any_is_removed_even_the_leader() {
    let (mut cluster, leader) = three_and_one(100);
    let mut session = cluster.open(leader, 7);
    cluster.add(leader, &mut session, 5);
    let follower = (1..=3).find(|number| *number != leader).unwrap();
    let new = add(&cluster, follower, 4).expect("it is taken in");
    assert_eq!(add(&cluster, leader, 4), Ok(new), "asked again, the answer is the same");
    cluster.until("it runs", |cluster| cluster.status(4).phase == Phase::Running);
    assert_eq!(voters(&cluster, leader), [1, 2, 3, new]);

    assert_eq!(change(&cluster, follower, Change::Remove { id: leader }), Ok(leader));
    cluster.until("the others follow another leader", |cluster| {
        let status = cluster.status(follower);
        status.members.len() == 3 && status.leader.is_some_and(|it| it.id != leader)
    });
    cluster.crash(leader);
    assert_eq!(cluster.add(4, &mut session, 1), 6);
    assert_eq!(change(&cluster, 4, Change::Remove { id: 99 }), Err(ChangeError::UnknownMember { id: 99 }));
}

#[test]
fn a_change_that_would_lose_the_quorum_is_refused() {
    let (mut cluster, leader) = Cluster::three(101);
    let [down, up] = [1, 2, 3].into_iter().filter(|it| *it != leader).collect::<Vec<_>>()[..] else {
        panic!()
    };
    cluster.crash(down);
    cluster.pass(Duration::from_secs(2));
    // Two that vote and one of them down: the rest could not commit anything.
    let refused = change(&cluster, leader, Change::Remove { id: up });
    assert_eq!(refused, Err(ChangeError::QuorumAtRisk { alive: vec![leader], needed: 2 }));
    assert_eq!(change(&cluster, leader, Change::Remove { id: down }), Ok(down), "the dead one can go");
    let mut session = cluster.open(up, 7);
    cluster.add(up, &mut session, 5);
    assert_eq!(change(&cluster, leader, Change::Remove { id: up }), Ok(up), "one of two, both alive");
    let refused = change(&cluster, leader, Change::Remove { id: leader });
    assert_eq!(refused, Err(ChangeError::QuorumAtRisk { alive: vec![], needed: 1 }), "nobody would be left");
    assert_eq!(cluster.add(leader, &mut session, 1), 6);
}

#[test]
fn only_an_empty_stranger_is_added() {
    let (mut cluster, leader) = Cluster::three(102);
    let lost = cluster.other_than(leader);
    let member = cluster.status(leader).members.iter().find(|it| it.id == lost).unwrap().clone();
    // A member that has its data is one already; one that lost it must be replaced.
    assert_eq!(add(&cluster, leader, lost), Ok(member.id));
    cluster.wipe(lost);
    cluster.start(lost);
    cluster.pass(Duration::from_secs(2));
    assert_eq!(add(&cluster, leader, lost), Err(ChangeError::AlreadyMember { id: lost }));
    let nobody = Change::Add { address: address(9).to_string() };
    assert!(matches!(change(&cluster, leader, nobody), Err(ChangeError::Unreachable { .. })));
}

#[test]
fn leadership_goes_to_whom_it_is_given_if_that_one_answers() {
    let (mut cluster, leader) = Cluster::three(103);
    let [next, down] = [1, 2, 3].into_iter().filter(|it| *it != leader).collect::<Vec<_>>()[..] else {
        panic!()
    };
    cluster.until("all follow", |cluster| cluster.status(down).is_ready());
    assert_eq!(change(&cluster, down, Change::Lead { id: Some(next) }), Ok(next));
    assert_eq!(cluster.leader(), next);
    cluster.crash(down);
    cluster.pass(Duration::from_secs(2));
    let refused = change(&cluster, next, Change::Lead { id: Some(down) });
    assert_eq!(refused, Err(ChangeError::Unreachable { address: address(down).to_string() }));
    assert_eq!(cluster.leader(), next, "nothing was risked for it");
    let moved = change(&cluster, next, Change::Lead { id: None });
    assert_eq!(moved, Ok(leader));
}
