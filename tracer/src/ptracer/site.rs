//! Where the injected code goes, and which thread runs it.

use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::os::unix::fs::FileExt;

use crate::target::maps::{Mapping, parse_mapping};
use crate::target::process::{Process, ThreadState};

const PAGE: u64 = 4096;

/// Zero bytes left in front of the code, which may belong to what stands before it.
const GAP: u64 = 16;

/// Finds room for a line of code: zero bytes at the end of an executable mapping, padding that no one executes. Writing
/// there through /proc/PID/mem makes a private copy of the page; the file is untouched. Mappings of files first; the
/// vDSO serves as well.
pub fn find_padding(process: &Process, memory: &File, bytes: usize) -> Option<u64> {
    let maps = process.read_file("maps").unwrap_or_default();
    let executable =
        |mapping: &Mapping<'_>| mapping.permissions == "r-xp" && (mapping.inode != 0 || mapping.path == "[vdso]");
    let mut mappings: Vec<Mapping<'_>> = maps.lines().filter_map(parse_mapping).filter(executable).collect();
    mappings.sort_by_key(|mapping| mapping.inode == 0);
    let needed = bytes as u64 + GAP;
    mappings.iter().find_map(|mapping| {
        let zeros = zeros_at_end(memory, mapping);
        (zeros >= needed)
            .then(|| (mapping.end - zeros + GAP).next_multiple_of(GAP))
            .filter(|site| site + bytes as u64 <= mapping.end)
    })
}

/// Zero bytes between two addresses, for a line of code.
pub fn find_zeros(memory: &File, (start, end): (u64, u64), bytes: usize) -> Option<u64> {
    let room = (bytes as u64 + GAP).next_multiple_of(GAP);
    let mut all = vec![1; usize::try_from(end.checked_sub(start)?).ok()?];
    memory.read_exact_at(&mut all, start).ok()?;
    // Behind the last line that was written there.
    let used = all.iter().rposition(|&byte| byte != 0).map_or(0, |last| (last as u64 + 1).next_multiple_of(GAP) + GAP);
    (start + used + room <= end).then_some(start + used)
}

/// How many zero bytes the mapping's last page ends in.
fn zeros_at_end(memory: &File, mapping: &Mapping<'_>) -> u64 {
    let mut page = [0u8; PAGE as usize];
    match memory.read_exact_at(&mut page, mapping.end - PAGE) {
        Ok(()) => page.iter().rev().take_while(|&&byte| byte == 0).count() as u64,
        Err(_) => 0,
    }
}

/// An address in the largest hole between the target's mappings, far from its ends, which may grow; chosen by chance,
/// so that nobody else chooses the same.
pub fn find_hole(process: &Process) -> Option<u64> {
    const LOWEST: u64 = 1 << 32;
    const HIGHEST: u64 = 1 << 46; // half of what 47 bits reach: the stack's neighbourhood is left alone
    let maps = process.read_file("maps").ok()?;
    let mut hole = (0, 0);
    let mut end = LOWEST;
    for mapping in maps.lines().filter_map(parse_mapping) {
        let start = mapping.start.min(HIGHEST);
        if start > end && start - end > hole.1 {
            hole = (end, start - end);
        }
        end = end.max(mapping.end);
    }
    // From the kernel, and no file: there may be none here.
    let chance = RandomState::new().build_hasher().finish();
    let middle = hole.0 + hole.1 / 4 + chance % (hole.1 / 2).max(1);
    (hole.1 >= 1024 * PAGE).then_some(middle & !(PAGE - 1))
}

/// Whether a private anonymous mapping of exactly these bounds is there, and is all zeros: just made, and ours.
pub fn is_fresh_mapping(process: &Process, memory: &File, start: u64, length: u64) -> bool {
    let Ok(maps) = process.read_file("maps") else { return false };
    let ours = |mapping: Mapping<'_>| {
        (mapping.start, mapping.end, mapping.permissions, mapping.inode) == (start, start + length, "rw-p", 0)
    };
    let mut content = vec![1; length as usize];
    maps.lines().filter_map(parse_mapping).any(ours)
        && memory.read_exact_at(&mut content, start).is_ok()
        && content.iter().all(|&byte| byte == 0)
}

/// How well a thread suits: less is better. A thread asleep in a call that the kernel restarts unseen is best. One whose
/// sleep a signal is meant to end (ppoll, sigsuspend, pause) is not used: a signal that arrives while it is away would
/// be handled, and the call begun again. Nor is one in epoll_wait and its like.
fn rank(state: ThreadState) -> Option<u8> {
    match state {
        ThreadState::Sleeping { nr, .. } => rank_of(nr),
        ThreadState::Running => Some(4),
        ThreadState::Stopped | ThreadState::Gone => None,
    }
}

fn rank_of(nr: i64) -> Option<u8> {
    match nr {
        libc::SYS_futex => Some(0),
        libc::SYS_clock_nanosleep | libc::SYS_nanosleep | libc::SYS_restart_syscall => Some(1),
        libc::SYS_wait4 | libc::SYS_waitid | libc::SYS_accept | libc::SYS_accept4 => Some(2),
        // An idle shell, or a worker at its pipe.
        libc::SYS_read | libc::SYS_recvfrom | libc::SYS_recvmsg => Some(3),
        _ => None,
    }
}

/// Whether the kernel begins call `nr` again after a stop, and the program cannot tell.
pub fn restarts_unseen(nr: i64) -> bool {
    rank_of(nr).is_some()
}

/// Whether any thread may run the code just now, and there is room for it: seen from outside, with nothing touched.
///
/// # Errors
/// What is missing.
pub fn look(process: &Process) -> Result<(), String> {
    const LINE: usize = 320; // the longest line of code, amply
    let memory = process.open_file("mem", nix::fcntl::OFlag::O_RDONLY).map(File::from);
    let memory = memory.map_err(|errno| format!("its memory cannot be read: {errno}"))?;
    if find_padding(process, &memory, LINE).is_none() {
        return Err("no room for code in any executable mapping".into());
    }
    if find_hole(process).is_none() {
        return Err("no room in its address space".into());
    }
    if candidates(process, || ()).into_iter().any(|tid| process.shares_descriptors(tid)) {
        return Ok(());
    }
    Err("none of its threads that has the process's descriptors sleeps in a restartable call or runs".into())
}

/// The threads that may run the code, best first. `looked` is called for each: there may be thousands.
pub fn candidates(process: &Process, looked: impl Fn()) -> Vec<i32> {
    let mut found: Vec<(u8, i32)> = process
        .threads()
        .into_iter()
        .inspect(|_| looked())
        .filter_map(|tid| Some((rank(process.thread_state(tid))?, tid)))
        .collect();
    found.sort_unstable();
    found.into_iter().map(|(_, tid)| tid).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleep_that_a_signal_is_meant_to_end_is_never_disturbed() {
        let asleep = |nr| rank(ThreadState::Sleeping { nr, args: [0; 6] });
        assert_eq!(asleep(libc::SYS_epoll_wait), None);
        assert_eq!(asleep(libc::SYS_ppoll), None);
        assert!(asleep(libc::SYS_futex) < asleep(libc::SYS_accept));
    }
}
