//! What this process may do: its own capabilities, and a seccomp filter on itself, as a container runtime's, which may
//! forbid calls whatever the capabilities are.

use std::os::fd::AsFd;

use nix::errno::Errno;

use crate::calls::resolve::Resolver;
use crate::error::Error;
use crate::sys::{pidfd, process as low};
use crate::target::listener::has_listener;
use crate::target::process::Process;

const SYS_ADMIN: u64 = 1 << 21;
const NONE: &str = "0"; // SECCOMP_MODE_DISABLED
const FORBIDS: &str = "a seccomp filter on hotbackup itself forbids it; run it without one (docker: --security-opt \
                       seccomp=unconfined)";

/// Checks that no filter on ourselves forbids what every backup takes, by calls that are always permitted else: they concern this
/// process alone.
///
/// # Errors
/// [`Error::NotPermitted`], with the call.
pub(super) fn check_own_calls(process: &Process) -> Result<(), Error> {
    let forbidden = |action| Error::NotPermitted { pid: process.pid(), action, remedy: FORBIDS };
    let own = std::process::id() as i32;
    let myself = pidfd::open(own).map_err(|_| forbidden("calling pidfd_open(2) for"))?;
    // There is no such descriptor: that is said after permission.
    if !matches!(pidfd::get_fd(myself.as_fd(), -1), Err(Errno::EBADF)) {
        return Err(forbidden("calling pidfd_getfd(2) for"));
    }
    if low::share_descriptors(own, own).is_err_and(|errno| matches!(errno, Errno::EPERM | Errno::EACCES)) {
        return Err(forbidden("calling kcmp(2) for"));
    }
    in_a_thread(|| Resolver::new(process).map(drop)).map_err(|_| forbidden("calling unshare(2) for"))
}

/// Checks that the target's filters can be read, if it has any and is to get ours.
///
/// # Errors
/// [`Error::UnreadFilter`]
pub fn check_filters(process: &Process) -> Result<(), Error> {
    let pid = process.pid();
    let has_filter = |tid| process.status_field(tid, "Seccomp").is_some_and(|mode| mode != NONE);
    if has_listener(process) || !has_filter(pid) {
        return Ok(());
    }
    check_filters_can_be_read(process)
}

/// Checks that we may read filters of the target.
///
/// # Errors
/// [`Error::UnreadFilter`]
pub fn check_filters_can_be_read(process: &Process) -> Result<(), Error> {
    let (pid, own) = (process.pid(), std::process::id() as i32);
    if is_filtered(process) {
        return Err(Error::unread_filter(pid, true));
    }
    let set = process.status_field(own, "CapEff").and_then(|set| u64::from_str_radix(&set, 16).ok()).unwrap_or(0);
    if set & SYS_ADMIN == 0 { Err(Error::unread_filter(pid, false)) } else { Ok(()) }
}

/// What would let us read filters of the target.
pub fn remedy_for_filters(process: &Process) -> &'static str {
    crate::error::remedy_for_filters(is_filtered(process))
}

/// Whether we run under a filter ourselves.
fn is_filtered(process: &Process) -> bool {
    process.status_field(std::process::id() as i32, "Seccomp").is_some_and(|mode| mode != NONE)
}

/// Checks that we can follow the target's paths: its root, if it is another one than ours, is entered by a thread of ours.
///
/// # Errors
/// What would permit it.
pub fn check_root(process: &Process) -> Result<(), &'static str> {
    match in_a_thread(|| Resolver::new(process)?.enter(process, process.pid())) {
        Err(Errno::EPERM) => {
            Err("it has a root or mounts of its own, so give hotbackup CAP_SYS_CHROOT, which root has outside of \
                                  containers (docker: --cap-add SYS_CHROOT)")
        }
        // That is found out, and said, when its paths are followed.
        Err(_) | Ok(()) => Ok(()),
    }
}

/// Does something that changes the calling thread for good.
fn in_a_thread(work: impl FnOnce() -> Result<(), Errno> + Send) -> Result<(), Errno> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, work).map_err(|_| Errno::EAGAIN)?;
        thread.join().unwrap_or(Err(Errno::EINVAL))
    })
}
