//! Any number of misfortunes: the words stay honest.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use kv_client::api::{Resolved, WriteOp, WriteReply};
use kv_client::{Outcome, Token};
use rpc_core::driver::fault::LinkPolicy;

use crate::played::{Manner, Table, cluster};

/// Half of all requests are refused, lost before or after they are done, or done late; a tenth of the datagrams is
/// lost. Afterwards: committed means done once, not committed means never done, unknown becomes one of the two.
#[test]
fn every_word_is_true_whatever_happens() {
    let mut counts = [0; 3];
    for seed in 0..24 {
        for (word, count) in one_world(seed).into_iter().enumerate() {
            counts[word] += count;
        }
    }
    let [committed, not_committed, unknown] = counts;
    assert!(
        committed > 1_000 && not_committed > 5 && unknown > 50,
        "{counts:?} is no test of all three words"
    );
}

fn one_world(seed: u64) -> [usize; 3] {
    let (world, table, client) = cluster(seed);
    world.set_default_link(LinkPolicy {
        loss: 100_000,
        duplicate: 50_000,
        delay_max_us: 3_000,
        ..LinkPolicy::default()
    });
    let runtime = world.observer();
    let counts = Arc::new(Mutex::new([0; 3]));
    let counted = Arc::clone(&counts);
    world.run(async move {
        for node in 1..=3 {
            table.set(node, Manner::Chaos);
        }
        let tasks: Vec<_> = (0..8)
            .map(|task: u64| {
                let client = client.with_timeout(std::time::Duration::from_millis(150 + 100 * task));
                runtime.spawn("writer", async move {
                    let mut told = Vec::new();
                    for number in 0..12 {
                        let value = Bytes::from(format!("{task}/{number}"));
                        let op = WriteOp::Put { key: "k".into(), value: value.clone() };
                        told.push((value, client.write(op).await));
                    }
                    told
                })
            })
            .collect();
        let mut told = Vec::new();
        for task in tasks {
            told.extend(task.await.unwrap());
        }
        table.heal();
        for (value, outcome) in told {
            let word = match outcome {
                Outcome::Committed { .. } => {
                    assert_eq!(applied(&table, &value), 1, "seed {seed}: {value:?} was called committed");
                    0
                }
                Outcome::NotCommitted(reason) => {
                    assert_eq!(applied(&table, &value), 0, "seed {seed}: {value:?} was called {reason:?}");
                    1
                }
                Outcome::Unknown(token) => {
                    settle(&table, &client, &value, token, seed).await;
                    2
                }
            };
            counted.lock().unwrap()[word] += 1;
        }
        // What was held up may arrive now; it must not change anything that was told.
        let before = table.lock().applied.clone();
        runtime.sleep(std::time::Duration::from_secs(5)).await;
        assert_eq!(table.lock().applied, before, "seed {seed}");
    });
    *counts.lock().unwrap()
}

async fn settle(table: &Table, client: &kv_client::Client, value: &Bytes, token: Token, seed: u64) {
    let settled = client.resolve(&token).await.unwrap();
    let expected = match settled {
        Resolved::Settled(WriteReply::Committed { .. }) => 1,
        Resolved::Settled(WriteReply::RolledBack { .. }) => 0,
        other => panic!("seed {seed}: {value:?} resolved to {other:?}"),
    };
    assert_eq!(applied(table, value), expected, "seed {seed}: {value:?} resolved to {settled:?}");
}

fn applied(table: &Table, value: &Bytes) -> u64 {
    table.lock().applied.get(value).copied().unwrap_or(0)
}
