//! Members that lost their data, and those that take their place.

use std::time::Duration;

use raft_node::status::{Phase, Role};
use raft_node::{Change, ChangeError};

use crate::cluster::{Cluster, PATIENCE};

fn replace(cluster: &Cluster, number: u64, old: u64, time: Duration) -> Result<u64, ChangeError> {
    let (node, deadline) = (cluster.nodes[&number].clone(), cluster.deadline(number, time));
    cluster.run(async move { node.change(Change::Replace { old, address: None }, deadline).await })
}

#[test]
fn a_wiped_node_neither_votes_nor_appends_until_it_is_replaced() {
    let (mut cluster, leader) = Cluster::three(80);
    let mut session = cluster.open(leader, 7);
    for amount in 1..=10 {
        cluster.add(leader, &mut session, amount);
    }
    let lost = cluster.other_than(leader);
    cluster.wipe(lost);
    cluster.start(lost);
    cluster.pass(Duration::from_secs(5));
    let status = cluster.status(lost);
    assert_eq!((status.phase, status.cluster, status.vote.term), (Phase::Replaced { id: lost }, None, 0));
    // The cluster goes on meanwhile.
    cluster.add(leader, &mut session, 1);

    let through = *cluster.nodes.keys().find(|number| **number != leader && **number != lost).unwrap();
    let new = replace(&cluster, through, lost, PATIENCE).expect("the lost member is replaced");
    assert!(new > 999, "a new id: {new}");
    cluster.until("the new member runs", |cluster| cluster.status(lost).phase == Phase::Running);
    assert_eq!(cluster.status(lost).id, new);
    cluster.agree();
    let voters: Vec<u64> =
        cluster.status(leader).members.iter().filter(|member| member.voter).map(|member| member.id).collect();
    assert!(voters.contains(&new) && !voters.contains(&lost) && voters.len() == 3, "{voters:?}");

    // It is worth a vote: with it, the cluster survives the loss of another.
    cluster.crash(leader);
    let next = cluster.leader();
    assert_eq!(cluster.add(next, &mut session, 0), 56);
    // And it is itself again after a restart with the same command line.
    cluster.crash(lost);
    cluster.start(lost);
    cluster.leader();
    assert_eq!(cluster.status(lost).id, new);
    assert_eq!(cluster.add(lost, &mut session, 0), 56);
}

#[test]
fn a_member_that_was_replaced_and_lost_again_is_named_by_its_new_id() {
    let (mut cluster, leader) = Cluster::three(81);
    let lost = cluster.other_than(leader);
    for round in 0..2 {
        let before = if round == 0 { lost } else { cluster.status(lost).id };
        cluster.wipe(lost);
        cluster.start(lost);
        cluster.until("it knows that it was lost", |cluster| {
            cluster.status(lost).phase == Phase::Replaced { id: before }
        });
        replace(&cluster, leader, before, PATIENCE).expect("the lost member is replaced");
        cluster.until("it runs", |cluster| cluster.status(lost).phase == Phase::Running);
    }
    cluster.agree();
}

#[test]
fn a_replacement_that_is_asked_for_by_several_ways_at_once_happens_once() {
    let (mut cluster, leader) = Cluster::three(84);
    let lost = cluster.other_than(leader);
    cluster.wipe(lost);
    cluster.start(lost);
    cluster.pass(Duration::from_secs(2));
    let asks: Vec<_> = [1, 2, 3]
        .into_iter()
        .filter(|number| *number != lost)
        .map(|number| (cluster.nodes[&number].clone(), cluster.deadline(number, PATIENCE)))
        .collect();
    let answers =
        cluster.run(futures_util::future::join_all(asks.into_iter().map(|(node, deadline)| async move {
            node.change(Change::Replace { old: lost, address: None }, deadline).await
        })));
    let [Ok(one), Ok(two)] = answers[..] else { panic!("{answers:?}") };
    assert_eq!(one, two);
    cluster.agree();
    assert_eq!(cluster.status(leader).members.len(), 3);
    // Asked again afterwards, the answer is the same.
    assert_eq!(replace(&cluster, leader, lost, PATIENCE), Ok(one));
}

#[test]
fn a_member_that_is_alive_is_not_replaced() {
    let (cluster, leader) = Cluster::three(82);
    let other = cluster.other_than(leader);
    assert_eq!(replace(&cluster, leader, other, PATIENCE), Err(ChangeError::StillAlive { id: other }));
    assert_eq!(replace(&cluster, leader, 9, PATIENCE), Err(ChangeError::UnknownMember { id: 9 }));
    assert_eq!(cluster.status(leader).role, Role::Leader);
}

#[test]
fn a_replacement_that_would_cost_the_quorum_is_refused() {
    let mut cluster = Cluster::new(83, 5);
    cluster.start_all();
    let leader = cluster.leader();
    let others: Vec<u64> = cluster.numbers().into_iter().filter(|number| *number != leader).collect();
    cluster.wipe(others[0]);
    cluster.crash(others[1]);
    cluster.start(others[0]);
    cluster.pass(Duration::from_secs(2));
    let new = replace(&cluster, leader, others[0], PATIENCE).expect("three of five are enough");
    assert!(new > 999);
    cluster.crash(others[2]);
    cluster.wipe(others[3]);
    cluster.start(others[3]);
    cluster.pass(Duration::from_millis(1_000));
    let refused =
        replace(&cluster, leader, others[3], Duration::from_secs(3)).expect_err("two of five are too few");
    assert!(matches!(refused, ChangeError::QuorumAtRisk { .. } | ChangeError::Refused(_)), "{refused}");
}
