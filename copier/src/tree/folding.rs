//! Directories in which one thing answers to several names: where upper and lower case are the same, or normal forms of letters are.
//!
//! A call says the name that it used, which there need not be the one that is listed: after `rename("FOO", "bar")` it is `foo` that
//! is gone, and to open `Foo` makes no second name. So in such a directory a mark says that something in it was changed, and no
//! more: it is read as a whole, and what is listed is there, not what is found by asking. Whom a call after the point in time may
//! mean is everything that the name may be the name of.
//!
//! No file system is asked for its kind: one has it by directory (ext4, f2fs, tmpfs), another as a whole (XFS, exFAT, NTFS, what a
//! server or FUSE has). A name that is listed is asked for in the other case, and what comes of that is known of the directory.
//! As long as nothing in it has a letter, it may be either.
use super::{Entry, Look, Tree};
use crate::Error;
use crate::base::sys;
use crate::marks::node::Name;
use hotbackup_event::FileId;
use hotbackup_event::look::LookError;
use rustix::fs::FsWord;
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Whether a directory folds names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Folds {
    /// Each name is one of its own.
    No,
    /// Some are the same.
    Yes,
    /// Nothing tells.
    #[default]
    Unknown,
}

impl Folds {
    /// Of a directory, by what is listed in it.
    pub(super) fn of(dir: &OwnedFd, names: &[OsString]) -> Self {
        let is_there = |name: &OsStr| match sys::stat_at(dir, name) {
            Ok(_) => Some(true),
            Err(error) if LookError::from(&error).is_nothing() => Some(false),
            Err(_) => None,
        };
        for name in names {
            let Some(other) = other_case(name) else { continue };
            if names.contains(&other) {
                return Self::No;
            }
            // In this order: what is there in the end was there before. Who it is says nothing: some FUSE servers make
            // another file of each name that something is asked for by.
            match (is_there(&other), is_there(name)) {
                (Some(true), Some(true)) => return Self::Yes,
                (Some(false), Some(true)) => return Self::No,
                // It is gone by now, or nobody knows.
                _ => {}
            }
        }
        Self::Unknown
    }
}

/// A name with the case of its letters turned, as far as they are ASCII's; `None` if there are none.
fn other_case(name: &OsStr) -> Option<OsString> {
    let turned = name.as_bytes().iter().map(|byte| match byte {
        byte if byte.is_ascii_lowercase() => byte.to_ascii_uppercase(),
        byte => byte.to_ascii_lowercase(),
    });
    let turned = OsString::from_vec(turned.collect());
    (turned != name).then_some(turned)
}

/// Whether two names may be one where names are folded. What becomes of other letters than ASCII's is for the file system to say,
/// as are dots and spaces at the end, and short names.
pub(crate) fn may_be_same(a: &OsStr, b: &OsStr) -> bool {
    let is_plain = |name: &OsStr| {
        let bytes = name.as_bytes();
        bytes.is_ascii()
            && !bytes.contains(&b'~')
            && !bytes.contains(&b':')
            && !bytes.ends_with(b".")
            && !bytes.ends_with(b" ")
    };
    a.as_bytes().eq_ignore_ascii_case(b.as_bytes()) || !is_plain(a) || !is_plain(b)
}

/// Whether normal forms are names of their own where cases are: so it is in these, and elsewhere nobody knows.
pub(super) fn keeps_forms_apart(dir: &OwnedFd) -> bool {
    // From `linux/magic.h`: ext4, XFS, btrfs, tmpfs, overlayfs, f2fs, ramfs.
    const APART: [FsWord; 7] = [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630, 0xf2f5_2010, 0x8584_58f6];
    rustix::fs::fstatfs(dir).is_ok_and(|found| APART.contains(&found.f_type))
}

/// Whether a name may be another one's, in a directory of which that is known.
fn may_fold(dir: &OwnedFd, folds: Folds, name: &OsStr) -> bool {
    match folds {
        Folds::Yes => true,
        Folds::Unknown if !name.is_ascii() => true,
        Folds::Unknown => other_case(name).is_some(),
        Folds::No => !name.is_ascii() && !keeps_forms_apart(dir),
    }
}

