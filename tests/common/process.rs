//! What /proc says of processes, and the keepers of a target.
// Each test binary uses its own part of this module.
#![allow(dead_code)]

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::backup::{self, Outcome, verify};
use super::guest::{Guest, check_rings};

/// Longer than anything that is waited for takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

/// Waits until `done`; fails when that takes too long.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < LIMIT, "{what}: not within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A field of a process's or thread's status; `None` when it is gone.
pub fn status(pid: i32, field: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| Some(line.strip_prefix(field)?.strip_prefix(':')?.trim().to_owned()))
}

/// Who traces each thread of a process.
pub fn tracers(pid: i32) -> Vec<String> {
    threads(pid).into_iter().filter_map(|tid| status(tid, "TracerPid")).collect()
}

/// The threads of a process.
pub fn threads(pid: i32) -> Vec<i32> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// Every process there is.
pub fn processes() -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("/proc is there");
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// The keepers of a target: the one that acts and its twin.
pub fn keepers(target: i32) -> Vec<i32> {
    helpers("hotbackup-keep", target)
}

/// The processes of one kind that hotbackup has started for a target.
pub fn helpers(kind: &str, target: i32) -> Vec<i32> {
    let wanted = target.to_string();
    let is_one = |pid: &i32| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<_> = line.split('\0').collect();
        words.first() == Some(&kind) && words.get(1) == Some(&wanted.as_str())
    };
    processes().into_iter().filter(is_one).collect()
}

/// A target's two keepers, once both are there.
pub fn pair(target: i32) -> Vec<i32> {
    wait_until("two keepers", || keepers(target).len() == 2);
    keepers(target)
}

/// Kills a keeper, and waits until it is dead: until then it may look alive, and its twin alone cannot yet know better.
pub fn kill_one(keeper: i32) {
    kill(Pid::from_raw(keeper), Signal::SIGKILL).expect("the keeper lives");
    wait_until("the killed keeper's end", || matches!(state(keeper), None | Some('Z')));
}

/// Sends a signal to each.
pub fn signal_all(pids: &[i32], signal: Signal) {
    for &pid in pids {
        kill(Pid::from_raw(pid), signal).expect("it lives");
    }
}

/// Kills both keepers at once: stopped first, neither can start another in place of the other.
pub fn kill_all(target: i32) {
    let found = pair(target);
    signal_all(&found, Signal::SIGSTOP);
    signal_all(&found, Signal::SIGKILL);
}

/// The state of a process or thread, as in proc_pid_stat(5).
pub fn state(pid: i32) -> Option<char> {
    status(pid, "State")?.chars().next()
}

/// Fails when a thread of the target stays held by ptrace, or stopped.
pub fn assert_not_stopped(target: i32) {
    let is_stopped = |thread: i32| matches!(state(thread), Some('t' | 'T'));
    wait_until("no thread to be left stopped", || !threads(target).into_iter().any(is_stopped));
}

/// Fails unless a target's keepers end soon.
pub fn assert_keepers_end(target: i32) {
    wait_until("the end of the keepers", || keepers(target).is_empty());
}

/// A path as an argument.
pub fn path(path: &Path) -> &str {
    path.to_str().expect("test directories have plain names")
}

/// A whole backup of a guest with `rings` rings, which must be right.
pub fn back_up(guest: &mut Guest, rings: usize, name: &str) -> Outcome {
    let dest = guest.beside(name);
    let outcome = backup::take(guest.pid(), &dest, &["--source", path(&guest.dir)]);
    assert_right(&outcome, rings);
    guest.assert_goes_on();
    outcome
}

/// Fails unless a backup succeeded and holds a state that existed. Gives the newest record of each ring.
pub fn assert_right(outcome: &Outcome, rings: usize) -> Vec<u64> {
    let report = outcome.report();
    verify(&outcome.dest);
    check_rings(&outcome.dest, rings).unwrap_or_else(|wrong| panic!("{wrong}\n{report}"))
}

/// Fails when a backup says that it succeeded and is wrong, or fails for a cause that is none of `causes`. Says whether
/// it succeeded.
pub fn assert_right_or_failed(outcome: &Outcome, rings: usize, causes: &[&str]) -> bool {
    if outcome.status.success() {
        assert_right(outcome, rings);
        return true;
    }
    let kind = outcome.events.iter().find(|event| event["event"] == "error").map(|event| event["kind"].clone());
    let kind = kind.as_ref().and_then(serde_json::Value::as_str).unwrap_or("none");
    assert!(causes.contains(&kind), "it failed for {kind:?}, not one of {causes:?}: {}", outcome.stderr);
    outcome.failure(kind);
    false
}

/// Whether this process has CAP_SYS_RESOURCE.
pub fn may_exceed_limits() -> bool {
    const CAP_SYS_RESOURCE: u32 = 24;
    let effective = status(std::process::id().cast_signed(), "CapEff").expect("it lives");
    u64::from_str_radix(&effective, 16).expect("a mask") & 1 << CAP_SYS_RESOURCE != 0
}
