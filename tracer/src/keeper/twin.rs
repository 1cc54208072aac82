//! The keeper's twin: a copy of it that waits for its end, and then acts in its place.
//!
//! Made by fork(2): it has everything it needs open and mapped from the start, and runs no program. When the twin ends,
//! the keeper makes a new one; when the keeper ends, the twin makes one of its own. Only when both are killed in one
//! instant do calls wait, until `hotbackup rescue`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::sys::pidfd;
use crate::sys::process::{Forked, fork_single_threaded};

/// A twin that cannot be made is tried again after this long.
const PAUSE: Duration = Duration::from_secs(1);

/// The twin of the process that acts.
#[derive(Default)]
pub(super) struct Twin {
    running: Option<(i32, OwnedFd)>,
    failed_at: Option<Instant>,
}

impl Twin {
    /// Its pidfd.
    pub fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.running.as_ref().map(|(_, pidfd)| pidfd.as_fd())
    }

    /// Whether there is one, or none can be made just now.
    pub fn is_there(&self) -> bool {
        self.running.is_some() || self.failed_at.is_some_and(|at| at.elapsed() < PAUSE)
    }

    /// Makes a twin. Returns `false` in the process that called; in the twin it returns `true`, once that process has
    /// ended.
    pub fn renew(&mut self) -> bool {
        self.reap();
        let Ok(parent) = pidfd::open(std::process::id() as i32) else { return false };
        match fork_single_threaded() {
            Ok(Forked::Parent(child)) => {
                // It cannot have been reaped: we have not waited for it.
                self.running = pidfd::open(child).ok().map(|pidfd| (child, pidfd));
                self.failed_at = None;
                false
            }
            Ok(Forked::Child) => {
                self.running = None;
                self.failed_at = None;
                let _ = nix::unistd::setsid();
                // Locks are not inherited (mlockall(2)).
                let _ = mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE);
                while !super::run::readable(parent.as_fd()) {
                    let mut fds = [PollFd::new(parent.as_fd(), PollFlags::POLLIN)];
                    let _ = poll(&mut fds, PollTimeout::NONE);
                }
                true
            }
            Err(_) => {
                self.failed_at = Some(Instant::now());
                false
            }
        }
    }

    /// The work is over: so is the twin's.
    pub fn end(&mut self) {
        if let Some((child, _)) = &self.running {
            let _ = nix::sys::signal::kill(Pid::from_raw(*child), nix::sys::signal::Signal::SIGKILL);
        }
        self.reap();
    }

    fn reap(&mut self) {
        if let Some((child, _)) = self.running.take() {
            let _ = waitpid(Pid::from_raw(child), None::<WaitPidFlag>);
        }
    }
}
