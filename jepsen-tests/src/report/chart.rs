//! Faults as bands over the latency of each operation, and how many were answered each second.

use super::svg::{Drawing, step};
use crate::history::{History, Nemesis, Operation, Outcome};

/// The widths for a desk and for a telephone: text in a drawing shrinks with it, so each gets one of its own.
#[derive(Clone, Copy)]
pub(super) struct Size {
    pub(super) class: &'static str,
    pub(super) width: f64,
}

pub(super) const SIZES: [Size; 2] =
    [Size { class: "wide", width: 1_160.0 }, Size { class: "narrow", width: 358.0 }];

const LEFT: f64 = 46.0;
const RIGHT: f64 = 8.0;
const LANE: f64 = 15.0;
const LATENCY_HEIGHT: f64 = 230.0;
const RATE_HEIGHT: f64 = 90.0;
const GAP: f64 = 44.0;
/// Points that are drawn; with more operations only some of those that were answered are, all of the others.
const POINTS_MAX: usize = 4_000;

/// Time as a place on the page.
pub(super) struct Axis {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) left: f64,
    pub(super) width: f64,
}

impl Axis {
    pub(super) fn x(&self, time: u64) -> f64 {
        let span = self.to.saturating_sub(self.from).max(1) as f64;
        let time = time.clamp(self.from, self.to) - self.from;
        self.left + time as f64 / span * self.width
    }

    /// Marks with seconds below `y`.
    pub(super) fn marks(&self, drawing: &mut Drawing, top: f64, bottom: f64, unit: (f64, &str)) {
        let span = self.to.saturating_sub(self.from).max(1) as f64 / unit.0;
        let start = self.from as f64 / unit.0;
        let step = step(span, self.width / 70.0);
        let mut mark = (start / step).ceil() * step;
        while mark <= start + span {
            let x = self.left + (mark - start) / span * self.width;
            drawing.line("grid", (x, top), (x, bottom));
            let digits = if step < 1.0 { 1 } else { 0 };
            drawing.text("middle", (x, bottom + 14.0), &format!("{mark:.digits$} {}", unit.1));
            mark += step;
        }
    }
}

/// Faults, latency and rate over the whole run.
pub(super) fn overview(history: &History, size: Size) -> String {
    let end = history.operations.iter().map(|operation| operation.ret.max(operation.call)).max();
    let faults_end = history.nemeses.iter().filter_map(|nemesis| nemesis.ret).max();
    let to = end.max(faults_end).unwrap_or(1).max(1);
    let axis = Axis { from: 0, to, left: LEFT, width: size.width - LEFT - RIGHT };
    let kinds = kinds(history);
    let bands = 20.0 + kinds.len() as f64 * LANE;
    let top = bands + 14.0;
    let rate_top = top + LATENCY_HEIGHT + GAP;
    let mut drawing = Drawing::new(size.width, rate_top + RATE_HEIGHT + 22.0);

    for nemesis in &history.nemeses {
        let (from, until) = (axis.x(nemesis.call), axis.x(nemesis.ret.unwrap_or(to)));
        drawing.rect("shade", (from, top), (until - from, LATENCY_HEIGHT), "");
    }
    drawing.text("start", (2.0, 12.0), "faults");
    for (lane, kind) in (0..).zip(&kinds) {
        let y = 18.0 + f64::from(lane) * LANE;
        for nemesis in history.nemeses.iter().filter(|nemesis| nemesis.f == *kind) {
            let (from, until) = (axis.x(nemesis.call), axis.x(nemesis.ret.unwrap_or(to)));
            drawing.rect("band", (from, y), (until - from, LANE - 4.0), &title(nemesis));
        }
        label(&mut drawing, &axis, history, kind, y + LANE - 6.0);
    }
    latency(&mut drawing, &axis, history, top);
    axis.marks(&mut drawing, top, top + LATENCY_HEIGHT, (1e9, "s"));
    rate(&mut drawing, &axis, history, rate_top);
    drawing.finish("faults, latency of each operation and answers per second over time")
}

/// The kinds of faults in the order in which they came first.
fn kinds(history: &History) -> Vec<String> {
    let mut nemeses: Vec<&Nemesis> = history.nemeses.iter().collect();
    nemeses.sort_by_key(|nemesis| nemesis.call);
    let mut kinds: Vec<String> = Vec::new();
    for nemesis in nemeses {
        if !kinds.contains(&nemesis.f) {
            kinds.push(nemesis.f.clone());
        }
    }
    kinds
}

