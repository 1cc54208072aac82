//! Paths as the target's kernel will see them: its root, its mounts, its working directories.
//!
//! The thread that resolves has a root of its own (`unshare(CLONE_FS)`) and moves it into the target's when that is
//! another one, in a container or after chroot. From then on a path means for us what it means for the target:
//! absolute links start at its root, `..` ends there, its mounts are crossed. procfs is held open from before.

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use hotbackup_event::FileId;
use hotbackup_event::look::{Lack, LookError};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sched::{CloneFlags, unshare};

use super::walk::Walker;
use crate::sys::stat::{self, Identity};
use crate::target::process::{Process, open_below, to_c, to_os};

/// Which root and which mounts a thread has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    root: FileId,
    /// The same directory may be there through several mounts, each with others on it.
    mount: u64,
    mounts: FileId,
}

/// Resolves paths of the target in the calling thread, whose root it may move.
pub struct Resolver {
    here: Place,
}

/// A path's last name and the directory it stands in.
#[derive(Debug)]
pub struct Entry {
    /// The directory, opened with O_PATH.
    pub parent: OwnedFd,
    /// Who it is.
    pub dir: FileId,
    /// The last name; `.` for a path that ends in a directory without a name of its own.
    pub name: OsString,
}

impl Entry {
    fn new(parent: OwnedFd, name: &[u8]) -> Result<Self, Errno> {
        let dir = stat::identity(parent.as_fd(), c"", false)?.id;
        Ok(Self { parent, dir, name: to_os(name) })
    }

    /// Who the entry is; `None` when nothing is there.
    ///
    /// # Errors
    /// When it could not be looked at.
    pub fn identity(&self) -> Result<Option<Identity>, Errno> {
        let Some(name) = to_c(&self.name) else { return Ok(None) };
        there(stat::identity(self.parent.as_fd(), &name, false))
    }

    /// Who the entry is or, if it is a symbolic link, who it leads the thread to; `None` when nothing is there.
    ///
    /// # Errors
    /// When it could not be looked at.
    pub fn followed(&self, walker: Walker<'_>) -> Result<Option<Identity>, Errno> {
        match self.identity()? {
            Some(found) if found.is_symlink() => {
                let led_to = walker.open(&self.parent, self.name.as_bytes(), OFlag::empty());
                there(led_to.and_then(|fd| stat::identity(fd.as_fd(), c"", false)))
            }
            found => Ok(found),
        }
    }

    /// What the symbolic link says.
    pub fn link(&self) -> Option<Vec<u8>> {
        Some(nix::fcntl::readlinkat(&self.parent, self.name.as_os_str()).ok()?.as_bytes().to_vec())
    }
}

impl Resolver {
    /// For the calling thread, whose root and working directory it makes its own.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(process: &Process) -> Result<Self, Errno> {
        unshare(CloneFlags::CLONE_FS)?;
        Ok(Self { here: place(process.proc(), "thread-self")? })
    }

    /// Moves the calling thread's root to that of thread `tid`.
    ///
    /// # Errors
    /// `EPERM` without CAP_SYS_CHROOT when the roots differ.
    pub fn enter(&mut self, process: &Process, tid: i32) -> Result<(), Errno> {
        let there = place(process.proc(), &tid.to_string())?;
        if there != self.here {
            let root = open_below(process.proc(), &format!("{tid}/root"), OFlag::O_PATH | OFlag::O_DIRECTORY)?;
            nix::unistd::fchdir(&root)?;
            nix::unistd::chroot(".")?;
            self.here = there;
        }
        Ok(())
    }

    /// Finds the directory of a path's last name; relative paths start at what `dirfd` means to the thread. `resolve`:
    /// flags of openat2(2), by which that directory may be the root of it all.
    ///
    /// # Errors
    /// The kernel's; the target's call will fail in the same way.
    pub fn entry(&self, walker: Walker<'_>, dirfd: i32, path: &[u8], resolve: ResolveFlag) -> Result<Entry, Errno> {
        let (directory, name) = split(path)?;
        let parent = if !resolve.is_empty() {
            open_scoped(&walker.directory(dirfd)?, or_dot(directory), resolve)?
        } else if path.starts_with(b"/") {
            walker.open(AT_FDCWD, directory, DIRECTORY)?
        } else if directory.is_empty() {
            walker.directory(dirfd)?
        } else {
            walker.open(walker.directory(dirfd)?, directory, DIRECTORY)?
        };
        Entry::new(parent, name)
    }

    /// Finds an entry by the path that a symbolic link holds.
    ///
    /// # Errors
    /// As [`Self::entry`].
    pub fn entry_from(&self, walker: Walker<'_>, link: &Entry, path: &[u8]) -> Result<Entry, Errno> {
        let (directory, name) = split(path)?;
        let parent = walker.open(&link.parent, or_dot(directory).as_bytes(), DIRECTORY)?;
        Entry::new(parent, name)
    }
}

