//! Every decoder, and whole endpoints, under arbitrary bytes: what the fuzz targets (`rpc-core/fuzz`) and the mutation
//! test run. Compiled for tests and with the feature `fuzzing` only; no part of the API.
//!
//! A [`Target`] must hold for *all* bytes: no panic, no endless loop, nothing larger than the input or a limit; and what
//! it accepts must read back from what is written for it.

mod bodies;
mod script;
#[cfg(test)]
mod tests;
mod wire;

/// Something that takes bytes from the network.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The name of its fuzz target.
    pub name: &'static str,
    /// Feeds it and checks what must hold; true if it accepted the bytes. Panics where it does not hold.
    pub run: fn(&[u8]) -> bool,
    /// Valid inputs, from which mutations begin.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "datagram", run: wire::datagram, seeds: wire::datagram_seeds },
    Target { name: "frames", run: wire::frames, seeds: wire::frame_seeds },
    Target { name: "setup", run: wire::setup, seeds: wire::setup_seeds },
    Target { name: "cbor", run: bodies::cbor, seeds: bodies::cbor_seeds },
    Target { name: "envelope", run: bodies::envelope, seeds: bodies::envelope_seeds },
    Target { name: "errors", run: bodies::errors, seeds: bodies::error_seeds },
    Target { name: "gossip", run: bodies::gossip, seeds: bodies::gossip_seeds },
    Target { name: "notation", run: bodies::notation, seeds: bodies::notation_seeds },
    Target { name: "endpoint", run: script::insecure, seeds: script::seeds },
    Target { name: "endpoint_sealed", run: script::sealed, seeds: script::seeds },
];

/// Runs the target `name`, for `rpc-core/fuzz`.
///
/// # Panics
/// When what must hold does not, or there is no such target.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target of this name");
    (target.run)(bytes);
}
