//! Linearizable reads, and stale ones that say how old they may be.

use std::time::Duration;

use raft_node::outcome::{Age, Consistency, Read, ReadError, Refusal};

use crate::cluster::{Cluster, PATIENCE};
use crate::counter;

fn read(
    cluster: &Cluster,
    number: u64,
    consistency: Consistency,
    time: Duration,
) -> Result<Read<u64>, ReadError> {
    let (node, deadline) = (cluster.nodes[&number].clone(), cluster.deadline(number, time));
    cluster.run(async move { node.read(consistency, deadline, |rows| counter::value(rows, "x")).await })
}

#[test]
fn a_linearizable_read_on_any_node_sees_every_answered_write() {
    let (cluster, leader) = Cluster::three(70);
    let mut session = cluster.open(leader, 7);
    for sum in 1..=20 {
        cluster.add(1 + sum % 3, &mut session, 1);
        let seen = read(&cluster, 1 + (sum + 1) % 3, Consistency::Linearizable, PATIENCE).unwrap();
        assert_eq!((seen.value, seen.age), (sum, Age::Linearizable));
    }
}

#[test]
fn a_read_is_refused_without_a_quorum_and_never_stale() {
    let (cluster, leader) = Cluster::three(71);
    let mut session = cluster.open(leader, 7);
    cluster.add(leader, &mut session, 1);
    cluster.isolate(leader);
    let other = cluster.other_than(leader);
    cluster.add(other, &mut session, 1);
    let error = read(&cluster, leader, Consistency::Linearizable, Duration::from_secs(2)).unwrap_err();
    assert!(
        matches!(
            error,
            ReadError::Refused(Refusal::LeaseExpired | Refusal::NotLeader { .. }) | ReadError::Deadline
        ),
        "{error:?}"
    );
    assert_eq!(read(&cluster, other, Consistency::Linearizable, PATIENCE).unwrap().value, 2);
}

#[test]
fn a_stale_read_knows_its_age() {
    let (cluster, leader) = Cluster::three(72);
    let mut session = cluster.open(leader, 7);
    cluster.add(leader, &mut session, 1);
    let follower = cluster.other_than(leader);
    cluster.pass(Duration::from_millis(300));
    for number in [leader, follower] {
        let seen = read(&cluster, number, Consistency::Stale, PATIENCE).unwrap();
        assert_eq!(seen.value, 1);
        assert!(matches!(seen.age, Age::AtMost(age) if age < Duration::from_millis(150)), "{:?}", seen.age);
    }
    cluster.isolate(follower);
    cluster.add(leader, &mut session, 1);
    cluster.pass(Duration::from_secs(3));
    let seen = read(&cluster, follower, Consistency::Stale, PATIENCE).unwrap();
    assert_eq!(seen.value, 1);
    let bounds = Duration::from_secs(3)..Duration::from_millis(3_300);
    assert!(matches!(seen.age, Age::AtMost(age) if bounds.contains(&age)), "{:?}", seen.age);
}

#[test]
fn an_isolated_leader_says_how_long_it_has_been_alone() {
    let (cluster, leader) = Cluster::three(73);
    let mut session = cluster.open(leader, 7);
    cluster.add(leader, &mut session, 1);
    cluster.isolate(leader);
    cluster.add(cluster.other_than(leader), &mut session, 1);
    cluster.pass(Duration::from_secs(2));
    let seen = read(&cluster, leader, Consistency::Stale, PATIENCE).unwrap();
    assert_eq!(seen.value, 1);
    assert!(matches!(seen.age, Age::AtMost(age) if age > Duration::from_secs(2)), "{:?}", seen.age);
}

#[test]
fn a_restarted_node_alone_cannot_tell_the_age() {
    let (mut cluster, leader) = Cluster::three(74);
    let mut session = cluster.open(leader, 7);
    cluster.add(leader, &mut session, 1);
    cluster.agree();
    let follower = cluster.other_than(leader);
    cluster.crash(follower);
    cluster.isolate(follower);
    cluster.start(follower);
    let seen = read(&cluster, follower, Consistency::Stale, PATIENCE).unwrap();
    assert_eq!(seen.age, Age::Unbounded);
}
