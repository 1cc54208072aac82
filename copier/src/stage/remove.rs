//! Removing staging directories.
//!
//! Always through open directories, never by path: while a backup runs, a lazy unmount or a rename further up can make the
//! path lead to another tree, and that is not ours to remove from. At most [`NEEDS`] of them are open at a time,
//! however deep the tree is: a backup may fail because descriptors have run out.
use crate::base::sys;
use crate::interface::spec::OWN_DIR;
use hotbackup_event::FileId;
use hotbackup_event::look::{Lack, LookError};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, ResolveFlags};
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

/// Removes what `name` in a directory is, with all below it.
pub(crate) fn entry(dir: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match unlink_in(dir, name, AtFlags::empty()) {
        // Systems differ in how they say that it is a directory.
        Err(error) if is_dir(&error) => {
            let (_, open) = below(dir, name).map_err(|no_dir| first(error, no_dir))?;
            all_below(&open).and_then(|()| unlink_in(dir, name, AtFlags::REMOVEDIR))
        }
        other => other,
    }
}

/// What kept a name from being removed, when it was tried as a directory after that.
fn first(error: io::Error, no_dir: io::Error) -> io::Error {
    if no_dir.raw_os_error() == Some(Errno::NOTDIR.raw_os_error()) { error } else { no_dir }
}

/// Removes a directory if it is a staging directory that nobody has locked. Says whether it is gone.
pub(crate) fn leftover(parent: &OwnedFd, name: &OsStr) -> bool {
    let Ok(root) = sys::open_dir(parent, name) else { return false };
    let is_it = || Ok::<_, io::Error>(sys::stat_at(parent, name)?.id == sys::stat_fd(&root)?.id);
    rustix::fs::flock(&root, FlockOperation::NonBlockingLockExclusive).is_ok()
        // It may have been published, and let go, since it was opened: then it has another name, and is a backup.
        && is_it().is_ok_and(|same| same)
        // Ours is marked from the time it is locked until it is empty, see `all_below`.
        && (sys::stat_at(&root, OsStr::new(OWN_DIR)).is_ok() || sys::names(&root).is_ok_and(|all| all.is_empty()))
        && staging(parent, name, &root).is_ok()
}

/// A directory that is being emptied.
struct Level {
    /// Its name in the one above.
    name: OsString,
    id: FileId,
    left: std::vec::IntoIter<OsString>,
}

impl Level {
    fn new(name: OsString, dir: &OwnedFd) -> io::Result<Self> {
        let mut names = with_rights(dir, || sys::names(dir))?;
        // The mark goes last, so that what is left of a removal that fails is still known for what it is.
        names.sort_by_key(|name| name == OWN_DIR);
        Ok(Self { name, id: sys::stat_fd(dir)?.id, left: names.into_iter() })
    }
}

/// Empties a directory, however deep what it holds is: one directory is open at a time, and left by `..`.
pub(crate) fn all_below(root: &OwnedFd) -> io::Result<()> {
    let (mut levels, mut at, mut result) = (vec![Level::new(OsString::new(), root)?], None::<OwnedFd>, Ok(()));
    while let Some(level) = levels.last_mut() {
        let dir = at.as_ref().unwrap_or(root);
        if let Some(name) = level.left.next() {
            if level.name.is_empty() && name == OWN_DIR && result.is_err() {
                // The mark stays on what is left.
                continue;
            }
            let removed = match unlink_in(dir, &name, AtFlags::empty()) {
                // Systems differ in how they say that it is a directory.
                Err(error) if is_dir(&error) => match below(dir, &name) {
                    Ok((level, open)) => {
                        levels.push(level);
                        at = Some(open);
                        Ok(())
                    }
                    Err(no_dir) => Err(first(error, no_dir)),
                },
                other => other,
            };
            result = result.and(removed);
            continue;
        }
        let done = levels.pop();
        let (Some(done), Some(above)) = (done, levels.last()) else { break };
        let up = with_rights(dir, || sys::open_dir(dir, OsStr::new("..")))?;
        // Somebody has moved it: what lies above is not ours to remove from.
        if sys::stat_fd(&up)?.id != above.id {
            return result.and(Err(Errno::STALE.into()));
        }
        result = result.and(unlink_in(&up, &done.name, AtFlags::REMOVEDIR));
        at = Some(up);
    }
    result
}

fn is_dir(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::ISDIR | Errno::PERM))
}

/// Opens a directory below another to empty it. One that is in place already may have a mode that keeps even its owner out.
fn below(dir: &OwnedFd, name: &OsStr) -> io::Result<(Level, OwnedFd)> {
    // What somebody has mounted there is not ours to remove.
    let within = || {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let how = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
        retry_on_intr(|| rustix::fs::openat2(dir, name, flags, Mode::empty(), how)).map_err(io::Error::from)
    };
    let open = match within() {
        Err(error) if LookError::from(&error) == LookError::Ours(Lack::Rights) => {
            rustix::fs::chmodat(dir, name, Mode::RWXU, AtFlags::empty())?;
            within()?
        }
        other => other?,
    };
    Ok((Level::new(name.to_owned(), &open)?, open))
}

/// Does something in a directory that is to be removed, if need be with rights that it does not give.
fn with_rights<T>(dir: &OwnedFd, act: impl Fn() -> io::Result<T>) -> io::Result<T> {
    match act() {
        Err(error) if LookError::from(&error) == LookError::Ours(Lack::Rights) && !is_dir(&error) => {
            rustix::fs::fchmod(dir, Mode::RWXU)?;
            act()
        }
        other => other,
    }
}

fn unlink_in(dir: &OwnedFd, name: &OsStr, flags: AtFlags) -> io::Result<()> {
    with_rights(dir, || unlink(dir, name, flags))
}

fn unlink(dir: &OwnedFd, name: &OsStr, flags: AtFlags) -> io::Result<()> {
    match retry_on_intr(|| rustix::fs::unlinkat(dir, name, flags)) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
