//! The handle to a running backup: its rate, and its end.
use crate::base::util::{lock, wait};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Steers a running backup from another thread. Clones steer the same backup.
#[derive(Debug, Clone, Default)]
pub struct Control(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    changed: Condvar,
    on_cancel: Mutex<Vec<OnCancel>>,
}

/// What is to be done at once, by whoever cancels: the thread that runs the backup may be stuck in a call on the
/// destination.
struct OnCancel(Box<dyn Fn() + Send>);

impl std::fmt::Debug for OnCancel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnCancel")
    }
}

#[derive(Debug, Default)]
struct State {
    rate: Option<u64>,
    /// The rate was set since the handle was made.
    chosen: bool,
    cancelled: bool,
    /// Go on capturing, and do not begin to copy: see [`Control::keep_capturing`] and [`Control::wait_to_copy`].
    keeps_capturing: bool,
    waits_to_copy: bool,
    /// When the bytes granted so far are used up at the current rate. In the past: there is nothing to wait for.
    until: Option<Instant>,
}

/// May the copier read on?
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Go,
    /// Not yet: something else may be done for a moment.
    Wait,
    Cancelled,
}

/// How long one wait for the rate takes at most, so that the caller can look after other things.
const SLICE: Duration = Duration::from_millis(50);
/// How long one wait for something other than the rate takes at most.
const PAUSE: Duration = Duration::from_millis(10);
/// Time that may be made up for after a stall, so that a slow disk does not lower the mean rate needlessly.
const CREDIT: Duration = Duration::from_millis(100);

impl Control {
    /// A handle with a rate in bytes per second: `None` is unlimited, `Some(0)` pauses copying (capture goes on).
    pub fn new(rate: Option<u64>) -> Self {
        let control = Self::default();
        control.lock().rate = rate;
        control
    }

    /// The rate that a backup begins with, unless another was set meanwhile: a handle can be steered before its backup has begun.
    pub fn begin_with(&self, rate: Option<u64>) {
        let mut state = self.lock();
        if !state.chosen {
            state.rate = rate;
        }
    }

    /// Changes the rate, at once. Same meaning as in [`Control::new`].
    pub fn set_throttle(&self, rate: Option<u64>) {
        let mut state = self.lock();
        state.rate = rate;
        state.chosen = true;
        state.until = None;
        self.0.changed.notify_all();
    }

    /// The rate in force.
    pub fn throttle(&self) -> Option<u64> {
        self.lock().rate
    }

    /// Has the backup go on capturing and copying what changes, and fix no point in time, until this is taken back. For tests.
    pub fn keep_capturing(&self, keep: bool) {
        self.lock().keeps_capturing = keep;
        self.0.changed.notify_all();
    }

    /// Has the backup capture and not begin to copy, until this is taken back. For tests.
    pub fn wait_to_copy(&self, wait: bool) {
        self.lock().waits_to_copy = wait;
        self.0.changed.notify_all();
    }

    pub(crate) fn keeps_capturing(&self) -> bool {
        self.lock().keeps_capturing
    }

    pub(crate) fn waits_to_copy(&self) -> bool {
        self.lock().waits_to_copy
    }

    /// Waits for a moment at most: until something is asked of the backup.
    pub(crate) fn pause(&self) {
        drop(wait(&self.0.changed, self.lock(), PAUSE));
    }

    /// Ends a wait of the backup, which is to look around again.
    pub fn wake(&self) {
        self.0.changed.notify_all();
    }

    /// Asks the backup to stop: the target is let go, then what was written is removed. Cannot be taken back.
    pub fn cancel(&self) {
        self.lock().cancelled = true;
        self.0.changed.notify_all();
        for what in self.on_cancels().drain(..) {
            (what.0)();
        }
    }

