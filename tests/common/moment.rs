//! Backups with a change at a known moment: the library call, and a monitor that has the guest do something just before
//! or just after the point in time.
// Each test binary uses its own part of this module.
#![allow(dead_code)]

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hotbackup_copier::{Backup, Capture, Control, Error, Monitor, Phase, Point, Quiesce, Report, Source, Spec, Tuning};
use hotbackup_event::Effect;
use hotbackup_tracer::{Event, Look, Sink, Stage, Ticket, Tracer};

/// When the guest makes its change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Everything has been copied once; the change is looked at in the hold itself.
    BeforePoint,
    /// The same, but the first hold is given up, and the change is looked at while the guest may go on.
    BeforeASync,
    /// Nothing has been copied; everything still belongs to the point in time.
    AfterPoint,
    /// Everything has been copied.
    AfterPointAndCopy,
}

/// All of them.
pub const MOMENTS: [Moment; 4] =
    [Moment::BeforePoint, Moment::BeforeASync, Moment::AfterPoint, Moment::AfterPointAndCopy];

impl Moment {
    /// Whether the change must be in the backup.
    pub fn is_before(self) -> bool {
        matches!(self, Self::BeforePoint | Self::BeforeASync)
    }

    fn point(self) -> Point {
        if self == Self::AfterPoint { Point::Start } else { Point::End }
    }

    fn phase(self) -> Phase {
        if self.is_before() { Phase::Hold } else { Phase::Drain }
    }

    fn tuning(self) -> Tuning {
        let usual = Tuning::default();
        match self {
            // Long enough for the machine's other work: a hold that is given up is a moment of its own.
            Self::BeforePoint => Tuning { hold_budget: Duration::from_secs(5), ..usual },
            Self::BeforeASync => Tuning { hold_budget: Duration::ZERO, hold_tries: 2, ..usual },
            Self::AfterPoint | Self::AfterPointAndCopy => usual,
        }
    }
}

/// Why a backup failed.
#[derive(Debug)]
pub struct Failure(pub Error);

/// Takes a backup of `source`, and calls `change` at the moment.
pub fn back_up(
    pid: i32,
    source: &Path,
    dest: &Path,
    moment: Moment,
    change: impl FnOnce() + Send,
) -> Result<Report, Failure> {
    back_up_capturing(pid, source, dest, moment, false, |_| change())
}

/// The same, with calls captured at their sites if `at_sites`; `change` is given who captures them.
pub fn back_up_capturing(
    pid: i32,
    source: &Path,
    dest: &Path,
    moment: Moment,
    at_sites: bool,
    change: impl FnOnce(&Tracer) + Send,
) -> Result<Report, Failure> {
    let change: Mutex<Option<Change<'_>>> = Mutex::new(Some(Box::new(change)));
    let at_phase = |tracer: &Tracer, phase| {
        if phase == moment.phase()
            && let Some(change) = change.lock().expect("one thread").take()
        {
            change(tracer);
        }
    };
    let how = How { point: moment.point(), tuning: moment.tuning(), rate: None, at_sites };
    let report = back_up_watching(pid, source, dest, how, at_phase)?;
    assert!(change.lock().expect("one thread").is_none(), "the change was not made");
    if moment == Moment::BeforeASync {
        assert_eq!(report.hold.abandoned, 1, "no hold was given up, so nothing was looked at in a sync");
    }
    Ok(report)
}

/// How a backup is taken.
#[derive(Debug, Clone)]
pub struct How {
    /// Point in time.
    pub point: Point,
    /// Sizes and limits.
    pub tuning: Tuning,
    /// Bytes per second.
    pub rate: Option<u64>,
    /// Whether calls are captured at their sites.
    pub at_sites: bool,
}

/// Takes a backup of `source`, and calls `at_phase` at the beginning of each phase.
pub fn back_up_as(
    pid: i32,
    source: &Path,
    dest: &Path,
    how: How,
    at_phase: impl Fn(Phase) + Sync,
) -> Result<Report, Failure> {
    back_up_watching(pid, source, dest, how, |_, phase| at_phase(phase))
}

fn back_up_watching(
    pid: i32,
    source: &Path,
    dest: &Path,
    how: How,
    at_phase: impl Fn(&Tracer, Phase) + Sync,
) -> Result<Report, Failure> {
    let spec = Spec {
        sources: vec![Source { root: open(source), path: source.to_owned(), name: None }],
        dest: dest.to_owned(),
        point: how.point,
        exclude: Vec::new(),
        tuning: how.tuning,
        pid,
        root: Some(open(Path::new(&format!("/proc/{pid}/root")))),
    };
    let backup = Backup::prepare(spec).map_err(Failure)?;
    let join = Arc::new(Join(backup.capture()));
    let options = hotbackup_tracer::Options {
        keeper_program: hotbackup::KEEPER_PROGRAM,
        lease: hotbackup_tracer::LEASE,
        show_all_writes: false,
        at_sites: how.at_sites,
        accept_unseen: false,
    };
    let tracer = Tracer::attach(pid, &options, join).unwrap_or_else(|error| panic!("{error}"));
    let monitor = Phases { tracer: &tracer, at_phase };
    backup.run(&Grace(&tracer), &monitor, &Control::new(how.rate)).map_err(Failure)
}

fn open(directory: &Path) -> OwnedFd {
    std::fs::File::open(directory).unwrap_or_else(|error| panic!("{directory:?}: {error}")).into()
}

/// What a session joins tracer and copier by.
struct Join(Arc<Capture<Option<Ticket>>>);

impl Sink for Join {
    fn deliver(&self, event: Event, ticket: Ticket) {
        if let Some(cause) = event.blind {
            self.0.blind(cause);
        }
        self.0.admit(event.effects, Some(ticket));
    }

    fn is_settled(&self, effect: &Effect) -> bool {
        self.0.is_settled(effect)
    }

    fn found(&self, event: Event) {
        if let Some(cause) = event.blind {
            self.0.blind(cause);
        }
        self.0.admit(event.effects, None);
    }

    fn blind(&self, cause: String) {
        self.0.blind(cause);
    }

    fn wait_until_released(&self) {
        while self.0.is_holding() {
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    fn lost(&self, cause: hotbackup_tracer::Error) {
        self.0.blind(cause.to_string());
    }
}

struct Grace<'a>(&'a Tracer);

impl Quiesce for Grace<'_> {
    fn grace(&self) -> Result<(), String> {
        self.0.grace()
    }

    fn unseen(&self, after_hold: bool) -> Vec<Effect> {
        self.0.unseen(if after_hold { Look::Unexplained } else { Look::Mark })
    }
}

type Change<'a> = Box<dyn FnOnce(&Tracer) + Send + 'a>;

struct Phases<'a, F> {
    tracer: &'a Tracer,
    at_phase: F,
}

impl<F: Fn(&Tracer, Phase) + Sync> Monitor for Phases<'_, F> {
    fn phase(&self, phase: Phase) {
        // Called before the gate is switched to the hold, and after it was switched to the drain: so no hold is on.
        self.tracer.set_holding(false);
        (self.at_phase)(self.tracer, phase);
        self.tracer.set_holding(phase == Phase::Hold);
        self.tracer.set_stage(match phase {
            Phase::Attach | Phase::Track => Stage::Track,
            Phase::Drain => Stage::Drain,
            _ => Stage::Hold,
        });
    }
}
