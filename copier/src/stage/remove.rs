//! Removing staging directories.
//!
//! Always through open directories, never by path: while a backup runs, a lazy unmount or a rename further up can make the
//! path lead to another tree, and that is not ours to remove from. At most [`NEEDS`] of them are open at a time,
//! however deep the tree is: a backup may fail because descriptors have run out.
use crate::base::sys;
use crate::interface::spec::OWN_DIR;
use hotbackup_event::FileId;
use hotbackup_event::look::{Lack, LookError};
use rustix::fs::{AtFlags, FlockOperation, Mode};
use rustix::io::{Errno, retry_on_intr};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

/// So many descriptors are open at a time.
pub(super) const NEEDS: usize = 3;

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

/// A directory that is being emptied.
struct Level {
    id: FileId,
    /// Its name in the one above.
    name: OsString,
    /// What is still to be removed, the last one next.
    names: Vec<OsString>,
}

/// Empties a directory.
pub(crate) fn all_below(root: &OwnedFd) -> io::Result<()> {
    let mut at = root.try_clone()?;
    let mut levels = vec![Level::new(&at, OsString::new())?];
    let mut result = Ok(());
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.names.pop() else {
            let done = level.name.clone();
            levels.pop();
            let Some(above) = levels.last() else { break };
            let up = sys::open_dir(&at, OsStr::new(".."))?;
            if sys::stat_fd(&up)?.id != above.id {
                return Err(io::Error::other("it was moved while it was being removed"));
            }
            at = up;
            result = result.and(unlink(&at, &done, AtFlags::REMOVEDIR));
            continue;
        };
        match unlink(&at, &name, AtFlags::empty()) {
            // Systems differ in how they say that it is a directory.
            Err(error) if is_dir(&error) => {
                match below(&at, &name).and_then(|dir| Ok((Level::new(&dir, name)?, dir))) {
                    Ok((level, dir)) => {
                        at = dir;
                        levels.push(level);
                    }
                    Err(error) => result = result.and(Err(error)),
                }
            }
            other => result = result.and(other),
        }
    }
    result
}

impl Level {
    fn new(dir: &OwnedFd, name: OsString) -> io::Result<Self> {
        let mut names = match sys::names(dir) {
            Err(error) if LookError::from(&error) == LookError::Ours(Lack::Rights) => {
                rustix::fs::fchmod(dir, Mode::RWXU)?;
                sys::names(dir)?
            }
            other => other?,
        };
        // One that is in place already may have a mode that keeps even its owner from changing it.
        if !names.is_empty() {
            let _ = rustix::fs::fchmod(dir, Mode::RWXU);
        }
        // The mark goes last, so that what is left of a removal that fails is still known for what it is.
        names.sort_by_key(|name| name != OWN_DIR);
        Ok(Self { id: sys::stat_fd(dir)?.id, name, names })
    }
}

fn is_dir(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::ISDIR | Errno::PERM))
}

/// Opens a directory below another. One that is in place already may have a mode that keeps even its owner out.
fn below(dir: &OwnedFd, name: &OsStr) -> io::Result<OwnedFd> {
    match sys::open_dir(dir, name) {
        Err(error) if LookError::from(&error) == LookError::Ours(Lack::Rights) => {
            rustix::fs::chmodat(dir, name, Mode::RWXU, AtFlags::empty())?;
            sys::open_dir(dir, name)
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
