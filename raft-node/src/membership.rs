//! Changes of who leads and who is a member.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::{ChangeMembers, ServerState};
use rpc_core::endpoint::Lane;
use rpc_core::runtime::Instant;

use crate::change::{Change, ChangeError};
use crate::config::CONFIGURED_ID_MAX;
use crate::identity::NodeName;
use crate::life::{Life, Running};
use crate::machine::StateMachine;
use crate::network::{Target, method};
use crate::outcome::Refusal;
use crate::proposals::{Proposals, Route, refusal};
use crate::types::{Member, TypeConfig};

/// Makes a change: here if this node leads, otherwise the leader is asked to.
pub(crate) async fn change<S: StateMachine>(
    life: &Arc<Life<S>>,
    proposals: &Proposals<S>,
    change: Change,
    deadline: Instant,
) -> Result<u64, ChangeError> {
    match proposals.route().map_err(ChangeError::Refused)? {
        Route::Here => change_here(life, change, deadline).await,
        Route::There(running, leader) => {
            let call = running.network.call(&leader, method::CHANGE, Lane::Normal, deadline, change);
            let answer: Result<Result<u64, ChangeError>, _> = call.await;
            answer.unwrap_or_else(|error| {
                Err(ChangeError::Unfinished { step: format!("asking the leader: {error}") })
            })
        }
        Route::Nowhere => Err(ChangeError::Refused(Refusal::NotLeader { leader: None })),
    }
}

/// Makes a change, if this node leads.
pub(crate) async fn change_here<S: StateMachine>(
    life: &Arc<Life<S>>,
    change: Change,
    deadline: Instant,
) -> Result<u64, ChangeError> {
    let Some(running) = life.running() else { return Err(ChangeError::Refused(Refusal::NotMember)) };
    let waiting = life.runtime.timeout_at(deadline, life.changed.lock());
    let Ok(mut changed) = waiting.await else {
        return Err(ChangeError::Unfinished { step: "waiting for another change".to_owned() });
    };
    if let Some((before, answer)) = &*changed
        && *before == change
    {
        // Asked again, or by two ways at once.
        return Ok(*answer);
    }
    let work = Work { life: Arc::clone(life), running: running.clone() };
    let answer = work.run(&change, deadline).await?;
    // An id that went is never used again, so the answer stays right. Others may change back.
    *changed = matches!(change, Change::Replace { .. } | Change::Remove { .. }).then_some((change, answer));
    Ok(answer)
}

/// One change, on the leader.
struct Work<S: StateMachine> {
    life: Arc<Life<S>>,
    running: Running<S>,
}

impl<S: StateMachine> Work<S> {
    async fn run(&self, change: &Change, deadline: Instant) -> Result<u64, ChangeError> {
        if self.running.metrics.borrow_watched().state != ServerState::Leader {
            return Err(ChangeError::Refused(Refusal::NotLeader { leader: None }));
        }
        let mut step = "asking who the new member is";
        let changed = self.steps(change, deadline, &mut step);
        match self.life.runtime.timeout_at(deadline, changed).await {
            Ok(changed) => changed,
            Err(_) => Err(ChangeError::Unfinished { step: step.to_owned() }),
        }
    }

    async fn steps(
        &self,
        change: &Change,
        deadline: Instant,
        step: &mut &'static str,
    ) -> Result<u64, ChangeError> {
        match change {
            Change::Replace { old, address } => {
                let member = self.known(*old)?;
                let address = address.clone().unwrap_or_else(|| member.address.clone());
                let newcomer = self.meet(Some((*old, &member)), &address, deadline).await?;
                self.take_in(newcomer, address, Some(*old), deadline, step).await
            }
            Change::Add { address } => {
                let newcomer = self.meet(None, address, deadline).await?;
                self.take_in(newcomer, address.clone(), None, deadline, step).await
            }
            Change::Remove { id } => {
                *step = "removing the member";
                self.remove(*id).await
            }
            Change::Lead { id } => self.lead(*id, deadline).await,
        }
    }

    /// Gives the newcomer an id, the log, and then a vote: that of `old`, who is a member no more, or one of its own.
    async fn take_in(
        &self,
        newcomer: Newcomer,
        address: String,
        old: Option<u64>,
        deadline: Instant,
        step: &mut &'static str,
    ) -> Result<u64, ChangeError> {
        self.await_quorum(old, &self.voters(), None).await?;
        *step = "giving the new member its id";
        let new = self.assign(newcomer, address, deadline).await?;
        let id = new.name.id;

        *step = "adding the new member as a learner";
        let member = Member { incarnation: new.name.incarnation, address: new.address.clone() };
        self.running.raft.add_learner(id, member, false).await.map_err(refused)?;

        *step = "sending the log to the new member";
        self.caught_up(id).await?;

        *step = "giving the new member its vote";
        let mut voters = self.voters();
        if let Some(old) = old {
            voters.remove(&old);
        }
        voters.insert(id);
        self.await_quorum(old, &voters, Some(id)).await?;
        self.running.raft.change_membership(voters, false).await.map_err(refused)?;
        Ok(id)
    }

    async fn remove(&self, id: u64) -> Result<u64, ChangeError> {
        self.known(id)?;
        let mut voters = self.voters();
        let removed = if voters.remove(&id) {
            // It takes part in the change itself if it can, and is not needed afterwards.
            self.await_quorum(None, &voters, None).await?;
            self.running.raft.change_membership(voters, false).await
        } else {
            let learner = ChangeMembers::RemoveNodes(BTreeSet::from([id]));
            self.running.raft.change_membership(learner, false).await
        };
        removed.map(|_| id).map_err(refused)
    }

