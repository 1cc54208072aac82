//! Whether everybody who makes a call that the filter shows was known from the beginning, or is younger than that.
//!
//! Grace waits for the calls that were under way when we took over: of the threads of the target and of those of its children,
//! and theirs, that are found (`outsiders.rs`). Who carries the filter and was not found may have had one under way, too, answered
//! by the keeper, which would change something later without a word. So whoever makes a call for the first time, was there
//! before us, and is not one of them fails the backup.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use nix::time::{ClockId, clock_gettime};
use nix::unistd::{SysconfVar, sysconf};

use super::outsiders;
use crate::target::process::{Process, read_below, start_of};

/// Those who were known from the beginning.
pub(super) struct Newcomers {
    /// In clock ticks since boot.
    began: u64,
    /// Processes.
    known: Mutex<HashSet<i32>>,
}

impl Newcomers {
    /// From now on; `children` are followed.
    pub fn new(process: &Process, children: &[i32]) -> Self {
        let known = std::iter::once(process.pid()).chain(children.iter().copied()).collect();
        Self { began: now(), known: Mutex::new(known) }
    }

    /// Looks at threads that have made their first call; says which process was not known.
    pub fn look(&self, process: &Process, threads: Vec<i32>) -> Option<String> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for tid in threads {
            // One that is gone has no call under way.
            let is_old = start_of(process.proc(), tid).is_some_and(|start| start < self.began);
            let of_process = || process.status_field(tid, "Tgid")?.parse::<i32>().ok();
            let Some(pid) = of_process().filter(|_| is_old) else { continue };
            if known.contains(&pid) {
                continue;
            }
            // Its parent may have ended since, or it was not a child of ours yet when they were looked for.
            known.extend(outsiders::followed_children(process));
            if !known.contains(&pid) {
                let name = read_below(process.proc(), &format!("{pid}/comm")).unwrap_or_default();
                return Some(format!(
                    "process {pid} ({}) carries the filter and was not found when the backup began (was it moved to \
                     another cgroup?), so that what it had begun before could not be waited for",
                    name.trim()
                ));
            }
        }
        None
    }
}

/// In the unit that starts of processes are told in (proc_pid_stat(5)).
fn now() -> u64 {
    let since_boot = clock_gettime(ClockId::CLOCK_BOOTTIME);
    let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100).max(1) as u64;
    since_boot.map_or(0, |time| time.tv_sec() as u64 * ticks + time.tv_nsec() as u64 * ticks / 1_000_000_000)
}
