//! The command `kv-client`. docs/CLI.md holds what scripts may rely on: verbs, exit codes, JSON.

mod cli;

use std::io::Write as _;

use clap::Parser;

fn main() {
    let arguments = cli::Arguments::parse();
    let exit = cli::main(arguments);
    // Ends the process where it stands: a name lookup that still hangs on its thread must not hold it up.
    let _ = std::io::stdout().flush();
    std::process::exit(exit.code());
}
