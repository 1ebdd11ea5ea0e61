//! Every kind of fault happens in the simulation, and shows that it did; and the store comes through.

use std::time::Duration;

use jepsen_tests::plan::{FaultKind, Plan};
use jepsen_tests::simulation::Simulation;
use rpc_core::random::SeededRandom;

/// Runs one plan with faults of `kind` only: each must take effect at least once.
fn happens(kind: FaultKind) {
    let nodes = kind.nodes_min().max(3);
    let mut tried = Vec::new();
    // Some need luck: a cut at a point to which no node comes in time never happens, and few nodes install a snapshot.
    for seed in 0..SEEDS_MAX {
        let plan = Plan::draw(&[kind], nodes, Duration::from_secs(6), &mut SeededRandom::new(seed));
        let simulation = Simulation { nodes: Some(nodes), plan: Some(plan.clone()), ..Simulation::new(seed) };
        let run = simulation.run(None).run.unwrap_or_else(|why| panic!("{kind}, seed {seed}: {why}\n{plan}"));
        // A plan as short as this has too few operations to count; that does not matter here.
        let conclusion = run.conclude(&jepsen_tests::runner::Coverage::NOTHING);
        assert!(conclusion.is_passed(), "{kind}, seed {seed}: {conclusion}\n{plan}");
        if run.faults.get(&kind).is_some_and(|count| *count > 0) {
            return;
        }
        tried.push(plan.to_string());
    }
    panic!("{kind} never took effect:\n{}", tried.join("\n\n"));
}

const SEEDS_MAX: u64 = 40;

macro_rules! nemeses {
    ($($name:ident: $kinds:expr;)*) => {
        $(#[test]
        fn $name() {
            for kind in $kinds {
                happens(kind);
            }
        })*

        #[test]
        fn every_kind_has_its_test() {
            let tested: Vec<FaultKind> = [$(&$kinds[..]),*].concat();
            let missing = FaultKind::ALL.iter().find(|(kind, _)| !tested.contains(kind));
            assert_eq!(missing, None);
        }
    };
}

nemeses! {
    links_are_cut: [FaultKind::Partition, FaultKind::Isolate, FaultKind::OneWay, FaultKind::Flap];
    majorities_overlap: [FaultKind::Bridge, FaultKind::Ring];
    datagrams_are_lost_and_come_again: [FaultKind::Loss, FaultKind::Duplicate, FaultKind::Replay];
    datagrams_are_late: [FaultKind::Reorder, FaultKind::Delay, FaultKind::SlowNode, FaultKind::Narrow];
    datagrams_are_damaged: [FaultKind::Corrupt, FaultKind::Truncate];
    nodes_end: [FaultKind::Kill, FaultKind::Cut, FaultKind::Install, FaultKind::Rolling];
    nodes_stand_still: [FaultKind::Pause, FaultKind::Suspend, FaultKind::Transfer];
    disks_fail: [FaultKind::Disk, FaultKind::DiskFull, FaultKind::SlowDisk];
    clocks_are_wrong: [FaultKind::ClockRate, FaultKind::ClockJump];
}
