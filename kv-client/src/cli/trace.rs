//! `trace ID`: what the nodes did for one request.

use std::time::Duration;

use clap::Args;
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use kv_client::api::{TraceRequest, TraceSpan, TraceStep, Traced};
use serde::Serialize;

use super::context::Context;
use super::nodes::{self, Asked};
use super::output::{ErrorObject, print_json, print_line};
use super::trace_id::{id_text, parse_id};
use super::{Exit, Format};

/// Show what the nodes did for a request that was sent with --trace
///
/// Asks all nodes what they remember of it. They remember the latest steps only, and none after a restart.
#[derive(Debug, Args)]
pub(crate) struct Trace {
    /// The id that --trace printed
    #[arg(value_parser = parse_id)]
    id: u128,
}

impl Trace {
    pub(crate) async fn run(self, context: &Context) -> Exit {
        let timeout = context.client_with_default(TIMEOUT_DEFAULT).timeout();
        let found = nodes::find(context, timeout).await;
        let names = found.into_iter().map(|node| node.name).collect();
        let request = TraceRequest { trace: self.id };
        let asked = nodes::ask(context, timeout, names, move |node| node.trace(request)).await;
        context.leave().await;
        if asked.iter().all(|node| node.answer.is_err()) {
            return fail(context, Exit::NotApplied, "unreachable", "no node answered".to_owned());
        }
        let rows = rows(&asked);
        if rows.is_empty() {
            let what = format!("no node remembers trace {:032x}", self.id);
            return fail(context, Exit::NotFound, "not_found", what);
        }
        let printed = match context.format {
            Format::Json => print_json(&TraceObject::new(self.id, &asked, &rows)),
            Format::Simple => print_line(&table(&asked, &rows)),
        };
        printed.err().unwrap_or(Exit::Done)
    }
}

fn fail(context: &Context, exit: Exit, error: &'static str, what: String) -> Exit {
    match context.format {
        Format::Json => print_json(&ErrorObject::new(error, what)).err().unwrap_or(exit),
        Format::Simple => exit.because(what),
    }
}

/// One step, in the order and at the depth in which it is shown.
#[derive(Debug)]
struct Row<'a> {
    node: u64,
    span: &'a TraceSpan,
    /// When it began, in microseconds of this process, which may be younger. Each node says how long ago it was, so
    /// that no clocks are compared: it is true up to half the round trip of the question.
    begun_us: i64,
    depth: usize,
}

/// All steps: each served call with its steps below it, and below a forward the call that it became.
fn rows(asked: &[Asked<Traced>]) -> Vec<Row<'_>> {
    let mut left: Vec<Row<'_>> = Vec::new();
    for Asked { answer, at, .. } in asked {
        let Ok(Traced { node, spans }) = answer else { continue };
        let at_us = i64::try_from(at.as_nanos() / 1_000).unwrap_or(i64::MAX);
        left.extend(spans.iter().map(|span| {
            let begun_us = at_us.saturating_sub_unsigned(span.age_us);
            Row { node: *node, span, begun_us, depth: depth(span) }
        }));
    }
    left.sort_by_key(|row| (row.begun_us, row.depth));
    let mut rows = Vec::new();
    // What served a client comes first; what is left over has lost its parent to a node's short memory.
    while let Some(root) =
        left.iter().position(|row| row.depth == 0).or_else(|| (!left.is_empty()).then_some(0))
    {
        let root = left.remove(root);
        descend(root, &mut left, &mut rows);
    }
    rows
}

fn descend<'a>(row: Row<'a>, left: &mut Vec<Row<'a>>, rows: &mut Vec<Row<'a>>) {
    let Row { node, span, begun_us, .. } = row;
    rows.push(row);
    match span.step {
        TraceStep::Served { .. } => {
            let is_step = |other: &Row<'_>| {
                let is_served = matches!(other.span.step, TraceStep::Served { .. });
                !is_served && other.node == node && other.span.call == span.call
            };
            while let Some(step) = left.iter().position(is_step) {
                let step = left.remove(step);
                descend(step, left, rows);
            }
        }
        TraceStep::Forwarded { to } => {
            let is_served_there = |other: &Row<'_>| {
                let is_served = matches!(other.span.step, TraceStep::Served { .. });
                is_served && other.node == to && other.span.hops == span.hops + 1
            };
            // The one that began next to it, if it was asked more than once.
            let served = left.iter().enumerate().filter(|(_, other)| is_served_there(other));
            let nearest = served.min_by_key(|(_, other)| other.begun_us.abs_diff(begun_us));
            if let Some(served) = nearest.map(|(place, _)| place) {
                let served = left.remove(served);
                descend(served, left, rows);
            }
        }
        TraceStep::Proposed | TraceStep::Confirmed => {}
    }
}

fn depth(span: &TraceSpan) -> usize {
    let below = usize::from(!matches!(span.step, TraceStep::Served { .. }));
    2 * usize::try_from(span.hops).unwrap_or(usize::MAX / 4) + below
}

