//! The `hotbackup` command line: it reads flags, calls the library, and draws what that tells.
//!
//! Every verb ends in a [`Cause`]; that is the exit code, and with `--json` the last line says it too.
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind as Usage;
use clap::{Args, Parser, Subcommand, ValueEnum};
use tracing_subscriber::prelude::*;

use crate::exit::Cause;
use crate::select::Which;
use crate::session::Point;

mod bar;
pub mod draw;
pub mod duration;
mod generate;
mod journal;
pub mod out;
pub mod reserve;
mod service;
mod shelf;
pub mod signals;
pub mod size;
mod status_text;
mod steer;
mod surroundings;
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
    /// List the backups in a directory
    List(shelf::List),
    /// Put a backup back: checked, copied, and given its name when all is there
    Restore(shelf::Restore),
    /// Remove the backups in a directory that no rule keeps, and what broken off ones left
    Prune(shelf::Prune),
    /// Say whether a backup still holds what its manifest says
    Verify(Verify),
    /// Say whether a process can be backed up, without touching it
    Check(Check),
    /// Answer a process whose calls nobody answers
    Rescue(Rescue),
    /// Look after servers: take backups when clients ask for them, by the commands that they know
    Serve(service::Serve),
    /// Say how the service and the backups that run are doing
    Status(steer::Status),
    /// Change the rate of a backup that runs, and of those that the service will take
    Throttle(steer::Throttle),
    /// Have a backup that runs end, and leave nothing
    Cancel(steer::Cancel),
    /// Show the whole thing: a writer, a backup of it under load, and the verdict
    Demo(Demo),
    /// Write manual pages and shell completions, for packages
    #[command(hide = true)]
    Generate(generate::Generate),
    /// The demo's self-checking writer
    #[command(hide = true)]
    DemoWriter(crate::demo::writer::Options),
    /// What libHotBackup starts, and what that starts: see `library`
    #[command(hide = true)]
    Library,
    #[command(hide = true)]
    LibraryWork,
}

#[derive(Debug, Args)]
#[command(group = crate::select::required())]
struct Backup {
    #[command(flatten)]
    which: Which,
    /// A directory to back up, as the process names it (default: mongod's dbpath); several go to DEST/<name> each
    #[arg(long, value_name = "DIR")]
    source: Vec<PathBuf>,
    /// Copy at most so many bytes a second, such as 64MiB; 0 pauses copying while changes are still seen
    #[arg(long, value_name = "BYTES/S", value_parser = size::bytes)]
    throttle: Option<u64>,
    /// Where the point in time lies: at the end of the backup, or at its start
    #[arg(long, value_enum, default_value = "end")]
    point: PointArg,
    /// Leave out what matches, as in a .gitignore at the top of each source; may be given more than once
    #[arg(long, value_name = "PATTERN", allow_hyphen_values = true)]
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
    /// How calls are captured: where they come from, by code of ours in the process, as far as that can be done (auto), or by
    /// notifications alone (notify); counts only in the first backup since the process was started
    #[arg(long, value_enum, default_value_t = Capture::from_environment(), hide_default_value = true)]
    capture: Capture,
    /// Where `status`, `throttle` and `cancel` are to find this backup (default: a socket in the runtime directory)
    #[arg(long, value_name = "SOCKET", hide = true)]
    control: Option<PathBuf>,
    /// Go on where the process's filter, from an earlier release of hotbackup, does not show all calls that can change files: for a
    /// process that makes none of those. The backup names them
    #[arg(long)]
    accept_unseen: bool,
    /// What is left free for the server on a file system that holds its data as well as the backup: a size, a share such as 5%,
    /// or off, to look at nothing [default: 5%, from 1GiB to 8GiB, and never more than 10%]
    #[arg(long, value_name = "SIZE|PERCENT", value_parser = reserve::reserve)]
    reserve: Option<crate::session::Reserve>,
    #[command(flatten)]
    output: Output,
    /// Put the backup into this directory, under the time as its name, and have `latest` there lead to it
    #[arg(long, value_name = "DIR", conflicts_with = "dest")]
    into: Option<PathBuf>,
    /// Where the backup goes: a new directory, or an empty one
    #[arg(required_unless_present = "into")]
    dest: Option<PathBuf>,
}

/// What stands for the option where it is not given.
const CAPTURE: &str = "HOTBACKUP_CAPTURE";

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Capture {
    Auto,
    Notify,
}

impl Capture {
    fn from_environment() -> Self {
        let said = std::env::var(CAPTURE).unwrap_or_default();
        if said == "auto" { Self::Auto } else { Self::Notify }
    }
}

