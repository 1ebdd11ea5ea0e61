//! The service in a simulated world of three nodes.

use bytes::Bytes;
use kv_client::api::{
    Age, CloseRequest, Consistency, Expect, FaultsRequest, GetRequest, KvError, Limited, LinkFault,
    MemberChange, ResolveRequest, Resolved, TraceRequest, TraceStep, Unknowable, VALUE_SIZE_MAX, WriteOp,
    WriteReply,
};
use raft_node::spans::SPANS_MAX;
use rpc_core::driver::fault::{Direction, LinkPolicy};
use rpc_core::rpc::{CallError, Outcome};

use crate::cluster::{CALL, Cluster, address, key, put, simulate};

const ALL: [u64; 3] = [1, 2, 3];

fn others(node: u64) -> Vec<u64> {
    ALL.into_iter().filter(|other| *other != node).collect()
}

fn cas(expect: Expect, value: &str) -> WriteOp {
    WriteOp::Cas { key: key("k"), expect, value: key(value) }
}

#[test]
fn every_node_serves_every_operation() {
    simulate(
        1,
        3,
        |_| {},
        async |cluster: Cluster| {
            let session = cluster.session(1).await;
            let mut revisions = Vec::new();
            for (sequence, node) in (1..).zip(ALL) {
                let value = format!("from {node}");
                let reply = session.write(node, sequence, put("k", &value)).await;
                assert!(matches!(reply, WriteReply::Committed { existed, .. } if existed == (node > 1)));
                revisions.push(reply.revision());
                for reader in ALL {
                    assert_eq!(
                        cluster.get(reader, "k").await,
                        Some(key(&value)),
                        "written by {node}, read by {reader}"
                    );
                }
            }
            assert!(revisions.is_sorted_by(|earlier, later| earlier < later), "{revisions:?}");

            let current = revisions[2];
            let stale = session.write(2, 4, cas(Expect::Revision(revisions[0]), "no")).await;
            assert!(
                matches!(stale, WriteReply::ConditionFailed { mod_revision, .. } if mod_revision == Some(current))
            );
            let swapped = session.write(3, 5, cas(Expect::Revision(current), "swapped")).await;
            assert!(matches!(swapped, WriteReply::Committed { existed: true, .. }));
            let swapped = session.write(1, 6, cas(Expect::Value(key("swapped")), "again")).await;
            assert!(matches!(swapped, WriteReply::Committed { existed: true, .. }));

            let delete = WriteOp::Delete { key: key("k") };
            assert!(matches!(
                session.write(2, 7, delete.clone()).await,
                WriteReply::Committed { existed: true, .. }
            ));
            assert!(matches!(
                session.write(2, 8, delete).await,
                WriteReply::Committed { existed: false, .. }
            ));
            assert_eq!(cluster.get(1, "k").await, None);
            let created = session.write(3, 9, cas(Expect::Absent, "new")).await;
            assert!(matches!(created, WriteReply::Committed { existed: false, .. }));
        },
    );
}

#[test]
fn a_follower_forwards_and_names_the_leader() {
    simulate(
        2,
        3,
        |_| {},
        async |cluster: Cluster| {
            let leader = cluster.leader(&ALL).await;
            let session = cluster.session(leader).await;
            let answer = session.attempt(leader, 1, put("k", "v")).await.unwrap();
            assert_eq!(answer.leader, None, "the leader names nobody else");
            for (sequence, follower) in (2..).zip(others(leader)) {
                let answer = session.attempt(follower, sequence, put("k", "v")).await.unwrap();
                let hint = answer.leader.unwrap();
                assert_eq!((hint.id, hint.address), (leader, address(leader).to_string()));
            }
        },
    );
}

#[test]
fn a_repeated_write_is_applied_once_also_after_the_leader_crashed() {
    for seed in 3..8 {
        simulate(
            seed,
            3,
            |_| {},
            async |cluster: Cluster| {
                let leader = cluster.leader(&ALL).await;
                let session = cluster.session(leader).await;
                let first = session.write(leader, 1, cas(Expect::Absent, "once")).await;
                assert!(matches!(first, WriteReply::Committed { existed: false, .. }));
                cluster.crash(leader);
                let others = others(leader);
                cluster.leader(&others).await;
                // Applied twice it would fail its condition.
                for node in others {
                    assert_eq!(session.write(node, 1, cas(Expect::Absent, "once")).await, first);
                }
                cluster.start(leader).await;
                cluster.leader(&ALL).await;
                assert_eq!(session.write(leader, 1, cas(Expect::Absent, "once")).await, first);
            },
        );
    }
}

