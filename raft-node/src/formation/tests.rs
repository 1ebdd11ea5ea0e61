//! All orders in which members can meet, restart and lose their data while a cluster forms.

use super::*;

/// One member: its durable part (incarnation, cluster, founding members) and what it has heard since it started.
#[derive(Clone)]
struct Node {
    name: NodeName,
    cluster: Option<u128>,
    membership: BTreeMap<u64, Member>,
    formation: Formation,
}

impl Node {
    fn empty(id: u64, incarnation: u128, listed: &[u64]) -> Self {
        let name = NodeName { id, incarnation };
        let members = listed.iter().map(|id| (*id, format!("10.0.0.{id}:1"))).collect();
        Self {
            name,
            cluster: None,
            membership: BTreeMap::new(),
            formation: Formation::new(name, members, false),
        }
    }

    /// A restart keeps what is durable.
    fn restart(&mut self) {
        self.formation.heard.clear();
    }

    fn introduction(&self, to: u64) -> Introduction {
        Introduction {
            configured: self.name.id,
            name: self.name,
            cluster: self.cluster,
            knows_you: self
                .membership
                .get(&to)
                .map(|member| NodeName { id: to, incarnation: member.incarnation }),
            listed: self.formation.members.keys().copied().collect(),
        }
    }

    /// Acts on what was heard, as the driver does.
    fn act(&mut self) {
        if self.cluster.is_some() {
            return;
        }
        if let Step::Found(members) = self.formation.step() {
            self.cluster = Some(self.name.incarnation);
            self.membership = members;
        }
    }
}

/// `from` introduces itself to `to`, which answers; both act.
fn meet(nodes: &mut [Node], from: usize, to: usize) {
    let asks = nodes[from].introduction(nodes[to].name.id);
    nodes[to].formation.hear(asks);
    let answers = nodes[to].introduction(nodes[from].name.id);
    nodes[from].formation.hear(answers);
    nodes[to].act();
    nodes[from].act();
}

/// A member with a cluster calls one without: the rule of adoption.
fn call(nodes: &mut [Node], from: usize, to: usize) {
    let (caller, callee) = (nodes[from].clone(), &mut nodes[to]);
    let named =
        caller.membership.get(&callee.name.id).is_some_and(|it| it.incarnation == callee.name.incarnation);
    if callee.cluster.is_none() && named {
        callee.cluster = caller.cluster;
        callee.membership = caller.membership;
    }
}

fn three() -> Vec<Node> {
    (1..=3).map(|id| Node::empty(id, u128::from(id) * 100, &[1, 2, 3])).collect()
}

/// All sequences of `length` steps below `choices`.
fn sequences(choices: usize, length: usize) -> impl Iterator<Item = Vec<usize>> {
    (0..choices.pow(length as u32)).map(move |mut number| {
        (0..length)
            .map(|_| {
                let choice = number % choices;
                number /= choices;
                choice
            })
            .collect()
    })
}

const MEETINGS: [(usize, usize); 3] = [(0, 1), (0, 2), (1, 2)];

#[test]
fn exactly_the_lowest_founds_exactly_when_it_has_met_all() {
    for order in sequences(3, 4) {
        let mut nodes = three();
        for meeting in &order {
            let (from, to) = MEETINGS[*meeting];
            meet(&mut nodes, from, to);
            assert!(nodes[1].cluster.is_none() && nodes[2].cluster.is_none(), "{order:?}");
        }
        assert_eq!(nodes[0].cluster.is_some(), order.contains(&0) && order.contains(&1), "{order:?}");
        if nodes[0].cluster.is_some() {
            let incarnations: Vec<_> =
                nodes[0].membership.values().map(|member| member.incarnation).collect();
            assert_eq!(incarnations, [100, 200, 300]);
        }
    }
}

