//! What must hold of Raft at every moment, looked at while a simulation runs.
//!
//! The sources are the chapters of Diego Ongaro's thesis, *Consensus: Bridging Theory and Practice* (2014); figure 3.2
//! names the properties. A node is looked at from outside: its vote, its log and what it has applied.
//!
//! What the thesis calls a term is here a pair (term, node), in that order: openraft lets several nodes be elected with
//! one number, the later one with the higher id, so that each pair has at most one leader by construction. *Election
//! Safety* then rests on votes that never go back.

use std::collections::BTreeMap;

use raft_node::probe::{Probe, ProbedEntry};
use raft_node::status::LogPosition;

/// What has been seen of all nodes so far.
#[derive(Clone, Debug, Default)]
pub struct Invariants {
    /// By node.
    seen: BTreeMap<u64, Seen>,
    /// By index, the entry that somebody knew to be committed.
    committed: BTreeMap<u64, LogPosition>,
    /// By index and term: the checksum of the entry, and the term of the one before it.
    entries: BTreeMap<(u64, Term), (u32, Term)>,
    /// By index, the hash of the state that some node had after applying it.
    states: BTreeMap<u64, u128>,
    looks: u64,
}

/// A term as the thesis means it: number and node.
type Term = (u64, u64);

fn term(position: LogPosition) -> Term {
    (position.term, position.leader)
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    life: u64,
    vote: Term,
    applied: u64,
    /// It told a leader that its disk holds everything up to here, all of which is committed.
    held: u64,
}

impl Invariants {
    /// Looks at node `node` in its life number `life`. `log` are entries of its log in order, without gaps.
    ///
    /// # Errors
    /// The property that does not hold, and what was seen.
    pub fn look(&mut self, node: u64, life: u64, probe: &Probe, log: &[ProbedEntry]) -> Result<(), String> {
        self.looks += 1;
        self.votes_only_grow(node, life, probe)?;
        self.order_of_indexes(node, life, probe)?;
        self.acknowledged_stays(node, probe)?;
        self.log_matching(node, log)?;
        self.leader_completeness(node, probe)?;
        self.state_machine_safety(node, probe)
    }

    /// Hears from a leader what its members acknowledged to hold, by node and index, and what is committed.
    pub fn acknowledged(&mut self, members: impl Iterator<Item = (u64, u64)>, committed: u64) {
        for (node, index) in members {
            let seen = self.seen.entry(node).or_default();
            seen.held = seen.held.max(index.min(committed));
        }
    }

    /// How many times a node was looked at.
    pub fn looks(&self) -> u64 {
        self.looks
    }

    /// Section 3.4, figure 3.1: `currentTerm` and `votedFor` are persistent, terms only grow, and a node votes at most
    /// once in a term. Also across restarts.
    fn votes_only_grow(&mut self, node: u64, life: u64, probe: &Probe) -> Result<(), String> {
        let seen = self.seen.entry(node).or_default();
        let (vote, before) = ((probe.vote_saved.term, probe.vote_saved.node), seen.vote);
        if vote < before {
            let again = if seen.life == life { "" } else { " before it restarted" };
            return Err(format!(
                "Election Safety (thesis 3.4): node {node} has voted for {} in term {}, and had voted for {} in term \
                 {}{again}",
                vote.1, vote.0, before.1, before.0
            ));
        }
        seen.vote = vote;
        Ok(())
    }

    /// Figure 3.1: `commitIndex` and `lastApplied` increase monotonically, and nothing is applied that is not committed;
    /// section 5.1: only what the state holds is discarded from the log.
    fn order_of_indexes(&mut self, node: u64, life: u64, probe: &Probe) -> Result<(), String> {
        let index = |position: Option<LogPosition>| position.map_or(0, |position| position.index);
        let (applied, committed, purged) =
            (index(probe.applied), index(probe.committed), index(probe.purged));
        if purged > applied {
            return Err(format!(
                "Log compaction (thesis 5.1): node {node} purged its log up to {purged}, its state ends at {applied}"
            ));
        }
        // The metrics are a moment older than the state; a restarted node learns again what is committed.
        if committed > 0 && applied > committed + APPLIED_AHEAD_MAX {
            return Err(format!(
                "Figure 3.1: node {node} applied {applied}, and only {committed} is committed"
            ));
        }
        let Some(seen) = self.seen.get_mut(&node) else { return Ok(()) };
        if seen.life == life && applied < seen.applied {
            return Err(format!(
                "Figure 3.1: node {node} has applied {applied}, and had applied {}",
                seen.applied
            ));
        }
        (seen.life, seen.applied) = (life, applied);
        Ok(())
    }

