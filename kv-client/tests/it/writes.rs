//! Outcomes of writes, sessions and tokens.

use bytes::Bytes;
use kv_client::api::{Expect, KvError, Resolved, SEQUENCE_WINDOW, Unknowable, WriteOp, WriteReply};
use kv_client::{Outcome, Reason, Refusal};

use crate::played::{Manner, Table, address, cluster};

fn put(key: &'static str, value: &'static str) -> WriteOp {
    WriteOp::Put { key: key.into(), value: value.into() }
}

fn applied(table: &Table, value: &'static str) -> u64 {
    table.lock().applied.get(&Bytes::from(value)).copied().unwrap_or(0)
}

fn everywhere(table: &Table, manner: Manner) {
    for node in 1..=3 {
        table.set(node, manner.clone());
    }
}

#[test]
fn each_verb_does_its_work() {
    let (world, _, client) = cluster(1);
    world.run(async move {
        assert!(matches!(client.put("k", "a").await, Outcome::Committed { existed: false, .. }));
        let reply = client.get("k").await.unwrap();
        let versioned = reply.value.unwrap();
        assert_eq!((versioned.value, versioned.mod_revision), (Bytes::from("a"), reply.revision));
        let swapped = client.cas("k", Expect::Value("a".into()), "b").await;
        assert!(matches!(swapped, Outcome::Committed { existed: true, .. }));
        let failed = client.cas("k", Expect::Absent, "c").await;
        assert!(matches!(
            failed,
            Outcome::NotCommitted(Reason::ConditionFailed { mod_revision: Some(_), .. })
        ));
        assert!(matches!(client.delete("k").await, Outcome::Committed { existed: true, .. }));
        assert!(matches!(client.delete("k").await, Outcome::Committed { existed: false, .. }));
        assert_eq!(client.get("k").await.unwrap().value, None);
    });
}

#[test]
fn limits_answer_before_anything_is_sent() {
    let (world, table, client) = cluster(2);
    world.run(async move {
        let empty = client.put("", "v").await;
        assert_eq!(empty, Outcome::NotCommitted(Reason::Refused(KvError::EmptyKey.into())));
        let large = client.put("k", vec![0; 1_048_577]).await;
        assert!(matches!(
            large,
            Outcome::NotCommitted(Reason::Refused(Refusal::Node(KvError::TooLarge { size: 1_048_577, .. })))
        ));
        assert!(matches!(client.get(vec![0; 4_097]).await, Err(Refusal::Node(KvError::TooLarge { .. }))));
        assert_eq!(table.lock().calls.len(), 0);
    });
}

#[test]
fn a_largest_value_comes_back_byte_for_byte() {
    let (world, table, client) = cluster(3);
    world.run(async move {
        let mut value = vec![0; 1_048_576];
        table.lock().random.fill(&mut value);
        assert!(matches!(client.put("k", value.clone()).await, Outcome::Committed { .. }));
        assert!(client.get("k").await.unwrap().value.unwrap().value == value);
    });
}

#[test]
fn a_write_that_is_done_but_not_answered_is_committed_once_elsewhere() {
    let (world, table, client) = cluster(4);
    world.run(async move {
        client.put("warm", "up").await;
        table.set(1, Manner::DoAndSwallow);
        assert!(matches!(client.put("k", "v").await, Outcome::Committed { .. }));
        assert_eq!(applied(&table, "v"), 1);
    });
}

#[test]
fn a_write_that_may_have_been_done_is_unknown_until_it_is_resolved() {
    let (world, table, client) = cluster(5);
    world.run(async move {
        client.put("warm", "up").await;
        everywhere(&table, Manner::Swallow);
        let Outcome::Unknown(never_done) = client.put("k", "never").await else { panic!("not unknown") };
        everywhere(&table, Manner::DoAndSwallow);
        let Outcome::Unknown(done) = client.put("k", "done").await else { panic!("not unknown") };
        assert!(client.resolve(&done).await.is_err(), "nobody answers yet");
        table.heal();
        let settled = client.resolve(&never_done).await.unwrap();
        assert!(matches!(settled, Resolved::Settled(WriteReply::RolledBack { .. })), "{settled:?}");
        let settled = client.resolve(&done).await.unwrap();
        assert!(matches!(settled, Resolved::Settled(WriteReply::Committed { .. })), "{settled:?}");
        assert_eq!((applied(&table, "never"), applied(&table, "done")), (0, 1));
    });
}

#[test]
fn a_refusal_after_an_attempt_that_may_have_been_done_leaves_the_write_unknown() {
    let (world, table, client) = cluster(6);
    world.run(async move {
        client.put("warm", "up").await;
        table.set(1, Manner::Refuse(KvError::Unknown));
        table.set(2, Manner::Refuse(KvError::NoQuorum));
        table.set(3, Manner::Refuse(KvError::Denied { reason: "test".to_owned() }));
        assert!(matches!(client.put("k", "v").await, Outcome::Unknown(_)));
    });
}

#[test]
fn refusals_alone_are_not_committed() {
    let (world, table, client) = cluster(7);
    world.run(async move {
        client.put("warm", "up").await;
        everywhere(&table, Manner::Refuse(KvError::NoQuorum));
        let outcome = client.put("k", "v").await;
        assert_eq!(outcome, Outcome::NotCommitted(Reason::Refused(KvError::NoQuorum.into())));
        assert_eq!(client.get("k").await, Err(KvError::NoQuorum.into()));
    });
}

