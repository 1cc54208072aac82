//! Following a path where `self` means who asks.
//!
//! procfs shows each process its own directory as `/proc/self`, so a path through it leads the target elsewhere than it
//! leads us, whether it is named outright or a symbolic link somewhere leads there (`/dev/fd`, `/dev/stdout`). Such a
//! path can reach a file of a source only by one of procfs's magic links (`fd/N`, `cwd`, `root`), or end in procfs. So
//! every path is tried without them first, in one call; where that does not do, it is walked name by name.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::Mode;
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};

use crate::sys::stat;
use crate::target::process::{Process, open_below};

/// The kernel follows as many links (MAXSYMLINKS).
const LINKS: u32 = 40;
/// The inode of procfs's own root.
const PROC_ROOT: u64 = 1;

/// Follows paths as one thread of the target.
#[derive(Clone, Copy)]
pub struct Walker<'a> {
    /// The target.
    pub process: &'a Process,
    /// The thread.
    pub tid: i32,
}

impl Walker<'_> {
    /// Opens what a path leads to, with `O_PATH`; links are followed, in the last place as well.
    ///
    /// # Errors
    /// The kernel's; the target's call will fail in the same way.
    pub fn open(&self, base: impl AsFd, path: &[u8], flags: OFlag) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlag::O_PATH | OFlag::O_CLOEXEC;
        let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_NO_MAGICLINKS);
        match openat2(&base, OsStr::from_bytes(path), how) {
            Ok(found) if !is_procfs(&found)? => Ok(found),
            // Also where nothing is there: our own `/proc/self/fd` may lack a number that the target's has.
            Ok(_) | Err(_) => {
                let found = self.walk(base, path, &mut 0)?;
                let is_dir = stat::identity(found.as_fd(), c"", false)?.is_dir();
                if flags.contains(OFlag::O_DIRECTORY) && !is_dir { Err(Errno::ENOTDIR) } else { Ok(found) }
            }
        }
    }

    fn walk(&self, base: impl AsFd, path: &[u8], links: &mut u32) -> Result<OwnedFd, Errno> {
        let start = if path.starts_with(b"/") { "/" } else { "." };
        let mut at = openat(base, start, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
        for name in path.split(|&byte| byte == b'/').filter(|name| !matches!(*name, b"" | b".")) {
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let found = openat(&at, OsStr::from_bytes(name), flags, Mode::empty())?;
            at = if !stat::identity(found.as_fd(), c"", false)?.is_symlink() {
                found
            } else if *links == LINKS {
                return Err(Errno::ELOOP);
            } else {
                *links += 1;
                if is_procfs(&at)? {
                    self.link_of_procfs(&at, name)?
                } else {
                    let target = readlinkat(&found, "")?;
                    self.walk(&at, target.as_bytes(), links)?
                }
            };
        }
        Ok(at)
    }

    /// What a link in procfs leads to.
    fn link_of_procfs(&self, dir: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
        let is_root = stat::identity(dir.as_fd(), c"", false)?.id.ino == PROC_ROOT;
        let own = match name {
            b"self" if is_root => self.group()?.to_string(),
            b"thread-self" if is_root => format!("{}/task/{}", self.group()?, self.tid),
            // The kernel jumps to what the link stands for, whoever asks.
            _ => return openat(dir, OsStr::from_bytes(name), OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()),
        };
        open_below(self.process.proc(), &own, OFlag::O_PATH)
    }

    /// The process that the thread belongs to: the target, or a child of it.
    fn group(&self) -> Result<i32, Errno> {
        let group = self.process.status_field(self.tid, "Tgid");
        group.and_then(|group| group.parse().ok()).ok_or(Errno::ESRCH)
    }

    /// Where a thread's relative paths start.
    ///
    /// # Errors
    /// The kernel's.
    pub fn directory(&self, dirfd: i32) -> Result<OwnedFd, Errno> {
        let name =
            if dirfd == libc::AT_FDCWD { format!("{}/cwd", self.tid) } else { format!("{}/fd/{dirfd}", self.tid) };
        open_below(self.process.proc(), &name, OFlag::O_PATH)
    }
}

fn is_procfs(fd: &OwnedFd) -> Result<bool, Errno> {
    Ok(fstatfs(fd)?.filesystem_type() == PROC_SUPER_MAGIC)
}
