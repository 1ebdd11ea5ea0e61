//! What is chosen of a simulation instead of being left to its seed: the same options wherever a seed is run.

use jepsen_tests::plan::FaultKind;
use jepsen_tests::simulation::Simulation;
use jepsen_tests::workload::Workload;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Chosen {
    /// Nodes of the cluster; 3, 5 or 7 as the seed says unless given
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=7))]
    nodes: Option<u64>,
    /// What may go wrong; everything unless given
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    faults: Vec<FaultKind>,
    /// What every client does; a mix that the seed draws unless given
    #[arg(long)]
    workload: Option<Workload>,
}

impl Chosen {
    pub(crate) fn simulation(&self, seed: u64) -> Simulation {
        Simulation {
            nodes: self.nodes,
            kinds: self.faults.clone(),
            workload: self.workload,
            ..Simulation::new(seed)
        }
    }

    /// The same as words of a command.
    pub(crate) fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        if let Some(nodes) = self.nodes {
            words.extend(["--nodes".to_owned(), nodes.to_string()]);
        }
        if !self.faults.is_empty() {
            let faults: Vec<String> = self.faults.iter().map(FaultKind::to_string).collect();
            words.extend(["--faults".to_owned(), faults.join(",")]);
        }
        if let Some(workload) = self.workload {
            words.extend(["--workload".to_owned(), workload.to_string()]);
        }
        words
    }
}