#[test]
fn without_a_session_nothing_was_sent_and_nothing_is_committed() {
    let (world, table, client) = cluster(8);
    world.run(async move {
        everywhere(&table, Manner::DoAndSwallow);
        let outcome = client.put("k", "v").await;
        assert!(matches!(outcome, Outcome::NotCommitted(Reason::Refused(_))), "{outcome:?}");
        table.heal();
        assert!(matches!(client.put("k", "w").await, Outcome::Committed { .. }));
        assert_eq!(table.lock().sessions.len(), 1, "the same nonce opened the same session");
    });
}

#[test]
fn an_expired_session_is_replaced_without_the_caller_noticing() {
    let (world, table, client) = cluster(9);
    world.run(async move {
        client.put("k", "a").await;
        table.lock().sessions.clear();
        assert!(matches!(client.put("k", "b").await, Outcome::Committed { .. }));
        assert_eq!(applied(&table, "b"), 1);
    });
}

#[test]
fn a_session_of_another_cluster_is_never_written_to() {
    let (world, table, client) = cluster(10);
    world.run(async move {
        client.put("k", "a").await;
        {
            // The same session ids, but another cluster: as after `dev` was started anew.
            let mut state = table.lock();
            state.cluster = 0xc2;
        }
        assert!(matches!(client.put("k", "b").await, Outcome::Committed { .. }));
        let state = table.lock();
        assert_eq!(state.sessions.len(), 2);
    });
}

#[test]
fn the_outcome_of_a_write_in_an_expired_session_cannot_be_known() {
    let (world, table, client) = cluster(11);
    world.run(async move {
        client.put("warm", "up").await;
        everywhere(&table, Manner::DoAndSwallow);
        let Outcome::Unknown(token) = client.put("k", "v").await else { panic!("not unknown") };
        table.heal();
        table.lock().sessions.clear();
        assert_eq!(client.resolve(&token).await, Ok(Resolved::Unknowable(Unknowable::SessionExpired)));
        table.lock().cluster = 0xc2;
        assert_eq!(client.resolve(&token).await, Ok(Resolved::Unknowable(Unknowable::ForeignCluster)));
    });
}

#[test]
fn many_tasks_share_one_session_and_its_floor_follows() {
    let (world, table, client) = cluster(12);
    let runtime = world.observer();
    world.run(async move {
        let tasks: Vec<_> = (0..64)
            .map(|task| {
                let client = client.clone();
                runtime.spawn("writer", async move {
                    for number in 0..50 {
                        let outcome = client.put(format!("{task}"), format!("{task}/{number}")).await;
                        assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let floor_follows = client.put("last", "one").await;
        assert!(matches!(floor_follows, Outcome::Committed { .. }));
        let state = table.lock();
        assert_eq!(state.sessions.len(), 1);
        assert_eq!(state.applied.len(), 64 * 50 + 1);
        assert!(state.applied.values().all(|count| *count == 1));
    });
}

#[test]
fn more_writes_than_one_window_holds_are_served_beside_an_unknown_one() {
    let (world, table, client) = cluster(13);
    world.run(async move {
        client.put("warm", "up").await;
        everywhere(&table, Manner::Swallow);
        let Outcome::Unknown(token) = client.put("k", "stuck").await else { panic!("not unknown") };
        table.heal();
        for number in 0..SEQUENCE_WINDOW + 10 {
            let outcome = client.put("k", number.to_string()).await;
            assert!(matches!(outcome, Outcome::Committed { .. }), "{number}: {outcome:?}");
        }
        assert_eq!(table.lock().sessions.len(), 2);
        let settled = client.resolve(&token).await.unwrap();
        assert!(matches!(settled, Resolved::Settled(WriteReply::RolledBack { .. })), "{settled:?}");
    });
}

#[test]
fn a_token_is_known_before_the_write_is_sent_and_a_write_that_is_not_sent_never_was() {
    let (world, table, client) = cluster(14);
    world.run(async move {
        let dropped = client.begin().await.unwrap();
        let kept = client.begin().await.unwrap();
        assert_eq!(dropped.token().sequence + 1, kept.token().sequence);
        drop(dropped);
        assert!(matches!(kept.send(put("k", "v")).await, Outcome::Committed { .. }));
        client.close(std::time::Duration::from_secs(1)).await;
        assert_eq!(table.lock().sessions.len(), 0, "nothing was unknown, so it was closed");
    });
}

#[test]
fn a_write_dropped_half_way_stays_resolvable_also_after_close() {
    let (world, table, client) = cluster(15);
    let runtime = world.observer();
    world.run(async move {
        client.put("warm", "up").await;
        everywhere(&table, Manner::DoAndSwallow);
        let write = client.begin().await.unwrap();
        let token = write.token();
        let half_way = runtime.timeout(std::time::Duration::from_millis(50), write.send(put("k", "v")));
        assert!(half_way.await.is_err());
        table.heal();
        client.close(std::time::Duration::from_secs(1)).await;
        let settled = client.resolve(&token).await.unwrap();
        assert!(matches!(settled, Resolved::Settled(WriteReply::Committed { .. })), "{settled:?}");
    });
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let run = || {
        let (world, _, client) = cluster(16);
        world.set_default_link(rpc_core::driver::fault::LinkPolicy { loss: 50_000, ..Default::default() });
        let trace = world.clone();
        world.run(async move {
            for number in 0..50 {
                client.put("k", number.to_string()).await;
            }
        });
        trace.trace_hash()
    };
    assert_eq!(run(), run());
    assert!(run().1 > 100);
}

#[test]
fn nobody_reached_is_named() {
    let (world, _, client) = cluster(17);
    world.crash(1);
    world.crash(2);
    world.crash(3);
    world.run(async move {
        let refusal = client.get("k").await.unwrap_err();
        assert_eq!(refusal.code(), "unreachable");
        for node in 1..=3 {
            assert!(refusal.to_string().contains(&address(node).to_string()), "{refusal}");
        }
    });
}
