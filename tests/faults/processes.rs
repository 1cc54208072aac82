//! Processes as /proc shows them: who is a keeper of whom, who is stopped, who is gone.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::process::{self, status, threads};

/// What the helper is called that holds threads of the target by ptrace.
const HELPER: &str = "hotbackup-trace";

/// The keepers of one target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keepers {
    /// All of them, stopped ones too.
    pub all: Vec<i32>,
    /// The one that acts and its twin, when there are just these two.
    pub pair: Option<(i32, i32)>,
}

/// The keepers of process `pid`.
pub fn keepers(pid: i32) -> Keepers {
    let mut all = process::keepers(pid);
    all.extend(keepers_elsewhere(pid));
    let pair = match all[..] {
        // A twin is a child of the one that acts.
        [a, b] if parent(b) == Some(a) => Some((a, b)),
        [a, b] if parent(a) == Some(b) => Some((b, a)),
        _ => None,
    };
    Keepers { all, pair }
}

/// What the memory is called that keepers share with their target.
const MEMORY: &str = "/memfd:hotbackup-session";
/// What a keeper is called.
const KEEPER: &str = "hotbackup-keep";

/// Those keepers of process `pid` that were started where it has another number.
fn keepers_elsewhere(pid: i32) -> Vec<i32> {
    if !is_apart(pid) {
        return Vec::new();
    }
    let named = |pid: i32, fd: &str| {
        let place = format!("/proc/{pid}/fd/{fd}");
        let is_one = fs::read_link(&place).is_ok_and(|link| link.to_string_lossy().starts_with(MEMORY));
        is_one.then(|| fs::metadata(&place).map(|memory| memory.ino()).ok()).flatten()
    };
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let memories: Vec<u64> = descriptors.filter_map(|entry| named(pid, &entry.file_name().to_string_lossy())).collect();
    let number = pid.to_string();
    let is_one = |keeper: &i32| {
        let read = |name: &str| fs::read_to_string(format!("/proc/{keeper}/{name}")).unwrap_or_default();
        read("comm").trim() == KEEPER
            && read("cmdline").split('\0').nth(1) != Some(&number)
            && named(*keeper, "0").is_some_and(|memory| memories.contains(&memory))
    };
    process::processes().into_iter().filter(is_one).collect()
}

/// Whether a process has another namespace of processes than this one, or has ended.
pub fn is_apart(pid: i32) -> bool {
    namespace(pid) != namespace(std::process::id().cast_signed())
}

fn namespace(pid: i32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/pid")).ok()
}

/// The number here of a process that has `number` where process `beside` is the first; the same if there is none any more.
pub fn from_within(beside: i32, number: i32) -> i32 {
    let there = namespace(beside);
    let innermost = |pid: i32| status(pid, "NSpid")?.split_whitespace().next_back()?.parse::<i32>().ok();
    let found = process::processes().into_iter().find(|&pid| namespace(pid) == there && innermost(pid) == Some(number));
    found.unwrap_or(number)
}

/// The helper of a supervisor, or of one of the keepers, of target `pid`.
pub fn helper(supervisor: i32, pid: i32) -> Option<i32> {
    process::processes().into_iter().find(|&process| {
        let comm = fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
        // Not one whose supervisor was killed before: that is about to end by itself, unless it is stopped. Its parent is its
        // guard, which the supervisor started.
        comm.trim() == HELPER
            && parent(process)
                .and_then(parent)
                .is_some_and(|parent| parent == supervisor || keepers(pid).all.contains(&parent))
    })
}

/// The fields of /proc/PID/stat from the state on.
fn stat(path: &str) -> Option<Vec<String>> {
    let line = fs::read_to_string(path).ok()?;
    Some(line.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}

fn parent(pid: i32) -> Option<i32> {
    stat(&format!("/proc/{pid}/stat"))?.get(1)?.parse().ok()
}

/// The state of a process: `R`, `S`, `T`...; none when it is gone, or dead and not yet reaped.
pub fn state(pid: i32) -> Option<char> {
    let state = stat(&format!("/proc/{pid}/stat"))?.first()?.chars().next()?;
    (!matches!(state, 'Z' | 'X')).then_some(state)
}

/// The threads of a process that are stopped, by a signal or by a tracer.
pub fn stopped_threads(pid: i32) -> Vec<i32> {
    let is_stopped = |tid: &i32| {
        stat(&format!("/proc/{pid}/task/{tid}/stat"))
            .is_some_and(|fields| matches!(fields.first().map(String::as_str), Some("T" | "t")))
    };
    threads(pid).into_iter().filter(is_stopped).collect()
}

/// What each thread of a process is doing, for a report.
pub fn doing(pid: i32) -> String {
    let mut text = String::new();
    for tid in threads(pid).into_iter().take(12) {
        let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/task/{tid}/{name}")).unwrap_or_default();
        let call = read("syscall").split_whitespace().next().unwrap_or_default().to_owned();
        let state = stat(&format!("/proc/{pid}/task/{tid}/stat")).and_then(|fields| fields.first().cloned());
        text += &format!(
            "    {tid} {} {} call {call} in {}\n",
            read("comm").trim(),
            state.unwrap_or_default(),
            read("wchan")
        );
    }
    text
}

/// Whether a process has a seccomp filter.
pub fn is_filtered(pid: i32) -> bool {
    status(pid, "Seccomp").is_some_and(|mode| mode == "2")
}

/// Sends a signal; `false` when the process is gone.
pub fn send(pid: i32, signal: Signal) -> bool {
    kill(Pid::from_raw(pid), signal).is_ok()
}

/// Stops a process, and returns once all its threads stand; `false` when it has ended.
pub fn stop(pid: i32) -> bool {
    send(pid, Signal::SIGSTOP)
        && wait_until(Duration::from_secs(5), || state(pid).is_none_or(|state| state == 'T'))
        && state(pid).is_some()
}

/// The processors this may run on, in order.
pub fn processors() -> Vec<usize> {
    let set = sched_getaffinity(Pid::from_raw(0)).expect("our own processors");
    (0..CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false)).collect()
}

/// Puts all threads of a process on these processors; 0 is the calling thread.
pub fn put_on(pid: i32, cpus: &[usize]) {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        set.set(cpu).expect("a processor's number");
    }
    if pid == 0 {
        return sched_setaffinity(Pid::from_raw(0), &set).expect("our own processors can be chosen");
    }
    // Threads begun meanwhile inherit it from those that began them.
    let mut known = Vec::new();
    loop {
        let new: Vec<i32> = threads(pid).into_iter().filter(|tid| !known.contains(tid)).collect();
        if new.is_empty() {
            return;
        }
        for tid in new {
            let _ = sched_setaffinity(Pid::from_raw(tid), &set);
            known.push(tid);
        }
    }
}

/// Waits for a condition; `false` when it has not come true in time.
pub fn wait_until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let began = Instant::now();
    loop {
        if condition() {
            return true;
        }
        if began.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits for an instant: most of it asleep, the last stretch spinning, for a sleep would come too late for the shortest.
pub fn wait_for_instant(instant: Instant) {
    let left = instant.saturating_duration_since(Instant::now());
    if let Some(long) = left.checked_sub(Duration::from_millis(1)) {
        std::thread::sleep(long);
    }
    while Instant::now() < instant {
        std::hint::spin_loop();
    }
}
