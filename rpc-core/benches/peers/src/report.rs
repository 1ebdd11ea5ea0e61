//! What a person reads: tables in Markdown.

use crate::bars::{Bar, Relation};
use crate::contestant::Contestant;
use crate::samples::Samples;
use crate::scene::{Column, Scene};

/// Who the contestants are.
pub fn print_facts(scenes: &[Scene]) {
    let mut contestants: Vec<Contestant> =
        scenes.iter().flat_map(|scene| scene.contestants.clone()).collect();
    contestants.sort();
    contestants.dedup();
    println!("| contestant | what it does |\n| --- | --- |");
    for contestant in contestants {
        println!("| {contestant} | {} |", contestant.facts());
    }
}

/// The medians of a scene, and the ratios of rpc-core to the others.
pub fn print_scene(scene: &Scene, samples: &Samples) {
    println!("\n{}, median over rounds:\n", scene.name);
    print_table(scene, |contestant, column| {
        samples.median(&scene.name, contestant, column.cell, column.measure).map(rounded)
    });
    let subject = Contestant::RpcCore;
    if scene.contestants.contains(&subject) {
        println!("\n{subject} divided by the contestant, median over rounds:\n");
        print_table(scene, |contestant, column| {
            let ratio = samples.ratio(&scene.name, subject, contestant, column.cell, column.measure);
            ratio.map(|ratio| format!("{ratio:.2}"))
        });
    }
    let errors: u64 = samples.0.iter().filter(|s| s.scene == scene.name).map(|s| s.measurement.errors).sum();
    if errors > 0 {
        println!("\n{errors} calls failed:");
        for sample in samples.0.iter().filter(|s| s.scene == scene.name && s.measurement.errors > 0) {
            println!("- {}, {}: {}", sample.contestant, sample.cell, sample.measurement.errors);
        }
    }
}

fn print_table(scene: &Scene, value: impl Fn(Contestant, &Column) -> Option<String>) {
    let headings: Vec<&str> = scene.columns.iter().map(|column| column.heading.as_str()).collect();
    println!("| | {} |\n| --- |{}", headings.join(" | "), " --- |".repeat(headings.len()));
    for contestant in &scene.contestants {
        let values =
            scene.columns.iter().map(|column| value(*contestant, column).unwrap_or_else(|| "-".to_owned()));
        println!("| {contestant} | {} |", values.collect::<Vec<_>>().join(" | "));
    }
}

/// Three digits that count, thousands apart.
fn rounded(value: f64) -> String {
    if value < 10.0 {
        return format!("{value:.2}");
    }
    if value < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The bars with what was measured. True when all hold with this slack.
pub fn print_bars(bars: &[Bar], samples: &Samples, slack: f64) -> bool {
    let mut all = true;
    println!("\n| bar | of | measured | |\n| --- | --- | --- | --- |");
    for bar in bars {
        let Some(ratio) = bar.ratio(samples) else { continue };
        let holds = bar.relation.holds(ratio, slack);
        all &= holds;
        let against = bar.against.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let relation = match bar.relation {
            Relation::AtLeast(bar) => format!(">= {bar:.2}"),
            Relation::AtMost(bar) => format!("<= {bar:.2}"),
        };
        let verdict = if holds { "" } else { "missed" };
        println!(
            "| {}, {}, {}, {:?} | {relation} {against} | {ratio:.2} | {verdict} |",
            bar.contestant, bar.scene, bar.cell, bar.measure
        );
    }
    all
}

#[cfg(test)]
mod tests {
    use super::rounded;

    #[test]
    fn numbers_are_readable() {
        assert_eq!(rounded(1.234), "1.23");
        assert_eq!(rounded(76.54), "76.5");
        assert_eq!(rounded(999.4), "999");
        assert_eq!(rounded(1_234_567.8), "1,234,568");
    }
}
