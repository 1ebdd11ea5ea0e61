//! The page itself: what stands where, and how it looks by day, by night, on a desk and on a telephone.

use std::fmt::Write;

use super::Facts;
use super::chart::{SIZES, overview};
use super::svg::escape;
use super::timeline::{around, key_of, lanes};
use crate::history::{Action, History, Operation, Outcome};

pub(super) fn page(facts: &Facts, history: &History) -> String {
    let mut body = String::new();
    verdict(&mut body, facts);
    numbers(&mut body, facts, history);
    if !history.operations.is_empty() {
        body.push_str("<section>\n<h2>Over time</h2>\n");
        body.push_str(LEGEND);
        for size in SIZES {
            // Writing into a text cannot fail, here and below.
            let _ = writeln!(body, "<figure class=\"{}\">\n{}</figure>", size.class, overview(history, size));
        }
        body.push_str("</section>\n");
    }
    evidence(&mut body, facts, history);
    coverage(&mut body, facts, history);
    setup(&mut body, facts);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>jepsen-tests: {}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n",
        escape(&facts.verdict)
    )
}

fn verdict(body: &mut String, facts: &Facts) {
    let (first, rest) = facts.sentence.split_once('\n').unwrap_or((&facts.sentence, ""));
    let verdict = escape(&facts.verdict);
    let _ = writeln!(
        body,
        "<header class=\"{verdict}\">\n<p class=\"word\">{verdict}</p>\n<h1>{}</h1>",
        escape(first)
    );
    if !rest.is_empty() {
        let _ = writeln!(body, "<pre>{}</pre>", escape(rest));
    }
    body.push_str("</header>\n");
}

fn numbers(body: &mut String, facts: &Facts, history: &History) {
    let count = |outcome| history.operations.iter().filter(|it| it.action.result() == outcome).count();
    let mut latencies: Vec<u64> = history
        .operations
        .iter()
        .filter(|operation| operation.is_ok())
        .map(|operation| operation.ret.saturating_sub(operation.call))
        .collect();
    latencies.sort_unstable();
    let at = |percent: usize| {
        let place = (latencies.len() * percent / 100).min(latencies.len().saturating_sub(1));
        latencies.get(place).map_or_else(|| "-".to_owned(), |ns| format!("{:.1} ms", *ns as f64 / 1e6))
    };
    let faults: u64 = facts.faults.iter().map(|(_, count)| count).sum();
    body.push_str("<section class=\"numbers\">\n");
    for (value, name) in [
        (history.operations.len().to_string(), "operations"),
        (count(Outcome::Ok(())).to_string(), "answered"),
        (count(Outcome::Fail).to_string(), "surely without effect"),
        (count(Outcome::Info).to_string(), "unknown"),
        (faults.to_string(), "faults took effect"),
        (at(50), "median latency"),
        (at(99), "99 % within"),
    ] {
        let _ = writeln!(body, "<p><b>{value}</b> {name}</p>");
    }
    body.push_str("</section>\n");
}

/// The operations around what is wrong.
fn evidence(body: &mut String, facts: &Facts, history: &History) {
    if facts.verdict != "failed" {
        return;
    }
    let Some(key) = key_of(history, &facts.sentence) else { return };
    let operations = around(history, key, &facts.sentence);
    let _ = writeln!(body, "<section>\n<h2>Key {} around the violation</h2>", escape(key));
    body.push_str("<p>One lane for each client process; a bar lasts from the call to the answer.</p>\n");
    for size in SIZES {
        let _ = writeln!(body, "<figure class=\"{}\">\n{}</figure>", size.class, lanes(&operations, size));
    }
    body.push_str("<div class=\"scroll\">\n<table>\n<tr><th>process</th><th>operation</th><th>called</th><th>answered</th><th>revision</th></tr>\n");
    for operation in operations {
        row(body, operation, &facts.sentence);
    }
    body.push_str("</table>\n</div>\n</section>\n");
}

fn row(body: &mut String, operation: &Operation, sentence: &str) {
    let is_named = sentence.contains(&format!("[{}, ", operation.call));
    let ms = |time: u64| format!("{:.3} ms", time as f64 / 1e6);
    let ended = operation.ended().map_or_else(|| "never".to_owned(), ms);
    let rev = operation.rev.map_or_else(String::new, |rev| rev.to_string());
    let _ = writeln!(
        body,
        "<tr{}><td>{}</td><td>{}</td><td>{}</td><td>{ended}</td><td>{rev}</td></tr>",
        if is_named { " class=\"named\"" } else { "" },
        operation.process,
        escape(&operation.action.to_string()),
        ms(operation.call),
    );
}

