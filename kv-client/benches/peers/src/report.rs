//! What a person reads: tables in Markdown.

use crate::bars::Verdict;
use crate::contestant::Contestant;
use crate::life::Moment;
use crate::load::{Cell, Op};
use crate::samples::{FOREIGN_CPU_MAX, Figure, Measure, Sample, Samples};

/// Loads over something that varies.
pub struct Curve {
    /// What varies.
    pub title: &'static str,
    /// Its values, and the loads of each.
    pub rows: Vec<(String, Vec<Cell>)>,
}

/// A contestant with the version of its server, or why it is not there.
pub type Entry = (Contestant, Result<String, String>);

/// Who the contestants are, and who is missing.
pub fn print_entries(entries: &[Entry]) {
    println!("| contestant | server | what an answer means |\n| --- | --- | --- |");
    for (contestant, server) in entries {
        match server {
            Ok(version) => println!("| {contestant} | {version} | {} |", contestant.facts()),
            Err(why) => println!("| {contestant} | **skipped, not installed**: {why} | |"),
        }
    }
}

/// One table for each operation, and one of ratios.
pub fn print_loads(samples: &Samples, entries: &[Entry], ops: &[Op], cells: &[Cell]) {
    for op in ops {
        let cells: Vec<_> = cells.iter().filter(|cell| cell.op == *op).copied().collect();
        println!("\n**{}**, per second (p50 / p99 ms), medians over rounds:\n", name(*op));
        print_table(entries, &cells, |contestant, cell| {
            let [rate, p50, p99] = [Measure::OpsPerSecond, Measure::P50Ms, Measure::P99Ms]
                .map(|measure| samples.median(contestant, cell, measure));
            Some(format!("{} ({} / {})", marked(rate?), rounded(p50?.value), rounded(p99?.value)))
        });
        if !samples.loads.iter().any(|sample| sample.contestant == Contestant::Ours) {
            continue;
        }
        println!("\nours divided by the contestant, medians of the ratios of rounds:\n");
        print_table(entries, &cells, |contestant, cell| {
            samples.ratio(Contestant::Ours, contestant, cell, Measure::OpsPerSecond).map(marked)
        });
    }
    for (measure, heading) in [
        (Measure::NodesCpuUs, "processor time of all nodes, us per request"),
        (Measure::ClientCpuUs, "processor time of the clients, us per request"),
        (Measure::WrittenBytes, "bytes that all nodes wrote to the disk, per request"),
        (Measure::ResidentMb, "resident memory of the largest node afterwards, MB"),
    ] {
        for op in ops.iter().filter(|op| **op == Op::Put || measure == Measure::NodesCpuUs) {
            let cells: Vec<_> = cells.iter().filter(|cell| cell.op == *op).copied().collect();
            println!("\n**{}**, {heading}:\n", name(*op));
            print_table(entries, &cells, |contestant, cell| {
                samples.median(contestant, cell, measure).map(marked)
            });
        }
    }
}

/// Start, idleness, restart, loss of the leader.
pub fn print_moments(samples: &Samples, entries: &[Entry]) {
    let columns = [
        (Moment::ColdStartMs, "cold start to first write, ms"),
        (Moment::RestartMs, "restart on all keys, ms"),
        (Moment::KillMs, "first write after kill -9 of the leader, ms"),
        (Moment::StopMs, "after SIGSTOP, ms"),
        (Moment::IdleMb, "idle, MB"),
        (Moment::IdleCpuPercent, "idle, % of a core"),
        (Moment::FilledMb, "with all keys, MB"),
    ];
    let measured: Vec<_> = columns
        .into_iter()
        .filter(|(moment, _)| samples.events.iter().any(|e| e.moment == *moment))
        .collect();
    if measured.is_empty() {
        return;
    }
    println!(
        "\nMedians (all values where there are few); memory and processor use of the largest and busiest node:\n"
    );
    let headings: Vec<_> = measured.iter().map(|(_, heading)| *heading).collect();
    print_headings(&headings);
    for (contestant, _) in entries.iter().filter(|(_, server)| server.is_ok()) {
        let values = measured.iter().map(|(moment, _)| {
            let events = samples.events.iter().filter(|e| (e.contestant, e.moment) == (*contestant, *moment));
            let values: Vec<_> = events.map(|e| e.value.map_or("never".to_owned(), rounded)).collect();
            match (samples.moment(*contestant, *moment), values.len()) {
                (None, _) => "-".to_owned(),
                (Some(median), 1) => rounded(median),
                (Some(median), _) => format!("{} ({})", rounded(median), values.join(", ")),
            }
        });
        println!("| {contestant} | {} |", values.collect::<Vec<_>>().join(" | "));
    }
}

