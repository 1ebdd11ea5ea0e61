//! How an empty node finds out what to do: found a cluster with the others, wait to be taken in, or admit that its
//! data was lost. Pure: who said what goes in, what to do comes out.
//!
//! An empty node must never act on an old promise it does not remember. So a cluster is founded only when *every*
//! listed member said that it is empty too, by the lowest of them, with exactly the incarnations that they named; an
//! empty node that a cluster knows by another incarnation neither votes nor appends.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::identity::NodeName;
use crate::types::Member;

/// What a node says about itself when it meets another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Introduction {
    /// The id in its configuration: the one under which others list its address.
    #[serde(rename = "o")]
    pub(crate) configured: u64,
    /// Who it is.
    #[serde(rename = "n")]
    pub(crate) name: NodeName,
    /// Its cluster; `None` when it is empty.
    #[serde(rename = "c")]
    pub(crate) cluster: Option<u128>,
    /// As whom its cluster knows the node it speaks to, by id or by address.
    #[serde(rename = "k")]
    pub(crate) knows_you: Option<NodeName>,
    /// The ids in its configuration, ascending.
    #[serde(rename = "l")]
    pub(crate) listed: Vec<u64>,
}

/// What an empty node should do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Ask these members who they are.
    Ask(Vec<u64>),
    /// Found a cluster of exactly these members.
    Found(BTreeMap<u64, Member>),
    /// Wait for a member of the cluster to call.
    Wait,
    /// Do nothing: the cluster knows this node, as this id, by another incarnation.
    Replaced(u64),
}

/// What an empty node has heard so far.
#[derive(Clone, Debug)]
pub(crate) struct Formation {
    own: NodeName,
    members: BTreeMap<u64, String>,
    joining: bool,
    heard: BTreeMap<u64, Introduction>,
}

impl Formation {
    /// An empty node that has heard nothing. `members` are the listed ones, itself included.
    pub(crate) fn new(own: NodeName, members: BTreeMap<u64, String>, joining: bool) -> Self {
        Self { own, members, joining, heard: BTreeMap::new() }
    }

    /// Takes in what a listed member says; the latest word counts.
    pub(crate) fn hear(&mut self, introduction: Introduction) {
        let slot = introduction.configured;
        if self.members.contains_key(&slot) && slot != self.own.id {
            self.heard.insert(slot, introduction);
        }
    }

    /// What to do now.
    pub(crate) fn step(&self) -> Step {
        let mut in_cluster = self.heard.values().filter(|other| other.cluster.is_some()).peekable();
        if in_cluster.peek().is_some() {
            let lost = in_cluster
                .filter_map(|other| other.knows_you)
                .find(|known| known.incarnation != self.own.incarnation);
            return lost.map_or(Step::Wait, |known| Step::Replaced(known.id));
        }
        if self.joining {
            return Step::Wait;
        }
        let missing: Vec<u64> = self.others().filter(|id| !self.is_partner(*id)).collect();
        if !missing.is_empty() {
            return Step::Ask(missing);
        }
        if self.members.keys().next() != Some(&self.own.id) {
            return Step::Wait;
        }
        let incarnation = |id: &u64| match self.heard.get(id) {
            Some(other) => other.name.incarnation,
            None => self.own.incarnation,
        };
        let member = |(id, address): (&u64, &String)| {
            (*id, Member { incarnation: incarnation(id), address: address.clone() })
        };
        Step::Found(self.members.iter().map(member).collect())
    }

    /// Whether a listed member said that it is `name` and belongs to `cluster`.
    pub(crate) fn vouches(&self, name: NodeName, cluster: u128) -> bool {
        self.heard.values().any(|other| other.name == name && other.cluster == Some(cluster))
    }

    fn others(&self) -> impl Iterator<Item = u64> {
        self.members.keys().copied().filter(|id| *id != self.own.id)
    }

    /// Whether the member said that it is empty, is who we think, and lists the same members. One that lists others
    /// might found a cluster of its own with them.
    fn is_partner(&self, id: u64) -> bool {
        self.heard.get(&id).is_some_and(|other| {
            other.name.id == id && other.cluster.is_none() && self.members.keys().eq(other.listed.iter())
        })
    }
}

#[cfg(test)]
mod tests;
