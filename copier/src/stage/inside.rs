//! Staging inside destinations that are there already, and become the backup: one for each source.
//!
//! Nothing is made beside them, so they may be mount points, or lie in a directory that is not ours to write to.
use super::called::PARTIAL;
use super::check::{check_changeable, is_above};
use super::{Stage, remove};
use crate::base::{io::Io, sys};
use crate::{Error, Placing, Source, Spec};
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

impl Stage {
    /// Checks every destination, and then makes a staging directory in each.
    pub(super) fn prepare_inside(spec: &Spec, placing: &Placing, io: &Arc<dyn Io>) -> Result<Self, Error> {
        if placing.into.len() != spec.sources.len() {
            return Err(Error::Internal("there must be as many destinations as sources".into()));
        }
        let mut opened: Vec<(OwnedFd, PathBuf)> = Vec::new();
        for dest in &placing.into {
            let (fd, real) = open(dest)?;
            for source in &spec.sources {
                check_apart(source, &fd, dest)?;
            }
            for (other, name) in &opened {
                let is_above = |a: &OwnedFd, b: &OwnedFd| is_above(sys::stat_fd(a)?.id, b);
                let nested = is_above(other, &fd).and_then(|yes| Ok(yes || is_above(&fd, other)?));
                if nested.map_err(|error| Error::at_dest("look above", dest.clone(), error))? {
                    return Err(Error::DestsOverlap { first: name.clone(), second: dest.clone() });
                }
            }
            check_empty(&fd, dest)?;
            check_changeable(&fd, dest)?;
            opened.push((fd, real));
        }
        let mut parts = Vec::new();
        for (fd, real) in opened {
            remove::leftovers(&fd, OsStr::new(PARTIAL));
            let mut part = Stage::begin(spec, Arc::clone(io), (fd, real), OsString::from(PARTIAL))?;
            (part.inside, part.bare) = (true, placing.bare);
            parts.push(part);
        }
        let mut first = parts.remove(0);
        first.more = parts;
        Ok(first)
    }
}

fn open(dest: &Path) -> Result<(OwnedFd, PathBuf), Error> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotADirectory => Error::DestNotDirectory { path: dest.to_owned() },
        _ => Error::at_dest("open", dest.to_owned(), error),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(dest, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
    let real = dest.canonicalize().map_err(failed)?;
    Ok((fd, real))
}

/// Empty, but for what backups left that were killed.
fn check_empty(fd: &OwnedFd, dest: &Path) -> Result<(), Error> {
    for name in sys::names(fd).map_err(|error| Error::at_dest("read", dest.to_owned(), error))? {
        if !name.as_bytes().starts_with(PARTIAL.as_bytes()) {
            return Err(Error::DestNotEmpty { path: dest.to_owned() });
        }
        let Ok(root) = sys::open_dir(fd, &name) else { return Err(Error::DestNotEmpty { path: dest.to_owned() }) };
        if rustix::fs::flock(&root, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(Error::DestBusy { path: dest.to_owned() });
        }
    }
    Ok(())
}

fn check_apart(source: &Source, fd: &OwnedFd, dest: &Path) -> Result<(), Error> {
    let unreadable = |error| Error::SourceUnreadable { path: source.path.clone(), source: error };
    let root = sys::stat_fd(&source.root).map_err(unreadable)?.id;
    let failed = |error: io::Error| Error::at_dest("look above", dest.to_owned(), error);
    let id = sys::stat_fd(fd).map_err(failed)?.id;
    if is_above(root, fd).map_err(failed)? || is_above(id, &source.root).map_err(unreadable)? {
        return Err(Error::DestInsideSource { dest: dest.to_owned(), source_path: source.path.clone() });
    }
    Ok(())
}
