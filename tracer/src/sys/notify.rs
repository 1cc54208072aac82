//! The listener's ioctls: receive a stopped call, let it go.
//!
//! seccomp_unotify(2). `RECV` wants a zeroed buffer, ignores `O_NONBLOCK` and may answer `ENOENT` (the call was
//! interrupted before it was received): poll first. `SEND` to an id that is answered or gone is `ENOENT`, and
//! harmless.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use zerocopy::FromBytes;

use super::check;

/// `struct seccomp_data`: the call as the filter saw it.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CallData {
    /// System call number, in the numbering of `arch`.
    pub nr: i32,
    /// `AUDIT_ARCH_*`.
    pub arch: u32,
    /// Instruction pointer after the call's instruction.
    pub ip: u64,
    /// The six arguments, as the registers held them.
    pub args: [u64; 6],
}

/// `struct seccomp_notif`: one stopped system call.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Notification {
    /// The listener's name for it; never 0 in practice, since the kernel starts at a random number.
    pub id: u64,
    /// Thread id in the receiver's pid namespace; 0 if it has none there.
    pub pid: u32,
    /// Always 0 today.
    pub flags: u32,
    /// The call.
    pub data: CallData,
}

/// Where the kernel writes a [`Notification`], in memory that others look at: on cache lines of its own.
#[repr(C, align(128))]
#[derive(FromBytes)]
pub struct Slot {
    words: [AtomicU64; size_of::<Notification>() / 8],
}

impl Slot {
    /// The id that it holds; 0 when it is free.
    pub fn id(&self) -> u64 {
        self.words[0].load(Ordering::Acquire)
    }

    /// What it holds.
    pub fn notification(&self) -> Notification {
        let word = |i: usize| self.words[i].load(Ordering::Acquire);
        let (pid_flags, nr_arch) = (word(1), word(2));
        Notification {
            id: word(0),
            pid: pid_flags as u32,
            flags: (pid_flags >> 32) as u32,
            data: CallData {
                nr: nr_arch as i32,
                arch: (nr_arch >> 32) as u32,
                ip: word(3),
                args: std::array::from_fn(|i| word(4 + i)),
            },
        }
    }

    /// Frees it: only after its call was answered. The id goes last, so that a death in between leaves
    /// a slot that is answered once more, which is harmless.
    pub fn clear(&self) {
        for word in self.words.iter().rev() {
            word.store(0, Ordering::Release);
        }
    }
}

/// `struct seccomp_notif_resp`.
#[repr(C)]
struct Response {
    id: u64,
    val: i64,
    error: i32,
    flags: u32,
}

const CONTINUE: u32 = 1; // SECCOMP_USER_NOTIF_FLAG_CONTINUE, 5.5
const SYNC_WAKE_UP: u64 = 1; // SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP, 6.6

// _IOWR('!', 0, struct seccomp_notif), _IOWR('!', 1, struct seccomp_notif_resp), _IOW('!', 4, __u64)
const IOCTL_RECV: u64 = 0xc050_2100;
const IOCTL_SEND: u64 = 0xc018_2101;
const IOCTL_SET_FLAGS: u64 = 0x4008_2104;

/// Whether a descriptor is a listener. A number that was true a moment ago may be another file's by now.
pub fn is_listener(fd: BorrowedFd<'_>) -> bool {
    const IOCTL_ID_VALID: u64 = 0x4008_2102; // _IOW('!', 2, __u64)
    let none = 0u64;
    // SAFETY: the kernel reads one u64.
    let result = check(unsafe { libc::ioctl(fd.as_raw_fd(), IOCTL_ID_VALID as _, &raw const none) }.into());
    // There is no such call; a file answers ENOTTY.
    matches!(result, Ok(_) | Err(Errno::ENOENT))
}

/// Receives the next stopped call straight into `slot`, which must be free.
///
/// # Errors
/// `ENOENT` when the call was interrupted meanwhile, `EINTR`, `EINVAL` when the slot was not zeroed.
pub fn receive(listener: BorrowedFd<'_>, slot: &Slot) -> Result<(), Errno> {
    let words = slot.words.as_ptr().cast_mut();
    // SAFETY: the kernel writes one `struct seccomp_notif`, which is as long as the slot's words; these are atomics, so that
    // they may change while they are shared.
    check(unsafe { libc::ioctl(listener.as_raw_fd(), IOCTL_RECV as _, words) }.into()).map(drop)
}

/// Lets the stopped call `id` run as if no filter were there.
///
/// # Errors
/// `ENOENT` when the call is gone or answered, `EINPROGRESS` when it was answered before.
pub fn let_go(listener: BorrowedFd<'_>, id: u64) -> Result<(), Errno> {
    let response = Response { id, val: 0, error: 0, flags: CONTINUE };
    // SAFETY: the kernel reads one `struct seccomp_notif_resp`, which `response` is.
    check(unsafe { libc::ioctl(listener.as_raw_fd(), IOCTL_SEND as _, &raw const response) }.into()).map(drop)
}

/// Asks the kernel to hand the processor over with each wake-up (6.6). Older kernels answer `EINVAL`.
///
/// # Errors
/// The kernel's.
pub fn set_sync_wake_up(listener: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: the flags are passed by value.
    check(unsafe { libc::ioctl(listener.as_raw_fd(), IOCTL_SET_FLAGS as _, SYNC_WAKE_UP) }.into()).map(drop)
}

/// Whether this process may receive and answer: on a file that is no listener both calls say that they do not apply, unless a
/// seccomp filter on this process forbids them.
pub fn may_answer(other: BorrowedFd<'_>) -> bool {
    let slot = Slot { words: Default::default() };
    let no_listener = |result| result == Err(Errno::ENOTTY);
    no_listener(receive(other, &slot)) && no_listener(let_go(other, 0))
}

/// Whether the kernel knows `action` (a `SECCOMP_RET_*` value) as a filter's answer.
pub fn action_available(action: u32) -> bool {
    const GET_ACTION_AVAIL: u32 = 2;
    // SAFETY: the kernel reads one u32.
    check(unsafe { libc::syscall(libc::SYS_seccomp, GET_ACTION_AVAIL, 0, &raw const action) }).is_ok()
}

/// Whether the kernel knows the filter flags `flags`: with no program it answers `EFAULT` when it does, `EINVAL`
/// when it does not.
pub fn flags_available(flags: u64) -> bool {
    const SET_MODE_FILTER: u32 = 1;
    let none: *const libc::c_void = std::ptr::null();
    // SAFETY: a null program is refused with EFAULT before anything is installed.
    matches!(check(unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags, none) }), Err(Errno::EFAULT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn layouts_are_the_kernels() {
        assert_eq!(size_of::<Notification>(), 80);
        assert_eq!(size_of::<Response>(), 24);
    }

    #[test]
    fn what_else_a_number_may_have_become_is_no_listener() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let eventfd = nix::sys::eventfd::EventFd::from_value(0).unwrap();
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let directory = std::fs::File::open("/proc/self").unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
        let all = [reader.as_fd(), writer.as_fd(), eventfd.as_fd(), file.as_fd(), directory.as_fd(), null.as_fd()];
        for fd in all.into_iter().chain([socket.as_fd()]) {
            assert!(!is_listener(fd), "{fd:?}");
        }
    }
}
