//! The tracer's events to the copier's marks, and the copier's questions to the tracer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hotbackup_copier::{Capture, Monitor, Phase, Progress, Quiesce};
use hotbackup_event::{Effect, FileId};
use hotbackup_tracer::{Event, Look, MountTable, Sink, Stage, Ticket, Tracer};

/// What lets a call run when it is dropped; none for what was found without a call.
pub(super) type Permit = Option<Ticket>;

/// How often a hold is looked at for its end.
const GLANCE: Duration = Duration::from_micros(100);

/// Takes what the tracer sees to the copier.
pub(super) struct Join {
    capture: Arc<Capture<Permit>>,
    /// How long a call may wait.
    patience: Duration,
    lost: Mutex<Option<hotbackup_tracer::Error>>,
}

impl Join {
    pub fn new(capture: Arc<Capture<Permit>>, patience: Duration) -> Arc<Self> {
        Arc::new(Self { capture, patience, lost: Mutex::new(None) })
    }

    /// Why the tracer stopped delivering, if it did.
    pub fn take_lost(&self) -> Option<hotbackup_tracer::Error> {
        lock(&self.lost).take()
    }

    /// The backup fails with this cause.
    pub fn fail(&self, cause: String) {
        self.capture.blind(cause);
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

    fn is_settled(&self, effect: &Effect) -> bool {
        self.capture.is_settled(effect)
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

    fn tick(&self) {
        self.capture.tick();
    }

    fn patience(&self) -> Duration {
        self.patience
    }

    fn lost(&self, cause: hotbackup_tracer::Error) {
        let words = cause.to_string();
        if matches!(cause, hotbackup_tracer::Error::WaitedTooLong { .. }) {
            // Said at once: a thread of ours is stuck, and it may be long until the backup can end.
            tracing::error!("{words}");
        }
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
        self.tracer.set_stage(match phase {
            Phase::Attach | Phase::Track => Stage::Track,
            Phase::Drain => Stage::Drain,
            _ => Stage::Hold,
        });
        self.monitor.waited(self.tracer.longest_wait());
        self.monitor.phase(phase);
    }

    fn released(&self) {
        self.tracer.hand_over();
        self.monitor.released();
    }

    fn copied(&self) {
        self.monitor.copied();
    }

    fn may_hold(&self) -> bool {
        self.monitor.may_hold()
    }

    fn completing(&self) {
        self.monitor.completing();
    }

    fn progress(&self, progress: &Progress) {
        self.monitor.waited(self.tracer.longest_wait());
        self.monitor.progress(progress);
    }

    fn warning(&self, text: &str) {
        self.monitor.warning(text);
    }
}

/// The tracer's grace for the copier.
pub(super) struct Grace<'a> {
    pub tracer: &'a Tracer,
    pub mounts: &'a MountTable,
    pub join: &'a Join,
}

impl Quiesce for Grace<'_> {
    fn grace(&self) -> Result<(), String> {
        self.tracer.grace()
    }

    fn prepare_to_freeze(&self, mapped: &dyn Fn() -> Vec<FileId>) -> Result<(), String> {
        self.tracer.look_for_sharers(mapped)
    }

    fn while_frozen(&self, limit: Duration, mapped: &[FileId], work: &mut dyn FnMut(&[FileId])) -> Result<(), String> {
        self.tracer.while_frozen(limit, mapped, work)
    }

    fn is_in_charge(&self) -> bool {
        !self.tracer.is_revoked()
    }

    fn marked(&self) -> Vec<Effect> {
        self.tracer.marked()
    }

    fn unseen(&self, after_hold: bool) -> Vec<Effect> {
        if let Some(cause) = self.mounts.change() {
            self.join.fail(cause);
        }
        self.tracer.unseen(if after_hold { Look::Unexplained } else { Look::Mark })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hotbackup_copier::{Backup, Control, Point, Source, Spec, Tuning};
    use std::time::Instant;

    struct Silent;
    impl Monitor for Silent {}

    /// In the first hold this ends only when the hold is over.
    struct Stuck(Arc<Join>);

    impl Quiesce for Stuck {
        fn grace(&self) -> Result<(), String> {
            let limit = Instant::now() + Duration::from_secs(60);
            while self.0.capture.is_holding() {
                if Instant::now() > limit {
                    return Err("the hold was never cut".into());
                }
                // As the receiver does.
                self.0.tick();
            }
            Ok(())
        }
    }

    #[test]
    fn the_receivers_tick_cuts_a_hold_at_the_end_of_its_lease() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        std::fs::create_dir(&source).unwrap();
        let root = std::fs::File::open(&source).unwrap().into();
        let backup = Backup::prepare(Spec {
            sources: vec![Source { root, path: source, name: None }],
            dest: dir.path().join("dest"),
            point: Point::Start,
            exclude: Vec::new(),
            tuning: Tuning { hold_tries: 2, ..Tuning::default() },
            pid: 1,
            root: None,
        });
        let backup = backup.unwrap();
        let join = Join::new(backup.capture(), Duration::from_secs(1));
        let result = backup.run(&Stuck(join), &Silent, &Control::default());
        // Every hold was cut, so none gave a point in time.
        assert!(matches!(result, Err(hotbackup_copier::Error::HoldTooLong { tries: 2, .. })), "{result:?}");
    }
}
