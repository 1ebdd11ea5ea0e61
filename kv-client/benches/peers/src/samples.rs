//! What was measured, and the numbers that are drawn from it: medians over rounds, never a mean.

use serde::Serialize;

use crate::contestant::Contestant;
use crate::life::Moment;
use crate::load::{Cell, Measurement};

/// What others may have used of a core while a cell counts, in percent.
pub const FOREIGN_CPU_MAX: f64 = 10.0;

/// One load on one contestant.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    pub contestant: Contestant,
    pub round: usize,
    #[serde(flatten)]
    pub cell: Cell,
    #[serde(flatten)]
    pub measurement: Measurement,
}

impl Sample {
    fn is_clean(&self) -> bool {
        self.measurement.foreign_cpu_percent <= FOREIGN_CPU_MAX
    }
}

/// One moment of one contestant.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    pub contestant: Contestant,
    pub round: usize,
    pub moment: Moment,
    /// Nothing if what was waited for did not happen.
    pub value: Option<f64>,
}

/// Something that went wrong beside the loads.
#[derive(Clone, Debug, Serialize)]
pub struct Incident {
    pub contestant: Contestant,
    pub round: usize,
    /// The turn did not end.
    pub is_fatal: bool,
    pub what: String,
}

/// A number of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    OpsPerSecond,
    P50Ms,
    P99Ms,
    NodesCpuUs,
    ClientCpuUs,
    WrittenBytes,
    ResidentMb,
    MibPerSecond,
}

impl Measure {
    fn of(self, cell: &Cell, measurement: &Measurement) -> f64 {
        match self {
            Self::OpsPerSecond => measurement.ops_per_s,
            Self::P50Ms => measurement.p50_us as f64 / 1e3,
            Self::P99Ms => measurement.p99_us as f64 / 1e3,
            Self::NodesCpuUs => measurement.nodes_cpu_us,
            Self::ClientCpuUs => measurement.client_cpu_us,
            Self::WrittenBytes => measurement.written_bytes,
            Self::ResidentMb => measurement.resident_mb,
            Self::MibPerSecond => measurement.ops_per_s * cell.value_size as f64 / 1_048_576.0,
        }
    }
}

/// A median, and whether it can be trusted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    pub value: f64,
    /// Every round was disturbed by other work, so that it is drawn from disturbed ones.
    pub is_disturbed: bool,
}

/// All measurements of a run.
#[derive(Debug, Default, Serialize)]
pub struct Samples {
    pub loads: Vec<Sample>,
    pub events: Vec<Event>,
    /// What went wrong beside the loads.
    pub incidents: Vec<Incident>,
}

impl Samples {
    /// The median over the undisturbed rounds, or over all if there is none.
    pub fn median(&self, contestant: Contestant, cell: Cell, measure: Measure) -> Option<Figure> {
        let rounds = self.rounds(contestant, cell);
        figure(rounds.map(|sample| (measure.of(&cell, &sample.measurement), sample.is_clean())))
    }

    /// The median of the ratios of single rounds: what disturbed a round disturbed both.
    pub fn ratio(&self, one: Contestant, other: Contestant, cell: Cell, measure: Measure) -> Option<Figure> {
        figure(self.rounds(one, cell).filter_map(|sample| {
            let of_other = self.rounds(other, cell).find(|other| other.round == sample.round)?;
            let divisor = measure.of(&cell, &of_other.measurement);
            let ratio = measure.of(&cell, &sample.measurement) / divisor;
            (divisor > 0.0).then(|| (ratio, sample.is_clean() && of_other.is_clean()))
        }))
    }

    /// The median of a moment; infinite if it mostly did not come.
    pub fn moment(&self, contestant: Contestant, moment: Moment) -> Option<f64> {
        let events =
            self.events.iter().filter(|event| (event.contestant, event.moment) == (contestant, moment));
        median(events.map(|event| event.value.unwrap_or(f64::INFINITY)).collect())
    }

    fn rounds(&self, contestant: Contestant, cell: Cell) -> impl Iterator<Item = &Sample> {
        self.loads.iter().filter(move |sample| sample.contestant == contestant && sample.cell == cell)
    }
}

fn figure(values: impl Iterator<Item = (f64, bool)>) -> Option<Figure> {
    let (clean, disturbed): (Vec<_>, Vec<_>) = values.partition(|(_, is_clean)| *is_clean);
    let is_disturbed = clean.is_empty();
    let chosen = if is_disturbed { disturbed } else { clean };
    let value = median(chosen.into_iter().map(|(value, _)| value).collect())?;
    Some(Figure { value, is_disturbed })
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        return Some(values[middle]);
    }
    Some((values.get(middle.checked_sub(1)?)? + values[middle]) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Op;

    const CELL: Cell = Cell { op: Op::Put, clients: 1, value_size: 256, keys: 10, nodes: 3 };

    fn sample(contestant: Contestant, round: usize, ops_per_s: f64, foreign_cpu_percent: f64) -> Sample {
        let measurement = Measurement {
            ops: 1,
            ops_per_s,
            p50_us: 1,
            p99_us: 1,
            p999_us: 1,
            max_us: 1,
            errors: 0,
            misses: 0,
            error: None,
            nodes_cpu_us: 0.0,
            client_cpu_us: 0.0,
            written_bytes: 0.0,
            resident_mb: 0.0,
            foreign_cpu_percent,
            leader_moved: false,
        };
        Sample { contestant, round, cell: CELL, measurement }
    }

    #[test]
    fn median_is_in_the_middle() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![9.0, 1.0, 2.0, 4.0]), Some(3.0));
    }

    #[test]
    fn disturbed_rounds_count_only_when_there_is_no_other() {
        let (ours, etcd) = (Contestant::Ours, Contestant::Etcd);
        let loads = vec![sample(ours, 0, 10.0, 50.0), sample(ours, 1, 30.0, 0.0), sample(etcd, 0, 10.0, 0.0)];
        let mut samples = Samples { loads, ..Samples::default() };
        let median = samples.median(ours, CELL, Measure::OpsPerSecond);
        assert_eq!(median, Some(Figure { value: 30.0, is_disturbed: false }));
        // Only round 0 has both, and it was disturbed.
        let ratio = samples.ratio(ours, etcd, CELL, Measure::OpsPerSecond);
        assert_eq!(ratio, Some(Figure { value: 1.0, is_disturbed: true }));
        samples.loads.push(sample(etcd, 1, 10.0, 0.0));
        let ratio = samples.ratio(ours, etcd, CELL, Measure::OpsPerSecond);
        assert_eq!(ratio, Some(Figure { value: 3.0, is_disturbed: false }));
    }

    #[test]
    fn what_did_not_happen_took_for_ever() {
        let event = |value| Event { contestant: Contestant::Nats, round: 0, moment: Moment::KillMs, value };
        let events = vec![event(None), event(Some(3.0)), event(None)];
        let samples = Samples { events, ..Samples::default() };
        assert_eq!(samples.moment(Contestant::Nats, Moment::KillMs), Some(f64::INFINITY));
        assert_eq!(samples.moment(Contestant::Nats, Moment::StopMs), None);
    }
}
