//! What rpc-core must reach, as ratios to others in the same rounds.

use serde::Serialize;

use crate::contestant::Contestant;
use crate::samples::Samples;
use crate::scene::{Cell, KIB_256, MIB, Measure, ONE, SMALL_64, SMALL_256, Scene, loopback, loss, wan};

/// A ratio that must be reached.
#[derive(Clone, Debug, Serialize)]
pub struct Bar {
    pub scene: String,
    pub cell: Cell,
    pub measure: Measure,
    pub contestant: Contestant,
    /// Beaten is the best of them.
    pub against: Vec<Contestant>,
    pub relation: Relation,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub enum Relation {
    AtLeast(f64),
    AtMost(f64),
}

impl Relation {
    /// Whether a ratio reaches the bar when that is moved by a factor in favour of the contestant.
    pub fn holds(self, ratio: f64, slack: f64) -> bool {
        match self {
            Self::AtLeast(bar) => ratio * slack >= bar,
            Self::AtMost(bar) => ratio <= bar * slack,
        }
    }
}

impl Bar {
    /// The ratio that was measured; none if somebody was not there.
    pub fn ratio(&self, samples: &Samples) -> Option<f64> {
        let ratios = self
            .against
            .iter()
            .map(|other| samples.ratio(&self.scene, self.contestant, *other, self.cell, self.measure))
            .collect::<Option<Vec<_>>>()?;
        match self.relation {
            Relation::AtLeast(_) => ratios.into_iter().min_by(f64::total_cmp),
            Relation::AtMost(_) => ratios.into_iter().max_by(f64::total_cmp),
        }
    }
}

/// The bars of these scenes.
pub fn bars(scenes: &[Scene]) -> Vec<Bar> {
    use Contestant::{Quinn, QuinnBbr, RpcCore, RpcCoreSpin, Tarpc, TcpMux, Tonic};
    use Measure::{CallsPerSecond, MibPerSecond, P50, P99};
    use Relation::{AtLeast, AtMost};

    let mut bars = Vec::new();
    let mut bar = |scene: Scene, cell: Cell, measure: Measure, against: &[Contestant], relation: Relation| {
        if scenes.iter().any(|other| other.name == scene.name && other.cells.contains(&cell)) {
            let (scene, against) = (scene.name, against.to_vec());
            bars.push(Bar { scene, cell, measure, contestant: RpcCore, against, relation });
        }
    };
    for (other, at_64, at_256, kib) in
        [(Tarpc, 2.0, 1.7, 2.0), (Quinn, 2.0, 2.5, 2.0), (Tonic, 8.0, 8.0, 8.0)]
    {
        bar(loopback(), SMALL_64, CallsPerSecond, &[other], AtLeast(at_64));
        bar(loopback(), SMALL_256, CallsPerSecond, &[other], AtLeast(at_256));
        bar(loopback(), KIB_256, CallsPerSecond, &[other], AtLeast(kib));
    }
    for (other, p50, goodput) in [(Tarpc, 1.0, 1.2), (Quinn, 0.9, 5.0), (Tonic, 0.75, 2.0)] {
        bar(loopback(), ONE, P50, &[other], AtMost(p50));
        bar(loopback(), MIB, MibPerSecond, &[other], AtLeast(goodput));
    }
    for other in [Tarpc, Tonic, TcpMux] {
        bar(loss(1.0), ONE, P99, &[other], AtMost(1.0 / 20.0));
        bar(loss(5.0), SMALL_64, CallsPerSecond, &[other], AtLeast(4.0));
    }
    bar(loss(1.0), ONE, P99, &[Quinn], AtMost(1.0 / 3.0));
    bar(loss(5.0), SMALL_64, CallsPerSecond, &[Quinn], AtLeast(4.0));
    for percent in [1.0, 5.0] {
        bar(wan(percent), MIB, MibPerSecond, &[Tarpc, Tonic, TcpMux, QuinnBbr], AtLeast(1.0));
    }
    if let Some(p50) = bars.iter().find(|bar| bar.measure == P50).cloned() {
        let against = vec![Tarpc, Quinn, Tonic];
        bars.push(Bar { contestant: RpcCoreSpin, against, relation: AtMost(0.2), ..p50 });
    }
    bars
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slack_favours_the_contestant() {
        assert!(Relation::AtLeast(2.0).holds(2.0, 1.0) && !Relation::AtLeast(2.0).holds(1.9, 1.0));
        assert!(Relation::AtLeast(2.0).holds(1.0, 2.0) && !Relation::AtLeast(2.0).holds(0.9, 2.0));
        assert!(Relation::AtMost(0.5).holds(0.5, 1.0) && !Relation::AtMost(0.5).holds(0.6, 1.0));
        assert!(Relation::AtMost(0.5).holds(1.0, 2.0) && !Relation::AtMost(0.5).holds(1.1, 2.0));
    }

    #[test]
    fn bars_belong_to_scenes_that_were_played() {
        assert!(bars(&[]).is_empty());
        assert_eq!(bars(&[loopback()]).len(), 16);
        assert_eq!(bars(&[wan(5.0)]).len(), 1);
    }
}
