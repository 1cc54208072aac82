//! Where things stand on the page of a birth, and what it takes and brings.

use std::os::fd::{OwnedFd, RawFd};

use nix::errno::Errno;

use crate::attach::NotInstalled;
use crate::attach::messages::{self, MESSAGE};
use crate::attach::page::{PAGE_BYTES, Page};
use crate::error::{Error, call_name};
use crate::helper::program;

// Where things stand, from the page's beginning.
pub(super) const TRIAL: u64 = messages::END;
pub(super) const PAIR: u64 = TRIAL + MESSAGE;
pub(super) const PROGRAM: u64 = PAIR + 16;
pub(super) const WORDS: u64 = PROGRAM + 32;
pub(super) const NAME: u64 = WORDS + 8 * 12;
pub(super) const ARGUMENTS: u64 = NAME + 24;
pub(super) const STRINGS: u64 = ARGUMENTS + 8 * 8;
const STACK: u64 = 512;
pub(super) const STRINGS_END: u64 = PAGE_BYTES - STACK;
const _: () = assert!(STRINGS + 512 < STRINGS_END && program::NAME.len() < 24, "all has its place");

/// The words of the results.
#[derive(Clone, Copy)]
#[repr(u64)]
pub(super) enum Word {
    Paired,
    Near,
    Far,
    Sent,
    Gifts,
    Masked,
    Cloned,
    Born,
    Executed,
    All,
    Before,
    Done,
}

pub(super) fn at(page: Page, word: Word) -> u64 {
    page.0 + WORDS + 8 * word as u64
}

/// What is given to those who are born, by its numbers in the target.
pub(crate) struct Given {
    /// The session's memory.
    pub memory: RawFd,
    /// The eventfd.
    pub wake: RawFd,
}

/// The target's socket by which they are spoken to.
pub(crate) struct Socket {
    /// Our own copy.
    pub near: OwnedFd,
    /// Its number in the target.
    pub number: RawFd,
    /// Its inode.
    pub id: u64,
}

/// Why nothing was born.
pub(super) enum NotBorn {
    /// It cannot be, and why; all that was begun has ended.
    Cannot(String),
    /// Somebody may still be on his way.
    InDoubt(Error),
    /// The target is gone, frozen, or not wanted any more.
    Other(Error),
}

impl From<NotInstalled> for NotBorn {
    fn from(not: NotInstalled) -> Self {
        match not {
            NotInstalled { error, in_doubt: true } => Self::InDoubt(error),
            NotInstalled { error: Error::OwnFilter { call, .. }, .. } => Self::Cannot(format!(
                "a seccomp filter of its own forbids, or may forbid, the {} call that it takes",
                call_name(call)
            )),
            NotInstalled { error, .. } => Self::Other(error),
        }
    }
}

impl From<Error> for NotBorn {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

pub(super) fn failed(call: &str, result: i64) -> NotBorn {
    let errno = Errno::from_raw(result.unsigned_abs() as i32);
    let hint = match (call, errno) {
        ("clone", Errno::EAGAIN) => " (pids.max of its cgroup, or RLIMIT_NPROC of its user)",
        ("execveat" | "memfd_create", Errno::EACCES | Errno::EPERM) => {
            " (the sysctl vm.memfd_noexec, a security module, or a seccomp filter of its own)"
        }
        (_, Errno::EPERM | Errno::EACCES | Errno::ENOSYS) => " (a seccomp filter of its own, or a security module)",
        _ => "",
    };
    NotBorn::Cannot(format!("its {call} call failed: {errno}{hint}"))
}

/// The numbers in the target of what the first line has made.
pub(super) struct Ends {
    pub program: RawFd,
    pub near: RawFd,
    pub far: RawFd,
}
