//! Those on their way to become the keepers' parent, who stand in execve(2) and close what they have of the target's. They have no
//! arguments there, and nothing of them is looked at that the kernel locks meanwhile, as it does their descriptors, memory and
//! stat (6.18): whoever asks for one of those waits with them. They are known by the name that they give themselves first of
//! all, their owner, and the target's cgroups.

use std::os::fd::{AsFd, OwnedFd};

use crate::helper::place;
use crate::helper::process::{self as helper, PARENT};
use crate::sys::pidfd;
use crate::target::cgroups;
use crate::target::process::Process;

/// Those in the target's cgroups.
pub(super) fn find(process: &Process) -> Vec<(i32, OwnedFd)> {
    let is_one = |pid: i32| helper::is_nameless(pid, PARENT, process) && place::is_with(process, pid);
    let opened = |pid: i32| {
        let opened = is_one(pid).then(|| pidfd::open(pid).ok()).flatten()?;
        // Its number may have been reused between the look and the open.
        is_one(pid).then_some((pid, opened))
    };
    process.list(".").into_iter().filter_map(opened).collect()
}

/// Ends them. One that waits in a close ends as soon as that does.
pub(crate) fn end_unborn(process: &Process) {
    for (pid, one) in find(process) {
        if !cgroups::end(process.proc(), pid, one.as_fd()) {
            tracing::warn!(
                pid,
                "who was to become a keeper's parent stays until the file systems of the process answer"
            );
        }
    }
}
