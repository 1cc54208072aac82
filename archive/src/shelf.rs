//! What lies on a shelf, and the link to the newest good backup.
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use hotbackup_copier::{Summary, is_staging, summary};
use jiff::Timestamp;
use serde::Serialize;

use crate::{Error, Mark, name, read_mark};

/// The link to the newest good backup.
pub const LATEST: &str = "latest";

/// Something that lies there.
#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    /// Its name.
    #[serde(serialize_with = "lossy")]
    pub name: OsString,
    /// What it is.
    #[serde(flatten)]
    pub kind: Kind,
}

/// What something is.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Kind {
    /// A complete backup.
    Backup {
        /// What its manifest says.
        #[serde(flatten)]
        summary: Box<Summary>,
        /// When it was begun, if its name says so: then it is one of the shelf's own, and retention may remove it.
        begun: Option<Timestamp>,
        /// What the last check of it found.
        check: Option<Mark>,
    },
    /// A directory in which a backup grows, or which a broken off one left.
    Partial,
    /// A backup whose manifest cannot be read.
    Unreadable {
        /// Why.
        why: String,
    },
}

impl Entry {
    /// Whether this is a backup that nobody has found to be bad.
    pub fn may_be_good(&self) -> bool {
        matches!(&self.kind, Kind::Backup { check, .. } if check.as_ref().is_none_or(|mark| mark.good))
    }
}

/// The backups in a directory, oldest first, and what broken off ones left. What is no backup is not listed.
///
/// # Errors
/// The directory cannot be read.
pub fn list(shelf: &Path) -> Result<Vec<Entry>, Error> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Error::NoShelf(shelf.to_owned()),
        _ => Error::io("read", shelf)(error),
    };
    let mut all = Vec::new();
    for entry in fs::read_dir(shelf).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        // Links are other names of what is listed by its own.
        if entry.file_type().is_ok_and(|kind| kind.is_dir())
            && let Some(kind) = look(shelf, &entry.file_name())
        {
            all.push(Entry { name: entry.file_name(), kind });
        }
    }
    all.sort_by_key(|entry| {
        let ns = match &entry.kind {
            Kind::Backup { summary, .. } => summary.point_in_time_ns,
            _ => u64::MAX,
        };
        (ns, entry.name.clone())
    });
    Ok(all)
}

fn look(shelf: &Path, name: &OsStr) -> Option<Kind> {
    if is_staging(name) {
        return Some(Kind::Partial);
    }
    let path = shelf.join(name);
    match summary(&path) {
        Ok(summary) => {
            Some(Kind::Backup { summary: Box::new(summary), begun: name::at(name), check: read_mark(&path) })
        }
        Err(hotbackup_copier::Error::ManifestMissing { .. }) => None,
        Err(error) => Some(Kind::Unreadable { why: error.to_string() }),
    }
}

/// Has `latest` lead to a backup, in one step: whoever follows it finds the one or the other.
///
/// # Errors
/// The link cannot be made. Something else of that name is not replaced.
pub fn set_latest(shelf: &Path, backup: &OsStr) -> Result<(), Error> {
    let (link, draft) = (shelf.join(LATEST), shelf.join(format!(".{LATEST}.new")));
    if fs::symlink_metadata(&link).is_ok_and(|found| !found.is_symlink()) {
        let there = io::Error::other("something that is no link has this name; move it away");
        return Err(Error::io("link", link)(there));
    }
    // Of two that are taken at the same time, the one that is begun first may end last.
    let newer = fs::read_link(&link).ok().and_then(|there| name::at(there.as_os_str()));
    if newer
        .is_some_and(|newer| name::at(backup).is_some_and(|this| newer > this) && shelf.join(name::of(newer)).is_dir())
    {
        return Ok(());
    }
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::io("remove", draft)(error)),
        _ => {}
    }
    symlink(backup, &draft).map_err(Error::io("make", draft.clone()))?;
    fs::rename(&draft, &link).map_err(Error::io("make", link))?;
    fs::File::open(shelf).and_then(|dir| dir.sync_all()).map_err(Error::io("sync", shelf))
}

fn lossy<S: serde::Serializer>(name: &OsStr, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&name.to_string_lossy())
}
