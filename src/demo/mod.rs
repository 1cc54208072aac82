//! The demo: something that writes without a pause, a backup of it by PID, and a verdict on the result.
//!
//! The load is either the built-in [`writer`], whose every state can be told ([`check`]), or a real mongod with clients
//! that wait for the journal ([`mongod`]). Nothing has to be prepared, and nothing is left behind.
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::cli::draw::{Drawing, Style, say};
use crate::exit::Cause;
use crate::session::{self, Control, Report};

mod builtin;
pub mod check;
pub mod mongod;
pub mod plan;
pub mod record;
mod screen;
pub mod tree;
mod wire;
pub mod writer;

pub use screen::Outcome;

/// How the demo is run.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Back up this mongod, started for the demo (default: the one in PATH, if any)
    #[arg(long, value_name = "PATH")]
    pub mongod: Option<PathBuf>,
    /// Back up the built-in writer even if there is a mongod in PATH
    #[arg(long, conflicts_with = "mongod")]
    pub writer: bool,
    /// Seconds to measure before and after the backup; the backup is throttled to last about as long
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    pub seconds: f64,
    /// Bytes of data to back up
    #[arg(long, default_value = "256MiB", value_parser = crate::cli::size::bytes)]
    pub data: u64,
    /// Writing threads, or inserting clients
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub threads: u32,
    /// Work in this new or empty directory (default: a temporary one)
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Leave the data, the backup and the logs there
    #[arg(long)]
    pub keep: bool,
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
    /// The load came to harm: the one thing that must never happen.
    #[error("the load was harmed: {0}")]
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

/// How far a load had come.
#[derive(Debug, Clone, Copy)]
struct Sample {
    /// On the load's own clock.
    elapsed: Duration,
    /// Operations done.
    ops: u64,
}

/// Something that writes.
trait Load {
    /// What it is, in words.
    fn title(&self) -> String;
    /// What one operation is, in words.
    fn unit(&self) -> &'static str;
    /// The process to back up.
    fn pid(&self) -> i32;
    /// The sources to name; none where hotbackup finds them by itself.
    fn sources(&self) -> Vec<PathBuf>;
    /// How far it is, measured after this was called.
    fn sample(&self) -> Result<Sample, Error>;
    /// The longest operation since this was last asked, in microseconds.
    fn longest_us(&self) -> u64;
    /// Fails if it came to harm.
    fn harmed(&mut self) -> Result<(), Error>;
    /// Ends it, and says whether the backup is a state that was there at the point in time: `Ok` with what was
    /// checked, the inner `Err` with what is wrong.
    fn judge(&mut self, backup: &Path, point_ns: u64) -> Result<Result<String, String>, Error>;
}

/// One stretch of time.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Window {
    /// Its length in milliseconds.
    pub ms: u64,
    /// Operations a second.
    pub per_second: f64,
    /// The longest operation in it, in microseconds.
    pub longest_us: u64,
}

impl Window {
    fn between(from: Sample, to: Sample, longest_us: u64) -> Self {
        let length = to.elapsed.saturating_sub(from.elapsed);
        let per_second = (to.ops.saturating_sub(from.ops)) as f64 / length.as_secs_f64().max(1e-3);
        Self { ms: length.as_millis() as u64, per_second, longest_us }
    }
}

/// Runs the demo.
///
/// # Errors
/// It could not be run, the backup failed, or the load came to harm. A wrong backup is an [`Outcome`].
pub fn run(options: &Options, style: Style, control: &Control) -> Result<Outcome, Error> {
    let setup = |what: &str, error: std::io::Error| Error::Setup(format!("{what}: {error}"));
    let temporary = match &options.dir {
        Some(_) => None,
        None => Some(
            tempfile::Builder::new()
                .prefix("hotbackup-demo-")
                .tempdir()
                .map_err(|e| setup("no temporary directory", e))?,
        ),
    };
    let base = match (&options.dir, &temporary) {
        (Some(dir), _) => {
            std::fs::create_dir_all(dir).map_err(|error| setup(&dir.display().to_string(), error))?;
            dir.canonicalize().map_err(|error| setup(&dir.display().to_string(), error))?
        }
        (None, Some(temporary)) => temporary.path().to_path_buf(),
        (None, None) => unreachable!("a temporary directory is made when none is named"),
    };
    if std::fs::read_dir(&base).map_err(|error| setup(&base.display().to_string(), error))?.next().is_some() {
        return Err(Error::Setup(format!("{} is not empty; name a new or empty directory", base.display())));
    }
    let quiet = matches!(style, Style::Quiet | Style::Json);
    let tell = |text: &str| {
        if !quiet {
            say(text)
        }
    };
    let result = in_directory(options, &base, style, control, &tell);
    if options.keep {
        if let Some(temporary) = temporary {
            let _ = temporary.keep();
        }
        tell(&format!("kept: {}", base.display()));
    } else if options.dir.is_some() {
        for name in ["data", "backup", "mongod.log", "restored.log"] {
            let path = base.join(name);
            let _ = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
        }
    }
    result
}

