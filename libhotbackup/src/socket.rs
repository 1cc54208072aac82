//! Descriptors: made so that no program that the process starts has them, and used so that no signal comes of it.
use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// Two sockets that are connected.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut both = [-1; 2];
    // SAFETY: `both` has room for the two numbers.
    let made = unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0, both.as_mut_ptr()) };
    if made != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both are new, and nobody else's.
    Ok(unsafe { (OwnedFd::from_raw_fd(both[0]), OwnedFd::from_raw_fd(both[1])) })
}

/// Sends all of a message, if it can be sent at once; else nothing of it but for very long ones. Says how much.
pub fn send_now(socket: c_int, message: &[u8]) -> io::Result<usize> {
    loop {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: the message lies where it says.
        let sent = unsafe { libc::send(socket, message.as_ptr().cast(), message.len(), flags) };
        match usize::try_from(sent) {
            Ok(sent) => return Ok(sent),
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
}

/// Sends all of a message, however long that takes.
pub fn send_all(socket: BorrowedFd<'_>, mut message: &[u8]) -> io::Result<()> {
    while !message.is_empty() {
        match send_now(socket.as_raw_fd(), message) {
            Ok(sent) => message = &message[sent..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait_to_send(socket);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// How long [`receive`] waits at most.
pub fn set_patience(socket: BorrowedFd<'_>, limit: Duration) -> io::Result<()> {
    let limit = libc::timeval { tv_sec: limit.as_secs().cast_signed(), tv_usec: i64::from(limit.subsec_micros()) };
    let size = size_of::<libc::timeval>() as libc::socklen_t;
    let value = (&raw const limit).cast();
    // SAFETY: the value is as long as it says.
    let set = unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVTIMEO, value, size) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn wait_to_send(socket: BorrowedFd<'_>) {
    let mut one = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    // SAFETY: `one` is one.
    unsafe { libc::poll(&raw mut one, 1, 1000) };
}

/// Reads what there is or comes in time; 0 when the other end is gone.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8], waits: bool) -> io::Result<usize> {
    let flags = if waits { 0 } else { libc::MSG_DONTWAIT };
    // SAFETY: the buffer is as long as it says.
    let read = unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), flags) };
    usize::try_from(read).map_err(|_| io::Error::last_os_error())
}

/// Hands a descriptor over.
pub fn send_descriptor(socket: BorrowedFd<'_>, descriptor: &OwnedFd) -> io::Result<()> {
    const SPACE: usize = 64;
    /// As aligned as the kernel wants it.
    #[repr(align(16))]
    struct Space([u8; SPACE]);
    let mut space = Space([0; SPACE]);
    let mut byte = [1u8];
    let mut part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    // SAFETY: all-zero is an empty header.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    (header.msg_iov, header.msg_iovlen) = (&raw mut part, 1);
    header.msg_control = space.0.as_mut_ptr().cast();
    let size = size_of::<c_int>() as u32;
    // SAFETY: these only compute; 64 bytes hold one descriptor.
    header.msg_controllen = unsafe { libc::CMSG_SPACE(size) } as _;
    // SAFETY: the header has room for one message, which the pointer leads to.
    unsafe {
        let message = libc::CMSG_FIRSTHDR(&raw const header);
        (*message).cmsg_level = libc::SOL_SOCKET;
        (*message).cmsg_type = libc::SCM_RIGHTS;
        (*message).cmsg_len = libc::CMSG_LEN(size) as _;
        libc::CMSG_DATA(message).cast::<c_int>().write_unaligned(descriptor.as_raw_fd());
    }
    loop {
        // SAFETY: everything that the header points to is still here.
        if unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL) } >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// What tells one open socket from all others.
pub fn identity(descriptor: c_int) -> Option<(u64, u64)> {
    // SAFETY: all-zero is a value of it.
    let mut found: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `found` has room for the answer; any number may be asked for.
    (unsafe { libc::fstat(descriptor, &raw mut found) } == 0).then_some((found.st_dev, found.st_ino))
}
