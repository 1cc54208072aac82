//! One supervisor a target.

use std::fs::File;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};

use crate::error::Error;
use crate::target::process::Process;

/// A lock on its directory in /proc, which ends with us.
pub(crate) fn lock(process: &Process) -> Result<Flock<File>, Error> {
    let pid = process.pid();
    let dir = process.open_file(".", OFlag::O_RDONLY | OFlag::O_DIRECTORY).map_err(Error::os(pid, "locking"))?;
    Flock::lock(File::from(dir), FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EAGAIN => Error::Busy(pid),
        errno => Error::Os { pid, operation: "locking", errno },
    })
}
