//! The keeper's twin: a copy of it that waits for its end, and then acts in its place.
//!
//! Made by fork(2): it has everything it needs open and mapped from the start, and runs no program. When the twin ends,
//! the keeper makes a new one; when the keeper ends, the twin makes one of its own. Each also watches the other's
//! progress: one that hangs (SIGSTOP, no processor) for half a second is killed by the other, so that there are never two that
//! act. Only when both are killed or stopped in one instant do calls wait, until `hotbackup rescue`, or the supervisor if
//! there is one, starts another pair.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hotbackup_event::failpoint;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::{LOOK, LOOKS};
use crate::shared::memory::Memory;
use crate::shared::roles::{Held, Part};
use crate::sys::pidfd;
use crate::sys::process::{Forked, fork_single_threaded, lock_memory};

/// How long the keeper's part may be held after its end, by a child that it has only just made.
const FREE_LIMIT: Duration = Duration::from_millis(100);
/// A twin that cannot be made is tried again after this long.
const PAUSE: Duration = Duration::from_secs(1);

/// Watches a count that must go on: the progress of somebody else.
#[derive(Default)]
pub(super) struct Pulse {
    seen: u64,
    /// Looks, one after the other, that found it where it was.
    still: u32,
}

impl Pulse {
    /// Looks; says how many times in a row there was no progress.
    pub fn look(&mut self, count: &AtomicU64) -> u32 {
        let now = count.load(Ordering::SeqCst);
        self.still = if now == self.seen { self.still + 1 } else { 0 };
        self.seen = now;
        self.still
    }

    /// Somebody else is looked at from here on.
    pub fn reset(&mut self) {
        self.still = 0;
    }
}

/// The twin of the process that acts.
#[derive(Default)]
pub(super) struct Twin {
    running: Option<(i32, OwnedFd)>,
    failed_at: Option<Instant>,
    pulse: Pulse,
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

    /// Looks at its progress, each [`LOOK`]; a twin that hangs is ended.
    pub fn look(&mut self, memory: &Memory) {
        if self.pulse.look(&memory.twin_beat) >= LOOKS
            && let Some(pidfd) = self.pidfd()
        {
            let _ = pidfd::kill(pidfd);
            self.pulse.reset();
        }
    }

    /// Makes a twin. Returns `false` in the process that called; in the twin it returns `true`, once that process has
    /// ended.
    pub fn renew(&mut self, memory: &Memory, part: &mut Option<Held>) -> bool {
        self.reap();
        self.pulse.reset();
        let Ok(parent) = pidfd::open(std::process::id() as i32) else { return false };
        match fork_single_threaded() {
            Ok(Forked::Parent(child)) => {
                // It cannot have been reaped: we have not waited for it.
                match pidfd::open(child) {
                    Ok(pidfd) => (self.running, self.failed_at) = (Some((child, pidfd)), None),
                    Err(_) => {
                        // One that cannot be watched is none.
                        let _ = nix::sys::signal::kill(Pid::from_raw(child), nix::sys::signal::Signal::SIGKILL);
                        let _ = waitpid(Pid::from_raw(child), None::<WaitPidFlag>);
                        self.failed_at = Some(Instant::now());
                    }
                }
                failpoint::hit("keeper.twin-made");
                false
            }
            Ok(Forked::Child) => {
                self.running = None;
                self.failed_at = None;
                let _ = nix::unistd::setsid();
                // Locks are not inherited (mlockall(2)).
                lock_memory();
                // What we share with the keeper would live on after it.
                *part = None;
                memory.twin.store(std::process::id() as i32, Ordering::SeqCst);
                outlive(parent.as_fd(), memory, part);
                acts_now(memory, part);
                failpoint::hit("twin.acting");
                failpoint::disarm();
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
        if let Some(pidfd) = self.pidfd() {
            let _ = pidfd::kill(pidfd);
        }
        self.reap();
    }

    fn reap(&mut self) {
        if let Some((child, _)) = self.running.take() {
            let _ = waitpid(Pid::from_raw(child), None::<WaitPidFlag>);
        }
    }
}

/// The keeper has ended: its part is ours, unless a second twin was quicker, which there is while one takes the other's place. Then
/// there is nothing left to do for this one.
fn acts_now(memory: &Memory, part: &mut Option<Held>) {
    let limit = Instant::now() + FREE_LIMIT;
    loop {
        // By the file that it has already, as none may be opened any more: /proc may be gone, or the table of files full.
        let taken = match part {
            Some(held) => held.change(Part::Keeper),
            None => memory.take(Part::Keeper).map(|held| *part = Some(held)),
        };
        match taken {
            Ok(()) => return,
            Err(_) if Instant::now() < limit => std::thread::sleep(Duration::from_millis(1)),
            // Better one that nobody can see than none.
            Err(_) if !memory.lives(Part::Keeper) => return,
            Err(_) => std::process::exit(0),
        }
    }
}

/// Waits until the keeper that acts has ended, and ends it when it hangs.
fn outlive(keeper: BorrowedFd<'_>, memory: &Memory, part: &mut Option<Held>) {
    let mut pulse = Pulse::default();
    let look = PollTimeout::try_from(LOOK).unwrap_or(PollTimeout::ZERO);
    // The twin before may have it still.
    *part = memory.take(Part::Twin).ok();
    while !wait_for_end(keeper, look) {
        if part.is_none() {
            *part = memory.take(Part::Twin).ok();
        }
        memory.twin_beat.fetch_add(1, Ordering::SeqCst);
        if pulse.look(&memory.keeper_beat) >= LOOKS {
            let _ = pidfd::kill(keeper);
            pulse.reset();
        }
    }
}

/// Whether a pidfd's process ends within the time.
pub(super) fn wait_for_end(fd: BorrowedFd<'_>, limit: PollTimeout) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    matches!(poll(&mut fds, limit), Ok(n) if n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pulse_counts_looks_without_progress_in_a_row() {
        let (count, mut pulse) = (AtomicU64::new(7), Pulse::default());
        assert_eq!(pulse.look(&count), 0);
        assert_eq!((pulse.look(&count), pulse.look(&count)), (1, 2));
        count.store(8, Ordering::SeqCst);
        assert_eq!((pulse.look(&count), pulse.look(&count)), (0, 1));
    }
}
