//! Who lives: locks on the shared memory.
//!
//! Names, process ids and cgroups are different in every namespace. One thing is the same for all who can reach the target:
//! an open file in it. So each part is a byte of the session memory, far behind its layout, and whoever plays it holds
//! an OFD write lock on that byte (`F_OFD_SETLK`, fcntl(2)), through an open file of its own: a descriptor that was fetched or
//! inherited shares its open file, and with it the locks. Anybody can ask who lives (`F_OFD_GETLK`), and the kernel frees
//! a lock at its holder's death, also where nobody can see the holder.
//!
//! The bytes are frozen: hotbackup of every version finds one another by them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::sys::procfs;

/// What a process of ours is to the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Takes a backup: one at a time.
    Supervisor,
    /// The keeper that acts: one at a time.
    Keeper,
    /// Its twin.
    Twin,
    /// Does the ptrace of the session: one at a time.
    Ptracer,
}

impl Part {
    /// The byte of the memory.
    const fn byte(self) -> i64 {
        const FIRST: i64 = 1 << 40; // no memory of ours is ever that long
        FIRST
            + match self {
                Self::Supervisor => 0,
                Self::Keeper => 1,
                Self::Twin => 2,
                Self::Ptracer => 3,
            }
    }

    fn lock(self, kind: libc::c_int) -> libc::flock {
        libc::flock { l_type: kind as i16, l_whence: libc::SEEK_SET as i16, l_start: self.byte(), l_len: 1, l_pid: 0 }
    }
}

/// A part that this process has, until this is dropped or the process ends.
#[derive(Debug)]
pub struct Held {
    file: OwnedFd,
    part: Part,
}

impl Held {
    /// Takes another part instead. It needs no /proc and no new descriptor, so it works when all else is gone.
    ///
    /// # Errors
    /// `EAGAIN` when somebody has it: then it stays as it was.
    pub fn change(&mut self, to: Part) -> Result<(), Errno> {
        fcntl(&self.file, FcntlArg::F_OFD_SETLK(&to.lock(libc::F_WRLCK)))?;
        let _ = fcntl(&self.file, FcntlArg::F_OFD_SETLK(&self.part.lock(libc::F_UNLCK)));
        self.part = to;
        Ok(())
    }
}

/// Takes a part.
///
/// # Errors
/// `EAGAIN` when somebody has it.
pub fn take(memory: BorrowedFd<'_>, part: Part) -> Result<Held, Errno> {
    let file = procfs::reopen(memory, OFlag::O_RDWR)?;
    fcntl(&file, FcntlArg::F_OFD_SETLK(&part.lock(libc::F_WRLCK)))?;
    Ok(Held { file, part })
}

/// Whether anybody has a part. `memory` must not be the open file through which we hold it ourselves.
pub fn is_held(memory: BorrowedFd<'_>, part: Part) -> bool {
    let mut lock = part.lock(libc::F_WRLCK);
    // What cannot be asked is taken for held: nobody acts twice.
    fcntl(memory.as_fd(), FcntlArg::F_OFD_GETLK(&mut lock)).is_err() || lock.l_type != libc::F_UNLCK as i16
}

/// Whether process `pid` is the one that has a part, as the kernel tells of its descriptors (`lock:` in
/// proc_pid_fdinfo(5)). A number that somebody wrote into the memory proves nothing.
pub fn is_held_by(memory: BorrowedFd<'_>, part: Part, pid: i32) -> bool {
    let Ok(ours) = nix::sys::stat::fstat(memory) else { return false };
    let path = format!("{pid}/fdinfo");
    let Ok(directory) = procfs::open(&path, OFlag::O_RDONLY | OFlag::O_DIRECTORY) else { return false };
    let Ok(mut descriptors) = nix::dir::Dir::from_fd(directory) else { return false };
    descriptors.iter().flatten().filter_map(|it| it.file_name().to_str().ok().map(str::to_owned)).any(|number| {
        let info = procfs::read(&format!("{path}/{number}")).unwrap_or_default();
        info.lines().filter(|line| line.starts_with("lock:")).any(|line| names(line, ours.st_ino, part.byte()))
    })
}

/// Whether a line `lock: 1: OFDLCK ADVISORY WRITE -1 00:01:INODE START END` is about this byte of this file.
fn names(line: &str, inode: u64, byte: i64) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, _, kind, _, access, _, file, start, _] = words[..] else { return false };
    let inode_of = file.rsplit(':').next().and_then(|inode| inode.parse().ok());
    (kind, access, inode_of, start.parse().ok()) == ("OFDLCK", "WRITE", Some(inode), Some(byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::memfd::{MFdFlags, memfd_create};

    #[test]
    fn a_role_is_had_by_one_and_is_free_again_when_that_one_is_gone() {
        let memory = memfd_create("roles", MFdFlags::MFD_CLOEXEC).unwrap();
        assert!(!is_held(memory.as_fd(), Part::Keeper));
        let held = take(memory.as_fd(), Part::Keeper).unwrap();
        assert!(is_held(memory.as_fd(), Part::Keeper));
        assert!(!is_held(memory.as_fd(), Part::Twin));
        assert_eq!(take(memory.as_fd(), Part::Keeper).unwrap_err(), Errno::EAGAIN);
        drop(held);
        assert!(!is_held(memory.as_fd(), Part::Keeper));
        let mut twin = take(memory.as_fd(), Part::Twin).unwrap();
        twin.change(Part::Keeper).unwrap();
        assert!(is_held(memory.as_fd(), Part::Keeper) && !is_held(memory.as_fd(), Part::Twin));
        let mut other = take(memory.as_fd(), Part::Twin).unwrap();
        assert_eq!(other.change(Part::Keeper).unwrap_err(), Errno::EAGAIN);
        drop(twin);
        take(memory.as_fd(), Part::Keeper).unwrap();
    }

    #[test]
    fn who_has_a_role_is_told_by_the_kernel() {
        let (memory, other) = (
            memfd_create("roles", MFdFlags::MFD_CLOEXEC).unwrap(),
            memfd_create("others", MFdFlags::MFD_CLOEXEC).unwrap(),
        );
        let this = std::process::id() as i32;
        let _held = take(memory.as_fd(), Part::Keeper).unwrap();
        assert!(is_held_by(memory.as_fd(), Part::Keeper, this));
        assert!(!is_held_by(memory.as_fd(), Part::Twin, this));
        assert!(!is_held_by(other.as_fd(), Part::Keeper, this));
        assert!(!is_held_by(memory.as_fd(), Part::Keeper, 1));
    }
}
