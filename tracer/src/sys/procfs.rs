//! procfs, through one open directory: it stays what it was when this process began, also where a thread enters another root, or
//! somebody unmounts /proc or mounts something over it.

use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, fstatat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};

static ROOT: OnceLock<OwnedFd> = OnceLock::new();

/// The directory.
///
/// # Errors
/// The kernel's; `ENOENT` when what is at /proc is something else.
pub fn root() -> Result<BorrowedFd<'static>, Errno> {
    if let Some(root) = ROOT.get() {
        return Ok(root.as_fd());
    }
    let found = mounted()?;
    Ok(ROOT.get_or_init(|| found).as_fd())
}

/// What is mounted at /proc.
///
/// # Errors
/// As [`root`].
pub fn mounted() -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let found = nix::fcntl::open("/proc", flags, Mode::empty())?;
    if fstatfs(&found)?.filesystem_type() == PROC_SUPER_MAGIC { Ok(found) } else { Err(Errno::ENOENT) }
}

/// Has this process, which has not looked yet, take this for it.
pub fn set_root(directory: OwnedFd) {
    let _ = ROOT.set(directory);
}

/// Opens a path below it.
///
/// # Errors
/// The kernel's.
pub fn open(path: &str, flags: OFlag) -> Result<OwnedFd, Errno> {
    openat(root()?, path, flags | OFlag::O_CLOEXEC, Mode::empty())
}

/// Reads a small file below it.
///
/// # Errors
/// The kernel's.
pub fn read(path: &str) -> Result<String, Errno> {
    let mut bytes = Vec::new();
    let read = std::fs::File::from(open(path, OFlag::O_RDONLY)?).read_to_end(&mut bytes);
    read.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Looks at a path below it; links are followed.
///
/// # Errors
/// The kernel's.
pub fn stat(path: &str) -> Result<FileStat, Errno> {
    fstatat(root()?, path, AtFlags::empty())
}

/// A descriptor's file, opened anew: an open file of its own.
///
/// # Errors
/// The kernel's.
pub fn reopen(fd: BorrowedFd<'_>, flags: OFlag) -> Result<OwnedFd, Errno> {
    open(&format!("self/fd/{}", fd.as_raw_fd()), flags)
}