#[test]
fn a_write_on_a_cut_leader_is_unknown_until_it_is_resolved() {
    for seed in 10..14 {
        simulate(
            seed,
            3,
            |_| {},
            async |cluster: Cluster| {
                let leader = cluster.leader(&ALL).await;
                let session = cluster.session(leader).await;
                cluster.isolate(leader);
                let failed = session.attempt(leader, 1, put("k", "cut off")).await.unwrap_err();
                let unknown = matches!(failed, CallError::Method(KvError::Unknown))
                    || failed.outcome() == Outcome::Unknown;
                assert!(unknown, "proposed while it still led: {failed:?}");

                // By now its lease has ended: a write that it sees first now is definitely not taken.
                let refused = session.attempt(leader, 2, put("k", "too late")).await.unwrap_err();
                assert!(
                    matches!(refused, CallError::Method(KvError::NoQuorum | KvError::NotLeader { .. })),
                    "{refused:?}"
                );
                let read = GetRequest { key: key("k"), consistency: Consistency::Linearizable };
                let refused = cluster.at(leader).get(read).timeout(CALL).once().await.unwrap_err();
                assert!(matches!(&refused, CallError::Method(error) if error.is_definite()), "{refused:?}");
                let read = GetRequest { key: key("k"), consistency: Consistency::Stale };
                let stale = cluster.at(leader).get(read).timeout(CALL).await.unwrap();
                assert!(!matches!(stale.age, Age::Linearizable), "{stale:?}");

                let asked = others(leader)[0];
                cluster.leader(&others(leader)).await;
                let resolve = ResolveRequest {
                    cluster: session.opened.cluster,
                    session: session.opened.session,
                    sequence: 1,
                    floor: 0,
                };
                let resolved = cluster.at(asked).resolve(resolve).timeout(CALL).await.unwrap();
                let Resolved::Settled(reply) = resolved else { panic!("{resolved:?}") };
                assert!(matches!(reply, WriteReply::RolledBack { .. }), "it reached nobody: {reply:?}");
                cluster.world.heal_links();
                cluster.leader(&ALL).await;
                // Rolled back for ever: the original, sent again, has no effect.
                for node in ALL {
                    assert_eq!(session.write(node, 1, put("k", "cut off")).await, reply);
                    assert_eq!(cluster.get(node, "k").await, None);
                }
            },
        );
    }
}

#[test]
fn limits_are_definite_errors_and_the_largest_value_comes_back() {
    simulate(
        20,
        3,
        |_| {},
        async |cluster: Cluster| {
            let session = cluster.session(1).await;
            let refused = async |op: WriteOp| match session.attempt(1, 1, op).await {
                Err(CallError::Method(error)) => error,
                other => panic!("{other:?}"),
            };
            assert_eq!(refused(put("", "v")).await, KvError::EmptyKey);
            let long = "k".repeat(4097);
            let too_large = |what, size, max| KvError::TooLarge { what, size, max };
            assert_eq!(refused(put(&long, "v")).await, too_large(Limited::Key, 4097, 4096));
            let size = VALUE_SIZE_MAX + 1;
            let large = WriteOp::Put { key: key("k"), value: Bytes::from(vec![0; size]) };
            assert_eq!(refused(large).await, too_large(Limited::Value, size as u64, VALUE_SIZE_MAX as u64));

            let mut random = cluster.world.fork_random();
            let mut value = vec![0; VALUE_SIZE_MAX];
            random.fill(&mut value);
            let value = Bytes::from(value);
            let largest = WriteOp::Put { key: key("k"), value: value.clone() };
            assert!(matches!(session.write(2, 1, largest).await, WriteReply::Committed { .. }));
            assert!(cluster.get(3, "k").await == Some(value), "the bytes differ");
        },
    );
}

#[test]
fn a_request_for_another_cluster_is_refused() {
    simulate(
        21,
        3,
        |_| {},
        async |cluster: Cluster| {
            let mut session = cluster.session(1).await;
            let ours = session.opened.cluster;
            session.opened.cluster ^= 1;
            let refused = session.attempt(2, 1, put("k", "v")).await;
            assert!(
                matches!(refused, Err(CallError::Method(KvError::ForeignCluster { cluster })) if cluster == ours)
            );
            let request = ResolveRequest {
                cluster: session.opened.cluster,
                session: session.opened.session,
                sequence: 1,
                floor: 0,
            };
            let resolved = cluster.at(3).resolve(request).timeout(CALL).await.unwrap();
            assert_eq!(resolved, Resolved::Unknowable(Unknowable::ForeignCluster));
            assert_eq!(cluster.get(1, "k").await, None);
        },
    );
}

