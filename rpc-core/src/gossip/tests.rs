use std::net::Ipv4Addr;

use super::*;
use crate::crdt::Stamp;
use crate::driver::fault::LinkPolicy;
use crate::rpc::codec;
use crate::sim::World;

const MINUTE: Duration = Duration::from_secs(60);

fn address(port: u64) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port as u16))
}

/// Nodes of a simulated world; node `n` is at port `7000 + n` unless it moves.
struct Mesh {
    world: World,
    config: Config,
    nodes: BTreeMap<u64, (Peer, Gossip)>,
}

impl Mesh {
    fn new(seed: u64, loss: u32) -> Self {
        let world = World::new(seed);
        world.set_default_link(LinkPolicy {
            loss,
            delay_min_us: 200,
            delay_max_us: 2_000,
            ..LinkPolicy::default()
        });
        Self { world, config: Config::default(), nodes: BTreeMap::new() }
    }

    /// Rounds are rare where minutes must pass: what is shown does not depend on how many there are.
    fn calm(seed: u64, loss: u32) -> Self {
        let config = Config { interval: Duration::from_secs(8), ..Config::default() };
        Self { config, ..Self::new(seed, loss) }
    }

    /// Nodes 1 to `count`, all of which know the address of the first.
    fn grow(&mut self, count: u64) {
        for node in 1..=count {
            self.start(node, 7_000 + node, 7_001);
        }
    }

    fn start(&mut self, node: u64, port: u64, seed: u64) {
        let runtime = self.world.start(node);
        let gossip = Gossip::new(runtime.clone(), NodeId(node), self.config.clone());
        let socket = self.world.bind(node, address(port));
        let epoch = runtime.random_u64();
        let peer = Peer::builder(runtime).start_insecure(socket).unwrap();
        let own = Advertisement { epoch, services: ["mesh".to_owned()].into(), ..address(port).into() };
        gossip.start(&peer, own, [address(seed)]).unwrap();
        self.nodes.insert(node, (peer, gossip));
    }

    fn crash(&mut self, node: u64) {
        self.world.crash(node);
        self.nodes.remove(&node);
    }

    fn gossip(&self, node: u64) -> Gossip {
        self.nodes[&node].1.clone()
    }

    fn sleep(&self, duration: Duration) {
        let observer = self.world.observer();
        self.world.run(async move { observer.sleep(duration).await });
    }

    fn leave(&mut self, node: u64) -> usize {
        let (peer, gossip) = self.nodes.remove(&node).unwrap();
        self.world.run(async move {
            let told = gossip.leave().await;
            peer.close().await;
            told
        })
    }

    /// Time until every living node knows exactly `expected`, looked at ten times a second.
    fn until_known(&self, expected: &[u64], patience: Duration) -> Duration {
        let begun = self.world.now();
        while !self.nodes.values().all(|(_, gossip)| ids(gossip) == expected) {
            let known: Vec<_> = self.nodes.iter().map(|(node, (_, gossip))| (node, ids(gossip))).collect();
            assert!(self.world.now() - begun < patience, "{known:?} instead of {expected:?}");
            self.sleep(Duration::from_millis(100));
        }
        self.world.now() - begun
    }

    /// Cuts or joins all links between `left` and the others.
    fn cut(&self, left: &[u64]) {
        for one in self.nodes.keys() {
            for other in self.nodes.keys() {
                if left.contains(one) != left.contains(other) {
                    self.world.set_link(*one, *other, LinkPolicy { cut: true, ..LinkPolicy::default() });
                }
            }
        }
    }

    /// Calls the service of node 1 as somebody who is no node.
    fn stranger(&self) -> PeersClient {
        let runtime = self.world.start(99);
        let peer = Peer::builder(runtime).start_insecure(self.world.bind(99, address(7_099))).unwrap();
        PeersClient::new(peer.remote(address(7_001)))
    }
}

