//! The seccomp listener among a process's descriptors: found through /proc, fetched by pidfd_getfd(2).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use nix::fcntl::readlinkat;

use super::process::Process;
use crate::sys::{notify, pidfd};

/// What /proc shows for a seccomp listener.
pub const LISTENER: &str = "anon_inode:seccomp notify";
/// A copy of the listener among the target's own descriptors, with its number there.
pub fn target_listener(target: &Process) -> Option<(OwnedFd, RawFd)> {
    let found = target.descriptors().into_iter().find(|(_, link)| link == LISTENER)?;
    Some((listener_of(target.pidfd(), found.0)?, found.0))
}

/// Whether the target holds one: then it has been attached to before. To list very many descriptors takes a while, so that is done
/// once, and not at all where there is no filter.
pub fn has_listener(target: &Process) -> bool {
    const NONE: &str = "0"; // SECCOMP_MODE_DISABLED
    target.has_held_listener(|| {
        target.status_field(target.pid(), "Seccomp").is_none_or(|mode| mode != NONE)
            && target.descriptors().iter().any(|(_, link)| link == LISTENER)
    })
}

/// A copy of a process's descriptor `number`, if it is a listener: what /proc shows, or a number in shared memory says, was
/// so at some time.
pub fn listener_of(process: BorrowedFd<'_>, number: RawFd) -> Option<OwnedFd> {
    pidfd::get_fd(process, number).ok().filter(|fd| notify::is_listener(fd.as_fd()))
}

/// A copy of the target's descriptor `number`, if it is a listener.
pub fn listener_at(target: &Process, number: RawFd) -> Option<OwnedFd> {
    let link = readlinkat(target.proc(), format!("{}/fd/{number}", target.pid()).as_str()).ok()?;
    (link.as_os_str() == LISTENER).then(|| listener_of(target.pidfd(), number)).flatten()
}
