//! What a process has from whoever started it, and does not keep: descriptors, signals, limits, its place among processes.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::stat::{Mode, umask};
use nix::unistd::Pid;

/// Signals are numbered up to this (`_NSIG`).
const LAST_SIGNAL: libc::c_int = 64;
/// Raised as far as is permitted: a process that lives as long as the target needs as much as the target lives.
const RAISED: [Resource; 6] = [
    Resource::RLIMIT_AS,
    Resource::RLIMIT_CPU,
    Resource::RLIMIT_DATA,
    Resource::RLIMIT_FSIZE,
    Resource::RLIMIT_MEMLOCK,
    Resource::RLIMIT_NOFILE,
];

/// Has this process, which must have a single thread, begin as any other does: with the descriptors below `kept` alone, no signal blocked, ignored or handled, the usual mask for new files, the root as its directory, and no limit but
/// those that it may not raise. What is not permitted stays as it is.
pub fn forget(kept: u32) {
    // First: a lock or a pipe that was inherited lives as long as it is open.
    close_from(kept);
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
    (1..=LAST_SIGNAL).for_each(default_signal);
    umask(Mode::from_bits_retain(0o077));
    let _ = std::env::set_current_dir("/");
    for limit in RAISED {
        let most = getrlimit(limit).map_or(RLIM_INFINITY, |(_, most)| most);
        if setrlimit(limit, RLIM_INFINITY, RLIM_INFINITY).is_err() {
            let _ = setrlimit(limit, most, most);
        }
    }
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    be_one_among_others();
}

/// Closes every descriptor from this number on (close_range(2), 5.9).
fn close_from(first: libc::c_uint) {
    // SAFETY: nothing here owns a descriptor yet: this comes before anything is opened.
    unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) };
}

/// The descriptor with this number, which was inherited, as one that is not handed on.
pub fn take(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: no memory is passed.
    let is_open = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } == 0;
    // SAFETY: it is open, and was inherited: nothing here owns it yet.
    is_open.then(|| unsafe { OwnedFd::from_raw_fd(number) })
}

/// Hands a descriptor on to the program that is executed next, under this number.
///
/// # Errors
/// The kernel's.
pub fn hand_on(fd: BorrowedFd<'_>, number: RawFd) -> Result<(), Errno> {
    // SAFETY: no memory is passed. What stood at the number is closed: this is for a process that is about to become another.
    super::check(unsafe { libc::dup2(fd.as_raw_fd(), number) }.into()).map(drop)
}

/// What the kernel takes for `struct sigaction`, zero: the default, no flags, nothing blocked.
const DEFAULT: [u64; 4] = [0; 4];

/// By number, as the C library keeps two signals for itself.
fn default_signal(signal: libc::c_int) {
    let nothing: *mut u64 = std::ptr::null_mut();
    // SAFETY: the kernel reads one `struct sigaction`, and installs no code.
    unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, DEFAULT.as_ptr(), nothing, size_of::<u64>()) };
}

/// On any processor, in any memory, and as urgent as others: a backup may be told to be none of that.
fn be_one_among_others() {
    /// How much later than asked for a timer may wake a thread, usually (PR_SET_TIMERSLACK in prctl(2)).
    const SLACK_NS: libc::c_ulong = 50_000;
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    super::process::relax();
    // SAFETY: no memory is passed; 0 is this process, its input and output as its niceness says, and any node's memory.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, 0);
        libc::prctl(libc::PR_SET_TIMERSLACK, SLACK_NS);
        libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, 0);
        libc::syscall(libc::SYS_set_mempolicy, libc::MPOL_DEFAULT, 0, 0);
    }
    let mut all = CpuSet::new();
    for processor in 0..CpuSet::count() {
        let _ = all.set(processor);
    }
    let _ = sched_setaffinity(Pid::from_raw(0), &all);
}
