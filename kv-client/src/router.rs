//! Which node to ask next. Pure: addresses, answers and `now` in; an address out.
//!
//! The given endpoints are tried in their order. A node that answered stays preferred; one that failed is avoided for
//! a while; the leader that an answer names becomes the preferred one only after it was heard itself, because its
//! address may be one that cannot be reached from here.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use rpc_core::runtime::Instant;

/// For how long a node that did not answer is asked only if there is no other.
pub(crate) const SUSPICION: Duration = Duration::from_secs(1);
/// For how long a node that could not serve (no leader, no quorum, stopping) is asked only if there is no other.
pub(crate) const DETOUR: Duration = Duration::from_millis(100);
/// A node that was heard so recently needs no probe before it is used as the leader.
pub(crate) const HEARD_RECENTLY: Duration = Duration::from_secs(2);
/// The nodes that are remembered beside the given endpoints; beyond, the answers of others are not noted.
const NODES_MAX: usize = 256;

/// What is known of the nodes.
#[derive(Debug)]
pub(crate) struct Router {
    /// The addresses of each given endpoint, in the given order; empty until its name is resolved.
    endpoints: Vec<Vec<SocketAddr>>,
    nodes: BTreeMap<SocketAddr, Node>,
    preferred: Option<SocketAddr>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Node {
    heard: Option<Instant>,
    avoided_until: Option<Instant>,
    /// Whether the last thing known of it is silence.
    silent: bool,
}

impl Router {
    /// A router over `endpoint_count` endpoints whose addresses are not known yet.
    pub(crate) fn new(endpoint_count: usize) -> Self {
        Self { endpoints: vec![Vec::new(); endpoint_count], nodes: BTreeMap::new(), preferred: None }
    }

    /// The addresses of one endpoint's name, as resolved now.
    pub(crate) fn set_addresses(&mut self, endpoint: usize, addresses: Vec<SocketAddr>) {
        if let Some(known) = self.endpoints.get_mut(endpoint) {
            *known = addresses;
        }
    }

    /// The addresses of all endpoints, in order, each once.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        let mut addresses = Vec::new();
        for address in self.endpoints.iter().flatten() {
            if !addresses.contains(address) {
                addresses.push(*address);
            }
        }
        addresses
    }

    /// Whether an address of this endpoint is silent: its name may lead elsewhere by now.
    pub(crate) fn has_silent_address(&self, endpoint: usize) -> bool {
        let addresses = self.endpoints.get(endpoint).map_or(&[][..], Vec::as_slice);
        addresses.iter().any(|address| self.nodes.get(address).is_some_and(|node| node.silent))
    }

    /// The node to ask now: not one of `busy`, which are being asked already. `None` if there is none.
    pub(crate) fn choose(&self, now: Instant, busy: &[SocketAddr]) -> Option<SocketAddr> {
        let mut candidates: Vec<_> = self.preferred.into_iter().collect();
        candidates.extend(self.addresses());
        candidates.retain(|address| !busy.contains(address));
        let welcome = candidates.iter().find(|address| !self.is_avoided(**address, now));
        // When all are avoided: the one that was avoided first.
        welcome.or_else(|| candidates.iter().min_by_key(|address| self.avoided_until(**address))).copied()
    }

    /// A node was heard at `now`; it becomes the preferred one if there is none.
    pub(crate) fn heard(&mut self, address: SocketAddr, now: Instant) {
        if let Some(node) = self.node(address) {
            *node = Node { heard: Some(now), avoided_until: None, silent: false };
            self.preferred.get_or_insert(address);
        }
    }

    /// A node did not answer.
    pub(crate) fn silent(&mut self, address: SocketAddr, now: Instant) {
        if let Some(node) = self.node(address) {
            node.silent = true;
        }
        self.avoid(address, now + SUSPICION);
    }

    /// A node answered that it cannot serve.
    pub(crate) fn detour(&mut self, address: SocketAddr, now: Instant) {
        self.avoid(address, now + DETOUR);
    }

    /// The leader has answered: ask it first from now on.
    pub(crate) fn prefer(&mut self, address: SocketAddr, now: Instant) {
        self.heard(address, now);
        if self.nodes.contains_key(&address) {
            self.preferred = Some(address);
        }
    }

