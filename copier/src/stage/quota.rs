//! Quotas that no figure of the file system shows: those of groups of subvolumes on btrfs. Whether what is to be copied fits is
//! found out by having room set aside for it, and giving it back at once. Where there can be no such quota nothing is asked.
use rustix::fs::{AtFlags, FallocateFlags, FsWord, Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::OwnedFd;

const BTRFS: FsWord = 0x9123_683e;
const NAME: &str = "quota";

/// Whether so many bytes fit into the quota that a directory counts for. Anything else that goes wrong says nothing of that.
pub(super) fn check(dir: &OwnedFd, bytes: u64) -> rustix::io::Result<()> {
    if bytes == 0 || !rustix::fs::fstatfs(dir).is_ok_and(|found| found.f_type == BTRFS) || !any() {
        return Ok(());
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::openat(dir, NAME, flags, Mode::RUSR | Mode::WUSR) else { return Ok(()) };
    let fits = rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, bytes);
    drop(file);
    rustix::fs::unlinkat(dir, NAME, AtFlags::empty())?;
    match fits {
        Err(Errno::DQUOT) => Err(Errno::DQUOT),
        _ => Ok(()),
    }
}

/// Whether any btrfs has quotas.
fn any() -> bool {
    let all = std::fs::read_dir("/sys/fs/btrfs").into_iter().flatten().flatten();
    all.map(|entry| entry.path().join("qgroups")).any(|path| path.is_dir())
}
