//! What every step of a backup needs: where things are, who is told, and whether to go on.
use crate::base::sys;
use crate::base::util::micros;
use crate::interface::control::Turn;
use crate::marks::ledger::Ledger;
use crate::stage::Stage;
use crate::trial::Trial;
use crate::{Capture, Control, Error, Monitor, Phase, PhaseTimes, Progress, Quiesce, Tuning};
use std::cell::{OnceCell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// Belongs to the thread that runs the backup.
pub(crate) struct Context<'a, P: Send + 'static> {
    pub capture: Arc<Capture<P>>,
    pub ledger: Arc<Ledger>,
    pub stage: &'a Stage,
    pub quiesce: &'a dyn Quiesce,
    pub monitor: &'a dyn Monitor,
    pub control: &'a Control,
    pub tuning: &'a Tuning,
    pub pid: i32,
    /// Blocks and bytes saved before calls went on.
    pub images: Images,
    /// What the destination can hold, once that is known.
    pub trial: OnceCell<Trial>,
    told: RefCell<Told>,
}

/// Counts of before-images.
#[derive(Debug, Default)]
pub(crate) struct Images {
    pub count: AtomicU64,
    pub bytes: AtomicU64,
    /// The longest that a call waited, in microseconds.
    pub longest_us: AtomicU64,
}

#[derive(Default)]
struct Told {
    progress: Progress,
    at: Option<Instant>,
    phases: Vec<(Phase, u64, Instant)>,
}

impl<'a, P: Send + 'static> Context<'a, P> {
    pub fn new(
        capture: &Arc<Capture<P>>,
        stage: &'a Stage,
        quiesce: &'a dyn Quiesce,
        monitor: &'a dyn Monitor,
        control: &'a Control,
        (tuning, pid): (&'a Tuning, i32),
    ) -> Self {
        let (capture, ledger) = (Arc::clone(capture), Arc::clone(&capture.ledger));
        let (images, trial, told) = (Images::default(), OnceCell::new(), RefCell::default());
        Self { capture, ledger, stage, quiesce, monitor, control, tuning, pid, images, trial, told }
    }

    /// Fails if the backup has failed elsewhere, or was cancelled.
    pub fn check(&self) -> Result<(), Error> {
        // Cancelling fails the backup, too: this is the cause, and the rest follows from it.
        if self.control.is_cancelled() {
            return Err(Error::Cancelled);
        }
        self.ledger.check()?;
        // Whatever is waited for, others go on writing.
        self.stage.look_at_space()
    }

    /// Fails if a known file can change unseen.
    pub fn traceable(&self) -> Result<(), Error> {
        const MAPPED: &str =
            "a writable shared mapping (--mapped has such files copied while the process stands still)";
        let mapped = || {
            let file = if self.tuning.takes_mapped() { None } else { self.ledger.known_mapped().into_iter().next() };
            file.map(|file| (file.path(), MAPPED))
        };
        match self.ledger.untraceable().or_else(mapped) {
            Some((path, cause)) => Err(Error::Untraceable { path, cause }),
            None => Ok(()),
        }
    }

    /// Waits for every call that was let go, and fails if that cannot be done.
    pub fn grace(&self) -> Result<(), Error> {
        self.quiesce.grace().map_err(Error::Quiesce)?;
        for effect in self.quiesce.unseen(false) {
            self.ledger.mark(&effect);
        }
        self.ledger.grace_done();
        Ok(())
    }

    /// Waits until the rate allows to read this much. `idle` is called at least once, and as long as this waits: also one
    /// large file that is copied without a limit must leave time for other things.
    pub fn turn(&self, bytes: u64, mut idle: impl FnMut() -> Result<(), Error>) -> Result<(), Error> {
        loop {
            self.check()?;
            let turn = self.control.turn(bytes);
            if turn == Turn::Cancelled {
                return Err(Error::Cancelled);
            }
            if turn == Turn::Wait {
                self.tell(false);
            }
            idle()?;
            if turn == Turn::Go {
                return Ok(());
            }
        }
    }

    /// A phase begins.
    pub fn phase(&self, phase: Phase) {
        self.tell(true);
        {
            let mut told = self.told.borrow_mut();
            told.progress.phase = phase;
            // A hold that is given up leads back to tracking.
            told.phases.push((phase, sys::now_ns(), Instant::now()));
        }
        self.monitor.phase(phase);
    }

    /// The phases that have begun, each as long as until the next.
    pub fn phases(&self) -> Vec<PhaseTimes> {
        let told = self.told.borrow();
        let ends = told.phases.iter().skip(1).map(|(_, _, at)| *at).chain([Instant::now()]);
        let times = |((phase, start_ns, at), end): (&(Phase, u64, Instant), Instant)| PhaseTimes {
            phase: *phase,
            start_ns: *start_ns,
            duration_us: micros(end - *at),
        };
        told.phases.iter().zip(ends).map(times).collect()
    }

    /// Changes what is told of the progress.
    pub fn note(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.told.borrow_mut().progress);
    }

    /// Tells the progress, if it is time or `now`.
    pub fn tell(&self, now: bool) {
        let progress = {
            let mut told = self.told.borrow_mut();
            if !now && told.at.is_some_and(|at| at.elapsed() < TELL_EVERY) {
                return;
            }
            told.at = Some(Instant::now());
            told.progress.bytes_copied = self.stage.written.load(Ordering::Relaxed);
            told.progress.bytes_due = self.ledger.lacking_bytes();
            told.progress.before_images = self.images.count.load(Ordering::Relaxed);
            told.progress.clone()
        };
        self.monitor.progress(&progress);
    }
}