    /// Whether `address` was heard so recently that it needs no probe.
    pub(crate) fn is_fresh(&self, address: SocketAddr, now: Instant) -> bool {
        !self.is_avoided(address, now)
            && self
                .nodes
                .get(&address)
                .and_then(|node| node.heard)
                .is_some_and(|heard| now - heard < HEARD_RECENTLY)
    }

    /// Whether anything was ever heard of `address`.
    pub(crate) fn was_heard(&self, address: SocketAddr) -> bool {
        self.nodes.get(&address).is_some_and(|node| node.heard.is_some())
    }

    /// Whether `address` is the preferred node.
    pub(crate) fn is_preferred(&self, address: SocketAddr) -> bool {
        self.preferred == Some(address)
    }

    /// Whether `address` is asked only if there is no other.
    pub(crate) fn is_avoided(&self, address: SocketAddr, now: Instant) -> bool {
        self.avoided_until(address).is_some_and(|until| now < until)
    }

    fn avoided_until(&self, address: SocketAddr) -> Option<Instant> {
        self.nodes.get(&address).and_then(|node| node.avoided_until)
    }

    fn avoid(&mut self, address: SocketAddr, until: Instant) {
        if let Some(node) = self.node(address) {
            node.avoided_until = Some(until);
        }
        if self.preferred == Some(address) {
            self.preferred = None;
        }
    }

    fn node(&mut self, address: SocketAddr) -> Option<&mut Node> {
        if self.nodes.len() >= NODES_MAX && !self.nodes.contains_key(&address) {
            return None;
        }
        Some(self.nodes.entry(address).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    fn router() -> Router {
        let mut router = Router::new(3);
        for (endpoint, port) in [1, 2, 3].into_iter().enumerate() {
            router.set_addresses(endpoint, vec![address(port)]);
        }
        router
    }

    #[test]
    fn endpoints_are_tried_in_their_order() {
        let mut router = router();
        assert_eq!(router.choose(at(0), &[]), Some(address(1)));
        assert_eq!(router.choose(at(0), &[address(1)]), Some(address(2)));
        router.silent(address(1), at(0));
        assert_eq!(router.choose(at(1), &[]), Some(address(2)));
        router.silent(address(2), at(1));
        router.silent(address(3), at(2));
        assert_eq!(router.choose(at(3), &[]), Some(address(1)), "when all are avoided, the first avoided");
        assert_eq!(router.choose(at(3), &[address(1), address(2), address(3)]), None);
    }

    #[test]
    fn who_answered_stays_preferred_until_it_fails() {
        let mut router = router();
        router.heard(address(2), at(0));
        assert_eq!(router.choose(at(1), &[]), Some(address(2)));
        router.heard(address(3), at(1));
        assert_eq!(router.choose(at(1), &[]), Some(address(2)));
        router.detour(address(2), at(2));
        assert_eq!(router.choose(at(3), &[]), Some(address(1)));
        assert!(router.is_avoided(address(2), at(3)));
        assert!(!router.is_avoided(address(2), at(200)));
    }

    #[test]
    fn a_leader_outside_the_endpoints_can_be_preferred_and_is_left_when_silent() {
        let mut router = router();
        assert!(!router.is_fresh(address(9), at(0)));
        router.prefer(address(9), at(0));
        assert!(router.is_fresh(address(9), at(1)));
        assert_eq!(router.choose(at(1), &[]), Some(address(9)));
        router.silent(address(9), at(2));
        assert_eq!(router.choose(at(3), &[]), Some(address(1)));
        assert!(!router.is_fresh(address(9), at(3)));
    }

    #[test]
    fn a_name_with_a_silent_address_is_looked_up_again() {
        let mut router = router();
        router.silent(address(1), at(0));
        assert!(router.has_silent_address(0));
        assert!(!router.has_silent_address(1));
        router.set_addresses(0, vec![address(7)]);
        assert!(!router.has_silent_address(0));
        assert_eq!(router.choose(at(1), &[]), Some(address(7)));
    }

    #[test]
    fn without_an_address_there_is_nobody_to_ask() {
        assert_eq!(Router::new(2).choose(at(0), &[]), None);
    }
}
