//! The `hotbackup` command line: it reads flags, calls the library, and draws what that tells.
//!
//! Every verb ends in a [`Cause`]; that is the exit code, and with `--json` the last line says it too.
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind as Usage;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::exit::Cause;
use crate::session::Point;

pub mod draw;
pub mod duration;
pub mod reserve;
pub mod size;
pub mod time;
mod verbs;

/// A consistent copy of a running database's directory, by PID, with nothing to prepare.
#[derive(Debug, Parser)]
#[command(
    name = "hotbackup",
    version,
    about,
    after_help = "Exit codes: docs/exit-codes.md. Log to stderr: HOTBACKUP_LOG=debug."
)]
struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Take one backup of a running process's data
    Backup(Backup),
    /// Say whether a backup still holds what its manifest says
    Verify(Verify),
    /// Say whether a process can be backed up, without touching it
    Check(Check),
    /// Answer a process whose calls nobody answers
    Rescue(Rescue),
    /// Show the whole thing: a writer, a backup of it under load, and the verdict
    Demo(Demo),
    /// The demo's self-checking writer
    #[command(hide = true)]
    DemoWriter(crate::demo::writer::Options),
}

#[derive(Debug, Args)]
struct Backup {
    /// The process to back up
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..))]
    pid: i32,
    /// A directory to back up, as the process names it (default: mongod's dbpath); several go to DEST/<name> each
    #[arg(long, value_name = "DIR")]
    source: Vec<PathBuf>,
    /// Copy at most so many bytes a second, such as 64MiB; 0 pauses copying while changes are still seen
    #[arg(long, value_name = "BYTES/S", value_parser = size::bytes)]
    throttle: Option<u64>,
    /// Where the point in time lies: at the end of the backup, or at its start
    #[arg(long, value_enum, default_value = "end")]
    point: PointArg,
    /// Leave out what matches, relative to the source; may be given more than once
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
    /// Memory for content that is saved before it is overwritten; when it is full, such writes wait
    #[arg(long, value_name = "SIZE", value_parser = size::bytes, default_value = "32MiB")]
    before_images: u64,
    /// Copy files with writable shared mappings as well, up to this size together: the process is stopped at the point in time for
    /// as long as reading them takes; 0 makes them an error
    #[arg(long, value_name = "SIZE", value_parser = size::bytes, default_value = "0")]
    mapped: u64,
    /// How long a write may wait for what it overwrites to be saved; then the backup is given up
    #[arg(long, value_name = "DURATION", value_parser = duration::duration, default_value = "500ms")]
    max_wait: Duration,
    /// How long writes are held at the point in time, at most; then it is tried again a little later
    #[arg(long, value_name = "DURATION", value_parser = duration::duration, default_value = "50ms")]
    hold: Duration,
    /// How long a call of the process waits at most, whatever hangs; then the backup is given up
    #[arg(long, value_name = "DURATION", value_parser = duration::duration, default_value = "1s")]
    lease: Duration,
    /// Have every write shown, also those of 8 bytes in a process with eventfds, which then cost it more; counts only in the
    /// first backup since the process was started
    #[arg(long)]
    show_all_writes: bool,
    /// What is left free for the server on a file system that holds its data as well as the backup: a size, a share such as 5%,
    /// or off, to look at nothing [default: 5%, from 1GiB to 8GiB, and never more than 10%]
    #[arg(long, value_name = "SIZE|PERCENT", value_parser = reserve::reserve)]
    reserve: Option<crate::session::Reserve>,
    #[command(flatten)]
    output: Output,
    /// Where the backup goes: a new directory, or an empty one
    dest: PathBuf,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PointArg {
    End,
    Start,
}

impl From<PointArg> for Point {
    fn from(point: PointArg) -> Self {
        match point {
            PointArg::End => Self::End,
            PointArg::Start => Self::Start,
        }
    }
}

#[derive(Debug, Clone, Copy, Args)]
struct Output {
    /// One JSON object a line on stdout, errors too
    #[arg(long)]
    json: bool,
    /// Say nothing but errors; with --json, nothing but the result
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Debug, Args)]
struct Verify {
    /// The backup
    dest: PathBuf,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct Check {
    /// The process to look at
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..))]
    pid: i32,
    /// A directory that would be backed up (default: mongod's dbpath)
    #[arg(long, value_name = "DIR")]
    source: Vec<PathBuf>,
    /// As for the backup: up to this size, files with writable shared mappings are no reason to refuse
    #[arg(long, value_name = "SIZE", value_parser = size::bytes, default_value = "0")]
    mapped: u64,
    /// Attach as well, as a backup does, and have the process make a harmless call that must be seen; filter and keeper
    /// stay. Without it nothing of the process is touched
    #[arg(long)]
    probe: bool,
    /// As for the first backup, which this counts for with --probe
    #[arg(long, requires = "probe")]
    show_all_writes: bool,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct Rescue {
    /// The process that waits
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..))]
    pid: i32,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct Demo {
    #[command(flatten)]
    options: crate::demo::Options,
    #[command(flatten)]
    output: Output,
}

