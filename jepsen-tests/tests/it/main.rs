//! The checkers from outside: against histories with known verdicts, against a simulated register and an oracle
//! that is too simple to be wrong, and through the command line. And whole runs against real processes.

mod agreement;
mod command;
mod known_verdicts;
mod nemeses;
mod oracle;
mod regressions;
mod run;
mod simulated_register;
mod source;
