//! Freezing: all threads of the target stand still at the same time, until they are asked to go on or the time is up.
//!
//! A thread that was asked to stop runs no instruction of its own from then on: it is stopped outside of the kernel, or on
//! its way out of it. One whose call waits for its answer is not asked: it would not stop, and its call would find itself
//! interrupted as soon as it runs. Its call has not run; whether it is let go before the thaw, the supervisor knows.
//! Anything else that does not stop may be a call that writes to the thread's memory (a read from a disk), or one whose
//! child shares it (vfork), and is waited for.
//!
//! New threads are made by threads that run. So the list is complete when it shows none that is new, and was read while all
//! that were known stood still.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use hotbackup_event::failpoint;
use nix::errno::Errno;
use nix::unistd::Pid;

use super::guard::Hold;
use crate::shared::memory::Memory;
use crate::sys::trace::{self, Running, Stopped, Waited};
use crate::target::process::{Process, ThreadState};

/// For how long a call must have been waiting to count as held: most are answered within microseconds.
const HELD_FOR: Duration = Duration::from_micros(300);
/// How many threads are asked until the calls that wait are looked at again.
const LOOK_AGAIN_AFTER: usize = 8;

/// Threads of the target that stand still, or were asked to. They go on when this thread of ours ends, too.
#[derive(Default)]
pub(super) struct Frozen {
    seen: HashSet<i32>,
    stopped: Vec<Stopped>,
    /// They have not stopped.
    asked: HashMap<i32, Running>,
    /// They were found in a call that waits for its answer: which, and when.
    waiting: HashMap<i32, (u64, Instant)>,
}

/// Stops all threads. If one does not stop before `until`, all go on, and it says which.
pub(super) fn freeze(process: &Process, memory: &Memory, hold: &Hold<'_>, until: Instant) -> Result<Frozen, String> {
    let mut frozen = Frozen::default();
    match frozen.stop_all(process, memory, hold, until) {
        Ok(()) => Ok(frozen),
        Err(cause) => {
            frozen.thaw(hold);
            Err(cause)
        }
    }
}

impl Frozen {
    fn stop_all(&mut self, process: &Process, memory: &Memory, hold: &Hold<'_>, until: Instant) -> Result<(), String> {
        let mut all_still = false;
        loop {
            hold.progress();
            let new = self.ask_new_threads(process, memory)?;
            if all_still && new == 0 {
                return Ok(());
            }
            for (tid, running) in std::mem::take(&mut self.asked) {
                match running.poll() {
                    Waited::Stopped(thread) => self.stopped.push(thread),
                    // Its number may be a new thread's.
                    Waited::Gone => drop(self.seen.remove(&tid)),
                    Waited::Running(running) => drop(self.asked.insert(tid, running)),
                }
            }
            failpoint::hit("freeze.stopping");
            let moving = self.moving(process, memory);
            all_still = moving.is_none();
            match moving {
                Some(tid) if Instant::now() > until => return Err(why(process, tid)),
                Some(_) => std::thread::sleep(Duration::from_micros(20)),
                None => {}
            }
        }
    }

    /// Asks threads to stop that were not asked yet and whose call does not wait for its answer. Returns how many are new.
    fn ask_new_threads(&mut self, process: &Process, memory: &Memory) -> Result<usize, String> {
        let mut new = 0;
        let mut calls = HashMap::new();
        let unseen: Vec<i32> = process.threads().into_iter().filter(|tid| !self.seen.contains(tid)).collect();
        for (at, tid) in unseen.into_iter().enumerate() {
            if at.is_multiple_of(LOOK_AGAIN_AFTER) {
                calls = waiting_calls(memory);
            }
            let call = calls.get(&tid).copied();
            let before = self.waiting.get(&tid).map(|(call, _)| *call);
            match call {
                Some(call) if before == Some(call) => continue,
                Some(call) => {
                    self.waiting.insert(tid, (call, Instant::now()));
                    new += 1;
                    continue;
                }
                None => drop(self.waiting.remove(&tid)),
            }
            match trace::seize(Pid::from_raw(tid)) {
                Ok(running) if running.interrupt().is_ok() => {
                    self.asked.insert(tid, running);
                    new += 1;
                }
                Ok(_) | Err(Errno::ESRCH) => continue, // it ended
                Err(_) if process.has_ended(tid) => {} // a first thread, before the others
                Err(errno) => {
                    return Err(match process.tracer(tid) {
                        Some(tracer) => format!("thread {tid} is traced by process {tracer}"),
                        None => format!("thread {tid} cannot be stopped: {errno}"),
                    });
                }
            }
            self.seen.insert(tid);
        }
        Ok(new)
    }

    /// A thread that may still run, or whose call may still write to its memory.
    fn moving(&self, process: &Process, memory: &Memory) -> Option<i32> {
        let not_long = |(_, (_, since)): &(&i32, &(u64, Instant))| since.elapsed() < HELD_FOR;
        if let Some((tid, _)) = self.waiting.iter().find(not_long) {
            return Some(*tid);
        }
        if self.asked.is_empty() {
            return None;
        }
        // One may have come to such a call just as it was asked.
        let calls = waiting_calls(memory);
        let waits =
            |tid: i32| calls.contains_key(&tid) && matches!(process.thread_state(tid), ThreadState::Sleeping { .. });
        self.asked.keys().copied().find(|tid| !waits(*tid))
    }

    /// The threads that have not stopped, because their calls wait for an answer.
    pub fn waiting(&self) -> Vec<i32> {
        self.waiting.keys().chain(self.asked.keys()).copied().collect()
    }

    /// Lets all go on.
    pub fn thaw(self, hold: &Hold<'_>) {
        for thread in self.stopped {
            hold.progress();
            let _ = thread.detach();
        }
    }
}

/// The calls that were received and are not answered, by their threads.
fn waiting_calls(memory: &Memory) -> HashMap<i32, u64> {
    memory.recorded().map(|(_, call)| (call.pid.cast_signed(), call.id)).collect()
}

fn why(process: &Process, tid: i32) -> String {
    let call = match process.thread_state(tid) {
        ThreadState::Sleeping { nr, .. } => format!("it is in system call {nr}"),
        _ => "it runs".into(),
    };
    format!("thread {tid} did not stop in time: {call}")
}
