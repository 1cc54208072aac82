//! Calls that change where paths lead without changing a name: mounts, roots, working directories.
//!
//! All are ordered among the calls by path (see [`super::order`]): a path that is decoded means what it will mean to the
//! kernel only if no such call is on its way, and a thread may move the root and the working directory of others.
//!
//! A directory of the source on which something is mounted, or which is mounted there, cannot be followed any further:
//! what is seen below it may be another file system's from then on. Only in the target's own mounts: a child that has
//! others sees the source in another way, and changes nothing of it. What comes and goes there without a call of
//! the target is found in its table of mounts (see `mount_table.rs`).

use std::ffi::CString;

use hotbackup_event::Effect;
use nix::fcntl::ResolveFlag;

use super::decode::Decoder;
use crate::sys::stat;

const CAUSE: &str = "a mount there that came, went or moved";
/// Flags of mount(2) with which nothing is mounted or moved: MS_REMOUNT, and how mounts propagate.
const IN_PLACE: u64 = libc::MS_REMOUNT | libc::MS_UNBINDABLE | libc::MS_PRIVATE | libc::MS_SLAVE | libc::MS_SHARED;

fn redirects(call: &mut Decoder<'_>) {
    (call.moves_names, call.redirects, call.awaited) = (true, true, true);
}

/// The root or working directory changes, for all threads that share it.
pub(super) fn stands_elsewhere(call: &mut Decoder<'_>) {
    redirects(call);
}

pub(super) fn mount(call: &mut Decoder<'_>) {
    redirects(call);
    if call.arg(3) & IN_PLACE != 0 {
        return;
    }
    changes(call, libc::AT_FDCWD, 1);
    if call.arg(3) & libc::MS_MOVE != 0 {
        changes(call, libc::AT_FDCWD, 0);
    }
}

pub(super) fn umount(call: &mut Decoder<'_>) {
    redirects(call);
    changes(call, libc::AT_FDCWD, 0);
}

pub(super) fn move_mount(call: &mut Decoder<'_>) {
    redirects(call);
    changes(call, call.fd(0), 1);
    changes(call, call.fd(2), 3);
}

pub(super) fn pivot_root(call: &mut Decoder<'_>) {
    redirects(call);
    changes(call, libc::AT_FDCWD, 0);
    changes(call, libc::AT_FDCWD, 1);
}

/// What is at a path is something else afterwards. After the point in time, a file is saved before that; directories have
/// been open all along.
fn changes(call: &mut Decoder<'_>, dirfd: i32, argument: usize) {
    let namespace = |pid: i32| {
        let path = CString::new(format!("{pid}/ns/mnt")).ok()?;
        Some(stat::identity(call.process.proc(), &path, true).ok()?.id)
    };
    if namespace(call.tid) != namespace(call.process.pid()) {
        return;
    }
    let Some(path) = call.path(call.arg(argument)) else { return };
    let there = if path.is_empty() {
        call.identity(dirfd) // a flag may allow it
    } else {
        let Some(entry) = call.find(dirfd, &path, ResolveFlag::empty()) else { return };
        call.identify(&entry, true)
    };
    call.effects.extend(there.map(|there| Effect::Untraceable { file: there.id, cause: CAUSE }));
}
