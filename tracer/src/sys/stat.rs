//! statx(2): who a file is.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use hotbackup_event::FileId;
use nix::errno::Errno;

use super::check;

/// The part of statx(2) that says which file this is, and how long.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    /// Device, inode, birth.
    pub id: FileId,
    /// `S_IFMT` bits of the mode.
    pub kind: u32,
    /// Size in bytes.
    pub size: u64,
}

impl Identity {
    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.kind == libc::S_IFREG
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == libc::S_IFDIR
    }

    /// Whether it is a symbolic link.
    pub fn is_symlink(&self) -> bool {
        self.kind == libc::S_IFLNK
    }
}

/// Looks at `path` below `dir`; an empty path is `dir` itself. A link in the last place is followed if `follow`.
///
/// # Errors
/// The kernel's.
pub fn identity(dir: BorrowedFd<'_>, path: &CStr, follow: bool) -> Result<Identity, Errno> {
    let mut flags = libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC;
    if !follow {
        flags |= libc::AT_SYMLINK_NOFOLLOW;
    }
    let mask = libc::STATX_TYPE | libc::STATX_INO | libc::STATX_BTIME | libc::STATX_SIZE;
    let mut buffer = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: `path` is a C string, and the kernel writes one `struct statx` to the buffer.
    check(unsafe { libc::statx(dir.as_raw_fd(), path.as_ptr(), flags, mask, buffer.as_mut_ptr()) }.into())?;
    // SAFETY: zeroed and then filled in by the kernel; any bits are a valid `struct statx`.
    let stat = unsafe { buffer.assume_init() };
    let born = stat.stx_mask & libc::STATX_BTIME != 0;
    let btime_ns = if born { nanoseconds(stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec) } else { 0 };
    Ok(Identity {
        id: FileId {
            dev: u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor),
            ino: stat.stx_ino,
            btime_ns,
        },
        kind: u32::from(stat.stx_mode) & libc::S_IFMT,
        size: stat.stx_size,
    })
}

/// The number of the mount through which `path` below `dir` leads there; links are followed. 0 before 5.8, which does not
/// tell.
///
/// # Errors
/// The kernel's.
pub fn mount(dir: BorrowedFd<'_>, path: &CStr) -> Result<u64, Errno> {
    let mut buffer = MaybeUninit::<libc::statx>::zeroed();
    let (flags, mask) = (libc::AT_STATX_DONT_SYNC, libc::STATX_MNT_ID);
    // SAFETY: `path` is a C string, and the kernel writes one `struct statx` to the buffer.
    check(unsafe { libc::statx(dir.as_raw_fd(), path.as_ptr(), flags, mask, buffer.as_mut_ptr()) }.into())?;
    // SAFETY: zeroed and then filled in by the kernel; any bits are a valid `struct statx`.
    Ok(unsafe { buffer.assume_init() }.stx_mnt_id)
}

/// Seconds and nanoseconds as one number; times before the epoch count as 0.
fn nanoseconds(seconds: i64, nanos: u32) -> u64 {
    u64::try_from(seconds).unwrap_or(0).saturating_mul(1_000_000_000).saturating_add(u64::from(nanos))
}
