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
mod limits;
mod reach;
mod sources;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hotbackup_copier::io::Direct;
use hotbackup_copier::{Backup, Spec, Tuning};
use hotbackup_tracer::{MountTable, Process, Tracer, outsiders};
use serde::Serialize;

pub use check::{CheckItem, CheckOptions, CheckReport, RescueReport, check, rescue};
pub use hotbackup_copier::{Choose, Control, Monitor, Phase, Placing, Point, Progress, Reserve};

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
    /// Patterns of what to leave out, as in a `.gitignore` at the top of each source.
    pub exclude: Vec<String>,
    /// Memory for before-images, in bytes.
    pub before_images: u64,
    /// Bytes of files with writable shared mappings that may be copied while the process stands still; 0: none, and such files
    /// make the backup fail.
    pub mapped: u64,
    /// The longest that a call may wait for its before-image; then the backup is given up.
    pub max_wait: Duration,
    /// The longest hold. One that takes longer is ended, and tried again.
    pub hold: Duration,
    /// The longest that a call waits for whatever reason, and the longest that this supervisor may make no progress until
    /// the keeper takes over. Either makes the backup fail.
    pub lease: Duration,
    /// Have every write shown, also those of 8 bytes in a target with eventfds, if this is its first backup.
    pub show_all_writes: bool,
    /// How calls are captured, if this is the process's first backup.
    pub capture: Capture,
    /// Go on where the filter that the process has from an earlier release does not show all calls, and have the backup say so.
    pub accept_unseen: bool,
    /// What is left free on the destination's file system where a source is on it, too.
    pub reserve: Reserve,
}

/// How the process's calls are captured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Capture {
    /// Where they come from, by code of ours in the process, as far as that can be done; the rest by notifications.
    Auto,
    /// By notifications alone.
    #[default]
    Notify,
}

impl Options {
    /// A backup of process `pid` to `dest`, with defaults for all else.
    pub fn new(pid: i32, dest: PathBuf) -> Self {
        let tuning = Tuning::default();
        Self {
            pid,
            sources: Vec::new(),
            dest,
            throttle: None,
            point: Point::End,
            exclude: Vec::new(),
            before_images: tuning.before_image_bytes as u64,
            mapped: tuning.mapped_bytes as u64,
            max_wait: tuning.max_wait,
            hold: tuning.hold_lease,
            lease: limits::LEASE,
            show_all_writes: false,
            capture: Capture::default(),
            accept_unseen: false,
            reserve: tuning.reserve,
        }
    }
}

/// A finished backup.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// What the copier says.
    #[serde(flatten)]
    pub copier: hotbackup_copier::Report,
    /// What was backed up.
    pub sources: Vec<SourceName>,
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