#[test]
fn a_closed_session_takes_no_writes_and_its_outcomes_cannot_be_known() {
    simulate(
        22,
        3,
        |_| {},
        async |cluster: Cluster| {
            let session = cluster.session(1).await;
            session.write(1, 1, put("k", "v")).await;
            let close = CloseRequest { cluster: session.opened.cluster, session: session.opened.session };
            cluster.at(2).close_session(close).timeout(CALL).await.unwrap();
            let refused = session.attempt(3, 2, put("k", "late")).await;
            assert!(matches!(refused, Err(CallError::Method(KvError::SessionExpired))), "{refused:?}");
            let request = ResolveRequest {
                cluster: session.opened.cluster,
                session: session.opened.session,
                sequence: 1,
                floor: 0,
            };
            let resolved = cluster.at(3).resolve(request).timeout(CALL).await.unwrap();
            assert_eq!(resolved, Resolved::Unknowable(Unknowable::SessionExpired));
            assert_eq!(cluster.get(1, "k").await, Some(key("v")));
        },
    );
}

#[test]
fn a_busy_node_says_so_before_any_work() {
    simulate(
        23,
        1,
        |config| config.requests_max = 0,
        async |cluster: Cluster| {
            let request = GetRequest { key: key("k"), consistency: Consistency::Stale };
            let refused = cluster.at(1).get(request.clone()).timeout(CALL).await;
            assert!(matches!(refused, Err(CallError::Method(KvError::Busy { .. }))), "{refused:?}");
            assert!(cluster.status(1).await.is_some(), "status is answered whatever the load");
        },
    );
}

#[test]
fn link_faults_are_denied_unless_enabled() {
    simulate(
        24,
        1,
        |_| {},
        async |cluster: Cluster| {
            let refused = cluster.at(1).faults(FaultsRequest::default()).timeout(CALL).await;
            assert!(matches!(refused, Err(CallError::Method(KvError::Denied { .. }))), "{refused:?}");
            assert!(!cluster.status(1).await.unwrap().faults_enabled);
        },
    );
}

#[test]
fn link_faults_cut_a_node_off_and_heal() {
    simulate(
        25,
        3,
        |config| config.enable_faults = true,
        async |cluster: Cluster| {
            let leader = cluster.leader(&ALL).await;
            let cut = LinkPolicy { cut: true, ..LinkPolicy::default() };
            let set = others(leader).into_iter().flat_map(|other| {
                [Direction::Outgoing, Direction::Incoming].map(|direction| LinkFault {
                    direction,
                    remote: address(other),
                    policy: cut,
                })
            });
            let request = FaultsRequest { seed: Some(1), heal: false, set: set.collect() };
            let reply = cluster.at(leader).faults(request).timeout(CALL).await.unwrap();
            assert_eq!(reply.links.len(), 4);
            assert!(cluster.status(leader).await.unwrap().faults_enabled);
            cluster.leader(&others(leader)).await;
            let heal = FaultsRequest { heal: true, ..FaultsRequest::default() };
            let reply = cluster.at(leader).faults(heal).timeout(CALL).await.unwrap();
            assert!(reply.links.is_empty() && reply.hits.cut > 0, "{reply:?}");
            cluster.leader(&ALL).await;
        },
    );
}

#[test]
fn a_traced_write_is_remembered_at_each_step_of_its_way() {
    simulate(
        29,
        3,
        |_| {},
        async |cluster: Cluster| {
            let leader = cluster.leader(&ALL).await;
            let asked = others(leader)[0];
            let session = cluster.session(asked).await;
            let traced = async |node| {
                let traced = cluster.at(node).trace(TraceRequest { trace: 7 }).timeout(CALL).await.unwrap();
                assert_eq!(traced.node, node);
                traced.spans
            };
            session.write(asked, 1, put("k", "not traced")).await;
            let write = session.request(2, put("k", "traced"));
            cluster.at(asked).write(write).trace(7).timeout(CALL).await.unwrap();

            // Steps are noted as they end: the inner ones first.
            let spans = traced(asked).await;
            let [forwarded, served] = spans.as_slice() else { panic!("{spans:?}") };
            assert_eq!((&forwarded.step, forwarded.hops), (&TraceStep::Forwarded { to: leader }, 0));
            let of_client =
                TraceStep::Served { method: "kv.write".to_owned(), caller: cluster.client.local_addr() };
            assert_eq!((&served.step, served.hops, served.outcome.as_str()), (&of_client, 0, "answered"));
            assert_eq!(forwarded.call, served.call);
            assert!(forwarded.time_us <= served.time_us && forwarded.age_us <= served.age_us, "{spans:?}");

            let inner = traced(leader).await;
            let [proposed, asked_for] = inner.as_slice() else { panic!("{inner:?}") };
            let of_member = TraceStep::Served { method: "raft.ask".to_owned(), caller: address(asked) };
            assert_eq!((&proposed.step, &asked_for.step), (&TraceStep::Proposed, &of_member));
            assert_eq!((proposed.hops, asked_for.hops), (1, 1));
            assert!(0 < proposed.time_us && asked_for.time_us <= forwarded.time_us, "{inner:?}");
            assert_eq!(traced(others(leader)[1]).await, [], "it was not asked");

            let read = GetRequest { key: key("k"), consistency: Consistency::Linearizable };
            cluster.at(leader).get(read).trace(7).timeout(CALL).await.unwrap();
            let steps: Vec<_> = traced(leader).await.into_iter().map(|span| span.step).collect();
            assert_eq!(steps[2], TraceStep::Confirmed, "{steps:?}");
        },
    );
}