#[test]
fn whatever_restarts_and_is_wiped_there_is_one_cluster_and_no_member_under_two_incarnations() {
    // Meetings, calls of the founder, restarts, and one loss of a member's data, in every order of six steps.
    let mut founded = 0;
    for steps in sequences(9, 6).step_by(7) {
        let mut nodes = three();
        let mut clusters = Vec::new();
        let mut wiped = false;
        for step in &steps {
            match step {
                0..=2 => meet(&mut nodes, MEETINGS[*step].0, MEETINGS[*step].1),
                3 | 4 => call(&mut nodes, 0, *step - 2),
                5 | 6 => nodes[*step - 5].restart(),
                _ if !wiped => {
                    wiped = true;
                    let lost = *step - 7;
                    nodes[lost] = Node::empty(lost as u64 + 1, 1_000, &[1, 2, 3]);
                }
                _ => {}
            }
            clusters.extend(nodes.iter().filter_map(|node| node.cluster));
        }
        // Everybody meets everybody, and the founder calls everybody.
        for (from, to) in [MEETINGS, MEETINGS].concat() {
            meet(&mut nodes, from, to);
            call(&mut nodes, 0, 1);
            call(&mut nodes, 0, 2);
        }
        clusters.extend(nodes.iter().filter_map(|node| node.cluster));
        clusters.sort_unstable();
        clusters.dedup();
        // A founder that was wiped before anybody adopted its cluster may found another: nothing was committed in
        // the first. As soon as a second member adopted one, it is the only one.
        let adopted: Vec<_> = nodes[1..].iter().filter_map(|node| node.cluster).collect();
        assert!(adopted.windows(2).all(|pair| pair[0] == pair[1]), "{steps:?}: {clusters:?}");
        for node in nodes.iter().filter(|node| node.cluster.is_some()) {
            let own = node.membership.get(&node.name.id).map(|member| member.incarnation);
            assert_eq!(own, Some(node.name.incarnation), "{steps:?}");
        }
        founded += usize::from(!clusters.is_empty());
    }
    assert!(founded > 10_000, "{founded}");
}

#[test]
fn an_unreachable_member_is_waited_for() {
    let mut nodes = three();
    meet(&mut nodes, 0, 1);
    assert_eq!(nodes[0].formation.step(), Step::Ask(vec![3]));
    meet(&mut nodes, 1, 2);
    assert_eq!(nodes[1].formation.step(), Step::Wait);
    assert_eq!(nodes[0].formation.step(), Step::Ask(vec![3]));
}

#[test]
fn a_wiped_member_of_a_cluster_is_told_so_by_any_member_that_knows_it() {
    let mut nodes = three();
    meet(&mut nodes, 0, 1);
    meet(&mut nodes, 0, 2);
    call(&mut nodes, 0, 1);
    nodes[2] = Node::empty(3, 999, &[1, 2, 3]);
    meet(&mut nodes, 2, 1);
    assert_eq!(nodes[2].formation.step(), Step::Replaced(3));
    call(&mut nodes, 0, 2);
    assert_eq!(nodes[2].cluster, None);
}

#[test]
fn a_member_of_a_foreign_cluster_is_not_founded_with() {
    let mut nodes = three();
    nodes[2].cluster = Some(77);
    meet(&mut nodes, 0, 1);
    meet(&mut nodes, 0, 2);
    assert_eq!(nodes[0].formation.step(), Step::Wait);
    assert_eq!(nodes[0].cluster, None);
}

#[test]
fn a_member_that_lists_others_is_not_founded_with() {
    let mut nodes = three();
    nodes[1] = Node::empty(2, 200, &[2, 3]);
    meet(&mut nodes, 0, 1);
    meet(&mut nodes, 0, 2);
    assert_eq!(nodes[0].formation.step(), Step::Ask(vec![2]));
    meet(&mut nodes, 1, 2);
    assert_eq!(nodes[1].formation.step(), Step::Ask(vec![3]));
}

#[test]
fn a_joining_node_founds_nothing() {
    let name = NodeName { id: 1, incarnation: 1 };
    let formation = Formation::new(name, BTreeMap::from([(1, "a:1".into())]), true);
    assert_eq!(formation.step(), Step::Wait);
}

#[test]
fn a_single_member_founds_at_once() {
    let node = Node::empty(1, 5, &[1]);
    assert!(matches!(node.formation.step(), Step::Found(members) if members.len() == 1));
}
