//! What is measured: scenes (a path between client and server), and cells (a load) in each of them.

use std::fmt;

use serde::Serialize;

use crate::contestant::Contestant;
use crate::link;
use crate::load::{Measurement, Order};

/// A path, who meets on it, and with which loads.
#[derive(Clone, Debug, Serialize)]
pub struct Scene {
    pub name: String,
    /// None: loopback.
    #[serde(skip)]
    pub link: Option<link::Properties>,
    pub contestants: Vec<Contestant>,
    #[serde(skip)]
    pub cells: Vec<Cell>,
    #[serde(skip)]
    pub columns: Vec<Column>,
}

/// A load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Cell {
    pub in_flight: usize,
    pub size: usize,
    pub connections: usize,
}

impl Cell {
    const fn new(in_flight: usize, size: usize) -> Self {
        Self { in_flight, size, connections: 1 }
    }

    pub const fn order(self, seconds: f64) -> Order {
        let Self { in_flight, size, connections } = self;
        Order { in_flight, size, connections, seconds, warm_up: seconds / 4.0 }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {} B", self.in_flight, self.size)?;
        if self.connections > 1 { write!(f, " over {} connections", self.connections) } else { Ok(()) }
    }
}

/// A number of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Measure {
    P50,
    P99,
    CallsPerSecond,
    MibPerSecond,
    ClientCpu,
    ServerCpu,
    ClientMemory,
    ServerMemory,
}

impl Measure {
    pub fn of(self, cell: Cell, measurement: &Measurement) -> Option<f64> {
        Some(match self {
            Self::P50 => measurement.p50_us,
            Self::P99 => measurement.p99_us,
            Self::CallsPerSecond => measurement.calls_per_second,
            Self::MibPerSecond => measurement.calls_per_second * cell.size as f64 / f64::from(1 << 20),
            Self::ClientCpu => measurement.client_cpu_us?,
            Self::ServerCpu => measurement.server_cpu_us?,
            Self::ClientMemory => measurement.client_kib?,
            Self::ServerMemory => measurement.server_kib?,
        })
    }
}

/// One number of one cell, as a table shows it.
#[derive(Clone, Debug)]
pub struct Column {
    pub heading: String,
    pub cell: Cell,
    pub measure: Measure,
}

fn column(heading: &str, cell: Cell, measure: Measure) -> Column {
    Column { heading: heading.to_owned(), cell, measure }
}

pub const ONE: Cell = Cell::new(1, 64);
pub const SMALL_64: Cell = Cell::new(64, 64);
pub const SMALL_256: Cell = Cell::new(256, 64);
pub const KIB_64: Cell = Cell::new(64, 1 << 10);
pub const KIB_256: Cell = Cell::new(256, 1 << 10);
pub const MIB: Cell = Cell::new(4, 1 << 20);

const GENERAL: [Contestant; 6] = [
    Contestant::RpcCore,
    Contestant::RpcCorePlain,
    Contestant::Tarpc,
    Contestant::Quinn,
    Contestant::Tonic,
    Contestant::TcpMux,
];

/// Latency, calls per second and what they cost, over loopback.
pub fn loopback() -> Scene {
    use Measure::{CallsPerSecond, ClientCpu, MibPerSecond, P50, P99, ServerCpu};

    Scene {
        name: "loopback".to_owned(),
        link: None,
        contestants: [&GENERAL[..], &[Contestant::RpcCoreSpin]].concat(),
        cells: vec![ONE, SMALL_64, SMALL_256, KIB_64, KIB_256, MIB],
        columns: vec![
            column("1 x 64 B p50 us", ONE, P50),
            column("p99 us", ONE, P99),
            column("64 x 64 B calls/s", SMALL_64, CallsPerSecond),
            column("256 x 64 B calls/s", SMALL_256, CallsPerSecond),
            column("64 x 1 KiB calls/s", KIB_64, CallsPerSecond),
            column("256 x 1 KiB calls/s", KIB_256, CallsPerSecond),
            column("1 MiB echo MiB/s", MIB, MibPerSecond),
            column("256 x 64 B client CPU us/call", SMALL_256, ClientCpu),
            column("server CPU us/call", SMALL_256, ServerCpu),
        ],
    }
}

/// What more connections cost: memory of each, processor time of the server per call with the calls spread over them.
pub fn connections() -> Scene {
    let counts = [1, 10, 100, 1_000];
    let cells = |in_flight| counts.map(|connections| Cell { in_flight, size: 64, connections });
    let mut columns = Vec::new();
    for in_flight in [1, 64] {
        for cell in cells(in_flight) {
            let heading = format!("{in_flight} in flight over {}: server CPU us/call", cell.connections);
            columns.push(column(&heading, cell, Measure::ServerCpu));
        }
    }
    let [.., thousand] = cells(1);
    columns.push(column("server KiB/connection", thousand, Measure::ServerMemory));
    columns.push(column("client KiB/connection", thousand, Measure::ClientMemory));
    // The thousand come first, in processes that have not yet grown for another reason.
    let cells = [cells(1), cells(64)].concat().into_iter().rev().collect::<Vec<_>>();
    let cells = std::iter::once(thousand).chain(cells.into_iter().filter(|cell| *cell != thousand)).collect();
    Scene { name: "connections".to_owned(), link: None, contestants: GENERAL.to_vec(), cells, columns }
}

/// Packets lost at random in both directions, next to no delay.
pub fn loss(percent: f64) -> Scene {
    use Measure::{CallsPerSecond, P50, P99};

    Scene {
        name: format!("{percent} % loss"),
        link: Some(link::Properties { loss: percent, ..link::Properties::default() }),
        contestants: GENERAL.to_vec(),
        cells: vec![ONE, SMALL_64],
        columns: vec![
            column("1 x 64 B p50 us", ONE, P50),
            column("p99 us", ONE, P99),
            column("64 x 64 B calls/s", SMALL_64, CallsPerSecond),
            column("p99 us", SMALL_64, P99),
        ],
    }
}

/// Bulk over a long link: 20 ms round trip, 200 Mbit/s, a queue of 50 ms.
pub fn wan(percent: f64) -> Scene {
    let link =
        link::Properties { loss: percent, delay_ms: 10.0, rate_mbit: 200.0, ..link::Properties::default() };
    Scene {
        name: format!("20 ms, 200 Mbit/s, {percent} % loss"),
        link: Some(link),
        contestants: [&GENERAL[..], &[Contestant::QuinnBbr]].concat(),
        cells: vec![MIB],
        columns: vec![
            column("1 MiB echo MiB/s", MIB, Measure::MibPerSecond),
            column("p99 us", MIB, Measure::P99),
        ],
    }
}

/// The cells that tell soonest when something became slow.
pub fn quick() -> Scene {
    let mut scene = loopback();
    scene.cells = vec![ONE, SMALL_64, KIB_256, MIB];
    scene.columns.retain(|column| scene.cells.contains(&column.cell));
    scene
}
