//! Whether a destination will do, before anything is touched: an empty directory or none yet, apart from every source.
use crate::base::sys::{self, is_missing};
use crate::{Error, Source};
use hotbackup_event::FileId;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// The directory that the destination is in, without links, and its name there.
pub(super) fn split(dest: &Path) -> Result<(PathBuf, OsString), Error> {
    let real = match dest.canonicalize() {
        Ok(real) => real,
        Err(error) if !is_missing(&error) => return Err(Error::at_dest("look at", dest.to_owned(), error)),
        Err(_) => {
            let parent = match dest.parent() {
                Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
                Some(parent) => parent,
                None => return Err(Error::DestMountPoint { path: dest.to_owned() }),
            };
            let missing = || Error::DestParentMissing { path: parent.to_owned() };
            let name = dest.file_name().ok_or_else(missing)?;
            let real = parent.canonicalize().map_err(|error| match is_missing(&error) {
                true => missing(),
                false => Error::at_dest("look at", parent.to_owned(), error),
            });
            real?.join(name)
        }
    };
    match (real.parent(), real.file_name()) {
        (Some(parent), Some(name)) => Ok((parent.to_owned(), name.to_owned())),
        _ => Err(Error::DestMountPoint { path: dest.to_owned() }),
    }
}

/// The destination is an empty directory that nothing is mounted on, or nothing yet.
pub(super) fn check_empty(parent: &OwnedFd, last: &OsStr, dest: &Path) -> Result<(), Error> {
    let path = dest.to_owned();
    let found = match sys::stat_at(parent, last) {
        Ok(found) => found,
        Err(error) if is_missing(&error) => return Ok(()),
        Err(error) => return Err(Error::at_dest("look at", path, error)),
    };
    if found.stat.kind() != sys::Kind::Dir {
        return Err(Error::DestNotDirectory { path });
    }
    let fd = sys::open_dir(parent, last).map_err(|error| Error::at_dest("open", dest.to_owned(), error))?;
    let names = sys::names(&fd).map_err(|error| Error::at_dest("read", dest.to_owned(), error))?;
    if !names.is_empty() {
        return Err(Error::DestNotEmpty { path });
    }
    check_changeable(&fd, dest)?;
    check_replaceable(parent, &fd, dest)?;
    if sys::is_mount_point(&fd).map_err(|error| Error::at_dest("look at", dest.to_owned(), error))? {
        return Err(Error::DestMountPoint { path });
    }
    Ok(())
}

/// A directory from which nothing can be taken again is told by its attributes, before anything is put there: what is made in
/// one that is append-only can neither be renamed nor removed.
pub(super) fn check_changeable(dir: &OwnedFd, path: &Path) -> Result<(), Error> {
    use rustix::fs::{AtFlags, StatxAttributes, StatxFlags, statx};
    let Ok(found) = statx(dir, "", AtFlags::EMPTY_PATH, StatxFlags::empty()) else { return Ok(()) };
    let attributes = found.stx_attributes;
    let (what, flag) = if attributes.contains(StatxAttributes::IMMUTABLE) {
        ("immutable", "-i")
    } else if attributes.contains(StatxAttributes::APPEND) {
        ("append-only", "-a")
    } else {
        return Ok(());
    };
    let words = format!("it is {what}; chattr {flag} it, or name another destination");
    Err(Error::DestIo { op: "put a backup into", path: path.to_owned(), source: io::Error::other(words) })
}

/// In a directory with the sticky bit, as `/tmp` is, only the owner of an entry, or of the directory, may put another one in its
/// place (`inode(7)`).
fn check_replaceable(parent: &OwnedFd, dest: &OwnedFd, path: &Path) -> Result<(), Error> {
    const STICKY: u32 = 0o1000;
    let look = |fd| sys::stat_fd(fd).map_err(|error| Error::at_dest("look at", path.to_owned(), error));
    let (above, found) = (look(parent)?.stat, look(dest)?.stat);
    let ours = rustix::process::geteuid().as_raw();
    if above.permissions() & STICKY == 0 || [above.uid, found.uid].contains(&ours) || sys::may_do_as_owners_may() {
        return Ok(());
    }
    let words = format!(
        "it belongs to user {}, and the directory that it is in has the sticky bit, so only he may put another in its place; remove \
         it, or name another destination",
        found.uid
    );
    Err(Error::DestIo { op: "put a backup in the place of", path: path.to_owned(), source: io::Error::other(words) })
}

/// Whether one directory is above another, or the same. Compared by identity, level by level, so that neither links
/// nor similar names (`/x/src2` beside `/x/src`) matter, nor what it is called in another mount namespace.
pub(super) fn is_above(above: FileId, below: &OwnedFd) -> io::Result<bool> {
    let mut at = below.try_clone()?;
    let mut id = sys::stat_fd(&at)?.id;
    loop {
        if id == above {
            return Ok(true);
        }
        at = sys::open_dir(&at, OsStr::new(".."))?;
        let up = sys::stat_fd(&at)?.id;
        if up == id {
            return Ok(false);
        }
        id = up;
    }
}

pub(super) fn check_apart(source: &Source, parent: &OwnedFd, dest: &Path) -> Result<(), Error> {
    let unreadable = |error| Error::SourceUnreadable { path: source.path.clone(), source: error };
    let root = sys::stat_fd(&source.root).map_err(unreadable)?;
    if root.stat.kind() != sys::Kind::Dir {
        return Err(Error::SourceNotDirectory { path: source.path.clone() });
    }
    let inside = is_above(root.id, parent).map_err(|error| Error::at_dest("look above", dest.to_owned(), error))?;
    let around = match dest.file_name().map(|last| sys::stat_at(parent, last)) {
        Some(Ok(found)) => is_above(found.id, &source.root).map_err(unreadable)?,
        Some(Err(error)) if !is_missing(&error) => return Err(Error::at_dest("look at", dest.to_owned(), error)),
        _ => false,
    };
    if inside || around {
        return Err(Error::DestInsideSource { dest: dest.to_owned(), source_path: source.path.clone() });
    }
    Ok(())
}

pub(super) fn check_sources(sources: &[Source], apart: bool) -> Result<(), Error> {
    for (index, first) in sources.iter().enumerate() {
        for second in &sources[index + 1..] {
            let unreadable = |error| Error::SourceUnreadable { path: first.path.clone(), source: error };
            let a = sys::stat_fd(&first.root).map_err(unreadable)?.id;
            let b = sys::stat_fd(&second.root).map_err(unreadable)?.id;
            let nested = is_above(a, &second.root).and_then(|x| Ok(x || is_above(b, &first.root)?));
            let clash = !apart && (first.name.is_none() || second.name.is_none() || first.name == second.name);
            if clash || nested.map_err(unreadable)? {
                return Err(Error::SourcesOverlap { first: first.path.clone(), second: second.path.clone() });
            }
        }
    }
    Ok(())
}
