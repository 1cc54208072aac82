//! A backup put back: checked first, then copied with all that it keeps, then given its name in one step.
//!
//! It is copied by the copier itself, as a backup of a directory that nobody changes; so links, holes, owners, times and
//! attributes are as in the backup, and where the file system can, data is shared. It grows beside the directory it is for
//! and takes its name when all is there and on disk.
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::{Path, PathBuf};

use hotbackup_copier::{
    Backup, Control, Monitor, OWN_DIR, Point, Problem, Quiesce, Source, Spec, Tuning, shortened, verify,
};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{Group, User as Account};
use serde::Serialize;

use crate::{Error, hold, users_below};

/// Who is to own what is restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What was restored.
#[derive(Debug, Clone, Serialize)]
pub struct Restored {
    /// Where to.
    pub dir: PathBuf,
    /// Entries that were checked.
    pub entries: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// The backup's point in time, in nanoseconds since the epoch.
    pub point_in_time_ns: u64,
    /// Calls that went unseen while it was taken, as was accepted then.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unseen_calls: Vec<String>,
}

impl std::str::FromStr for Owner {
    type Err = Error;

    /// `USER`, with that user's own group, or `USER:GROUP`; names or numbers.
    fn from_str(text: &str) -> Result<Self, Error> {
        let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        let missing = |what, name: &str| Error::NoOwner { what, name: name.into() };
        let account = match user.parse() {
            Ok(uid) => Account::from_uid(nix::unistd::Uid::from_raw(uid)),
            Err(_) => Account::from_name(user),
        };
        let account = account.ok().flatten();
        let uid = user.parse().ok().or(account.as_ref().map(|account| account.uid.as_raw()));
        let uid = uid.ok_or_else(|| missing("user", user))?;
        let gid = match group {
            None | Some("") => account.map(|account| account.gid.as_raw()).ok_or_else(|| missing("user", user))?,
            Some(group) => match group.parse() {
                Ok(gid) => gid,
                Err(_) => Group::from_name(group).ok().flatten().ok_or_else(|| missing("group", group))?.gid.as_raw(),
            },
        };
        Ok(Self { uid, gid })
    }
}

/// Nobody changes a backup.
struct Still;

impl Quiesce for Still {
    fn grace(&self) -> Result<(), String> {
        Ok(())
    }
}

/// Checks the backup, and copies it to `dir`, which must be empty or not exist. With an owner, everything becomes theirs.
///
/// # Errors
/// The backup is not what its manifest says, a server uses the directory, or it cannot be copied: nothing is there then.
pub fn restore(
    backup: &Path,
    dir: &Path,
    owner: Option<Owner>,
    monitor: &dyn Monitor,
    control: &Control,
) -> Result<Restored, Error> {
    let backup = backup.canonicalize().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => hotbackup_copier::Error::ManifestMissing { path: backup.to_owned() }.into(),
        _ => Error::io("look at", backup)(error),
    })?;
    let _held = hold(&backup)?;
    if let Some(user) = users_below(dir).into_iter().next() {
        return Err(Error::ServerThere { path: dir.to_owned(), pid: user.pid, name: user.name });
    }
    // The destination is looked at before hours are spent on reading, and again in the end.
    let staged = Staged::beside(dir)?;
    let engine = Backup::<()>::prepare(Spec {
        sources: vec![Source {
            root: File::open(&backup).map_err(Error::io("open", backup.clone()))?.into(),
            path: backup.clone(),
            name: None,
        }],
        dest: staged.path.clone(),
        point: Point::Start,
        exclude: Vec::new(),
        tuning: Tuning::default(),
        pid: std::process::id().cast_signed(),
        root: None,
    })?;
    let found = verify(&backup, monitor)?;
    if !found.problems.is_empty() {
        let told = |problem: &Problem| format!("{} {}", problem.path.display(), problem.what);
        let first = found.problems.iter().take(3).map(told).collect::<Vec<_>>().join("; ");
        return Err(Error::NotAsSaid { path: backup, problems: found.problems.len(), first });
    }
    engine.run(&Still, monitor, control)?;
    let _ours = lock(&staged.path)?;
    // It is a data directory from here on; a manifest of what it was would only mislead.
    let own = staged.path.join(OWN_DIR);
    fs::remove_dir_all(&own).map_err(Error::io("remove", own))?;
    if let Some(owner) = owner {
        give(&staged.path, owner)?;
    }
    staged.publish()?;
    Ok(Restored {
        dir: dir.to_owned(),
        entries: found.entries,
        bytes: found.bytes,
        point_in_time_ns: found.point_in_time_ns,
        unseen_calls: found.unseen_calls,
    })
}

