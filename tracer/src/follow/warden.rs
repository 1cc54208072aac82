//! The supervisor watches its keepers, as they watch it: when both of a pair were killed in one instant, it starts
//! another. Without that, the supervisor's own death after theirs would leave the target to wait.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{RecvTimeoutError, Sender, bounded};

use crate::helper::program::Program;
use crate::keeper::{find, spawn};
use crate::receive::answering::Answering;
use crate::shared::roles::Part;
use crate::target::cgroups;

/// How often the keeper is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Looks without any keeper after which another pair is started: a twin needs less than one to take its keeper's place.
const LOOKS: u32 = 2;
/// How long one that is there may take until it is looked at more closely.
const HANG_LIMIT: Duration = Duration::from_secs(1);
/// How long a keeper may take to take the target back; one that hangs is replaced by its twin after half a second.
const TAKE_LIMIT: Duration = Duration::from_secs(10);

/// Wakes the keeper that acts, whichever that is by now.
pub(crate) struct Wake(Mutex<Option<OwnedFd>>);

impl Wake {
    pub fn new(wake: Option<OwnedFd>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(wake)))
    }

    pub fn rouse(&self) {
        if let Some(wake) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            find::rouse(wake);
        }
    }

    fn replace(&self, wake: Option<OwnedFd>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = wake;
    }
}

/// What it takes to start another pair.
#[derive(Clone)]
struct Replacement {
    shared: Arc<Answering>,
    program: Program,
    wake: Arc<Wake>,
    /// One at a time, or there would be two pairs.
    starting: Arc<Mutex<()>>,
}

impl Replacement {
    /// Whether the keeper that acts is there, or is not needed any more.
    fn is_there(&self) -> bool {
        let Answering { process, memory, .. } = &*self.shared;
        memory.lives(Part::Keeper) || !process.is_alive()
    }

    /// Waits until `enough`, and starts another pair whenever no keeper is left for some looks.
    fn see_to_it(&self, enough: impl Fn() -> bool) {
        let limit = Instant::now() + TAKE_LIMIT;
        let mut missing = None;
        while !enough() && self.shared.process.is_alive() && Instant::now() < limit {
            // One that is there has a second: it may hang, and `start` finds out.
            let patience = if self.is_there() { HANG_LIMIT } else { LOOK * LOOKS };
            if missing.get_or_insert_with(Instant::now).elapsed() > patience {
                // Frozen with the target, they act as soon as there is something to do.
                if cgroups::check_thawed(&self.shared.process).is_err() {
                    return;
                }
                self.start();
                missing = None;
            }
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    /// Starts another pair, if no keeper is left.
    fn start(&self) {
        let _one = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        let Answering { process, memory, .. } = &*self.shared;
        if !matches!(find::find(process), Ok(None)) {
            return;
        }
        match spawn::spawn(process, self.program, memory) {
            Ok(pid) => {
                tracing::warn!(pid, "both keepers were gone; there are new ones");
                self.wake.replace(find::wake_fd(process, memory));
            }
            Err(error) => tracing::warn!(%error, "there is no keeper"),
        }
    }
}

/// The thread that watches, until this is dropped: also after the hand-over, as long as the supervisor is there.
pub(crate) struct Warden {
    replacement: Replacement,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Warden {
    pub fn start(shared: Arc<Answering>, program: Program, wake: Arc<Wake>) -> std::io::Result<Self> {
        let (stop, stopped) = bounded::<()>(0);
        let replacement = Replacement { shared, program, wake, starting: Arc::default() };
        let watching = replacement.clone();
        let watch = move || {
            let mut missing = 0;
            while stopped.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                missing = if watching.is_there() { 0 } else { missing + 1 };
                if missing >= LOOKS {
                    watching.start();
                    missing = 0;
                }
            }
        };
        let thread = std::thread::Builder::new().name("warden".into()).spawn(watch)?;
        Ok(Self { replacement, stop: Some(stop), thread: Some(thread) })
    }

    /// Hands the target to its keeper, and sees to it that one takes it: they may be killed in this very moment, too.
    pub fn hand_over(&self, give: impl FnOnce()) {
        let Replacement { shared, wake, .. } = &self.replacement;
        // Seen to be alive, while we still answer: also a pair that is stopped is no keeper.
        if !matches!(find::find(&shared.process), Ok(Some(_))) {
            self.replacement.start();
        }
        give();
        wake.rouse();
        self.replacement.see_to_it(|| shared.memory.kept.load(Ordering::SeqCst) >= shared.generation.generation);
    }
}

impl Drop for Warden {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.replacement.see_to_it(|| self.replacement.is_there());
    }
}
