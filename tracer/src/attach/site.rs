//! Where the injected code goes, and which thread runs it.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::process::{Process, ThreadState};

/// Room for the code.
pub const CODE_BYTES: usize = 320;

/// Finds a run of zero bytes at the end of an executable private mapping: padding that no one executes. Writing
/// there through /proc/PID/mem makes a private copy of the page; the file is untouched.
pub fn find_padding(process: &Process, memory: &File) -> Option<u64> {
    let maps = process.read_file("maps").ok()?;
    maps.lines().filter_map(parse_mapping).find_map(|mapping| {
        if !mapping.permissions.starts_with("r-xp") || mapping.inode == 0 {
            return None;
        }
        let mut tail = [1u8; CODE_BYTES + 16];
        let start = mapping.end.checked_sub(tail.len() as u64)?;
        memory.read_exact_at(&mut tail, start).ok()?;
        tail.iter().all(|&byte| byte == 0).then_some(start + 16)
    })
}

/// One line of /proc/PID/maps.
pub struct Mapping<'a> {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// `rwxp` or `rwxs`.
    pub permissions: &'a str,
    /// Inode; 0 for anonymous memory.
    pub inode: u64,
    /// The path, or `[stack]` and the like.
    pub path: &'a str,
}

/// Reads one line of /proc/PID/maps (proc_pid_maps(5)).
pub fn parse_mapping(line: &str) -> Option<Mapping<'_>> {
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let permissions = fields.next()?;
    let inode = fields.nth(2)?.parse().ok()?;
    Some(Mapping {
        start: u64::from_str_radix(start, 16).ok()?,
        end: u64::from_str_radix(end, 16).ok()?,
        permissions,
        inode,
        path: fields.next().unwrap_or("").trim_start(),
    })
}

/// How well a thread suits: less is better. A thread asleep in a call that the kernel restarts unseen is best; one
/// in epoll_wait and its like would return `EINTR`, so it is never used.
fn rank(state: ThreadState) -> Option<u8> {
    match state {
        ThreadState::Sleeping { nr, .. } => match nr {
            libc::SYS_futex => Some(0),
            libc::SYS_clock_nanosleep | libc::SYS_nanosleep | libc::SYS_restart_syscall => Some(1),
            libc::SYS_wait4 | libc::SYS_waitid | libc::SYS_accept | libc::SYS_accept4 => Some(2),
            libc::SYS_poll | libc::SYS_ppoll | libc::SYS_select | libc::SYS_pselect6 => Some(3),
            libc::SYS_read | libc::SYS_rt_sigsuspend | libc::SYS_pause => Some(4),
            _ => None,
        },
        ThreadState::Running => Some(5),
        ThreadState::Stopped | ThreadState::Gone => None,
    }
}

/// The threads that may run the code, best first, each with whether it sleeps.
pub fn candidates(process: &Process) -> Vec<i32> {
    let mut found: Vec<(u8, i32)> =
        process.threads().into_iter().filter_map(|tid| Some((rank(process.thread_state(tid))?, tid))).collect();
    found.sort_unstable();
    found.into_iter().map(|(_, tid)| tid).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_maps_is_read_with_blanks_in_its_path() {
        let line = "7f00-7f10 rw-s 00001000 fe:01 1234                       /data/a b";
        let mapping = parse_mapping(line).unwrap();
        assert_eq!((mapping.start, mapping.end, mapping.inode), (0x7f00, 0x7f10, 1234));
        assert_eq!((mapping.permissions, mapping.path), ("rw-s", "/data/a b"));
    }

    #[test]
    fn a_thread_in_epoll_wait_is_never_used() {
        let asleep = |nr| rank(ThreadState::Sleeping { nr, args: [0; 6] });
        assert_eq!(asleep(libc::SYS_epoll_wait), None);
        assert!(asleep(libc::SYS_futex) < asleep(libc::SYS_read));
    }
}
