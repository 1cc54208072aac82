//! The helper that waits beside this process, from its first backup to its end, and starts another one for each backup.
//!
//! It is started before the process is followed: what a followed process starts is followed, too, and could not answer its own calls.
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::SeqCst};

use crate::{find, socket, start};

/// The socket to it; -1: there is none. Only changed by whoever has the claim on backups.
static CONTROL: AtomicI32 = AtomicI32::new(-1);
/// What the socket was: the program may have closed it, and have something else under its number.
static CONTROL_DEVICE: AtomicU64 = AtomicU64::new(0);
static CONTROL_INODE: AtomicU64 = AtomicU64::new(0);

/// Why no helper could be had: an errno, and words.
pub type Failure = (i32, String);

/// Has a backup's helper started, and returns the socket to it.
pub fn connect() -> Result<OwnedFd, Failure> {
    let (ours, theirs) = socket::pair().map_err(|error| failed("a socket cannot be made", &error))?;
    if hand_over(&theirs) {
        return Ok(ours);
    }
    launch()?;
    if hand_over(&theirs) {
        return Ok(ours);
    }
    Err((libc::EIO, "the helper ended as soon as it was started".into()))
}

fn failed(what: &str, error: &io::Error) -> Failure {
    (error.raw_os_error().unwrap_or(libc::EIO), format!("{what}: {error}"))
}

/// Whether there is a launcher, which has the socket now.
fn hand_over(theirs: &OwnedFd) -> bool {
    let control = CONTROL.load(SeqCst);
    let known = Some((CONTROL_DEVICE.load(SeqCst), CONTROL_INODE.load(SeqCst)));
    if control < 0 || socket::identity(control) != known {
        return false;
    }
    // SAFETY: it is open, and it is ours; a program that closes what it has not opened gets an error here.
    let control = unsafe { BorrowedFd::borrow_raw(control) };
    socket::send_descriptor(control, theirs).is_ok()
}

fn launch() -> Result<(), Failure> {
    let helper = find::helper().map_err(|why| (libc::ENOENT, why))?;
    let (ours, theirs) = socket::pair().map_err(|error| failed("a socket cannot be made", &error))?;
    let pid = start::start(&helper, &theirs).map_err(|error| failed(&format!("{helper} cannot be started"), &error))?;
    start::permit(pid);
    let Some((device, inode)) = socket::identity(ours.as_raw_fd()) else {
        return Err((libc::EIO, "a socket cannot be looked at".into()));
    };
    CONTROL_DEVICE.store(device, SeqCst);
    CONTROL_INODE.store(inode, SeqCst);
    // The one before, if there was one, is not ours to close any more: its launcher is gone, or its number is another's.
    CONTROL.store(ours.into_raw_fd(), SeqCst);
    Ok(())
}
