//! The `hotbackup` command.
#![forbid(unsafe_code)]
use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything else: keeper and ptracer share nothing with the commands, and keep as little as they can.
    let arguments: Vec<String> =
        std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned()).collect();
    if let Some(code) = hotbackup_tracer::helper_main(&arguments) {
        std::process::exit(code);
    }
    drop(arguments);
    hotbackup::cli::main()
}
