use std::sync::{Arc, Mutex};

use futures_util::future::join_all;
use openraft::Vote;
use rpc_core::sim::World;

use super::*;
use crate::types::LogId;

/// What openraft was handed, by index of the previous entry; it accepts everything.
#[derive(Clone, Default)]
struct Raft(Arc<Mutex<Vec<u64>>>);

impl Raft {
    fn answers(
        &self,
        requests: Requests,
    ) -> impl Stream<Item = Option<StreamAppendResult<TypeConfig>>> + Send + use<> {
        let seen = Arc::clone(&self.0);
        requests.map(move |request| {
            seen.lock().unwrap().extend(request.prev_log_id.map(|id| id.index));
            Some(Ok(request.prev_log_id))
        })
    }

    fn seen(&self) -> Vec<u64> {
        self.0.lock().unwrap().clone()
    }
}

fn request(index: u64) -> AppendEntriesRequest<TypeConfig> {
    let vote = Vote::new_committed(1, 1);
    let previous = LogId::new(vote.leader_id, index);
    AppendEntriesRequest { vote, prev_log_id: Some(previous), entries: Vec::new(), leader_commit: None }
}

const fn name(process: u128, stream: u64) -> StreamName {
    StreamName { node: 1, process, stream }
}

/// Appends arrive as (stream, sequence) in this order; their verdicts.
fn arrive(raft: &Raft, arrivals: Vec<(StreamName, u64)>) -> Vec<bool> {
    let world = World::new(1);
    let (runtime, raft) = (world.observer(), raft.clone());
    world.run(async move {
        let streams = Streams::default();
        let appends = arrivals.into_iter().map(|(name, sequence)| {
            streams.append(&runtime, name, sequence, request(name.stream * 100 + sequence), |it| {
                raft.answers(it)
            })
        });
        let verdicts = runtime.timeout(std::time::Duration::from_secs(1), join_all(appends)).await;
        verdicts.expect("every append ends").into_iter().map(|verdict| verdict.is_some()).collect()
    })
}

#[test]
fn appends_are_handed_on_in_the_order_of_their_stream_however_they_arrive() {
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 0, 3, 2], [2, 0, 3, 1]] {
        let raft = Raft::default();
        let verdicts = arrive(&raft, order.iter().map(|sequence| (name(7, 0), *sequence)).collect());
        assert_eq!(raft.seen(), [0, 1, 2, 3], "{order:?}");
        assert_eq!(verdicts, [true; 4]);
    }
}

#[test]
fn a_newer_stream_ends_the_older_and_late_appends_of_that_are_refused() {
    let raft = Raft::default();
    let verdicts = arrive(&raft, vec![(name(7, 0), 1), (name(7, 1), 0), (name(7, 0), 0)]);
    assert_eq!(raft.seen(), [100]);
    assert_eq!(verdicts, [false, true, false]);
}

#[test]
fn a_restarted_process_begins_anew() {
    let raft = Raft::default();
    let verdicts = arrive(&raft, vec![(name(7, 5), 0), (name(8, 0), 0)]);
    assert!(verdicts[1]);
    assert!(raft.seen().contains(&0), "{:?}", raft.seen());
}

#[test]
fn too_much_out_of_order_ends_the_stream() {
    let raft = Raft::default();
    let gap = (1..=OUT_OF_ORDER_MAX as u64 + 1).map(|sequence| (name(7, 0), sequence)).collect();
    assert!(arrive(&raft, gap).into_iter().all(|verdict| !verdict));
    assert!(raft.seen().is_empty());
}