fn title(nemesis: &Nemesis) -> String {
    let seconds = |time: u64| time as f64 / 1e9;
    let end = nemesis.ret.map_or_else(|| "the end".to_owned(), |ret| format!("{:.2} s", seconds(ret)));
    let what = nemesis.value.as_deref().unwrap_or(&nemesis.f);
    format!("{what}, {:.2} s to {end}", seconds(nemesis.call))
}

/// The name of a kind where its lane has room: behind its last band, or before its first.
fn label(drawing: &mut Drawing, axis: &Axis, history: &History, kind: &str, y: f64) {
    let bands = || history.nemeses.iter().filter(|nemesis| nemesis.f == kind);
    let Some(first) = bands().map(|nemesis| nemesis.call).min() else { return };
    let last = bands().map(|nemesis| nemesis.ret.unwrap_or(axis.to)).max().unwrap_or(axis.to);
    let length = kind.len() as f64 * 7.0;
    if axis.x(last) + length < axis.left + axis.width {
        drawing.text("start", (axis.x(last) + 4.0, y), kind);
    } else {
        drawing.text("end", (axis.x(first) - 4.0, y), kind);
    }
}

/// How an operation is shown.
pub(super) fn class(operation: &Operation) -> &'static str {
    match operation.action.result() {
        Outcome::Ok(()) => "ok",
        Outcome::Fail => "fail",
        Outcome::Info => "info",
    }
}

/// A point for each operation: a logarithmic axis from 0.1 ms to what was longest.
fn latency(drawing: &mut Drawing, axis: &Axis, history: &History, top: f64) {
    let ms = |operation: &Operation| operation.ret.saturating_sub(operation.call) as f64 / 1e6;
    let answered = || history.operations.iter().filter(|operation| operation.ended().is_some());
    let longest = answered().map(ms).fold(10.0, f64::max);
    let decades = (longest / 0.1).log10().ceil().max(2.0);
    let y = |ms: f64| top + LATENCY_HEIGHT * (1.0 - ((ms.max(0.1) / 0.1).log10() / decades).min(1.0));
    for decade in 0..=decades as i32 {
        let ms = 0.1 * 10_f64.powi(decade);
        drawing.line("grid", (axis.left, y(ms)), (axis.left + axis.width, y(ms)));
        let text = if ms < 1.0 {
            "0.1 ms".to_owned()
        } else if ms < 1e3 {
            format!("{ms:.0} ms")
        } else {
            format!("{:.0} s", ms / 1e3)
        };
        drawing.text("end", (axis.left - 4.0, y(ms) + 4.0), &text);
    }
    let every = history.operations.len().div_ceil(POINTS_MAX).max(1);
    for (number, operation) in history.operations.iter().enumerate() {
        let class = class(operation);
        if class == "ok" && number % every != 0 {
            continue;
        }
        // What never ended is as late as can be.
        let latency = if class == "info" { longest } else { ms(operation) };
        drawing.dot(class, (axis.x(operation.call), y(latency)), if class == "ok" { 1.6 } else { 2.6 });
    }
}

/// Answers per second, one line.
fn rate(drawing: &mut Drawing, axis: &Axis, history: &History, top: f64) {
    let buckets = ((axis.width / 6.0) as usize).max(1);
    let span = axis.to.max(1);
    let mut counts = vec![0_u32; buckets];
    for operation in history.operations.iter().filter(|operation| operation.is_ok()) {
        let bucket = (u128::from(operation.ret) * buckets as u128 / u128::from(span)) as usize;
        counts[bucket.min(buckets - 1)] += 1;
    }
    let seconds = span as f64 / 1e9 / buckets as f64;
    let rates: Vec<f64> = counts.iter().map(|count| f64::from(*count) / seconds).collect();
    let most = rates.iter().copied().fold(1.0, f64::max);
    let y = |rate: f64| top + RATE_HEIGHT * (1.0 - rate / most);
    for mark in [0.0, most] {
        drawing.line("grid", (axis.left, y(mark)), (axis.left + axis.width, y(mark)));
        drawing.text("end", (axis.left - 4.0, y(mark) + 4.0), &format!("{mark:.0}/s"));
    }
    let x = |bucket: usize| axis.left + (bucket as f64 + 0.5) / buckets as f64 * axis.width;
    let points: Vec<(f64, f64)> =
        rates.iter().enumerate().map(|(bucket, rate)| (x(bucket), y(*rate))).collect();
    drawing.path("rate", &points);
    drawing.text("start", (2.0, top - 8.0), "answers per second");
}
