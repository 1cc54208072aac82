//! One backup as one library call: the tracer and the copier joined.
//!
//! [`backup`] takes a monitor for progress and a [`Control`] for throttle and cancel; the command line only draws.
//!
//! ```text
//!   prepare the destination -> attach -> Track .. Publish (the copier) -> hand the target to its keeper
//! ```
//!
//! Everything that can fail without the target is done before the target is touched.

mod check;
mod join;
mod sources;

use std::path::PathBuf;

use hotbackup_copier::{Backup, Spec, Tuning};
use hotbackup_tracer::{Process, Tracer};
use serde::Serialize;

pub use check::{CheckItem, CheckReport, RescueReport, check, rescue};
pub use hotbackup_copier::{Control, Monitor, Phase, Point, Progress};

/// What to back up, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// The target.
    pub pid: i32,
    /// Sources as the target names them; empty: find mongod's dbpath.
    pub sources: Vec<PathBuf>,
    /// Destination: an empty directory, or one that does not exist yet.
    pub dest: PathBuf,
    /// Bytes per second; `None` is no limit, 0 pauses copying.
    pub throttle: Option<u64>,
    /// Point in time.
    pub point: Point,
    /// Globs to leave out, relative to the source.
    pub exclude: Vec<String>,
}

/// A finished backup.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// What the copier says.
    #[serde(flatten)]
    pub copier: hotbackup_copier::Report,
    /// The target.
    pub pid: i32,
    /// How long the thread was stopped in which the filter was installed, in microseconds; `None` through a keeper,
    /// when no thread is stopped.
    pub stop_us: Option<u64>,
    /// The keeper.
    pub keeper_pid: i32,
    /// Calls of the target that were seen.
    pub calls_seen: u64,
    /// The longest that a call waited for its answer, in microseconds, hold included.
    pub longest_wait_us: u64,
}

/// Why a session failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The tracer's.
    #[error(transparent)]
    Tracer(#[from] hotbackup_tracer::Error),
    /// The copier's.
    #[error(transparent)]
    Copier(#[from] hotbackup_copier::Error),
    /// No dbpath found.
    #[error(transparent)]
    Discover(#[from] crate::discover::Error),
    /// hotbackup's own executable, which becomes the keeper, was not found
    #[error("hotbackup cannot find its own executable, which is to become the keeper: {0}")]
    OwnExecutable(std::io::Error),
}

/// Takes a backup.
///
/// # Errors
/// Each cause of its own; the target runs on, and nothing is left at the destination.
pub fn backup(options: &Options, monitor: &dyn Monitor, control: &Control) -> Result<Report, Error> {
    let process = Process::open(options.pid)?;
    let tracer_options = tracer_options()?;
    hotbackup_tracer::attach::preflight::check(&process)?;
    let sources = sources::open(&process, &options.sources)?;
    control.set_throttle(options.throttle);
    let backup = Backup::prepare(Spec {
        sources,
        dest: options.dest.clone(),
        point: options.point,
        exclude: options.exclude.clone(),
        tuning: Tuning::default(),
        pid: options.pid,
        root: sources::root_if_other(&process)?,
    })?;
    drop(process);

    monitor.phase(Phase::Attach);
    let join = join::Join::new(backup.capture());
    let tracer = match Tracer::attach(options.pid, &tracer_options, join.clone()) {
        Ok(tracer) => tracer,
        Err(error) => {
            drop(backup); // takes the staging directory with it
            return Err(error.into());
        }
    };
    let quiesce = join::Grace { tracer: &tracer };
    let result = backup.run(&quiesce, &join::Watched { tracer: &tracer, monitor }, control);
    let (pid, keeper_pid) = (options.pid, tracer.keeper_pid());
    let (stopped, calls_seen, longest) = (tracer.stopped(), tracer.received(), tracer.longest_wait());
    // The target is the keeper's again before anything else is said.
    drop(tracer);
    match result {
        Ok(copier) => Ok(Report {
            copier,
            pid,
            stop_us: stopped.map(|stopped| stopped.as_micros() as u64),
            keeper_pid,
            calls_seen,
            longest_wait_us: longest.as_micros() as u64,
        }),
        // What the tracer lost explains what the copier saw of it.
        Err(error) => Err(join.take_lost().map_or(Error::Copier(error), Error::Tracer)),
    }
}

fn tracer_options() -> Result<hotbackup_tracer::Options, Error> {
    let keeper_program = std::env::current_exe().map_err(Error::OwnExecutable)?;
    Ok(hotbackup_tracer::Options { keeper_program, lease: hotbackup_tracer::LEASE })
}
