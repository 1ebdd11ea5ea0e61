//! What was measured, and the numbers that are drawn from it: medians over rounds, never a mean.

use serde::Serialize;

use crate::contestant::Contestant;
use crate::load::Measurement;
use crate::scene::{Cell, Measure};

/// One measurement and where it belongs.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    pub scene: String,
    pub cell: Cell,
    pub contestant: Contestant,
    pub round: usize,
    #[serde(flatten)]
    pub measurement: Measurement,
}

/// All measurements of a run.
#[derive(Debug, Default)]
pub struct Samples(pub Vec<Sample>);

impl Samples {
    /// The median over rounds.
    pub fn median(&self, scene: &str, contestant: Contestant, cell: Cell, measure: Measure) -> Option<f64> {
        let rounds = self.rounds(scene, contestant, cell, measure);
        median(rounds.map(|(_, value)| value).collect())
    }

    /// The median of the ratios of single rounds: what disturbed a round disturbed both.
    pub fn ratio(
        &self,
        scene: &str,
        one: Contestant,
        other: Contestant,
        cell: Cell,
        measure: Measure,
    ) -> Option<f64> {
        let ratios = self.rounds(scene, one, cell, measure).filter_map(|(round, value)| {
            let (_, of_other) =
                self.rounds(scene, other, cell, measure).find(|(other, _)| *other == round)?;
            (of_other > 0.0).then(|| value / of_other)
        });
        median(ratios.collect())
    }

    fn rounds(
        &self,
        scene: &str,
        contestant: Contestant,
        cell: Cell,
        measure: Measure,
    ) -> impl Iterator<Item = (usize, f64)> {
        self.0
            .iter()
            .filter(move |sample| {
                sample.scene == scene && sample.contestant == contestant && sample.cell == cell
            })
            .filter_map(move |sample| Some((sample.round, measure.of(cell, &sample.measurement)?)))
    }
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

    #[test]
    fn median_is_in_the_middle() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0]), Some(3.0));
        assert_eq!(median(vec![9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![9.0, 1.0, 2.0, 4.0]), Some(3.0));
    }
}
