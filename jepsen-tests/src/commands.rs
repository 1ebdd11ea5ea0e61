//! One file for each subcommand: its arguments and `run`. They know the library, not each other.

pub(crate) mod verdict;

use std::process::ExitCode;

/// How a command ends. The numbers are API (docs/TESTING.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Exit {
    /// All is well.
    Linearizable = 0,
    /// No verdict: undecided, unreadable, or nowhere to print it.
    Inconclusive = 10,
    /// A violation was found: it outweighs what is inconclusive beside it.
    Violation = 9,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