fn table(asked: &[Asked<Traced>], rows: &[Row<'_>]) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(["at ms", "took ms", "node", "step", "ended"]);
    for index in [0, 1] {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let first_us = first_us(rows);
    for row in rows {
        let Row { node, span, depth, .. } = row;
        let step = match &span.step {
            TraceStep::Served { method, caller } if *depth == 0 => format!("{method} for client {caller}"),
            TraceStep::Served { method, caller } => format!("{method} for {caller}"),
            TraceStep::Forwarded { to } => format!("asked the leader, node {to}"),
            TraceStep::Proposed => "proposed: append, majority, apply".to_owned(),
            TraceStep::Confirmed => "asked a quorum whether it leads".to_owned(),
        };
        table.add_row([
            milliseconds(row.at_us(first_us)),
            milliseconds(span.time_us),
            node.to_string(),
            format!("{}{step}", "  ".repeat((*depth).min(INDENT_MAX))),
            span.outcome.clone(),
        ]);
    }
    let silent: Vec<_> = asked.iter().filter(|node| node.answer.is_err()).map(|node| &*node.name).collect();
    let silent =
        if silent.is_empty() { String::new() } else { format!("\n\n no answer: {}", silent.join(", ")) };
    format!("{}{silent}", table.trim_fmt())
}

impl Row<'_> {
    /// When it began, in microseconds since the first step.
    fn at_us(&self, first_us: i64) -> u64 {
        self.begun_us.abs_diff(first_us)
    }
}

fn first_us(rows: &[Row<'_>]) -> i64 {
    rows.iter().map(|row| row.begun_us).min().unwrap_or(0)
}

fn milliseconds(time_us: u64) -> String {
    format!("{}.{:03}", time_us / 1_000, time_us % 1_000)
}

/// The JSON of `trace`.
#[derive(Debug, Serialize)]
struct TraceObject<'a> {
    trace: String,
    /// Nodes that did not answer.
    silent: Vec<&'a str>,
    steps: Vec<StepObject<'a>>,
}

#[derive(Debug, Serialize)]
struct StepObject<'a> {
    node: u64,
    depth: usize,
    step: &'static str,
    method: Option<&'a str>,
    caller: Option<String>,
    to: Option<u64>,
    at_us: u64,
    time_us: u64,
    outcome: &'a str,
}

impl<'a> TraceObject<'a> {
    fn new(trace: u128, asked: &'a [Asked<Traced>], rows: &[Row<'a>]) -> Self {
        let silent = asked.iter().filter(|node| node.answer.is_err()).map(|node| &*node.name).collect();
        let first_us = first_us(rows);
        let steps = rows.iter().map(|row| StepObject::new(row, first_us)).collect();
        Self { trace: id_text(trace), silent, steps }
    }
}

impl<'a> StepObject<'a> {
    fn new(row: &Row<'a>, first_us: i64) -> Self {
        let (step, method, caller, to) = match &row.span.step {
            TraceStep::Served { method, caller } => {
                ("served", Some(&**method), Some(caller.to_string()), None)
            }
            TraceStep::Forwarded { to } => ("forwarded", None, None, Some(*to)),
            TraceStep::Proposed => ("proposed", None, None, None),
            TraceStep::Confirmed => ("confirmed", None, None, None),
        };
        Self {
            node: row.node,
            depth: row.depth,
            step,
            method,
            caller,
            to,
            at_us: row.at_us(first_us),
            time_us: row.span.time_us,
            outcome: &row.span.outcome,
        }
    }
}

/// How long the nodes are given unless told otherwise.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(1);
/// The deepest indentation.
const INDENT_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use rpc_core::runtime::Instant;

    use super::*;

    fn span(call: u64, hops: u64, age_us: u64, step: TraceStep) -> TraceSpan {
        TraceSpan { call, hops, step, age_us, time_us: 1, outcome: "answered".to_owned() }
    }

    fn served(method: &str) -> TraceStep {
        TraceStep::Served { method: method.to_owned(), caller: ([127, 0, 0, 1], 9).into() }
    }

    fn answer(node: u64, spans: Vec<TraceSpan>) -> Asked<Traced> {
        // This process is younger than what it asks about.
        let at = Instant::from_nanos(60_000);
        Asked { name: format!("node {node}"), answer: Ok(Traced { node, spans }), at }
    }

    /// Node, depth and place of each row.
    fn shown(asked: &[Asked<Traced>]) -> Vec<(u64, usize, u64)> {
        rows(asked).iter().map(|row| (row.node, row.depth, row.span.age_us)).collect()
    }

    #[test]
    fn a_forward_stands_before_the_call_that_it_became_whatever_the_clocks_say() {
        // The second node's answer took longer: its steps look older than what caused them.
        let first = answer(
            2,
            vec![span(7, 0, 85, TraceStep::Forwarded { to: 1 }), span(7, 0, 90, served("kv.write"))],
        );
        let second = answer(1, vec![span(8, 1, 94, TraceStep::Proposed), span(8, 1, 95, served("raft.ask"))]);
        assert_eq!(shown(&[first, second]), [(2, 0, 90), (2, 1, 85), (1, 2, 95), (1, 3, 94)]);
    }

    #[test]
    fn attempts_stand_one_after_the_other_and_nothing_is_left_out() {
        let lost = answer(1, vec![span(8, 1, 20, TraceStep::Proposed), span(9, 3, 10, TraceStep::Proposed)]);
        let tried =
            answer(2, vec![span(2, 0, 50, served("kv.write")), span(1, 0, 99, served("kv.open_session"))]);
        assert_eq!(shown(&[lost, tried]), [(2, 0, 99), (2, 0, 50), (1, 3, 20), (1, 7, 10)]);
    }

    #[test]
    fn a_leader_that_was_asked_twice_answers_under_each_question() {
        let forward = |age| span(1, 0, age, TraceStep::Forwarded { to: 1 });
        let asked = answer(2, vec![forward(80), forward(50), span(1, 0, 90, served("kv.write"))]);
        let leader = answer(1, vec![span(3, 1, 48, served("raft.ask")), span(2, 1, 79, served("raft.ask"))]);
        assert_eq!(shown(&[asked, leader]), [(2, 0, 90), (2, 1, 80), (1, 2, 79), (2, 1, 50), (1, 2, 48)]);
    }
}
