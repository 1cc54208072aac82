//! Who keeps a target, told by the memory that its helpers share with it and by no name or number.

use std::fs;
use std::os::unix::fs::MetadataExt;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::process::{state, wait_until};

/// What /proc calls the memory.
const MEMORY: &str = "/memfd:hotbackup-session";

fn numbers(directory: &str) -> Vec<i32> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// The session memories that a process has open or mapped, by their inodes.
pub fn memories(pid: i32) -> Vec<u64> {
    let open = numbers(&format!("/proc/{pid}/fd")).into_iter().filter_map(|number| {
        let place = format!("/proc/{pid}/fd/{number}");
        fs::read_link(&place).ok()?.to_str()?.starts_with(MEMORY).then_some(())?;
        Some(fs::metadata(&place).ok()?.ino())
    });
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let inode = |line: &str| line.split_whitespace().nth(4).and_then(|inode| inode.parse::<u64>().ok());
    let mapped = maps.lines().filter(|line| line.contains(MEMORY)).filter_map(inode);
    open.chain(mapped).collect()
}

/// By what an attach may be told: descriptors of a process that are no files, by their numbers, and its mappings of 36 KiB.
pub fn left(pid: i32) -> (Vec<String>, usize) {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("it lives");
    let link = |entry: fs::DirEntry| Some(format!("{:?} {:?}", entry.file_name(), entry.path().read_link().ok()?));
    let all = entries.filter_map(|entry| link(entry.ok()?));
    let mut ours: Vec<String> = all.filter(|link| link.contains("memfd:") || link.contains(":[")).collect();
    ours.sort_unstable();
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("it lives");
    let length = |line: &&str| {
        let (start, end) = line.split(' ').next()?.split_once('-')?;
        Some(u64::from_str_radix(end, 16).ok()? - u64::from_str_radix(start, 16).ok()?)
    };
    (ours, maps.lines().filter(|line| length(line) == Some(36 << 10)).count())
}

/// All other living processes that have one of the target's session memories: its keepers, and whoever backs it up.
pub fn holders(target: i32) -> Vec<i32> {
    let of_target = memories(target);
    let holds = |&pid: &i32| {
        pid != target
            && !matches!(state(pid), None | Some('Z' | 'X'))
            && memories(pid).iter().any(|memory| of_target.contains(memory))
    };
    numbers("/proc").into_iter().filter(holds).collect()
}

/// A target's keepers, once there are two.
pub fn keepers(target: i32) -> Vec<i32> {
    wait_until("two keepers", || holders(target).len() == 2);
    holders(target)
}

/// Kills all of a target's keepers in one instant: stopped first, none can start another.
pub fn kill_keepers(target: i32) {
    let found = keepers(target);
    for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
        for &pid in &found {
            kill(Pid::from_raw(pid), signal).expect("the keeper lives");
        }
    }
    wait_until("the keepers' end", || found.iter().all(|&pid| matches!(state(pid), None | Some('Z'))));
    assert_eq!(holders(target), Vec::<i32>::new(), "somebody still keeps the target");
}