fn ids(gossip: &Gossip) -> Vec<u64> {
    gossip.known().into_keys().map(|node| node.0).collect()
}

fn entry(node: u64, wall_ms: u64) -> Entry {
    let stamp = Stamp { wall_ms, counter: 0, writer: node };
    Entry { node: NodeId(node), stamp, age_ms: 0, advertisement: Some(address(7_000 + node % 1_000).into()) }
}

/// The wall clock of simulated worlds begins here: 2026-01-01.
const WALL_MS: u64 = 1_767_225_600_000;

fn news(entries: Vec<Entry>) -> News {
    News { entries, wanted: Vec::new() }
}

#[test]
fn twenty_nodes_learn_all_from_one_address_within_ten_rounds_at_10_percent_loss() {
    for seed in 0..5 {
        let mut mesh = Mesh::new(seed, 100_000);
        mesh.grow(20);
        let all: Vec<_> = (1..=20).collect();
        mesh.until_known(&all, MINUTE);
        let rounds = mesh.nodes.values().map(|(_, gossip)| gossip.counters().rounds).max().unwrap();
        assert!(rounds <= 10, "seed {seed}: {rounds} rounds");
        assert!(mesh.world.fault_hits().lost > 0);
    }
}

#[test]
fn a_set_at_rest_sends_digests_and_the_entries_that_were_written_anew() {
    let mut mesh = Mesh::new(7, 0);
    mesh.grow(10);
    mesh.sleep(2 * MINUTE);
    let sent =
        |mesh: &Mesh| mesh.nodes.values().map(|(_, gossip)| gossip.counters().entries_sent).sum::<u64>();
    let before = sent(&mesh);
    mesh.sleep(5 * MINUTE);
    // Each of 10 nodes writes its entry each 30 s, and 9 others get it; some of them get it twice at once.
    let (written, sent) = (10 * 10 * 9, sent(&mesh) - before);
    assert!((written..written * 3 / 2).contains(&sent), "{sent} entries sent, {written} needed");
}

#[test]
fn a_change_travels_faster_than_the_rounds() {
    let mut mesh = Mesh::new(8, 0);
    mesh.grow(20);
    mesh.sleep(MINUTE);
    let draining = Advertisement { state: State::Draining, ..address(7_005).into() };
    mesh.gossip(5).advertise(draining.clone()).unwrap();
    let begun = mesh.world.now();
    let heard = |mesh: &Mesh| {
        mesh.nodes.values().all(|(_, gossip)| gossip.find(NodeId(5)).as_ref() == Some(&draining))
    };
    while !heard(&mesh) {
        mesh.sleep(Duration::from_millis(50));
    }
    let took = mesh.world.now() - begun;
    assert!(took < Duration::from_millis(2_500), "{took:?}");
}

#[test]
fn a_watch_tells_of_every_change() {
    let mut mesh = Mesh::new(9, 0);
    mesh.grow(1);
    let mut watch = mesh.gossip(1).watch();
    let observer = mesh.world.observer();
    let waiting = observer.spawn("watch", async move {
        watch.changed().await;
        watch
    });
    mesh.start(2, 7_002, 7_001);
    let mut watch = mesh.world.run(async move { waiting.await.unwrap() });
    mesh.until_known(&[1, 2], MINUTE);
    // Rewritten entries are no change.
    mesh.world.run(async move {
        let quiet = observer.timeout(3 * MINUTE, async {
            loop {
                watch.changed().await;
            }
        });
        assert!(quiet.await.is_err());
        let counted = observer.timeout(MINUTE, watch.changed()).await;
        assert!(counted.is_err(), "nothing is told twice");
    });
}

