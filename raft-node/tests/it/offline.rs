//! Disks without a running node: what is read from them, and new clusters that are made of them.

use std::sync::Arc;
use std::time::Duration;

use raft_node::Change;
use raft_node::disk::{Disk, Files};
use raft_node::offline::{self, Founded, Founder, REVISION_STEP};
use raft_node::outcome::WriteOutcome;
use raft_node::status::Phase;

use crate::cluster::{Cluster, PATIENCE, address};
use crate::counter::Counter;

fn founder(number: u64) -> Founder {
    Founder { id: number, address: address(number).to_string() }
}

/// Takes a snapshot through node `number` and saves it on the disk of node `target` of `other`.
fn save(cluster: &Cluster, number: u64, other: &Cluster, target: u64) -> Disk {
    let (node, deadline) = (cluster.nodes[&number].clone(), cluster.deadline(number, PATIENCE));
    let taken = {
        let node = node.clone();
        cluster.run(async move { node.backup(deadline).await }).expect("a snapshot is taken")
    };
    let disk = other.open_disk(target);
    disk.files.create("saved").expect("a file");
    let mut offset = 0;
    while offset < taken.offer.size {
        let part = node.read_backup(&taken.offer.name, offset, 1_000).expect("a part");
        disk.files.write("saved", offset, &part).expect("written");
        offset += part.len() as u64;
    }
    assert!(node.read_backup("identity", 0, 100).is_err(), "only snapshots are handed out");
    disk
}

fn restore(cluster: &Cluster, source: &Disk, number: u64) -> Result<Founded, raft_node::StartError> {
    let (runtime, disk) = (cluster.observer.clone(), cluster.open_disk(number));
    let files: Arc<dyn Files> = Arc::clone(&source.files);
    cluster.run(async move {
        offline::restore(&runtime, (files, "saved"), &disk, Arc::new(Counter), &founder(number)).await
    })
}

/// Takes the started, empty nodes in.
fn grow(cluster: &Cluster, through: u64, numbers: &[u64]) {
    for number in numbers {
        cluster.until("it waits to be taken in", |cluster| cluster.status(*number).phase == Phase::Joining);
        let (node, deadline) = (cluster.nodes[&through].clone(), cluster.deadline(through, PATIENCE));
        let change = Change::Add { address: address(*number).to_string() };
        let id = cluster.run(async move { node.change(change, deadline).await }).expect("it is taken in");
        cluster.until("it runs", |cluster| cluster.status(*number).phase == Phase::Running);
        assert_eq!(cluster.status(*number).id, id);
    }
}

#[test]
fn a_snapshot_becomes_a_new_cluster_that_goes_on_above_and_grows() {
    let (old, leader) = Cluster::three(90);
    let mut session = old.open(leader, 7);
    assert_eq!((1..=10).map(|amount| old.add(leader, &mut session, amount)).last(), Some(55));
    let follower = old.other_than(leader);
    let mut new = Cluster::new(91, 4);
    let saved = save(&old, follower, &new, 4);
    let last = old.add(leader, &mut session, 1);
    assert_eq!(last, 56, "the old cluster goes on");

    let founded = restore(&new, &saved, 2).expect("it is restored");
    assert_eq!(founded.rows, 1);
    assert!(founded.revision >= REVISION_STEP + founded.index);
    let refused = restore(&new, &saved, 2).expect_err("nothing is overwritten");
    assert!(refused.to_string().contains("not empty"), "{refused}");

    new.start(2);
    for number in [1, 3] {
        new.start(number);
    }
    new.until("its founder leads", |new| new.status(2).is_ready());
    assert_eq!(new.status(2).cluster, Some(founded.cluster));
    assert_eq!(new.status(2).sessions, 0, "the sessions of the old cluster are gone");
    grow(&new, 2, &[1, 3]);
    let mut session = new.open(1, 8);
    assert!(session.id > founded.index);
    assert_eq!(new.add(3, &mut session, 0), 55, "what was answered before the snapshot, and no more");
    new.crash(4);
    // Grown members carry the cluster without its founder.
    new.crash(2);
    new.until("another leads", |new| new.status(1).leader.as_ref().is_some_and(|it| it.id != 2));
    assert_eq!(new.add(1, &mut session, 1), 56);
    new.start(2);
    new.until("the founder is back", |new| new.status(2).is_ready());
}

