//! More load than the limit lets in: what is refused was not proposed, and the rest goes on as fast as without it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use raft_node::outcome::{Refusal, WriteOutcome};

use crate::cluster::{Cluster, PATIENCE};
use crate::counter::add;

/// Proposals in flight that a node admits.
const PROPOSALS_MAX: usize = 16;
/// How long a client waits after a refusal: a client of the store waits as long as it is told.
const PAUSE: Duration = Duration::from_millis(5);
const TIME: Duration = Duration::from_millis(200);

#[derive(Debug, Default)]
struct Seen {
    committed: AtomicU64,
    refused: AtomicU64,
    slowest: Mutex<Duration>,
}

/// Lets so many clients write at the leader, each again when it has its answer.
fn load(clients: u64) -> Arc<Seen> {
    let mut cluster = Cluster::with(70, 3, |config| config.limits.proposals_max = PROPOSALS_MAX);
    cluster.start_all();
    let leader = cluster.leader();
    let term = cluster.status(leader).vote.term;
    let sessions: Vec<u64> = (0..clients).map(|nonce| cluster.open(leader, nonce.into()).id).collect();
    let (seen, node) = (Arc::new(Seen::default()), cluster.nodes[&leader].clone());
    let (clock, end) = (cluster.observer.clone(), cluster.observer.now() + TIME);
    let patience = cluster.deadline(leader, TIME + PATIENCE);
    let clients = sessions.into_iter().map({
        let seen = Arc::clone(&seen);
        move |session| {
            let (seen, node, clock) = (Arc::clone(&seen), node.clone(), clock.clone());
            async move {
                let mut sequence = 1;
                while clock.now() < end {
                    let began = clock.now();
                    match node.write(session, sequence, sequence, add("x", 1), patience).await {
                        WriteOutcome::Settled(_) => {
                            sequence += 1;
                            seen.committed.fetch_add(1, Ordering::Relaxed);
                            let mut slowest = seen.slowest.lock().expect("nobody panicked");
                            *slowest = (*slowest).max(clock.now() - began);
                        }
                        WriteOutcome::Refused(Refusal::Busy) => {
                            seen.refused.fetch_add(1, Ordering::Relaxed);
                            clock.sleep(PAUSE).await;
                        }
                        other => panic!("neither written nor definitely refused: {other:?}"),
                    }
                }
            }
        }
    });
    cluster.run(join_all(clients.collect::<Vec<_>>()));
    assert_eq!(cluster.status(leader).vote.term, term, "heartbeats went on: there was no election");
    // What was refused had no effect: the counter holds what was committed, and nothing else.
    let mut session = cluster.open(leader, 1_000_000);
    let committed = seen.committed.load(Ordering::Relaxed);
    assert_eq!(cluster.add(leader, &mut session, 0), committed);
    seen
}

#[test]
fn four_times_the_load_writes_as_much_and_elects_nobody() {
    let (full, over) = (load(PROPOSALS_MAX as u64), load(4 * PROPOSALS_MAX as u64));
    assert_eq!(full.refused.load(Ordering::Relaxed), 0, "so many are admitted");
    assert!(over.refused.load(Ordering::Relaxed) > 50, "{over:?}");
    let written = |seen: &Seen| seen.committed.load(Ordering::Relaxed);
    assert!(written(&over) * 10 >= written(&full) * 8, "{full:?}, {over:?}");
    let slowest = |seen: &Seen| *seen.slowest.lock().expect("nobody panicked");
    assert!(slowest(&over) < slowest(&full) + Duration::from_millis(100), "{full:?}, {over:?}");
}
