//! Destinations below the directory that the configuration names, and nowhere else, whatever a client says and whoever may write
//! there: each step of a path is opened from the one before, and no symbolic link is followed.
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::libc;

/// Why a destination is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// As TokuBackup said it.
    #[error("invalid destination directory: '{0}'")]
    Invalid(String),
    /// It lies elsewhere.
    #[error("the destination '{told}' does not lie below {}, where this server's backups go", .root.display())]
    Outside { told: String, root: PathBuf },
    /// A name that is ours, or hidden.
    #[error("the destination '{0}' has a part that begins with a dot")]
    Hidden(String),
    /// A step on the way.
    #[error("the destination's parent {} does not exist", .0.display())]
    NoParent(PathBuf),
    /// A link, or a file.
    #[error("{} is not a directory, or a symbolic link leads there", .0.display())]
    NoDirectory(PathBuf),
    /// A backup within a backup would spoil it.
    #[error("{} is a backup itself", .0.display())]
    InsideBackup(PathBuf),
    /// There is no such backup.
    #[error("there is no finished backup at {}", .0.display())]
    NoBackup(PathBuf),
    /// There is something.
    #[error("the destination {} is not empty", .0.display())]
    NotEmpty(PathBuf),
    /// Anything else.
    #[error("cannot look at {}: {source}", .path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// Where a backup is, or will be: a name in an open directory.
#[derive(Debug)]
pub(crate) struct Place {
    /// The directory.
    pub parent: OwnedFd,
    /// The name in it.
    pub name: OsString,
    /// The path for people.
    pub path: PathBuf,
}

impl Place {
    /// The directory as a path that leads to it and nothing else, as long as this is open.
    pub fn parent_path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.parent.as_raw_fd()).into()
    }

    /// Whether a directory lies there in which a backup to this place was prepared.
    pub fn has_staging(&self) -> bool {
        // Of a longer name than that, not all is in it.
        const ALL: usize = 190;
        let (name, mark) = (self.name.as_bytes(), &b".hotbackup-partial"[..]);
        let rest = if name.len() > ALL { &[] } else { mark };
        let begins = [b".", &name[..name.len().min(ALL)], rest].concat();
        let is_staging =
            |found: &[u8]| found.starts_with(&begins) && found.windows(mark.len()).any(|part| part == mark);
        let Ok(entries) = fs::read_dir(self.parent_path()) else { return false };
        entries.flatten().any(|entry| is_staging(entry.file_name().as_bytes()))
    }
}

/// A path for a new backup: nothing is there, or an empty directory.
pub(crate) fn new_backup(root: &Path, told: &str) -> Result<Place, Error> {
    let place = resolve(root, told)?;
    match step(&place.parent, Path::new(&place.name)) {
        Err(Errno::ENOENT) => {}
        Err(errno) => return Err(explain(errno, place.path)),
        Ok(directory) => {
            let io = |source| Error::Io { path: place.path.clone(), source };
            let names = format!("/proc/self/fd/{}", directory.as_raw_fd());
            if fs::read_dir(names).map_err(io)?.next().is_some() {
                return Err(Error::NotEmpty(place.path));
            }
        }
    }
    Ok(place)
}

/// A path to a finished backup.
pub(crate) fn finished_backup(root: &Path, told: &str) -> Result<Place, Error> {
    let place = resolve(root, told)?;
    match step(&place.parent, Path::new(&place.name)) {
        Ok(directory) if is_backup(&directory) => Ok(place),
        Ok(_) | Err(Errno::ENOENT) => Err(Error::NoBackup(place.path)),
        Err(errno) => Err(explain(errno, place.path)),
    }
}

fn resolve(root: &Path, told: &str) -> Result<Place, Error> {
    let invalid = || Error::Invalid(told.to_owned());
    if told.is_empty() || told.contains('\0') {
        return Err(invalid());
    }
    let outside = || Error::Outside { told: told.to_owned(), root: root.to_owned() };
    let path = Path::new(told);
    let below = if path.is_absolute() {
        let real = fs::canonicalize(root).unwrap_or_else(|_| root.to_owned());
        path.strip_prefix(root).or_else(|_| path.strip_prefix(real)).map_err(|_| outside())?
    } else {
        path
    };
    let mut names: Vec<OsString> = Vec::new();
    for part in below.components() {
        match part {
            Component::Normal(name) if name.as_bytes()[0] == b'.' => return Err(Error::Hidden(told.to_owned())),
            Component::Normal(name) => names.push(name.to_owned()),
            Component::CurDir => {}
            _ => return Err(outside()),
        }
    }
    let name = names.pop().ok_or_else(invalid)?;
    let mut at = root.to_owned();
    // The way to the root is the administrator's own; there may be links in it.
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(root);
    let mut parent: OwnedFd = opened.map_err(|source| Error::Io { path: at.clone(), source })?.into();
    for name in names {
        if is_backup(&parent) {
            return Err(Error::InsideBackup(at));
        }
        at.push(&name);
        parent = step(&parent, Path::new(&name)).map_err(|errno| match errno {
            Errno::ENOENT => Error::NoParent(at.clone()),
            errno => explain(errno, at.clone()),
        })?;
    }
    if is_backup(&parent) {
        return Err(Error::InsideBackup(at));
    }
    Ok(Place { parent, path: at.join(&name), name })
}

