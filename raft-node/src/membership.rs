//! Changes of who leads and who is a member.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use rpc_core::endpoint::Lane;
use rpc_core::runtime::Instant;

use crate::config::CONFIGURED_ID_MAX;
use crate::identity::NodeName;
use crate::life::{Life, Running};
use crate::machine::StateMachine;
use crate::network::messages::Replace;
use crate::network::{Target, method};
use crate::outcome::Refusal;
use crate::proposals::{Proposals, Route, refusal};
use crate::replace::ReplaceError;
use crate::types::{Member, TypeConfig};

/// Replaces the member `old`: here if this node leads, otherwise the leader is asked to.
pub(crate) async fn replace<S: StateMachine>(
    life: &Arc<Life<S>>,
    proposals: &Proposals<S>,
    old: u64,
    address: Option<String>,
    deadline: Instant,
) -> Result<u64, ReplaceError> {
    match proposals.route().map_err(ReplaceError::Refused)? {
        Route::Here => replace_here(life, old, address, deadline).await,
        Route::There(running, leader) => {
            let request = Replace { old, address };
            let call = running.network.call(&leader, method::REPLACE, Lane::Normal, deadline, request);
            let answer: Result<Result<u64, ReplaceError>, _> = call.await;
            answer.unwrap_or_else(|error| {
                Err(ReplaceError::Unfinished { step: format!("asking the leader: {error}") })
            })
        }
        Route::Nowhere => Err(ReplaceError::Refused(Refusal::NotLeader { leader: None })),
    }
}

/// Replaces the member `old`, if this node leads.
pub(crate) async fn replace_here<S: StateMachine>(
    life: &Arc<Life<S>>,
    old: u64,
    address: Option<String>,
    deadline: Instant,
) -> Result<u64, ReplaceError> {
    let Some(running) = life.running() else { return Err(ReplaceError::Refused(Refusal::NotMember)) };
    let waiting = life.runtime.timeout_at(deadline, life.replaced.lock());
    let Ok(mut replaced) = waiting.await else {
        return Err(ReplaceError::Unfinished { step: "waiting for another replacement".to_owned() });
    };
    if let Some((_, new)) = replaced.filter(|(before, _)| *before == old) {
        // Asked again, or by two ways at once.
        return Ok(new);
    }
    let new =
        Replacement { life: Arc::clone(life), running: running.clone(), old }.run(address, deadline).await?;
    *replaced = Some((old, new));
    Ok(new)
}

/// One replacement of a lost member, on the leader.
struct Replacement<S: StateMachine> {
    life: Arc<Life<S>>,
    running: Running<S>,
    old: u64,
}

impl<S: StateMachine> Replacement<S> {
    /// Gives the empty node at `address` (by default where the old one was) a new id, the log, and then the vote of
    /// the old one. Returns the new id.
    async fn run(&self, address: Option<String>, deadline: Instant) -> Result<u64, ReplaceError> {
        if self.running.metrics.borrow_watched().state != ServerState::Leader {
            return Err(ReplaceError::Refused(Refusal::NotLeader { leader: None }));
        }
        let mut step = "asking who the new member is";
        let replaced = self.steps(address, deadline, &mut step);
        match self.life.runtime.timeout_at(deadline, replaced).await {
            Ok(replaced) => replaced,
            Err(_) => Err(ReplaceError::Unfinished { step: step.to_owned() }),
        }
    }

    async fn steps(
        &self,
        address: Option<String>,
        deadline: Instant,
        step: &mut &'static str,
    ) -> Result<u64, ReplaceError> {
        let old = self.member(self.old).ok_or(ReplaceError::UnknownMember { id: self.old })?;
        let address = address.unwrap_or_else(|| old.address.clone());
        let newcomer = self.meet(&old, &address, deadline).await?;
        self.await_quorum().await?;

        *step = "giving the new member its id";
        let new = self.assign(newcomer, address, deadline).await?;

        *step = "adding the new member as a learner";
        let member = Member { incarnation: new.name.incarnation, address: new.address.clone() };
        self.running.raft.add_learner(new.name.id, member, false).await.map_err(refused)?;

        *step = "sending the log to the new member";
        self.caught_up(new.name.id).await?;

        *step = "giving the vote of the old member to the new one";
        self.await_quorum().await?;
        let mut voters = self.voters();
        voters.remove(&self.old);
        voters.insert(new.name.id);
        self.running.raft.change_membership(voters, false).await.map_err(refused)?;
        Ok(new.name.id)
    }

    /// Asks the node at `address` whether it can take the place.
    async fn meet(&self, old: &Member, address: &str, deadline: Instant) -> Result<Newcomer, ReplaceError> {
        let introduction = self.life.introduction(None);
        let Ok(other) = self.running.network.hello(address, &introduction, deadline).await else {
            return Err(ReplaceError::Unreachable { address: address.to_owned() });
        };
        let acknowledging = acknowledging(&self.running, self.life.config.timers.election_max);
        let moved = address != old.address;
        if other.name.incarnation == old.incarnation || (moved && acknowledging.contains(&self.old)) {
            return Err(ReplaceError::StillAlive { id: self.old });
        }
        let Some(cluster) = other.cluster else { return Ok(Newcomer::Empty(other.name.incarnation)) };
        let known = self.member(other.name.id);
        let half_done = cluster == self.running.cluster
            && known.is_none_or(|known| known.incarnation == other.name.incarnation)
            && !self.voters().contains(&other.name.id);
        if half_done {
            Ok(Newcomer::Named(other.name))
        } else {
            Err(ReplaceError::NotEmpty { address: address.to_owned() })
        }
    }