/// The directory in which it grows, removed unless it was published.
struct Staged {
    path: PathBuf,
    /// What it is to become.
    whole: PathBuf,
    published: bool,
}

impl Staged {
    fn beside(dir: &Path) -> Result<Self, Error> {
        match fs::read_dir(dir) {
            Ok(mut names) => {
                if names.next().is_some() {
                    return Err(hotbackup_copier::Error::DestNotEmpty { path: dir.to_owned() }.into());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                return Err(hotbackup_copier::Error::DestNotDirectory { path: dir.to_owned() }.into());
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::io("read", dir)(error)),
            Err(_) => {}
        }
        // A link to an empty directory will do; it is that directory that is replaced.
        let whole = match dir.canonicalize() {
            Ok(real) => real,
            Err(_) => std::path::absolute(dir).map_err(Error::io("find", dir))?,
        };
        let parent = whole.parent().unwrap_or(Path::new("/"));
        let device = |path: &Path| fs::metadata(path).map(|found| found.dev()).ok();
        if whole.is_dir() && device(&whole) != device(parent) {
            return Err(hotbackup_copier::Error::DestMountPoint { path: whole }.into());
        }
        let mut name = OsString::from(".");
        // With what the copier adds, too, no name is longer than it may be.
        name.push(shortened(whole.file_name().unwrap_or(OsStr::new("restored")), 150));
        name.push(".hotbackup-restore-");
        remove_left(parent, &name);
        name.push(std::process::id().to_string());
        Ok(Self { path: whole.with_file_name(name), whole, published: false })
    }

    fn publish(mut self) -> Result<(), Error> {
        // Over an empty directory or none; never over anything else.
        let dir = self.whole.as_path();
        fs::rename(&self.path, dir).map_err(|error| match error.kind() {
            io::ErrorKind::DirectoryNotEmpty => hotbackup_copier::Error::DestNotEmpty { path: dir.to_owned() }.into(),
            _ => Error::io("rename what was restored to", dir)(error),
        })?;
        self.published = true;
        let parent = self.path.parent().unwrap_or(Path::new("/"));
        File::open(parent).and_then(|parent| parent.sync_all()).map_err(Error::io("sync", parent))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.published {
            // The copier has removed what it had begun; this is what it had finished.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Removes what restores to the same directory left that were killed: each holds its own, staging directory or whole, as long as it lives.
fn remove_left(parent: &Path, name: &OsStr) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let bytes = entry.file_name().as_bytes().to_vec();
        if bytes.starts_with(name.as_bytes())
            || bytes.strip_prefix(b".").is_some_and(|rest| rest.starts_with(name.as_bytes()))
        {
            let Ok(_ours) = lock(&entry.path()) else { continue };
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Has a directory that was restored, and has no name yet, for oneself.
fn lock(path: &Path) -> Result<Flock<File>, Error> {
    let dir = File::open(path).map_err(Error::io("open", path))?;
    Flock::lock(dir, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => Error::InUse(path.to_owned()),
        errno => Error::io("lock", path)(errno.into()),
    })
}

/// Everything below a directory gets an owner; modes stay as they are, but for what the kernel takes from those who change hands.
fn give(root: &Path, owner: Owner) -> Result<(), Error> {
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        let failed = |error| Error::io("read", dir.clone())(error);
        for entry in fs::read_dir(&dir).map_err(failed)? {
            let entry = entry.map_err(|error| Error::io("read", dir.clone())(error))?;
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(path);
            } else {
                change(&path, owner)?;
            }
        }
        change(&dir, owner)?;
    }
    Ok(())
}

fn change(path: &Path, owner: Owner) -> Result<(), Error> {
    let found = fs::symlink_metadata(path).map_err(Error::io("look at", path))?;
    if (found.uid(), found.gid()) == (owner.uid, owner.gid) {
        return Ok(());
    }
    lchown(path, Some(owner.uid), Some(owner.gid)).map_err(Error::io("give", path))
}
