//! The tracer's events to the copier's marks, and the copier's questions to the tracer.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use hotbackup_copier::{Capture, Monitor, Phase, Progress, Quiesce};
use hotbackup_tracer::{Event, Sink, Ticket, Tracer};

/// What lets a call run when it is dropped; none for what was found without a call.
pub(super) type Permit = Option<Ticket>;

/// Takes what the tracer sees to the copier.
pub(super) struct Join {
    capture: Arc<Capture<Permit>>,
    holding: Mutex<bool>,
    released: Condvar,
    lost: Mutex<Option<hotbackup_tracer::Error>>,
}

impl Join {
    pub fn new(capture: Arc<Capture<Permit>>) -> Arc<Self> {
        Arc::new(Self { capture, holding: Mutex::new(false), released: Condvar::new(), lost: Mutex::new(None) })
    }

    /// Why the tracer stopped delivering, if it did.
    pub fn take_lost(&self) -> Option<hotbackup_tracer::Error> {
        lock(&self.lost).take()
    }

    fn set_holding(&self, holding: bool) {
        *lock(&self.holding) = holding;
        self.released.notify_all();
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

    fn wait_until_released(&self) {
        let mut holding = lock(&self.holding);
        while *holding {
            holding = self.released.wait(holding).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lost(&self, cause: hotbackup_tracer::Error) {
        let words = cause.to_string();
        lock(&self.lost).get_or_insert(cause);
        self.capture.blind(words);
    }
}

/// The operator's monitor, with an eye on the hold: paths are not resolved while calls are held, because those calls
/// will change what the paths mean.
pub(super) struct Gated<'a> {
    pub join: &'a Join,
    pub monitor: &'a dyn Monitor,
}

impl Monitor for Gated<'_> {
    fn phase(&self, phase: Phase) {
        self.join.set_holding(phase == Phase::Hold);
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
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