    /// Has something done as soon as the backup is cancelled, or now if it was.
    pub(crate) fn on_cancel(&self, what: impl Fn() + Send + 'static) {
        let mut all = self.on_cancels();
        if self.is_cancelled() {
            what();
        } else {
            all.push(OnCancel(Box::new(what)));
        }
    }

    fn on_cancels(&self) -> std::sync::MutexGuard<'_, Vec<OnCancel>> {
        lock(&self.0.on_cancel)
    }

    /// Whether [`Control::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.lock().cancelled
    }

    /// Asks for `bytes` to be read now; waits for a moment at most. A change of the rate, or cancelling, ends the wait.
    pub(crate) fn turn(&self, bytes: u64) -> Turn {
        let mut state = self.lock();
        let now = Instant::now();
        let limit = match (state.cancelled, state.rate) {
            (true, _) => return Turn::Cancelled,
            (_, None) => return Turn::Go,
            (_, Some(0)) => SLICE,
            (_, Some(rate)) => {
                let until = state.until.unwrap_or(now).max(now.checked_sub(CREDIT).unwrap_or(now));
                if until <= now {
                    state.until = Some(until + Duration::from_secs_f64(bytes as f64 / rate as f64));
                    return Turn::Go;
                }
                (until - now).min(SLICE)
            }
        };
        let state = wait(&self.0.changed, state, limit);
        if state.cancelled { Turn::Cancelled } else { Turn::Wait }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        lock(&self.0.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads until `bytes` are through, in `chunk`s, and says how long that took.
    fn read(control: &Control, bytes: u64, chunk: u64) -> Duration {
        let start = Instant::now();
        let mut done = 0;
        while done < bytes {
            if control.turn(chunk) == Turn::Go {
                done += chunk;
            }
        }
        start.elapsed()
    }

    #[test]
    fn a_rate_is_kept_on_average() {
        let took = read(&Control::new(Some(1 << 20)), 320 << 10, 32 << 10);
        assert!(took >= Duration::from_millis(150) && took < Duration::from_millis(900), "{took:?}");
    }

    #[test]
    fn no_rate_means_no_wait() {
        assert!(read(&Control::new(None), 1 << 40, 1 << 30) < Duration::from_millis(100));
    }

    #[test]
    fn a_pause_ends_when_the_rate_changes() {
        let control = Control::new(Some(0));
        assert_eq!(control.turn(1), Turn::Wait);
        control.set_throttle(None);
        assert_eq!(control.turn(1), Turn::Go);
    }

    #[test]
    fn a_rate_that_was_set_before_the_backup_began_stays() {
        let control = Control::new(Some(0));
        control.begin_with(Some(5));
        assert_eq!(control.throttle(), Some(5));
        control.set_throttle(None);
        control.begin_with(Some(5));
        assert_eq!(control.throttle(), None);
    }

    #[test]
    fn a_new_rate_does_not_wait_for_debts_of_the_old_one() {
        let control = Control::new(Some(1));
        assert_eq!(control.turn(1 << 20), Turn::Go);
        control.set_throttle(Some(1 << 30));
        assert_eq!(control.turn(1), Turn::Go);
    }

    #[test]
    fn what_is_to_be_done_on_cancelling_is_done_once_then_or_now() {
        use std::sync::atomic::{AtomicU32, Ordering};
        let (control, done) = (Control::default(), Arc::new(AtomicU32::new(0)));
        let count = || {
            let done = Arc::clone(&done);
            move || {
                done.fetch_add(1, Ordering::SeqCst);
            }
        };
        control.on_cancel(count());
        assert_eq!(done.load(Ordering::SeqCst), 0);
        control.cancel();
        control.cancel();
        assert_eq!(done.load(Ordering::SeqCst), 1);
        control.on_cancel(count());
        assert_eq!(done.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn cancelling_ends_a_pause() {
        let control = Control::new(Some(0));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| while control.turn(1) != Turn::Cancelled {});
            control.cancel();
            waiting.join().unwrap();
        });
    }
}
