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
    let file = match own_file(process)? {
        Some(pidfd) => pidfd,
        None => process.open_file(".", OFlag::O_RDONLY | OFlag::O_DIRECTORY).map_err(Error::os(pid, "locking"))?,
    };
    exclusively(file, pid)
}

/// The lock of the releases before: on the process's directory in /proc, and on nothing else.
pub(super) fn of_before(process: &Process) -> Result<Flock<OwnedFd>, Error> {
    let pid = process.pid();
    let file = process.open_file(".", OFlag::O_RDONLY | OFlag::O_DIRECTORY).map_err(Error::os(pid, "locking"))?;
    match own_file(process)? {
        Some(_) => exclusively(file, pid),
        // It is the one that we have already.
        None => Flock::lock(file, FlockArg::Unlock).map_err(|(_, errno)| Error::os(pid, "locking")(errno)),
    }
}

fn exclusively(file: OwnedFd, pid: i32) -> Result<Flock<OwnedFd>, Error> {
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EAGAIN => Error::Busy(pid),
        errno => Error::Os { pid, operation: "locking", errno },
    })
}

/// One attach at a time where [`lock`] does not reach all: each namespace has a /proc of its own, but the target's namespace of
/// processes is one file for all. Waits for others, who attach to whatever process in it.
pub(super) fn attaching(process: &Process) -> Result<Option<Flock<OwnedFd>>, Error> {
    if own_file(process)?.is_some() {
        return Ok(None);
    }
    let failed = Error::os(process.pid(), "locking");
    let namespace = process.open_file("ns/pid", OFlag::O_RDONLY).map_err(&failed)?;
    Flock::lock(namespace, FlockArg::LockExclusive).map(Some).map_err(|(_, errno)| failed(errno))
}

/// Its pidfd, if that is a file of its own.
fn own_file(process: &Process) -> Result<Option<OwnedFd>, Error> {
    let pid = process.pid();
    let cloned = process.pidfd().try_clone_to_owned();
    let pidfd = cloned.map_err(|error| Error::Os { pid, operation: "locking", errno: crate::error::errno(&error) })?;
    let is_its_own = fstatfs(&pidfd).is_ok_and(|stat| stat.filesystem_type().0 == PIDFS);
    Ok(is_its_own.then_some(pidfd))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_locked_once_and_free_again_after_that() {
        let this = || Process::open(std::process::id() as i32).unwrap();
        let held = lock(&this()).unwrap();
        assert!(matches!(lock(&this()), Err(Error::Busy(_))));
        drop(held);
        lock(&this()).unwrap();
    }
}
