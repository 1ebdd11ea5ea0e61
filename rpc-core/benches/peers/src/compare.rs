//! The driver: plays scenes over rounds, with all contestants in turn for each load, and reports.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::bars;
use crate::contestant::Contestant;
use crate::contract::Ready;
use crate::link::{self, Up};
use crate::load::Measurement;
use crate::process::Process;
use crate::report;
use crate::samples::{Sample, Samples};
use crate::scene::{self, Scene};

#[derive(clap::Args)]
pub struct Options {
    /// Over a path that loses so many percent of the packets at random, one scene for each; needs root.
    #[arg(long, value_name = "PERCENT,..", value_delimiter = ',', conflicts_with = "wan")]
    loss: Vec<f64>,
    /// Bulk over 20 ms, 200 Mbit/s, with 0, 1 and 5 % loss; needs root.
    #[arg(long)]
    wan: bool,
    /// What more connections cost, from 1 to 1,000.
    #[arg(long, conflicts_with_all = ["wan", "loss"])]
    connections: bool,
    /// About a minute: few loads, few rounds; fails when a bar is missed by more than a factor of 2.
    #[arg(long, conflicts_with_all = ["wan", "loss", "connections"])]
    quick: bool,
    /// How often everything is measured.
    #[arg(long)]
    rounds: Option<usize>,
    /// How long each measurement takes, after a quarter of that to warm up.
    #[arg(long)]
    seconds: Option<f64>,
    /// Only these contestants.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Contestant>,
    /// Fails when a bar is missed by more than this factor.
    #[arg(long, value_name = "FACTOR")]
    assert: Option<f64>,
    /// Where to write all measurements.
    #[arg(long, default_value = "target/compare.json")]
    json: PathBuf,
}

/// The cores of client and server; what else runs (the link, the driver) is not pinned.
const CLIENT_CORE: usize = 0;
const SERVER_CORE: usize = 1;
/// How much a bar of the quick run may be missed: it runs on busy machines, with few rounds.
const QUICK_SLACK: f64 = 2.0;

pub fn run(options: &Options) -> Result<()> {
    if std::thread::available_parallelism()?.get() < 2 {
        bail!("two cores are needed: one for the client, one for the server");
    }
    let scenes = scenes(options);
    if scenes.iter().any(|scene| scene.link.is_some())
        && let Some(obstacle) = link::obstacle()
    {
        println!("SKIPPED: no lossy link on this machine: {obstacle}");
        return Ok(());
    }
    let (rounds_default, seconds_default) = defaults(options);
    let rounds = options.rounds.unwrap_or(rounds_default);
    let seconds = options.seconds.unwrap_or(seconds_default);
    let (commit, load_before) = (commit(), load_average());
    println!("commit {commit}, {rounds} rounds of {seconds} s, load average before: {load_before}\n");
    report::print_facts(&scenes);

    let mut samples = Samples::default();
    for scene in &scenes {
        for round in 0..rounds {
            play(scene, round, seconds, &mut samples)
                .with_context(|| format!("{}, round {round}", scene.name))?;
        }
        report::print_scene(scene, &samples);
    }
    let bars = bars::bars(&scenes);
    let slack = options.assert.or(options.quick.then_some(QUICK_SLACK));
    let reached = report::print_bars(&bars, &samples, slack.unwrap_or(1.0));
    println!("\nload average after: {}", load_average());

    let verdicts: Vec<_> =
        bars.iter().map(|bar| json!({ "bar": bar, "ratio": bar.ratio(&samples) })).collect();
    let document = json!({
        "commit": commit, "rounds": rounds, "seconds": seconds, "load_average": load_before,
        "bars": verdicts, "samples": samples.0,
    });
    if let Some(folder) = options.json.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(&options.json, serde_json::to_vec_pretty(&document)?)?;
    if slack.is_some() && !reached {
        bail!("a bar was missed by more than the slack");
    }
    Ok(())
}