    /// Figure 3.1: the log is persistent state, updated before an answer, and section 5.1 lets a snapshot stand for its
    /// beginning. An acknowledged entry may be truncated, but not once it is committed. Also across restarts.
    fn acknowledged_stays(&self, node: u64, probe: &Probe) -> Result<(), String> {
        // Before it takes part again, a node that restarted does not tell its log.
        let (Some(last), Some(seen)) = (probe.last_log_index, self.seen.get(&node)) else { return Ok(()) };
        let last = last.max(probe.applied.map_or(0, |applied| applied.index));
        if last < seen.held {
            return Err(format!(
                "Persistence (thesis figure 3.1): node {node} acknowledged entries up to {}, which are committed, and holds \
                 them up to {last}",
                seen.held
            ));
        }
        Ok(())
    }

    /// Figure 3.2, *Log Matching*: if two logs contain an entry with the same index and term, then the logs are identical
    /// in all entries up through the given index. By induction: the same entry always has the same content and the same
    /// entry before it.
    fn log_matching(&mut self, node: u64, log: &[ProbedEntry]) -> Result<(), String> {
        for pair in log.windows(2) {
            let [before, entry] = pair else { continue };
            let (position, known) = (entry.position, (entry.crc, term(before.position)));
            let first = *self.entries.entry((position.index, term(position))).or_insert(known);
            if first != known {
                return Err(format!(
                    "Log Matching (thesis figure 3.2): entry {position} of node {node} has checksum {:08x} behind term \
                     {:?}, elsewhere {:08x} behind term {:?}",
                    known.0, known.1, first.0, first.1
                ));
            }
            if let Some(committed) = self.committed.get(&position.index)
                && term(*committed) < term(position)
            {
                return Err(format!(
                    "Leader Completeness (thesis figure 3.2): node {node} has entry {position} where {committed} is committed"
                ));
            }
        }
        Ok(())
    }

    /// Figure 3.2, *Leader Completeness*: an entry that is committed in a term is present in the logs of the leaders of
    /// all later terms. Seen as: what is committed at an index never changes, and a leader's log reaches as far.
    fn leader_completeness(&mut self, node: u64, probe: &Probe) -> Result<(), String> {
        for position in [probe.committed, probe.applied].into_iter().flatten() {
            let known = *self.committed.entry(position.index).or_insert(position);
            if known != position {
                return Err(format!(
                    "Leader Completeness (thesis figure 3.2): node {node} knows {position} to be committed, another {known}"
                ));
            }
        }
        if probe.vote.committed && probe.vote.node == node {
            let last = probe.last_log_index.unwrap_or_default();
            let own = (probe.vote.term, probe.vote.node);
            let older = self.committed.values().rev().find(|position| term(**position) < own);
            if let Some(lost) = older.filter(|position| position.index > last) {
                return Err(format!(
                    "Leader Completeness (thesis figure 3.2): node {node} leads term {} with a log that ends at {last}, \
                     and {lost} is committed",
                    probe.vote.term
                ));
            }
        }
        Ok(())
    }

    /// Figure 3.2, *State Machine Safety*: no two nodes apply different entries at the same index; more than that, the
    /// whole state is the same.
    fn state_machine_safety(&mut self, node: u64, probe: &Probe) -> Result<(), String> {
        let Some(applied) = probe.applied else { return Ok(()) };
        let state = *self.states.entry(applied.index).or_insert(probe.state_hash);
        if state != probe.state_hash {
            return Err(format!(
                "State Machine Safety (thesis figure 3.2): at index {} the state of node {node} is {:032x}, that of \
                 another {state:032x}",
                applied.index, probe.state_hash
            ));
        }
        Ok(())
    }
}

