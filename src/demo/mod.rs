//! The demo: a process that writes without a pause, a backup of it by PID, and a verdict on the result.
//!
//! The [`writer`] is the command itself, and its every state can be told ([`check`]). So nothing has to be prepared, and nothing is
//! left behind.
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::cli::draw::{Drawing, Style, say};
use crate::exit::Cause;
use crate::session::{self, Control, Report};

pub mod check;
mod load;
mod record;
mod screen;
pub mod writer;

pub use screen::Outcome;

/// How the demo is run.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Seconds to measure before and after the backup; the backup is throttled to last about as long
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    pub seconds: f64,
    /// Bytes of data to back up
    #[arg(long, default_value = "256MiB", value_parser = crate::cli::size::bytes)]
    pub data: u64,
    /// Work in this new or empty directory, and leave the data and the backup there (default: a temporary one)
    #[arg(long)]
    pub dir: Option<PathBuf>,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if (0.1..=3_600.0).contains(&value) => Ok(value),
        _ => Err("between 0.1 and 3600 seconds".into()),
    }
}

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something the demo needs could not be had.
    #[error("the demo cannot run: {0}")]
    Setup(String),
    /// The writer came to harm: the one thing that must never happen.
    #[error("the writer was harmed: {0}")]
    Harmed(String),
    /// The backup failed.
    #[error(transparent)]
    Backup(#[from] session::Error),
    /// The backup cannot be verified.
    #[error(transparent)]
    Verify(#[from] hotbackup_copier::Error),
    /// Ctrl-C.
    #[error("the demo was cancelled")]
    Cancelled,
}

impl Error {
    /// The exit code's cause.
    pub fn cause(&self) -> Cause {
        match self {
            Self::Setup(_) => Cause::DemoFailed,
            Self::Harmed(_) => Cause::WriterHarmed,
            Self::Backup(error) => Cause::of(error),
            Self::Verify(error) => Cause::of_copier(error),
            Self::Cancelled => Cause::Cancelled,
        }
    }
}

/// One stretch of time.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Window {
    /// Its length in milliseconds.
    pub ms: u64,
    /// Changing calls a second.
    pub per_second: f64,
    /// The longest single one in it, in microseconds.
    pub longest_us: u64,
}

/// Runs the demo.
///
/// # Errors
/// It could not be run, the backup failed, or the writer came to harm. A wrong backup is an [`Outcome`].
pub fn run(options: &Options, style: Style, control: &Control) -> Result<Outcome, Error> {
    let setup = |dir: &Path, error: std::io::Error| Error::Setup(format!("{}: {error}", dir.display()));
    let Some(dir) = &options.dir else {
        let temporary = tempfile::Builder::new().prefix("hotbackup-demo-").tempdir();
        let temporary = temporary.map_err(|error| Error::Setup(format!("no temporary directory: {error}")))?;
        return in_directory(options, temporary.path(), style, control);
    };
    std::fs::create_dir_all(dir).map_err(|error| setup(dir, error))?;
    let dir = dir.canonicalize().map_err(|error| setup(dir, error))?;
    if std::fs::read_dir(&dir).map_err(|error| setup(&dir, error))?.next().is_some() {
        return Err(Error::Setup(format!("{} is not empty; name a new or empty directory", dir.display())));
    }
    in_directory(options, &dir, style, control)
}

fn in_directory(options: &Options, base: &Path, style: Style, control: &Control) -> Result<Outcome, Error> {
    let tell = |text: &str| {
        if !matches!(style, Style::Quiet | Style::Json) {
            say(text)
        }
    };
    let (data, dest) = (base.join("data"), base.join("backup"));
    tell("starting the writer, which fills its files");
    let mut load = load::Load::start(&data, options.data, control)?;
    let rest = Duration::from_secs_f64(options.seconds);
    tell(&format!("measuring it for {} s", options.seconds));
    pause(control, rest.min(Duration::from_secs(1)))?;
    load.lap()?;
    pause(control, rest)?;
    let before = load.lap()?;

    let rate = ((options.data as f64 / options.seconds) as u64).max(1);
    tell(&format!("backing up process {} at {}/s", load.pid(), crate::cli::size::human(rate)));
    control.set_throttle(Some(rate));
    let drawing = Drawing::new(style);
    let request = session::Options {
        sources: vec![data],
        throttle: control.throttle(),
        ..session::Options::new(load.pid(), dest.clone())
    };
    let began = Instant::now();
    let backed_up = session::backup(&request, &drawing, control);
    let backup_ms = began.elapsed().as_millis() as u64;
    drawing.finish();
    // Whatever came of the backup, a harmed writer is the graver news.
    let during = load.lap()?;
    let report: Report = backed_up?;

    tell(&format!("measuring it for {} s with the keeper alone", options.seconds));
    pause(control, rest)?;
    let after = load.lap()?;

    tell("checking the backup");
    let verified = hotbackup_copier::verify(&dest, &Drawing::new(Style::Quiet))?;
    let judged = match verified.problems.first() {
        Some(problem) => Err(format!("{}: {}", problem.path.display(), problem.what)),
        None => load.judge(&dest, report.copier.point_in_time_ns)?,
    };
    let (checked, wrong) = match judged {
        Ok(checked) => (Some(checked), None),
        Err(wrong) => (None, Some(wrong)),
    };
    Ok(Outcome { before, during, after, backup_ms, report, checked, wrong })
}

fn cancelled(control: &Control) -> Result<(), Error> {
    if control.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
}

/// Waits, unless cancelled.
fn pause(control: &Control, time: Duration) -> Result<(), Error> {
    let end = Instant::now() + time;
    loop {
        cancelled(control)?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(Duration::from_millis(20)));
    }
}
