//! `jepsen-tests shrink`: the smallest plan with which a seed still fails.

use std::path::PathBuf;

use jepsen_tests::runner::Conclusion;
use jepsen_tests::simulation::{Regression, Simulation, shrink};

use super::Exit;
use super::chosen::Chosen;

/// Drop faults from the plan of a seed that fails, as long as it still fails.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The seed
    #[arg(long)]
    seed: u64,
    #[command(flatten)]
    chosen: Chosen,
    /// Write seed and plan into this file, which `sim --replay` reads, and the tests in jepsen-tests/regressions
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Exit {
    let simulation = args.chosen.simulation(args.seed);
    let (nodes, whole) = simulation.draw();
    let Some((plan, why)) = shrink(&simulation, |text| eprintln!("{text}")) else {
        println!("seed {} does not fail", args.seed);
        return Exit::Inconclusive;
    };
    println!("{plan}");
    println!("{} of {} faults are enough", plan.numbers().len(), whole.numbers().len());
    println!("{}", Conclusion::Failed(why.clone()));
    if let Some(path) = &args.out {
        let found = why.lines().next().unwrap_or_default().to_owned();
        let Simulation { seed, kinds: faults, workload, .. } = simulation;
        let regression = Regression { seed, nodes, faults, workload, plan, found };
        if let Err(error) = regression.write(path) {
            eprintln!("jepsen-tests: cannot write {}: {error}", path.display());
            return Exit::Inconclusive;
        }
    }
    Exit::Violation
}