fn in_directory(
    options: &Options,
    base: &Path,
    style: Style,
    control: &Control,
    tell: &dyn Fn(&str),
) -> Result<Outcome, Error> {
    let program = if options.writer { None } else { options.mongod.clone().or_else(mongod::in_path) };
    let mut load: Box<dyn Load> = match &program {
        Some(program) => {
            tell(&format!("starting {} with {} clients, and filling it", program.display(), options.threads));
            Box::new(mongod::Server::start(program, base, options, control)?)
        }
        None => {
            tell(&format!("starting the built-in writer with {} threads, and filling its files", options.threads));
            Box::new(builtin::Writer::start(&base.join("data"), options, control)?)
        }
    };
    tell(&format!("measuring it for {} s", options.seconds));
    let rest = Duration::from_secs_f64(options.seconds);
    pause(control, rest.min(Duration::from_secs(1)))?;
    let (mut samples, mut windows) = (vec![load.sample()?], Vec::new());
    load.longest_us();
    let mut lap = |load: &mut dyn Load| -> Result<(), Error> {
        load.harmed()?;
        let (from, to) = (samples[samples.len() - 1], load.sample()?);
        windows.push(Window::between(from, to, load.longest_us()));
        samples.push(to);
        Ok(())
    };
    pause(control, rest)?;
    lap(&mut *load)?;

    let rate = (options.data as f64 / options.seconds) as u64;
    tell(&format!("backing up process {} at {}/s", load.pid(), crate::cli::size::human(rate)));
    control.set_throttle(Some(rate.max(1)));
    let dest = base.join("backup");
    let drawing = Drawing::new(style);
    let request = session::Options {
        sources: load.sources(),
        throttle: control.throttle(),
        ..session::Options::new(load.pid(), dest.clone())
    };
    let began = Instant::now();
    let backed_up = session::backup(&request, &drawing, control);
    let took = began.elapsed();
    drawing.finish();
    // Whatever came of the backup, a harmed load is the graver news.
    load.harmed()?;
    let report: Report = backed_up?;
    lap(&mut *load)?;

    tell(&format!("measuring it for {} s with the keeper alone", options.seconds));
    pause(control, rest)?;
    lap(&mut *load)?;

    tell("checking the backup");
    let (title, unit) = (load.title(), load.unit());
    let verified = hotbackup_copier::verify(&dest, &Drawing::new(Style::Quiet))?;
    let judged = match verified.problems.first() {
        Some(problem) => Err(format!("{}: {}", problem.path.display(), problem.what)),
        None => load.judge(&dest, report.copier.point_in_time_ns)?,
    };
    let (checked, wrong) = match judged {
        Ok(checked) => (Some(checked), None),
        Err(wrong) => (None, Some(wrong)),
    };
    let [before, during, after] = windows[..] else { unreachable!("three laps were run") };
    let backup_ms = took.as_millis() as u64;
    Ok(Outcome { title, unit, before, during, after, backup_ms, report, checked, wrong })
}

/// Waits, unless cancelled.
fn pause(control: &Control, time: Duration) -> Result<(), Error> {
    let end = Instant::now() + time;
    loop {
        if control.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(Duration::from_millis(20)));
    }
}

/// A child that does not outlive its owner.
struct Owned(std::process::Child);

impl Drop for Owned {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
