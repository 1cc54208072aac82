//! pidfds: a process that cannot turn into another one (pidfd_open(2), 5.3; pidfd_getfd(2), 5.6).

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use super::check;

/// Opens the process `pid` (a thread group's leader).
///
/// # Errors
/// `ESRCH` when there is none.
pub fn open(pid: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: no memory is passed; the result is a new descriptor that nobody else owns.
    check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) }).map(|fd| unsafe_owned(fd as RawFd))
}

/// Copies descriptor `fd` of the process into this one, close-on-exec.
///
/// # Errors
/// `EBADF` when it has no such descriptor, `EPERM` without `PTRACE_MODE_ATTACH_REALCREDS` over it.
pub fn get_fd(process: BorrowedFd<'_>, fd: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: no memory is passed; the result is a new descriptor that nobody else owns.
    check(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), fd, 0) })
        .map(|fd| unsafe_owned(fd as RawFd))
}

/// Ends the process, whatever it does.
///
/// # Errors
/// `ESRCH` when it has ended.
pub fn kill(process: BorrowedFd<'_>) -> Result<(), Errno> {
    signal(process, Signal::SIGKILL)
}

/// Sends it a signal.
///
/// # Errors
/// `ESRCH` when it has ended.
pub fn signal(process: BorrowedFd<'_>, signal: Signal) -> Result<(), Errno> {
    let none: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: a null siginfo means that the kernel fills in what kill(2) would.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal as i32, none, 0) }).map(drop)
}

/// Whether a signal may be sent to it.
///
/// # Errors
/// The kernel's; `EPERM` also when a seccomp filter on this process forbids it.
pub fn may_signal(process: BorrowedFd<'_>) -> Result<(), Errno> {
    let none: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: as in `kill`; 0 is no signal.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), 0, none, 0) }).map(drop)
}

/// Whether the process ends within the time.
pub fn ends_within(process: BorrowedFd<'_>, limit: Duration) -> bool {
    let mut fds = [PollFd::new(process, PollFlags::POLLIN)];
    matches!(poll(&mut fds, PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX)), Ok(n) if n > 0)
}

/// A number that the kernel has just handed out, as an owner.
fn unsafe_owned(fd: RawFd) -> OwnedFd {
    // SAFETY: both callers pass the result of a call that made a new descriptor.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
