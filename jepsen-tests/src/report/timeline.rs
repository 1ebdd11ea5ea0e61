//! What each client did around one moment on one key: bars of time, one lane for each process.

use super::chart::{Axis, Size, class};
use super::svg::Drawing;
use crate::history::{History, Operation};

const LANE: f64 = 22.0;
const LEFT: f64 = 34.0;
/// Operations that are shown before the last one.
const SHOWN_MAX: usize = 24;

/// The key that `sentence` names, if the history has it.
pub(super) fn key_of<'a>(history: &'a History, sentence: &str) -> Option<&'a str> {
    let named = |operation: &&Operation| {
        let key = operation.key.as_str();
        [format!("key {key}:"), format!("key \"{key}\""), format!("key {key} ")]
            .iter()
            .any(|it| sentence.contains(it))
    };
    history.operations.iter().find(named).map(|operation| operation.key.as_str())
}

/// The operations on `key` up to the one that `sentence` names, else the last ones.
pub(super) fn around<'a>(history: &'a History, key: &str, sentence: &str) -> Vec<&'a Operation> {
    let mut all: Vec<&Operation> =
        history.operations.iter().filter(|operation| operation.key == key).collect();
    all.sort_by_key(|operation| operation.call);
    let named = all.iter().rposition(|operation| sentence.contains(&format!("[{}, ", operation.call)));
    let end = named.map_or(all.len(), |named| (named + 4).min(all.len()));
    all[end.saturating_sub(SHOWN_MAX)..end].to_vec()
}

/// The lanes of `operations`.
pub(super) fn lanes(operations: &[&Operation], size: Size) -> String {
    let mut processes: Vec<u64> = operations.iter().map(|operation| operation.process).collect();
    processes.sort_unstable();
    processes.dedup();
    let from = operations.iter().map(|operation| operation.call).min().unwrap_or(0);
    let last = operations.iter().map(|operation| operation.ret.max(operation.call)).max().unwrap_or(1);
    let axis = Axis { from, to: last.max(from + 1), left: LEFT, width: size.width - LEFT - 8.0 };
    let height = processes.len() as f64 * LANE;
    let mut drawing = Drawing::new(size.width, height + 24.0);
    axis.marks(&mut drawing, 0.0, height, (1e6, "ms"));
    for (lane, process) in (0..).zip(&processes) {
        let y = f64::from(lane) * LANE + 4.0;
        drawing.text("end", (LEFT - 6.0, y + 11.0), &process.to_string());
        for operation in operations.iter().filter(|operation| operation.process == *process) {
            let until = operation.ended().unwrap_or(last);
            let (x, end) = (axis.x(operation.call), axis.x(until));
            let title = format!("{}: {operation}", operation.key);
            drawing.rect(&format!("bar {}", class(operation)), (x, y), (end - x, LANE - 8.0), &title);
        }
    }
    drawing.finish("operations of each process around the violation")
}
