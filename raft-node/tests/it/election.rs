//! Leaders come, commit, and go.

use std::time::Duration;

use raft_node::Change;
use raft_node::outcome::{Refusal, WriteOutcome};
use raft_node::status::{Phase, Role, Status, StopReason};

use crate::cluster::{Cluster, PATIENCE};

#[test]
fn three_nodes_elect_and_commit() {
    let (cluster, leader) = Cluster::three(1);
    let mut session = cluster.open(leader, 7);
    assert_eq!(cluster.add(leader, &mut session, 5), 5);
    assert_eq!(cluster.add(leader, &mut session, 6), 11);
    cluster.agree();
}

#[test]
fn a_wait_for_a_status_ends_with_it_or_at_its_deadline() {
    let (cluster, leader) = Cluster::three(10);
    let follower = cluster.other_than(leader);
    let (node, deadline) =
        (cluster.nodes[&follower].clone(), cluster.deadline(follower, Duration::from_secs(1)));
    let began = cluster.world.now();
    let status =
        cluster.run(async move { node.wait_for(|status| status.role == Role::Candidate, deadline).await });
    assert_eq!(status.expect_err("nobody is a candidate").role, Role::Follower);
    assert!((cluster.world.now() - began).as_secs() == 1);
    cluster.isolate(leader);
    let (node, deadline) = (cluster.nodes[&follower].clone(), cluster.deadline(follower, PATIENCE));
    let elected = move |status: &Status| status.leader.as_ref().is_some_and(|it| it.id != leader);
    cluster.run(async move { node.wait_for(elected, deadline).await }).expect("another leads");
}

#[test]
fn a_single_node_is_a_cluster() {
    let mut cluster = Cluster::new(2, 1);
    cluster.start(1);
    let mut session = cluster.open(1, 7);
    assert_eq!(cluster.add(1, &mut session, 5), 5);
}

#[test]
fn the_first_write_is_committed_within_a_second_of_the_start() {
    for seed in 0..20 {
        let mut cluster = Cluster::new(seed, 3);
        cluster.start_all();
        let mut session = cluster.open(1 + seed % 3, 7);
        cluster.add(1 + seed % 3, &mut session, 1);
        assert!(cluster.world.now() < Duration::from_millis(500), "seed {seed}: {:?}", cluster.world.now());
    }
}

#[test]
fn what_was_committed_survives_the_leader() {
    let (mut cluster, leader) = Cluster::three(3);
    let mut session = cluster.open(leader, 7);
    for amount in 1..=10 {
        cluster.add(leader, &mut session, amount);
    }
    cluster.crash(leader);
    let next = cluster.leader();
    assert_ne!(next, leader);
    assert_eq!(cluster.add(next, &mut session, 1), 56);
    cluster.start(leader);
    cluster.agree();
    assert_eq!(cluster.add(leader, &mut session, 1), 57);
}

#[test]
fn a_new_leader_commits_within_a_second_of_the_crash_of_the_old_one() {
    let mut times: Vec<Duration> = (0..16).map(|seed| failover(seed, Cluster::crash)).collect();
    times.sort_unstable();
    assert!(times[times.len() / 2] < Duration::from_secs(1), "{times:?}");
}

#[test]
fn a_new_leader_commits_within_a_second_of_the_pause_of_the_old_one() {
    let mut times: Vec<Duration> =
        (0..16).map(|seed| failover(seed, |it, leader| it.world.pause(leader))).collect();
    times.sort_unstable();
    assert!(times[times.len() / 2] < Duration::from_secs(1), "{times:?}");
}

/// From the loss of the leader to the first write that another node answers.
fn failover(seed: u64, lose: impl Fn(&mut Cluster, u64)) -> Duration {
    let (mut cluster, leader) = Cluster::three(seed);
    let mut session = cluster.open(leader, 7);
    cluster.pass(Duration::from_millis(500 + seed * 7));
    let other = cluster.other_than(leader);
    lose(&mut cluster, leader);
    let lost = cluster.world.now();
    cluster.add(other, &mut session, 1);
    cluster.world.now() - lost
}

#[test]
fn everything_survives_a_power_cut_of_all_nodes() {
    let (mut cluster, leader) = Cluster::three(4);
    let mut session = cluster.open(leader, 7);
    for amount in 1..=50 {
        cluster.add(leader, &mut session, amount);
    }
    for number in cluster.numbers() {
        cluster.crash(number);
    }
    cluster.start_all();
    let leader = cluster.leader();
    assert_eq!(cluster.add(leader, &mut session, 0), 1_275);
    cluster.agree();
}

#[test]
fn an_isolated_leader_is_replaced_and_learns_what_it_missed() {
    let (cluster, leader) = Cluster::three(5);
    let mut session = cluster.open(leader, 7);
    cluster.add(leader, &mut session, 1);
    cluster.isolate(leader);
    let other = cluster.other_than(leader);
    assert_eq!(cluster.add(other, &mut session, 1), 2);
    cluster.heal();
    cluster.agree();
    assert_eq!(cluster.add(leader, &mut session, 1), 3);
}

#[test]
fn a_node_that_was_cut_off_does_not_depose_the_leader_when_it_comes_back() {
    let (cluster, leader) = Cluster::three(6);
    let other = cluster.other_than(leader);
    let term = cluster.status(leader).vote.term;
    cluster.isolate(other);
    cluster.pass(Duration::from_secs(5));
    cluster.heal();
    cluster.pass(Duration::from_secs(2));
    let status = cluster.status(leader);
    assert_eq!((status.role, status.vote.term), (Role::Leader, term));
}

#[test]
fn leadership_is_handed_over_on_request() {
    let (cluster, leader) = Cluster::three(7);
    let other = cluster.other_than(leader);
    let (node, deadline) = (cluster.nodes[&leader].clone(), cluster.deadline(leader, PATIENCE));
    let began = cluster.world.now();
    assert_eq!(
        cluster.run(async move { node.change(Change::Lead { id: Some(other) }, deadline).await }),
        Ok(other)
    );
    assert!(cluster.world.now() - began < Duration::from_millis(100));
    let mut session = cluster.open(leader, 7);
    assert_eq!(cluster.add(leader, &mut session, 1), 1);
}

#[test]
fn a_leader_that_shuts_down_hands_over_first() {
    let (mut cluster, leader) = Cluster::three(8);
    let mut session = cluster.open(leader, 7);
    cluster.add(leader, &mut session, 1);
    let node = cluster.nodes.remove(&leader).unwrap();
    let began = cluster.world.now();
    let stopped = cluster.run(async move {
        node.shutdown(Duration::from_secs(5)).await;
        node.stopped().await
    });
    assert_eq!(stopped, StopReason::Shutdown);
    assert!(cluster.world.now() - began < Duration::from_millis(500));
    let next = cluster.leader();
    let began = cluster.world.now();
    assert_eq!(cluster.add(next, &mut session, 1), 2);
    assert!(cluster.world.now() - began < Duration::from_millis(100));
}

#[test]
fn a_node_that_shuts_down_refuses_definitely() {
    let (cluster, leader) = Cluster::three(9);
    let session = cluster.open(leader, 7);
    let node = cluster.nodes[&leader].clone();
    cluster.run(async move { node.shutdown(Duration::from_secs(5)).await });
    assert_eq!(cluster.status(leader).phase, Phase::Stopped(StopReason::Shutdown));
    let outcome = cluster.write(leader, session.id, 1, 1, PATIENCE);
    assert_eq!(outcome, WriteOutcome::Refused(Refusal::Draining));
}