impl Tree {
    /// Whether a call that says this name in a known directory may mean what is listed there by another.
    pub fn may_fold(&self, dir: &FileId, name: &OsStr) -> bool {
        self.dirs.get(dir).is_some_and(|node| may_fold(&node.dir.fd, node.folds, name))
    }

    /// What a name may mean in a directory where names are folded.
    pub fn alike<'a>(&'a self, dir: &FileId, name: &'a OsStr) -> impl Iterator<Item = &'a Entry> {
        let entries = self.dirs.get(dir).into_iter().flat_map(|node| &node.entries);
        entries.filter(move |(other, _)| may_be_same(other, name)).map(|(_, entry)| entry)
    }

    /// What is listed in a known directory.
    pub(super) fn list(&mut self, dir: FileId) -> Result<Vec<OsString>, Error> {
        let Some(node) = self.dirs.get_mut(&dir) else { return Ok(Vec::new()) };
        let names = sys::names(&node.dir.fd).map_err(|source| Error::unreadable(node.dir.path(), source))?;
        if node.folds == Folds::Unknown {
            node.folds = Folds::of(&node.dir.fd, &names);
        }
        Ok(names)
    }

    /// Takes over a directory as a whole, in which calls said these names.
    pub(super) fn resolve_whole(&mut self, dir: FileId, said: &HashSet<OsString>, look: Look<'_>) -> Result<(), Error> {
        let names = self.list(dir)?;
        let Some(node) = self.dirs.get(&dir) else { return Ok(()) };
        // What is there under these names by now may have another status.
        let meant = said.iter().filter_map(|name| sys::stat_at(&node.dir.fd, name).ok());
        let meant: HashSet<FileId> = meant.map(|found| found.id).collect();
        let is_meant = |name: &OsStr| {
            node.entries.get(name).is_some_and(|entry| meant.contains(&entry.id()))
                || said.iter().any(|said| may_be_same(said, name))
        };
        let names: Vec<(bool, OsString)> = names.into_iter().map(|name| (is_meant(&name), name)).collect();
        let listed: HashSet<&OsStr> = names.iter().map(|(_, name)| &**name).collect();
        self.remove_unlisted(dir, &listed);
        for (is_meant, name) in &names {
            self.resolve_entry(dir, name, *is_meant, look)?;
        }
        Ok(())
    }

    /// Takes out of the model what is not listed (any more).
    pub(super) fn remove_unlisted(&mut self, dir: FileId, listed: &HashSet<&OsStr>) {
        let entries = self.dirs.get(&dir).into_iter().flat_map(|node| node.entries.keys());
        let excluded = self.excluded.get(&dir).into_iter().flat_map(|names| names.keys());
        let gone: Vec<Name> = entries.chain(excluded).filter(|name| !listed.contains(&***name)).cloned().collect();
        for name in gone {
            self.leave_out(dir, &name, Some(None));
            self.unlink(dir, &name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_names_may_be_one() {
        let same = |a: &str, b: &str| may_be_same(OsStr::new(a), OsStr::new(b));
        assert!(same("Collection-7.wt", "COLLECTION-7.WT"));
        assert!(!same("collection-7.wt", "collection-8.wt"));
        // K may be the sign of Kelvin; and what a short name is short for only the file system knows.
        assert!(same("\u{212a}", "k") && same("COLLEC~1", "collection-7.wt") && same("a. ", "a"));
    }

    #[test]
    fn a_directory_tells_by_its_names() {
        let temp = tempfile::tempdir().unwrap();
        let dir: OwnedFd = std::fs::File::open(temp.path()).unwrap().into();
        let names = |all: &[&str]| all.iter().map(OsString::from).collect::<Vec<_>>();
        assert_eq!(Folds::of(&dir, &names(&["0", "17"])), Folds::Unknown);
        // It is not there by now.
        assert_eq!(Folds::of(&dir, &names(&["gone"])), Folds::Unknown);
        std::fs::write(temp.path().join("a.wt"), "").unwrap();
        assert_eq!(Folds::of(&dir, &names(&["gone", "a.wt"])), Folds::No);
        // Two names of one file say nothing of their kind.
        std::fs::hard_link(temp.path().join("a.wt"), temp.path().join("A.WT")).unwrap();
        assert_eq!(Folds::of(&dir, &names(&["A.WT", "a.wt"])), Folds::No);
    }
}
