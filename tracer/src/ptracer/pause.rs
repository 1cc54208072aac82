//! Stopping threads for an instant: a thread that has stopped is on its way out of the kernel, or outside of it, so the
//! call it was in is over.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use hotbackup_event::failpoint;
use nix::errno::Errno;
use nix::unistd::Pid;

use super::guard::Hold;
use crate::sys::trace::{self, Running, Waited};
use crate::target::process::{Process, Registers, ThreadState};

/// How long one round may take: a thread that does not stop is tried again.
const ROUND: Duration = Duration::from_millis(20);
/// SECCOMP_MODE_FILTER in /proc/TID/status.
const FILTERED: &str = "2";

/// Stops these threads, and returns those that did stop, with where they stood, or are gone.
pub(super) fn pause(process: &Process, hold: &Hold<'_>, tids: Vec<i32>) -> Vec<(i32, Option<Registers>)> {
    crate::sys::process::hurry();
    let mut over = Vec::new();
    let mut seized: HashMap<i32, Running> = HashMap::new();
    for tid in tids {
        hold.progress();
        // A number that came back as another program's thread: ours is over, and that one is not to be touched.
        if process.status_field(tid, "Seccomp").as_deref() != Some(FILTERED) {
            over.push((tid, None));
            continue;
        }
        match trace::seize(Pid::from_raw(tid)) {
            Ok(running) if running.interrupt().is_ok() => drop(seized.insert(tid, running)),
            Ok(_) | Err(Errno::ESRCH) => over.push((tid, None)),
            Err(_) => {} // somebody else traces it: look again later
        }
    }
    let limit = Instant::now() + ROUND;
    while !seized.is_empty() && Instant::now() < limit {
        hold.progress();
        for (tid, running) in std::mem::take(&mut seized) {
            match running.poll() {
                Waited::Stopped(stopped) => {
                    failpoint::hit("grace.thread-held");
                    let at = stopped.registers().ok().map(|all| Registers { ip: all.rip, sp: all.rsp });
                    let _ = stopped.detach();
                    over.push((tid, at));
                }
                Waited::Gone => over.push((tid, None)),
                // It sleeps in a call: in a new one that is held, perhaps, and would not stop. Which one it is can be read
                // from outside.
                Waited::Running(_) if matches!(process.thread_state(tid), ThreadState::Sleeping { .. }) => {}
                Waited::Running(running) => drop(seized.insert(tid, running)),
            }
        }
        std::thread::sleep(Duration::from_micros(20));
    }
    over
}
