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
use super::folds::{Folds, may_be_same, may_fold};
use super::{Entry, Look, Tree};
use crate::Error;
use crate::base::sys;
use crate::marks::node::Name;
use hotbackup_event::FileId;
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};

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