#[test]
fn a_parted_network_forgets_the_other_side_and_learns_it_again() {
    let mut mesh = Mesh::calm(10, 20_000);
    mesh.grow(8);
    let all: Vec<_> = (1..=8).collect();
    mesh.until_known(&all, MINUTE);
    mesh.cut(&[1, 2, 3, 4]);
    mesh.sleep(8 * MINUTE);
    assert_eq!(ids(&mesh.gossip(2)), [1, 2, 3, 4]);
    assert_eq!(ids(&mesh.gossip(7)), [5, 6, 7, 8]);
    mesh.world.heal_links();
    // The side without node 1 still has its address from the start.
    mesh.until_known(&all, MINUTE);
}

#[test]
fn a_node_that_moved_is_found_at_its_new_address() {
    let mut mesh = Mesh::new(11, 20_000);
    mesh.grow(6);
    mesh.until_known(&[1, 2, 3, 4, 5, 6], MINUTE);
    let old = mesh.gossip(1).find(NodeId(4)).unwrap();
    mesh.crash(4);
    // Its wall clock was set back meanwhile: its first stamp is older than that of the entry it replaces.
    let clock = mesh.world.clone();
    mesh.start(4, 7_104, 7_002);
    clock.jump_wall_clock(4, -3_600_000);
    mesh.sleep(20 * Duration::from_secs(1));
    for (node, (_, gossip)) in &mesh.nodes {
        let found = gossip.find(NodeId(4)).unwrap();
        assert_eq!(found.addresses, [address(7_104)], "node {node}");
        assert_ne!(found.epoch, old.epoch);
    }
}

#[test]
fn a_node_that_left_does_not_come_back_from_an_old_copy() {
    let mut mesh = Mesh::calm(12, 20_000);
    mesh.grow(6);
    mesh.until_known(&[1, 2, 3, 4, 5, 6], MINUTE);
    // Node 6 does not hear that node 3 leaves, and keeps the old entry.
    mesh.cut(&[6]);
    assert!(mesh.leave(3) > 0);
    mesh.sleep(Duration::from_secs(10));
    assert_eq!(ids(&mesh.gossip(1)), [1, 2, 4, 5, 6]);
    assert_eq!(ids(&mesh.gossip(6)), [1, 2, 3, 4, 5, 6]);
    mesh.world.heal_links();
    mesh.until_known(&[1, 2, 4, 5, 6], MINUTE);
    mesh.sleep(10 * MINUTE);
    mesh.until_known(&[1, 2, 4, 5, 6], MINUTE);
}

#[test]
fn a_node_that_left_may_return_as_itself() {
    let mut mesh = Mesh::new(13, 0);
    mesh.grow(4);
    mesh.until_known(&[1, 2, 3, 4], MINUTE);
    mesh.leave(3);
    mesh.until_known(&[1, 2, 4], MINUTE);
    mesh.start(3, 7_003, 7_001);
    mesh.until_known(&[1, 2, 3, 4], MINUTE);
}

#[test]
fn a_silent_node_is_forgotten_by_all_and_stays_forgotten() {
    let mut mesh = Mesh::calm(14, 20_000);
    mesh.grow(6);
    mesh.until_known(&[1, 2, 3, 4, 5, 6], MINUTE);
    mesh.crash(5);
    mesh.sleep(4 * MINUTE);
    assert!(ids(&mesh.gossip(1)).contains(&5), "silence must last");
    mesh.until_known(&[1, 2, 3, 4, 6], 2 * MINUTE);
    for _ in 0..60 {
        mesh.sleep(Duration::from_secs(10));
        mesh.until_known(&[1, 2, 3, 4, 6], Duration::from_millis(1));
    }
}

#[test]
fn wall_clocks_that_disagree_by_hours_do_no_harm() {
    let mut mesh = Mesh::calm(15, 0);
    mesh.grow(6);
    mesh.world.jump_wall_clock(2, 6 * 3_600_000);
    mesh.world.jump_wall_clock(3, -6 * 3_600_000);
    mesh.sleep(10 * MINUTE);
    mesh.until_known(&[1, 2, 3, 4, 5, 6], Duration::from_millis(1));
    mesh.leave(2);
    mesh.leave(3);
    mesh.until_known(&[1, 4, 5, 6], MINUTE);
}