    /// Makes sure that the newcomer has an id that no other node ever had.
    async fn assign(
        &self,
        newcomer: Newcomer,
        address: String,
        deadline: Instant,
    ) -> Result<Target, ReplaceError> {
        let incarnation = match newcomer {
            Newcomer::Named(name) => return Ok(Target { name, address }),
            Newcomer::Empty(incarnation) => incarnation,
        };
        // The index of a committed entry is unique in the life of the cluster: so is the id.
        let index = self.running.raft.write_blank().await.map_err(refused)?.log_id.index;
        let id = CONFIGURED_ID_MAX + 1 + index;
        let target = Target { name: NodeName { id, incarnation }, address };
        let network = &self.running.network;
        let assigned: Result<(), _> =
            network.call(&target, method::ASSIGN, Lane::Control, deadline, ()).await;
        match assigned {
            Ok(()) => Ok(target),
            Err(_) => Err(ReplaceError::Unreachable { address: target.address }),
        }
    }

    /// Waits a moment until enough other voters are heard of, so that the change does not need the old member's vote.
    async fn await_quorum(&self) -> Result<(), ReplaceError> {
        let age = self.life.config.timers.election_max * 2;
        let patience = self.life.runtime.now() + age;
        loop {
            let voters = self.voters();
            let alive = acknowledging(&self.running, age);
            let needed = voters.len() / 2 + 1;
            let alive: Vec<u64> = voters.intersection(&alive).copied().filter(|id| *id != self.old).collect();
            if !voters.contains(&self.old) || alive.len() >= needed {
                return Ok(());
            }
            if self.life.runtime.now() >= patience {
                return Err(ReplaceError::QuorumAtRisk { alive, needed });
            }
            self.life.runtime.sleep(self.life.config.timers.heartbeat).await;
        }
    }

    /// Waits until the learner holds all but the newest entries.
    async fn caught_up(&self, learner: u64) -> Result<(), ReplaceError> {
        let goal = self.running.metrics.borrow_watched().last_log_index;
        let mut metrics = self.running.metrics.clone();
        let reached = metrics.wait_until(|metrics| {
            let Some(replication) = &metrics.replication else { return true };
            replication.get(&learner).is_some_and(|matched| matched.map(|id| id.index) >= goal)
        });
        match reached.await {
            Ok(metrics) if metrics.state == ServerState::Leader => Ok(()),
            _ => Err(ReplaceError::Refused(Refusal::NotLeader { leader: None })),
        }
    }

    fn member(&self, id: u64) -> Option<Member> {
        self.running.metrics.borrow_watched().membership_config.get_node(&id).cloned()
    }

    fn voters(&self) -> BTreeSet<u64> {
        self.running.metrics.borrow_watched().membership_config.voter_ids().collect()
    }
}

/// Who takes the place of a lost member.
enum Newcomer {
    /// An empty node, by its incarnation.
    Empty(u128),
    /// A node that an earlier attempt gave its id.
    Named(NodeName),
}

/// Hands leadership to `to`, or to the voter that holds most of the log; the new leader.
pub(crate) async fn transfer_leadership<S: StateMachine>(
    life: &Life<S>,
    running: &Running<S>,
    to: Option<u64>,
    deadline: Instant,
) -> Result<u64, Refusal> {
    let own = running.name.id;
    let alive = acknowledging(running, life.config.timers.election_max);
    let target = {
        let metrics = running.metrics.borrow_watched();
        if metrics.state != ServerState::Leader {
            return metrics.current_leader.ok_or(Refusal::NotLeader { leader: None });
        }
        let matched = |id: &u64| metrics.replication.as_ref().and_then(|all| all.get(id).copied().flatten());
        let voters: BTreeSet<u64> = metrics.membership_config.voter_ids().collect();
        let best = voters.intersection(&alive).copied().filter(|id| *id != own).max_by_key(|id| matched(id));
        to.or(best)
    };
    let Some(target) = target else { return Err(Refusal::NotLeader { leader: None }) };
    if target == own {
        return Ok(own);
    }
    life.runtime.trace(|| format!("transfer leadership to {target}"));
    running.raft.trigger().transfer_leader(target).await.map_err(|_| Refusal::NotMember)?;
    let mut metrics = running.metrics.clone();
    let handed = metrics.wait_until(|metrics| metrics.current_leader.is_some_and(|leader| leader != own));
    match life.runtime.timeout_at(deadline, handed).await {
        Ok(Ok(metrics)) => metrics.current_leader.ok_or(Refusal::NotLeader { leader: None }),
        Ok(Err(_)) => Err(Refusal::NotMember),
        Err(_) => Err(Refusal::Deadline),
    }
}

/// The members that acknowledged this leader within the last `age`, itself included.
fn acknowledging<S: StateMachine>(running: &Running<S>, age: Duration) -> BTreeSet<u64> {
    let metrics = running.metrics.borrow_watched();
    let now = running.network.runtime.now();
    let acks = metrics.heartbeat.iter().flatten();
    let recent = acks.filter(|(_, at)| at.is_some_and(|at| now - at.into_inner().0 <= age));
    recent.map(|(id, _)| *id).chain([running.name.id]).collect()
}

fn refused(error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> ReplaceError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
            ReplaceError::Refused(refusal(forward))
        }
        RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => {
            ReplaceError::Unfinished { step: error.to_string() }
        }
        error => ReplaceError::Unfinished { step: error.to_string() },
    }
}