#[test]
fn a_damaged_snapshot_is_neither_verified_nor_restored() {
    let (old, leader) = Cluster::three(92);
    let mut session = old.open(leader, 7);
    old.add(leader, &mut session, 5);
    let new = Cluster::new(93, 2);
    let saved = save(&old, leader, &new, 2);
    let verify = |cluster: &Cluster| {
        let files: Arc<dyn Files> = Arc::clone(&saved.files);
        cluster.run(async move { offline::verify(files, "saved").await })
    };
    let summary = verify(&new).expect("it is whole");
    assert_eq!(summary.cluster, old.status(leader).cluster);
    let size = saved.files.size("saved").unwrap();
    for offset in (0..size).step_by(37).chain([size - 1]) {
        let byte = saved.files.read("saved", offset, 1).unwrap()[0];
        saved.files.write("saved", offset, &[byte ^ 0x10]).unwrap();
        assert!(verify(&new).is_err(), "offset {offset}");
        saved.files.write("saved", offset, &[byte]).unwrap();
    }
    saved.files.write("saved", size / 2, &[0; 8]).unwrap();
    let refused = restore(&new, &saved, 1).expect_err("damage is not restored");
    assert!(refused.to_string().contains("damaged"), "{refused}");
}

#[test]
fn what_a_lost_cluster_left_on_one_disk_becomes_a_new_one() {
    let (mut old, leader) = Cluster::three(94);
    let mut session = old.open(leader, 7);
    assert_eq!((1..=10).map(|amount| old.add(leader, &mut session, amount)).last(), Some(55));
    old.agree();
    let survivor = old.other_than(leader);
    // The survivor's log holds this write before it hears that it is committed.
    session.sequence += 1;
    let answered = old.write(leader, session.id, session.sequence, 100, PATIENCE);
    assert!(matches!(answered, WriteOutcome::Settled(_)), "{answered:?}");
    old.pass(Duration::from_millis(10));
    for number in old.numbers() {
        old.crash(number);
    }
    let disk = old.open_disk(survivor);
    let inspect = |cluster: &Cluster| {
        let (runtime, disk) = (cluster.observer.clone(), disk.clone());
        cluster
            .run(async move { offline::inspect(&runtime, &disk, Arc::new(Counter)).await })
            .expect("it can be read")
    };
    let before = inspect(&old);
    assert_eq!((before.id, before.state.members.len()), (survivor, 3));

    let mut new = Cluster::new(95, 3);
    let (runtime, empty, left) = (new.observer.clone(), new.open_disk(survivor), disk.clone());
    let founded = new.run(async move {
        offline::recover(&runtime, &left, &empty, Arc::new(Counter), &founder(survivor)).await
    });
    let founded = founded.expect("it is recovered");
    assert_eq!(Some(founded.index), before.last_log.map(|last| last.index), "the whole log counts");
    let after = inspect(&old);
    assert_eq!((after.state.state_hash, after.committed), (before.state.state_hash, before.committed));

    new.start_all();
    new.until("the founder leads", |new| new.status(survivor).is_ready());
    let others: Vec<u64> = new.numbers().into_iter().filter(|number| *number != survivor).collect();
    grow(&new, survivor, &others);
    let mut session = new.open(others[0], 8);
    assert_eq!(new.add(others[1], &mut session, 0), 155);
    new.agree();
}

#[test]
fn an_empty_disk_is_no_nodes_data() {
    let cluster = Cluster::new(96, 1);
    let (runtime, disk) = (cluster.observer.clone(), cluster.open_disk(1));
    let refused = cluster.run(async move { offline::inspect(&runtime, &disk, Arc::new(Counter)).await });
    assert!(refused.expect_err("there is nothing").to_string().contains("no node's data"));
}

#[test]
fn an_inspection_says_what_the_node_said() {
    let (mut cluster, leader) = Cluster::three(97);
    let mut session = cluster.open(leader, 7);
    cluster.add(leader, &mut session, 5);
    cluster.agree();
    let status = cluster.status(leader);
    let node = cluster.nodes[&leader].clone();
    cluster.run(async move { node.shutdown(Duration::from_millis(10)).await });
    cluster.crash(leader);
    let (runtime, disk) = (cluster.observer.clone(), cluster.open_disk(leader));
    let found = cluster
        .run(async move { offline::inspect(&runtime, &disk, Arc::new(Counter)).await })
        .expect("it can be read");
    assert_eq!((found.id, found.incarnation, found.cluster), (status.id, status.incarnation, status.cluster));
    assert_eq!((found.state.applied, found.state.state_hash), (status.applied, status.state_hash));
    assert!(
        found.vote.term >= status.vote.term && found.last_log.map(|last| last.index) >= status.last_log_index
    );
}
