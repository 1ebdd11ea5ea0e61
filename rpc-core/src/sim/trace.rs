//! The trace: every event of ours in order, as a running hash and, if asked for, as lines.

use std::fmt;
use std::net::SocketAddr;

use super::NodeNumber;

/// One event.
#[derive(Clone, Debug)]
pub enum TraceLine {
    /// A datagram left a socket.
    Sent {
        /// The sending socket.
        from: SocketAddr,
        /// Where to.
        to: SocketAddr,
        /// Its length in bytes.
        size: usize,
        /// CRC-32C of its bytes.
        crc: u32,
        /// How many pieces of it will arrive.
        copies: usize,
    },
    /// A datagram reached a socket.
    Delivered {
        /// The sending socket.
        from: SocketAddr,
        /// The receiving one.
        to: SocketAddr,
        /// Its length in bytes.
        size: usize,
        /// CRC-32C of its bytes.
        crc: u32,
    },
    /// A timer of a node fired.
    Timer {
        /// The node.
        node: NodeNumber,
    },
    /// A node ended with all its tasks.
    Crash {
        /// The node.
        node: NodeNumber,
        /// How many tasks were dropped.
        tasks: usize,
    },
    /// A node was paused.
    Pause {
        /// The node.
        node: NodeNumber,
    },
    /// A node goes on.
    Resume {
        /// The node.
        node: NodeNumber,
    },
    /// A node was suspended.
    Suspend {
        /// The node.
        node: NodeNumber,
    },
    /// A suspended node goes on.
    Woken {
        /// The node.
        node: NodeNumber,
    },
    /// An event of the code above: a disk operation, a Raft event, an operation of a client.
    Event {
        /// The node.
        node: NodeNumber,
        /// What happened.
        what: String,
    },
}

impl fmt::Display for TraceLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sent { from, to, size, crc, copies } => {
                write!(f, "sent {from} {to} {size} {crc:08x} x{copies}")
            }
            Self::Delivered { from, to, size, crc } => write!(f, "delivered {from} {to} {size} {crc:08x}"),
            Self::Timer { node } => write!(f, "timer {node}"),
            Self::Crash { node, tasks } => write!(f, "crash {node} {tasks} tasks"),
            Self::Pause { node } => write!(f, "pause {node}"),
            Self::Resume { node } => write!(f, "resume {node}"),
            Self::Suspend { node } => write!(f, "suspend {node}"),
            Self::Woken { node } => write!(f, "woken {node}"),
            Self::Event { node, what } => write!(f, "node {node}: {what}"),
        }
    }
}

/// Takes the lines of a trace as they happen.
type Sink = Box<dyn FnMut(&str) + Send>;

pub(super) struct Trace {
    hash: u64,
    count: u64,
    sink: Option<Sink>,
}

impl Default for Trace {
    fn default() -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, count: 0, sink: None }
    }
}

impl Trace {
    pub(super) fn record(&mut self, now_ns: u64, line: TraceLine) {
        self.count += 1;
        self.mix(now_ns);
        match &line {
            TraceLine::Sent { from, to, size, crc, copies } => {
                self.mix(1 + (u64::from(*crc) << 8));
                self.mix(((*size as u64) << 32) | (*copies as u64));
                self.mix((u64::from(from.port()) << 32) | u64::from(to.port()));
            }
            TraceLine::Delivered { from, to, size, crc } => {
                self.mix(2 + (u64::from(*crc) << 8));
                self.mix(*size as u64);
                self.mix((u64::from(from.port()) << 32) | u64::from(to.port()));
            }
            TraceLine::Timer { node } => self.mix(3 + (node << 8)),
            TraceLine::Crash { node, tasks } => self.mix(4 + (node << 8) + ((*tasks as u64) << 32)),
            TraceLine::Pause { node } => self.mix(5 + (node << 8)),
            TraceLine::Resume { node } => self.mix(6 + (node << 8)),
            TraceLine::Suspend { node } => self.mix(8 + (node << 8)),
            TraceLine::Woken { node } => self.mix(9 + (node << 8)),
            TraceLine::Event { node, what } => {
                self.mix(7 + (node << 8));
                self.mix(u64::from(crc32c::crc32c(what.as_bytes())));
            }
        }
        if let Some(sink) = &mut self.sink {
            sink(&format!("{:>6}.{:09} {line}", now_ns / 1_000_000_000, now_ns % 1_000_000_000));
        }
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn set_sink(&mut self, sink: Sink) {
        self.sink = Some(sink);
    }

    /// One round of FNV-1a on a word, with a rotation so that high bits reach low ones.
    fn mix(&mut self, word: u64) {
        self.hash = (self.hash ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29);
    }
}