#[test]
fn what_others_say_of_a_node_is_outbid_by_the_node() {
    let mut mesh = Mesh::new(16, 0);
    mesh.grow(3);
    mesh.until_known(&[1, 2, 3], MINUTE);
    let stranger = mesh.stranger();
    let lie = Entry { advertisement: None, ..entry(3, WALL_MS + 23 * 3_600_000) };
    mesh.world.run(async move {
        let answer = stranger.exchange(news(vec![lie])).await.unwrap();
        assert_eq!(answer.refused, []);
    });
    assert_eq!(ids(&mesh.gossip(1)), [1, 2], "it is believed until the node hears of it");
    mesh.until_known(&[1, 2, 3], Duration::from_secs(10));
}

#[test]
fn an_entry_from_a_clock_far_ahead_is_refused_by_name() {
    let mut mesh = Mesh::new(17, 0);
    mesh.grow(1);
    let stranger = mesh.stranger();
    mesh.world.run(async move {
        let entries = vec![entry(1, u64::MAX), entry(50, u64::MAX), entry(51, WALL_MS)];
        let answer = stranger.exchange(news(entries)).await.unwrap();
        let refused = [1, 50].map(|node| Refusal { node: NodeId(node), reason: Reason::FarAhead });
        assert_eq!(answer.refused, refused);
    });
    assert_eq!(ids(&mesh.gossip(1)), [1, 51]);
}

#[test]
fn entries_above_the_limits_are_refused_by_name() {
    let mut mesh = Mesh::new(18, 0);
    mesh.grow(1);
    let stranger = mesh.stranger();
    let with = |node, edit: fn(&mut Advertisement)| {
        let mut entry = entry(node, WALL_MS);
        edit(entry.advertisement.as_mut().unwrap());
        entry
    };
    let entries = vec![
        with(50, |own| own.addresses = vec!["0.0.0.0:1".parse().unwrap()]),
        with(51, |own| own.services = ["x".repeat(SERVICE_NAME_SIZE_MAX + 1)].into()),
    ];
    mesh.world.run(async move {
        let refused = stranger.exchange(news(entries)).await.unwrap().refused;
        let reasons: Vec<_> = refused.into_iter().map(|refusal| refusal.reason).collect();
        assert_eq!(reasons, [Reason::UselessAddress, Reason::LongServiceName]);
    });
    assert_eq!(ids(&mesh.gossip(1)), [1]);
    let own = Advertisement { addresses: vec![address(1); ADDRESSES_MAX + 1], ..Advertisement::default() };
    assert_eq!(mesh.gossip(1).advertise(own), Err(Reason::TooManyAddresses));
}

#[test]
fn a_huge_exchange_is_refused_before_it_is_read() {
    let mut mesh = Mesh::new(19, 0);
    mesh.grow(1);
    let stranger = mesh.stranger();
    let too_many = (0..=ENTRIES_MAX as u64).map(|node| entry(100 + node, WALL_MS)).collect();
    mesh.world.run(async move {
        let CallError::Rpc(error) = stranger.exchange(news(too_many)).await.unwrap_err();
        assert_eq!(error.code, crate::rpc::Code::BadRequest);
        assert_eq!(error.outcome, crate::rpc::Outcome::NotExecuted);
        assert!(error.message.contains("at most 128 items"), "{error}");
    });
    assert_eq!(ids(&mesh.gossip(1)), [1]);
}

