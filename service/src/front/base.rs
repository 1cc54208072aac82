//! What both doors have in common.
use std::io;
use std::net::TcpStream;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};

/// For so long a client may say nothing before his first message has come; and in the middle of one, at the Unix socket.
pub(super) const IDLE: Duration = Duration::from_secs(60);
/// The numbers of our messages.
#[derive(Debug, Default)]
pub(super) struct Numbers(AtomicI32);

impl Numbers {
    pub fn next(&self) -> i32 {
        self.0.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }
}

/// Whether the other end is still there: it has closed neither the connection nor its half of it.
pub(super) fn is_there(fd: BorrowedFd<'_>) -> bool {
    let closed = PollFlags::from_bits_retain(nix::libc::POLLRDHUP);
    !matches!(poll(&mut [PollFd::new(fd, closed)], PollTimeout::ZERO), Ok(1..))
}

/// Whether a command is for the database that ours are for.
pub(super) fn is_on_admin(body: &bson::Document) -> bool {
    body.get_str("$db").is_ok_and(|database| database == "admin")
}

/// A backup may take hours, in which nothing is said.
pub(super) fn keep_alive(socket: &TcpStream) -> io::Result<()> {
    setsockopt(socket, sockopt::KeepAlive, &true)?;
    Ok(setsockopt(socket, sockopt::TcpKeepIdle, &60)?)
}
