//! What was sent, by name: the outbox sends it, recovery remembers it until it is acknowledged or lost.

/// Names a message of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) call: u64,
    pub(super) response: bool,
}

/// A frame that was sent, as much of it as is needed to send it again or to know that it arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SentFrame {
    Ack {
        largest: u64,
        /// What it said about marks.
        news: u64,
    },
    Ping,
    Message(Key),
    Part {
        key: Key,
        offset: u64,
        size: u32,
    },
    Cancel {
        call: u64,
    },
    Seen {
        floor: u64,
    },
    Accepted {
        call: u64,
    },
    MaxData,
    Grant {
        call: u64,
        upto: u64,
    },
    /// A packet that is nothing but a datagram of this size.
    MtuProbe {
        size: u32,
    },
    Drain,
}
