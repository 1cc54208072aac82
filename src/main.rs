//! The `hotbackup` command.
#![forbid(unsafe_code)]
use std::process::ExitCode;

use hotbackup_tracer::keeper;

fn main() -> ExitCode {
    // Before anything else: the keeper shares nothing with the commands, and keeps as little as it can.
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|verb| verb == keeper::SUBCOMMAND) {
        let rest: Vec<String> = arguments.map(|argument| argument.to_string_lossy().into_owned()).collect();
        std::process::exit(keeper::start::main(&rest));
    }
    hotbackup::cli::main()
}