#[test]
fn a_flood_of_invented_nodes_ends_at_the_limit_and_goes_again() {
    let mut mesh = Mesh::calm(20, 0);
    mesh.grow(2);
    mesh.until_known(&[1, 2], MINUTE);
    let stranger = mesh.stranger();
    let refused = mesh.world.run(async move {
        let mut refused = 0;
        for batch in 0..20 {
            let nodes = (0..ENTRIES_MAX as u64).map(|node| 1_000 + batch * 1_000 + node);
            let entries = nodes.map(|node| entry(node, WALL_MS)).collect();
            refused += stranger.exchange(news(entries)).await.unwrap().refused.len();
        }
        refused
    });
    assert_eq!(mesh.gossip(1).known().len(), NODES_MAX);
    assert_eq!(refused, 20 * ENTRIES_MAX - (NODES_MAX - 2));
    mesh.sleep(MINUTE);
    assert_eq!(mesh.gossip(2).known().len(), NODES_MAX, "many exchanges in one round carry it all");
    mesh.until_known(&[1, 2], 6 * MINUTE);
}

#[test]
fn a_flood_of_tombstones_ends_at_the_limit() {
    let moment = Moment { now: crate::runtime::Instant::from_nanos(0), wall_ms: WALL_MS };
    let mut set = EndpointSet::new(NodeId(1), MINUTE, MINUTE);
    for node in 2..5_000 {
        let moment = Moment { now: moment.now + Duration::from_millis(node), ..moment };
        let entry = Entry { advertisement: None, ..entry(node, WALL_MS) };
        assert_eq!(set.take(moment, vec![entry]).refused, []);
    }
    let left = set.difference(&Digest { buckets: Vec::new() }).stamps;
    assert_eq!(left.len(), TOMBSTONES_MAX);
    assert!(left.iter().all(|(node, _)| node.0 >= 5_000 - TOMBSTONES_MAX as u64), "the latest stay");
}

#[test]
fn who_left_serves_the_set_no_more_and_is_freed() {
    let mut mesh = Mesh::calm(21, 0);
    mesh.grow(2);
    mesh.until_known(&[1, 2], MINUTE);
    let (peer, gossip) = mesh.nodes.remove(&1).unwrap();
    let inner = Arc::downgrade(&gossip.inner);
    mesh.world.run(async move {
        assert_eq!(gossip.leave().await, 1);
        assert_eq!(gossip.leave().await, 0, "again");
    });
    mesh.sleep(Duration::from_secs(3));
    assert!(!peer.services().names().iter().any(|name| name.starts_with(PATH)));
    assert!(inner.upgrade().is_none(), "nothing holds the set");
}

#[test]
fn an_entry_has_the_shape_that_the_protocol_names() {
    let entry = Entry { age_ms: 5, ..entry(2, 3) };
    let value: ciborium::Value = codec::decode(&codec::encode(&entry).unwrap()).unwrap();
    let text = format!("{value:?}");
    for part in
        ["\"node\"", "\"stamp\"", "\"age_ms\"", "\"advertisement\"", "\"addresses\"", "\"127.0.0.1:7002\""]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert_eq!(codec::decode::<Entry>(&codec::encode(&entry).unwrap()), Ok(entry));
    assert_eq!(codec::decode::<Reason>(&codec::encode("SomethingNew").unwrap()), Ok(Reason::Other));
}

/// A copy of the set by itself: who is silent is forgotten after a minute, a tombstone after an hour.
fn lone_set() -> EndpointSet {
    let mut set = EndpointSet::new(NodeId(1), MINUTE, 60 * MINUTE);
    set.write_own(after(Duration::ZERO), Some(address(7_001).into()));
    set
}

/// So long after the beginning, by both clocks.
fn after(passed: Duration) -> Moment {
    let now = crate::runtime::Instant::from_nanos(1_000_000_000) + passed;
    Moment { now, wall_ms: WALL_MS + passed.as_millis() as u64 }
}

fn tombstone(node: u64, wall_ms: u64) -> Entry {
    Entry { advertisement: None, ..entry(node, wall_ms) }
}

