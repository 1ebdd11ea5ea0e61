//! The stories with a shared key, and those that only encryption has.

#![expect(clippy::duplicate_mod, reason = "the same stories are told in every mode")]

use crate::security::{Security, SharedKey};

#[path = "attacks.rs"]
mod attacks;
#[path = "basics.rs"]
mod basics;
#[path = "hostile.rs"]
mod hostile;
#[path = "identities.rs"]
mod identities;
#[path = "limits.rs"]
mod limits;
#[path = "loss.rs"]
mod loss;
#[path = "marks.rs"]
mod marks;
#[path = "memory.rs"]
mod memory;
#[path = "outcomes.rs"]
mod outcomes;
#[path = "pair.rs"]
mod pair;
#[path = "paths.rs"]
mod paths;

fn security() -> Security {
    Security::shared_key(SharedKey::new([0x5a; 32]))
}
