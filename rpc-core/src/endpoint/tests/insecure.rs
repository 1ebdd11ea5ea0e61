//! The stories in the insecure mode.

use crate::security::Security;

#[path = "basics.rs"]
mod basics;
#[path = "hostile.rs"]
mod hostile;
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
    Security::insecure()
}
