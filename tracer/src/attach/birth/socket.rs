//! The target's descriptors that a birth has to do with.

use std::os::fd::{AsFd, RawFd};

use nix::fcntl::readlinkat;

use super::layout::Socket;
use crate::sys::{passing, pidfd};
use crate::target::process::Process;

pub(super) fn link_of(process: &Process, number: RawFd) -> Option<String> {
    let link = readlinkat(process.proc(), format!("{}/fd/{number}", process.pid()).as_str()).ok()?;
    link.into_string().ok()
}

/// The target's socket with this number, if it is one of the kind that is made here.
pub(crate) fn socket_at(process: &Process, number: RawFd) -> Option<Socket> {
    let near = pidfd::get_fd(process.pidfd(), number).ok().filter(|near| passing::is_packet_socket(near.as_fd()))?;
    let id = nix::sys::stat::fstat(&near).ok()?.st_ino;
    Some(Socket { near, number, id })
}
