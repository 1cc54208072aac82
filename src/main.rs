//! The `hotbackup` command.
#![forbid(unsafe_code)]
use std::process::ExitCode;

fn main() -> ExitCode {
    hotbackup::cli::main()
}
