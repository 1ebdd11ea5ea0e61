//! Exactly once, and an honest word for everything else.

use std::time::Duration;

use raft_node::command::{Record, Verdict};
use raft_node::outcome::{CloseOutcome, OpenOutcome, Refusal, WriteOutcome};
use rpc_core::driver::fault::LinkPolicy;

use crate::cluster::{Cluster, PATIENCE, value};

fn settled(outcome: WriteOutcome) -> Record {
    match outcome {
        WriteOutcome::Settled(record) => record,
        other => panic!("not settled: {other:?}"),
    }
}

#[test]
fn a_follower_forwards() {
    let (cluster, leader) = Cluster::three(20);
    let follower = cluster.other_than(leader);
    let mut session = cluster.open(follower, 7);
    assert_eq!(cluster.add(follower, &mut session, 5), 5);
    assert_eq!(cluster.add(leader, &mut session, 5), 10);
}

#[test]
fn a_write_that_is_sent_again_is_applied_once() {
    let (cluster, leader) = Cluster::three(21);
    let session = cluster.open(leader, 7).id;
    let first = settled(cluster.write(leader, session, 1, 5, PATIENCE));
    for number in cluster.numbers() {
        assert_eq!(settled(cluster.write(number, session, 1, 5, PATIENCE)), first);
    }
    assert_eq!(value(&settled(cluster.write(leader, session, 2, 5, PATIENCE))), 10);
}

#[test]
fn lost_and_repeated_datagrams_change_nothing() {
    let (cluster, leader) = Cluster::three(22);
    let bad = LinkPolicy {
        loss: 50_000,
        duplicate: 200_000,
        delay_min_us: 100,
        delay_max_us: 20_000,
        ..LinkPolicy::default()
    };
    cluster.world.set_default_link(bad);
    let mut session = cluster.open(leader, 7);
    let mut sum = 0;
    for amount in 1..=100 {
        sum += amount;
        let number = 1 + amount % 3;
        assert_eq!(cluster.add(number, &mut session, amount), sum);
    }
    let hits = cluster.world.fault_hits();
    assert!(hits.lost > 20 && hits.duplicated > 50, "{hits:?}");
}

#[test]
fn the_same_nonce_opens_the_same_session() {
    let (cluster, leader) = Cluster::three(23);
    let one = cluster.open(leader, 7).id;
    assert_eq!(cluster.open(cluster.other_than(leader), 7).id, one);
    assert_ne!(cluster.open(leader, 8).id, one);
}

#[test]
fn a_closed_session_is_expired() {
    let (cluster, leader) = Cluster::three(24);
    let session = cluster.open(leader, 7).id;
    let (node, deadline) = (cluster.nodes[&leader].clone(), cluster.deadline(leader, PATIENCE));
    assert_eq!(cluster.run(async move { node.close_session(session, deadline).await }), CloseOutcome::Closed);
    assert_eq!(cluster.write(leader, session, 1, 5, PATIENCE), WriteOutcome::SessionExpired);
    assert_eq!(cluster.resolve(leader, session, 1, PATIENCE), WriteOutcome::SessionExpired);
}

#[test]
fn what_was_never_proposed_resolves_to_rolled_back_for_ever() {
    let (cluster, leader) = Cluster::three(25);
    let session = cluster.open(leader, 7).id;
    let tombstone = settled(cluster.resolve(leader, session, 1, PATIENCE));
    assert_eq!(tombstone.verdict, Verdict::RolledBack);
    assert_eq!(settled(cluster.write(leader, session, 1, 5, PATIENCE)), tombstone);
    assert_eq!(value(&settled(cluster.write(leader, session, 2, 1, PATIENCE))), 1);
}