/// A source, and where it is in the backup.
#[derive(Debug, Clone, Serialize)]
pub struct SourceName {
    /// As the target names it; what is not UTF-8 is replaced.
    pub path: String,
    /// Its directory below the destination; `None`: the destination itself.
    pub name: Option<String>,
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
    /// Limits that cannot be kept.
    #[error("{0}")]
    Limits(String),
    /// No dbpath found.
    #[error(transparent)]
    Discover(#[from] crate::discover::Error),
}

/// Takes a backup.
///
/// # Errors
/// Each cause of its own; the target runs on, and nothing is left at the destination.
pub fn backup(options: &Options, monitor: &dyn Monitor, control: &Control) -> Result<Report, Error> {
    control.begin_with(options.throttle);
    backup_placed(options, &Placing::default(), monitor, control)
}

/// Like [`backup`], placed in another way, and at the rate that `control` has.
///
/// # Errors
/// As there.
pub fn backup_placed(
    options: &Options,
    placing: &Placing,
    monitor: &dyn Monitor,
    control: &Control,
) -> Result<Report, Error> {
    let tuning = limits::tuning(options)?;
    let process = Process::open(options.pid)?;
    let mut tracer_options = tracer_options(options.lease, options.show_all_writes);
    tracer_options.accept_unseen = options.accept_unseen;
    tracer_options.at_sites = options.capture == Capture::Auto;
    hotbackup_tracer::preflight::check(&process)?;
    let mut mounts = MountTable::of(&process)?;
    let sources = sources::open(&process, &options.sources, placing.into.is_empty())?;
    let places = sources::places(&sources);
    let named = sources.iter().map(|source| SourceName {
        path: source.path.to_string_lossy().into(),
        name: source.name.as_ref().map(|name| name.to_string_lossy().into()),
    });
    let named = named.collect();
    mounts.watch(&places);
    outsiders::check_children(&process, &places)?;
    let cores = sources::cores_into(&process, &sources);
    let spec = Spec {
        sources,
        dest: options.dest.clone(),
        point: options.point,
        exclude: options.exclude.clone(),
        tuning,
        pid: options.pid,
        root: sources::root_if_other(&process)?,
    };
    let mut backup = Backup::prepare_placed(spec, placing, Arc::new(Direct))?;

    monitor.phase(Phase::Attach);
    let join = join::Join::new(backup.capture(), options.lease);
    let cancelled = control.clone();
    let given_up = Box::new(move || cancelled.is_cancelled());
    let tracer = match Tracer::attach_unless(options.pid, &tracer_options, join.clone(), given_up) {
        Ok(tracer) => tracer,
        Err(hotbackup_tracer::Error::GivenUp(_)) => {
            drop(backup);
            return Err(hotbackup_copier::Error::Cancelled.into());
        }
        Err(error) => {
            drop(backup); // takes the staging directory with it
            return Err(error.into());
        }
    };
    // Those that were forked before the filter was there, and after the look above.
    if let Err(error) = outsiders::check_children(&process, &places) {
        drop((tracer, backup));
        return Err(error.into());
    }
    drop(process);
    backup.note_unseen_calls(tracer.unseen_calls());
    for words in tracer.warnings().into_iter().chain(cores) {
        monitor.warning(&words);
    }
    let quiesce = join::Grace { tracer: &tracer, mounts: &mounts, join: &join };
    let result = backup.run(&quiesce, &join::Watched { tracer: &tracer, monitor }, control);
    let (pid, keeper_pid) = (options.pid, tracer.keeper_pid());
    let revoked = tracer.is_revoked();
    let (stopped, calls_seen, longest) = (tracer.stopped(), tracer.received(), tracer.longest_wait());
    // The target is the keeper's again before anything else is said.
    drop(tracer);
    match result {
        Ok(copier) => Ok(Report {
            copier,
            sources: named,
            pid,
            stop_us: stopped.map(|stopped| stopped.as_micros() as u64),
            keeper_pid,
            calls_seen,
            longest_wait_us: longest.as_micros() as u64,
        }),
        Err(_) if revoked => Err(hotbackup_tracer::Error::Revoked(pid).into()),
        Err(error) => Err(explain(error, join.take_lost())),
    }
}

/// What the tracer lost explains what the copier saw of it. A call that waited too long, though, may only have done so
/// because the backup had failed before, and a thread of ours was slow to notice.
fn explain(seen: hotbackup_copier::Error, lost: Option<hotbackup_tracer::Error>) -> Error {
    use hotbackup_copier::Error as Seen;
    use hotbackup_tracer::Error as Lost;
    match lost {
        Some(Lost::WaitedTooLong { .. }) if !matches!(seen, Seen::Blind(_) | Seen::LetGo) => Error::Copier(seen),
        Some(lost) => Error::Tracer(lost),
        None => Error::Copier(seen),
    }
}

fn tracer_options(lease: Duration, show_all_writes: bool) -> hotbackup_tracer::Options {
    hotbackup_tracer::Options {
        keeper_program: crate::KEEPER_PROGRAM,
        lease,
        show_all_writes,
        at_sites: false,
        accept_unseen: false,
    }
}
