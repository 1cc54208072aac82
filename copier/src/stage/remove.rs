//! Removing staging directories.
//!
//! Always through open directories, never by path: while a backup runs, a lazy unmount or a rename further up can make the
//! path lead to another tree, and that is not ours to remove from.
use crate::base::sys;
use crate::interface::spec::OWN_DIR;
use hotbackup_event::look::{Lack, LookError};
use rustix::fs::{AtFlags, FlockOperation, Mode};
use rustix::io::{Errno, retry_on_intr};
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

/// Removes a staging directory: all that is below `root`, and its entry in `parent` if that is still it. Goes on after an
/// error, and returns the first.
pub(crate) fn staging(parent: &OwnedFd, name: &OsStr, root: &OwnedFd) -> io::Result<()> {
    all_below(root)?;
    let same = sys::stat_at(parent, name)?.id == sys::stat_fd(root)?.id;
    if same { unlink(parent, name, AtFlags::REMOVEDIR) } else { Ok(()) }
}

/// Removes staging directories whose processes are gone: their names begin with `prefix`, and nobody has them locked.
/// Best effort.
pub(crate) fn leftovers(parent: &OwnedFd, prefix: &OsStr) {
    for name in sys::names(parent).unwrap_or_default() {
        if name.as_bytes().starts_with(prefix.as_bytes()) {
            leftover(parent, &name);
        }
    }
}

/// Removes a directory if it is a staging directory that nobody has locked. Says whether it is gone.
pub(crate) fn leftover(parent: &OwnedFd, name: &OsStr) -> bool {
    let Ok(root) = sys::open_dir(parent, name) else { return false };
    rustix::fs::flock(&root, FlockOperation::NonBlockingLockExclusive).is_ok()
        // Ours is marked from the time it is locked until it is empty, see `all_below`.
        && (sys::stat_at(&root, OsStr::new(OWN_DIR)).is_ok() || sys::names(&root).is_ok_and(|all| all.is_empty()))
        && staging(parent, name, &root).is_ok()
}

/// Empties a directory.
fn all_below(dir: &OwnedFd) -> io::Result<()> {
    let mut names = sys::names(dir)?;
    // The mark goes last, so that what is left of a removal that fails is still known for what it is.
    names.sort_by_key(|name| name == OWN_DIR);
    let mut result = Ok(());
    for name in names {
        let removed = match unlink(dir, &name, AtFlags::empty()) {
            // Systems differ in how they say that it is a directory.
            Err(error) if is_dir(&error) => below(dir, &name).and_then(|()| unlink(dir, &name, AtFlags::REMOVEDIR)),
            other => other,
        };
        result = result.and(removed);
    }
    result
}

fn is_dir(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::ISDIR | Errno::PERM))
}

/// Empties a directory below another. One that is in place already may have a mode that keeps even its owner out.
fn below(dir: &OwnedFd, name: &OsStr) -> io::Result<()> {
    let open = match sys::open_dir(dir, name) {
        Err(error) if LookError::from(&error) == LookError::Ours(Lack::Rights) => {
            rustix::fs::chmodat(dir, name, Mode::RWXU, AtFlags::empty())?;
            sys::open_dir(dir, name)?
        }
        other => other?,
    };
    match all_below(&open) {
        Err(error) if LookError::from(&error) == LookError::Ours(Lack::Rights) => {
            rustix::fs::fchmod(&open, Mode::RWXU)?;
            all_below(&open)
        }
        other => other,
    }
}

fn unlink(dir: &OwnedFd, name: &OsStr, flags: AtFlags) -> io::Result<()> {
    match retry_on_intr(|| rustix::fs::unlinkat(dir, name, flags)) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