/// One contestant over something that varies.
pub fn print_curve(samples: &Samples, contestant: Contestant, Curve { title, rows }: &Curve) {
    println!("\n**{title}**, {contestant}, per second (MiB/s; p50 / p99 ms; CPU of all nodes, us; MB):\n");
    let cells = rows.first().map(|(_, cells)| cells.as_slice()).unwrap_or_default();
    print_headings(&cells.iter().map(heading).collect::<Vec<_>>());
    for (name, cells) in rows {
        let values = cells.iter().map(|cell| {
            let figure = |measure| samples.median(contestant, *cell, measure);
            let value = |measure| figure(measure).map(|figure| rounded(figure.value));
            let text = || {
                Some(format!(
                    "{} ({}; {} / {}; {}; {})",
                    marked(figure(Measure::OpsPerSecond)?),
                    value(Measure::MibPerSecond)?,
                    value(Measure::P50Ms)?,
                    value(Measure::P99Ms)?,
                    value(Measure::NodesCpuUs)?,
                    value(Measure::ResidentMb)?
                ))
            };
            text().unwrap_or_else(|| "-".to_owned())
        });
        println!("| {name} | {} |", values.collect::<Vec<_>>().join(" | "));
    }
}

/// The bars with hit or miss.
pub fn print_verdicts(verdicts: &[Verdict]) {
    println!("\n| bar | must be | measured | |\n| --- | --- | --- | --- |");
    for verdict in verdicts {
        let Verdict { what, bar, measured, .. } = verdict;
        let word = match (verdict.holds, verdict.is_stretch) {
            (true, false) => "hit",
            (false, false) => "**missed**",
            (true, true) => "stretch, hit",
            (false, true) => "stretch, missed",
        };
        let figure = Figure { value: *measured, is_disturbed: verdict.is_disturbed };
        println!("| {what} | {bar} | {} | {word} |", marked(figure));
    }
}

/// What stands against the numbers above.
pub fn print_flaws(samples: &Samples) {
    let disturbed =
        samples.loads.iter().filter(|s| s.measurement.foreign_cpu_percent > FOREIGN_CPU_MAX).count();
    let all = samples.loads.len();
    println!(
        "\n{disturbed} of {all} loads were measured while others used more than {FOREIGN_CPU_MAX} % of a core. They \
         count only where there is no other; then the figure has an asterisk."
    );
    for incident in &samples.incidents {
        let word = if incident.is_fatal { "**the turn did not end**: " } else { "" };
        println!("- {}, round {}: {word}{}", incident.contestant, incident.round, incident.what);
    }
    for sample in &samples.loads {
        let measurement = &sample.measurement;
        let mut flaws = Vec::new();
        if measurement.errors > 0 {
            let first = measurement.error.as_deref().unwrap_or_default();
            flaws.push(format!("{} errors ({first})", measurement.errors));
        }
        if measurement.misses > 0 {
            flaws.push(format!("{} wrong answers", measurement.misses));
        }
        if measurement.leader_moved {
            flaws.push("another node leads than before".to_owned());
        }
        if !flaws.is_empty() {
            let (Sample { contestant, round, cell, .. }, flaws) = (sample, flaws.join(", "));
            println!("- {contestant}, round {round}, {}, {} keys: {flaws}", heading(cell), cell.keys);
        }
    }
}

fn print_table(entries: &[Entry], cells: &[Cell], text: impl Fn(Contestant, Cell) -> Option<String>) {
    let headings: Vec<_> = cells.iter().map(|cell| clients(cell.clients)).collect();
    print_headings(&headings);
    for (contestant, server) in entries {
        let values = cells.iter().map(|cell| match server {
            Ok(_) => text(*contestant, *cell).unwrap_or_else(|| "-".to_owned()),
            Err(_) => "not installed".to_owned(),
        });
        println!("| {contestant} | {} |", values.collect::<Vec<_>>().join(" | "));
    }
}

fn print_headings(headings: &[impl AsRef<str>]) {
    let headings: Vec<_> = headings.iter().map(AsRef::as_ref).collect();
    println!("| | {} |\n| --- |{}", headings.join(" | "), " --- |".repeat(headings.len()));
}

fn heading(cell: &Cell) -> String {
    format!("{}, {}, {} B", name(cell.op), clients(cell.clients), cell.value_size)
}

fn clients(count: usize) -> String {
    match count {
        1 => "1 client".to_owned(),
        count => format!("{count} clients"),
    }
}

fn name(op: Op) -> &'static str {
    match op {
        Op::Put => "put",
        Op::Get => "get",
        Op::Mix => "mix of 9 gets to a put",
        Op::Cas => "cas",
    }
}

fn marked(figure: Figure) -> String {
    format!("{}{}", rounded(figure.value), if figure.is_disturbed { "*" } else { "" })
}

/// Three digits that count, thousands apart.
fn rounded(value: f64) -> String {
    if !value.is_finite() {
        return "never".to_owned();
    }
    let decimals = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    let text = format!("{value:.decimals$}");
    if decimals > 0 {
        return text;
    }
    let digits = text.len();
    let mut apart = String::new();
    for (index, digit) in text.chars().enumerate() {
        if index > 0 && (digits - index).is_multiple_of(3) {
            apart.push(',');
        }
        apart.push(digit);
    }
    apart
}

#[cfg(test)]
mod tests {
    use super::rounded;

    #[test]
    fn numbers_are_readable() {
        assert_eq!(rounded(0.0), "0.00");
        assert_eq!(rounded(76.54), "76.5");
        assert_eq!(rounded(999.4), "999");
        assert_eq!(rounded(1_234_567.8), "1,234,568");
        assert_eq!(rounded(f64::INFINITY), "never");
    }
}
