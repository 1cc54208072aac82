//! The guard: a thread that is stopped by ptrace stays stopped for as long as its tracer does nothing and lives. So the
//! ptracer is two processes. One does the tracing, and counts while it holds a thread; the other, the guard, does nothing but
//! look at that count: a ptracer that holds a thread and makes no progress is killed, and with a tracer ends every hold it
//! has. When the guard is killed, the kernel kills the ptracer. Neither needs anybody else, in whatever namespace.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use zerocopy::FromBytes;

use crate::sys::memory::Region;
use crate::sys::pidfd;
use crate::sys::process::{Forked, die_with, fork_single_threaded, set_name};

/// How often the ptracer is looked at while it holds no thread, and while it does.
const LOOK: Duration = Duration::from_millis(100);
const LOOK_AT_HOLD: Duration = Duration::from_millis(10);
/// After how many looks without progress it is killed.
const LOOKS: u32 = 20;

/// What the ptracer says of itself.
#[repr(C)]
#[derive(FromBytes)]
struct Count {
    /// Odd while it may hold a thread; counts up while it makes progress.
    traced: AtomicU64,
}

/// The ptracer's side of it.
pub(super) struct Progress(Region<Count>);

/// While this lives, a request is being served and a thread of the target may be stopped.
pub(super) struct Hold<'a>(&'a AtomicU64);

impl Progress {
    /// From here on a thread may be stopped.
    pub fn hold(&self) -> Hold<'_> {
        self.0.traced.fetch_add(1, Ordering::SeqCst);
        Hold(&self.0.traced)
    }
}

impl Hold<'_> {
    /// We are alive.
    pub fn progress(&self) {
        self.0.fetch_add(2, Ordering::SeqCst);
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Makes the ptracer, which is a child of this process: returns there. This process guards it until it ends, or `supervisor`
/// does, which is at the other end of this socket; `Err` holds the exit code that it ends with.
pub(super) fn begin(supervisor: BorrowedFd<'_>) -> Result<Progress, i32> {
    let this = std::process::id() as i32;
    let Ok(count) = Region::<Count>::create("hotbackup-count") else { return Err(1) };
    match fork_single_threaded() {
        Ok(Forked::Child) => {
            die_with(this);
            Ok(Progress(count))
        }
        Ok(Forked::Parent(ptracer)) => {
            set_name(c"hotbackup-guard");
            Err(watch(ptracer, &count, supervisor))
        }
        Err(_) => Err(1),
    }
}

/// Looks at the ptracer until it ends.
fn watch(ptracer: i32, count: &Count, supervisor: BorrowedFd<'_>) -> i32 {
    // It is our child, and not yet waited for: its number is its own.
    let Ok(pidfd) = pidfd::open(ptracer) else { return 1 };
    let (mut seen, mut still) = (0, 0);
    loop {
        let now = count.traced.load(Ordering::SeqCst);
        let is_held = now % 2 == 1;
        still = if is_held && now == seen { still + 1 } else { 0 };
        seen = now;
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN), PollFd::new(supervisor, PollFlags::POLLHUP)];
        let look = PollTimeout::try_from(if is_held { LOOK_AT_HOLD } else { LOOK }).unwrap_or(PollTimeout::ZERO);
        let _ = poll(&mut fds, look);
        let [has_ended, is_alone] = fds.map(|fd| fd.any().unwrap_or(false));
        if still >= LOOKS || is_alone {
            let _ = pidfd::kill(pidfd.as_fd());
        }
        if has_ended || is_alone {
            // Nobody else buries it.
            let _ = waitpid(Pid::from_raw(ptracer), None::<WaitPidFlag>);
            return 0;
        }
    }
}