/// What a look has found; `None` when nothing is there, or when it is not to be seen: the target, whose rights we have at least,
/// sees no more.
fn there<T>(looked: Result<T, Errno>) -> Result<Option<T>, Errno> {
    match looked {
        Ok(found) => Ok(Some(found)),
        Err(errno) if says_nothing(errno) => Err(errno),
        Err(_) => Ok(None),
    }
}

/// Whether the error of a look says nothing about what the target's own call will meet. (EXDEV: the path leaves the scope that it
/// was given.)
pub(super) fn says_nothing(errno: Errno) -> bool {
    match LookError::of(errno as i32) {
        LookError::Gone | LookError::Never | LookError::Ours(Lack::Rights) => false,
        LookError::Again => errno != Errno::EXDEV,
        LookError::Ours(_) | LookError::Disk => true,
    }
}

/// Opens a directory by a path that does not leave where it starts. The kernel says EAGAIN where anything in the whole
/// system was renamed or mounted meanwhile, and the path has a `..`.
fn open_scoped(start: &OwnedFd, path: &OsStr, resolve: ResolveFlag) -> Result<OwnedFd, Errno> {
    let how = || OpenHow::new().flags(DIRECTORY).resolve(resolve);
    for _ in 0..TRIES {
        match openat2(start, path, how()) {
            Err(Errno::EAGAIN) => std::thread::yield_now(),
            found => return found,
        }
    }
    Err(Errno::EAGAIN)
}

/// How often a path is followed again that was disturbed.
const TRIES: u32 = 1000;

const DIRECTORY: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

fn or_dot(directory: &[u8]) -> &OsStr {
    OsStr::from_bytes(if directory.is_empty() { b"." } else { directory })
}

/// A path's directory and its last name, which is `.` where the path ends in no name of its own.
fn split(path: &[u8]) -> Result<(&[u8], &[u8]), Errno> {
    if path.is_empty() {
        return Err(Errno::ENOENT);
    }
    let trimmed = path.iter().rposition(|&byte| byte != b'/').map_or(&b""[..], |last| &path[..=last]);
    let (directory, name) = match trimmed.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => trimmed.split_at(slash + 1),
        None => (&b""[..], trimmed),
    };
    Ok(if matches!(name, b"" | b"." | b"..") { (path, b".") } else { (directory, name) })
}

fn place(proc: BorrowedFd<'_>, thread: &str) -> Result<Place, Errno> {
    let identity = |name: &str| {
        let path = CString::new(format!("{thread}/{name}")).map_err(|_| Errno::EINVAL)?;
        Ok::<_, Errno>(stat::identity(proc, &path, true)?.id)
    };
    let root = CString::new(format!("{thread}/root")).map_err(|_| Errno::EINVAL)?;
    Ok(Place { root: identity("root")?, mount: stat::mount(proc, &root)?, mounts: identity("ns/mnt")? })
}
