//! One page about one run: a verdict in one sentence, what went wrong when, what the clients saw. A single file without
//! scripts, fonts or anything else from elsewhere.
//!
//! Knows a run as its files tell it (history, plan, summary), so that it can be made again from a folder.

mod chart;
mod page;
mod svg;
mod timeline;

use serde_json::Value;

use crate::history::History;

/// What is known of a run beside its history.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// passed, failed, void or interrupted.
    pub verdict: String,
    /// The verdict in one sentence, with what is wrong below it if anything is.
    pub sentence: String,
    /// Where it ran, with how many nodes and clients, and the like: name and value.
    pub setup: Vec<(String, String)>,
    /// Faults that took effect, by kind.
    pub faults: Vec<(String, u64)>,
    /// Which kinds were asked for, or planned, and did not take effect.
    pub absent: Vec<String>,
    /// The command that runs the same again.
    pub repeat: String,
}

impl Facts {
    /// What the summary of a run (docs/TESTING.md) says; what it lacks stays empty.
    pub fn of_summary(summary: &Value) -> Self {
        let text = |name: &str| summary[name].as_str().unwrap_or_default().to_owned();
        let verdict = text("verdict");
        let sentence = match verdict.as_str() {
            "passed" => format!("linearizable: {} operations, two checkers agree", summary["operations"]),
            "failed" => format!("FAILED: {}", text("reason")),
            "void" => format!("void, this run proves nothing: {}", text("reason")),
            _ => "interrupted by a signal: no verdict".to_owned(),
        };
        let faults: Vec<(String, u64)> = summary["faults"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(kind, count)| (kind.clone(), count.as_u64().unwrap_or_default()))
            .collect();
        let asked = summary["asked"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let absent = asked.filter(|asked| !faults.iter().any(|(kind, _)| kind == asked));
        let absent = absent.map(str::to_owned).collect();
        let mut setup = Vec::new();
        for (name, label) in SETUP {
            match &summary[name] {
                Value::Null => {}
                Value::String(value) => setup.push((label.to_owned(), value.clone())),
                value => setup.push((label.to_owned(), value.to_string())),
            }
        }
        Self { verdict, sentence, setup, faults, absent, repeat: text("repeat") }
    }
}

/// Fields of a summary that the page shows as they are.
const SETUP: [(&str, &str); 10] = [
    ("cluster", "cluster"),
    ("nodes", "nodes"),
    ("clients", "clients"),
    ("seed", "seed"),
    ("time_ms", "faults for (ms)"),
    ("duration_ms", "whole run (ms)"),
    ("resolved", "unknown at first, resolved"),
    ("recovery_ms", "every node served again after (ms)"),
    ("converged", "all nodes reached one state"),
    ("data", "data of the nodes"),
];

/// The page.
pub fn html(facts: &Facts, history: &History) -> String {
    page::page(facts, history)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Action, Nemesis, Operation, Outcome};

    fn operation(number: u64, outcome: Outcome<Option<bool>>) -> Operation {
        Operation {
            process: number % 5,
            key: "k<1>".to_owned(),
            action: Action::Put { value: format!("{number}.\"1").into(), outcome },
            rev: Some(number),
            node: Some(1),
            token: None,
            call: number * 10_000_000,
            ret: number * 10_000_000 + 3_000_000,
        }
    }

    fn page() -> String {
        let mut operations: Vec<Operation> =
            (0..500).map(|n| operation(n, Outcome::Ok(Some(true)))).collect();
        operations.push(operation(77, Outcome::Fail));
        operations.push(operation(78, Outcome::Info));
        let cut = Nemesis {
            f: "partition".to_owned(),
            value: Some("partition [1]|[2, 3] & more".to_owned()),
            call: 1_000_000_000,
            ret: Some(2_000_000_000),
        };
        let facts = Facts {
            verdict: "failed".to_owned(),
            sentence: "FAILED: key k<1>: process 2: put \"77.1\" is lost".to_owned(),
            setup: vec![("seed".to_owned(), "7".to_owned())],
            faults: vec![("partition".to_owned(), 1)],
            absent: vec!["kill".to_owned()],
            repeat: "jepsen-tests sim --seed 7".to_owned(),
        };
        html(&facts, &History { operations, nemeses: vec![cut], ..History::default() })
    }

    #[test]
    fn the_page_tells_all_and_brings_all_it_needs() {
        let page = page();
        for part in
            ["FAILED: key k&lt;1&gt;", "[1]|[2, 3] &amp; more", "sim --seed 7", "<b>502</b>", "<svg", "kill"]
        {
            assert!(page.contains(part), "{part} is missing");
        }
        for foreign in ["<script", "http://", "https://", "<link", "src=", "k<1>", "NaN", "inf\""] {
            assert!(!page.contains(foreign), "{foreign} is in the page");
        }
    }

    #[test]
    fn every_element_that_is_opened_is_closed() {
        let page = page();
        for element in
            ["svg", "g", "table", "tr", "td", "th", "section", "details", "figure", "text", "title"]
        {
            let opened =
                page.matches(&format!("<{element}>")).count() + page.matches(&format!("<{element} ")).count();
            assert_eq!(opened, page.matches(&format!("</{element}>")).count(), "{element}");
        }
    }

    #[test]
    fn a_summary_tells_the_facts() {
        let summary = serde_json::json!({
            "verdict": "void", "reason": "too short", "seed": 5, "nodes": 3, "cluster": "simulation",
            "asked": ["kill", "loss"], "faults": {"loss": 2}, "recovery_ms": null, "repeat": "again"
        });
        let facts = Facts::of_summary(&summary);
        assert_eq!(facts.sentence, "void, this run proves nothing: too short");
        assert_eq!((facts.faults, facts.absent), (vec![("loss".to_owned(), 2)], vec!["kill".to_owned()]));
        assert_eq!(facts.setup[0], ("cluster".to_owned(), "simulation".to_owned()));
        assert_eq!(facts.setup.len(), 3);
    }

    #[test]
    fn a_run_without_an_operation_has_a_page_too() {
        let page = html(&Facts { verdict: "void".to_owned(), ..Facts::default() }, &History::default());
        assert!(page.contains("</html>") && !page.contains("NaN"));
    }
}
