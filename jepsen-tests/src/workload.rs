//! What the clients do. Every client has one workload, each with keys of its own, so that all of them run at once.
//!
//! Keys rotate so that each has few operations and few clients: that keeps the black-box search decided.

mod count;
mod recorder;
mod register;
mod resolve;
mod stale;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use kv_client::Client;
use rpc_core::random::SeededRandom;
use rpc_core::runtime::Instant;
use serde::{Deserialize, Serialize};

pub use self::recorder::{Change, Recorder};

/// What one client does over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    /// Gets, puts, cas and deletes on a few keys.
    Register,
    /// The same with values around the sizes at which something is cut into parts.
    Large,
    /// Deletes keys and creates them again, by cas from absent.
    Recreate,
    /// Writes each key once.
    Set,
    /// Adds one to a number by get and cas.
    Counter,
    /// Appends a name to a list by get and cas: none may be there twice.
    Append,
    /// Lets another client resolve a write that is on its way, or was not even sent.
    Resolve,
    /// Reads what single nodes have applied, which must be as fresh as they say.
    Stale,
}

impl Workload {
    /// All workloads with their names.
    pub const ALL: [(Self, &'static str); 8] = [
        (Self::Register, "register"),
        (Self::Large, "large"),
        (Self::Recreate, "recreate"),
        (Self::Set, "set"),
        (Self::Counter, "counter"),
        (Self::Append, "append"),
        (Self::Resolve, "resolve"),
        (Self::Stale, "stale"),
    ];

    /// The workloads of `clients` clients: every second one is the register, the others follow from the seed.
    pub fn draw(clients: u64, random: &mut SeededRandom) -> Vec<Self> {
        let mut others: Vec<Self> = Self::ALL.iter().skip(1).map(|(workload, _)| *workload).collect();
        random.shuffle(&mut others);
        let mut others = others.into_iter().cycle();
        (0..clients)
            .map(|client| if client % 2 == 0 { Some(Self::Register) } else { others.next() })
            .map(|workload| workload.unwrap_or(Self::Register))
            .collect()
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(workload, _)| workload == self).map_or("?", |(_, name)| name);
        f.write_str(name)
    }
}

impl FromStr for Workload {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.iter().find(|(_, known)| *known == name).map(|(workload, _)| *workload).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|(_, name)| *name).collect();
            format!("no workload `{name}`: there are {}", known.join(", "))
        })
    }
}

/// What one worker is given.
pub(crate) struct Worker {
    /// Writes down what it sees.
    pub recorder: Recorder,
    /// Its client.
    pub client: Client,
    /// A client of somebody else, with sessions of its own.
    pub other: Client,
    /// Clients that ask one node each.
    pub nodes: Vec<(u64, Client)>,
    /// Decides what it does.
    pub random: SeededRandom,
    /// The mean pause between two operations.
    pub pause: Duration,
    /// When it stops.
    pub end: Instant,
}

impl Worker {
    /// Works until the end.
    pub(crate) async fn run(self, workload: Workload) {
        match workload {
            Workload::Register => register::run(self, &register::REGISTER).await,
            Workload::Large => register::run(self, &register::LARGE).await,
            Workload::Recreate => register::run(self, &register::RECREATE).await,
            Workload::Set => register::insert(self).await,
            Workload::Counter => count::run(self, count::Kind::Counter).await,
            Workload::Append => count::run(self, count::Kind::List).await,
            Workload::Resolve => resolve::run(self).await,
            Workload::Stale => stale::run(self).await,
        }
    }

    fn is_over(&self) -> bool {
        self.recorder.clock().now() >= self.end
    }

    async fn rest(&mut self) {
        let jitter = self.random.below(u64::try_from(self.pause.as_nanos()).unwrap_or(u64::MAX) * 2);
        self.recorder.clock().sleep(Duration::from_nanos(jitter)).await;
    }

    /// The key number `number` of `name`, for about so many operations of the whole run.
    fn key(&self, name: &str, at_once: u64, number: u64) -> String {
        let generation = self.recorder.operations() / OPERATIONS_PER_GENERATION;
        self.recorder.key(&format!("{name}{}", generation * at_once + number))
    }
}

/// Operations of all clients before they move on to the next keys.
const OPERATIONS_PER_GENERATION: u64 = 450;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workload_comes_with_enough_seeds_and_every_second_client_is_a_register() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..50 {
            let drawn = Workload::draw(5, &mut SeededRandom::new(seed));
            assert_eq!(drawn.iter().filter(|workload| **workload == Workload::Register).count(), 3);
            seen.extend(drawn);
        }
        assert_eq!(seen.len(), Workload::ALL.len());
    }

    #[test]
    fn names_are_read_as_they_are_printed() {
        for (workload, name) in Workload::ALL {
            assert_eq!(name.parse(), Ok(workload));
            assert_eq!(workload.to_string(), name);
        }
        assert!("bank".parse::<Workload>().unwrap_err().contains("register, large"));
    }
}
