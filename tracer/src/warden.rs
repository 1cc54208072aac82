//! The supervisor watches its keepers, as they watch it: when both of a pair were killed in one instant, it starts
//! another. Without that, the supervisor's own death after theirs would leave the target to wait.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{RecvTimeoutError, Sender, bounded};

use crate::helper;
use crate::keeper::{self, find, spawn};
use crate::listener::Answering;
use crate::sys::pidfd;

/// How often the keeper is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Looks without any keeper after which another pair is started: a twin needs less than one to take its keeper's place.
const LOOKS: u32 = 2;

/// Wakes the keeper that acts, whichever that is by now.
pub(crate) struct Wake(Mutex<OwnedFd>);

impl Wake {
    pub fn new(wake: OwnedFd) -> Arc<Self> {
        Arc::new(Self(Mutex::new(wake)))
    }

    pub fn rouse(&self) {
        find::rouse(&self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn replace(&self, wake: OwnedFd) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = wake;
    }
}

/// The thread that watches. Ends when dropped.
pub(crate) struct Warden {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Warden {
    pub fn start(shared: Arc<Answering>, program: PathBuf, wake: Arc<Wake>) -> std::io::Result<Self> {
        let (stop, stopped) = bounded::<()>(0);
        let watch = move || {
            let mut missing = 0;
            while stopped.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                let process = &shared.process;
                let acting = shared.memory.keeper.load(Ordering::SeqCst);
                let is_there = helper::is(acting, keeper::KIND, process);
                missing = if is_there || shared.is_revoked() || !process.is_alive() { 0 } else { missing + 1 };
                if missing < LOOKS || !matches!(find::find(process), Ok(None)) {
                    continue;
                }
                match spawn::spawn(process, &program, &shared.memory) {
                    Ok(pid) => {
                        if let Some(new) = pidfd::open(pid).ok().and_then(|keeper| find::wake_fd(&keeper)) {
                            wake.replace(new);
                        }
                        tracing::warn!(pid, "both keepers were gone; there are new ones");
                        missing = 0;
                    }
                    Err(error) => tracing::warn!(%error, "there is no keeper"),
                }
            }
        };
        let thread = std::thread::Builder::new().name("warden".into()).spawn(watch)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Warden {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
