//! The service `peers` and its bodies. None of them is larger than its limits say, and what is larger is not read.

use std::collections::BTreeSet;
use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::crdt::Stamp;
use crate::rpc::{Ctx, Never};

/// Nodes that are known; entries of more are refused, until some of those are forgotten.
pub const NODES_MAX: usize = 1_024;
/// Nodes that left and are remembered; above it the oldest tombstones go first.
pub const TOMBSTONES_MAX: usize = 1_024;
/// Addresses of one node.
pub const ADDRESSES_MAX: usize = 8;
/// Services of one node.
pub const SERVICES_MAX: usize = 64;
/// Bytes in the name of a service.
pub const SERVICE_NAME_SIZE_MAX: usize = 128;
/// Entries in one direction of one exchange.
pub const ENTRIES_MAX: usize = 128;

/// Buckets of a digest: one datagram carries them.
pub(super) const BUCKETS: usize = 32;

/// The name of the service.
pub(super) const PATH: &str = "peers";

/// Brings two copies of the set of known endpoints together.
#[rpc_core::service(name = "peers")]
pub trait Peers {
    /// What the callee knows in those buckets in which its digest differs from the caller's.
    #[rpc(idempotent)]
    async fn digest(&self, ctx: Ctx, digest: Digest) -> Result<Difference, Never>;

    /// Takes the caller's news and gives the entries that it wants.
    #[rpc(idempotent)]
    async fn exchange(&self, ctx: Ctx, news: News) -> Result<Exchanged, Never>;
}

/// A node in the set of endpoints. The id stays the same when the node restarts or moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a node says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Advertisement {
    /// Changes when the node's process starts anew.
    pub epoch: u64,
    /// The names of what it serves. At most [`SERVICES_MAX`] of [`SERVICE_NAME_SIZE_MAX`] bytes.
    #[serde(deserialize_with = "service_names")]
    pub services: BTreeSet<String>,
    /// Whether it takes calls.
    pub state: State,
    /// Where it can be reached, best first; as text on the wire. At most [`ADDRESSES_MAX`].
    #[serde(serialize_with = "address_texts", deserialize_with = "address_list")]
    pub addresses: Vec<SocketAddr>,
}

impl From<SocketAddr> for Advertisement {
    /// A node at `address` of which nothing else is said.
    fn from(address: SocketAddr) -> Self {
        Self { addresses: vec![address], ..Self::default() }
    }
}

impl Advertisement {
    /// Within the limits, and with addresses that others can use.
    pub(super) fn check(&self) -> Result<(), Reason> {
        let useless = |address: &SocketAddr| address.ip().is_unspecified() || address.port() == 0;
        if self.addresses.len() > ADDRESSES_MAX {
            Err(Reason::TooManyAddresses)
        } else if self.addresses.iter().any(useless) {
            Err(Reason::UselessAddress)
        } else if self.services.len() > SERVICES_MAX {
            Err(Reason::TooManyServices)
        } else if self.services.iter().any(|name| name.len() > SERVICE_NAME_SIZE_MAX) {
            Err(Reason::LongServiceName)
        } else {
            Ok(())
        }
    }
}

/// Whether a node takes calls; a number on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "u8", into = "u8")]
pub enum State {
    /// It does.
    #[default]
    Serving,
    /// It is about to end and refuses new calls.
    Draining,
    /// A state that this version does not know.
    Other(u8),
}

impl From<u8> for State {
    fn from(number: u8) -> Self {
        match number {
            0 => Self::Serving,
            1 => Self::Draining,
            other => Self::Other(other),
        }
    }
}

impl From<State> for u8 {
    fn from(state: State) -> Self {
        match state {
            State::Serving => 0,
            State::Draining => 1,
            State::Other(number) => number,
        }
    }
}

/// The caller's copy in short: [`crate::crdt::LwwMap::digest`] in 32 buckets by node id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// One hash for each bucket.
    #[serde(deserialize_with = "at_most::<_, _, BUCKETS>")]
    pub buckets: Vec<u64>,
}

/// Where two copies differ, and what the callee has there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Numbers of the buckets that differ.
    #[serde(deserialize_with = "at_most::<_, _, BUCKETS>")]
    pub buckets: Vec<u32>,
    /// When each node in them was written last.
    #[serde(deserialize_with = "at_most::<_, _, { NODES_MAX + TOMBSTONES_MAX }>")]
    pub stamps: Vec<(NodeId, Stamp)>,
}

/// What the caller has and the callee lacks, and the other way round.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct News {
    /// What the callee lacks.
    #[serde(deserialize_with = "at_most::<_, _, ENTRIES_MAX>")]
    pub entries: Vec<Entry>,
    /// What the caller lacks.
    #[serde(deserialize_with = "at_most::<_, _, ENTRIES_MAX>")]
    pub wanted: Vec<NodeId>,
}

/// The answer to [`News`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchanged {
    /// What was wanted, as far as it is known here.
    #[serde(deserialize_with = "at_most::<_, _, ENTRIES_MAX>")]
    pub entries: Vec<Entry>,
    /// What was not taken, and why.
    #[serde(deserialize_with = "at_most::<_, _, ENTRIES_MAX>")]
    pub refused: Vec<Refusal>,
}

/// What one node last said of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Who.
    pub node: NodeId,
    /// When, by its own clock: the later entry wins.
    pub stamp: Stamp,
    /// How many milliseconds ago, by the clocks of those who held the entry.
    pub age_ms: u64,
    /// What; nothing if it left.
    pub advertisement: Option<Advertisement>,
}

/// An entry that was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Whose.
    pub node: NodeId,
    /// Why.
    pub reason: Reason,
}

/// Why an entry is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// [`NODES_MAX`] nodes are known.
    TooManyNodes,
    /// More than [`ADDRESSES_MAX`] addresses.
    TooManyAddresses,
    /// An address without host or port.
    UselessAddress,
    /// More than [`SERVICES_MAX`] services.
    TooManyServices,
    /// A name of more than [`SERVICE_NAME_SIZE_MAX`] bytes.
    LongServiceName,
    /// Written by a clock that is more than [`super::AHEAD_MAX`] ahead.
    FarAhead,
    /// A reason that this version does not know.
    #[serde(other)]
    Other,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooManyNodes => "too many nodes are known",
            Self::TooManyAddresses => "too many addresses",
            Self::UselessAddress => "an address without host or port",
            Self::TooManyServices => "too many services",
            Self::LongServiceName => "the name of a service is too long",
            Self::FarAhead => "written by a clock that is far ahead",
            Self::Other => "refused",
        })
    }
}

impl std::error::Error for Reason {}

fn address_texts<S: Serializer>(addresses: &[SocketAddr], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(addresses.iter().map(ToString::to_string))
}

fn address_list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<SocketAddr>, D::Error> {
    let texts: Vec<String> = at_most::<_, _, ADDRESSES_MAX>(deserializer)?;
    texts.iter().map(|text| text.parse().map_err(D::Error::custom)).collect()
}

fn service_names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<String>, D::Error> {
    Ok(at_most::<_, _, SERVICES_MAX>(deserializer)?.into_iter().collect())
}

/// Reads a list of at most `MAX` items; a longer one is an error as soon as the first item too many is there.
fn at_most<'de, D, T, const MAX: usize>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    deserializer.deserialize_seq(AtMost::<T, MAX>(PhantomData))
}

struct AtMost<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for AtMost<T, MAX> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {MAX} items")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
        // A claimed length allocates nothing.
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            if list.len() == MAX {
                return Err(A::Error::invalid_length(MAX + 1, &self));
            }
            list.push(item);
        }
        Ok(list)
    }
}
