//! A copy of the shared memory with the target, as it holds one of the listener: if supervisor and keepers are all killed,
//! a rescue finds there which calls had been received. It is left with the first call that anybody receives.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;

use nix::errno::Errno;

use crate::shared::memory::Memory;
use crate::sys::notify::{self, Notification};
use crate::target::process::Process;

const MISSING: u32 = 0;
const LEFT: u32 = 1;
/// The target may not have another descriptor. Its listener is there all the same.
const IMPOSSIBLE: u32 = 2;

/// Whether the target has no copy yet.
pub(crate) fn is_missing(memory: &Memory) -> bool {
    memory.kept_by_target.load(Ordering::Relaxed) == MISSING
}

/// Leaves one among the descriptors of the thread whose call `stopped` is; not with a child, or a thread, which has its
/// own.
pub(crate) fn leave(target: &Process, memory: &Memory, listener: BorrowedFd<'_>, stopped: &Notification) {
    let tid = stopped.pid as i32;
    if !target.has_thread(tid) || !target.shares_descriptors(tid) {
        return;
    }
    let done = match notify::add_fd(listener, stopped.id, memory.fd().as_fd()) {
        Ok(_) => LEFT,
        Err(Errno::ENOENT | Errno::EINTR | Errno::EINPROGRESS) => return, // with the next call
        Err(_) => IMPOSSIBLE,
    };
    memory.kept_by_target.store(done, Ordering::Relaxed);
}