/// A verb that failed: the cause and the words.
#[derive(Debug)]
struct Failure {
    cause: Cause,
    message: String,
}

impl Failure {
    fn new(cause: Cause, message: impl ToString) -> Self {
        Self { cause, message: message.to_string() }
    }

    /// The result could not be handed over; nothing else went wrong.
    fn output(error: &std::io::Error) -> Self {
        Self::new(
            Cause::Output,
            format!("the work is done, but its result cannot be written to standard output: {error}"),
        )
    }
}

/// Runs the command that the process's arguments say.
pub fn main() -> ExitCode {
    let command = match Command::try_parse() {
        Ok(command) => command,
        Err(error) => return usage(&error),
    };
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_env("HOTBACKUP_LOG"))
        .with_writer(std::io::stderr)
        .init();
    let (json, result) = match command.verb {
        Verb::Backup(flags) => (flags.output.json, verbs::backup(flags)),
        Verb::Verify(flags) => (flags.output.json, verbs::verify(&flags)),
        Verb::Check(flags) => (flags.output.json, verbs::check(&flags)),
        Verb::Rescue(flags) => (flags.output.json, verbs::rescue(&flags)),
        Verb::Demo(flags) => (flags.output.json, verbs::demo(&flags)),
        Verb::DemoWriter(options) => (false, verbs::demo_writer(&options)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(json, &failure),
    }
}

/// Tells a failure, in words and, where asked for, in JSON.
fn fail(json: bool, failure: &Failure) -> ExitCode {
    let Failure { cause, message } = failure;
    draw::say(&format!("hotbackup: {message}"));
    if json {
        // Without a stdout the words on stderr and the exit code have to do.
        let _ = draw::print_json(&serde_json::json!({
            "event": "error", "kind": cause, "exit_code": cause.code(), "message": message,
        }));
    }
    ExitCode::from(cause.code())
}

/// Help and version are asked for; all else is an error, in JSON too when the arguments ask for it.
fn usage(error: &clap::Error) -> ExitCode {
    let asked = matches!(error.kind(), Usage::DisplayHelp | Usage::DisplayVersion);
    let _ = error.print();
    if asked {
        return ExitCode::SUCCESS;
    }
    if std::env::args_os().any(|arg| arg == "--json") {
        let text = error.render().to_string();
        let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        let _ = draw::print_json(&serde_json::json!({
            "event": "error", "kind": Cause::Usage, "exit_code": Cause::Usage.code(), "message": message,
        }));
    }
    ExitCode::from(Cause::Usage.code())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_flags_do_not_contradict_each_other() {
        Command::command().debug_assert();
    }

    #[test]
    fn a_backup_reads_all_its_flags() {
        let line = "hotbackup backup --pid 7 --source /a --source /b --throttle 64MiB --point start --exclude *.tmp \
                    --before-images 64MiB --mapped 1MiB --max-wait 2s --hold 5ms --lease 3s --show-all-writes --reserve 2.5% --json -q /dest";
        let Verb::Backup(flags) = Command::try_parse_from(line.split_whitespace()).unwrap().verb else { panic!() };
        assert_eq!((flags.pid, flags.throttle), (7, Some(64 << 20)));
        assert_eq!(flags.source, [PathBuf::from("/a"), PathBuf::from("/b")]);
        assert_eq!(Point::from(flags.point), Point::Start);
        assert_eq!(flags.exclude, ["*.tmp"]);
        assert_eq!((flags.before_images, flags.mapped), (64 << 20, 1 << 20));
        let limits = [flags.max_wait, flags.hold, flags.lease].map(|limit| limit.as_millis());
        assert_eq!(limits, [2000, 5, 3000]);
        assert_eq!(flags.reserve, Some(crate::session::Reserve::Percent(2.5)));
        assert!(flags.output.json && flags.output.quiet && flags.show_all_writes);
    }

    #[test]
    fn the_limits_of_a_backup_are_those_of_the_library_unless_others_are_given() {
        let line = ["hotbackup", "backup", "--pid=7", "/dest"];
        let Verb::Backup(flags) = Command::try_parse_from(line).unwrap().verb else { panic!() };
        let usual = crate::session::Options::new(7, "/dest".into());
        assert_eq!((flags.before_images, flags.mapped), (usual.before_images, usual.mapped));
        assert_eq!((flags.max_wait, flags.hold, flags.lease), (usual.max_wait, usual.hold, usual.lease));
    }

    #[test]
    fn a_process_number_is_positive() {
        for pid in ["0", "-1", "x", "4294967296"] {
            let line = ["hotbackup", "backup", &format!("--pid={pid}"), "/dest"];
            assert!(Command::try_parse_from(line).is_err(), "{pid}");
        }
    }
}