fn scenes(options: &Options) -> Vec<Scene> {
    let mut scenes = if !options.loss.is_empty() {
        options.loss.iter().copied().map(scene::loss).collect()
    } else if options.wan {
        [0.0, 1.0, 5.0].map(scene::wan).to_vec()
    } else if options.connections {
        vec![scene::connections()]
    } else if options.quick {
        vec![scene::quick()]
    } else {
        vec![scene::loopback()]
    };
    if !options.only.is_empty() {
        for scene in &mut scenes {
            scene.contestants.retain(|contestant| options.only.contains(contestant));
        }
    }
    scenes
}

/// Rounds, and seconds of each measurement.
fn defaults(options: &Options) -> (usize, f64) {
    if !options.loss.is_empty() {
        (5, 2.0)
    } else if options.wan {
        (3, 6.0)
    } else if options.quick {
        (3, 0.6)
    } else {
        (7, 1.0)
    }
}

/// One round: fresh processes, each load in turn, and for each load each contestant in turn, another one first in
/// each round.
fn play(scene: &Scene, round: usize, seconds: f64, samples: &mut Samples) -> Result<()> {
    let link = scene
        .link
        .map(|link| Link::start(link::Properties { seed: round as u64 + 1, ..link }))
        .transpose()?;
    if let (0, Some(link)) = (round, &link) {
        println!("\nTCP under the kernel's controller: {}", link.up.client.tcp_congestion);
    }
    let mut pairs = scene
        .contestants
        .iter()
        .map(|contestant| Pair::start(*contestant, link.as_ref()).with_context(|| contestant.to_string()))
        .collect::<Result<Vec<_>>>()?;
    let count = pairs.len();
    for cell in &scene.cells {
        for turn in 0..count {
            let pair = &mut pairs[(turn + round) % count];
            let contestant = pair.contestant;
            let measured: Result<Measurement> = pair.client.ask(&cell.order(seconds));
            let measurement = measured.with_context(|| format!("{contestant}, {cell}"))?;
            eprintln!(
                "{} round {round} {contestant} {cell:?}: {:.0} calls/s",
                scene.name, measurement.calls_per_second
            );
            samples.0.push(Sample { scene: scene.name.clone(), cell: *cell, contestant, round, measurement });
        }
    }
    Ok(())
}

/// The link of a scene.
struct Link {
    up: Up,
    _process: Process,
}

impl Link {
    fn start(properties: link::Properties) -> Result<Self> {
        let arguments = [vec!["link".to_owned()], properties.arguments()].concat();
        let mut process = Process::start(&arguments)?;
        Ok(Self { up: process.hear()?, _process: process })
    }
}

/// Client and server of one contestant.
struct Pair {
    contestant: Contestant,
    client: Process,
    _server: Process,
}

impl Pair {
    fn start(contestant: Contestant, link: Option<&Link>) -> Result<Self> {
        let host = link.map_or_else(|| "127.0.0.1".to_owned(), |link| link.up.server.address.to_string());
        let mut arguments = vec![
            "serve".to_owned(),
            contestant.to_string(),
            format!("--core={SERVER_CORE}"),
            format!("--address={host}:0"),
        ];
        arguments.extend(link.map(|link| format!("--namespace={}", link.up.server.namespace.display())));
        let mut server = Process::start(&arguments)?;
        let Ready { address, secret } = server.hear()?;

        let mut arguments = vec![
            "call".to_owned(),
            contestant.to_string(),
            format!("--core={CLIENT_CORE}"),
            format!("--server={address}"),
        ];
        arguments.extend([format!("--secret={secret}"), format!("--server-pid={}", server.id())]);
        arguments.extend(link.map(|link| format!("--namespace={}", link.up.client.namespace.display())));
        Ok(Self { contestant, client: Process::start(&arguments)?, _server: server })
    }
}

/// The commit of rpc-core, with `-dirty` when it was changed since.
fn commit() -> String {
    let git = Command::new("git")
        .args(["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty", "--abbrev=12"])
        .output();
    git.ok().map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

/// Of the last 1, 5 and 15 minutes.
fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}
