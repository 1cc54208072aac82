//! The tracer's events to the copier's marks, and the copier's questions to the tracer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hotbackup_copier::{Capture, Monitor, Phase, Progress, Quiesce};
use hotbackup_event::Effect;
use hotbackup_tracer::{Event, Look, Sink, Ticket, Tracer};

/// What lets a call run when it is dropped; none for what was found without a call.
pub(super) type Permit = Option<Ticket>;

/// How often a hold is looked at for its end.
const GLANCE: Duration = Duration::from_micros(100);

/// Takes what the tracer sees to the copier.
pub(super) struct Join {
    capture: Arc<Capture<Permit>>,
    lost: Mutex<Option<hotbackup_tracer::Error>>,
}

impl Join {
    pub fn new(capture: Arc<Capture<Permit>>) -> Arc<Self> {
        Arc::new(Self { capture, lost: Mutex::new(None) })
    }

    /// Why the tracer stopped delivering, if it did.
    pub fn take_lost(&self) -> Option<hotbackup_tracer::Error> {
        lock(&self.lost).take()
    }

    fn admit(&self, event: Event, permit: Permit) {
        if let Some(cause) = event.blind {
            self.capture.blind(cause);
        }
        self.capture.admit(event.effects, permit);
    }
}

impl Sink for Join {
    fn deliver(&self, event: Event, ticket: Ticket) {
        self.admit(event, Some(ticket));
    }

    fn found(&self, event: Event) {
        self.admit(event, None);
    }

    fn blind(&self, cause: String) {
        self.capture.blind(cause);
    }

    /// While calls are held, no path is resolved: those calls will change what paths mean. One call may have been
    /// resolved before the hold and is held with them; the next one comes after it.
    fn wait_until_released(&self) {
        while self.capture.is_holding() {
            std::thread::sleep(GLANCE);
        }
    }

    fn lost(&self, cause: hotbackup_tracer::Error) {
        let words = cause.to_string();
        lock(&self.lost).get_or_insert(cause);
        self.capture.blind(words);
    }
}

/// The operator's monitor, with an eye on the hold: while one is on, the keeper must be quicker to take over.
pub(super) struct Watched<'a> {
    pub tracer: &'a Tracer,
    pub monitor: &'a dyn Monitor,
}

impl Monitor for Watched<'_> {
    fn phase(&self, phase: Phase) {
        self.tracer.set_holding(phase == Phase::Hold);
        self.monitor.phase(phase);
    }

    fn progress(&self, progress: &Progress) {
        self.monitor.progress(progress);
    }

    fn warning(&self, text: &str) {
        self.monitor.warning(text);
    }
}

/// The tracer's grace for the copier.
pub(super) struct Grace<'a> {
    pub tracer: &'a Tracer,
}

impl Quiesce for Grace<'_> {
    fn grace(&self) -> Result<(), String> {
        self.tracer.grace()
    }

    fn unseen(&self, after_hold: bool) -> Vec<Effect> {
        self.tracer.unseen(if after_hold { Look::Unexplained } else { Look::Mark })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