#[test]
fn an_entry_is_kept_for_as_long_as_it_is_young_whoever_sends_it_again() {
    let mut set = lone_set();
    let second = Duration::from_secs(1);
    let old = Entry { age_ms: 40_000, ..entry(2, WALL_MS) };
    assert!(set.take(after(Duration::ZERO), vec![old]).changed);
    let again = set.take(after(10 * second), vec![entry(2, WALL_MS)]);
    assert!(!again.changed, "the same entry, said to be young");
    assert_eq!(set.entries(after(15 * second), &[NodeId(2)])[0].age_ms, 55_000);
    assert!(!set.expire(after(20 * second - Duration::from_millis(1))));
    assert!(set.expire(after(20 * second)), "a node went");
    assert!(set.find(NodeId(2)).is_none());
    let dead = Entry { age_ms: 60_000, ..entry(3, WALL_MS) };
    let taken = set.take(after(20 * second), vec![dead]);
    assert!(!taken.changed && taken.refused.is_empty() && set.find(NodeId(3)).is_none());

    assert!(!set.take(after(20 * second), vec![tombstone(4, WALL_MS)]).changed);
    let aged = set.entries(after(20 * second + 10 * MINUTE), &[NodeId(4)]);
    assert_eq!((aged[0].age_ms, &aged[0].advertisement), (600_000, &None));
    assert!(!set.expire(after(2 * 60 * MINUTE)), "a tombstone that went is no change");
    let left = set.difference(&Digest { buckets: Vec::new() }).stamps;
    assert_eq!(left.iter().map(|(node, _)| node.0).collect::<Vec<_>>(), [1], "who is here stays");
}

#[test]
fn tombstones_are_counted_as_nodes_come_and_go_and_the_own_one_stays() {
    let mut set = lone_set();
    let moment = after(Duration::ZERO);
    for wall_ms in (0..2 * TOMBSTONES_MAX as u64).step_by(2) {
        set.take(moment, vec![entry(2, wall_ms), tombstone(2, wall_ms + 1)]);
    }
    set.take(moment, vec![tombstone(3, WALL_MS)]);
    assert_eq!(set.entries(moment, &[NodeId(2), NodeId(3)]).len(), 2, "there are two");
    set.write_own(moment, None);
    let flood = |node: u64| after(Duration::from_millis(node));
    for node in 10..10 + 2 * TOMBSTONES_MAX as u64 {
        set.take(flood(node), vec![tombstone(node, WALL_MS)]);
    }
    let left = set.entries(moment, &[NodeId(1), NodeId(2), NodeId(10)]);
    assert_eq!(left.iter().map(|entry| entry.node.0).collect::<Vec<_>>(), [1], "the oldest of others went");
}

#[test]
fn at_the_limit_who_is_known_may_say_something_new() {
    let mut set = lone_set();
    let moment = after(Duration::ZERO);
    let nodes: Vec<_> = (2..=NODES_MAX as u64).map(|node| entry(node, WALL_MS)).collect();
    assert_eq!(set.take(moment, nodes).refused, []);
    let moved = Entry { advertisement: Some(address(9).into()), ..entry(2, WALL_MS + 1) };
    let taken = set.take(moment, vec![moved, entry(5_000, WALL_MS)]);
    assert_eq!(taken.refused, [Refusal { node: NodeId(5_000), reason: Reason::TooManyNodes }]);
    assert_eq!(set.find(NodeId(2)), Some(&address(9).into()));
}

#[test]
fn what_fits_one_exchange_needs_no_other_and_a_digest_of_another_length_differs_everywhere() {
    let moment = after(Duration::ZERO);
    for (count, more) in [(ENTRIES_MAX as u64, false), (ENTRIES_MAX as u64 + 1, true)] {
        let mut set = EndpointSet::new(NodeId(1), MINUTE, MINUTE);
        set.take(moment, (2..2 + count).map(|node| entry(node, WALL_MS)).collect());
        let nobody = EndpointSet::new(NodeId(0), MINUTE, MINUTE);
        let (news, again) = set.news(moment, &nobody.difference(&set.digest()));
        assert_eq!((news.entries.len(), again), (ENTRIES_MAX, more));
        let stamps = set.difference(&Digest { buckets: vec![0; 3] }).stamps;
        assert_eq!(stamps.len() as u64, count);
        let (news, again) = nobody.news(moment, &set.difference(&nobody.digest()));
        assert_eq!((news.wanted.len(), again), (ENTRIES_MAX, more));
    }
}