    async fn lead(&self, id: Option<u64>, deadline: Instant) -> Result<u64, ChangeError> {
        if let Some(id) = id {
            let member = self.known(id)?;
            let is_alive = acknowledging(&self.running, self.life.config.timers.election_max).contains(&id);
            if !is_alive || !self.voters().contains(&id) {
                return Err(ChangeError::Unreachable { address: member.address });
            }
        }
        let deadline = deadline.min(self.life.runtime.now() + self.life.config.timers.election_max * 2);
        let led = transfer_leadership(&self.life, &self.running, id, deadline).await;
        let leader = led.map_err(ChangeError::Refused)?;
        match id {
            Some(id) if id != leader => {
                Err(ChangeError::Unfinished { step: format!("node {leader} took the lead instead") })
            }
            _ => Ok(leader),
        }
    }

    /// Asks the node at `address` whether it can become a member, in the place of `old` if there is one.
    async fn meet(
        &self,
        old: Option<(u64, &Member)>,
        address: &str,
        deadline: Instant,
    ) -> Result<Newcomer, ChangeError> {
        let introduction = self.life.introduction(None);
        let Ok(other) = self.running.network.hello(address, &introduction, deadline).await else {
            return Err(ChangeError::Unreachable { address: address.to_owned() });
        };
        if let Some((id, old)) = old {
            let acknowledging = acknowledging(&self.running, self.life.config.timers.election_max);
            let moved = address != old.address;
            if other.name.incarnation == old.incarnation || (moved && acknowledging.contains(&id)) {
                return Err(ChangeError::StillAlive { id });
            }
        }
        let Some(cluster) = other.cluster else {
            let metrics = self.running.metrics.borrow_watched();
            let mut members = metrics.membership_config.nodes();
            return match members.find(|(_, member)| member.address == address) {
                Some((id, _)) if old.is_none() => Err(ChangeError::AlreadyMember { id: *id }),
                _ => Ok(Newcomer::Empty(other.name.incarnation)),
            };
        };
        let known = self.member(other.name.id);
        // An earlier attempt got this far. One that gave it the vote, too, is only repeated when it was added.
        let half_done = cluster == self.running.cluster
            && known.is_none_or(|known| known.incarnation == other.name.incarnation)
            && (old.is_none() || !self.voters().contains(&other.name.id));
        if half_done {
            Ok(Newcomer::Named(other.name))
        } else {
            Err(ChangeError::NotEmpty { address: address.to_owned() })
        }
    }

    /// Makes sure that the newcomer has an id that no other node ever had.
    async fn assign(
        &self,
        newcomer: Newcomer,
        address: String,
        deadline: Instant,
    ) -> Result<Target, ChangeError> {
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
            Err(_) => Err(ChangeError::Unreachable { address: target.address }),
        }
    }

    /// Waits a moment until so many voters are heard of that the change will not lose the quorum: a majority of those
    /// who vote now and of those who will. `lost` is not counted; `newcomer` is alive.
    async fn await_quorum(
        &self,
        lost: Option<u64>,
        after: &BTreeSet<u64>,
        newcomer: Option<u64>,
    ) -> Result<(), ChangeError> {
        let age = self.life.config.timers.election_max * 2;
        let patience = self.life.runtime.now() + age;
        loop {
            let mut alive = acknowledging(&self.running, age);
            alive.extend(newcomer);
            let alive: BTreeSet<u64> = alive.into_iter().filter(|id| Some(*id) != lost).collect();
            let voters = self.voters();
            let risk = [&voters, after].into_iter().find_map(|voters| {
                let alive: Vec<u64> = voters.intersection(&alive).copied().collect();
                let needed = voters.len() / 2 + 1;
                (alive.len() < needed).then_some(ChangeError::QuorumAtRisk { alive, needed })
            });
            let Some(risk) = risk else { return Ok(()) };
            if self.life.runtime.now() >= patience {
                return Err(risk);
            }
            self.life.runtime.sleep(self.life.config.timers.heartbeat).await;
        }
    }

    /// Waits until the learner holds all but the newest entries.
    async fn caught_up(&self, learner: u64) -> Result<(), ChangeError> {
        let goal = self.running.metrics.borrow_watched().last_log_index;
        let mut metrics = self.running.metrics.clone();
        let reached = metrics.wait_until(|metrics| {
            let Some(replication) = &metrics.replication else { return true };
            replication.get(&learner).is_some_and(|matched| matched.map(|id| id.index) >= goal)
        });
        match reached.await {
            Ok(metrics) if metrics.state == ServerState::Leader => Ok(()),
            _ => Err(ChangeError::Refused(Refusal::NotLeader { leader: None })),
        }
    }

    fn known(&self, id: u64) -> Result<Member, ChangeError> {
        self.member(id).ok_or(ChangeError::UnknownMember { id })
    }

    fn member(&self, id: u64) -> Option<Member> {
        self.running.metrics.borrow_watched().membership_config.get_node(&id).cloned()
    }

    fn voters(&self) -> BTreeSet<u64> {
        self.running.metrics.borrow_watched().membership_config.voter_ids().collect()
    }
}

/// Who becomes a member.
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

fn refused(error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> ChangeError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
            ChangeError::Refused(refusal(forward))
        }
        RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => {
            ChangeError::Unfinished { step: error.to_string() }
        }
        error => ChangeError::Unfinished { step: error.to_string() },
    }
}
