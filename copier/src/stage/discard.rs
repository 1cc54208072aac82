//! Removing what is not wanted any more from a directory of backups: whole backups, and what broken off ones left.
use super::called::{PARTIAL, beginning};
use super::remove;
use crate::Error;
use crate::base::sys;
use crate::interface::spec::OWN_DIR;
use hotbackup_event::failpoint::hit;
use hotbackup_event::look::is_gone;
use rustix::fs::{FlockOperation, RenameFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Removes the backup `name` from `dir`. It loses its name first, in one step: nobody ever finds half of one under it. Says
/// whether there was one. `nameless` is called when it has lost its name: whatever the caller has open in it is to be closed then, as
/// NFS and FUSE keep a name for what is removed while it is open, and the directory is not empty for that.
///
/// # Errors
/// It is not a backup, or cannot be removed; what is left then has the name of a staging directory, and goes with the next
/// [`remove_leftovers`].
pub fn remove_backup(dir: &Path, name: &OsStr, nameless: impl FnOnce()) -> Result<bool, Error> {
    let path = dir.join(name);
    let failed = |op, error: io::Error| Error::at_dest(op, path.clone(), error);
    let parent = open(dir)?;
    let root = match sys::open_dir(&parent, name) {
        Err(error) if is_gone(&error) => return Ok(false),
        other => other.map_err(|error| failed("open", error))?,
    };
    if let Err(error) = sys::stat_at(&root, OsStr::new(OWN_DIR)) {
        return Err(match is_gone(&error) {
            true => Error::ManifestMissing { path },
            false => failed("look at", error),
        });
    }
    // Locked as a staging directory is, so that nobody takes it for a leftover while it is being removed.
    rustix::fs::flock(&root, FlockOperation::NonBlockingLockExclusive).map_err(|error| failed("lock", error.into()))?;
    let doomed = doomed(name);
    let renamed = match rustix::fs::renameat_with(&parent, name, &parent, &*doomed, RenameFlags::NOREPLACE) {
        // A file system that knows no such flag, as NFS. The name holds our number: nobody else takes it.
        Err(Errno::INVAL | Errno::NOSYS) if sys::stat_at(&parent, &doomed).is_err_and(|error| is_gone(&error)) => {
            rustix::fs::renameat(&parent, name, &parent, &*doomed)
        }
        other => other,
    };
    renamed.map_err(|error| failed("rename", error.into()))?;
    hit("discard.renamed");
    nameless();
    remove::staging(&parent, &doomed, &root).map_err(|error| failed("remove", error))?;
    Ok(true)
}

/// Removes the staging directories in `dir` that nobody works in any more, of backups to whatever name. Says which.
///
/// # Errors
/// The directory cannot be read.
pub fn remove_leftovers(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let parent = open(dir)?;
    let names = sys::names(&parent).map_err(|error| Error::at_dest("read", dir.to_owned(), error))?;
    let staging = names.into_iter().filter(|name| is_staging(name));
    Ok(staging.filter(|name| remove::leftover(&parent, name)).map(|name| dir.join(name)).collect())
}

/// Whether a name is one of a staging directory.
pub fn is_staging(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    bytes.first() == Some(&b'.') && bytes.windows(PARTIAL.len()).any(|part| part == PARTIAL.as_bytes())
}

fn doomed(name: &OsStr) -> OsString {
    let mut doomed = beginning(name);
    doomed.push(format!("removed-{}", std::process::id()));
    doomed
}

fn open(dir: &Path) -> Result<OwnedFd, Error> {
    let opened = sys::open_dir(rustix::fs::CWD, dir.as_os_str());
    opened.map_err(|error| Error::at_dest("open", dir.to_owned(), error))
}
