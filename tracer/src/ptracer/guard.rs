//! The guard: a thread that is stopped by ptrace stays stopped for as long as its tracer does nothing and lives. So the
//! ptracer is two processes. One does the tracing, and counts while it holds a thread; the other, the guard, does nothing but
//! look at that count: a ptracer that holds a thread and makes no progress is killed, and with a tracer ends every hold it
//! has. When the guard is killed, the kernel kills the ptracer. Neither needs anybody else, in whatever namespace.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

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

/// Makes the ptracer, which is a child of this process: returns there. This process guards it to its end, and `Err` holds
/// the exit code that it ends with.
pub(super) fn begin(guard_let_go: impl FnOnce()) -> Result<Progress, i32> {
    let this = std::process::id() as i32;
    let Ok(count) = Region::<Count>::create("hotbackup-count") else { return Err(1) };
    match fork_single_threaded() {
        Ok(Forked::Child) => {
            die_with(this);
            Ok(Progress(count))
        }
        Ok(Forked::Parent(ptracer)) => {
            set_name(c"hotbackup-guard");
            guard_let_go();
            Err(watch(ptracer, &count))
        }
        Err(_) => Err(1),
    }
}

/// Looks at the ptracer until it ends.
fn watch(ptracer: i32, count: &Count) -> i32 {
    // It is our child, and not yet waited for: its number is its own.
    let Ok(pidfd) = pidfd::open(ptracer) else { return 1 };
    let (mut seen, mut still) = (0, 0);
    loop {
        let now = count.traced.load(Ordering::SeqCst);
        let is_held = now % 2 == 1;
        still = if is_held && now == seen { still + 1 } else { 0 };
        seen = now;
        if still >= LOOKS {
            let _ = pidfd::kill(pidfd.as_fd());
        }
        if pidfd::ends_within(pidfd.as_fd(), if is_held { LOOK_AT_HOLD } else { LOOK }) {
            return 0;
        }
    }
}
