//! The seccomp listener among a process's descriptors: found through /proc, fetched by pidfd_getfd(2).

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use super::process::Process;
use crate::sys::{notify, pidfd};

/// What /proc shows for a seccomp listener.
pub const LISTENER: &str = "anon_inode:seccomp notify";
/// A copy of the listener among the target's own descriptors, with its number there.
pub fn target_listener(target: &Process) -> Option<(OwnedFd, RawFd)> {
    let found = target.descriptors().into_iter().find(|(_, link)| link == LISTENER)?;
    Some((listener_of(target.pidfd(), found.0)?, found.0))
}

/// Whether the target holds one: then it has been attached to before.
pub fn has_listener(target: &Process) -> bool {
    target.descriptors().iter().any(|(_, link)| link == LISTENER)
}

/// A copy of a process's descriptor `number`, if it is a listener: what /proc shows, or a number in shared memory says, was
/// so at some time.
pub fn listener_of(process: BorrowedFd<'_>, number: RawFd) -> Option<OwnedFd> {
    pidfd::get_fd(process, number).ok().filter(|fd| notify::is_listener(fd.as_fd()))
}

/// A copy of the target's descriptor `number`, if it is a listener.
pub fn listener_at(target: &Process, number: RawFd) -> Option<OwnedFd> {
    let link = fs::read_link(format!("/proc/{}/fd/{number}", target.pid())).ok()?;
    (link.as_os_str() == LISTENER).then(|| listener_of(target.pidfd(), number)).flatten()
}
