//! One file for each subcommand: its arguments and `run`. They know the library, not each other.

mod chosen;
mod folder;
pub(crate) mod plant;
#[cfg(feature = "power")]
pub(crate) mod power;
pub(crate) mod report;
pub(crate) mod run;
pub(crate) mod shrink;
pub(crate) mod sim;
mod summary;
mod time;
pub(crate) mod verdict;

use std::process::ExitCode;

/// How a command ends, from the best to the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Exit {
    /// All is well.
    Linearizable,
    /// No verdict: undecided, unreadable, or nowhere to print it.
    Inconclusive,
    /// A violation was found.
    Violation,
    /// What was asked for makes no sense.
    Usage,
    /// A signal ended it; this is what a shell reports for that.
    Interrupted(u8),
}

impl From<Exit> for ExitCode {
    /// The numbers are API (docs/TESTING.md).
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Linearizable => 0,
            Exit::Violation => 9,
            Exit::Inconclusive => 10,
            Exit::Usage => 2,
            Exit::Interrupted(code) => code,
        })
    }
}
