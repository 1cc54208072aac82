//! What a check of a backup found, kept with it in `.hotbackup/checked.json`; and who reads it just now.
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use hotbackup_copier::OWN_DIR;
use jiff::Timestamp;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::Error;

const FILE: &str = "checked.json";

/// The last check of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// When.
    pub checked: Timestamp,
    /// Whether it was what its manifest says, and, where that was tried, a server started from it and found it valid.
    pub good: bool,
    /// Whether a server was started from a copy of it.
    #[serde(default)]
    pub server_tried: bool,
    /// What was wrong, the first few.
    #[serde(default)]
    pub problems: Vec<String>,
}

/// Writes down what a check found. The backup's content is not touched: what is in `.hotbackup` does not belong to it.
///
/// # Errors
/// It cannot be written; there is the mark from before, or none.
pub fn mark(backup: &Path, mark: &Mark) -> Result<(), Error> {
    let own = backup.join(OWN_DIR);
    let (path, draft) = (own.join(FILE), own.join(format!("{FILE}.new")));
    let write = || {
        let mut file = File::create(&draft)?;
        file.write_all(&serde_json::to_vec(mark)?)?;
        file.sync_all()?;
        fs::rename(&draft, &path)
    };
    write().map_err(Error::io("write", path.clone()))
}

/// What the last check of a backup found; `None`: it was not checked, or nobody can read what was found.
pub fn read_mark(backup: &Path) -> Option<Mark> {
    serde_json::from_slice(&fs::read(backup.join(OWN_DIR).join(FILE)).ok()?).ok()
}

/// A backup that is being read: as long as this lives it is not removed.
#[derive(Debug)]
pub struct Held(#[allow(dead_code)] Flock<File>);

/// Keeps a backup from being removed, here and by other processes.
///
/// # Errors
/// It is not there, or is being removed.
pub fn hold(backup: &Path) -> Result<Held, Error> {
    lock(backup, FlockArg::LockSharedNonblock)
}

/// Has a backup for oneself.
pub(crate) fn hold_alone(backup: &Path) -> Result<Held, Error> {
    lock(backup, FlockArg::LockExclusiveNonblock)
}

fn lock(backup: &Path, how: FlockArg) -> Result<Held, Error> {
    let path: PathBuf = backup.join(OWN_DIR).join("manifest.json");
    // NFS locks a file for oneself only where it may be written.
    let open = match how {
        FlockArg::LockExclusiveNonblock => File::options().read(true).write(true).open(&path),
        _ => File::open(&path),
    };
    let file = match open {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(hotbackup_copier::Error::ManifestMissing { path: backup.to_owned() }.into());
        }
        other => other.map_err(Error::io("open", path.clone()))?,
    };
    match Flock::lock(file, how) {
        // It may have been removed since it was opened.
        Ok(lock) if !leads_to(&path, &lock) => {
            Err(hotbackup_copier::Error::ManifestMissing { path: backup.to_owned() }.into())
        }
        Ok(lock) => Ok(Held(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Err(Error::InUse(backup.to_owned())),
        Err((_, errno)) => Err(Error::io("lock", path)(errno.into())),
    }
}

fn leads_to(path: &Path, file: &File) -> bool {
    let id = |found: fs::Metadata| (found.dev(), found.ino());
    fs::metadata(path).ok().map(id) == file.metadata().ok().map(id)
}
