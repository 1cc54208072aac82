//! Calls that wait with nobody to answer them: which threads they are of, and whether those have gone on since.

use std::time::{Duration, Instant};

use super::outsiders;
use crate::target::process::{Process, read_below};

/// Where the kernel has a thread sleep whose call is shown to us (`seccomp_do_user_notification`; part of it may be inlined).
const WAITS_IN: &str = "seccomp";

/// A thread, and what tells that it has run since: where it sleeps, in which call, and how often it had gone to sleep.
struct Thread {
    tid: i32,
    asleep: String,
}

/// The threads, of the target and of its children with the filter, whose calls wait.
pub(super) struct Waiting(Vec<Thread>);

impl Waiting {
    /// Looks at all threads.
    pub fn look(process: &Process) -> Self {
        let all = std::iter::once(process.pid()).chain(outsiders::followed_children(process));
        let threads = all.flat_map(|pid| process.list(&format!("{pid}/task")));
        let waiting = threads.filter_map(|tid| asleep(process, tid).map(|asleep| Thread { tid, asleep }));
        Self(waiting.collect())
    }

    /// How many they are.
    pub fn count(&self) -> u64 {
        self.0.len() as u64
    }

    /// How many of them have gone on, or have ended; waits for that as long as it may take.
    pub fn gone_on(&self, process: &Process, limit: Duration) -> u64 {
        let limit = Instant::now() + limit;
        loop {
            let has_gone_on = |thread: &&Thread| asleep(process, thread.tid).as_ref() != Some(&thread.asleep);
            let count = self.0.iter().filter(has_gone_on).count();
            if count == self.0.len() || Instant::now() > limit {
                return count as u64;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// What tells one wait of a thread from the next; `None` where it does not wait for an answer.
fn asleep(process: &Process, tid: i32) -> Option<String> {
    let read = |name: &str| read_below(process.proc(), &format!("{tid}/{name}")).ok();
    let place = read("wchan").filter(|place| place.contains(WAITS_IN))?;
    let times = process.status_field(tid, "voluntary_ctxt_switches").unwrap_or_default();
    Some(format!("{place} {} {times}", read("syscall").unwrap_or_default()))
}
