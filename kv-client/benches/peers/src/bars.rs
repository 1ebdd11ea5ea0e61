//! What our store must reach: ratios to others in the same rounds, and absolute times and sizes.

use serde::Serialize;

use crate::contestant::Contestant;
use crate::life::Moment;
use crate::load::{Cell, Op};
use crate::samples::{Figure, Measure, Samples};

/// A bar and what was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    pub what: String,
    pub bar: String,
    pub measured: f64,
    pub holds: bool,
    /// More than what must be.
    pub is_stretch: bool,
    /// The measurement was disturbed by other work.
    pub is_disturbed: bool,
}

/// All bars for which everything was measured. `cell` makes the main load of an operation and a number of clients.
pub fn verdicts(samples: &Samples, cell: impl Fn(Op, usize) -> Cell) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    let mut ratio = |op, clients, other, bar, is_stretch| {
        let cell = cell(op, clients);
        let figure = samples.ratio(Contestant::Ours, other, cell, Measure::OpsPerSecond);
        let what = format!("{op:?}/s, {clients} clients").to_lowercase();
        verdicts.extend(figure.map(|figure| Verdict {
            what,
            bar: format!(">= {bar:.1} x {other}"),
            measured: figure.value,
            holds: figure.value >= bar,
            is_stretch,
            is_disturbed: figure.is_disturbed,
        }));
    };
    ratio(Op::Put, 1, Contestant::Etcd, 1.5, false);
    for clients in [16, 64, 256] {
        ratio(Op::Put, clients, Contestant::Etcd, 3.0, false);
        ratio(Op::Put, clients, Contestant::Zookeeper, 1.5, false);
        ratio(Op::Put, clients, Contestant::Nats, 1.5, false);
        ratio(Op::Put, clients, Contestant::Redis, 1.0, true);
        ratio(Op::Get, clients, Contestant::Etcd, 3.0, false);
        ratio(Op::Get, clients, Contestant::Zookeeper, 1.0, true);
        ratio(Op::Get, clients, Contestant::Nats, 1.0, true);
        ratio(Op::Mix, clients, Contestant::Etcd, 3.0, false);
        ratio(Op::Cas, clients, Contestant::Etcd, 3.0, false);
    }

    let ours = |op, clients, measure| samples.median(Contestant::Ours, cell(op, clients), measure);
    let moment = |moment| {
        let value = samples.moment(Contestant::Ours, moment)?;
        Some(Figure { value, is_disturbed: false })
    };
    for (what, figure, bar, unit, is_stretch) in [
        ("p50 of put, 1 client", ours(Op::Put, 1, Measure::P50Ms), 0.6, "ms", true),
        (
            "CPU of three nodes per put, 64 clients",
            ours(Op::Put, 64, Measure::NodesCpuUs),
            100.0,
            "us",
            false,
        ),
        ("first write after kill -9", moment(Moment::KillMs), 700.0, "ms", false),
        ("first write after kill -9", moment(Moment::KillMs), 400.0, "ms", true),
        ("first write after SIGSTOP", moment(Moment::StopMs), 700.0, "ms", false),
        ("first write after SIGSTOP", moment(Moment::StopMs), 400.0, "ms", true),
        ("cold start to first write", moment(Moment::ColdStartMs), 1_000.0, "ms", false),
        ("restart on all keys", moment(Moment::RestartMs), 1_000.0, "ms", false),
        ("memory of a node with all keys", moment(Moment::FilledMb), 150.0, "MB", false),
        ("memory of an idle node", moment(Moment::IdleMb), 15.0, "MB", false),
        ("CPU of an idle node", moment(Moment::IdleCpuPercent), 1.0, "%", false),
    ] {
        verdicts.extend(figure.map(|figure| Verdict {
            what: what.to_owned(),
            bar: format!("<= {bar} {unit}"),
            measured: figure.value,
            holds: figure.value <= bar,
            is_stretch,
            is_disturbed: figure.is_disturbed,
        }));
    }
    let loads: Vec<_> = samples.loads.iter().filter(|load| load.contestant == Contestant::Ours).collect();
    let wrong = loads.iter().map(|load| load.measurement.errors + load.measurement.misses).sum::<u64>();
    let moved = loads.iter().filter(|load| load.measurement.leader_moved).count();
    for (what, count) in [
        ("errors and wrong answers in all loads", wrong as f64),
        ("loads after which another node led", moved as f64),
    ] {
        if !loads.is_empty() {
            verdicts.push(Verdict {
                what: what.to_owned(),
                bar: "none".to_owned(),
                measured: count,
                holds: count == 0.0,
                is_stretch: false,
                is_disturbed: false,
            });
        }
    }
    verdicts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::Event;

    #[test]
    fn bars_are_judged_from_what_was_measured_only() {
        let cell = |op, clients| Cell { op, clients, value_size: 256, keys: 1, nodes: 3 };
        let event = |moment, value| Event { contestant: Contestant::Ours, round: 0, moment, value };
        let events = vec![event(Moment::KillMs, Some(500.0)), event(Moment::StopMs, None)];
        let verdicts = verdicts(&Samples { events, ..Samples::default() }, cell);
        let told: Vec<_> = verdicts.iter().map(|v| (v.what.as_str(), v.holds, v.is_stretch)).collect();
        assert_eq!(
            told,
            [
                ("first write after kill -9", true, false),
                ("first write after kill -9", false, true),
                ("first write after SIGSTOP", false, false),
                ("first write after SIGSTOP", false, true),
            ]
        );
    }
}