impl From<Capture> for crate::session::Capture {
    fn from(capture: Capture) -> Self {
        match capture {
            Capture::Auto => Self::Auto,
            Capture::Notify => Self::Notify,
        }
    }
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
    /// And start this mongod on a copy of the backup, made beside it, and have it validate every collection
    #[arg(long, value_name = "MONGOD")]
    start_with: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
#[command(group = crate::select::required())]
struct Check {
    #[command(flatten)]
    which: Which,
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
    /// As for the backup: calls that an earlier release's filter does not show are no reason to refuse
    #[arg(long)]
    accept_unseen: bool,
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
pub(crate) struct Failure {
    cause: Cause,
    message: String,
}

impl Failure {
    pub(crate) fn new(cause: Cause, message: impl ToString) -> Self {
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
    surroundings::settle();
    // The first thread may have next to no stack. It waits here, where signals find it that are sent to the process.
    let thread = std::thread::Builder::new().name("command".into()).stack_size(STACK).spawn(run);
    let code = match thread {
        Ok(thread) => thread.join().unwrap_or_else(|_| ExitCode::from(Cause::Internal.code())),
        Err(error) => {
            let words = format!("no thread can be started, which takes {STACK} bytes of memory and a task: {error}");
            fail(false, &Failure::new(Cause::OwnLimit, words))
        }
    };
    // What is left to be read, if anybody reads it.
    out::OUT.flush();
    out::ERR.flush();
    code
}

/// As much as a first thread usually has, whatever limit hotbackup was started with.
const STACK: usize = 8 << 20;

fn run() -> ExitCode {
    let command = match Command::try_parse() {
        Ok(command) => command,
        Err(error) => return usage(&error),
    };
    log();
    let (json, result) = match command.verb {
        Verb::Backup(flags) => (flags.output.json, verbs::backup(flags)),
        Verb::List(flags) => (flags.output.json, shelf::run_list(&flags)),
        Verb::Restore(flags) => (flags.output.json, shelf::run_restore(&flags)),
        Verb::Prune(flags) => (flags.output.json, shelf::run_prune(&flags)),
        Verb::Verify(flags) => (flags.output.json, verbs::verify(&flags)),
        Verb::Check(flags) => (flags.output.json, verbs::check(&flags)),
        Verb::Rescue(flags) => (flags.output.json, verbs::rescue(&flags)),
        Verb::Serve(flags) => (flags.output.json, service::serve(&flags)),
        Verb::Status(flags) => (flags.json(), steer::status(&flags)),
        Verb::Throttle(flags) => (flags.json(), steer::throttle(&flags)),
        Verb::Cancel(flags) => (flags.json(), steer::cancel(&flags)),
        Verb::Demo(flags) => (flags.output.json, verbs::demo(&flags)),
        Verb::Generate(flags) => (false, generate::run(&flags)),
        Verb::DemoWriter(options) => (false, verbs::demo_writer(&options)),
        Verb::Library => (false, verbs::library(crate::library::launch)),
        Verb::LibraryWork => (false, verbs::library(crate::library::work)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(json, &failure),
    }
}

/// Has the log, and what a panic has to say, written as all else is: nobody who reads it can hold anything up.
fn log() {
    const VARIABLE: &str = "HOTBACKUP_LOG";
    let journal = journal::Journal::find();
    // What a service does is read the morning after.
    let level = if journal.is_some() { tracing::Level::INFO } else { tracing::Level::ERROR };
    let usual = || tracing_subscriber::EnvFilter::builder().with_default_directive(level.into());
    let text = std::env::var_os(VARIABLE).unwrap_or_default();
    let filter = text.to_str().ok_or_else(|| "it is no text".to_owned());
    let filter = filter.and_then(|text| usual().parse(text).map_err(|error| error.to_string()));
    let filter = filter.unwrap_or_else(|error| {
        draw::say(&format!("hotbackup: warning: {VARIABLE} is ignored: {error}"));
        usual().parse_lossy("")
    });
    match journal {
        Some(journal) => tracing_subscriber::registry().with(filter).with(journal).init(),
        None => {
            let is_plain = std::env::var_os("NO_COLOR").is_some_and(|set| !set.is_empty());
            let in_colour = std::io::stderr().is_terminal() && !is_plain;
            tracing_subscriber::fmt().with_ansi(in_colour).with_env_filter(filter).with_writer(|| out::Log).init();
        }
    }
    std::panic::set_hook(Box::new(|panic| {
        draw::say(&format!("hotbackup: {panic}\n{}", std::backtrace::Backtrace::capture()));
    }));
}

/// Tells a failure, in words and, where asked for, in JSON.
fn fail(json: bool, failure: &Failure) -> ExitCode {
    let Failure { cause, message } = failure;
    // In the journal an error is to be found as one (sd-daemon(3)).
    let priority = if journal::is_ours() { "<3>" } else { "" };
    let words = format!("{priority}hotbackup: {message}\n");
    if !json {
        let _ = out::ERR.deliver(words.into());
    } else {
        out::ERR.say(words.into(), out::Keep::Queued);
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
    let printed = error.print();
    if asked {
        let lost = |error| ExitCode::from(Failure::output(&error).cause.code());
        return printed.map_or_else(lost, |()| ExitCode::SUCCESS);
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
        assert_eq!((flags.which.pid().unwrap(), flags.throttle), (7, Some(64 << 20)));
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