#[test]
fn a_write_without_a_quorum_is_unknown_and_resolves_after_healing() {
    for seed in 26..36 {
        let (mut cluster, leader) = Cluster::three(seed);
        let session = cluster.open(leader, 7).id;
        for number in cluster.numbers().into_iter().filter(|number| *number != leader) {
            cluster.crash(number);
        }
        let began = cluster.world.now();
        let outcome = cluster.write(leader, session, 1, 5, Duration::from_secs(2));
        assert_eq!(outcome, WriteOutcome::Unknown);
        assert!(cluster.world.now() - began <= Duration::from_secs(2));
        // The lease is over: what is asked now certainly has no effect.
        let began = cluster.world.now();
        let refused = cluster.write(leader, session, 2, 7, Duration::from_secs(2));
        assert_eq!(refused, WriteOutcome::Refused(Refusal::LeaseExpired));
        assert!(cluster.world.now() - began < Duration::from_millis(100), "a definite answer comes at once");
        for number in cluster.numbers().into_iter().filter(|number| *number != leader) {
            cluster.start(number);
        }
        let record = loop {
            match cluster.resolve(leader, session, 1, PATIENCE) {
                WriteOutcome::Refused(Refusal::LeaseExpired) => cluster.pass(Duration::from_millis(50)),
                outcome => break settled(outcome),
            }
        };
        let expected = if record.verdict == Verdict::Applied { 6 } else { 1 };
        assert_eq!(settled(cluster.write(leader, session, 1, 5, PATIENCE)), record);
        assert_eq!(value(&settled(cluster.write(leader, session, 3, 1, PATIENCE))), expected);
        cluster.agree();
    }
}

#[test]
fn a_follower_whose_leader_dies_finds_out_what_became_of_its_write() {
    // The answer of the leader is lost with it; the same command goes to the next one, and is applied once.
    for seed in 40..60 {
        let (mut cluster, leader) = Cluster::three(seed);
        let session = cluster.open(leader, 7).id;
        let follower = cluster.other_than(leader);
        let (node, deadline) = (cluster.nodes[&follower].clone(), cluster.deadline(follower, PATIENCE));
        let body = crate::counter::add("x", 5);
        let (sender, answer) = tokio::sync::oneshot::channel();
        cluster.observer.spawn("write", async move {
            let _ = sender.send(node.write(session, 1, 1, body, deadline).await);
        });
        cluster.pass(Duration::from_micros(200 * (seed - 39)));
        cluster.crash(leader);
        let record = settled(cluster.run(async move { answer.await.unwrap() }));
        assert_eq!((record.verdict, value(&record)), (Verdict::Applied, 5), "seed {seed}");
        assert_eq!(value(&settled(cluster.write(follower, session, 2, 1, PATIENCE))), 6);
    }
}

#[test]
fn limits_refuse_before_proposing() {
    let mut cluster = Cluster::with(61, 3, |config| {
        config.limits.body_size_max = 100;
        config.limits.proposals_max = 1;
    });
    cluster.start_all();
    let leader = cluster.leader();
    let session = cluster.open(leader, 7).id;
    let (node, deadline) = (cluster.nodes[&leader].clone(), cluster.deadline(leader, PATIENCE));
    let outcome = cluster.run(async move { node.write(session, 1, 1, vec![0; 101].into(), deadline).await });
    assert_eq!(outcome, WriteOutcome::Refused(Refusal::TooLarge { size: 101, max: 100 }));
    let (one, two) = (cluster.nodes[&leader].clone(), cluster.nodes[&leader].clone());
    let outcomes = cluster.run(async move {
        let first = one.write(session, 1, 1, crate::counter::add("x", 1), deadline);
        let second = two.write(session, 2, 1, crate::counter::add("x", 1), deadline);
        futures_util::future::join(first, second).await
    });
    assert!(matches!(outcomes.0, WriteOutcome::Settled(_)), "{outcomes:?}");
    assert_eq!(outcomes.1, WriteOutcome::Refused(Refusal::Busy));
}

#[test]
fn unused_sessions_expire_by_log_time_on_all_nodes() {
    let (cluster, leader) = Cluster::three(62);
    let (used, unused) = (cluster.open(leader, 7).id, cluster.open(leader, 8).id);
    for _ in 0..2 {
        // Half a lifetime of 24 hours and a bit, by the wall clocks that leaders put into the log.
        for number in cluster.numbers() {
            cluster.world.jump_wall_clock(number, 13 * 60 * 60 * 1_000);
        }
        settled(cluster.write(leader, used, 1, 5, PATIENCE));
    }
    cluster.pass(Duration::from_secs(61));
    assert_eq!(cluster.write(leader, unused, 1, 5, PATIENCE), WriteOutcome::SessionExpired);
    assert_eq!(value(&settled(cluster.write(leader, used, 2, 5, PATIENCE))), 10);
    cluster.agree();
}

#[test]
fn a_node_outside_any_cluster_refuses() {
    let mut cluster = Cluster::new(63, 3);
    cluster.start(1);
    let (node, deadline) = (cluster.nodes[&1].clone(), cluster.deadline(1, Duration::from_secs(1)));
    let outcome = cluster.run(async move { node.open_session(1, deadline).await });
    assert_eq!(outcome, OpenOutcome::Refused(Refusal::NotMember));
}
