//! Whether the target has room for what the attach leaves in it: two descriptors (the listener, and later a copy of the
//! shared memory), and one small mapping. A process that is close to a limit of its own is left alone: what we take, it
//! could not have.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::RawFd;

use super::listener::LISTENER;
use crate::error::Error;
use crate::shared::memory::MEMORY_NAME;
use crate::target::process::Process;

/// Descriptors that must be free: ours, and as many again as a program may well open next.
const DESCRIPTORS: u64 = 16;
/// Memory that must be free, for the same reason.
const BYTES: u64 = 1 << 20;
/// Mappings that must be free.
const MAPPINGS: u64 = 64;

/// What /proc shows for an eventfd.
pub const EVENTFD: &str = "anon_inode:[eventfd]";
/// How many numbers below the end of the room for descriptors are ours.
const OURS: u64 = 8;
/// The least room that is reckoned with: what most systems' soft limit is, and what the kernel's first table of some size has.
const USUAL: u64 = 1024;

/// From which number on our descriptors stand in the target: so high that the lowest free one is always the program's, and
/// no higher than that takes. A table as long as the limit would have to be copied at each fork, which takes its time
/// (`benches/high_numbers.rs`), so it is the first power of two that leaves the program twice as many as it has now.
pub fn high_number(process: &Process) -> u64 {
    let limits = process.read_file("limits").unwrap_or_default();
    let most = parse_limits(&limits).get("Max open files").copied().unwrap_or(u64::MAX);
    let highest = of_the_program(process).into_iter().map(|(fd, _)| fd as u64).max().unwrap_or(0);
    let room = (2 * (highest + OURS)).next_power_of_two().max(USUAL).min(most);
    // Where the program has filled its room to the end, whatever number is free.
    room.saturating_sub(OURS)
}

/// The target's descriptors but for those that attaches have left there, also ones that were given up: sessions' memories, what
/// stands just above each of them, where its eventfd is, and the listener.
pub fn of_the_program(process: &Process) -> Vec<(RawFd, OsString)> {
    let all = process.descriptors();
    let memory = format!("/memfd:{MEMORY_NAME} (deleted)");
    let memories: Vec<RawFd> = all.iter().filter(|(_, link)| *link == *memory).map(|(fd, _)| *fd).collect();
    let is_ours = |fd: RawFd, link: &OsStr| {
        let near = memories.iter().any(|&memory| (memory..memory + OURS as RawFd).contains(&fd));
        let ours = || link == EVENTFD || *link == *memory || link.as_encoded_bytes().starts_with(b"socket:[");
        link == LISTENER || near && ours()
    };
    all.into_iter().filter(|(fd, link)| !is_ours(*fd, link)).collect()
}

/// Checks the target's limits.
///
/// # Errors
/// [`Error::NoRoom`], with the limit and what would raise it.
pub fn check(process: &Process) -> Result<(), Error> {
    let pid = process.pid();
    let limits = process.read_file("limits").map_err(Error::os(pid, "reading the limits of"))?;
    let limits = parse_limits(&limits);
    let status = |field| {
        let text = process.status_field(pid, field)?;
        text.split_whitespace().next()?.parse().ok().map(|kilobytes: u64| kilobytes << 10)
    };
    let no_room = |what: String| Err(Error::NoRoom { pid, what });
    if let Some(&most) = limits.get("Max open files") {
        let open = process.descriptors().into_iter().filter(|&(fd, _)| (fd as u64) < most).count() as u64;
        if open + DESCRIPTORS > most {
            return no_room(format!(
                "of {most} file descriptors it has {open} open, and {DESCRIPTORS} must be free: raise that limit (prlimit \
                 --pid {pid} --nofile={})",
                most.saturating_mul(2).max(open + 2 * DESCRIPTORS)
            ));
        }
    }
    for (limit, field, option) in [("Max address space", "VmSize", "as"), ("Max data size", "VmData", "data")] {
        let (Some(&most), Some(used)) = (limits.get(limit), status(field)) else { continue };
        if used + BYTES > most {
            return no_room(format!(
                "of {most} bytes of memory that it may map (RLIMIT_{}) it has {used}, and {BYTES} must be free: raise that \
                 limit (prlimit --pid {pid} --{option}=unlimited)",
                option.to_uppercase()
            ));
        }
    }
    let most = crate::target::process::read_below(process.proc(), "sys/vm/max_map_count").ok();
    if let Some(most) = most.and_then(|text| text.trim().parse::<u64>().ok()) {
        let used = process.read_file("maps").unwrap_or_default().lines().count() as u64;
        if used + MAPPINGS > most {
            return no_room(format!(
                "it has {used} mappings of {most} that a process may have: raise vm.max_map_count (sysctl)"
            ));
        }
    }
    Ok(())
}

/// The soft limits of /proc/PID/limits that are numbers.
pub(super) fn parse_limits(text: &str) -> HashMap<&str, u64> {
    const NAME: usize = 26; // the width of the first column
    text.lines()
        .filter_map(|line| {
            let (name, rest) = line.split_at_checked(NAME)?;
            Some((name.trim(), rest.split_whitespace().next()?.parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limits_are_read() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max data size             unlimited            unlimited            bytes     \n\
                    Max open files            1024                 1048576              files     \n\
                    Max address space         73728                unlimited            bytes     \n";
        let limits = parse_limits(text);
        assert_eq!(limits, HashMap::from([("Max open files", 1024), ("Max address space", 73728)]));
    }

    #[test]
    fn a_process_without_narrow_limits_has_room() {
        check(&Process::open(std::process::id() as i32).unwrap()).unwrap();
    }
}