#[test]
fn a_node_alone_does_not_speak_with_itself() {
    let mut mesh = Mesh::new(22, 0);
    mesh.grow(1);
    mesh.sleep(MINUTE);
    assert_eq!(mesh.gossip(1).counters(), Counters::default());
}

#[test]
fn rounds_and_entries_are_counted_on_both_sides() {
    let mut mesh = Mesh::new(23, 0);
    mesh.start(2, 7_002, 7_001);
    mesh.sleep(10 * Duration::from_secs(1));
    let counters = mesh.gossip(2).counters();
    assert!(counters.rounds > 0 && counters.rounds_failed > 0, "nobody is there: {counters:?}");
    assert!(counters.rounds_failed <= counters.rounds && counters.entries_sent == 0);
    mesh.start(1, 7_001, 7_002);
    mesh.until_known(&[1, 2], MINUTE);
    let [one, two] = [1, 2].map(|node| mesh.gossip(node).counters());
    assert_eq!((one.entries_received, two.entries_received), (two.entries_sent, one.entries_sent));
    assert!(one.entries_received > 0 && two.entries_received > 0);
}

#[test]
fn entries_that_others_refuse_are_counted_and_not_offered_again_in_the_round() {
    let mut mesh = Mesh::calm(24, 0);
    mesh.grow(2);
    mesh.until_known(&[1, 2], MINUTE);
    // Node 2 knows more than fits an exchange of nodes whose clocks are too far ahead for node 1.
    mesh.world.jump_wall_clock(2, 24 * 3_600_000);
    let ahead = WALL_MS + 30 * 3_600_000;
    // All of them are said to be where node 1 is, with whom it speaks.
    let invented = |node| Entry { advertisement: Some(address(7_001).into()), ..entry(node, ahead) };
    let entries = (100..100 + 2 * ENTRIES_MAX as u64).map(invented).collect::<Vec<_>>();
    assert_eq!(mesh.gossip(2).inner.take(entries), []);
    mesh.sleep(Duration::from_secs(30));
    let [one, two] = [1, 2].map(|node| mesh.gossip(node).counters());
    assert!(two.entries_refused_by_others > 0 && one.entries_refused > 0, "{one:?} {two:?}");
    let exchanges = one.rounds + two.rounds;
    let refused = one.entries_refused / ENTRIES_MAX as u64;
    assert!(refused <= exchanges, "{refused} exchanges were refused in {exchanges} rounds");
}

#[test]
fn a_node_that_would_write_its_entry_too_rarely_writes_it_in_time() {
    let mut mesh = Mesh::calm(25, 0);
    mesh.config.refresh = 60 * MINUTE;
    mesh.grow(2);
    mesh.until_known(&[1, 2], MINUTE);
    for _ in 0..30 {
        mesh.sleep(MINUTE);
        mesh.until_known(&[1, 2], Duration::from_millis(1));
    }
}

#[test]
fn a_watch_tells_who_was_forgotten_and_who_leaves_tells_three() {
    let mut mesh = Mesh::calm(26, 0);
    mesh.grow(6);
    mesh.until_known(&[1, 2, 3, 4, 5, 6], MINUTE);
    assert_eq!(mesh.leave(6), 3);
    mesh.until_known(&[1, 2, 3, 4, 5], MINUTE);
    mesh.crash(5);
    let (mut watch, observer) = (mesh.gossip(1).watch(), mesh.world.observer());
    let told = mesh.world.run(async move { observer.timeout(7 * MINUTE, watch.changed()).await });
    assert!(told.is_ok());
    assert_eq!(ids(&mesh.gossip(1)), [1, 2, 3, 4]);
}
