//! One supervisor a target, also before there is a session's memory to lock.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::sys::statfs::fstatfs;

use crate::error::Error;
use crate::target::process::Process;

/// `PID_FS_MAGIC`.
const PIDFS: i64 = 0x5049_4446;

/// A lock on the process itself, which ends with us: on its pidfd, which is one file for all who open it, in whatever
/// namespace (pidfs, 6.9); before that all pidfds are one file, and so it is on its directory in /proc.
pub(super) fn lock(process: &Process) -> Result<Flock<OwnedFd>, Error> {
    let pid = process.pid();
    let pidfd = process.pidfd().try_clone_to_owned().map_err(|error| Error::Os {
        pid,
        operation: "locking",
        errno: crate::error::errno(&error),
    })?;
    let is_its_own = fstatfs(&pidfd).is_ok_and(|stat| stat.filesystem_type().0 == PIDFS);
    let file = if is_its_own {
        pidfd
    } else {
        process.open_file(".", OFlag::O_RDONLY | OFlag::O_DIRECTORY).map_err(Error::os(pid, "locking"))?
    };
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EAGAIN => Error::Busy(pid),
        errno => Error::Os { pid, operation: "locking", errno },
    })
}
