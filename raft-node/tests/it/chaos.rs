//! Random faults under writes: afterwards every outcome is known, and the state is their sum.

use std::time::Duration;

use raft_node::command::Verdict;
use raft_node::outcome::{Refusal, WriteOutcome};
use rpc_core::driver::fault::LinkPolicy;
use rpc_core::random::SeededRandom;

use crate::cluster::{Cluster, PATIENCE, value};

/// Faults and writes by turns, drawn from the seed; then the cluster heals and has to account for everything.
fn live(seed: u64) {
    let (mut cluster, leader) = Cluster::three(seed);
    let session = cluster.open(leader, 1).id;
    let mut random = cluster.world.fork_random();
    let mut unknown = Vec::new();
    let (mut sum, mut settled) = (0, 0);
    for sequence in 1..=120 {
        disturb(&mut cluster, &mut random);
        let numbers: Vec<u64> = cluster.nodes.keys().copied().collect();
        let number = numbers[draw(&mut random, numbers.len() as u64) as usize];
        match cluster.write(number, session, sequence, sequence, Duration::from_millis(300)) {
            WriteOutcome::Settled(record) => {
                settled += 1;
                assert_eq!(record.verdict == Verdict::Applied, !record.detail.is_empty(), "seed {seed}");
                sum += if record.verdict == Verdict::Applied { sequence } else { 0 };
            }
            WriteOutcome::Unknown => unknown.push(sequence),
            WriteOutcome::Refused(_) => {}
            other => panic!("seed {seed}: {other:?}"),
        }
    }
    assert!(settled > 20, "seed {seed}: only {settled} writes were settled");
    calm(&mut cluster);
    for sequence in unknown {
        let record = loop {
            match cluster.resolve(1, session, sequence, PATIENCE) {
                WriteOutcome::Settled(record) => break record,
                WriteOutcome::Refused(Refusal::LeaseExpired) => cluster.pass(Duration::from_millis(100)),
                other => panic!("seed {seed}: {other:?}"),
            }
        };
        sum += if record.verdict == Verdict::Applied { sequence } else { 0 };
    }
    match cluster.write(1, session, 121, 0, PATIENCE) {
        WriteOutcome::Settled(record) => assert_eq!(value(&record), sum, "seed {seed}"),
        other => panic!("seed {seed}: {other:?}"),
    }
    cluster.agree();
}

fn draw(random: &mut SeededRandom, below: u64) -> u64 {
    random.next_u64() % below
}

fn disturb(cluster: &mut Cluster, random: &mut SeededRandom) {
    let number = 1 + draw(random, 3);
    match draw(random, 24) {
        0 if cluster.nodes.len() == 3 => cluster.crash(number),
        1..=3 => {
            for down in cluster.numbers() {
                if !cluster.nodes.contains_key(&down) {
                    cluster.start(down);
                }
            }
        }
        4 => cluster.isolate(number),
        5 => {
            let one_way = LinkPolicy { cut: true, ..LinkPolicy::default() };
            cluster.world.set_link(number, 1 + number % 3, one_way);
        }
        6..=8 => cluster.heal(),
        9 => cluster.world.pause(number),
        10..=12 => (1..=3).for_each(|number| cluster.world.resume(number)),
        13 => cluster.world.set_default_link(LinkPolicy {
            loss: 100_000,
            duplicate: 100_000,
            delay_min_us: 200,
            delay_max_us: 15_000,
            ..LinkPolicy::default()
        }),
        _ => cluster.pass(Duration::from_millis(draw(random, 200))),
    }
}

fn calm(cluster: &mut Cluster) {
    (1..=3).for_each(|number| cluster.world.resume(number));
    cluster.heal();
    cluster.world.set_default_link(LinkPolicy {
        delay_min_us: 100,
        delay_max_us: 500,
        ..LinkPolicy::default()
    });
    for down in cluster.numbers() {
        if !cluster.nodes.contains_key(&down) {
            cluster.start(down);
        }
    }
    cluster.leader();
}

#[test]
fn after_random_faults_every_write_is_accounted_for() {
    let seeds = std::env::var("CHAOS_SEEDS").ok().and_then(|count| count.parse().ok()).unwrap_or(4);
    for seed in 0..seeds {
        live(1_000 + seed);
    }
}
