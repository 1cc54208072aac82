//! Descriptors that go from one process to another over a socket (unix(7), `SCM_RIGHTS`), one with each message of one byte.

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

use super::check;

/// With the eventfd that wakes keepers.
pub const WAKE: u8 = b'w';
/// With procfs.
pub const PROC: u8 = b'p';
/// With the listener.
pub const LISTENER: u8 = b'l';
/// From a keeper: it is ready.
pub const READY: u8 = b'k';
/// From a keeper: what keeps it from being ready, in words.
pub const PROBLEM: u8 = b'e';

/// The longest message.
pub const LONGEST: usize = 256;

/// What came.
#[derive(Debug)]
pub struct Message {
    /// Its bytes; none at the end.
    pub bytes: Vec<u8>,
    /// The descriptor that came with it.
    pub fd: Option<OwnedFd>,
}

/// `struct cmsghdr` with one descriptor.
#[repr(C)]
#[derive(Clone, Copy)]
struct Control {
    length: usize,
    level: libc::c_int,
    kind: libc::c_int,
    fd: RawFd,
    padding: u32,
}

/// How long it is without what pads it.
pub const CONTROL_LENGTH: usize = 20;
const _: () = assert!(size_of::<Control>() == 24 && size_of::<libc::msghdr>() == 56);

fn header(bytes: &mut libc::iovec, control: *mut Control) -> libc::msghdr {
    // SAFETY: all zeros is a valid msghdr.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    (header.msg_iov, header.msg_iovlen) = (bytes, 1);
    if !control.is_null() {
        (header.msg_control, header.msg_controllen) = (control.cast(), size_of::<Control>());
    }
    header
}

/// Sends a message, with a descriptor or without; never waits.
///
/// # Errors
/// The kernel's.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    let mut vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut control = Control {
        length: CONTROL_LENGTH,
        level: libc::SOL_SOCKET,
        kind: libc::SCM_RIGHTS,
        fd: fd.map_or(-1, |fd| fd.as_raw_fd()),
        padding: 0,
    };
    let header = header(&mut vector, if fd.is_some() { &raw mut control } else { std::ptr::null_mut() });
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the header points to the vector and the control message above, and the vector to `bytes`; all are only read.
    check(unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, flags) } as i64).map(drop)
}

/// The next message, which stays where it is if `peek`; never waits. A descriptor is a new one each time.
///
/// # Errors
/// The kernel's: `EAGAIN` when there is none.
pub fn receive(socket: BorrowedFd<'_>, peek: bool) -> Result<Message, Errno> {
    let mut bytes = [0u8; LONGEST];
    let mut vector = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let mut control = MaybeUninit::<Control>::zeroed();
    let mut header = header(&mut vector, control.as_mut_ptr());
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC | if peek { libc::MSG_PEEK } else { 0 };
    // SAFETY: the header points to the vector and the control message above, which the kernel writes within the lengths
    // that it is told.
    let length = check(unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) } as i64)? as usize;
    // SAFETY: zeroed, and then filled in by the kernel; any bits are a valid one.
    let control = unsafe { control.assume_init() };
    let has_fd = header.msg_controllen >= CONTROL_LENGTH
        && (control.length, control.level, control.kind) == (CONTROL_LENGTH, libc::SOL_SOCKET, libc::SCM_RIGHTS);
    // SAFETY: the kernel has just made it for us.
    let fd = has_fd.then(|| unsafe { OwnedFd::from_raw_fd(control.fd) });
    Ok(Message { bytes: bytes[..length.min(LONGEST)].to_vec(), fd })
}

/// Whether it is one end of a socket pair that keeps messages apart.
pub fn is_packet_socket(fd: BorrowedFd<'_>) -> bool {
    let option = |name| {
        let (mut value, mut length) = (0 as libc::c_int, size_of::<libc::c_int>() as libc::socklen_t);
        let place = (&raw mut value).cast();
        // SAFETY: the kernel writes one int.
        let result = unsafe { libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, name, place, &raw mut length) };
        (result == 0).then_some(value)
    };
    option(libc::SO_DOMAIN) == Some(libc::AF_UNIX) && option(libc::SO_TYPE) == Some(libc::SOCK_SEQPACKET)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn pair() -> [OwnedFd; 2] {
        let mut ends = [-1; 2];
        // SAFETY: the kernel writes two descriptors, which nobody else owns.
        unsafe {
            assert_eq!(
                libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0, ends.as_mut_ptr()),
                0
            );
            ends.map(|end| OwnedFd::from_raw_fd(end))
        }
    }

    #[test]
    fn a_descriptor_that_is_peeked_at_comes_again_and_what_was_sent_before_the_end_is_there_after_it() {
        let [near, far] = pair();
        assert!(is_packet_socket(near.as_fd()));
        let file = std::fs::File::open("/").unwrap();
        assert_eq!(receive(far.as_fd(), false).unwrap_err(), Errno::EAGAIN);
        send(near.as_fd(), b"a", None).unwrap();
        send(near.as_fd(), b"bc", Some(file.as_fd())).unwrap();
        drop((near, file));
        let first = receive(far.as_fd(), false).unwrap();
        assert!(first.bytes == b"a" && first.fd.is_none());
        for _ in 0..2 {
            let peeked = receive(far.as_fd(), true).unwrap();
            assert!(peeked.bytes == b"bc" && peeked.fd.is_some());
        }
        assert_eq!(receive(far.as_fd(), false).unwrap().bytes, b"bc");
        assert_eq!(receive(far.as_fd(), false).unwrap().bytes, b"");
    }
}