#[test]
fn a_node_remembers_the_latest_steps_only() {
    simulate(
        30,
        1,
        |_| {},
        async |cluster: Cluster| {
            let read = GetRequest { key: key("k"), consistency: Consistency::Stale };
            for trace in [8, 9] {
                for _ in 0..SPANS_MAX / 2 + 1 {
                    let read = cluster.at(1).get(read.clone()).trace(trace).timeout(CALL);
                    read.await.unwrap();
                }
            }
            let count = async |trace| {
                let traced = cluster.at(1).trace(TraceRequest { trace }).timeout(CALL).await.unwrap();
                traced.spans.len()
            };
            assert_eq!((count(8).await, count(9).await), (SPANS_MAX / 2 - 1, SPANS_MAX / 2 + 1));
        },
    );
}

#[test]
fn a_stopping_leader_hands_over_and_its_restart_keeps_the_data() {
    simulate(
        26,
        3,
        |_| {},
        async |cluster: Cluster| {
            let leader = cluster.leader(&ALL).await;
            let session = cluster.session(leader).await;
            session.write(leader, 1, put("k", "v")).await;
            let server = cluster.server(leader);
            let before = cluster.clock.now();
            server.shutdown(CALL).await.unwrap();
            let next = cluster.leader(&others(leader)).await;
            assert!(cluster.clock.now() - before < CALL, "leadership was handed over, not waited for");
            assert_eq!(cluster.get(next, "k").await, Some(key("v")));
            cluster.crash(leader);
            cluster.start(leader).await;
            cluster.leader(&ALL).await;
            assert_eq!(cluster.get(leader, "k").await, Some(key("v")));
        },
    );
}

#[test]
fn a_wiped_node_is_refused_until_it_is_replaced() {
    simulate(
        27,
        3,
        |_| {},
        async |cluster: Cluster| {
            let leader = cluster.leader(&ALL).await;
            let session = cluster.session(leader).await;
            session.write(leader, 1, put("k", "v")).await;
            let lost = others(leader)[0];
            cluster.crash(lost);
            cluster.wipe(lost);
            cluster.start(lost).await;
            let refused = cluster.clock.timeout(CALL, cluster.server(lost).refused()).await;
            assert_eq!(refused.unwrap().id, lost);
            session.write(leader, 2, put("k", "goes on")).await;

            let request = MemberChange::Replace { old: lost, address: None };
            // Right after the crash the leader still takes the old member for alive.
            let replaced = cluster
                .eventually("a replacement", async || {
                    cluster.at(leader).member_change(request.clone()).timeout(CALL).await.ok()
                })
                .await;
            assert!(!ALL.contains(&replaced.id), "an id is never used again");
            let status = cluster
                .eventually("the successor serves", async || {
                    cluster.status(lost).await.filter(|status| status.ready && status.id == replaced.id)
                })
                .await;
            let voters: Vec<u64> =
                status.members.iter().filter(|member| member.voter).map(|member| member.id).collect();
            assert_eq!(voters.len(), 3, "{voters:?}");
            assert_eq!(cluster.get(lost, "k").await, Some(key("goes on")));
        },
    );
}

#[test]
fn a_failed_disk_is_fatal_for_its_node_only() {
    simulate(
        28,
        3,
        |_| {},
        async |cluster: Cluster| {
            let leader = cluster.leader(&ALL).await;
            let session = cluster.session(leader).await;
            let failing = others(leader)[0];
            assert!(cluster.at(failing).health_local().timeout(CALL).await.unwrap().healthy);
            cluster.fail_disk(failing);
            let reply = session.write(leader, 1, put("k", "v")).await;
            assert!(matches!(reply, WriteReply::Committed { .. }));
            let reason = cluster.clock.timeout(CALL, cluster.server(failing).fatal()).await;
            assert!(!reason.unwrap().is_empty());
            let health = cluster.at(failing).health_local().timeout(CALL).await.unwrap();
            assert!(!health.healthy && health.reason.is_some(), "{health:?}");
            assert!(cluster.server(failing).shutdown(CALL).await.is_err(), "its exit code must not be 0");
            session.write(leader, 2, put("k", "goes on")).await;
        },
    );
}