/// How far the state may be ahead of the metrics that were published last.
const APPLIED_AHEAD_MAX: u64 = 10_000;

#[cfg(test)]
mod tests {
    use raft_node::status::Vote;

    use super::*;

    fn at(term: u64, index: u64) -> LogPosition {
        LogPosition { term, leader: 1, index }
    }

    fn probe(term: u64, node: u64, applied: u64, state_hash: u128) -> Probe {
        let vote = Vote { term, node, committed: true };
        Probe {
            vote,
            vote_saved: vote,
            last_log_index: Some(applied),
            committed: Some(at(1, applied)),
            applied: Some(at(1, applied)),
            state_hash,
            purged: None,
        }
    }

    fn entry(term: u64, index: u64, crc: u32) -> ProbedEntry {
        ProbedEntry { position: at(term, index), crc }
    }

    /// Looks at a first node, and then at a second one, which must break `property`.
    fn broken(first: (u64, &Probe, &[ProbedEntry]), second: (u64, &Probe, &[ProbedEntry]), property: &str) {
        let mut invariants = Invariants::default();
        invariants.look(first.0, 1, first.1, first.2).expect("one node alone breaks nothing");
        let broken = invariants.look(second.0, 1, second.1, second.2).expect_err("the two contradict");
        assert!(broken.contains(property), "{broken}");
    }

    #[test]
    fn each_property_is_seen_to_break() {
        let good = probe(1, 1, 5, 7);
        broken((1, &good, &[]), (1, &probe(0, 1, 5, 7), &[]), "Election Safety");
        broken((1, &probe(3, 2, 5, 7), &[]), (1, &probe(3, 1, 5, 7), &[]), "had voted for 2 in term 3");
        broken((1, &good, &[]), (1, &probe(1, 1, 4, 7), &[]), "had applied 5");
        broken((1, &good, &[]), (2, &probe(1, 1, 5, 8), &[]), "State Machine Safety");
        let logs = ([entry(1, 4, 1), entry(1, 5, 2)], [entry(1, 4, 1), entry(1, 5, 3)]);
        broken((1, &good, &logs.0), (2, &good, &logs.1), "Log Matching");
        broken((1, &good, &[]), (2, &probe(2, 2, 4, 9), &[]), "a log that ends at 4");
        let rewritten = Probe { committed: Some(at(2, 5)), ..good };
        broken((1, &good, &[]), (2, &rewritten, &[]), "Leader Completeness");
        let longer = [entry(1, 4, 1), entry(2, 5, 2)];
        broken((1, &good, &[]), (2, &good, &longer), "where 5 (term 1 of node 1) is committed");
        let mut invariants = Invariants::default();
        invariants.look(1, 1, &good, &[]).expect("one node alone breaks nothing");
        invariants.acknowledged([(1, 9)].into_iter(), 5);
        invariants.look(1, 1, &good, &[]).expect("what is not committed may be truncated");
        invariants.acknowledged([(1, 9)].into_iter(), 6);
        let lost = invariants.look(1, 2, &good, &[]).expect_err("entry 6 is gone");
        assert!(lost.contains("Persistence"), "{lost}");
        let purged = Probe { purged: Some(at(1, 9)), ..good };
        broken((1, &good, &[]), (2, &purged, &[]), "Log compaction");
    }

    #[test]
    fn nodes_that_agree_break_nothing() {
        let mut invariants = Invariants::default();
        for applied in 1..50 {
            let log = [entry(1, applied, applied as u32), entry(1, applied + 1, applied as u32 + 1)];
            for node in 1..=3 {
                let looked = invariants.look(node, 1, &probe(2, 2, applied, u128::from(applied)), &log);
                assert_eq!(looked, Ok(()));
            }
        }
        assert_eq!(invariants.looks(), 147);
    }
}