/// One directory down. `O_PATH` alone would take a link for itself; with `O_DIRECTORY` it is an error.
fn step(parent: &OwnedFd, name: &Path) -> Result<OwnedFd, Errno> {
    let beneath = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
    let how = OpenHow::new().flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC).resolve(beneath);
    openat2(parent, name, how)
}

fn is_backup(directory: &OwnedFd) -> bool {
    let beneath = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(beneath);
    openat2(directory, ".hotbackup/manifest.json", how).is_ok_and(|found| File::from(found).metadata().is_ok())
}

fn explain(errno: Errno, path: PathBuf) -> Error {
    match errno {
        Errno::ELOOP | Errno::ENOTDIR | Errno::EXDEV => Error::NoDirectory(path),
        errno => Error::Io { path, source: errno.into() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn root() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in ["root/empty", "root/full", "root/deep/er", "root/old/.hotbackup", "outside"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("root/full/file"), "").unwrap();
        fs::write(dir.path().join("root/old/.hotbackup/manifest.json"), "").unwrap();
        fs::create_dir(dir.path().join("root/old/collection")).unwrap();
        symlink("../outside", dir.path().join("root/out")).unwrap();
        symlink("deep", dir.path().join("root/link")).unwrap();
        dir
    }

    #[test]
    fn relative_and_absolute_forms_mean_the_same() {
        let dir = root();
        let root = dir.path().join("root");
        for told in ["empty", "./empty/", "new", "deep/new", "deep/er/new"] {
            let short = new_backup(&root, told).unwrap();
            let long = new_backup(&root, root.join(told).to_str().unwrap()).unwrap();
            assert_eq!((&short.name, &short.path), (&long.name, &long.path));
            assert_eq!(
                fs::canonicalize(short.parent_path()).unwrap(),
                fs::canonicalize(long.path.parent().unwrap()).unwrap()
            );
        }
    }

    #[test]
    fn the_root_may_be_reached_by_a_link() {
        let dir = root();
        let link = dir.path().join("way");
        symlink("root", &link).unwrap();
        for told in [link.join("new"), dir.path().join("root/new")] {
            assert_eq!(new_backup(&link, told.to_str().unwrap()).unwrap().name, "new");
        }
    }

    #[test]
    fn nothing_leads_out() {
        let dir = root();
        let root = dir.path().join("root");
        let outside = dir.path().join("outside/new");
        let told = ["../outside/new", "deep/../../outside/new", "/etc/x", "/", "out/new", "link/new", "link", "out"];
        for told in told.into_iter().chain([outside.to_str().unwrap(), &format!("{}2/x", root.display())]) {
            let error = new_backup(&root, told).expect_err(told);
            assert!(matches!(error, Error::Outside { .. } | Error::NoDirectory(_)), "{told}: {error}");
        }
    }

    #[test]
    fn what_is_no_place_is_refused_in_words() {
        let dir = root();
        let root = dir.path().join("root");
        let words = |told: &str| new_backup(&root, told).expect_err(told).to_string();
        assert_eq!(words(""), "invalid destination directory: ''");
        assert!(words(".").starts_with("invalid"));
        assert!(words(root.to_str().unwrap()).starts_with("invalid"));
        assert!(words("a\0b").starts_with("invalid"));
        assert!(words("full").contains("not empty"));
        assert!(words("full/file").contains("not a directory"));
        assert!(words("full/file/x").contains("not a directory"));
        assert!(words("none/x").contains("does not exist"));
        assert!(words(".hidden").contains("dot"));
        assert!(words("old/collection/x").contains("is a backup"));
        assert!(words("old/x").contains("is a backup"));
    }

    #[test]
    fn only_finished_backups_are_found() {
        let dir = root();
        let root = dir.path().join("root");
        assert_eq!(finished_backup(&root, "old").unwrap().name, "old");
        for told in ["full", "none", "out", "../root/old"] {
            assert!(finished_backup(&root, told).is_err(), "{told}");
        }
    }
}
