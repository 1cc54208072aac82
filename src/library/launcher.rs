//! Waits beside a program for the sockets of its backups, and starts a worker for each.
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// Serves until the program has closed its end: by its own end, or because it became another program.
///
/// # Errors
/// Standard input is no socket.
pub fn run() -> io::Result<()> {
    // It ends with the program, and not before: not by a signal to all that belongs to a service.
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        let _ = signal_hook::flag::register(signal, Arc::default());
    }
    std::env::set_current_dir("/")?;
    let control = io::stdin().as_fd().try_clone_to_owned()?;
    while let Some(sockets) = receive(&control)? {
        for socket in sockets {
            start(socket);
        }
    }
    Ok(())
}

/// The next sockets; `None` at the end.
fn receive(control: &OwnedFd) -> io::Result<Option<Vec<OwnedFd>>> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let received = {
        let mut parts = [io::IoSliceMut::new(&mut byte)];
        rustix::io::retry_on_intr(|| recvmsg(control, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC))?
    };
    let mut sockets = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(all) = message {
            sockets.extend(all);
        }
    }
    Ok(if received.bytes == 0 { None } else { Some(sockets) })
}

/// Starts a worker. One that cannot be started closes its socket, and so the program learns of it.
fn start(socket: OwnedFd) {
    let worker = Command::new("/proc/self/exe").arg(super::WORK).stdin(Stdio::from(socket)).spawn();
    match worker {
        Ok(mut child) => drop(std::thread::spawn(move || child.wait())),
        Err(error) => tracing::error!("a backup cannot be started: {error}"),
    }
}
