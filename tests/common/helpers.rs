//! The small processes of hotbackup that stand beside a target.
// Each test binary uses its own part of this module.
#![allow(dead_code)]

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What may take a moment takes no longer than this, or never comes.
const LIMIT: Duration = Duration::from_secs(20);

/// Waits until something holds.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The keepers of a target: the one that acts and its twin.
pub fn keepers(target: i32) -> Vec<Pid> {
    of("keeper", target)
}

/// The processes called with this hidden subcommand for a target.
pub fn of(subcommand: &str, target: i32) -> Vec<Pid> {
    let wanted = target.to_string();
    let is_one = |pid: i32| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<_> = line.split('\0').collect();
        words.get(1) == Some(&subcommand) && words.get(2) == Some(&wanted.as_str())
    };
    let processes = fs::read_dir("/proc").expect("/proc is there");
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|&pid| is_one(pid)).map(Pid::from_raw).collect()
}

/// A target's two keepers, once both are there; the one that acts first.
pub fn pair(target: i32) -> Vec<Pid> {
    let mut found = Vec::new();
    wait_until("there are two keepers", || {
        found = keepers(target);
        found.len() == 2
    });
    found
}

/// Kills one, and waits until it is dead: until then it may look alive, and its twin alone cannot yet know better.
pub fn kill_one(keeper: Pid) {
    kill(keeper, Signal::SIGKILL).expect("the keeper lives");
    wait_until("the killed keeper dies", || {
        let stat = fs::read_to_string(format!("/proc/{keeper}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with('Z'))
    });
}

/// Kills both at once: stopped first, neither can start another in place of the other.
pub fn kill_all(target: i32) {
    let found = pair(target);
    for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
        for &keeper in &found {
            kill(keeper, signal).expect("the keeper lives");
        }
    }
}