fn coverage(body: &mut String, facts: &Facts, history: &History) {
    body.push_str("<section>\n<h2>What was covered</h2>\n<div class=\"pair\">\n");
    body.push_str("<table>\n<tr><th>fault</th><th>took effect</th></tr>\n");
    for (kind, count) in &facts.faults {
        let _ = writeln!(body, "<tr><td>{}</td><td>{count}</td></tr>", escape(kind));
    }
    for kind in &facts.absent {
        let _ = writeln!(body, "<tr><td>{}</td><td>never</td></tr>", escape(kind));
    }
    body.push_str(
        "</table>\n<table>\n<tr><th>operation</th><th>answered</th><th>no effect</th><th>unknown</th></tr>\n",
    );
    for word in ["get", "put", "cas", "delete", "append"] {
        let of = |outcome| {
            let is_it = |operation: &&Operation| {
                operation.action.word() == word && operation.action.result() == outcome
            };
            history.operations.iter().filter(is_it).count()
        };
        let (ok, fail, info) = (of(Outcome::Ok(())), of(Outcome::Fail), of(Outcome::Info));
        if ok + fail + info > 0 {
            let _ = writeln!(body, "<tr><td>{word}</td><td>{ok}</td><td>{fail}</td><td>{info}</td></tr>");
        }
    }
    let writes = history.operations.iter().filter(|it| !matches!(it.action, Action::Get { .. })).count();
    let _ = writeln!(body, "</table>\n</div>\n<p>{writes} of them were writes.</p>\n</section>");
}

fn setup(body: &mut String, facts: &Facts) {
    body.push_str("<section>\n<h2>Run it again</h2>\n");
    let _ = writeln!(body, "<pre>{}</pre>\n<table>", escape(&facts.repeat));
    for (name, value) in &facts.setup {
        let _ = writeln!(body, "<tr><th>{}</th><td>{}</td></tr>", escape(name), escape(value));
    }
    body.push_str("</table>\n</section>\n");
}

const LEGEND: &str = "<p class=\"legend\"><span class=\"ok\">answered</span> <span class=\"fail\">no effect</span> \
<span class=\"info\">unknown</span> <span class=\"band\">fault</span></p>\n";

const STYLE: &str = "\
:root { color-scheme: light dark; --ground: #fbfbfa; --ink: #1d1f21; --soft: #6a6f76; --edge: #d9dbde; --panel: #fff;\n\
  --ok: #2f6fb3; --fail: #8a8f96; --info: #c77700; --band: #b3261e; --good: #1f7a3f; }\n\
@media (prefers-color-scheme: dark) { :root { --ground: #16181b; --ink: #e6e7e9; --soft: #9aa0a8; --edge: #33373d;\n\
  --panel: #1d2024; --ok: #6aa9e9; --fail: #8d949c; --info: #f0a63c; --band: #f2766d; --good: #64c487; } }\n\
* { box-sizing: border-box; }\n\
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }\n\
main { max-width: 1192px; margin: 0 auto; padding: 16px; }\n\
h1 { font-size: 1.25rem; line-height: 1.35; margin: 0; overflow-wrap: anywhere; font-weight: 600; }\n\
h2 { font-size: 1rem; margin: 0 0 8px; }\n\
header { border-left: 6px solid var(--soft); padding: 4px 0 4px 14px; margin: 8px 0 20px; }\n\
header.passed { border-color: var(--good); } header.failed { border-color: var(--band); }\n\
header.void, header.interrupted { border-color: var(--info); }\n\
.word { margin: 0; text-transform: uppercase; letter-spacing: .08em; font-size: .8rem; color: var(--soft); }\n\
section { margin: 0 0 24px; }\n\
.numbers { display: flex; flex-wrap: wrap; gap: 8px 24px; }\n\
.numbers p { margin: 0; color: var(--soft); } .numbers b { color: var(--ink); font-size: 1.1rem; }\n\
figure { margin: 0; } svg { width: 100%; height: auto; display: block; }\n\
figure.narrow { display: none; }\n\
@media (max-width: 700px) { figure.wide { display: none; } figure.narrow { display: block; } }\n\
svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }\n\
.grid { stroke: var(--edge); stroke-width: 1; }\n\
circle.ok, .bar.ok { fill: var(--ok); } circle.ok { opacity: .55; }\n\
circle.fail, .bar.fail { fill: var(--fail); } circle.info, .bar.info { fill: var(--info); }\n\
.band { fill: var(--band); } .shade { fill: var(--band); opacity: .07; }\n\
.rate { fill: none; stroke: var(--ok); stroke-width: 1.5; }\n\
.legend { color: var(--soft); margin: 0 0 8px; }\n\
.legend span { margin-right: 14px; white-space: nowrap; }\n\
.legend span::before { content: \"\"; display: inline-block; width: .7em; height: .7em; margin-right: .4em;\n\
  border-radius: 50%; background: var(--ok); }\n\
.legend .fail::before { background: var(--fail); } .legend .info::before { background: var(--info); }\n\
.legend .band::before { background: var(--band); border-radius: 2px; }\n\
pre { background: var(--panel); border: 1px solid var(--edge); border-radius: 6px; padding: 10px; margin: 8px 0;\n\
  white-space: pre-wrap; overflow-wrap: anywhere; font-size: .85rem; }\n\
table { border-collapse: collapse; font-size: .9rem; } .scroll { overflow-x: auto; }\n\
th, td { text-align: left; padding: 3px 14px 3px 0; border-bottom: 1px solid var(--edge); vertical-align: top; }\n\
td { overflow-wrap: anywhere; } th { color: var(--soft); font-weight: 500; }\n\
.pair { display: flex; flex-wrap: wrap; gap: 16px 48px; align-items: flex-start; }\n\
tr.named td { background: color-mix(in srgb, var(--band) 18%, transparent); }\n";
